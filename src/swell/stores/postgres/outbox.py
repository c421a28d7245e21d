"""The outbox's contract over PostgreSQL."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from swell.errors import InvalidRequest
from swell.outbox import (
    OVERTAKEN,
    Backlog,
    Delivery,
    DeliveryFilter,
    DeliveryPage,
    Post,
    Told,
    Watch,
    after_try,
    may_quote_removed,
    posted,
)
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.delivery_rows import delivery_of, post_columns, saved_columns
from swell.stores.postgres.rows import INPUTS, OUTPUTS, row_of

#: Larger than any number of a row.
_AFTER_ALL: Final = 2**62

#: What is gone of a task that is not kept.
_ALL: Final = {"inputs_removed": True, "outputs_removed": True}


class PostgresOutbox:
    """Deliveries in the same database as the tasks."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def watch(self, watches: Sequence[Watch]) -> None:
        self._database.state.posting.watch(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        self._database.state.posting.on_post(wake)

    async def post(self, posts: Sequence[Post]) -> None:
        for each in posts:
            if await self._post(each):
                self._database.state.posting.wake()

    async def _post(self, post: Post) -> bool:
        now = self._database.clock.now()
        data = msgspec.Raw(msgspec.json.encode(post.data))
        async with self._database.transaction() as run:
            if not await run("running_task", post.task_id, post.attempt):
                return False
            (record,) = await run("tasks_by_id", [post.task_id])
            watches = self._database.state.posting.watches
            found = posted(row_of(record).task, post.event, data, watches, now)
            if not found:
                return False
            endpoints = [each.endpoint for each in found]
            if post.event != "artifact":
                await run("replace_passing", post.task_id, endpoints, post.event)
            await run("overtake", [post.task_id] * len(found), endpoints, now, OVERTAKEN)
            await run("post_deliveries", *post_columns(found))
        return True

    async def due(
        self, *, per_place: int, limit: int = 1000, without: Collection[str] = ()
    ) -> list[Delivery]:
        now = self._database.clock.now()
        rows = await self._database.read("due_deliveries", now, per_place, list(without), limit)
        return [delivery_of(row) for row in rows]

    async def next_due_at(self, *, without: Collection[str] = ()) -> datetime | None:
        ((value,),) = await self._database.read("next_delivery", list(without))
        due_at: datetime | None = value
        return due_at

    async def tell(self, told: Sequence[Told]) -> list[Delivery | None]:
        by_id = {each.id: each for each in told}
        async with self._database.transaction() as run:
            rows = await run("deliveries_to_tell", list(by_id))
            known = [(delivery_of(row), row[16]) for row in rows]
            # Asked only now that the rows are locked: who removes data forgets answers after that.
            gone = _parts_of(await run("removed_parts", [each.task_id for each, _ in known]))
            after = {
                before.id: after_try(
                    before,
                    told_now,
                    has_later=has_later,
                    quotes_removed=may_quote_removed(told_now, **gone.get(before.task_id, _ALL)),
                )
                for before, has_later in known
                if before.tries == (told_now := by_id[before.id]).tries
            }
            if after:
                await run("save_deliveries", *saved_columns(list(after.values())))
        return [after.get(each.id) for each in told]

    async def get(self, ids: Sequence[str]) -> list[Delivery | None]:
        rows = await self._database.read("deliveries", list(ids))
        found = {row[0]: delivery_of(row) for row in rows}
        return [found.get(each) for each in ids]

    async def page(
        self, where: DeliveryFilter, *, limit: int = 50, cursor: str | None = None
    ) -> DeliveryPage:
        before = _AFTER_ALL
        if cursor is not None:
            places = await self._database.read("delivery_place", cursor)
            if not places:
                raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
            before = places[0][0]
        rows = await self._database.read(
            _page_query(where),
            before,
            where.task_id,
            where.endpoint,
            where.key_id,
            None if where.state is None else where.state._value_,
            where.since,
            limit + 1,
        )
        found = tuple(delivery_of(row) for row in rows[:limit])
        more = len(rows) > limit and bool(found)
        return DeliveryPage(deliveries=found, cursor=found[-1].id if more else None)

    async def replay(self, ids: Sequence[str]) -> int:
        now = self._database.clock.now()
        rows = await self._database.read("replay_deliveries", list(ids), now)
        if rows:
            self._database.state.posting.wake()
        return len(rows)

    async def give_up(self, endpoint: str, reason: str, *, but: str = "") -> int:
        now = self._database.clock.now()
        return len(await self._database.read("give_up_deliveries", endpoint, now, reason, but))

    async def retire(self, before: datetime, *, limit: int = 1000) -> int:
        return len(await self._database.read("retire_deliveries", before, limit))

    async def backlog(self) -> Backlog:
        ((n, oldest_at),) = await self._database.read("waiting_deliveries")
        return Backlog(n, oldest_at)


def _parts_of(rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, bool]]:
    """Return what was removed of tasks, as the arguments of `may_quote_removed`."""
    return {
        task_id: {
            "inputs_removed": bool(removed & INPUTS),
            "outputs_removed": bool(removed & OUTPUTS),
        }
        for task_id, removed in rows
    }


def _page_query(where: DeliveryFilter) -> str:
    if where.endpoint is not None:
        return "page_deliveries_of_endpoint"
    if where.task_id is not None:
        return "page_deliveries_of_task"
    return "page_deliveries" if where.key_id is None else "page_deliveries_of_key"
