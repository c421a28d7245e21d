"""The broker over PostgreSQL: the ready tasks are an index over the store's own table.

As with SQLite there is nothing to offer and nothing to acknowledge. Any number of backends hand out
tasks of the same queues. Each takes turns between keys and models by clocks of its own, so what
fairness promises holds for the leases of each, and its bounds for all are as many times as large.
What others have accepted is passed over for a moment (docs/decisions/0050).
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Offered, Rank, ServedWith
from swell.brokers.leasing import Plan, next_ready
from swell.brokers.ranking import (
    EXACT_RANKS,
    backlog_of,
    depths_of,
    in_line,
    least_of,
    queues_before,
    rank_of,
)
from swell.store import Hold
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.session import Session
from swell.stores.ready import LinesCut
from swell.task import NewTask, Task, TaskState

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"


class PostgresBroker:
    """Order and leases over the tasks of a `PostgresStore` in the same database."""

    #: Calls with nothing to do here: how long they take tells nobody anything.
    EMPTY: Final = frozenset({"offer", "ack", "started", "extend"})

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`: the tasks are ready already, and who waits has had them."""

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        database = self._database
        queues = [queue for queue, _, _ in request.queues]

        async def action(session: Session) -> list[Task]:
            return await _lease(database, session, request, queues, until)

        if until is None:
            if database.company.is_there:
                # A notification may be on its way.
                database.state.unsure.update(queues)
            if not database.is_busy and not any(map(database.state.may_wait, queues)):
                return []
            return await database.write(action, is_late=True)
        if self._is_closed:
            return []
        self._waits.add(until)
        try:
            return await database.write_when(action, until, queues=queues) or []
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
        async def action(session: Session) -> list[Task]:
            if session.has_company:
                session.state.unsure.add(queue)
            await self._database.count_unsure(session, [queue])
            while True:
                try:
                    return next_ready(session, queue, n, is_usual, besides)
                except LinesCut as cut:
                    await session.read_ready(cut, is_only_read=True)

        return await self._database.write(action, is_late=True)

    async def depths(self) -> list[Depth]:
        ready = await self._database.read("ready_depths")
        woken = await self._database.read("woken_depths")
        return depths_of(ready, woken)

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        waiting = [
            task for task in tasks if task.state is TaskState.QUEUED and task.available_at is None
        ]
        places = [(task, task.tag, task.id) for task in waiting]
        ranks = await self._ranks(places, served_with)
        found = {task.id: rank for task, rank in zip(waiting, ranks, strict=True)}
        return [found.get(task.id) for task in tasks]

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        clock = self._database.state.clocks.get((task.stage_model, task.key_id, task.priority))
        tag = 0.0 if clock is None else clock.peek(task.user or "")
        (rank,) = await self._ranks([(task, tag, _AFTER_ALL)], served_with)
        return rank

    async def _ranks(self, places: "Sequence[_Place]", served_with: ServedWith) -> list[Rank]:
        """Count all at once what comes before within their keys, then add what other keys have."""
        state = self._database.state
        wanted = [
            (queue, task.key_id, least_of(task), task.priority, tag, task_id)
            for task, tag, task_id in places
            for queue in queues_before(state, task, served_with)
            if in_line(state, queue, task) is not None
        ]
        rows = []
        if wanted:
            columns = map(list, zip(*wanted, strict=True))
            rows = await self._database.read("ranks", *columns, EXACT_RANKS + 1)
        before = dict(zip(wanted, ((n, samples) for _, _, n, samples in rows), strict=True))
        return [self._rank(*place, before, served_with) for place in places]

    def _rank(
        self,
        task: Task | NewTask,
        tag: float,
        task_id: str,
        before: "dict[_Wanted, tuple[int, int]]",
        served_with: ServedWith,
    ) -> Rank:
        state, place = self._database.state, (task.key_id, least_of(task), task.priority)
        found = [
            (queue, *before.get((queue, *place, tag, task_id), (0, 0)))
            for queue in queues_before(state, task, served_with)
        ]
        rank = rank_of(state, task, found)
        if self._database.company.is_there:
            # Others hand out by clocks of their own.
            rank = msgspec.structs.replace(rank, is_exact=False)
        return rank

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


#: Task, its tag and its id: where it stands, or would stand.
_Place = tuple[Task | NewTask, float, str]

#: Queue, key, least priority of its band, priority, tag, id.
_Wanted = tuple[str, str, int, int, float, str]


async def _lease(
    database: PostgresDatabase,
    session: Session,
    request: LeaseRequest,
    queues: Sequence[str],
    until: "asyncio.Future[None] | None",
) -> list[Task]:
    await database.count_unsure(session, queues)
    while True:
        try:
            plan = Plan(session, request)
            break
        except LinesCut as cut:
            await session.read_ready(cut)
    if until is not None and until.done():
        return []
    if not plan.taken and session.has_company and any(map(session.ready.count, queues)):
        # Other backends took what was counted.
        await session.count_ready(queues)
    return plan.start()
