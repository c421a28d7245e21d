"""The broker over PostgreSQL: the ready tasks are an index over the store's own table.

As with SQLite there is nothing to offer and nothing to acknowledge. Any number of backends hand out
tasks of the same queues. Each takes turns between keys and models by clocks of its own, so what
fairness promises holds for the leases of each, and its bounds for all are as many times as large.
What others have accepted is passed over for a moment (docs/decisions/0050).
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from swell import task as life
from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.brokers.ranking import (
    EXACT_RANKS,
    backlog_of,
    depths_of,
    in_line,
    least_of,
    queues_before,
    rank_of,
    ready_tasks,
)
from swell.fairness import (
    band,
    lift,
    note_lifted,
    note_passed,
    prefer,
    rotate,
    take_bands,
    take_turns,
)
from swell.stores.postgres.clocks import Draft
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.session import Session
from swell.stores.postgres.view import LineCut
from swell.task import NewTask, Task, TaskState

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"

#: (cost, task).
_Costed = tuple[float, Task]


class PostgresBroker:
    """Order and leases over the tasks of a `PostgresStore` in the same database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        state = self._database.state
        queues = [queue for queue, _, _ in request.queues]
        self._database.ask(queues)

        async def action(session: Session) -> list[Task]:
            return await _lease(session, request, queues, until)

        if until is None:
            if not self._database.is_busy and not any(map(state.may_wait, queues)):
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


class _Plan:
    """What one lease would take, and how it would move the clocks between keys."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._turns: dict[tuple[str, int], Draft] = {}
        self.taken: list[Task] = []
        #: The models of which tasks wait, in turn, and the band of the next task of each.
        self.turn: list[str] = []
        self.heads: dict[str, int] = {}
        #: As of the session, as it would stand.
        self.passed = dict(session.passed)

    def turns(self, model: str, urgency: int) -> Draft:
        """Return the clock between a model's keys as it would stand."""
        draft = self._turns.get((model, urgency))
        if draft is None:
            draft = self._turns[model, urgency] = Draft(self._session.turns(model, urgency))
        return draft

    def keep_turns(self) -> None:
        """Do what was planned to the clocks."""
        for draft in self._turns.values():
            draft.keep()


async def _lease(
    session: Session,
    request: LeaseRequest,
    queues: Sequence[str],
    until: "asyncio.Future[None] | None",
) -> list[Task]:
    """Start up to n tasks, in order, but none whose deadline has passed."""
    if request.n < 1 or not any(map(session.may_wait, queues)):
        return []
    await session.look(queues, request.n)
    while True:
        try:
            plan = _plan(session, request)
            break
        except LineCut as cut:
            await session.look_further(cut.queue, cut.key_id)
    if until is not None and until.done():
        return []
    return [] if not plan.taken else _start(session, request, plan)


def _plan(session: Session, request: LeaseRequest) -> _Plan:
    plan = _Plan(session)
    heads: dict[str, int] = {}
    for queue, model, _ in request.queues:
        for key_id in session.view.keys(queue):
            tasks, is_whole = session.view.line(queue, key_id)
            if tasks:
                urgency = band(tasks[0].priority)
                heads[model] = min(urgency, heads.get(model, urgency))
            elif not is_whole:
                raise LineCut(queue, key_id)
    plan.heads = heads
    lifted, due = lift(heads, session.passed)
    plan.turn = order = rotate(lifted, session.last_model)
    if request.residents and len(order) > 1:
        order = prefer(plan.turn, lifted, request.residents, session.passed)
    for model in order:
        wanted = request.n - len(plan.taken)
        if wanted <= 0:
            break
        wanted = 1 if model in due else wanted
        queues = request.queues_of(model)
        plan.taken += itertools.islice(_in_order(session, plan, model, queues), wanted)
    return plan


