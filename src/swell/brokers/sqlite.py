"""The embedded broker over SQLite."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from swell.broker import NOT_STAGED, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.brokers.leasing import Plan
from swell.brokers.ranking import (
    EXACT_RANKS,
    depths_of,
    least_of,
    queues_before,
    rank_of,
    ready_tasks,
)
from swell.brokers.table import AFTER_ALL, TableBroker
from swell.stores.ready import LinesCut
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.task import NewTask, Task, TaskState

R = TypeVar("R")


class SqliteBroker(TableBroker):
    """Order and leases over the tasks of a `SqliteStore` in the same file."""

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__(database.state)
        self._database = database

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
        return await self._wait(
            until, lambda: self._database.write_when(action, until, queues=queues)
        )

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        (rows,) = await self._database.read_slowly(("oldest_ready", (queue, n)))
        return ready_tasks(queue, rows)

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
        return self._rank(task, self._tag_of(task), AFTER_ALL, served_with)

    def _rank(
        self, task: Task | NewTask, tag: float, task_id: str, served_with: ServedWith
    ) -> Rank:
        place = (task.key_id, least_of(task), task.priority, tag, task_id, EXACT_RANKS + 1)
        state, found = self._database.state, []
        for queue in queues_before(state, task, served_with):
            ((n, samples),) = self._database.read("rank", (queue, *place))
            found.append((queue, n, samples))
        return rank_of(state, task, found)


def _lease(session: Session, request: LeaseRequest) -> list[Task]:
    return _read_for(session, lambda: Plan(session, request)).start()


def _read_for(session: Session, plan: Callable[[], R]) -> R:
    """Return a plan, and read what it needs."""
    while True:
        try:
            return plan()
        except LinesCut as cut:
            session.read_ready(cut)
