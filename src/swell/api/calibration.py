"""Calibration: estimates are corrected by how past ones turned out. Pure.

Waits cannot be modelled exactly: workers start, leave and slow down, and tasks that wait together
are late together. So no distribution of errors is assumed. Each estimate is multiplied by a
quantile of the last ratios of actual to estimated time. A level chooses the quantile. Each task
that ends later than estimated raises the level, each other task lowers it, so over time the
promised share of tasks ends in time:

    level ← level + step · (share - (1 if it ended in time else 0))

A level above 1 means more than the largest ratio, below 0 less than the smallest. Each model has
separate corrections for tasks that start at once, that wait, and that wait for the first worker.

Source:
    I. Gibbs, E. Candès, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021,
    equation 2 and proposition 4.1: over T tasks the share misses its aim by at most
    (1 + step) / (step · T), for the levels that are not cut off.
"""

import math
from collections import Counter, deque
from typing import Final

import msgspec

from swell.api.eta import Estimate, EtaSeconds, Forecast, Situation
from swell.clock import Clock

#: Ratios that are remembered per model and situation, and how many are needed for a correction.
WINDOW: Final = 128
_FIRST: Final = 8

#: How far one task moves a level.
STEP: Final = 0.01

#: The range of levels.
_LEAST, _MOST = -1.0, 2.0

#: The shares of tasks that end by `low`, `median` and `high`.
_SHARES: Final = (0.1, 0.5, 0.9)

#: Open estimates per model. Of a crowd, these represent all.
MOST_OPEN: Final = 256

#: An open estimate that is older is dropped, in seconds.
_STALE_S: Final = 86_400.0


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

    def factors(self) -> tuple[float, ...] | None:
        """Return the factors of low, median and high; None before enough tasks have ended."""
        if len(self._ratios) < _FIRST:
            return None
        ratios = sorted(self._ratios)
        return tuple(_quantile(ratios, level) for level in self._levels)

    def learn(self, ratio: float, finish: EtaSeconds, took_s: float) -> None:
        """Record a task that took `ratio` times its forecast."""
        self._ratios.append(ratio)
        ends_s = (finish.low, finish.median, finish.high)
        for number, (share, end_s) in enumerate(zip(_SHARES, ends_s, strict=True)):
            level = self._levels[number] + STEP * (share - (took_s <= end_s))
            self._levels[number] = min(_MOST, max(_LEAST, level))


class Calibration:
    """Corrects the estimates of one backend process."""

    def __init__(self) -> None:
        self._trackers: dict[tuple[str, Situation], _Tracker] = {}
        #: Task ID → its estimate, oldest first.
        self._open: dict[str, IssuedEstimate] = {}
        #: Model → the number of its open estimates.
        self._n_open: Counter[str] = Counter()

    def corrected(self, model: str, forecast: Forecast) -> Estimate:
        """Return an estimate, corrected if enough tasks of the model have ended."""
        tracker = self._trackers.get((model, forecast.situation))
        factors = None if tracker is None else tracker.factors()
        finish, half_s = forecast.finish, forecast.finish.median
        if factors is None or half_s <= 0:
            low_s, median_s, high_s = finish.low, half_s, finish.high
        else:
            low_s, median_s, high_s = (half_s * factor for factor in factors)
        # The duration is known better than the wait.
        own_s = min(median_s, half_s - forecast.start_s)
        return Estimate(
            start=_ordered(low_s - own_s, median_s - own_s, high_s - own_s),
            finish=_ordered(low_s, median_s, high_s),
        )

    def issued(self, task_id: str, issued: IssuedEstimate) -> None:
        """Remember the estimate of a task until it ends.

        A model with too many open estimates keeps the oldest: these tasks end next. A task that
        does not end within a day is forgotten.
        """
        self._close(task_id)
        while self._open:
            oldest = next(iter(self._open))
            if issued.at_s - self._open[oldest].at_s <= _STALE_S:
                break
            self._close(oldest)
        if issued.forecast.finish.median > 0 and self._n_open[issued.model] < MOST_OPEN:
            self._open[task_id] = issued
            self._n_open[issued.model] += 1

    def open_tasks(self) -> list[str]:
        """Return the tasks that are expected to end."""
        return list(self._open)

    def ended(self, task_id: str, clock: Clock, *, has_succeeded: bool = True) -> None:
        """Learn from a task that has ended now; others than succeeded ones are ignored."""
        issued = self._close(task_id)
        if issued is not None and has_succeeded:
            self.learn(issued, clock.monotonic_s() - issued.at_s)

    def learn(self, issued: IssuedEstimate, took_s: float) -> None:
        """Learn from a task that ended `took_s` seconds after its estimate."""
        key = issued.model, issued.forecast.situation
        ratio = took_s / issued.forecast.finish.median
        tracker = self._trackers.setdefault(key, _Tracker())
        tracker.learn(ratio, issued.estimate.finish, took_s)

    def _close(self, task_id: str) -> IssuedEstimate | None:
        issued = self._open.pop(task_id, None)
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
