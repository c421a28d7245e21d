"""Rules of other autoscalers, for many fleets at once.

Each rule has the formulas and delays of its source, and keeps Swell's guarantees: workers drain,
starting workers are cancelled first, and no task is lost. Parameters are arrays with one entry per
fleet.

Source:
    KEDA 2.18 and the HorizontalPodAutoscaler of Kubernetes; knative/serving, pkg/autoscaler;
    ray, serve/autoscaling_policy.py; SkyPilot 0.14, sky/serve/autoscalers.py; AWS, target tracking
    with a custom metric; RunPod, endpoint settings. Read from August to November 2026.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rivals.fleets import Fleets
from swell.simulator.arrivals import TICK_S

_Array = NDArray[np.float64]


class _Last:
    """Sliding window with one length per fleet."""

    def __init__(self, looks: _Array, fill: float) -> None:
        rows = int(np.max(looks))
        self._values = np.full((rows, len(looks)), fill)
        self._next = 0
        ages = np.arange(rows)[:, None]
        #: Mask of the rows within the window, for each position of the newest row.
        self._counts = [(newest - ages) % rows < looks[None, :] for newest in range(rows)]
        self._looks = looks

    def add(self, values: _Array) -> None:
        """Add the newest values."""
        self._at = self._next
        self._values[self._at] = values
        self._next = (self._next + 1) % len(self._values)

    def most(self) -> _Array:
        """Return the maximum of the window."""
        found: _Array = np.max(self._values, axis=0, where=self._counts[self._at], initial=-np.inf)
        return found

    def mean(self) -> _Array:
        """Return the mean of the window."""
        found: _Array = np.sum(self._values, axis=0, where=self._counts[self._at]) / self._looks
        return found


class _Held:
    """Applies a change only after it has been wanted for several steps."""

    def __init__(self, up: _Array, down: _Array) -> None:
        self._up, self._down = up, down
        self._ups, self._downs = np.zeros(len(up)), np.zeros(len(up))

    def decide(self, wanted: _Array, now: _Array) -> _Array:
        """Return the new target, given the wanted number and the last target."""
        rises, falls = wanted > now, wanted < now
        self._ups = np.where(rises, self._ups + 1.0, 0.0)
        self._downs = np.where(falls, self._downs + 1.0, 0.0)
        goes = (self._ups > self._up) | (self._downs > self._down)
        self._ups[goes] = 0.0
        self._downs[goes] = 0.0
        return np.where(goes, wanted, now)


def _every(tick: int, seconds: float) -> bool:
    """Return whether a periodic action is due in this tick."""
    return int(tick * TICK_S / seconds) != int((tick - 1) * TICK_S / seconds) or tick == 0


class Keda:
    """KEDA with the HPA: metric divided by target, a tolerance, and slow scale-down."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._per_worker, self._is_rate = numbers["per_worker"], numbers["is_rate"] > 0.0
        self._wanted: _Array | None = None
        self._last = _Last(np.maximum(1.0, numbers["down_s"] / 15.0), 0.0)

    def wanted(self, fleets: Fleets) -> _Array:
        if self._wanted is None:
            self._wanted = fleets.total
        if not _every(fleets.tick, 15.0):
            return self._wanted
        now = np.maximum(fleets.total, 1.0)
        per_worker = np.where(self._is_rate, self._per_worker * fleets.rate, self._per_worker)
        metric = np.where(self._is_rate, fleets.per_s, fleets.held)
        is_near = np.abs(1.0 - metric / (per_worker * now)) <= 0.1
        asked = np.maximum(np.where(is_near, now, np.ceil(metric / per_worker)), 1.0)
        self._last.add(asked)
        kept = np.minimum(self._last.most(), now)
        most = np.maximum(now * 2.0, now + 4.0)
        self._wanted = np.where(asked >= now, np.minimum(asked, most), kept)
        return self._wanted


