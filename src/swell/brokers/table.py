"""The broker over the task tables of SQLite and PostgreSQL: a queue is an index over the tasks.

On PostgreSQL any number of backends lease from the same queues. Each has its own clocks of fair
queueing, so with n backends the bounds of fairness are n times as large (docs/decisions/0088).
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.brokers.leasing import Plan
from swell.brokers.ranking import (
    EXACT_RANKS,
    backlog_of,
    depths_of,
    least_of,
    own_line,
    queues_before,
    rank_of,
    ready_tasks,
)
from swell.stores.ready import LinesCut, is_ready
from swell.stores.session import Session
from swell.task import NewTask, Task

if TYPE_CHECKING:
    from swell.stores.tasks import TaskDatabase

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL: Final = "~"

#: Task, its tag and its id: where it is in its queue, or would be.
_Place = tuple[Task | NewTask, float, str]


class Broker:
    """Hands ready tasks to workers.

    Guarantees:
        At least once: a ready task is leased again until it ends. Never to two holders with
            current leases.
        Order among the tasks of one model (`fairness.py`): the more urgent band first; within a
        band the keys take turns; of each key the more urgent priority first, then its users in
        turn, then age.
        Of several models in one band, each lease serves the next. A worker that names residents is
        given those first; no model is passed in its turn for that by more than
        `fairness.MOST_PASSED` leases in a row, and none by less urgent tasks.
        A lease that is not extended ends by itself and its attempt counts.
    """

    def __init__(self, database: "TaskDatabase") -> None:
        self._db = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """Start up to `n` ready tasks and return them.

        Without `until` it returns the tasks that are ready now, perhaps none. With it the call
        waits for the first task, and returns nothing once that future is done: from then on it
        starts no task, not even if it is under way. On SQLite it returns while the start is still
        being written: a backend that dies in between has the task queued, or not at all if its
        acceptance was not confirmed yet, and refuses reports of the holder of that lease.
        """
        self._db.check_room()
        queues = [queue for queue, _, _ in request.queues]

        async def action(session: Session) -> list[Task]:
            await session.count_again(queues)
            plan = await _plan(session, request)
            if until is not None and until.done():
                return []
            if not plan.taken:
                # Other backends leased the tasks that were counted.
                await session.count_again(queues, is_wrong=True)
            return plan.start()

        if until is None:
            if not self._db.may_have_ready(queues):
                return []
            return await self._db.write(action, is_late=True)
        if self._is_closed:
            return []
        self._waits.add(until)
        try:
            return await self._db.write_when(action, until, queues=queues) or []
        finally:
            self._waits.discard(until)

    async def depths(self) -> list[Depth]:
        """Return the depth of every queue that is not empty."""
        ready, woken = [await self._db.scan(name) for name in ("ready_depths", "woken_depths")]
        return depths_of([(*row.values(),) for row in ready], [(*row.values(),) for row in woken])

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        """Return the n ready tasks of one queue that were accepted first."""
        rows = await self._db.scan("oldest_ready", queue=queue, limit=n)
        return ready_tasks(queue, [(*row.values(),) for row in rows])

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        """Return how many ready tasks come before each; None for one that is not waiting."""
        places: list[_Place] = [(task, task.tag, task.id) for task in filter(is_ready, tasks)]
        ranks = iter(await self._ranks(places, served_with))
        return [next(ranks) if is_ready(task) else None for task in tasks]

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        """Return how many ready tasks would come before one that were accepted now."""
        clock = self._db.state.clocks.get((task.stage_model, task.key_id, task.priority))
        tag = 0.0 if clock is None else clock.peek(task.user or "")
        [rank] = await self._ranks([(task, tag, _AFTER_ALL)], served_with)
        return rank

    async def _ranks(self, places: Sequence[_Place], served_with: ServedWith) -> list[Rank]:
        """Count earlier tasks of the same key, then add those of other keys."""
        state = self._db.state
        rows = [
            _line_of(queue, *place)
            for place in places
            for queue in queues_before(state, place[0], served_with)
            if own_line(state, queue, place[0]) is not None
        ]
        counted = await self._db.fetch("ranks", rows=rows, bound=EXACT_RANKS + 1) if rows else []
        before = {
            tuple(row.values()): (found["n"], found["samples"])
            for row, found in zip(rows, counted, strict=True)
        }
        ranks = []
        for place in places:
            task = place[0]
            found = []
            for queue in queues_before(state, task, served_with):
                line = tuple(_line_of(queue, *place).values())
                found.append((queue, *before.get(line, (0, 0))))
            ranks.append(rank_of(state, task, found))
        return ranks

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        """Return the ready tasks of some models, as seen from a task of this priority.

        Args:
            models: Which ones.
            priority: Of the task.
            served_with: Of the models' own queues; all of a model where it is not named.
        """
        return [backlog_of(self._db.state, model, priority, served_with) for model in models]

    async def close(self) -> None:
        """End waiting calls, which return nothing. Idempotent."""
        self._is_closed = True
        for until in self._waits:
            if not until.done():
                until.set_result(None)


async def _plan(session: Session, request: LeaseRequest) -> Plan:
    """Plan a lease, and read the tasks that the plan needs."""
    while True:
        try:
            return Plan(session, request)
        except LinesCut as cut:
            await session.read_ready(cut)


def _line_of(queue: str, task: Task | NewTask, tag: float, task_id: str) -> dict[str, Any]:
    """Return a row of `ranks`."""
    return {
        "queue": queue,
        "key_id": task.key_id,
        "least": least_of(task),
        "priority": task.priority,
        "tag": tag,
        "task_id": task_id,
    }
