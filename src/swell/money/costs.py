"""What things cost, by model, user, key, pool or day, so that the parts add up to the whole. Pure.

What was charged for attempts belongs to whoever asked for them. What belongs to nobody (idle time,
cold starts, waste) is shared among all who had attempts in the same pool, by their seconds of it;
of a pool in which nobody had any it stays nobody's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from swell.money.bill import shared
from swell.money.ledger import CostRow, EntryKind

#: Of somebody.
_OWN: Final = (EntryKind.ATTEMPT, EntryKind.FAILED)


class By(StrEnum):
    """What costs are told apart by."""

    MODEL = "model"
    USER = "user"
    KEY = "key"
    POOL = "pool"
    DAY = "day"


_NAMES: Final[Mapping[By, Callable[[CostRow], str]]] = {
    By.MODEL: lambda row: row.model,
    By.USER: lambda row: row.user,
    By.KEY: lambda row: row.key_id,
    By.POOL: lambda row: row.pool,
    By.DAY: lambda row: row.day.isoformat(),
}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody or something costs."""

    attempts: int = 0
    images: int = 0
    #: Of these, how many were drawn by workers with a price.
    priced_images: int = 0
    seconds: Mapping[EntryKind, float] = {}
    #: Of workers with a price.
    micros: Mapping[EntryKind, int] = {}

    @property
    def whole_s(self) -> float:
        """All seconds together."""
        return sum(self.seconds.values())

    @property
    def whole_micros(self) -> int | None:
        """All of it; None where nothing has a price."""
        return sum(self.micros.values()) if self.micros else None

    @property
    def image_micros(self) -> float | None:
        """What a picture costs, by the attempts that gave one; None where that is not known."""
        if not self.priced_images:
            return None
        return self.micros.get(EntryKind.ATTEMPT, 0) / self.priced_images

    @property
    def loaded_image_micros(self) -> float | None:
        """The same with all that was paid for besides."""
        if not self.priced_images:
            return None
        return (self.whole_micros or 0) / self.priced_images


def added(costs: Iterable[Cost]) -> Cost:
    """Return costs together."""
    one = _Sum()
    for each in costs:
        one.attempts += each.attempts
        one.images += each.images
        one.priced_images += each.priced_images
        for kind, seconds in each.seconds.items():
            one.add(kind, seconds, each.micros.get(kind))
    return one.cost()


def costs_by(rows: Iterable[CostRow], by: By) -> dict[str | None, Cost]:
    """Return name → cost; None for what is nobody's. Together they are what the rows are.

    Args:
        rows: Sums of the ledger.
        by: What the names are; the day is written as in `2026-11-26`.
    """
    name_of = _NAMES[by]
    sums: dict[str | None, _Sum] = {}
    pools: dict[tuple[str, bool], _Pool] = {}
    for row in rows:
        is_own = row.kind in _OWN
        if is_own or by in (By.POOL, By.DAY):
            sums.setdefault(name_of(row), _Sum()).take(row)
        if by in (By.POOL, By.DAY):
            continue
        pool = pools.setdefault((row.pool, row.micros is not None), _Pool())
        if is_own:
            name = name_of(row)
            pool.weights[name] = pool.weights.get(name, 0.0) + max(0.0, row.seconds)
        else:
            pool.rest.take(row)
    for pool in pools.values():
        pool.share(sums)
    return {name: each.cost() for name, each in sums.items()}


class _Sum:
    """A cost that grows."""

    def __init__(self) -> None:
        self.attempts = self.images = self.priced_images = 0
        self.seconds: dict[EntryKind, float] = {}
        self.micros: dict[EntryKind, int] = {}

    def take(self, row: CostRow) -> None:
        self.attempts += row.attempts
        self.images += row.images
        self.priced_images += 0 if row.micros is None else row.images
        self.add(row.kind, row.seconds, row.micros)

    def add(self, kind: EntryKind, seconds: float, micros: int | None) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        if micros is not None:
            self.micros[kind] = self.micros.get(kind, 0) + micros

    def cost(self) -> Cost:
        return Cost(
            attempts=self.attempts,
            images=self.images,
            priced_images=self.priced_images,
            seconds=self.seconds,
            micros=self.micros,
        )


class _Pool:
    """What is shared of a pool, and among whom."""

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}
        self.rest = _Sum()

    def share(self, sums: dict[str | None, _Sum]) -> None:
        names: Sequence[str | None] = list(self.weights)
        weights = list(self.weights.values())
        whole = sum(weights)
        if not whole:
            names, weights, whole = [None], [1.0], 1.0
        for kind, seconds in self.rest.seconds.items():
            micros = self.rest.micros.get(kind)
            parts: Sequence[int | None] = [None] * len(names)
            if micros is not None:
                parts = shared(micros, weights)
            for name, weight, part in zip(names, weights, parts, strict=True):
                # In this order: seconds times the least of floats would be rounded away.
                own_s = seconds * (weight / whole)
                sums.setdefault(name, _Sum()).add(kind, own_s, part)
