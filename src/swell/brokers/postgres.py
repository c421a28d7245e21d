"""The broker over PostgreSQL.

Any number of backends lease from the same queues. Each has its own clocks of fair queueing, so with
n backends the bounds of fairness are n times as large (docs/decisions/0088).
"""

import asyncio
from collections.abc import Sequence

from swell.broker import NOT_STAGED, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.brokers.leasing import Plan
from swell.brokers.ranking import (
    EXACT_RANKS,
    depths_of,
    least_of,
    own_line,
    queues_before,
    rank_of,
    ready_tasks,
)
from swell.brokers.table import AFTER_ALL, TableBroker
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.session import Session
from swell.stores.ready import LinesCut
from swell.task import NewTask, Task, TaskState


class PostgresBroker(TableBroker):
    """Order and leases over the tasks of a `PostgresStore` in the same database."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database.state)
        self._database = database

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
        return await self._wait(until, lambda: database.write_when(action, until, queues=queues))

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        return ready_tasks(queue, await self._database.read("oldest_ready", queue, n))

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
        (rank,) = await self._ranks([(task, self._tag_of(task), AFTER_ALL)], served_with)
        return rank

    async def _ranks(self, places: "Sequence[_Place]", served_with: ServedWith) -> list[Rank]:
        """Count all at once what comes before within their keys, then add what other keys have."""
        state = self._database.state
        wanted = [
            (queue, task.key_id, least_of(task), task.priority, tag, task_id)
            for task, tag, task_id in places
            for queue in queues_before(state, task, served_with)
            if own_line(state, queue, task) is not None
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
        return rank_of(state, task, found)


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
