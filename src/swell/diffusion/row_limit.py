"""How many rows fit into a device's memory: half after a failure, more again after many successes.

Each failure doubles the number of steps before a larger batch is tried. So a shortage that passes,
such as another process on the device, does not keep batches small forever.
"""

from typing import Final

import msgspec

from swell.diffusion.step_cost import BUCKETS

#: The limit is raised after at most this many successful steps.
MOST_PATIENCE: Final = 16_384


class RowLimit(msgspec.Struct, frozen=True):
    """The row limit in force, and the one that is never exceeded."""

    rows: int
    most: int
    #: Consecutive successful steps at the limit, and how many of them raise it.
    clean: int = 0
    patience: int = 256


def halved(limit: int) -> int:
    """Return the limit to try after `limit` rows did not fit; at least 1."""
    return max(1, limit // 2)


def ran_out(limit: RowLimit, rows: int) -> RowLimit:
    """Return the limit after a step with this many rows ran out of memory.

    The patience doubles, because each attempt above a real limit costs a failed step.
    """
    patience = min(2 * limit.patience, MOST_PATIENCE)
    return RowLimit(halved(min(rows, limit.rows)), limit.most, 0, patience)


def went_well(limit: RowLimit, rows: int) -> RowLimit:
    """Return the limit after a successful step with this many rows."""
    if limit.rows >= limit.most:
        return limit
    largest = max((bucket for bucket in BUCKETS if bucket <= limit.rows), default=1)
    if rows < largest:
        return limit
    if limit.clean + 1 < limit.patience:
        return RowLimit(limit.rows, limit.most, limit.clean + 1, limit.patience)
    larger = next((bucket for bucket in BUCKETS if bucket > limit.rows), limit.most)
    return RowLimit(min(larger, limit.most), limit.most, 0, limit.patience)
