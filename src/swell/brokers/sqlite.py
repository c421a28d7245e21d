"""The embedded broker: the ready tasks are an index over the store's own table.

Accepting a task, making it ready and starting it are each one write of the store's, so there is
nothing to offer and nothing to acknowledge: what is left of the broker is the order, and who waits.
"""

import asyncio
from collections.abc import Sequence

from swell import task as life
from swell.broker import Depth, LeaseRequest, Rank
from swell.fairness import rotate
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.task import Task, TaskState

__all__ = ["SqliteBroker"]

#: Ranks are counted exactly up to here.
EXACT_RANKS = 200


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
        return [self._rank(task) for task in tasks]

    def _rank(self, task: Task) -> Rank | None:
        if task.state is not TaskState.QUEUED or task.available_at is not None:
            return None
        key = (task.queue, task.priority, task.tag, task.id, EXACT_RANKS + 1)
        ((ahead,),) = self._database.read("rank", key)
        if ahead <= EXACT_RANKS:
            return Rank(ahead=ahead, is_exact=True)
        return Rank(ahead=max(ahead, self._database.ready_count(task.queue)), is_exact=False)

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


def _turns(session: Session, request: LeaseRequest) -> list[str]:
    waiting = [
        (queue, model) for queue, model, _ in request.queues if session.ready_count(queue) > 0
    ]
    if len(waiting) <= 1:
        return [model for _, model in waiting]
    session.flush()
    heads: dict[str, int] = {}
    for queue, model in waiting:
        for priority, _, _ in session.rows("ready_head", (queue, 1)):
            heads[model] = min(priority, heads.get(model, priority))
    return rotate(heads, session.state.last_model)


def _take(session: Session, request: LeaseRequest, model: str, n: int) -> list[Task]:
    """Start up to n tasks of one model, in order, but none whose deadline has passed."""
    version = request.models[model]
    now = session.now
    started = []
    for task in _ready(session, (model, f"{model}:{version}"), n):
        has_deadline = task.start_by_at is not None or task.finish_by_at is not None
        if has_deadline and life.is_expired(task, now):
            continue  # the sweeper ends it, and tells who waits
        running = life.start(
            task,
            worker_id=request.worker_id,
            version=version,
            token=life.new_token(),
            now=now,
            lease_s=request.lease_s,
        )
        session.put(running)
        session.state.clocks[model, task.priority].serve(task.tag)
        started.append(running)
    return started


def _ready(session: Session, queues: Sequence[str], n: int) -> list[Task]:
    """Return the first n ready tasks of some queues, in the order of service."""
    found: list[Task] = []
    for queue in queues:
        count = session.ready_count(queue)
        unwritten = session.unwritten(queue) if count else []
        if count > len(unwritten):
            session.flush()
            ids = [row[2] for row in session.rows("ready_head", (queue, n))]
            session.load(ids)
            found += [task for task in map(session.get, ids) if task is not None]
        else:
            # Nothing waits in the file: what has just come goes on without being written twice.
            found += unwritten
    if len(found) > 1:
        found.sort(key=_place)
    return found[:n]


def _place(task: Task) -> tuple[int, float, str]:
    return task.priority, task.tag, task.id
