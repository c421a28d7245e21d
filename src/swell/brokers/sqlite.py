"""The embedded broker: the ready tasks are an index over the store's own table.

Accepting a task, making it ready and starting it are each one write of the store's, so there is
nothing to offer and nothing to acknowledge: what is left of the broker is the order, and who waits.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Offered, Rank, ServedWith
from swell.brokers.leasing import Plan, next_ready
from swell.brokers.ranking import (
    EXACT_RANKS,
    backlog_of,
    depths_of,
    least_of,
    queues_before,
    rank_of,
)
from swell.store import Hold
from swell.stores.ready import LinesCut
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.task import NewTask, Task, TaskState

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"

R = TypeVar("R")


class SqliteBroker:
    """Order and leases over the tasks of a `SqliteStore` in the same file."""

    #: Calls with nothing to do here: how long they take tells nobody anything.
    EMPTY: Final = frozenset({"offer", "ack", "started", "extend"})

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`: the tasks are ready already, and who waits has had them."""

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        def action(session: Session) -> list[Task]:
            return _lease(session, request)

        self._database.check_room()
        queues = [queue for queue, _, _ in request.queues]
        if until is None:
            if not self._database.is_busy and not any(map(self._database.ready_count, queues)):
                return []
            return await self._database.write(action, is_late=True)
        if self._is_closed:
            return []
        self._waits.add(until)
        try:
            return await self._database.write_when(action, until, queues=queues) or []
        finally:
            self._waits.discard(until)

    async def ack(self, tasks: Sequence[Task]) -> None:
        """See `Broker.ack`: settling a task took it out of the index."""

    async def started(self, tasks: Sequence[Task]) -> None:
        """See `Broker.started`: starting a task took it out of the index."""

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> None:
        """See `Broker.extend`: leases lie in the same rows."""

    async def feed(self, *, is_leader: bool) -> int:
        """See `Broker.feed`: nothing lies elsewhere."""
        return 0

    async def next_ready(
        self, queue: str, n: int, *, is_usual: bool, besides: Sequence[Offered]
    ) -> list[Task]:
        def action(session: Session) -> list[Task]:
            return _read_for(session, lambda: next_ready(session, queue, n, is_usual, besides))

        return await self._database.write(action, is_late=True)

    async def depths(self) -> list[Depth]:
        ready, woken = await self._database.read_slowly(("ready_depths", ()), ("woken_depths", ()))
        return depths_of(ready, woken)

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        return [
            self._rank(task, task.tag, task.id, served_with)
            if task.state is TaskState.QUEUED and task.available_at is None
            else None
            for task in tasks
        ]

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        clock = self._database.state.clocks.get((task.stage_model, task.key_id, task.priority))
        tag = 0.0 if clock is None else clock.peek(task.user or "")
        return self._rank(task, tag, _AFTER_ALL, served_with)

    def _rank(
        self, task: Task | NewTask, tag: float, task_id: str, served_with: ServedWith
    ) -> Rank:
        place = (task.key_id, least_of(task), task.priority, tag, task_id, EXACT_RANKS + 1)
        state, found = self._database.state, []
        for queue in queues_before(state, task, served_with):
            ((n, samples),) = self._database.read("rank", (queue, *place))
            found.append((queue, n, samples))
        return rank_of(state, task, found)

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        state = self._database.state
        return [backlog_of(state, model, priority, served_with) for model in models]

    async def close(self) -> None:
        self._is_closed = True
        for until in self._waits:
            if not until.done():
                until.set_result(None)


def _lease(session: Session, request: LeaseRequest) -> list[Task]:
    return _read_for(session, lambda: Plan(session, request)).start()


def _read_for(session: Session, plan: Callable[[], R]) -> R:
    """Return a plan, and read what it needs."""
    while True:
        try:
            return plan()
        except LinesCut as cut:
            session.read_ready(cut)
