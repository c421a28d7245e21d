"""When a task will be done, from what tasks of its model took. Pure.

Two things are known of a model. How long a task takes that runs, its output delivered: told by the
worker, and not counting what the task waited for in there. And what it costs a worker that has
enough to do (`swell.api.pace`): less than it takes, where the worker runs several at once. A task
starts when what comes before it leaves room on its `n` workers, which run `at_once` together. For
`ahead` tasks, the held ones included, of mean cost c and variance v each:

    turns = max(0, ahead + 1 - at_once)
    wait = turns · c / n
    spread = sqrt(turns · v) / n

since with independent costs their sum is about normal. Where more workers are on their way, the
wait is the moment at which all that are there until then will have had the time for the turns.

What nobody can know of queues and fleets is corrected by `swell.api.calibration`.

What a task takes may grow with the samples (pictures) that it asks for, so a line is fitted to each
model's tasks by least squares, kept between "samples cost nothing" and "samples cost everything":

    service(count) = fixed + per_sample · count,  fixed >= 0, per_sample >= 0

What it costs is in proportion: at the pace of tasks of `c` samples, service(count) / service(c)
times as much as these.

Of a model that was staged each version's tasks are remembered apart: what a trial or a canary takes
says nothing of the live version, and a promotion finds known what the promoted version took.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from swell.api.pace import Pace, Window, learn

#: Where a normal variable's lowest and highest tenth begin, in standard deviations.
_Z10: Final = 1.2816

#: Service times remembered per model, and how many of them outlive the process.
WINDOW = 256
_KEPT: Final = 64

#: So many kinds of devices are told apart for each model.
_MOST_DEVICES: Final = 32

#: Versions of a model that are told apart, and from how many times on its own count for one.
_MOST_VERSIONS: Final = 16
_OWN: Final = 8

#: Few workers take less than this part of what half of them take to start.
_EARLY: Final = 0.5

#: How much the last pack says of how large packs are.
_NEW_PACK: Final = 1 / 16

#: Statistics are made anew after so large a part of the times has come since.
_STALE: Final = 1 / 16


class EtaSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`."""

    low: float
    median: float
    high: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """When a task will start and when it will end."""

    start: EtaSeconds
    finish: EtaSeconds


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """How long tasks of one model take once they run, in seconds."""

    n: int
    mean_s: float
    p10_s: float
    median_s: float
    p90_s: float
    #: Samples of a task on average.
    mean_count: float
    #: The line through the times: what a task takes whatever it asks, and for each sample.
    fixed_s: float
    per_sample_s: float
    #: How the times lie about the line: mean square of the distances, and tenths of the ratios.
    variance_s2: float
    ratio_p10: float
    ratio_median: float
    ratio_p90: float

    def service_s(self, count: float = 1) -> float:
        """Return what a task of so many samples takes on average."""
        return self.fixed_s + self.per_sample_s * count


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Work that comes first."""

    tasks: float = 0.0
    #: Seconds of one worker.
    seconds: float = 0.0
    variance_s2: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        """Return both together."""
        return Load(
            tasks=self.tasks + other.tasks,
            seconds=self.seconds + other.seconds,
            variance_s2=self.variance_s2 + other.variance_s2,
        )


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the process of one model."""

    times: list[tuple[float, int]]
    pack: float | None = None
    drawn: float | None = None
    pace: Pace | None = None
    devices: dict[str, list[float]] = {}


