"""Estimates that keep what they promise: corrected by how the last ones turned out. Pure.

What a queue and a fleet will do cannot be known: workers start, leave, slow down, and a crowd comes
overnight. Tasks that wait together are early or late together. So nothing is assumed of how errors
are spread: of the last tasks that ended it is known how many times as long as the raw estimate they
took, and the next one is multiplied by a quantile of these ratios. Which quantile, is itself
steered: with each task that ends later than was told it goes up, with each that does not it goes
down, so that over time the promised share of tasks ends in time, whatever happens:

    level ← level + step · (share - (1 if it ended in time else 0))

A level above 1 stands for more than the largest ratio known, below 0 for less than the smallest.
Tasks that need not wait, that wait, and that wait for the first worker are corrected apart: what
goes wrong with one says nothing of the others.

Source:
    I. Gibbs, E. Candès, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021,
    equation 2 and proposition 4.1: over T tasks the share misses its aim by at most
    (1 + step) / (step · T), for the levels that are not cut off.
"""

import bisect
import math
from collections import deque
from enum import StrEnum
from typing import Final

import msgspec

from swell.api.eta import Estimate, EtaSeconds
from swell.clock import Clock

#: Ratios are remembered of so many tasks of each model and situation, and say something from so
#: many on.
WINDOW: Final = 128
_FIRST: Final = 8

#: Before that, who waits is told at least so many times the median as the bound.
_UNKNOWN: Final = 2.0

#: By how much a task that turns out otherwise moves a level.
STEP: Final = 0.01

#: Levels stay within these.
_LEAST, _MOST = -1.0, 2.0

#: What is promised: half of the tasks end by `median`, nine in ten by `high`; `low` is the tenth
#: that ends first.
_SHARES: Final = (0.1, 0.5, 0.9)

#: So many promises are remembered at a time: of a crowd some stand for all.
_MOST_OPEN: Final = 1024

#: A promise that is older than this makes room for a new one of its model, in seconds.
_STALE_S: Final = 86_400.0


class Situation(StrEnum):
    """What a task that is estimated has before it."""

    #: A worker is free.
    IDLE = "idle"
    #: Others come first.
    QUEUE = "queue"
    #: There is no worker yet.
    COLD = "cold"

    @staticmethod
    def of(workers: int, raw: Estimate) -> "Situation":
        """Return the situation of a task.

        Args:
            workers: How many live ones there are for it.
            raw: Its estimate before it is corrected.
        """
        if not workers:
            return Situation.COLD
        return Situation.QUEUE if raw.start.median > 0 else Situation.IDLE


class Promise(msgspec.Struct, frozen=True):
    """What was told of a task, in seconds from when it was told.

    Args:
        model: Of the task.
        situation: In which it was.
        raw_s: The median before it was corrected; > 0.
        told: What was told of its end.
        at_s: When, in seconds of any clock that only goes forward.
    """

    model: str
    situation: Situation
    raw_s: float
    told: EtaSeconds
    at_s: float = 0.0


class _Tracker:
    """How tasks of one model turned out in one situation."""

    __slots__ = ("_last", "_levels", "_sorted")

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self._levels = list(_SHARES)

    def factors(self) -> tuple[float, ...] | None:
        """Return by what low, median and high are multiplied; None as long as nobody knows."""
        if len(self._sorted) < _FIRST:
            return None
        return tuple(self._at(level) for level in self._levels)

    def learn(self, ratio: float, ends_s: tuple[float, float, float], took_s: float) -> None:
        """Note a task that took `took_s`, `ratio` times its raw estimate."""
        self._last.append(ratio)
        bisect.insort(self._sorted, ratio)
        if len(self._last) > WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._last.popleft())]
        for place, (share, told_s) in enumerate(zip(_SHARES, ends_s, strict=True)):
            moved = self._levels[place] + STEP * (share - (took_s <= told_s))
            self._levels[place] = min(_MOST, max(_LEAST, moved))

    def _at(self, level: float) -> float:
        ratios = self._sorted
        place = min(max(level, 0.0), 1.0) * (len(ratios) - 1)
        below = int(place)
        above = min(below + 1, len(ratios) - 1)
        ratio = ratios[below] + (place - below) * (ratios[above] - ratios[below])
        beyond = level - min(max(level, 0.0), 1.0)
        return ratio * math.exp(beyond)


