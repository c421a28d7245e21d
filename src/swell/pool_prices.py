"""What an hour of one worker of a pool costs, and who says so. Pure.

What the pool itself says counts; else what the operator has set for its kind of machine; else what
the list says that comes with Swell. A pool that may get several kinds of machines has the price of
the dearest, so that no budget is passed by a guess.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from swell.config import PoolTable, Settings
from swell.pricing import LIST, MachinePrice, PriceBook

__all__ = ["book_of", "pool_price", "pool_prices", "unknown_kinds"]


class _Names(NamedTuple):
    """How a provider calls kinds of machines and regions among its options."""

    kinds: str
    region: str


_CLOUDS: Final[Mapping[str, _Names]] = {
    "aws": _Names("types", "region"),
    "gcp": _Names("types", "region"),
    "azure": _Names("sizes", "location"),
}


def book_of(settings: Settings) -> PriceBook:
    """Return all prices that are known."""
    return PriceBook(LIST, settings.prices.hour_micros)


def pool_prices(settings: Settings) -> dict[str, MachinePrice]:
    """Return what an hour of one worker costs, by pool; pools without a price are left out."""
    book = book_of(settings)
    found = {name: pool_price(name, table, book) for name, table in settings.pools.items()}
    return {name: price for name, price in found.items() if price is not None}


def pool_price(name: str, table: PoolTable, book: PriceBook) -> MachinePrice | None:
    """Return what an hour of one worker of a pool costs; None where nobody knows it."""
    if table.hour_micros is not None:
        return MachinePrice(table.hour_micros, f"pools.{name}.hour_micros")
    names = _CLOUDS.get(table.provider)
    if names is None:
        return None
    kinds = _words(table.options, names.kinds)
    places = _places(table.options, names.region)
    prices = {
        kind: book.machine(
            table.provider, kind, places=places, spot=table.is_spot, gpus=_gpus(table.options)
        )
        for kind in kinds
    }
    known = [price for price in prices.values() if price is not None]
    if not known:
        return None
    dearest = max(known, key=lambda price: price.hour_micros)
    unknown = [kind for kind, price in prices.items() if price is None]
    if not unknown:
        return dearest
    return dearest._replace(source=f"{dearest.source}; no price is known of {', '.join(unknown)}")


def unknown_kinds(settings: Settings) -> list[str]:
    """Return the names of one's own prices that no pool and no row of the list is called by."""
    known = {f"{row.provider}/{row.kind}" for row in LIST}
    for table in settings.pools.values():
        names = _CLOUDS.get(table.provider)
        if names is not None:
            kinds = _words(table.options, names.kinds)
            known |= {f"{table.provider}/{kind}" for kind in kinds}
    return [
        name
        for name in settings.prices.hour_micros
        if name.removesuffix("/spot").partition("@")[0] not in known
    ]


def _places(options: Mapping[str, Any], region: str) -> list[str]:
    """Return where machines stand, the most exact first: a zone only where there is but one."""
    zones, told = _words(options, "zones"), options.get(region)
    exact = zones if len(zones) == 1 else []
    return [*exact, told] if isinstance(told, str) else exact


def _gpus(options: Mapping[str, Any]) -> int:
    """Return how many GPUs are added to machines that have none of their own."""
    told = options.get("accelerators", 1)
    has_some = bool(options.get("accelerator")) and isinstance(told, int)
    return max(1, told) if has_some else 1


def _words(options: Mapping[str, Any], name: str) -> list[str]:
    """Return a list of words among options, which the provider checks later."""
    told = options.get(name)
    if isinstance(told, str):
        return [each.strip() for each in told.split(",") if each.strip()]
    return (
        [each for each in told if isinstance(each, str)] if isinstance(told, list | tuple) else []
    )
