"""The embedded broker: the ready tasks are an index over the store's own table.

Accepting a task, making it ready and starting it are each one write of the store's, so there is
nothing to offer and nothing to acknowledge: what is left of the broker is the order, and who waits.
"""

import asyncio
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from swell import task as life
from swell.broker import Backlog, Depth, LeaseRequest, Rank
from swell.fairness import (
    USUAL_PRIORITY,
    VirtualClock,
    band,
    rotate,
    take_turns,
    turns_before,
)
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Line, Session
from swell.task import NewTask, Task, TaskState

__all__ = ["SqliteBroker"]

#: Ranks are counted exactly up to here.
EXACT_RANKS = 200

#: Of more keys than this, a rank looks at every so many only.
MAX_KEYS = 256

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"


class SqliteBroker:
    """Order and leases over the tasks of a `SqliteStore` in the same file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`: the tasks are ready already, and who waits has had them."""

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """See `Broker.lease`."""

        def action(session: Session) -> list[Task]:
            return _lease(session, request)

        is_ready = any(self._database.ready_count(queue) for queue, _, _ in request.queues)
        if until is None:
            if not is_ready and not self._database.is_busy:
                return []
            return await self._database.write(action, is_late=True)
        if self._is_closed:
            return []
        self._waits.add(until)
        try:
            return await self._database.write_when(action, until, is_due=is_ready) or []
        finally:
            self._waits.discard(until)

    async def ack(self, tasks: Sequence[Task]) -> None:
        """See `Broker.ack`: settling a task took it out of the index."""

    async def depths(self) -> list[Depth]:
        """See `Broker.depths`."""
        ready, woken = await self._database.read_slowly(("ready_depths", ()), ("woken_depths", ()))
        depths = {
            queue: Depth(
                queue=queue,
                ready=n,
                ready_samples=samples,
                oldest_ready_at=life.created_at_of(oldest),
            )
            for queue, n, samples, oldest in ready
        }
        for queue, delayed, running in woken:
            depth = depths.get(queue, Depth(queue=queue))
            depths[queue] = Depth(
                queue=queue,
                ready=depth.ready,
                ready_samples=depth.ready_samples,
                oldest_ready_at=depth.oldest_ready_at,
                delayed=delayed,
                running=running,
            )
        busy = [depth for depth in depths.values() if depth.ready + depth.delayed + depth.running]
        return sorted(busy, key=lambda depth: depth.queue)

    async def ranks(self, tasks: Sequence[Task]) -> list[Rank | None]:
        """See `Broker.ranks`."""
        return [
            self._rank(task, task.tag, task.id)
            if task.state is TaskState.QUEUED and task.available_at is None
            else None
            for task in tasks
        ]

    async def rank_of_new(self, task: NewTask) -> Rank:
        """See `Broker.rank_of_new`."""
        clock = self._database.state.clocks.get((task.model, task.key_id, task.priority))
        tag = 0.0 if clock is None else clock.peek(task.user or "")
        return self._rank(task, tag, _AFTER_ALL)

    def _rank(self, task: Task | NewTask, tag: float, task_id: str) -> Rank:
        state, urgency = self._database.state, band(task.priority)
        queues = sorted({*state.queues_of(task.model), task.queue})
        if task.queue != task.model:
            queues = [queue for queue in queues if queue in (task.model, task.queue)]
        n, samples, is_exact = self._before_in_line(task, tag, task_id, queues)
        others = _Others(state.turns[task.model, urgency], task.key_id, samples)
        for queue in queues:
            for (other_band, key_id), line in state.lines.get(queue, {}).items():
                if other_band < urgency:
                    n, samples = n + line.n, samples + line.samples
                elif other_band == urgency:
                    others.add(key_id, line)
            if queue == task.queue:
                # Where nothing of its key waits in this queue yet, the key comes last here.
                others.add(task.key_id, Line())
        more, more_samples = others.before()
        return Rank(
            ahead=n + more,
            is_exact=is_exact and others.is_exact,
            samples=samples + more_samples,
        )

    def _before_in_line(
        self, task: Task | NewTask, tag: float, task_id: str, queues: Sequence[str]
    ) -> tuple[int, int, bool]:
        """Return how many tasks of the same key and band come before, their samples, and whether
        that is exact.
        """
        urgency = band(task.priority)
        least = 0 if urgency == USUAL_PRIORITY else urgency
        n = samples = 0
        is_exact = True
        for queue in queues:
            place = (task.key_id, least, task.priority, tag, task_id)
            ((found, found_samples),) = self._database.read(
                "rank", (queue, *place, EXACT_RANKS + 1)
            )
            line = self._database.state.lines.get(queue, {}).get((urgency, task.key_id))
            if found > EXACT_RANKS and line is not None:
                # Who comes late in a long line: nearly all of it, as far as anybody cares.
                found, found_samples = max(found, line.n), max(found_samples, line.samples)
                is_exact = False
            n, samples = n + found, samples + found_samples
        return n, samples, is_exact

    async def backlogs(self, models: Sequence[str], priority: int) -> list[Backlog]:
        """See `Broker.backlogs`."""
        state, urgency = self._database.state, band(priority)
        found = []
        for model in models:
            urgent, equal = Line(), Line()
            for queue in state.queues_of(model):
                for (other_band, _), line in state.lines.get(queue, {}).items():
                    if other_band < urgency:
                        urgent.add(line.n, line.samples)
                    elif other_band == urgency:
                        equal.add(line.n, line.samples)
            found.append(
                Backlog(
                    urgent=urgent.n,
                    urgent_samples=urgent.samples,
                    equal=equal.n,
                    equal_samples=equal.samples,
                )
            )
        return found

    async def close(self) -> None:
        """See `Broker.close`."""
        self._is_closed = True
        for until in self._waits:
            if not until.done():
                until.set_result(None)