class ServiceTimes:
    """The last service times of each model, their statistics, and the pace of its workers.

    Args:
        window: Times remembered per model.
        lives: Model → its live version, of those that were staged. May change.
    """

    def __init__(self, window: int = WINDOW, lives: Mapping[str, str] | None = None) -> None:
        self._window = window
        self._lives: Mapping[str, str] = {} if lives is None else lives
        #: Model → (seconds, samples) of its last tasks; of one that was staged `owner/name` stands
        #: for those of versions that were live, and `owner/name:version` for each version's own.
        self._times: dict[str, deque[tuple[float, int]]] = {}
        #: Model → its statistics, and how many times have come since.
        self._stats: dict[str, tuple[ServiceStats, int]] = {}
        #: Model → the pace of whichever worker was measured last, for workers that are new.
        self._paces: dict[str, Pace] = {}
        #: Model → how many samples a pack of it is on average, of those that have packs.
        self._packs: dict[str, float] = {}
        #: Model → steps times area of a sample on average, of those that say it.
        self._drawn: dict[str, float] = {}
        #: Model → device → seconds of its last tasks there.
        self._devices: dict[str, dict[str, deque[float]]] = {}
        #: Whether something was noted since `dump`.
        self.has_news = False

    def observe(
        self, model: str, service_s: float, count: int = 1, device: str = "", version: str = ""
    ) -> None:
        """Note that a task of this model took `service_s` seconds once it ran, and where."""
        for name in self._names(model, version):
            self._observe(name, service_s, count, device)
        self.has_news = True

    def _observe(self, name: str, service_s: float, count: int, device: str) -> None:
        if device:
            devices = self._devices.setdefault(name, {})
            if device not in devices and len(devices) < _MOST_DEVICES:
                devices[device] = deque(maxlen=_KEPT)
            if device in devices:
                devices[device].append(service_s)
        times = self._times.get(name)
        if times is None:
            self._make_room(name)
            times = self._times[name] = deque(maxlen=self._window)
        times.append((service_s if service_s > 0 else 0.0, count))
        known = self._stats.get(name)
        if known is not None:
            self._stats[name] = (known[0], known[1] + 1)

    def _names(self, model: str, version: str) -> tuple[str, ...]:
        """Return under which names it is noted what tasks of a version took."""
        live = self._lives.get(model)
        if live is None or not version:
            return (model,)
        own = f"{model}:{version}"
        return (model, own) if version == live else (own,)

    def _name(self, model: str, version: str | None) -> str:
        """Return under which name to look for a version, the live one where it is None."""
        live = self._lives.get(model)
        if live is None:
            return model
        own = f"{model}:{version or live}"
        return own if len(self._times.get(own, ())) >= _OWN else model

    def _make_room(self, name: str) -> None:
        """Forget the oldest of a model's versions where there are too many."""
        model, _, version = name.partition(":")
        names = [each for each in self._times if each.startswith(f"{model}:")] if version else []
        for each in names[: max(0, len(names) + 1 - _MOST_VERSIONS)]:
            for kept in (self._times, self._stats, self._paces, self._devices):
                kept.pop(each, None)

    def pace(self, model: str, version: str | None = None) -> Pace | None:
        """Return the pace of a model on any worker; None before one was measured."""
        return self._paces.get(self._name(model, version)) or self._paces.get(model)

    def observe_pace(self, model: str, window: Window, slots: int, version: str = "") -> None:
        """Note what was measured at a worker with so many slots."""
        for name in self._names(model, version):
            pace = learn(self._paces.get(name), window, slots)
            if pace is not None:
                self._paces[name] = pace
                self.has_news = True

    def observe_pack(self, model: str, size: int) -> None:
        """Note how many samples a task's pack was, for each that `count` asks for."""
        before = self._packs.get(model)
        self._packs[model] = size if before is None else before + (size - before) * _NEW_PACK

    def observe_drawn(self, model: str, drawn: float) -> None:
        """Note how much a task has drawn of each sample, as of `swell.degrade.drawn`."""
        before = self._drawn.get(model)
        self._drawn[model] = drawn if before is None else before + (drawn - before) * _NEW_PACK

    def drawn(self, model: str) -> float | None:
        """Return how much tasks of a model draw on average; None before one has ended."""
        return self._drawn.get(model)

    def pack(self, model: str) -> float | None:
        """Return how many samples a pack of a model is on average; None before one has ended."""
        return self._packs.get(model)

    def by_device(self, model: str, version: str | None = None) -> list[tuple[str, int, float]]:
        """Return device, number and median seconds of a model's last tasks, by device."""
        return [
            (device, len(times), sorted(times)[(len(times) - 1) // 2])
            for device, times in sorted(self._devices.get(self._name(model, version), {}).items())
        ]

    def mean_counts(self) -> dict[str, float]:
        """Return how many samples a task of each model asks for, on average."""
        found = {name: self._stats_of(name) for name in self._times}
        return {name: stats.mean_count for name, stats in found.items() if stats is not None}

    def stats(self, model: str, version: str | None = None) -> ServiceStats | None:
        """Return the statistics of a model, and of one of its versions where these are told apart.

        None before its first task ended. Of a version that has not run much yet they are those of
        the live one.
        """
        return self._stats_of(self._name(model, version))

    def _stats_of(self, name: str) -> ServiceStats | None:
        times = self._times.get(name)
        if not times:
            return None
        known = self._stats.get(name)
        if known is None or known[1] > _STALE * len(times):
            known = self._stats[name] = (summarize(times), 0)
        return known[0]

    def dump(self) -> bytes:
        """Return the newest times as bytes, to be kept."""
        self.has_news = False
        return msgspec.json.encode(
            {
                model: _Kept(
                    times=list(times)[-_KEPT:],
                    pack=self._packs.get(model),
                    drawn=self._drawn.get(model),
                    pace=self._paces.get(model),
                    devices={
                        device: list(each) for device, each in self._devices.get(model, {}).items()
                    },
                )
                for model, times in self._times.items()
            }
        )

    def load(self, kept: bytes) -> None:
        """Take up times that were kept, as older than those of this process.

        What cannot be read is taken for nothing; so are notes of the form that was in use when
        the wait inside the worker counted too.
        """
        try:
            found = msgspec.json.decode(kept, type=dict[str, _Kept])
        except msgspec.MsgspecError:
            return
        for model, old in found.items():
            self._times[model] = deque([*old.times, *self._times.get(model, ())], self._window)
            devices = self._devices.setdefault(model, {})
            for device, each in old.devices.items():
                devices[device] = deque([*each, *devices.get(device, ())], _KEPT)
            if old.pace is not None and old.pace.task_s > 0:
                self._paces.setdefault(model, old.pace)
            if old.pack is not None:
                self._packs.setdefault(model, old.pack)
            if old.drawn is not None:
                self._drawn.setdefault(model, old.drawn)
            self._stats.pop(model, None)


def summarize(times: Sequence[tuple[float, int]]) -> ServiceStats:
    """Return the statistics of (seconds, samples), of which there is at least one."""
    n = len(times)
    mean_s = math.fsum(took for took, _ in times) / n
    mean_count = sum(count for _, count in times) / n
    fixed_s, per_sample_s = _line(times, mean_s, mean_count)
    expected = [fixed_s + per_sample_s * count for _, count in times]
    ordered = sorted(took for took, _ in times)
    ratios = sorted(
        took / line if line > 0 else 1.0 for (took, _), line in zip(times, expected, strict=True)
    )
    low, half, high = int(0.1 * (n - 1)), (n - 1) // 2, math.ceil(0.9 * (n - 1))
    return ServiceStats(
        n=n,
        mean_s=mean_s,
        p10_s=ordered[low],
        median_s=ordered[half],
        p90_s=ordered[high],
        mean_count=mean_count,
        fixed_s=fixed_s,
        per_sample_s=per_sample_s,
        variance_s2=math.fsum(
            (took - line) ** 2 for (took, _), line in zip(times, expected, strict=True)
        )
        / n,
        ratio_p10=ratios[low],
        ratio_median=ratios[half],
        ratio_p90=ratios[high],
    )


def _line(
    times: Sequence[tuple[float, int]], mean_s: float, mean_count: float
) -> tuple[float, float]:
    """Return (fixed, per sample) of the line through the times, in seconds.

    As long as all tasks asked for the same, the samples are taken to cost everything: whoever asks
    for ten times as many should not be told that it takes no longer.
    """
    proportional = mean_s / max(mean_count, 1.0)
    spread = math.fsum((count - mean_count) ** 2 for _, count in times)
    if spread == 0:
        return 0.0, proportional
    slope = math.fsum((count - mean_count) * (took - mean_s) for took, count in times) / spread
    slope = min(max(0.0, slope), proportional)
    return max(0.0, mean_s - slope * mean_count), slope


def first_pace(stats: ServiceStats) -> Pace:
    """Return the pace of a worker that was not measured yet: one task at a time."""
    return Pace(task_s=stats.mean_s, run_s=stats.mean_s, count=stats.mean_count)


def load_of(
    stats: ServiceStats, tasks: float, samples: float | None = None, *, pace: Pace | None = None
) -> Load:
    """Return what so many tasks of a model cost a worker.

    Args:
        stats: What tasks of the model took.
        tasks: How many.
        samples: Of all of them; as usual where it is not known.
        pace: Of the worker; without one it runs one task at a time.
    """
    if samples is None:
        samples = tasks * stats.mean_count
    scale = 1.0
    if pace is not None:
        usual_s = stats.service_s(pace.count)
        if usual_s <= 0:
            return Load(tasks=tasks, seconds=tasks * pace.task_s)
        scale = pace.task_s / usual_s
    return Load(
        tasks=tasks,
        seconds=scale * (tasks * stats.fixed_s + samples * stats.per_sample_s),
        variance_s2=scale * scale * tasks * stats.variance_s2,
    )


def estimate(
    stats: ServiceStats,
    ahead: Load,
    *,
    workers: int = 1,
    at_once: float = 1.0,
    count: float = 1,
    ready_in_s: tuple[float, float] = (0.0, 0.0),
    coming: Sequence[tuple[float, int]] = (),
) -> Estimate:
    """Return when a task starts and ends that has others before it.

    Args:
        stats: What tasks of its model took.
        ahead: What comes first on the same workers, of whatever model, what they hold included.
        workers: How many there are; >= 1.
        at_once: How many tasks they run at once, together; >= 1.
        count: Its samples.
        ready_in_s: After how long the first of these workers is there at all, and by when most
            probably it is.
        coming: After how many seconds from then how many more are there, the first first.
    """
    turns = max(0.0, ahead.tasks + 1 - at_once)
    mean = spread = 0.0
    if ahead.tasks > 0 and turns > 0:
        work_s = turns * ahead.seconds / ahead.tasks
        mean = _done_in_s(work_s, workers, coming)
        on_average = work_s / mean if mean > 0 else workers
        spread = _Z10 * math.sqrt(turns * ahead.variance_s2 / ahead.tasks) / on_average
    low, high = max(0.0, mean - spread), mean + spread
    first_s, by_s = ready_in_s
    low, mean, high = low + _EARLY * first_s, mean + first_s, high + max(first_s, by_s)
    own_s = stats.service_s(count)
    return Estimate(
        start=_rounded(low, mean, high),
        finish=_rounded(
            low + own_s * stats.ratio_p10,
            mean + own_s * stats.ratio_median,
            high + own_s * stats.ratio_p90,
        ),
    )


def after_first(coming: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return who comes after the first, in seconds from when that one is there."""
    if not coming:
        return []
    (first_s, n), *others = coming
    return [(0.0, n - 1)] * (n > 1) + [(in_s - first_s, more) for in_s, more in others]


def _done_in_s(work_s: float, workers: int, coming: Sequence[tuple[float, int]]) -> float:
    """Return after how long workers have had so much time together, those that come included."""
    at_s = 0.0
    for ready_s, n in coming:
        if work_s <= workers * (ready_s - at_s):
            break
        work_s -= workers * max(0.0, ready_s - at_s)
        at_s, workers = max(at_s, ready_s), workers + n
    return at_s + work_s / workers


def retry_after_s(expected_s: float, allowed_s: float) -> int:
    """Return after how many whole seconds the queue will be short enough: 1 to 3,600."""
    return min(3600, max(1, math.ceil(expected_s - allowed_s)))


def _rounded(low: float, median: float, high: float) -> EtaSeconds:
    return EtaSeconds(low=round(low, 3), median=round(median, 3), high=round(high, 3))
