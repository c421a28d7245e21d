"""Reports of costs by model, user, key, pool or day. The parts add up to the whole. Pure.

Attempts cost their callers. The idle, cold and wasted time of a pool is shared among its callers by
their seconds; without callers it stays unassigned.
"""

import itertools
from collections.abc import Collection, Iterable
from typing import Final, Literal

import msgspec

from swell.core.billing.ledger import CostRow, EntryKind

#: Kinds that belong to a caller.
_OWN: Final = (EntryKind.ATTEMPT, EntryKind.FAILED)

#: A grouping of costs.
By = Literal["model", "user", "key", "pool", "day"]


class Cost(msgspec.Struct, kw_only=True):
    """A sum of costs."""

    attempts: int = 0
    images: int = 0
    #: Images made by workers with a price.
    priced_images: int = 0
    seconds: dict[EntryKind, float] = {}
    #: Of pools with a price.
    micros: dict[EntryKind, int] = {}

    def add(self, kind: EntryKind, seconds: float, micros: int | None) -> None:
        """Add time of one kind."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        if micros is not None:
            self.micros[kind] = self.micros.get(kind, 0) + micros

    def add_row(self, row: CostRow) -> None:
        """Add a sum of the ledger."""
        self.attempts += row.attempts
        self.images += row.images
        self.priced_images += 0 if row.micros is None else row.images
        self.add(row.kind, row.seconds, row.micros)

    @property
    def whole_s(self) -> float:
        """The seconds of all kinds."""
        return sum(self.seconds.values())

    @property
    def whole_micros(self) -> int | None:
        """The cost of all kinds; None without a price."""
        return sum(self.micros.values()) if self.micros else None

    @property
    def image_micros(self) -> float | None:
        """The cost of an image, from successful attempts only; None if unknown."""
        attempts_micros = self.micros.get(EntryKind.ATTEMPT, 0)
        return attempts_micros / self.priced_images if self.priced_images else None

    @property
    def loaded_image_micros(self) -> float | None:
        """The same with all other costs included."""
        return (self.whole_micros or 0) / self.priced_images if self.priced_images else None


def added(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    total = Cost()
    for each in costs:
        total.attempts += each.attempts
        total.images += each.images
        total.priced_images += each.priced_images
        for kind, seconds in each.seconds.items():
            total.add(kind, seconds, each.micros.get(kind))
    return total


def costs_by(rows: Iterable[CostRow], by: By) -> dict[str | None, Cost]:
    """Group costs by name, such as `2026-11-26` for a day; None is for unassigned costs."""
    field, found = "key_id" if by == "key" else by, dict[str | None, Cost]()
    #: By pool, and whether it has a price: the seconds of each caller, and the costs to share.
    weights: dict[tuple[str, bool], dict[str | None, float]] = {}
    common: dict[tuple[str, bool], Cost] = {}
    for row in rows:
        name, pool = str(getattr(row, field)), (row.pool, row.micros is not None)
        if by in ("pool", "day"):
            found.setdefault(name, Cost()).add_row(row)
        elif row.kind in _OWN:
            found.setdefault(name, Cost()).add_row(row)
            of_pool = weights.setdefault(pool, {})
            of_pool[name] = of_pool.get(name, 0.0) + max(0.0, row.seconds)
        else:
            common.setdefault(pool, Cost()).add_row(row)
    for pool, cost in common.items():
        _share(cost, weights.get(pool, {}), found)
    return found


def _share(cost: Cost, weights: dict[str | None, float], found: dict[str | None, Cost]) -> None:
    whole = sum(weights.values())
    if not whole:
        weights, whole = {None: 1.0}, 1.0
    for kind, seconds in cost.seconds.items():
        micros = cost.micros.get(kind)
        parts = [None] * len(weights) if micros is None else shared(micros, weights.values())
        for (name, weight), part in zip(weights.items(), parts, strict=True):
            # In this order: seconds times the smallest float would be rounded to 0.
            found.setdefault(name, Cost()).add(kind, seconds * (weight / whole), part)


def shared(whole: int, weights: Collection[float]) -> list[int]:
    """Divide a number by weights >= 0, not all 0. The parts add up to it exactly."""
    sums = list(itertools.accumulate(weights))
    ends = [round(whole * each / sums[-1]) for each in sums]
    return [end - start for start, end in itertools.pairwise([0, *ends])]
