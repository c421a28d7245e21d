"""When a task will be done, from what tasks of its model took. Pure.

A slot is busy with a task from its lease to its end, so `n` slots end `n / mean` tasks per second
(Little's law). The wait of the task behind `ahead` others is then the sum of their service times,
shared by the slots; with independent service times of mean m and variance v it is about normal:

    wait = max(0, ahead - free) · m / slots    spread = sqrt(max(0, ahead - free) · v) / slots

Source:
    J. D. C. Little, "A Proof for the Queuing Formula: L = λW", Operations Research, 1961.
"""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

__all__ = [
    "Estimate",
    "EtaSeconds",
    "ServiceStats",
    "ServiceTimes",
    "estimate",
    "retry_after_s",
    "summarize",
]

#: Where a normal variable's lowest and highest tenth begin, in standard deviations.
_Z10 = 1.2816

#: Service times remembered per model.
WINDOW = 256


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
    """How long tasks of one model hold a slot, in seconds."""

    n: int
    mean_s: float
    variance_s2: float
    p10_s: float
    median_s: float
    p90_s: float


class ServiceTimes:
    """The last service times of each model, and their statistics."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._times: dict[str, deque[float]] = {}
        self._stats: dict[str, ServiceStats] = {}

    def observe(self, model: str, service_s: float) -> None:
        """Note that a task of this model held its slot for `service_s` seconds."""
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = deque(maxlen=self._window)
        times.append(max(0.0, service_s))
        self._stats.pop(model, None)

    def stats(self, model: str) -> ServiceStats | None:
        """Return the statistics of a model; None before its first task ended."""
        times = self._times.get(model)
        if not times:
            return None
        stats = self._stats.get(model)
        if stats is None:
            stats = self._stats[model] = summarize(times)
        return stats


def summarize(times_s: Sequence[float]) -> ServiceStats:
    """Return the statistics of service times, of which there is at least one."""
    ordered = sorted(times_s)
    n = len(ordered)
    mean = math.fsum(ordered) / n
    variance = math.fsum((each - mean) ** 2 for each in ordered) / n
    return ServiceStats(
        n=n,
        mean_s=mean,
        variance_s2=variance,
        p10_s=ordered[int(0.1 * (n - 1))],
        median_s=ordered[(n - 1) // 2],
        p90_s=ordered[math.ceil(0.9 * (n - 1))],
    )


def estimate(
    stats: ServiceStats | None, *, ahead: int, slots: int, free: int = 0
) -> Estimate | None:
    """Return when a task starts and ends that has `ahead` others before it.

    Args:
        stats: What tasks of its model took; None gives None.
        ahead: How many waiting tasks come first.
        slots: How many tasks the model's live workers hold at once; 0 gives None.
        free: How many of these slots hold nothing now.
    """
    if stats is None or slots <= 0:
        return None
    # The task itself needs a slot too; it waits for one more end if none is free.
    turns = max(0, ahead + 1 - free)
    mean = turns * stats.mean_s / slots
    spread = _Z10 * math.sqrt(turns * stats.variance_s2) / slots
    low, high = max(0.0, mean - spread), mean + spread
    return Estimate(
        start=_rounded(low, mean, high),
        finish=_rounded(low + stats.p10_s, mean + stats.median_s, high + stats.p90_s),
    )


def retry_after_s(expected_s: float, allowed_s: float) -> int:
    """Return after how many whole seconds the queue will be short enough: 1 to 3,600."""
    return min(3600, max(1, math.ceil(expected_s - allowed_s)))


def _rounded(low: float, median: float, high: float) -> EtaSeconds:
    return EtaSeconds(low=round(low, 3), median=round(median, 3), high=round(high, 3))
