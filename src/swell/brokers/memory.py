"""A broker in memory, beside any store: for tests, and as the pattern for brokers that only carry
ids (Amazon SQS, NATS): what it hands out is started through the store, which is the judge.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from swell import task as life
from swell.broker import Depth, LeaseRequest, Rank
from swell.fairness import VirtualClock, rotate
from swell.store import Start, Store, TaskFilter
from swell.task import Task, TaskState

__all__ = ["MemoryBroker"]

#: (priority, start tag, task id): the order of service.
Entry = tuple[int, float, str]


class MemoryBroker:
    """One heap a queue; entries whose task is gone are skipped when they come up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heaps: dict[str, list[Entry]] = defaultdict(list)
        self._entries: dict[str, tuple[str, Entry]] = {}
        self._clocks: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        self._tags: dict[str, float] = {}
        self._last_model: str | None = None
        self._arrival = asyncio.Event()
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`."""
        for task in tasks:
            waits = task.state is TaskState.QUEUED and task.available_at is None
            if not waits or task.id in self._entries:
                continue
            if task.id not in self._tags:
                clock = self._clocks[task.model, task.priority]
                self._tags[task.id] = clock.tag(task.flow, cost=task.count)
            entry = (task.priority, self._tags[task.id], task.id)
            self._entries[task.id] = (task.queue, entry)
            heapq.heappush(self._heaps[task.queue], entry)
        self._wake()

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """See `Broker.lease`."""
        while True:
            if until is not None and until.done():
                return []
            arrival = asyncio.ensure_future(self._arrival.wait())
            tasks = await self._lease_now(request)
            if tasks or until is None or self._is_closed:
                arrival.cancel()
                return tasks
            waits: set[asyncio.Future[Any]] = {arrival, until}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            arrival.cancel()

    async def _lease_now(self, request: LeaseRequest) -> list[Task]:
        started: list[Task] = []
        while len(started) < request.n:
            picked = self._pick(request, request.n - len(started))
            if not picked:
                break
            starts = [
                Start(
                    task_id=task_id,
                    worker_id=request.worker_id,
                    version=version,
                    token=life.new_token(),
                    lease_s=request.lease_s,
                )
                for task_id, version in picked
            ]
            started += [task for task in await self._store.start(starts) if task is not None]
        return started

    def _pick(self, request: LeaseRequest, n: int) -> list[tuple[str, str]]:
        heads: dict[str, int] = {}
        for queue, model, _ in request.queues:
            head = self._head(queue)
            if head is not None:
                heads[model] = min(head[0], heads.get(model, head[0]))
        picked: list[tuple[str, str]] = []
        for model in rotate(heads, self._last_model):
            version = request.models[model]
            while len(picked) < n and (entry := self._pop(model, version)) is not None:
                self._clocks[model, entry[0]].serve(entry[1])
                self._last_model = model
                picked.append((entry[2], version))
        return picked

    def _head(self, queue: str) -> Entry | None:
        heap = self._heaps[queue]
        while heap:
            if self._entries.get(heap[0][2]) == (queue, heap[0]):
                return heap[0]
            heapq.heappop(heap)
        return None

    def _pop(self, model: str, version: str) -> Entry | None:
        heads = [(self._head(queue), queue) for queue in (model, f"{model}:{version}")]
        waiting = [(head, queue) for head, queue in heads if head is not None]
        if not waiting:
            return None
        entry, queue = min(waiting)
        heapq.heappop(self._heaps[queue])
        del self._entries[entry[2]]
        return entry

    async def ack(self, tasks: Sequence[Task]) -> None:
        """See `Broker.ack`."""
        for task in tasks:
            self._entries.pop(task.id, None)
            if task.state.is_terminal:
                self._tags.pop(task.id, None)

    async def depths(self) -> list[Depth]:
        """See `Broker.depths`."""
        depths: dict[str, Depth] = {}
        for state in (TaskState.QUEUED, TaskState.RUNNING):
            page = await self._store.page(TaskFilter(state=state), limit=1_000_000)
            for task in page.tasks:
                depths[task.queue] = _added(depths.get(task.queue, Depth(queue=task.queue)), task)
        return sorted(depths.values(), key=lambda depth: depth.queue)

    async def ranks(self, tasks: Sequence[Task]) -> list[Rank | None]:
        """See `Broker.ranks`."""
        ranks: list[Rank | None] = []
        for task in tasks:
            if task.id not in self._entries:
                ranks.append(None)
                continue
            queue, entry = self._entries[task.id]
            before = [known for known in self._entries.values() if known[0] == queue]
            ahead = sum(1 for _, other in before if other < entry)
            ranks.append(Rank(ahead=ahead, is_exact=True))
        return ranks

    async def close(self) -> None:
        """See `Broker.close`."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        # Everybody who waits now looks once more; who comes later waits on a new event.
        self._arrival.set()
        self._arrival = asyncio.Event()


def _added(depth: Depth, task: Task) -> Depth:
    if task.state is TaskState.RUNNING:
        return replace(depth, running=depth.running + 1)
    if task.available_at is not None:
        return replace(depth, delayed=depth.delayed + 1)
    return replace(
        depth,
        ready=depth.ready + 1,
        ready_samples=depth.ready_samples + task.count,
        oldest_ready_at=min(depth.oldest_ready_at or task.created_at, task.created_at),
    )
