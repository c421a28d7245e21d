"""A broker in memory, for tests."""

import asyncio
import bisect
import copy
import heapq
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from swell import task as life
from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Rank, ReadyTask, ServedWith
from swell.fairness import (
    VirtualClock,
    band,
    lift,
    note_lifted,
    note_passed,
    prefer,
    rotate,
    take_bands,
    take_turns,
)
from swell.store import Start, TaskFilter
from swell.stores.memory import MemoryStore
from swell.task import NewTask, Task, TaskState

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"


class _Entry(msgspec.Struct, frozen=True, order=True):
    """A ready task; its first three fields are the order of service among those of its key."""

    priority: int
    tag: float
    task_id: str
    queue: str
    model: str
    key_id: str
    cost: int

    @property
    def line(self) -> tuple[int, str]:
        """Band and key: those who wait in one line."""
        return band(self.priority), self.key_id


class MemoryBroker:
    """A sorted line for each queue, band and key."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        #: Queue → (band, key) → ready tasks; none is empty, and who came first stands first.
        self._lines: dict[str, dict[tuple[int, str], list[_Entry]]] = defaultdict(dict)
        self._entries: dict[str, _Entry] = {}
        #: (model, band) → whose flows are keys: they get their tags when a worker asks.
        self._turns: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        #: (model, key, priority) → whose flows are users: they get their tags on arrival.
        self._clocks: dict[tuple[str, str, int], VirtualClock] = defaultdict(VirtualClock)
        #: (task, place of its stage) → its tag there.
        self._tags: dict[tuple[str, int], float] = {}
        self._last_model: str | None = None
        #: Model → how many leases in a row were given others in its turn.
        self._passed: dict[str, int] = {}
        self._arrival = asyncio.Event()
        self._is_closed = False
        store.on_put = self._note

    def _note(self, task: Task) -> None:
        """Follow a change of a task in the store."""
        entry = self._entries.get(task.id)
        if task.state is TaskState.QUEUED and task.available_at is None:
            if entry is None:
                place = (task.id, 0 if task.run is None else task.run.at)
                if place not in self._tags:
                    self._give_tags(task)
                self._add(_entry(task, self._tags[place], task.id))
                self._wake()
            return
        self._drop(task.id)
        if entry is not None and task.state is TaskState.RUNNING:
            self._clocks[entry.model, entry.key_id, entry.priority].serve(entry.tag)
            self._turns[entry.model, entry.line[0]].take(entry.key_id, entry.cost)
        elif task.state.is_terminal:
            stages = 1 if task.run is None else len(task.run.pipeline.stages)
            for at in range(stages):
                self._tags.pop((task.id, at), None)

    def _give_tags(self, task: Task) -> None:
        """Give a task its tag; a pipeline one for each of its stages."""
        run = task.run
        stages = [(0, task.model)]
        if run is not None:
            stages = [(at, stage.model) for at, stage in enumerate(run.pipeline.stages)][run.at :]
        for at, model in stages:
            clock = self._clocks[model, task.key_id, task.priority]
            self._tags[task.id, at] = clock.tag(task.user or "", cost=task.count)

    def _add(self, entry: _Entry) -> None:
        self._entries[entry.task_id] = entry
        bisect.insort(self._lines[entry.queue].setdefault(entry.line, []), entry)

    def _drop(self, task_id: str) -> None:
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            line = self._lines[entry.queue][entry.line]
            line.remove(entry)
            if not line:
                del self._lines[entry.queue][entry.line]

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
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
                    queue=queue,
                    worker_id=request.worker_id,
                    version=version,
                    token=life.new_token(),
                    lease_s=request.lease_s,
                )
                for task_id, queue, version in picked
            ]
            started += [task for task in await self._store.start(starts) if task is not None]
        return started

    def _pick(self, request: LeaseRequest, n: int) -> list[tuple[str, str, str]]:
        heads: dict[str, int] = {}
        for queue, model, _ in request.queues:
            for urgency, _ in self._lines[queue]:
                heads[model] = min(urgency, heads.get(model, urgency))
        picked: list[tuple[str, str, str]] = []
        lifted, due = lift(heads, self._passed)
        turn = rotate(lifted, self._last_model)
        served: list[tuple[str, int]] = []
        for model in prefer(turn, lifted, request.residents, self._passed):
            version = request.models[model]
            order = self._order(model, request.queues_of(model), self._turns, passed=self._passed)
            wanted = n - len(picked)
            for entry in list(itertools.islice(order, min(wanted, 1) if model in due else wanted)):
                self._drop(entry.task_id)
                self._clocks[model, entry.key_id, entry.priority].serve(entry.tag)
                self._last_model = model
                served.append((model, entry.line[0]))
                picked.append((entry.task_id, entry.queue, version))
        note_passed(turn, {model for model, _ in served}, self._passed)
        if len(set(heads.values())) > 1:
            note_lifted(heads, served, self._passed)
        return picked

    def _order(
        self,
        model: str,
        queues: Sequence[str],
        turns: dict[tuple[str, int], VirtualClock],
        besides: Collection[str] = (),
        passed: dict[str, int] | None = None,
    ) -> Iterator[_Entry]:
        """Yield what waits in queues of one model in the order of service, and count the turns."""
        bands: dict[int, dict[str, list[_Entry]]] = {}
        for queue in queues:
            for (urgency, key_id), line in self._lines[queue].items():
                waiting = bands.setdefault(urgency, {}).get(key_id, [])
                bands[urgency][key_id] = list(heapq.merge(waiting, line))

        def of_band(urgency: int) -> Iterator[_Entry]:
            lines = bands[urgency]

            def tasks_of(key_id: str) -> Iterator[tuple[float, _Entry]]:
                line = lines[key_id]
                return ((entry.cost, entry) for entry in line if entry.task_id not in besides)

            return take_turns(turns[model, urgency], lines, tasks_of)

        yield from take_bands(
            model, bands, of_band, dict(self._passed) if passed is None else passed
        )

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        ids = sorted(entry.task_id for entry in self._entries.values() if entry.queue == queue)
        tasks = await self._store.get(ids[:n])
        return [
            ReadyTask(
                id=task.id,
                queue=task.queue,
                key_id=task.key_id,
                user=task.user,
                priority=task.priority,
            )
            for task in tasks
            if task is not None
        ]

    async def depths(self) -> list[Depth]:
        depths: dict[str, Depth] = {}
        for state in (TaskState.QUEUED, TaskState.RUNNING):
            page = await self._store.page(TaskFilter(state=state), limit=1_000_000)
            for task in page.tasks:
                depths[task.queue] = _added(depths.get(task.queue, Depth(queue=task.queue)), task)
        return sorted(depths.values(), key=lambda depth: depth.queue)

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        return [self._rank(self._entries.get(task.id), served_with) for task in tasks]

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        clock = self._clocks[task.stage_model, task.key_id, task.priority]
        entry = _entry(task, clock.peek(task.user or ""), _AFTER_ALL)
        self._add(entry)
        rank = self._rank(entry, served_with)
        self._drop(entry.task_id)
        assert rank is not None
        return rank

    def _rank(self, entry: _Entry | None, served_with: ServedWith) -> Rank | None:
        if entry is None:
            return None
        queues = list(served_with.get(entry.queue) or (entry.model, entry.queue))
        if entry.queue == entry.model and entry.queue not in served_with:
            queues += [queue for queue in self._lines if queue.startswith(f"{entry.model}:")]
        order = self._order(entry.model, list(dict.fromkeys(queues)), copy.deepcopy(self._turns))
        before = list(itertools.takewhile(lambda other: other != entry, order))
        return Rank(ahead=len(before), is_exact=True, samples=sum(other.cost for other in before))

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        found = []
        for model in models:
            queues = served_with.get(model)
            own = [
                entry
                for entry in self._entries.values()
                if entry.model == model and (queues is None or entry.queue in queues)
            ]
            urgent = [entry.cost for entry in own if band(entry.priority) < band(priority)]
            equal = [entry.cost for entry in own if band(entry.priority) == band(priority)]
            found.append(
                Backlog(
                    urgent=len(urgent),
                    urgent_samples=sum(urgent),
                    equal=len(equal),
                    equal_samples=sum(equal),
                )
            )
        return found

    async def close(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        # Everybody who waits now looks once more; who comes later waits on a new event.
        self._arrival.set()
        self._arrival = asyncio.Event()


def _entry(task: Task | NewTask, tag: float, task_id: str) -> _Entry:
    return _Entry(
        priority=task.priority,
        tag=tag,
        task_id=task_id,
        queue=task.queue,
        model=task.stage_model,
        key_id=task.key_id,
        cost=task.count,
    )


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
