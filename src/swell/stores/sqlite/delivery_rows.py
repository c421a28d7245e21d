"""Deliveries as rows of the `deliveries` table, and back.

The order of columns is that of `post_delivery` and `delivery` in sql/queries/sqlite.sql.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from swell.outbox import OVERTAKEN, Delivery, DeliveryState, Try
from swell.stores.sqlite.rows import micros, moment


def overtaken(newer: Delivery, now: datetime) -> dict[str, Any]:
    """Return the parameters of `overtake`."""
    return {
        "task_id": newer.task_id,
        "endpoint": newer.endpoint,
        "now": micros(now),
        "reason": OVERTAKEN,
    }


def delivery_row(each: Delivery) -> tuple[Any, ...]:
    """Return the parameters of `post_delivery`."""
    return (
        each.id,
        each.task_id,
        each.endpoint,
        each.key_id,
        each.event,
        each.place,
        each.attempt,
        micros(each.at),
        None if each.data is None else str(each.data, "utf-8"),
        each.state._value_,
        each.tries,
        None if each.due_at is None else micros(each.due_at),
        None if each.ended_at is None else micros(each.ended_at),
        each.reason,
        _json(each.log) if each.log else None,
        _json(each.answers) if each.answers else None,
    )


def delivery_of(row: Sequence[Any]) -> Delivery:
    """Return the delivery of a row."""
    at = moment(row[7])
    assert at is not None, "the column is never empty"
    return Delivery(
        id=row[0],
        task_id=row[1],
        endpoint=row[2],
        key_id=row[3],
        event=row[4],
        place=row[5],
        attempt=row[6],
        at=at,
        data=None if row[8] is None else msgspec.Raw(row[8]),
        state=DeliveryState(row[9]),
        tries=row[10],
        due_at=moment(row[11]),
        ended_at=moment(row[12]),
        reason=row[13],
        log=() if row[14] is None else _log(row[14]),
        answers=() if row[15] is None else _answers(row[15]),
    )


_log = msgspec.json.Decoder(tuple[Try, ...]).decode
_answers = msgspec.json.Decoder(tuple[str, ...]).decode


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
