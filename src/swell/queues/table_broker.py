"""The broker over the task tables of SQLite and PostgreSQL: a queue is an index over the tasks.

On PostgreSQL any number of backends lease from the same queues. Each has its own clocks of fair
queueing, so with n backends the bounds of fairness are n times as large (docs/decisions/0088).
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from swell.core.broker_types import (
    NOT_STAGED,
    Backlog,
    Depth,
    LeaseRequest,
    Rank,
    ReadyTask,
    ServedWith,
)
from swell.core.fair_queueing import (
    Passed,
    band,
    least_priority,
    lift,
    note_lifted,
    note_passed,
    prefer,
    rotate,
    take_bands,
    take_turns,
)
from swell.core.task import NewTask, Task, created_at_of, is_expired
from swell.db.transaction import Line, LineId, Session, place_of
from swell.queues.queue_position import (
    EXACT_RANKS,
    backlog_of,
    own_line,
    queues_before,
    rank_of,
)

if TYPE_CHECKING:
    from swell.db.task_store import TaskDatabase

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
        queues = list(request.queues)
        action = partial(_lease, request=request, until=until)
        if until is not None:
            return await self._db.write_when(action, until, queues=queues) or []
        if not self._db.may_have_ready(queues):
            return []
        return await self._db.write(action, queues=queues)

    def note_ready(self, queues: Iterable[str]) -> None:
        """Look for the ready tasks that another backend left in these queues."""
        self._db.note_ready(queues)

    async def depths(self) -> list[Depth]:
        """Return the depth of every queue that is not empty."""
        depths: dict[str, Depth] = {}
        for row in await self._db.scan("ready_depths"):
            oldest_at = created_at_of(row.pop("oldest"))
            depths[row["queue"]] = Depth(**row, oldest_ready_at=oldest_at)
        for row in await self._db.scan("woken_depths"):
            depth = depths.get(row["queue"], Depth(queue=row["queue"]))
            depths[row["queue"]] = msgspec.structs.replace(depth, **row)
        return sorted(depths.values(), key=attrgetter("queue"))

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        """Return the n ready tasks of one queue that were accepted first."""
        rows = await self._db.scan("oldest_ready", queue=queue, limit=n)
        return [ReadyTask(queue=queue, **row) for row in rows]

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        """Return how many ready tasks come before each; None for one that is not waiting."""
        places: list[_Place] = [(task, task.tag, task.id) for task in tasks if task.is_ready]
        ranks = iter(await self._ranks(places, served_with))
        return [next(ranks) if task.is_ready else None for task in tasks]

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        """Return how many ready tasks would come before one that were accepted now."""
        clock = self._db.state.clocks.get((task.stage_model, task.key_id, task.priority))
        tag = 0.0 if clock is None else clock.peek(task.user or "")
        [rank] = await self._ranks([(task, tag, _AFTER_ALL)], served_with)
        return rank

    async def _ranks(self, places: Sequence[_Place], served_with: ServedWith) -> list[Rank]:
        """Count earlier tasks of the same key, then add those of other keys."""
        state = self._db.state
        before = partial(queues_before, state, served_with)
        asked = [(queue, *place) for place in places for queue in before(place[0])]
        rows = [
            {
                "queue": queue,
                "key_id": task.key_id,
                "least": least_priority(band(task.priority)),
                "priority": task.priority,
                "tag": tag,
                "task_id": task_id,
            }
            for queue, task, tag, task_id in asked
            if own_line(state, queue, task) is not None
        ]
        counted = await self._db.fetch("ranks", rows=rows, bound=EXACT_RANKS + 1) if rows else []
        found = {(row["queue"], row["task_id"]): (row["n"], row["samples"]) for row in counted}
        return [
            rank_of(
                state, task, {each: found.get((each, task_id), (0, 0)) for each in before(task)}
            )
            for task, _, task_id in places
        ]

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
        self._db.end_waits()


# ---- leases


class _Unread(Exception):
    """A plan needs more tasks of these lines than were read; about n of all of them together."""

    def __init__(self, lines: list[LineId], n: int) -> None:
        super().__init__(lines, n)
        self.lines = lines
        self.n = n


class _Plan(NamedTuple):
    """What a lease starts, and what that does to the turns of models."""

    #: Model → its tasks, in order of service.
    taken: dict[str, list[Task]]
    #: The models with ready tasks, in their turns, and the band of the next task of each.
    turn: list[str]
    heads: dict[str, int]
    passed: Passed


async def _lease(
    session: Session,
    *,
    request: LeaseRequest,
    until: "asyncio.Future[None] | None",
) -> list[Task]:
    """Start the next tasks in fair order; read only as many as that needs."""
    plan = None
    while plan is None:
        try:
            plan = _plan(session, request)
        except _Unread as unread:
            await session.read_lines(unread.lines, unread.n)
    if not plan.taken or (until is not None and until.done()):
        return []
    started = []
    for tasks in plan.taken.values():
        for task in tasks:
            running = session.start(
                task,
                worker_id=request.worker_id,
                version=request.queues[task.queue],
                lease_s=request.lease_s,
            )
            session.put(running)
            started.append(running)
    state = session.state
    state.passed = plan.passed
    state.last_model = next(reversed(plan.taken))
    if len(plan.turn) > 1:
        note_passed(plan.turn, plan.taken, state.passed)
        if len(set(plan.heads.values())) > 1:
            bands = [
                (model, band(each.priority)) for model in plan.taken for each in plan.taken[model]
            ]
            note_lifted(plan.heads, bands, state.passed)
    return started


def _plan(session: Session, request: LeaseRequest) -> _Plan:
    """Choose the tasks of a lease. Changes nothing.

    Raises:
        _Unread: More tasks must be read first.
    """
    lines, state = session.state.lines, session.state
    queues: dict[str, list[str]] = {}
    for queue in request.queues:
        if queue in lines:
            queues.setdefault(queue.partition(":")[0], []).append(queue)
    turn = order = list(queues)
    heads: dict[str, int] = {}
    due: set[str] = set()
    if len(order) > 1:
        heads = {model: min(min(lines[each]) for each in of) for model, of in queues.items()}
        lifted, due = lift(heads, state.passed)
        turn = order = rotate(lifted, state.last_model)
        if request.residents:
            order = prefer(turn, lifted, request.residents, state.passed)
    plan = _Plan({}, turn, heads, dict(state.passed))
    left = request.n
    for model in order:
        wanted = 1 if model in due else left
        in_order = _in_order(session, model, queues[model], wanted, plan.passed)
        taken = list(itertools.islice(in_order, wanted))
        if taken:
            plan.taken[model] = taken
        left -= len(taken)
        if left <= 0:
            break
    return plan


def _in_order(
    session: Session, model: str, queues: Sequence[str], n: int, passed: Passed
) -> Iterator[Task]:
    """Return the ready tasks of a model in the order of service; about n are wanted."""
    bands: dict[int, dict[str, Line]] = {}
    for queue in queues:
        for urgency, keys in session.state.lines[queue].items():
            bands[urgency] = bands[urgency] | keys if urgency in bands else keys

    def of_band(urgency: int) -> Iterator[Task]:
        nexts = session.state.turns[model, urgency].starts(bands[urgency])
        # The next n tasks are of the n keys that are next, not counting keys without a task to
        # lease; twice, so that these are soon passed.
        most = n + 2 * len(session.heads)
        if len(nexts) > most:
            nexts = heapq.nsmallest(most, nexts)
        near = {key_id: [(queue, urgency, key_id) for queue in queues] for _, _, key_id in nexts}
        return take_turns(nexts, partial(_of_key, session, near, n))

    return take_bands(model, bands, of_band, passed)


def _of_key(
    session: Session, near: dict[str, list[LineId]], n: int, key_id: str
) -> Iterator[tuple[int, Task]]:
    """Yield (samples, task) of one key in order, without those past a deadline.

    Args:
        session: Has the tasks.
        near: The keys that are next → their lines, which are first read together.
        n: How many tasks are wanted.
        key_id: The key.

    Raises:
        _Unread: More must be read to know which is next.
    """
    lines = near[key_id]
    found: list[Task] = []
    last_of: dict[str, LineId] = {}
    for line in lines:
        tasks, is_whole = session.line_tasks(line)
        if not is_whole and not tasks:
            unread = [each for of in near.values() for each in of if session.is_unread(each)]
            raise _Unread(unread if line in unread else [line], n)
        if not is_whole:
            last_of[tasks[-1].id] = line
        found += tasks
    if len(lines) > 1:
        found.sort(key=place_of)
    for task in found:
        # The sweeper ends and announces expired tasks.
        if not is_expired(task, session.now):
            yield task.count, task
        if task.id in last_of:
            raise _Unread([last_of[task.id]], n)
