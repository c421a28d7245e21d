"""The embedded broker: the ready tasks are an index over the store's own table.

Accepting a task, making it ready and starting it are each one write of the store's, so there is
nothing to offer and nothing to acknowledge: what is left of the broker is the order, and who waits.
"""

import asyncio
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from swell import task as life
from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.brokers.ranking import (
    EXACT_RANKS,
    backlog_of,
    depths_of,
    least_of,
    queues_before,
    rank_of,
    ready_tasks,
)
from swell.fairness import (
    USUAL_PRIORITY,
    band,
    lift,
    note_lifted,
    note_passed,
    prefer,
    rotate,
    take_bands,
    take_turns,
)
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.task import NewTask, Task, TaskState

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"

#: (cost, task).
_Costed = tuple[float, Task]


class SqliteBroker:
    """Order and leases over the tasks of a `SqliteStore` in the same file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

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
    started: list[Task] = []
    turn, order, heads, due = _turns(session, request)
    for model in order:
        wanted = request.n - len(started)
        if wanted <= 0:
            break
        taken = _take(session, request, model, 1 if model in due else wanted)
        if taken:
            session.state.last_model = model
        started += taken
    if len(turn) > 1:
        note_passed(turn, {task.stage_model for task in started}, session.state.passed)
        if len(set(heads.values())) > 1:
            served = [(task.stage_model, band(task.priority)) for task in started]
            note_lifted(heads, served, session.state.passed)
    return started


#: Models in turn, the same in the order in which they are served, the band of the next task of
#: each, and those of which only one task is wanted.
_Order = tuple[list[str], list[str], dict[str, int], set[str]]


def _turns(session: Session, request: LeaseRequest) -> _Order:
    """Return the models of which tasks wait, and in which order they are served."""
    waiting = [
        (queue, model) for queue, model, _ in request.queues if session.ready_count(queue) > 0
    ]
    if len(waiting) <= 1:
        alone = [model for _, model in waiting]
        return alone, alone, {}, set()
    heads: dict[str, int] = {}
    for queue, model in waiting:
        urgency = min(session.lines(queue))
        heads[model] = min(urgency, heads.get(model, urgency))
    lifted, due = lift(heads, session.state.passed)
    turn = rotate(lifted, session.state.last_model)
    order = turn
    if request.residents:
        order = prefer(turn, lifted, request.residents, session.state.passed)
    return turn, order, heads, due


def _take(session: Session, request: LeaseRequest, model: str, n: int) -> list[Task]:
    """Start up to n tasks of one model, in order, but none whose deadline has passed."""
    version = request.models[model]
    now = session.now
    started = []
    queues = request.queues_of(model)
    for task in itertools.islice(_in_order(session, model, queues, n), n):
        running = life.start(
            task,
            worker_id=request.worker_id,
            version=version,
            token=life.new_token(),
            now=now,
            lease_s=request.lease_s,
        )
        session.put(running)
        session.state.clock(model, task.key_id, task.priority).serve(task.tag)
        started.append(running)
    return started


def _in_order(session: Session, model: str, served: Sequence[str], n: int) -> Iterator[Task]:
    """Yield the ready tasks of a model in the order of service, of which n are wanted."""
    queues = [queue for queue in served if session.ready_count(queue)]
    added = [session.unwritten(queue) for queue in queues]
    if sum(map(len, added)) == sum(map(session.ready_count, queues)):
        # Nothing waits in the file: what has just come goes on without being written twice.
        yield from _in_order_of_new(session, model, [task for tasks in added for task in tasks])
        return
    session.flush()
    bands: dict[int, dict[str, None]] = {}
    for queue in queues:
        for urgency, keys in session.lines(queue).items():
            bands.setdefault(urgency, {}).update(dict.fromkeys(keys))

    def of_band(urgency: int) -> Iterator[Task]:
        keys = bands[urgency]
        at_once = math.ceil(n / len(keys))
        tasks_of = functools.partial(_line, session, queues, urgency, at_once)
        return take_turns(session.state.turns[model, urgency], keys, tasks_of)

    yield from take_bands(model, bands, of_band, session.state.passed)


def _in_order_of_new(session: Session, model: str, tasks: Iterable[Task]) -> Iterator[Task]:
    bands: dict[int, dict[str, list[Task]]] = {}
    for task in tasks:
        lines = bands.setdefault(band(task.priority), {})
        lines.setdefault(task.key_id, []).append(task)

    def of_band(urgency: int) -> Iterator[Task]:
        lines = bands[urgency]

        def tasks_of(key_id: str) -> Iterator[_Costed]:
            line = lines[key_id]
            if len(line) > 1:
                line.sort(key=_place)
            return _without_expired(session, line)

        return take_turns(session.state.turns[model, urgency], lines, tasks_of)

    yield from take_bands(model, bands, of_band, session.state.passed)


def _line(
    session: Session, queues: Sequence[str], urgency: int, at_once: int, key_id: str
) -> Iterator[_Costed]:
    """Yield the ready tasks of one key and band in order, reading so many at a time."""
    last = (0 if urgency == USUAL_PRIORITY else urgency, -1.0, "")
    while True:
        rows: list[tuple[int, float, str]] = []
        for queue in queues:
            rows += session.rows("ready_head", (queue, key_id, urgency, *last, at_once))
        if not rows:
            return
        if len(queues) > 1:
            rows.sort()
        rows = rows[:at_once]
        session.load([row[2] for row in rows])
        tasks = [session.get(row[2]) for row in rows]
        yield from _without_expired(session, [task for task in tasks if task is not None])
        if len(rows) < at_once:
            return
        last = rows[-1]


def _without_expired(session: Session, tasks: Iterable[Task]) -> Iterator[_Costed]:
    """Yield (cost, task), without those past a deadline: the sweeper ends them and tells of it."""
    now = session.now
    for task in tasks:
        has_deadline = task.start_by_at is not None or task.finish_by_at is not None
        if not has_deadline or not life.is_expired(task, now):
            yield task.count, task


def _place(task: Task) -> tuple[int, float, str]:
    return task.priority, task.tag, task.id