class Calibration:
    """Corrects the estimates of one backend process."""

    def __init__(self) -> None:
        self._trackers: dict[tuple[str, Situation], _Tracker] = {}
        #: Model → task id → what it was promised, oldest first.
        self._open: dict[str, dict[str, Promise]] = {}
        #: Task id → its model, of all open promises.
        self._models: dict[str, str] = {}

    def corrected(self, model: str, situation: Situation, raw: Estimate) -> Estimate:
        """Return an estimate by how the last ones of a model turned out."""
        tracker = self._trackers.get((model, situation))
        factors = None if tracker is None else tracker.factors()
        median_s = raw.finish.median
        if factors is None or median_s <= 0:
            return raw if situation is Situation.IDLE else _widened(raw)
        low, half, high = factors
        half_s = median_s * half
        finish = _ordered(median_s * low, half_s, median_s * high)
        # What it takes once it runs is known better than for how long it waits.
        own_s = min(half_s, median_s - raw.start.median)
        return Estimate(
            start=_ordered(finish.low - own_s, half_s - own_s, finish.high - own_s), finish=finish
        )

    def promised(self, task_id: str, promise: Promise) -> None:
        """Remember the estimate of a task.

        Where too many are remembered, the model with the most loses its newest, so that a model
        whose tasks never end leaves room for the others.
        """
        if promise.raw_s <= 0:
            return
        self._close(task_id)
        if len(self._models) >= _MOST_OPEN and not self._make_room(promise):
            return
        self._open.setdefault(promise.model, {})[task_id] = promise
        self._models[task_id] = promise.model

    def open_tasks(self) -> list[str]:
        """Return the ids of the tasks whose end is awaited."""
        return list(self._models)

    def ended(self, task_id: str, clock: Clock, *, has_succeeded: bool = True) -> None:
        """Learn from a task that has ended now; one that did not succeed says nothing."""
        promise = self._close(task_id)
        if promise is not None and has_succeeded:
            self.learn(promise, clock.monotonic_s() - promise.at_s)

    def _make_room(self, promise: Promise) -> bool:
        own = self._open.get(promise.model, {})
        most = max(self._open.values(), key=len)
        if len(most) > len(own):
            # The oldest of a crowd are the next to end.
            self._close(next(reversed(most)))
            return True
        oldest = next(iter(own))
        if promise.at_s - own[oldest].at_s <= _STALE_S:
            return False
        self._close(oldest)
        return True

    def _close(self, task_id: str) -> Promise | None:
        model = self._models.pop(task_id, None)
        if model is None:
            return None
        promise = self._open[model].pop(task_id)
        if not self._open[model]:
            del self._open[model]
        return promise

    def learn(self, promise: Promise, took_s: float) -> None:
        """Learn from a task that took `took_s` seconds since what was promised."""
        key = promise.model, promise.situation
        tracker = self._trackers.get(key)
        if tracker is None:
            tracker = self._trackers[key] = _Tracker()
        told = promise.told
        tracker.learn(took_s / promise.raw_s, (told.low, told.median, told.high), took_s)


def _widened(raw: Estimate) -> Estimate:
    """Return an estimate of a wait of which nobody knows how such estimates turn out."""
    start, finish = raw.start, raw.finish
    late_s = max(0.0, _UNKNOWN * finish.median - finish.high)
    return Estimate(
        start=_ordered(start.low, start.median, start.high + late_s),
        finish=_ordered(finish.low, finish.median, finish.high + late_s),
    )


def _ordered(low: float, median: float, high: float) -> EtaSeconds:
    median = max(0.0, median)
    return EtaSeconds(
        low=round(max(0.0, min(low, median)), 3),
        median=round(median, 3),
        high=round(max(high, median), 3),
    )
