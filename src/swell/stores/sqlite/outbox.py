"""The outbox's contract over SQLite."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from swell.errors import InvalidRequest
from swell.outbox import (
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
from swell.stores.sqlite.delivery_rows import delivery_of, delivery_row, overtaken
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import micros, moment
from swell.stores.sqlite.session import Session
from swell.task import TaskState

#: Larger than any number of a row.
_AFTER_ALL: Final = 2**62


class SqliteOutbox:
    """Deliveries in the same file as the tasks."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def watch(self, watches: Sequence[Watch]) -> None:
        self._database.state.posting.watch(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        self._database.state.posting.on_post(wake)

    async def post(self, posts: Sequence[Post]) -> None:
        def action(session: Session) -> None:
            for each in posts:
                _post(session, each)

        await self._database.write(action)

    async def due(
        self, *, per_place: int, limit: int = 1000, without: Collection[str] = ()
    ) -> list[Delivery]:
        wanted = {
            "now": micros(self._database.clock.now()),
            "per_place": per_place,
            "limit": limit,
            "without": _json(list(without)),
        }
        return [delivery_of(row) for row in self._database.read("due_deliveries", wanted)]

    async def next_due_at(self, *, without: Collection[str] = ()) -> datetime | None:
        ((value,),) = self._database.read("next_delivery", (_json(list(without)),))
        return moment(value)

    async def tell(self, told: Sequence[Told]) -> list[Delivery | None]:
        def action(session: Session) -> list[Delivery | None]:
            session.flush()
            return [_tell(session, each) for each in told]

        return await self._database.write(action)

    async def get(self, ids: Sequence[str]) -> list[Delivery | None]:
        found = [self._database.read("delivery", (each,)) for each in ids]
        return [delivery_of(rows[0]) if rows else None for rows in found]

    async def page(
        self, where: DeliveryFilter, *, limit: int = 50, cursor: str | None = None
    ) -> DeliveryPage:
        before = _AFTER_ALL
        if cursor is not None:
            rows = self._database.read("delivery_place", (cursor,))
            if not rows:
                raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
            before = rows[0][0]
        wanted = {
            "before": before,
            "task_id": where.task_id,
            "endpoint": where.endpoint,
            "key_id": where.key_id,
            "state": None if where.state is None else where.state._value_,
            "since": None if where.since is None else micros(where.since),
            "limit": limit + 1,
        }
        (rows,) = await self._database.read_slowly((_page_query(where), wanted))
        found = tuple(delivery_of(row) for row in rows[:limit])
        more = len(rows) > limit and bool(found)
        return DeliveryPage(deliveries=found, cursor=found[-1].id if more else None)

    async def replay(self, ids: Sequence[str]) -> int:
        def action(session: Session) -> int:
            session.flush()
            now = micros(session.now)
            n = sum(session.run("replay_delivery", (now, each)) for each in ids)
            session.posted = session.posted or n > 0
            return n

        return await self._database.write(action)

    async def give_up(self, endpoint: str, reason: str, *, but: str = "") -> int:
        def action(session: Session) -> int:
            session.flush()
            return session.run("give_up_deliveries", (micros(session.now), reason, endpoint, but))

        return await self._database.write(action)

    async def retire(self, before: datetime, *, limit: int = 1000) -> int:
        values = (micros(before), limit)
        return await self._database.write(lambda session: session.run("retire_deliveries", values))

    async def backlog(self) -> Backlog:
        (((n, oldest),),) = await self._database.read_slowly(("waiting_deliveries", ()))
        return Backlog(n, moment(oldest))


def _page_query(where: DeliveryFilter) -> str:
    if where.endpoint is not None:
        return "page_deliveries_of_endpoint"
    if where.task_id is not None:
        return "page_deliveries_of_task"
    return "page_deliveries" if where.key_id is None else "page_deliveries_of_key"


def _post(session: Session, post: Post) -> None:
    task = session.get(post.task_id)
    if task is None or task.state is not TaskState.RUNNING or task.attempt != post.attempt:
        return
    data = msgspec.Raw(msgspec.json.encode(post.data))
    session.flush()
    for each in posted(task, post.event, data, session.state.posting.watches, session.now):
        if post.event != "artifact":
            session.run("replace_passing", (each.task_id, each.endpoint, each.event))
        session.run("overtake", overtaken(each, session.now))
        session.run("post_delivery", delivery_row(each))
        session.posted = True


def _tell(session: Session, told: Told) -> Delivery | None:
    rows = session.rows("delivery", (told.id,))
    before = delivery_of(rows[0]) if rows else None
    if before is None or before.tries != told.tries:
        return None
    has_later = bool(session.rows("has_later_delivery", (told.id,)))
    task = session.get(before.task_id)
    quotes = task is None or may_quote_removed(
        told, inputs_removed=task.inputs_removed, outputs_removed=task.outputs_removed
    )
    after = after_try(before, told, has_later=has_later, quotes_removed=quotes)
    session.run("save_delivery", (*delivery_row(after)[9:], after.id))
    return after


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
