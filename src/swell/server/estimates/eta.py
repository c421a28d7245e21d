"""When a task starts and ends, estimated from the last tasks of its model. Pure.

A task starts when the work ahead of it leaves room on the `n` workers of its model, which run
`at_once` tasks together. With `ahead` tasks before it, running ones included, of mean cost c:

    wait = max(0, ahead + 1 - at_once) · c / n

If more workers are starting, the wait ends when all workers together have had the time for that
work. Costs and durations are proportional to the samples (pictures) of a task. After a rollout,
tasks of each version are measured apart: a canary says nothing about the live version, and a
promoted version is known at once.

**Pace.** The cost c is the time that a task takes from a busy worker, which may run several tasks
at once. If `n` tasks ended in `B` busy seconds and ran for `R` seconds in total, Little's law
(L = λW, with λ = n / B and W = R / n) gives

    task_s = B / n                 worker time per task
    at_once = R / B = run_s / task_s

This is the worker's capacity only if it had enough tasks. With fewer, a window of tasks is a lower
bound, so it counts only if it is better than the known pace. A worker with several slots overlaps
the transfers of a task with other tasks, so `B` is at most `R`. Failed tasks are not counted; their
time is part of the tasks that succeed.

**Calibration.** Waits cannot be modelled exactly: workers start, leave and slow down, and tasks
that wait together are late together. So no distribution of errors is assumed. Each estimate is
multiplied by a quantile of the last ratios of actual to estimated time. A level chooses the
quantile. Each task that ends later than estimated raises the level, each other task lowers it, so
over time the promised share of tasks ends in time:

    level ← level + step · (share - (1 if it ended in time else 0))

A level above 1 means more than the largest ratio, below 0 less than the smallest. Each model has
separate corrections for tasks that start at once, that wait, and that wait for the first worker.

Source:
    J. D. C. Little, "A Proof for the Queuing Formula: L = λW", Operations Research, 1961.
    I. Gibbs, E. Candès, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021,
    equation 2 and proposition 4.1: over T tasks the share misses its aim by at most
    (1 + step) / (step · T), for the levels that are not cut off.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from swell.core.clock import Clock

#: Tasks remembered per model, and ratios of its estimates per situation.
WINDOW: Final = 128

#: Models and versions that are remembered. Beyond these, the least recently used is dropped.
MOST_HISTORIES: Final = 1000

#: Versions with fewer tasks have the statistics of their model; estimates of a model are corrected
#: after as many tasks.
_ENOUGH: Final = 8

#: Weight of the last task in the average size.
_NEW_SIZE: Final = 1 / 16

#: Bounds of a wait that is not calibrated yet, as parts of the median.
_SOONEST: Final = 0.5
_LATEST: Final = 2.0

#: Tasks per measurement of a pace. It weighs as much as everything known before it.
_PACE_WINDOW: Final = 16

#: A worker has enough tasks if it holds this part of the number it can run at once.
_BUSY: Final = 0.9

#: The least time per task, in seconds.
_LEAST_S: Final = 1e-6

#: How far one task moves a level of the calibration, and the range of levels.
STEP: Final = 0.01
_LEAST, _MOST = -1.0, 2.0

#: The shares of tasks that end by `low`, `median` and `high`.
_SHARES: Final = (0.1, 0.5, 0.9)

#: Open estimates per model. Of a crowd, these represent all.
MOST_OPEN: Final = 256


class EtaSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`."""

    low: float
    median: float
    high: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """When a task will start and when it will end."""

    start: EtaSeconds
    finish: EtaSeconds


class Situation(StrEnum):
    """What a new task has to wait for."""

    #: Nothing: a worker has room.
    IDLE = "idle"
    #: Other tasks.
    QUEUE = "queue"
    #: The first worker.
    COLD = "cold"


