"""The outbox: webhook deliveries, in the same database as the tasks."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from swell.core.errors import InvalidRequest
from swell.core.outbox import (
    OVERTAKEN,
    AttemptResult,
    Backlog,
    Delivery,
    DeliveryFilter,
    DeliveryPage,
    DeliveryState,
    Try,
    Watch,
    after_try,
    posted,
)
from swell.core.task import TaskState
from swell.db.sql import Database, Row, Transaction, to_json

#: Larger than any number of a row.
_LAST_NUMBER: Final = 2**62

_log = msgspec.json.Decoder(tuple[Try, ...]).decode
_answers = msgspec.json.Decoder(tuple[str, ...]).decode


class Outbox:
    """Deliveries to webhooks.

    Deliveries of one task to one receiver are a line; only the first that waits in a line is due.

    Guarantees:
        Atomic: a delivery about a start or an end exists if and only if the task started or ended.
        Fenced: the result of an attempt is written only if no other was written in between.
        Erased: no stored answer can quote task data that has been removed.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def watch(self, watches: Sequence[Watch]) -> None:
        """Set the standing endpoints for which this process writes deliveries."""
        self._db.state.watches = tuple(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever this process has written deliveries that are due at once."""
        self._db.state.wake_dispatcher = wake

    async def post(self, task_id: str, attempt: int, event: str, data: dict[str, Any]) -> None:
        """Write progress, a preview or an artifact of a task that is still running.

        Progress and previews replace unsent ones of the same line.
        """

        async def action(tx: Transaction) -> bool:
            tasks = await tx.lock_tasks([task_id])
            if not tasks or tasks[0].state is not TaskState.RUNNING or tasks[0].attempt != attempt:
                return False
            now, raw = self._db.clock.now(), msgspec.Raw(msgspec.json.encode(data))
            rows = new_rows(posted(tasks[0], event, raw, self._db.state.watches, now))
            if rows:
                if event != "artifact":
                    await tx.fetch("replace_passing", rows=rows)
                await tx.fetch("overtake", rows=rows, now=now, reason=OVERTAKEN)
                await tx.fetch("post_deliveries", rows=rows)
            return bool(rows)

        if await self._db.transaction(action):
            self._db.state.wake_dispatcher()

    async def due(
        self, *, per_place: int, limit: int = 1000, without: Collection[str] = ()
    ) -> list[Delivery]:
        """Return due deliveries, oldest first.

        Args:
            per_place: How many of each place.
            limit: How many in all.
            without: None of these places.
        """
        limits = {"per_place": per_place, "limit": limit, "without": list(without)}
        now = self._db.clock.now()
        return list(map(_delivery, await self._db.fetch("due_deliveries", now=now, **limits)))

    async def record_attempts(self, results: Sequence[AttemptResult]) -> list[Delivery | None]:
        """Write results of attempts, and return the deliveries; None for results not written.

        A delivery that would be retried is skipped if a later one waits in its line, unless it is
        about the end of the task.
        """
        by_id = {each.id: each for each in results}

        async def action(tx: Transaction) -> dict[str, Delivery]:
            rows = await tx.fetch("deliveries_to_tell", ids=list(by_id))
            # Read after the rows are locked: removing data deletes answers after that.
            ids = [row["task_id"] for row in rows]
            removed = {row["id"]: row for row in await tx.fetch("removed_parts", ids=ids)}
            after = {}
            for row in rows:
                has_later, result = row.pop("has_later"), by_id[row["id"]]
                before = _delivery(row)
                if before.tries != result.tries:
                    continue
                gone = removed.get(before.task_id, {"has_no_inputs": True, "has_no_outputs": True})
                # The answer may quote data that was removed since the attempt.
                quotes = (gone["has_no_inputs"] and not result.inputs_removed) or (
                    gone["has_no_outputs"] and not result.outputs_removed
                )
                after[before.id] = after_try(
                    before, result, has_later=has_later, quotes_removed=quotes
                )
            await tx.fetch("save_deliveries", rows=list(map(_row, after.values())))
            return after

        after = await self._db.transaction(action)
        return [after.get(each.id) for each in results]

    async def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery, or None."""
        rows = await self._db.fetch("deliveries", ids=[delivery_id])
        return _delivery(rows[0]) if rows else None

    async def page(
        self, where: DeliveryFilter, *, limit: int = 50, cursor: str | None = None
    ) -> DeliveryPage:
        """Return a page of deliveries, newest first."""
        before = _LAST_NUMBER
        if cursor is not None:
            rows = await self._db.fetch("delivery_place", id=cursor)
            if not rows:
                raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
            before = rows[0]["seq"]
        values = asdict(where) | {"before": before, "limit": limit + 1, "also_key_id": None}
        if where.task_id or where.endpoint:
            values |= {"key_id": None, "also_key_id": where.key_id}
        rows = await self._db.scan("page_deliveries", **values)
        found = tuple(map(_delivery, rows[:limit]))
        more = len(rows) > limit and bool(found)
        return DeliveryPage(deliveries=found, cursor=found[-1].id if more else None)

    async def replay(self, ids: Sequence[str]) -> int:
        """Make ended deliveries due again, with all their attempts; return how many there were."""
        return await self._replay(ids=list(ids), endpoint=None, since=None)

    async def replay_failed(self, endpoint: str, since: datetime) -> int:
        """Replay failed deliveries of a standing endpoint; return how many there were.

        Args:
            endpoint: Of these deliveries.
            since: Only of events at this moment or later.
        """
        return await self._replay(ids=None, endpoint=endpoint, since=since)

    async def _replay(self, **where: Any) -> int:
        now = self._db.clock.now()
        rows = await self._db.execute("replay_deliveries", now=now, **where)
        if rows:
            self._db.state.wake_dispatcher()
        return len(rows)

    async def give_up(self, endpoint: str, reason: str, *, but: str = "") -> int:
        """Fail all waiting deliveries of a standing endpoint; return how many there were.

        Args:
            endpoint: Of these deliveries.
            reason: Why, for people.
            but: The id of a delivery to leave as it is.
        """
        values = {"endpoint": endpoint, "reason": reason, "but": but}
        now = self._db.clock.now()
        return len(await self._db.execute("give_up_deliveries", now=now, **values))

    async def retire(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete deliveries that ended at this moment or before; return how many."""
        return len(await self._db.execute("retire_deliveries", before=before, limit=limit))

    async def backlog(self) -> Backlog:
        """Return how many deliveries wait, and since when."""
        [row] = await self._db.scan("waiting_deliveries")
        return Backlog(**row)


def lines(deliveries: Iterable[Delivery]) -> list[Row]:
    """Return the rows of `overtake` and `drop_passing`."""
    return [{"task_id": each.task_id, "endpoint": each.endpoint} for each in deliveries]


def new_rows(deliveries: Iterable[Delivery]) -> list[Row]:
    """Return the rows of `post_deliveries`."""
    return list(map(_row, deliveries))


def _row(delivery: Delivery) -> dict[str, Any]:
    row = asdict(delivery)
    row["data"] = None if delivery.data is None else str(delivery.data, "utf-8")
    row["log"] = to_json(delivery.log) if delivery.log else None
    row["answers"] = to_json(delivery.answers) if delivery.answers else None
    return row


def _delivery(row: Row) -> Delivery:
    data, log, answers = row["data"], row["log"], row["answers"]
    row["state"] = DeliveryState(row["state"])
    row["data"] = None if data is None else msgspec.Raw(data)
    row["log"] = () if log is None else _log(log)
    row["answers"] = () if answers is None else _answers(answers)
    return Delivery(**row)