class Knative:
    """Knative's KPA: concurrency or rate over one minute, and a panic window of a tenth of that."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._per_worker, self._is_rate = numbers["per_worker"], numbers["is_rate"] > 0.0
        ticks = np.maximum(1.0, numbers["window_s"] / TICK_S)
        self._ticks, self._threshold = ticks, numbers["panic"]
        self._stable = _Last(ticks, 0.0)
        self._delayed = _Last(np.maximum(1.0, numbers["down_s"] / TICK_S), 0.0)
        self._panicked: _Array = np.full(len(ticks), -np.inf)
        self._most: _Array = np.zeros(len(ticks))

    def wanted(self, fleets: Fleets) -> _Array:
        ready = np.maximum(fleets.ready, 1.0)
        now = np.where(self._is_rate, fleets.per_s_now / fleets.rate, fleets.held)
        self._stable.add(now)
        low, high = np.floor(ready / 2.0), np.ceil(ready * 1000.0)
        stable = np.clip(np.ceil(self._stable.mean() / self._per_worker), low, high)
        panic = np.clip(np.ceil(now / self._per_worker), low, high)
        is_over = panic / ready >= self._threshold
        was = self._panicked > -np.inf
        self._panicked = np.where(is_over, fleets.tick, self._panicked)
        is_past = ~is_over & (self._panicked + self._ticks < fleets.tick)
        self._panicked = np.where(is_past, -np.inf, self._panicked)
        is_now = self._panicked > -np.inf
        begun = np.where(is_now & ~was, ready, self._most)
        self._most = np.where(is_now, np.maximum(begun, np.maximum(stable, panic)), 0.0)
        self._delayed.add(np.maximum(np.where(is_now, self._most, stable), 1.0))
        return self._delayed.most()


class Ray:
    """Ray Serve: requests divided by a target, with a short delay up and a long delay down."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._per_worker = numbers["per_worker"]
        self._last = _Last(np.maximum(1.0, numbers["look_back_s"] / TICK_S), 0.0)
        self._held = _Held(numbers["up_s"] / TICK_S, numbers["down_s"] / TICK_S)
        self._aim: _Array | None = None

    def wanted(self, fleets: Fleets) -> _Array:
        self._last.add(fleets.held)
        if self._aim is None:
            self._aim = fleets.total
        asked = np.maximum(np.ceil(self._last.mean() / self._per_worker), 1.0)
        self._aim = self._held.decide(asked, self._aim)
        return self._aim