class Forecast(msgspec.Struct, frozen=True):
    """An estimate before calibration."""

    situation: Situation
    start_s: float
    finish: EtaSeconds


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one model's tasks for a busy worker."""

    #: Worker seconds per task.
    task_s: float
    #: Seconds that each task ran, together with others.
    run_s: float
    #: Samples of these tasks on average.
    count: float = 1.0

    @property
    def at_once(self) -> float:
        """How many tasks the worker runs at once; at least 1."""
        return max(1.0, self.run_s / self.task_s)

    @property
    def sample_s(self) -> float:
        """Worker seconds per sample."""
        return self.task_s / self.count


class Window(msgspec.Struct):
    """Measurements of a worker while some tasks of one model ended."""

    n: int = 0
    count: int = 0
    run_s: float = 0.0
    #: Seconds during which the worker held tasks.
    busy_s: float = 0.0
    #: These seconds times the number of tasks held.
    held_s: float = 0.0


class Meter:
    """Measures one worker."""

    def __init__(self) -> None:
        #: Tasks that it holds.
        self.held = 0
        #: Model → its pace here.
        self.paces: dict[str, Pace] = {}
        self._windows: dict[str, Window] = {}
        self._since_s = 0.0
        # Since the last task ended.
        self._busy_s = 0.0
        self._held_s = 0.0

    def take(self, n: int, now_s: float) -> None:
        """Record that the worker leased tasks."""
        self._advance(now_s)
        self.held += n

    def end(self, model: str, run_s: float, count: int, now_s: float) -> Window | None:
        """Record that a task has succeeded; return the previous window if it is full.

        It is ignored if the worker holds no task here: another backend leased it, and the busy time
        is unknown.
        """
        if not self.held:
            return None
        self._advance(now_s)
        window, full = self._windows.setdefault(model, Window()), None
        # Tasks that end together belong to one window.
        if window.n >= _PACE_WINDOW and self._busy_s > 0.5 * window.busy_s / window.n:
            full, window = window, Window()
            self._windows[model] = window
        window.n += 1
        window.count += count
        window.run_s += run_s
        window.busy_s += self._busy_s
        window.held_s += self._held_s
        self._busy_s = self._held_s = 0.0
        return full

    def release(self, now_s: float) -> dict[str, Window]:
        """Record that the worker no longer holds a task; return all windows if it is idle now."""
        self._advance(now_s)
        self.held = max(0, self.held - 1)
        if self.held:
            return {}
        self._busy_s = self._held_s = 0.0
        windows, self._windows = self._windows, {}
        return windows

    def _advance(self, now_s: float) -> None:
        if self.held:
            self._busy_s += now_s - self._since_s
            self._held_s += (now_s - self._since_s) * self.held
        self._since_s = now_s


def learn(known: Pace | None, seen: Window, slots: int) -> Pace | None:
    """Return the pace after a window at a worker with some slots."""
    if seen.n == 0 or seen.busy_s <= 0:
        return known
    busy_s = min(seen.busy_s, seen.run_s or seen.busy_s) if slots > 1 else seen.busy_s
    pace = Pace(
        task_s=max(_LEAST_S, busy_s / seen.n), run_s=seen.run_s / seen.n, count=seen.count / seen.n
    )
    if known is None:
        return pace
    is_better = pace.task_s * known.count < known.task_s * pace.count
    if not is_better and seen.held_s / seen.busy_s < _BUSY * max(1.0, known.run_s / known.task_s):
        return known
    part = seen.n / (seen.n + _PACE_WINDOW)
    return Pace(
        task_s=known.task_s + part * (pace.task_s - known.task_s),
        run_s=known.run_s + part * (pace.run_s - known.run_s),
        count=known.count + part * (pace.count - known.count),
    )


def first_pace(run_s: float, count: float) -> Pace:
    """Return the pace of a worker that was not measured yet: one task at a time."""
    run_s = max(_LEAST_S, run_s)
    return Pace(task_s=run_s, run_s=run_s, count=count)


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """How long tasks of one model run, in seconds."""

    n: int
    mean_s: float
    p10_s: float
    median_s: float
    p90_s: float
    #: Samples of a task on average.
    mean_count: float
    #: Actual over proportional time: the 10th, 50th and 90th percentile.
    ratios: tuple[float, float, float]

    def service_s(self, count: float = 1) -> float:
        """Return how long a task of `count` samples runs on average."""
        return count * self.mean_s / self.mean_count


