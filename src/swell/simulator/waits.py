"""Waits of samples in a first come, first served queue, from arrivals and queue lengths."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swell.simulator.arrivals import TICK_S

_Array = NDArray[np.float64]


class Waits:
    """Distribution of the waits until a worker takes a sample.

    Waits of a group of consecutive samples are uniform between a minimum and a maximum.

    Args:
        least_s: Shortest wait of each group, in seconds.
        most_s: Longest wait of each group, in seconds.
        samples: Number of samples in each group.
    """

    def __init__(self, least_s: _Array, most_s: _Array, samples: _Array) -> None:
        waited = most_s > 0.0
        self._least_s, self._most_s = least_s[waited], most_s[waited]
        self._samples = samples[waited]
        self._all = float(samples.sum())
        middles_s = (self._least_s + self._most_s) / 2.0
        order = np.argsort(middles_s, kind="stable")
        self._ordered_s = middles_s[order]
        self._longer = np.cumsum(self._samples[order][::-1])[::-1]

    def late_share(self, than_s: float) -> float:
        """Return the share of samples that waited longer."""
        width_s = np.maximum(self._most_s - self._least_s, 1e-9)
        late = np.clip((self._most_s - than_s) / width_s, 0.0, 1.0) * self._samples
        return float(late.sum()) / self._all if self._all else 0.0

    def quantile(self, share: float) -> float:
        """Return a quantile of the waits in seconds, accurate to a tick."""
        beyond = (1.0 - share) * self._all
        # `_longer` counts the samples that waited at least as long.
        at = int(np.searchsorted(-self._longer, -beyond, side="right")) - 1
        return float(self._ordered_s[at]) if at >= 0 and len(self._ordered_s) else 0.0

    @property
    def most_s(self) -> float:
        """The longest wait, in seconds."""
        return float(np.max(self._most_s)) if len(self._most_s) else 0.0

    @property
    def mean_s(self) -> float:
        """The mean wait, in seconds."""
        total_s = float(((self._least_s + self._most_s) / 2.0 * self._samples).sum())
        return total_s / self._all if self._all else 0.0


def waits(arrived: _Array, queued: _Array, last_per_s: float) -> Waits:
    """Return the waits of samples.

    Args:
        arrived: Arrivals in each tick, evenly spread. Shape (ticks,).
        queued: Queue length at the end of each tick. Shape (ticks,).
        last_per_s: Rate at which the remaining queue is taken at the end, in samples per second.
    """
    ends = np.concatenate([[0.0], np.cumsum(arrived)])
    taken = np.maximum.accumulate(np.concatenate([[0.0], ends[1:] - queued]))
    came_at = np.arange(len(ends), dtype=np.float64)
    taken_at = came_at
    if queued[-1] > 0.0:
        rest = queued[-1] / max(last_per_s * TICK_S, 1e-9)
        taken = np.append(taken, ends[-1])
        taken_at = np.append(taken_at, taken_at[-1] + rest)
    # Between two bends, cumulative arrivals and services are both linear.
    bends = np.unique(np.concatenate([ends, taken]))
    first, last = bends[:-1], bends[1:]
    begin = _reached(first, taken, taken_at, "right") - _reached(first, ends, came_at, "right")
    end = _reached(last, taken, taken_at, "left") - _reached(last, ends, came_at, "left")
    begin, end = np.maximum(begin, 0.0) * TICK_S, np.maximum(end, 0.0) * TICK_S
    return Waits(np.minimum(begin, end), np.maximum(begin, end), last - first)


def _reached(
    numbers: _Array, ends: _Array, times: _Array, side: Literal["left", "right"]
) -> _Array:
    """Return the ticks when the cumulative count reaches (left) or exceeds (right) `numbers`."""
    after = np.clip(np.searchsorted(ends, numbers, side=side), 1, len(ends) - 1)
    before = after - 1
    width = np.maximum(ends[after] - ends[before], 1e-12)
    share = np.clip((numbers - ends[before]) / width, 0.0, 1.0)
    found: _Array = times[before] + share * (times[after] - times[before])
    return found