def _lease(session: Session, request: LeaseRequest) -> list[Task]:
    started: list[Task] = []
    for model in _turns(session, request):
        wanted = request.n - len(started)
        if wanted <= 0:
            break
        taken = _take(session, request, model, wanted)
        if taken:
            session.state.last_model = model
        started += taken
    return started


class _Others:
    """What the other keys of a band have done before a key's task is next.

    Args:
        turns: The clock between the keys.
        key_id: Whose task it is.
        samples: How much of that key comes before it.
    """

    def __init__(self, turns: VirtualClock, key_id: str, samples: int) -> None:
        self._turns = turns
        self._key_id = key_id
        self._start = turns.peek(key_id) + samples
        self._lines: dict[str, Line] = {}
        #: Whether every task that was counted costs the same.
        self.is_exact = True

    def add(self, key_id: str, line: Line) -> None:
        """Count what waits of a key in one queue; who came first first."""
        self._lines.setdefault(key_id, Line()).add(line.n, line.samples)

    def before(self) -> tuple[int, int]:
        """Return how many tasks of other keys come before, and their samples."""
        n = samples = 0
        # Who came first wins a tie.
        wins_tie = True
        step = 1 + len(self._lines) // MAX_KEYS
        for key_id, line in itertools.islice(self._lines.items(), 0, None, step):
            if key_id == self._key_id:
                wins_tie = False
                continue
            cost = line.samples / line.n
            lead = self._start - self._turns.peek(key_id)
            found = turns_before(lead, line.n, cost, wins_tie=wins_tie)
            n += step * found
            samples += step * round(found * cost)
            self.is_exact = self.is_exact and step == 1 and (cost == 1 or found in (0, line.n))
        return n, samples


def _turns(session: Session, request: LeaseRequest) -> list[str]:
    waiting = [
        (queue, model) for queue, model, _ in request.queues if session.ready_count(queue) > 0
    ]
    if len(waiting) <= 1:
        return [model for _, model in waiting]
    heads: dict[str, int] = {}
    for queue, model in waiting:
        for urgency, _ in session.lines(queue):
            heads[model] = min(urgency, heads.get(model, urgency))
    return rotate(heads, session.state.last_model)


def _take(session: Session, request: LeaseRequest, model: str, n: int) -> list[Task]:
    """Start up to n tasks of one model, in order, but none whose deadline has passed."""
    version = request.models[model]
    now = session.now
    started = []
    for task in itertools.islice(_in_order(session, model, version, n), n):
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


def _in_order(session: Session, model: str, version: str, n: int) -> Iterator[Task]:
    """Yield the ready tasks of a model in the order of service, of which n are wanted."""
    unwritten: dict[tuple[int, str], list[Task]] = {}
    queues = []
    for queue in (model, f"{model}:{version}"):
        count = session.ready_count(queue)
        if not count:
            continue
        added = session.unwritten(queue)
        if count > len(added):
            queues.append(queue)
        for task in added:
            unwritten.setdefault((band(task.priority), task.key_id), []).append(task)
    if queues:
        session.flush()
        bands = _written_lines(session, model, version, n)
    else:
        # Nothing waits in the file: what has just come goes on without being written twice.
        bands = {}
        for (urgency, key_id), tasks in unwritten.items():
            if len(tasks) > 1:
                tasks.sort(key=_place)
            bands.setdefault(urgency, {})[key_id] = _without_expired(session, tasks)
    for urgency in sorted(bands):
        yield from take_turns(session.state.turns[model, urgency], bands[urgency])


def _written_lines(
    session: Session, model: str, version: str, n: int
) -> dict[int, dict[str, "Iterator[tuple[int, Task]]"]]:
    """Return band → key → its ready tasks, which are read as far as they are wanted."""
    queues: dict[tuple[int, str], list[str]] = {}
    for queue in (model, f"{model}:{version}"):
        for line in session.lines(queue):
            queues.setdefault(line, []).append(queue)
    at_once = max(1, math.ceil(n / max(1, len(queues))))
    bands: dict[int, dict[str, Iterator[tuple[int, Task]]]] = {}
    for (urgency, key_id), of_key in queues.items():
        tasks = _line(session, of_key, urgency, key_id, at_once)
        bands.setdefault(urgency, {})[key_id] = _without_expired(session, tasks)
    return bands


def _line(
    session: Session, queues: Sequence[str], urgency: int, key_id: str, at_once: int
) -> Iterator[Task]:
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
        for row in rows:
            task = session.get(row[2])
            if task is not None:
                yield task
        if len(rows) < at_once:
            return
        last = rows[-1]


def _without_expired(session: Session, tasks: Iterable[Task]) -> Iterator[tuple[int, Task]]:
    """Yield (cost, task), without those past a deadline: the sweeper ends them and tells of it."""
    now = session.now
    for task in tasks:
        has_deadline = task.start_by_at is not None or task.finish_by_at is not None
        if not has_deadline or not life.is_expired(task, now):
            yield task.count, task


def _place(task: Task) -> tuple[int, float, str]:
    return task.priority, task.tag, task.id
