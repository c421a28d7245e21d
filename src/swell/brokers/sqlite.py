"""The embedded broker: the ready tasks are an index over the store's own table.

Accepting a task, making it ready and starting it are each one write of the store's, so there is
nothing to offer and nothing to acknowledge: what is left of the broker is the order, and who waits.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from swell import task as life
from swell.broker import Depth, LeaseRequest, Rank
from swell.fairness import rotate
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.task import Task, TaskState

__all__ = ["SqliteBroker"]

#: Ranks are counted exactly up to here.
EXACT_RANKS = 1_000

#: How long a queue's size may serve as an estimate for ranks beyond that, in seconds.
SIZE_AGE_S = 1.0


class SqliteBroker:
    """Order and leases over the tasks of a `SqliteStore` in the same file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._arrivals: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sizes: dict[str, tuple[float, int]] = {}
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`: the tasks are ready already; only who waits must be told."""
        for model in {task.model for task in tasks}:
            arrival = self._arrivals.pop(model, None)
            if arrival is not None:
                arrival.set()

    async def lease(self, request: LeaseRequest) -> list[Task]:
        """See `Broker.lease`."""
        return await self._database.write(lambda session: _lease(session, request), is_late=True)

    async def wait_ready(self, models: Sequence[str], timeout_s: float) -> bool:
        """See `Broker.wait_ready`."""
        if self._has_ready(models):
            return True
        waits = [asyncio.ensure_future(self._arrivals[model].wait()) for model in models]
        if self._is_closed or not waits:
            return False
        try:
            done, _ = await asyncio.wait(
                waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        return bool(done) and not self._is_closed

    def _has_ready(self, models: Sequence[str]) -> bool:
        if len(models) == 1 and self._database.read("has_ready", (models[0],))[0][0]:
            return True
        wanted = set(models)
        return any(
            queue.partition(":")[0] in wanted for (queue,) in self._database.read("ready_queues")
        )

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
        return Rank(ahead=max(ahead, self._size(task.queue)), is_exact=False)

    def _size(self, queue: str) -> int:
        now_s = self._database.clock.monotonic_s()
        counted_s, size = self._sizes.get(queue, (-SIZE_AGE_S, 0))
        if now_s - counted_s >= SIZE_AGE_S:
            ((size,),) = self._database.read("ready_count", (queue,))
            self._sizes[queue] = (now_s, size)
        return size

    async def close(self) -> None:
        """See `Broker.close`."""
        self._is_closed = True
        for arrival in self._arrivals.values():
            arrival.set()


def _lease(session: Session, request: LeaseRequest) -> list[Task]:
    session.flush()
    now = session.now
    started: list[Task] = []
    for model in _turns(session, request):
        wanted = request.n - len(started)
        if wanted <= 0:
            break
        taken = _take(session, request, model, wanted, now)
        if taken:
            session.state.last_model = model
        started += taken
    return started


def _turns(session: Session, request: LeaseRequest) -> list[str]:
    if len(request.models) == 1:
        return list(request.models)
    heads: dict[str, int] = {}
    for queue, model, _ in request.queues:
        for priority, _, _ in session.rows("ready_head", (queue, 1)):
            heads[model] = min(priority, heads.get(model, priority))
    return rotate(heads, session.state.last_model)


def _take(session: Session, request: LeaseRequest, model: str, n: int, now: datetime) -> list[Task]:
    """Start up to n tasks of one model, in order, and end those whose deadline has passed."""
    version = request.models[model]
    ready = session.rows("ready_head", (model, n)) + session.rows(
        "ready_head", (f"{model}:{version}", n)
    )
    ready.sort()
    session.load(task_id for _, _, task_id in ready[:n])
    started = []
    for priority, tag, task_id in ready[:n]:
        task = session.get(task_id)
        if task is None or task.state is not TaskState.QUEUED:
            continue
        if life.is_expired(task, now):
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
        session.state.clocks[model, priority].serve(tag)
        started.append(running)
    return started
