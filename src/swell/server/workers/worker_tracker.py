"""Workers and their leases.

In memory only, and rebuilt from the registry after a restart. The store has the truth about tasks.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from swell.core.clock import Clock
from swell.core.events import TaskSummary
from swell.core.records import WorkerInfo
from swell.core.store_types import Hold
from swell.core.task import Settlement, Task
from swell.db.registry import Registry
from swell.protocol.worker_messages import Progress, Switches
from swell.server.estimates.eta import Meter, Pace, ServiceTimes, Window, learn

#: `look_again` reads the registry at most this often, in seconds.
_LOOK_AGAIN_S: Final = 0.25

#: The fleet remembers the last ended attempt of this many tasks.
_MOST_OVER: Final = 8192

#: The counts of `Switches`.
KINDS = ("disk", "host", "loras")


def never_dead(worker: WorkerInfo) -> bool:
    """Return False: nothing shows whether a worker's process has ended."""
    return False


class Worker:
    """A worker as this process knows it."""

    def __init__(self, info: WorkerInfo, seen_s: float) -> None:
        self.info = info
        #: The last sign of life, in monotonic seconds.
        self.seen_s = seen_s
        #: Whether it ever called this process, and whether it did since the last `refresh`.
        self.has_called = False
        self.was_seen = False
        #: Ids of held tasks that it must stop.
        self.cancels: list[str] = []
        #: Whether it must report the files of its running tasks again.
        self.files_due = False
        #: Counts its tasks and measures its speed.
        self.meter = Meter()
        self.is_drain_told = False
        #: Models on its device, the most useful first; None if that is unknown or never changes.
        self.residents: list[str] | None = None
        #: Model → how often it was loaded; None before the first report.
        self.switches: dict[str, Switches] | None = None
        #: Its lease calls that wait now.
        self.polls: set[asyncio.Future[None]] = set()

    def count_switches(self, reported: Sequence[Switches]) -> list[Switches]:
        """Take the worker's counts of loaded models; return the increase since its last report.

        The first report of a worker that another backend knew is only a start value.
        """
        before, self.switches = self.switches, {each.model: each for each in reported}
        if before is None:
            return []
        new = []
        for each in reported:
            known = before.get(each.model, Switches(model=each.model))
            if each != known:
                counts = {kind: getattr(each, kind) - getattr(known, kind) for kind in KINDS}
                counts = {kind: max(0, n) for kind, n in counts.items()}
                new.append(Switches(model=each.model, **counts))
        return new

    def wake(self) -> None:
        """End the waits of its lease calls."""
        for poll in self.polls:
            if not poll.done():
                poll.set_result(None)
        self.polls.clear()

    def leave(self) -> None:
        """Grant it no more tasks: it is about to end."""
        self.info = msgspec.structs.replace(self.info, draining=True)
        self.wake()


class Rival(NamedTuple):
    """Another model on the workers of a model."""

    #: The share of its slots that is on these workers.
    part: float
    #: Its versions on these workers.
    versions: frozenset[str]


class _Lease(msgspec.Struct, frozen=True):
    attempt: int
    #: Empty if another backend granted the lease.
    token: str
    worker_id: str
    #: Empty if unknown.
    model: str


