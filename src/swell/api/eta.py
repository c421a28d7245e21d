"""When a task starts and ends, estimated from the last tasks of its model. Pure.

A task starts when the work ahead of it leaves room on the `n` workers of its model, which run
`at_once` tasks together. With `ahead` tasks before it, running ones included, of mean cost c:

    wait = max(0, ahead + 1 - at_once) · c / n

The cost c is the time that a task takes from a busy worker (`swell.api.pace`). It is less than the
duration of the task if the worker runs several at once. If more workers are starting, the wait ends
when all workers together have had the time for that work. Costs and durations are proportional to
the samples (pictures) of a task. `swell.api.calibration` corrects the estimates by how past ones
turned out.

After a rollout, tasks of each version are measured apart: a canary says nothing about the live
version, and a promoted version is known at once.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from swell.api.pace import Pace, Window, first_pace, learn

#: Tasks remembered per model.
WINDOW: Final = 128

#: Models and versions that are remembered. Beyond these, the least recently used is dropped.
MOST_HISTORIES: Final = 1000

#: Versions with fewer tasks have the statistics of their model.
_OWN: Final = 8

#: Weight of the last task in the average size.
_NEW_SIZE: Final = 1 / 16

#: Statistics are computed again when more than this part of the tasks is new.
_STALE: Final = 1 / 16

#: Bounds of a wait that is not calibrated yet, as parts of the median.
_SOONEST: Final = 0.5
_LATEST: Final = 2.0


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
    #: Average size, as of `swell.api.estimates`.
    size: float | None = None
    pace: Pace | None = None
    #: The last statistics, and the number of tasks since.
    stats: ServiceStats | None = None
    n_new: int = 0


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
        for name in self._names(model, version):
            history = self._history(name)
            history.times.append((max(0.0, service_s), count, device))
            history.n_new += 1
            del history.times[: -self._window]

    def observe_pace(self, model: str, window: Window, slots: int, version: str = "") -> None:
        """Record a measurement of a worker with some slots."""
        for name in self._names(model, version):
            history = self._history(name)
            history.pace = learn(history.pace, window, slots)

    def observe_size(self, model: str, size: float) -> None:
        """Record the relative size of a task that has succeeded."""
        history = self._history(model)
        before = size if history.size is None else history.size
        history.size = before + (size - before) * _NEW_SIZE

    def usual_size(self, model: str) -> float:
        """Return the average relative size of a model's tasks."""
        history = self._histories.get(model)
        return 1.0 if history is None or history.size is None else history.size

    def stats(self, model: str, version: str | None = None) -> ServiceStats | None:
        """Return the statistics of a model or version; None before its first task has ended.

        A version with few tasks has the statistics of its model.
        """
        return self._stats_of(self._name(model, version))

    def pace(self, model: str, version: str | None = None) -> Pace | None:
        """Return the pace that was measured last; None before the first."""
        for name in (self._name(model, version), model):
            history = self._histories.get(name)
            if history is not None and history.pace is not None:
                return history.pace
        return None

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
            history = self._history(name)
            history.times[:0] = old.times
            del history.times[: -self._window]
            history.size = old.size if history.size is None else history.size
            history.pace = old.pace if history.pace is None else history.pace
            history.stats = None

    def _names(self, model: str, version: str) -> tuple[str, ...]:
        """Return the names under which a version's tasks are remembered."""
        live = self._live_versions.get(model)
        if live is None or not version:
            return (model,)
        own = f"{model}:{version}"
        return (model, own) if version == live else (own,)

    def _name(self, model: str, version: str | None) -> str:
        """Return the name under which to look up a version; None is the live one."""
        live = self._live_versions.get(model)
        own = f"{model}:{version or live}"
        is_known = own in self._histories and len(self._histories[own].times) >= _OWN
        return own if live is not None and is_known else model

    def _history(self, name: str) -> _History:
        history = self._histories.pop(name, None) or _History()
        # The last entry is the one that was used last.
        self._histories[name] = history
        if len(self._histories) > MOST_HISTORIES:
            del self._histories[next(iter(self._histories))]
        self.has_changed = True
        return history

    def _stats_of(self, name: str) -> ServiceStats | None:
        history = self._histories.get(name)
        if history is None or not history.times:
            return None
        if history.stats is None or history.n_new > _STALE * len(history.times):
            history.stats = summarize([(took_s, count) for took_s, count, _ in history.times])
            history.n_new = 0
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