class _History(msgspec.Struct):
    """The last tasks of a model or version."""

    #: (seconds, samples, device) of each task, oldest first.
    times: list[tuple[float, int, str]] = []
    #: Average size, as of `swell.server.estimates.task_estimates`.
    size: float | None = None
    pace: Pace | None = None
    #: Statistics of `times`; None until they are needed.
    stats: ServiceStats | None = None


class ServiceTimes:
    """How long the last tasks of each model took, and the pace of its workers.

    Args:
        window: Tasks remembered per model.
        live_versions: Staged model → its live version; may change.
    """

    def __init__(
        self, window: int = WINDOW, live_versions: Mapping[str, str] | None = None
    ) -> None:
        self._window = window
        self._live_versions: Mapping[str, str] = {} if live_versions is None else live_versions
        #: `owner/name`, or `owner/name:version` of a staged model → its tasks. Of a staged model,
        #: `owner/name` has the tasks of all live versions.
        self._histories: dict[str, _History] = {}
        #: Whether `dump` would return something new.
        self.has_changed = False

    def observe(
        self, model: str, service_s: float, count: int = 1, device: str = "", version: str = ""
    ) -> None:
        """Record that a task ran for `service_s` seconds."""
        for history in self._changing(model, version):
            history.times.append((max(0.0, service_s), count, device))
            del history.times[: -self._window]
            history.stats = None

    def observe_pace(self, model: str, window: Window, slots: int, version: str = "") -> None:
        """Record a measurement of a worker with some slots."""
        for history in self._changing(model, version):
            history.pace = learn(history.pace, window, slots)

    def observe_size(self, model: str, size: float) -> None:
        """Record the relative size of a task that has succeeded."""
        [history] = self._changing(model)
        before = size if history.size is None else history.size
        history.size = before + (size - before) * _NEW_SIZE

    def usual_size(self, model: str) -> float:
        """Return the average relative size of a model's tasks."""
        return self._histories.get(model, _History()).size or 1.0

    def stats(self, model: str, version: str | None = None) -> ServiceStats | None:
        """Return the statistics of a model or version; None before its first task has ended.

        A version with few tasks has the statistics of its model.
        """
        return self._stats_of(self._name(model, version))

    def pace(self, model: str, version: str | None = None) -> Pace | None:
        """Return the pace that was measured last; None before the first."""
        own, common = (
            self._histories.get(name, _History()) for name in (self._name(model, version), model)
        )
        return own.pace or common.pace

    def usual_pace(self, model: str, version: str | None, stats: ServiceStats) -> Pace:
        """Return the pace that was measured last; one task at a time before the first."""
        return self.pace(model, version) or first_pace(stats.mean_s, stats.mean_count)

    def by_device(self, model: str, version: str | None = None) -> list[tuple[str, int, float]]:
        """Return device, number and median seconds of a model's last tasks, by device."""
        history = self._histories.get(self._name(model, version), _History())
        devices: dict[str, list[float]] = {}
        for service_s, _, device in history.times:
            if device:
                devices.setdefault(device, []).append(service_s)
        return [
            (device, len(times), sorted(times)[(len(times) - 1) // 2])
            for device, times in sorted(devices.items())
        ]

    def mean_counts(self) -> dict[str, float]:
        """Return the mean number of samples per task of each model and version."""
        found = {name: self._stats_of(name) for name in self._histories}
        return {name: stats.mean_count for name, stats in found.items() if stats is not None}

    def dump(self) -> bytes:
        """Return all that is remembered, to be saved."""
        self.has_changed = False
        return msgspec.json.encode(self._histories)

    def load(self, saved: bytes) -> None:
        """Add the times from before the last restart; ignore notes that cannot be read."""
        try:
            found = msgspec.json.decode(saved, type=dict[str, _History])
        except msgspec.MsgspecError:
            return
        for name, old in found.items():
            [history] = self._changing(name)
            history.times[:0] = old.times
            del history.times[: -self._window]
            history.size = old.size if history.size is None else history.size
            history.pace = old.pace if history.pace is None else history.pace
            history.stats = None

    def _changing(self, model: str, version: str = "") -> list[_History]:
        """Return where the tasks of a model or version are remembered, to change that."""
        names, live = [model], self._live_versions.get(model)
        if live is not None and version:
            own = f"{model}:{version}"
            names = [model, own] if version == live else [own]
        found = []
        for name in names:
            history = self._histories.pop(name, None) or _History()
            # The last entry is the one that was used last.
            self._histories[name] = history
            if len(self._histories) > MOST_HISTORIES:
                del self._histories[next(iter(self._histories))]
            found.append(history)
        self.has_changed = True
        return found

    def _name(self, model: str, version: str | None) -> str:
        """Return the name under which to look up a version; None is the live one."""
        live = self._live_versions.get(model)
        own = f"{model}:{version or live}"
        is_known = own in self._histories and len(self._histories[own].times) >= _ENOUGH
        return own if live is not None and is_known else model

    def _stats_of(self, name: str) -> ServiceStats | None:
        history = self._histories.get(name)
        if history is None or not history.times:
            return None
        if history.stats is None:
            history.stats = summarize([(took_s, count) for took_s, count, _ in history.times])
        return history.stats


def summarize(times: Sequence[tuple[float, int]]) -> ServiceStats:
    """Return the statistics of at least one task, each as (seconds, samples)."""
    n = len(times)
    total_s, total = math.fsum(took_s for took_s, _ in times), sum(count for _, count in times)
    seconds = sorted(took_s for took_s, _ in times)
    ratios = sorted(
        took_s * total / (total_s * count) if total_s else 1.0 for took_s, count in times
    )
    low, half, high = int(0.1 * (n - 1)), (n - 1) // 2, math.ceil(0.9 * (n - 1))
    return ServiceStats(
        n=n,
        mean_s=total_s / n,
        p10_s=seconds[low],
        median_s=seconds[half],
        p90_s=seconds[high],
        mean_count=total / n,
        ratios=(ratios[low], ratios[half], ratios[high]),
    )


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of a model."""

    live: int = 1
    #: How many tasks the live ones run at once, together; >= 1.
    at_once: float = 1.0
    #: (seconds, workers) of those that are starting, the first first.
    coming: Sequence[tuple[float, int]] = ()
    #: 95th percentile of when the first one is ready, if none is live.
    first_by_s: float = 0.0


def forecast(
    stats: ServiceStats, ahead: float, work_s: float, workers: Workers, count: float = 1
) -> Forecast:
    """Return when a task starts and ends, before calibration.

    Args:
        stats: Of its model.
        ahead: Tasks of any model that come first on the same workers, running ones included.
        work_s: The worker time that these cost.
        workers: Of its model.
        count: Its samples.
    """
    turns = max(0.0, ahead + 1 - workers.at_once)
    start_s = _done_in_s(turns * work_s / ahead if ahead > 0 else 0.0, workers)
    own_s = stats.service_s(count)
    low_s, half_s, high_s = (own_s * ratio for ratio in stats.ratios)
    situation = Situation.IDLE
    if start_s > 0 or not workers.live:
        situation = Situation.QUEUE if workers.live else Situation.COLD
        low_s += _SOONEST * start_s
        half_s += start_s
        high_s = max(high_s + workers.first_by_s, _LATEST * half_s)
    return Forecast(situation, start_s, EtaSeconds(low=low_s, median=half_s, high=high_s))


def _done_in_s(work_s: float, workers: Workers) -> float:
    """Return when the workers, and those that join, have spent `work_s` seconds together."""
    at_s, live = 0.0, workers.live
    coming = workers.coming if workers.coming or live else [(0.0, 1)]
    for ready_s, n in coming:
        if live and work_s <= live * (ready_s - at_s):
            break
        work_s -= live * max(0.0, ready_s - at_s)
        at_s, live = max(at_s, ready_s), live + n
    return at_s + work_s / live


class IssuedEstimate(msgspec.Struct, frozen=True):
    """An estimate that a client has seen.

    Args:
        model: The model of the task.
        forecast: The estimate before calibration.
        estimate: The estimate after it.
        at_s: The monotonic time of the estimate, in seconds.
    """

    model: str
    forecast: Forecast
    estimate: Estimate
    at_s: float = 0.0


class _Tracker:
    """How the estimates of one model turned out in one situation."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=WINDOW)
        self._levels = list(_SHARES)

    def corrected(self, finish: EtaSeconds) -> list[float]:
        """Return low, median and high, corrected if enough tasks have ended."""
        if len(self._ratios) < _ENOUGH or finish.median <= 0:
            return [finish.low, finish.median, finish.high]
        ratios = sorted(self._ratios)
        return [finish.median * _quantile(ratios, level) for level in self._levels]

    def learn(self, issued: IssuedEstimate, took_s: float) -> None:
        """Record a task that took some seconds."""
        self._ratios.append(took_s / issued.forecast.finish.median)
        ends_s = msgspec.structs.astuple(issued.estimate.finish)
        for number, (share, end_s) in enumerate(zip(_SHARES, ends_s, strict=True)):
            level = self._levels[number] + STEP * (share - (took_s <= end_s))
            self._levels[number] = min(_MOST, max(_LEAST, level))


class Calibration:
    """Corrects the estimates of one backend process."""

    def __init__(self) -> None:
        self._trackers: dict[tuple[str, Situation], _Tracker] = {}
        #: Task ID → its estimate, oldest first.
        self.open: dict[str, IssuedEstimate] = {}
        #: Model → the number of its open estimates.
        self._n_open: Counter[str] = Counter()

    def corrected(self, model: str, forecast: Forecast) -> Estimate:
        """Return an estimate, corrected if enough tasks of the model have ended."""
        tracker = self._trackers.get((model, forecast.situation)) or _Tracker()
        times_s = tracker.corrected(forecast.finish)
        # The duration is known better than the wait.
        own_s = min(times_s[1], forecast.finish.median - forecast.start_s)
        return Estimate(
            start=_ordered(*(each - own_s for each in times_s)), finish=_ordered(*times_s)
        )

    def issued(self, task_id: str, issued: IssuedEstimate) -> None:
        """Remember the estimate of a task until it ends.

        A model with too many open estimates keeps the oldest: these tasks end next.
        """
        self._close(task_id)
        if issued.forecast.finish.median > 0 and self._n_open[issued.model] < MOST_OPEN:
            self.open[task_id] = issued
            self._n_open[issued.model] += 1

    def ended(self, task_id: str, clock: Clock, *, has_succeeded: bool = True) -> None:
        """Learn from a task that has ended now; others than succeeded ones are ignored."""
        issued = self._close(task_id)
        if issued is not None and has_succeeded:
            self.learn(issued, clock.monotonic_s() - issued.at_s)

    def learn(self, issued: IssuedEstimate, took_s: float) -> None:
        """Learn from a task that ended `took_s` seconds after its estimate."""
        key = issued.model, issued.forecast.situation
        self._trackers.setdefault(key, _Tracker()).learn(issued, took_s)

    def _close(self, task_id: str) -> IssuedEstimate | None:
        issued = self.open.pop(task_id, None)
        if issued is not None:
            self._n_open[issued.model] -= 1
        return issued


def _quantile(ratios: list[float], level: float) -> float:
    """Return the interpolated quantile of sorted ratios, continued beyond 0 and 1."""
    within = min(max(level, 0.0), 1.0)
    place = within * (len(ratios) - 1)
    below = int(place)
    above = min(below + 1, len(ratios) - 1)
    ratio = ratios[below] + (place - below) * (ratios[above] - ratios[below])
    return ratio * math.exp(level - within)


def _ordered(low: float, median: float, high: float) -> EtaSeconds:
    median = max(0.0, median)
    return EtaSeconds(
        low=round(max(0.0, min(low, median)), 3),
        median=round(median, 3),
        high=round(max(high, median), 3),
    )