class LeaseTracker:
    """The leases of all workers, as far as this process knows.

    Args:
        clock: The time.
        times: Learns how fast models run.
    """

    def __init__(self, clock: Clock, times: ServiceTimes) -> None:
        self._clock = clock
        self._times = times
        #: Workers that have not left, by id.
        self.workers: dict[str, Worker] = {}
        self._leases: dict[str, _Lease] = {}
        #: Task id → its last attempt that has ended.
        self._over: OrderedDict[str, int] = OrderedDict()

    def hold(self, worker: Worker, tasks: Sequence[Task]) -> None:
        """Note the leases that this backend has granted to a worker."""
        for task in tasks:
            if task.id in self._leases:
                self._drop_lease(task.id, task.attempt)
            token, (model, _, _) = task.lease_token or "", task.queue.partition(":")
            self._leases[task.id] = _Lease(task.attempt, token, worker.info.id, model)
        worker.meter.take(len(tasks), self._clock.monotonic_s())

    def note_lease(self, task_id: str, summary: TaskSummary) -> None:
        """Note a lease that another backend has granted.

        The task may have ended before this message, here or at a third backend.
        """
        known = self._leases.get(task_id)
        is_newer = known is None or known.attempt < summary.attempt
        if summary.worker_id and is_newer and not self.is_over(task_id, summary.attempt):
            lease = _Lease(summary.attempt, "", summary.worker_id, summary.model)
            self._add_lease(task_id, lease)

    def learn_hold(self, worker: Worker, hold: Hold) -> None:
        """Note a lease that the store has confirmed."""
        if not self.is_held(hold):
            known = self._leases.get(hold.task_id)
            model = "" if known is None else known.model
            self._add_lease(hold.task_id, _Lease(hold.attempt, hold.token, worker.info.id, model))

    def end(self, summary: TaskSummary) -> None:
        """Learn from a task that has succeeded. Call this before `release`."""
        worker = self.workers.get(summary.worker_id or "")
        if worker is not None:
            now_s = self._clock.monotonic_s()
            window = worker.meter.end(summary.model, summary.run_s, summary.count, now_s)
            if window is not None:
                self._learn_pace(worker, summary.model, window)

    def release(self, attempts: Iterable[tuple[str, int]]) -> None:
        """Note the end of attempts, each as (task id, attempt).

        A later attempt of the same task, maybe of another worker, keeps its lease.
        """
        over = self._over
        for task_id, attempt in attempts:
            if over.get(task_id, 0) < attempt:
                over[task_id] = attempt
                if len(over) > _MOST_OVER:
                    over.popitem(last=False)
            self._drop_lease(task_id, attempt)

    def held_tasks(self) -> list[str]:
        """Return all tasks with a known lease."""
        return list(self._leases)

    def held_by(self, worker_id: str) -> list[str]:
        """Return the tasks that a worker holds."""
        return [each for each, lease in self._leases.items() if lease.worker_id == worker_id]

    def is_held(self, message: Hold | Settlement | Progress) -> bool:
        """Whether a message of a worker names the last known lease of its task."""
        lease = self._leases.get(message.task_id)
        if lease is None:
            return False
        return lease.attempt == message.attempt and lease.token == message.token

    def held_attempt(self, task_id: str) -> int | None:
        """Return the attempt of the last known lease of a task."""
        lease = self._leases.get(task_id)
        return None if lease is None else lease.attempt

    def is_over(self, task_id: str, attempt: int) -> bool:
        """Whether this attempt or a later one is known to have ended."""
        return self._over.get(task_id, 0) >= attempt

    def _add_lease(self, task_id: str, lease: _Lease) -> None:
        if task_id in self._leases:
            self._drop_lease(task_id, lease.attempt)
        self._leases[task_id] = lease
        worker = self.workers.get(lease.worker_id)
        if worker is not None:
            worker.meter.take(1, self._clock.monotonic_s())

    def _drop_lease(self, task_id: str, attempt: int) -> None:
        lease = self._leases.get(task_id)
        if lease is not None and lease.attempt <= attempt:
            del self._leases[task_id]
            worker = self.workers.get(lease.worker_id)
            if worker is not None:
                windows = worker.meter.release(self._clock.monotonic_s())
                for model, window in windows.items():
                    self._learn_pace(worker, model, window)

    def _learn_pace(self, worker: Worker, model: str, window: Window) -> None:
        paces, slots = worker.meter.paces, worker.info.slots
        version = worker.info.models.get(model, "")
        pace = learn(paces.get(model) or self._times.pace(model, version), window, slots)
        if pace is not None:
            paces[model] = pace
        self._times.observe_pace(model, window, slots, version)


