"""Measured cost of a step by its number of rows, and how many rows the next step should have. Pure.

A *row* is one input of the network: one per sample, two for a sample with guidance. Steps are
padded to a *bucket*, one of a few row counts, so that a model is compiled for few shapes. Whether a
larger batch pays depends on the model, the picture size and the device, so it is measured while
the model works.

`StepCost` holds one moving average of the step time per bucket, for one batch key on one device.
`StepCost.rows_to_fill` applies these rules:

1. The *best* bucket is the one with the lowest cost per row. Another bucket replaces it only if it
   is better by `HYSTERESIS`, so that noise does not move it.
2. If batching saves less than `LEAST_GAIN` against a single sample, samples take turns, one per
   step. Short ones finish sooner that way.
3. Otherwise a step is filled at least to the smallest bucket with a cost per row within `NEARLY`
   of the best one. Larger steps save little, and every sample in them waits longer.
4. In a crowd throughput matters more: a larger bucket, up to the best one, is filled if `CROWD`
   times as many rows want to run.
5. Buckets above the best one, up to twice its size, are tried when enough rows want to run: at
   once if they were never measured, otherwise after `RETRY_STEPS` steps. This corrects wrong
   measurements, and follows a device that changes.
"""

import math
from collections.abc import Iterable
from typing import Final

import msgspec

#: Row counts that a step may be padded to.
BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

#: Weight of the newest step in a bucket's average.
NEWEST_WEIGHT: Final = 0.05

#: A bucket counts as measured after this many steps. Until then its shortest step is used, because
#: the first one may include compilation.
FIRST_STEPS: Final = 3

#: A step counts for at most this many times the average, so that one stall does not move it far.
STALL: Final = 2.0

#: Another bucket becomes the best one only if its cost per row is lower by this share.
HYSTERESIS: Final = 0.01

#: A batch must save this share per row against a single sample; otherwise samples take turns.
LEAST_GAIN: Final = 0.05

#: Without a crowd, a row may cost this share more than in the best bucket.
NEARLY: Final = 0.2

#: Rows that want to run, per row of the step, that make a crowd.
CROWD: Final = 1.25

#: A larger bucket that was not better is tried again after this many steps.
RETRY_STEPS: Final = 256

#: Seconds per row before anything is measured. Only ratios of it matter.
_UNKNOWN_S: Final = 0.1


class _Bucket(msgspec.Struct):
    seconds: float
    steps: int = 1
    #: Number of the step, counted over all buckets, that used it last.
    last_step: int = 0


class StepCost:
    """Average seconds per step, by bucket, for one batch key on one device."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._steps = 0
        self._best = 0

    def record(self, rows: int, seconds: float) -> None:
        """Add the duration of one step.

        Args:
            rows: Rows of the step, padding included. Row counts that are not buckets, which models
                without padding also use, are ignored: `seconds` interpolates them.
            seconds: Time on the device.
        """
        self._steps += 1
        if rows not in BUCKETS or not 0 < seconds < math.inf:
            return
        bucket = self._buckets.get(rows)
        if bucket is None:
            self._buckets[rows] = _Bucket(seconds, last_step=self._steps)
            return
        bucket.steps += 1
        bucket.last_step = self._steps
        if bucket.steps <= FIRST_STEPS:
            bucket.seconds = min(bucket.seconds, seconds)
        else:
            counted_s = min(seconds, STALL * bucket.seconds)
            bucket.seconds += NEWEST_WEIGHT * (counted_s - bucket.seconds)

    def seconds(self, rows: int) -> float:
        """Return the expected duration of a step: measured, or interpolated from other buckets."""
        known = self._buckets
        if rows in known:
            return known[rows].seconds
        below = max((bucket for bucket in known if bucket < rows), default=0)
        above = min((bucket for bucket in known if bucket > rows), default=0)
        if not below:
            return known[above].seconds if above else _UNKNOWN_S * rows
        if not above:
            return known[below].seconds * rows / below
        share = (rows - below) / (above - below)
        return known[below].seconds + share * (known[above].seconds - known[below].seconds)

    def per_row(self, rows: int) -> float:
        """Return the expected seconds per row."""
        return self.seconds(rows) / rows

    @property
    def measured(self) -> tuple[int, ...]:
        """The measured buckets, smallest first."""
        return tuple(rows for rows in sorted(self._buckets) if self._is_measured(rows))

    def rows_to_fill(
        self, wanted: int, most_rows: int, per_sample: int = 1, widest: int | None = None
    ) -> int:
        """Return the number of rows to which the next step should be filled.

        Args:
            wanted: Rows of all samples that could take part.
            most_rows: Rows that fit into memory.
            per_sample: Rows of the narrowest sample: 2 if all have guidance, otherwise 1.
            widest: The same of the widest. Only buckets that such samples fill are tried out; with
                others, a step would be smaller than asked for, and the trial would never end.
        """
        usable = [rows for rows in BUCKETS if rows <= most_rows and rows % per_sample == 0]
        measured = [rows for rows in usable if self._is_measured(rows)]
        if not measured:
            return usable[0] if usable else most_rows
        best = self._best_of(measured)
        for rows in usable:
            is_filled = rows % (widest or per_sample) == 0
            if is_filled and best < rows <= min(2 * best, wanted) and self._is_due(rows):
                return rows
        if self.per_row(best) > (1 - LEAST_GAIN) * self.per_row(measured[0]):
            return measured[0]
        enough = (1 + NEARLY) * self.per_row(best)
        least = next(rows for rows in measured if self.per_row(rows) <= enough)
        crowded = [rows for rows in measured if rows <= min(best, wanted / CROWD)]
        return max(least, *crowded, 1)

    def _is_measured(self, rows: int) -> bool:
        return rows in self._buckets and self._buckets[rows].steps >= FIRST_STEPS

    def _is_due(self, rows: int) -> bool:
        """Say whether a bucket should be measured, for the first time or again."""
        if not self._is_measured(rows):
            return True
        return self._steps - self._buckets[rows].last_step >= RETRY_STEPS

    def _best_of(self, measured: Iterable[int]) -> int:
        cheapest = min(measured, key=self.per_row)
        is_known = self._best in measured
        if not is_known or self.per_row(cheapest) < (1 - HYSTERESIS) * self.per_row(self._best):
            self._best = cheapest
        return self._best