class Sky:
    """SkyServe by rate: requests per minute divided by a worker's rate, every 20 seconds."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._load = numbers["load"]
        # It acts when the full delay has passed.
        self._held = _Held(numbers["up_s"] / 20.0 - 1.0, numbers["down_s"] / 20.0 - 1.0)
        self._aim: _Array | None = None

    def wanted(self, fleets: Fleets) -> _Array:
        if self._aim is None:
            self._aim = fleets.total
        if fleets.tick % 2 == 0:
            self._aim = self._held.decide(self._asked(fleets), self._aim)
        return self._aim

    def _asked(self, fleets: Fleets) -> _Array:
        found: _Array = np.maximum(np.ceil(fleets.per_s / (fleets.rate * self._load)), 1.0)
        return found


class SkyPool(Sky):
    """A SkyPilot pool by queue: at most one worker more or less per step."""

    only_idle = True

    def _asked(self, fleets: Fleets) -> _Array:
        assert self._aim is not None
        queue = fleets.waiting
        steps = np.where(queue > self._load, 1.0, np.where(queue < self._load, -1.0, 0.0))
        return np.maximum(np.where(queue <= 0.0, 1.0, self._aim + steps), 1.0)


class Aws:
    """AWS target tracking: one metric per minute; three high ones scale up, fifteen low ones down.

    The metric is the backlog, the busy workers, or the arrival rate in workers, divided by the
    ready workers.
    """

    #: Busy instances have scale-in protection.
    only_idle = True

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._target, self._metric = numbers["target"], numbers["metric"]
        self._up, self._down = numbers["up"], numbers["down"]
        n = len(self._target)
        self._sum, self._highs, self._lows = np.zeros(n), np.zeros(n), np.zeros(n)
        self._wanted: _Array | None = None

    def wanted(self, fleets: Fleets) -> _Array:
        if self._wanted is None:
            self._wanted = fleets.total
        ready = np.maximum(fleets.ready, 1.0)
        of_rate = fleets.per_s_now / fleets.rate
        self._sum += (
            np.choose(self._metric.astype(np.int64), [fleets.waiting, fleets.busy, of_rate]) / ready
        )
        if (fleets.tick + 1) % 6:
            return self._wanted
        metric = self._sum / 6.0
        self._sum = np.zeros(len(metric))
        self._highs = np.where(metric > self._target, self._highs + 1.0, 0.0)
        self._lows = np.where(metric < 0.9 * self._target, self._lows + 1.0, 0.0)
        asked = np.maximum(np.ceil(ready * metric / self._target), 1.0)
        rises = (self._highs >= self._up) & (asked > self._wanted)
        falls = (self._lows >= self._down) & (asked < self._wanted)
        self._wanted = np.where(rises | falls, asked, self._wanted)
        return self._wanted


class RunPod:
    """RunPod: one worker per number of requests; a worker ends after an idle timeout."""

    only_idle = True

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._per_worker = numbers["per_worker"]
        self._last = _Last(np.maximum(1.0, numbers["idle_s"] / TICK_S), 0.0)

    def wanted(self, fleets: Fleets) -> _Array:
        self._last.add(np.ceil(fleets.held / self._per_worker))
        return self._last.most()


class Peak:
    """Constant number of workers for the busiest minute."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._load = numbers["load"]
        self._wanted: _Array | None = None

    def wanted(self, fleets: Fleets) -> _Array:
        if self._wanted is None:
            minutes = _per_s(fleets.came)
            self._wanted = np.ceil(minutes.max(axis=0)[fleets.course] / fleets.rate / self._load)
        return self._wanted


class Foresight:
    """Knows the demand of the next one and a half cold starts exactly."""

    only_idle = False

    def __init__(self, numbers: Mapping[str, _Array]) -> None:
        self._load = numbers["load"]
        self._needs: _Array | None = None
        self._kept: _Last | None = None

    def wanted(self, fleets: Fleets) -> _Array:
        if self._needs is None or self._kept is None:
            self._needs = self._ahead(fleets)
            self._kept = _Last(np.maximum(1.0, fleets.start_s / TICK_S), 0.0)
        self._kept.add(np.ceil(self._needs[fleets.tick] / self._load))
        return self._kept.most()

    def _ahead(self, fleets: Fleets) -> _Array:
        """Return the workers for the busiest minute within the horizon. Shape (ticks, fleets)."""
        minutes = _per_s(fleets.came) / fleets.rate
        found = np.zeros((len(minutes), len(fleets.course)))
        for start_s in np.unique(fleets.start_s):
            ticks = int(1.5 * start_s / TICK_S)
            padded = np.concatenate([minutes, np.repeat(minutes[-1:], ticks, axis=0)])
            windows = np.lib.stride_tricks.sliding_window_view(padded, ticks + 1, axis=0)
            most = windows.max(axis=2)
            mine = fleets.start_s == start_s
            found[:, mine] = most[: len(minutes), fleets.course[mine]]
        return found


def _per_s(came: _Array) -> _Array:
    """Return samples per second over the minute after each tick. Shape (ticks, courses)."""
    padded = np.concatenate([came, np.repeat(came[-1:], 5, axis=0)])
    ends = np.cumsum(np.concatenate([np.zeros((1, came.shape[1])), padded]), axis=0)
    found: _Array = (ends[6:] - ends[:-6]) / 60.0
    return found