class Fleet(LeaseTracker):
    """All workers, and their leases.

    Args:
        registry: Shares workers with other backends.
        clock: The time.
        times: Learns how fast models run.
        alive_s: A worker counts as alive for this long after a sign of life.
        lost_s: A worker counts as lost after this silence.
        is_dead: Whether the process of a worker has ended.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        times: ServiceTimes,
        *,
        alive_s: float,
        lost_s: float,
        is_dead: Callable[[WorkerInfo], bool] = never_dead,
    ) -> None:
        super().__init__(clock, times)
        self._registry = registry
        self._alive_s = alive_s
        self._lost_s = lost_s
        self._is_dead = is_dead
        #: Reports to other backends before this moment are unknown here.
        self._since_at = clock.now()
        self._by_model: dict[str, list[Worker]] = {}
        self._refreshed_s = float("-inf")

    async def find(self, worker_id: str) -> Worker | None:
        """Return a worker that has not left, also one that registered at another backend."""
        if worker_id not in self.workers:
            await self.refresh()
        return self.workers.get(worker_id)

    async def add(self, info: WorkerInfo) -> Worker:
        """Register a worker."""
        await self._registry.put_worker(info)
        worker = self.workers[info.id] = Worker(info, self._clock.monotonic_s())
        worker.has_called = True
        worker.switches = {}
        self._index()
        return worker

    async def remove(self, worker_id: str) -> None:
        """Remove a worker that has said goodbye. Its leases stay until they end or expire."""
        now = self._clock.now()
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            info = msgspec.structs.replace(worker.info, said_goodbye=True, seen_at=now)
            await self._registry.put_worker(info)
            worker.wake()
        await self._registry.remove_worker(worker_id, now)
        self._index()

    async def drain(self, worker_id: str) -> WorkerInfo | None:
        """Have a worker finish its tasks and leave; None if it is unknown."""
        info = await self._registry.drain_worker(worker_id)
        worker = self.workers.get(worker_id)
        if info is not None and worker is not None:
            worker.info = info
            worker.wake()
        return info

    def ask_for_files(self) -> None:
        """Have all workers report the files of their running tasks again."""
        for worker in self.workers.values():
            worker.files_due = True

    def wake_all(self) -> None:
        """End all waits of lease calls."""
        for worker in self.workers.values():
            worker.wake()

    async def refresh(self) -> None:
        """Write the workers' signs of life to the registry, and read all workers from it."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        self._refreshed_s = now_s
        seen = [each for each in self.workers.values() if each.was_seen or each.polls]
        for worker in seen:
            worker.was_seen = False
            if worker.polls:
                worker.seen_s = now_s
        if seen:
            silent_s = now_s - max(each.seen_s for each in seen)
            seen_at = now - timedelta(seconds=silent_s)
            await self._registry.touch_workers([each.info.id for each in seen], seen_at)
        for info in await self._registry.workers():
            if info.gone_at is None and self._has_died(info):
                await self._registry.remove_worker(info.id, now)
                info = msgspec.structs.replace(info, gone_at=now)
            self._update(info, now, now_s)
        self._forget_silent(now_s)
        self._index()

    async def look_again(self) -> None:
        """Refresh, unless that happened a moment ago."""
        if self._clock.monotonic_s() - self._refreshed_s >= _LOOK_AGAIN_S:
            await self.refresh()

    def live(
        self, model: str, version: str | None = None, *, within_s: float | None = None
    ) -> list[Worker]:
        """Return the live workers of a model that are not draining.

        Args:
            model: Its name.
            version: Its version; None for any.
            within_s: How long ago the last sign of life may be; None for the default.
        """
        oldest_s = self._clock.monotonic_s() - (self._alive_s if within_s is None else within_s)
        return [
            worker
            for worker in self._by_model.get(model, ())
            if (worker.polls or worker.seen_s >= oldest_s)
            and not worker.info.draining
            and version in (None, worker.info.models.get(model))
        ]

    def pace(self, model: str, version: str | None, default: Pace) -> tuple[int, float, Pace]:
        """Return how fast the live workers of a model process its tasks.

        Args:
            model: Its name.
            version: Its version; None for any.
            default: The pace of workers without measurements.

        Returns:
            The number of workers, the tasks they run at the same time, and the mean pace of one
            worker.
        """
        live = self.live(model, version)
        if not live:
            return 0, 1.0, default
        paces = [worker.meter.paces.get(model, default) for worker in live]
        slots = [worker.info.slots for worker in live]
        at_once = sum(min(n, pace.at_once) for n, pace in zip(slots, paces, strict=True))
        per_s = sum(1 / pace.task_s if pace.task_s > 0 else 1e6 for pace in paces)
        mean = paces[0]
        if len(live) > 1:
            mean = msgspec.structs.replace(default, task_s=len(live) / per_s)
        return len(live), max(1.0, at_once), mean

    def rates(self) -> dict[str, dict[str, float]]:
        """Return pool → model → samples per second of one live worker, if measured."""
        seen: dict[str, dict[str, list[float]]] = {}
        for worker in self.workers.values():
            for model, pace in worker.meter.paces.items():
                if pace.task_s > 0:
                    rates = seen.setdefault(worker.info.pool, {}).setdefault(model, [])
                    rates.append(pace.count / pace.task_s)
        return {
            pool: {model: sum(each) / len(each) for model, each in models.items()}
            for pool, models in seen.items()
        }

    def held(self) -> dict[str, int]:
        """Return worker → number of held tasks, without workers that hold none."""
        return {each.info.id: each.meter.held for each in self.workers.values() if each.meter.held}

    def rivals(
        self, model: str, version: str | None = None, *, staged: Container[str] = ()
    ) -> dict[str, Rival]:
        """Return the other models on the workers of a model.

        Args:
            model: Its name.
            version: Its version; None for any.
            staged: Models with a queue per version.
        """
        slots: dict[str, int] = {}
        versions: dict[str, set[str]] = {}
        for worker in self.live(model, version):
            for other, other_version in worker.info.models.items():
                if other != model:
                    slots[other] = slots.get(other, 0) + worker.info.slots
                    versions.setdefault(other, set()).add(other_version)
        rivals = {}
        for other, n in slots.items():
            all_slots = sum(
                worker.info.slots
                for worker in self.live(other)
                if other not in staged or worker.info.models[other] in versions[other]
            )
            rivals[other] = Rival(n / max(n, all_slots), frozenset(versions[other]))
        return rivals

    def running(self, model: str, version: str | None = None) -> dict[str, int]:
        """Return model → number of tasks that the workers of a model hold.

        The name is empty for tasks that were leased before a restart.
        """
        ids = {worker.info.id for worker in self.live(model, version)}
        found: dict[str, int] = {}
        for lease in self._leases.values():
            if lease.worker_id in ids:
                found[lease.model] = found.get(lease.model, 0) + 1
        return found

    async def all(self) -> list[tuple[WorkerInfo, str, int]]:
        """Return (worker, state, held tasks) of all workers, including those of the last day."""
        await self.refresh()
        now = self._clock.now()
        found = []
        for info in await self._registry.workers():
            worker = self.workers.get(info.id)
            held = 0 if worker is None else worker.meter.held
            found.append((info, worker_state(info, held, now, self._lost_s), held))
        return found

    def stop(self, tasks: Sequence[Task], *, only_callers: bool = False) -> None:
        """Have the workers that hold these tasks stop them.

        Args:
            tasks: Tasks to stop.
            only_callers: Skip workers that never called this backend.
        """
        for task in tasks:
            worker = self.workers.get(task.worker_id or "")
            if worker is not None and (worker.has_called or not only_callers):
                worker.cancels.append(task.id)
                worker.wake()

    # ---- registry

    def _has_died(self, info: WorkerInfo) -> bool:
        """Whether the process of a worker has ended; only for workers that never called here."""
        worker = self.workers.get(info.id)
        return (worker is None or not worker.has_called) and self._is_dead(info)

    def _update(self, info: WorkerInfo, now: datetime, now_s: float) -> None:
        worker = self.workers.get(info.id)
        if info.gone_at is not None:
            if worker is not None:
                worker.wake()
                del self.workers[info.id]
            return
        seen_s = now_s - max(0.0, (now - info.seen_at).total_seconds())
        if worker is None:
            if now_s - seen_s <= self._alive_s:
                worker = self.workers[info.id] = Worker(info, seen_s)
                worker.files_due = info.registered_at <= self._since_at
                worker.meter.take(len(self.held_by(info.id)), now_s)
            return
        worker.seen_s = max(worker.seen_s, seen_s)
        if info.draining and not worker.info.draining:
            worker.wake()
        worker.info = msgspec.structs.replace(info, draining=info.draining or worker.info.draining)

    def _forget_silent(self, now_s: float) -> None:
        # Much later than `alive_s`, so that a worker that comes back soon is still known.
        for worker in list(self.workers.values()):
            if not worker.polls and now_s - worker.seen_s > 10 * self._alive_s:
                del self.workers[worker.info.id]

    def _index(self) -> None:
        self._by_model = {}
        for worker in self.workers.values():
            for model in worker.info.models:
                self._by_model.setdefault(model, []).append(worker)


def worker_state(info: WorkerInfo, held: int, now: datetime, lost_s: float) -> str:
    """Return `gone`, `lost`, `draining`, `busy` or `idle`. Pure."""
    if info.gone_at is not None:
        return "gone"
    if (now - info.seen_at).total_seconds() > lost_s:
        return "lost"
    if info.draining:
        return "draining"
    return "busy" if held else "idle"