def _start(session: Session, request: LeaseRequest, plan: _Plan) -> list[Task]:
    now = session.now
    started = []
    for task in plan.taken:
        running = life.start(
            task,
            worker_id=request.worker_id,
            version=request.models[task.stage_model],
            token=life.new_token(),
            now=now,
            lease_s=request.lease_s,
        )
        session.put(running)
        session.clock(task.stage_model, task.key_id, task.priority).serve(task.tag)
        started.append(running)
    session.handed_out(task.queue for task in plan.taken)
    plan.keep_turns()
    session.last_model = started[-1].stage_model
    session.passed = plan.passed
    if len(plan.turn) > 1:
        note_passed(plan.turn, {task.stage_model for task in started}, session.passed)
        if len(set(plan.heads.values())) > 1:
            served = [(task.stage_model, band(task.priority)) for task in started]
            note_lifted(plan.heads, served, session.passed)
    return started


def _in_order(session: Session, plan: _Plan, model: str, queues: Sequence[str]) -> Iterator[Task]:
    """Yield the ready tasks of a model in the order of service."""
    lines = _Lines(session, queues)
    bands = dict(lines.bands())

    def of_band(urgency: int) -> Iterator[Task]:
        return take_turns(plan.turns(model, urgency), bands[urgency], lines.of(urgency))

    if bands:
        yield from take_bands(model, bands, of_band, plan.passed)


class _Lines:
    """The lines of each key of a model, over the queues that a worker serves.

    Args:
        session: What was read of them.
        queues: Of one model.
        without: Ids of tasks that are left out.
    """

    def __init__(
        self, session: Session, queues: Sequence[str], without: Iterable[str] = ()
    ) -> None:
        self._session = session
        self._queues = queues
        self._without = frozenset(without)

    def bands(self) -> list[tuple[int, list[str]]]:
        """Return (band, keys that may have something in it); who came first stands first."""
        found: dict[int, dict[str, None]] = {}
        for queue in self._queues:
            known = self._session.lines(queue)
            for urgency, keys in known.items():
                found.setdefault(urgency, {}).update(dict.fromkeys(keys))
        for queue in self._queues:
            for key_id in sorted(self._session.view.keys(queue)):
                for task in self._session.view.line(queue, key_id)[0]:
                    found.setdefault(band(task.priority), {})[key_id] = None
        return [(urgency, list(found[urgency])) for urgency in sorted(found)]

    def of(self, urgency: int) -> "_LineOf":
        """Return what yields (cost, task) of one key in a band."""
        return _LineOf(self._session, self._queues, self._without, urgency)


class _LineOf:
    """Yields the tasks of one key and band in order, and none past a deadline."""

    def __init__(
        self, session: Session, queues: Sequence[str], without: frozenset[str], urgency: int
    ) -> None:
        self._session = session
        self._queues = queues
        self._without = without
        self._urgency = urgency

    def __call__(self, key_id: str) -> Iterator[_Costed]:
        """Yield (cost, task).

        Raises:
            LineCut: More must be read to know which is next.
        """
        now = self._session.now
        for task in self._tasks(key_id):
            has_deadline = task.start_by_at is not None or task.finish_by_at is not None
            # The sweeper ends what has expired, and tells of it.
            is_expired = has_deadline and life.is_expired(task, now)
            if band(task.priority) == self._urgency and not is_expired:
                yield task.count, task

    def _tasks(self, key_id: str) -> Iterator[Task]:
        view = self._session.view
        if len(self._queues) == 1:
            lines = [view.line(self._queues[0], key_id)]
        else:
            lines = [view.line(queue, key_id) for queue in self._queues]
        cuts = [
            (queue, tasks)
            for queue, (tasks, is_whole) in zip(self._queues, lines, strict=True)
            if not is_whole
        ]
        together = sorted(
            (task for tasks, _ in lines for task in tasks),
            key=lambda task: (task.priority, task.tag, task.id),
        )
        last_of = {tasks[-1].id: queue for queue, tasks in cuts if tasks}
        for queue, tasks in cuts:
            if not tasks:
                raise LineCut(queue, key_id)
        for task in together:
            if task.id not in self._without:
                yield task
            if task.id in last_of and band(task.priority) <= self._urgency:
                raise LineCut(last_of[task.id], key_id)
