"""Which workers live, what they hold, and what they still have to be told.

Kept in memory and rebuilt from the registry, so that a restarted backend goes on with the workers
that were there. Nothing here is the truth about a task: that is the store's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from swell.api.eta import ServiceTimes
from swell.api.pace import Meter, Pace, Window, learn
from swell.clock import Clock
from swell.db.registry import Registry
from swell.dispatch import Switches
from swell.events import Brief, Lives
from swell.registry import WorkerInfo
from swell.store import Hold
from swell.task import Task

#: Whether there is a worker after all is looked up so often at most, in seconds.
_LOOK_AGAIN_S: Final = 0.25

#: Of so many tasks it is remembered which attempts are over.
_MOST_OVER: Final = 8192

#: What `Switches` counts.
KINDS = ("disk", "host", "loras")


def never_dead(worker: WorkerInfo) -> bool:
    """Return False: whether a worker has ended is not known."""
    return False


class Worker:
    """A worker as this process knows it."""

    __slots__ = (
        *(
            "cancels",
            "files_due",
            "has_called",
            "info",
            "is_drain_told",
            "meter",
            "polls",
            "residents",
            "seen_s",
        ),
        *("switches", "was_heard"),
    )

    def __init__(self, info: WorkerInfo, seen_s: float) -> None:
        self.info = info
        #: When it was heard of, in monotonic seconds.
        self.seen_s = seen_s
        #: Whether it ever called this process, and whether since the registry was last told.
        self.has_called = False
        self.was_heard = False
        #: Ids of held tasks that it has to stop.
        self.cancels: list[str] = []
        #: Whether it is to tell once more which files of what it holds are there.
        self.files_due = False
        #: How many tasks it holds, and how fast it gets through them.
        self.meter = Meter(info.slots)
        self.is_drain_told = False
        #: Models on its device, the most useful first; None where all always are, or it is unknown.
        self.residents: list[str] | None = None
        #: Model → how often it was brought to its device; None where it has not told yet.
        self.switches: dict[str, Switches] | None = None
        #: Its lease calls that wait now.
        self.polls: set[asyncio.Future[None]] = set()

    @property
    def held(self) -> int:
        """How many tasks it holds."""
        return self.meter.held

    def hear(self, now_s: float) -> None:
        """Note that it called."""
        self.seen_s = now_s
        self.was_heard = self.has_called = True

    def count_switches(self, told: Sequence[Switches]) -> list[Switches]:
        """Note how often it has changed models by now; return what is new since it last told.

        Of a worker that an earlier backend knew, the first word only says from where to count.
        """
        before, self.switches = self.switches, {each.model: each for each in told}
        if before is None:
            return []
        fresh = []
        for each in told:
            known = before.get(each.model, Switches(model=each.model))
            if each != known:
                new = {kind: max(0, getattr(each, kind) - getattr(known, kind)) for kind in KINDS}
                fresh.append(Switches(model=each.model, **new))
        return fresh

    def take_cancels(self) -> list[str]:
        """Return what it has to stop, once."""
        cancels, self.cancels = self.cancels, []
        return cancels

    def take_files_due(self) -> bool:
        """Return whether it is to tell its files again, once."""
        due, self.files_due = self.files_due, False
        return due

    def wake(self) -> None:
        """End the waits of its lease calls, since there is something to tell."""
        for poll in self.polls:
            if not poll.done():
                poll.set_result(None)
        self.polls.clear()

    def leave(self) -> None:
        """Grant it nothing more: it goes."""
        self.info = msgspec.structs.replace(self.info, draining=True)
        self.wake()


class Rival(NamedTuple):
    """Another model of the workers that run one."""

    #: What part of the slots where it may run is on these workers.
    part: float
    #: Those that they have of it.
    versions: frozenset[str]


class Fleet:
    """All workers of this backend, and which of them holds which task."""

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
        self._registry = registry
        self._clock = clock
        self._times = times
        self._alive_s = alive_s
        self._lost_s = lost_s
        #: Whether a worker is known to have ended without a word.
        self._is_dead = is_dead
        #: What was told to any backend before this, this one has not heard.
        self._since_at = clock.now()
        self._workers: dict[str, Worker] = {}
        self._by_model: dict[str, list[Worker]] = {}
        self._refreshed_s = float("-inf")
        #: Task id → (attempt, token, worker id, model or nothing where it is not known).
        self._holds: dict[str, tuple[int, str, str, str]] = {}
        #: Task id → the last attempt that is over, of the last of them.
        self._over: OrderedDict[str, int] = OrderedDict()

    # who lives

    def get(self, worker_id: str) -> Worker | None:
        """Return a worker that has not gone."""
        return self._workers.get(worker_id)

    async def find(self, worker_id: str) -> Worker | None:
        """Return a worker that has not gone, also one that another backend registered."""
        worker = self._workers.get(worker_id)
        if worker is None:
            await self.refresh()
            worker = self._workers.get(worker_id)
        return worker

    async def add(self, info: WorkerInfo) -> Worker:
        """Register a worker."""
        await self._registry.put_worker(info)
        worker = self._workers[info.id] = Worker(info, self._clock.monotonic_s())
        worker.has_called = True
        worker.switches = {}
        self._index()
        return worker

    async def part(self, worker_id: str) -> None:
        """Forget a worker that says goodbye.

        What it holds stays leased until it ends or runs out.
        """
        now = self._clock.now()
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            parting = msgspec.structs.replace(worker.info, said_goodbye=True, seen_at=now)
            await self._registry.put_worker(parting)
            worker.wake()
        await self._registry.remove_worker(worker_id, now)
        self._index()

    async def drain(self, worker_id: str) -> WorkerInfo | None:
        """Tell a worker to finish and go; None if it is not known."""
        info = await self._registry.drain_worker(worker_id)
        worker = self._workers.get(worker_id)
        if info is not None and worker is not None:
            worker.info = info
            worker.wake()
        return info

    def ask_for_files(self) -> None:
        """Have workers tell once more which files of what they hold are there."""
        for worker in self._workers.values():
            worker.files_due = True

    def wake_all(self) -> None:
        """End all waits of lease calls, since the service ends or hands out nothing for a while."""
        for worker in self._workers.values():
            worker.wake()

    async def refresh(self) -> None:
        """Tell the registry who was heard of, and learn what other backends know."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        self._refreshed_s = now_s
        heard = [each for each in self._workers.values() if each.was_heard or each.polls]
        for worker in heard:
            worker.was_heard = False
            if worker.polls:
                worker.seen_s = now_s
        if heard:
            silent_s = now_s - max(each.seen_s for each in heard)
            seen_at = now - timedelta(seconds=silent_s)
            await self._registry.touch_workers([each.info.id for each in heard], seen_at)
        listed = await self._registry.workers()
        for info in listed:
            if info.gone_at is None and self._has_died(info):
                await self._registry.remove_worker(info.id, now)
                self._learn(msgspec.structs.replace(info, gone_at=now), now, now_s)
            else:
                self._learn(info, now, now_s)
        self._forget_silent(now_s)
        self._index()

    async def look_again(self) -> None:
        """Learn what other backends know, if the last look was not a moment ago."""
        if self._clock.monotonic_s() - self._refreshed_s >= _LOOK_AGAIN_S:
            await self.refresh()

    def live(
        self, model: str, version: str | None = None, *, within_s: float | None = None
    ) -> list[Worker]:
        """Return the workers that can be counted on to run a model; arguments as `is_served`."""
        now_s = self._clock.monotonic_s()
        within_s = self._alive_s if within_s is None else within_s
        return [
            worker
            for worker in self._by_model.get(model, ())
            if (worker.polls or now_s - worker.seen_s <= within_s)
            and not worker.info.draining
            and (version is None or worker.info.models[model] == version)
        ]

    def is_served(
        self, model: str, version: str | None = None, *, within_s: float | None = None
    ) -> bool:
        """Whether a live worker can run a model.

        Args:
            model: Which one.
            version: Of it; any, if it is None.
            within_s: It was heard of so recently; as always, if it is None.
        """
        now_s = self._clock.monotonic_s()
        within_s = self._alive_s if within_s is None else within_s
        for worker in self._by_model.get(model, ()):
            if worker.polls or now_s - worker.seen_s <= within_s:
                info = worker.info
                if not info.draining and (version is None or info.models[model] == version):
                    return True
        return False

    def pace(self, model: str, version: str | None, default: Pace) -> tuple[int, int, float, Pace]:
        """Return how fast live workers get through a model's tasks.

        Args:
            model: Which one.
            version: Of it; any, if it is None.
            default: The pace of workers where nothing was measured.

        Returns:
            How many workers there are, how many tasks they hold, how many they run at once
            together, and what a task costs each on average.
        """
        live = self.live(model, version)
        if not live:
            return 0, 0, 1.0, default
        held, at_once, per_s = 0, 0.0, 0.0
        for worker in live:
            pace = worker.meter.paces.get(model, default)
            held += worker.meter.held
            at_once += min(worker.info.slots, pace.at_once)
            per_s += 1 / pace.task_s if pace.task_s > 0 else 1e6
        mean = msgspec.structs.replace(default, task_s=len(live) / per_s)
        if len(live) == 1:
            mean = pace
        return len(live), held, max(1.0, at_once), mean

    def rates(self) -> dict[str, dict[str, float]]:
        """Return pool → model → samples per second of one live worker, where that was measured."""
        seen: dict[str, dict[str, list[float]]] = {}
        for worker in self._workers.values():
            for model, pace in worker.meter.paces.items():
                if pace.task_s > 0:
                    rates = seen.setdefault(worker.info.pool, {}).setdefault(model, [])
                    rates.append(pace.count / pace.task_s)
        return {
            pool: {model: sum(each) / len(each) for model, each in models.items()}
            for pool, models in seen.items()
        }

    def held(self) -> dict[str, int]:
        """Return worker → how many tasks it holds, of those that hold any."""
        found = {worker.info.id: worker.held for worker in self._workers.values()}
        return {each: n for each, n in found.items() if n}

    def rivals(
        self, model: str, version: str | None = None, *, staged: Container[str] = ()
    ) -> dict[str, Rival]:
        """Return the other models of the workers that run a model.

        Args:
            model: Which one.
            version: Of it; any, if it is None.
            staged: Models of which what waits goes by version.
        """
        slots: dict[str, int] = {}
        versions: dict[str, set[str]] = {}
        for worker in self.live(model, version):
            for other, its in worker.info.models.items():
                if other != model:
                    slots[other] = slots.get(other, 0) + worker.info.slots
                    versions.setdefault(other, set()).add(its)
        return {
            other: Rival(
                n / max(n, self._slots_of(other, versions[other] if other in staged else None)),
                frozenset(versions[other]),
            )
            for other, n in slots.items()
        }

    def _slots_of(self, model: str, versions: Container[str] | None) -> int:
        return sum(
            worker.info.slots
            for worker in self.live(model)
            if versions is None or worker.info.models[model] in versions
        )

    def running(self, model: str, version: str | None = None) -> dict[str, int]:
        """Return what the workers that run a model hold now: model → how many tasks.

        The model of a task that was leased before a restart is "".
        """
        ids = {worker.info.id for worker in self.live(model, version)}
        found: dict[str, int] = {}
        for _, _, worker_id, held in self._holds.values():
            if worker_id in ids:
                found[held] = found.get(held, 0) + 1
        return found

    async def all(self) -> list[tuple[WorkerInfo, str, int]]:
        """Return (worker, state, tasks held) of every worker, those of the last day included."""
        await self.refresh()
        now = self._clock.now()
        found = []
        for info in await self._registry.workers():
            worker = self._workers.get(info.id)
            held = 0 if worker is None else worker.held
            found.append((info, worker_state(info, held, now, self._lost_s), held))
        return found

    # who holds what

    def hold(self, worker: Worker, tasks: Iterable[Task]) -> None:
        """Note that a worker took tasks."""
        holds, worker_id, n = self._holds, worker.info.id, 0
        for task in tasks:
            holds[task.id] = (task.attempt, task.lease_token or "", worker_id, task.stage_model)
            n += 1
        worker.meter.take(n, self._clock.monotonic_s())

    def end(self, brief: Brief) -> None:
        """Learn from a task that has succeeded, and was not let go of yet if it was held."""
        worker = self._workers.get(brief.worker_id or "")
        if worker is not None:
            now_s = self._clock.monotonic_s()
            window = worker.meter.end(brief.model, brief.run_s, brief.count, now_s)
            if window is not None:
                self._learn_pace(worker, brief.model, window)

    def note_hold(self, task_id: str, brief: Brief) -> None:
        """Note that a worker took a task at another backend; its token is not known here.

        It may have ended at a third one, or here, before that was told.
        """
        held = self._holds.get(task_id)
        if brief.worker_id is None or (held is not None and held[0] >= brief.attempt):
            return
        if self.is_over(task_id, brief.attempt):
            return
        self._let_go(task_id, brief.attempt)
        self._holds[task_id] = (brief.attempt, "", brief.worker_id, brief.model)
        worker = self._workers.get(brief.worker_id)
        if worker is not None:
            worker.meter.take(1, self._clock.monotonic_s())

    def note_lives(self, lives: Lives) -> None:
        """Note what a worker has had and ended at another backend since that was told last.

        They say how fast it is only beside what it held meanwhile. Of one that has told its
        progress here it is known here that it was held.
        """
        worker = self._workers.get(lives.worker_id or "")
        if worker is not None and worker.meter.held:
            now_s = self._clock.monotonic_s()
            for run_s in lives.run_s:
                window = worker.meter.end(lives.model, run_s, lives.count, now_s)
                if window is not None:
                    self._learn_pace(worker, lives.model, window)
        for task_id in lives.ids:
            held = self._holds.get(task_id)
            if held is not None:
                self._let_go(task_id, held[0])

    def held_tasks(self) -> list[str]:
        """Return the tasks of which a lease was heard of."""
        return list(self._holds)

    def held_by(self, worker_id: str) -> list[str]:
        """Return the tasks of which a lease of this worker was heard of."""
        return [task_id for task_id, hold in self._holds.items() if hold[2] == worker_id]

    def is_held(self, task_id: str, attempt: int, token: str) -> bool:
        """Whether (attempt, token) is the lease that was last heard of for a task."""
        held = self._holds.get(task_id)
        return held is not None and held[0] == attempt and held[1] == token

    def held_attempt(self, task_id: str) -> int | None:
        """Return the attempt whose lease was last heard of for a task."""
        held = self._holds.get(task_id)
        return None if held is None else held[0]

    def is_over(self, task_id: str, attempt: int) -> bool:
        """Whether it was heard a moment ago that this attempt, or a later one, is over."""
        return self._over.get(task_id, 0) >= attempt

    def learn_hold(self, worker: Worker, hold: Hold) -> None:
        """Note a lease that the store says is held."""
        if not self.is_held(hold.task_id, hold.attempt, hold.token):
            known = self._holds.get(hold.task_id)
            model = known[3] if known is not None else ""
            self._let_go(hold.task_id, hold.attempt)
            self._holds[hold.task_id] = (hold.attempt, hold.token, worker.info.id, model)
            worker.meter.take(1, self._clock.monotonic_s())

    def release(self, attempts: Iterable[tuple[str, int]]) -> None:
        """Note that these attempts, as (task id, attempt), are over.

        A later attempt of the same task, which another worker may hold by now, is left alone.
        """
        over = self._over
        for task_id, attempt in attempts:
            if over.get(task_id, 0) < attempt:
                over[task_id] = attempt
                if len(over) > _MOST_OVER:
                    over.popitem(last=False)
            self._let_go(task_id, attempt)

    def _let_go(self, task_id: str, attempt: int) -> None:
        held = self._holds.get(task_id)
        if held is not None and held[0] <= attempt:
            del self._holds[task_id]
            worker = self._workers.get(held[2])
            if worker is not None:
                windows = worker.meter.let_go(self._clock.monotonic_s())
                for model, window in windows.items():
                    self._learn_pace(worker, model, window)

    def stop(self, tasks: Sequence[Task], *, only_callers: bool = False) -> None:
        """Have the workers that hold these tasks told to stop them.

        Args:
            tasks: Which ones.
            only_callers: Not those that have never called this process: another one tells them.
        """
        for task in tasks:
            worker = self._workers.get(task.worker_id or "")
            if worker is not None and (worker.has_called or not only_callers):
                worker.cancels.append(task.id)
                worker.wake()

    def _has_died(self, info: WorkerInfo) -> bool:
        """Whether a worker that an earlier backend knew is dead, as after that was killed.

        One that has called this process is left to its silence.
        """
        worker = self._workers.get(info.id)
        return (worker is None or not worker.has_called) and self._is_dead(info)

    def _learn_pace(self, worker: Worker, model: str, window: Window) -> None:
        paces, slots = worker.meter.paces, worker.info.slots
        version = worker.info.models.get(model, "")
        pace = learn(paces.get(model) or self._times.pace(model, version), window, slots)
        if pace is not None:
            paces[model] = pace
        self._times.observe_pace(model, window, slots, version)

    def _learn(self, info: WorkerInfo, now: datetime, now_s: float) -> None:
        worker = self._workers.get(info.id)
        if info.gone_at is not None:
            if worker is not None:
                worker.wake()
                del self._workers[info.id]
            return
        seen_s = now_s - max(0.0, (now - info.seen_at).total_seconds())
        if worker is None:
            if now_s - seen_s <= self._alive_s:
                worker = self._workers[info.id] = Worker(info, seen_s)
                worker.files_due = info.registered_at <= self._since_at
                # Of these another backend has told already.
                held = sum(1 for hold in self._holds.values() if hold[2] == info.id)
                worker.meter.take(held, now_s)
            return
        worker.seen_s = max(worker.seen_s, seen_s)
        if info.draining and not worker.info.draining:
            worker.wake()
        worker.info = msgspec.structs.replace(info, draining=info.draining or worker.info.draining)

    def _forget_silent(self, now_s: float) -> None:
        # Far beyond `alive_s`, so that a worker that comes back soon is still known.
        for worker in list(self._workers.values()):
            if not worker.polls and now_s - worker.seen_s > 10 * self._alive_s:
                del self._workers[worker.info.id]

    def _index(self) -> None:
        by_model: dict[str, list[Worker]] = {}
        for worker in self._workers.values():
            for model in worker.info.models:
                by_model.setdefault(model, []).append(worker)
        self._by_model = by_model


def worker_state(info: WorkerInfo, held: int, now: datetime, lost_s: float) -> str:
    """Return `gone`, `lost`, `draining`, `busy` or `idle`. Pure."""
    if info.gone_at is not None:
        return "gone"
    if (now - info.seen_at).total_seconds() > lost_s:
        return "lost"
    if info.draining:
        return "draining"
    return "busy" if held else "idle"
