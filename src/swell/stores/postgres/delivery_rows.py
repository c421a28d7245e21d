"""Deliveries as rows of the `deliveries` table, and back.

The order of columns is that of the statements in sql/queries/postgres.sql.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from swell.outbox import Delivery, DeliveryState, Try

_encode = msgspec.json.Encoder().encode
_log = msgspec.json.Decoder(tuple[Try, ...]).decode
_answers = msgspec.json.Decoder(tuple[str, ...]).decode


def post_columns(posts: Sequence[Delivery]) -> list[Sequence[Any]]:
    """Return the arrays of `post_deliveries`, of at least one delivery."""
    found = [
        (
            each.id,
            each.task_id,
            each.endpoint,
            each.key_id,
            each.event,
            each.place,
            each.attempt,
            each.at,
            None if each.data is None else str(each.data, "utf-8"),
        )
        for each in posts
    ]
    return list(zip(*found, strict=True))


def saved_columns(deliveries: Sequence[Delivery]) -> list[Sequence[Any]]:
    """Return the arrays of `save_deliveries`, of at least one delivery."""
    found = [
        (
            each.id,
            each.state._value_,
            each.tries,
            each.due_at,
            each.ended_at,
            each.reason,
            _encode(each.log).decode() if each.log else None,
            _encode(each.answers).decode() if each.answers else None,
        )
        for each in deliveries
    ]
    return list(zip(*found, strict=True))


def delivery_of(record: Sequence[Any]) -> Delivery:
    """Return the delivery of a record."""
    return Delivery(
        id=record[0],
        task_id=record[1],
        endpoint=record[2],
        key_id=record[3],
        event=record[4],
        place=record[5],
        attempt=record[6],
        at=record[7],
        data=None if record[8] is None else msgspec.Raw(record[8]),
        state=DeliveryState(record[9]),
        tries=record[10],
        due_at=record[11],
        ended_at=record[12],
        reason=record[13],
        log=() if record[14] is None else _log(record[14]),
        answers=() if record[15] is None else _answers(record[15]),
    )
