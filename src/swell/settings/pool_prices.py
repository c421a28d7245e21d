"""The price of an hour of one worker of a pool, and its source. Pure.

The first that has a price counts: the pool itself, the operator's price of the machine type, the
cloud's current quote (`swell.autoscaler.live_prices`), Swell's list. A pool with several machine
types has the highest of their prices, so that a guess never exceeds a budget.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from swell.core.billing.price_book import LIST, Machine, MachinePrice, PriceBook
from swell.settings.load import Settings
from swell.settings.pool_settings import PoolTable


class Cloud(NamedTuple):
    """Names of the options of a provider."""

    kinds: str
    region: str
    #: The name of its quotes; empty if there are none.
    quotes: str = ""


CLOUDS: Final[Mapping[str, Cloud]] = {
    "aws": Cloud("types", "region", "EC2's spot price history"),
    "gcp": Cloud("types", "region"),
    "azure": Cloud("sizes", "location", "Azure's retail prices"),
}


def machines_of(table: PoolTable) -> list[Machine]:
    """Return the machines that a pool requests from a cloud; empty without a cloud."""
    cloud, options = CLOUDS.get(table.provider), table.options
    if cloud is None:
        return []
    zones, region = _words(options.get("zones")), options.get(cloud.region)
    # A zone counts only if there is just one.
    places = [*(zones if len(zones) == 1 else ()), *([region] if isinstance(region, str) else ())]
    gpus = options.get("accelerators", 1) if options.get("accelerator") else 1
    gpus = max(1, gpus) if isinstance(gpus, int) else 1
    kinds = _words(options.get(cloud.kinds))
    return [Machine(table.provider, kind, places, table.is_spot, gpus) for kind in kinds]


def _words(option: Any) -> list[str]:
    words = option.split(",") if isinstance(option, str) else option
    if not isinstance(words, list | tuple):
        return []
    return [each.strip() for each in words if isinstance(each, str) and each.strip()]


def book_of(settings: Settings) -> PriceBook:
    """Return all known prices."""
    return PriceBook(LIST, settings.prices.hour_micros)


def pool_prices(settings: Settings) -> dict[str, MachinePrice]:
    """Return the price of an hour of one worker by pool, without pools that have no price."""
    book = book_of(settings)
    found = {name: pool_price(name, table, book) for name, table in settings.pools.items()}
    return {name: price for name, price in found.items() if price is not None}


def pool_price(
    name: str, table: PoolTable, book: PriceBook, *, without: Collection[str] = ()
) -> MachinePrice | None:
    """Return the price of an hour of one worker of a pool; None if unknown.

    Args:
        name: The pool.
        table: Its settings.
        book: All known prices.
        without: Machine types to leave out.
    """
    if table.hour_micros is not None:
        return MachinePrice(table.hour_micros, f"pools.{name}.hour_micros")
    machines = [each for each in machines_of(table) if each.kind not in without]
    prices = {each.kind: book.price(each) for each in machines}
    known = [price for price in prices.values() if price is not None]
    unknown = [kind for kind, price in prices.items() if price is None]
    highest = max(known, key=lambda price: price.hour_micros, default=None)
    if highest is None or not unknown:
        return highest
    return highest._replace(source=f"{highest.source}; no price is known of {', '.join(unknown)}")


def unknown_kinds(settings: Settings) -> list[str]:
    """Return names of the operator's prices that match no pool and no row of the list."""
    known = {f"{row.provider}/{row.kind}" for row in LIST}
    for table in settings.pools.values():
        known |= {f"{each.provider}/{each.kind}" for each in machines_of(table)}
    names = settings.prices.hour_micros
    return [name for name in names if name.removesuffix("/spot").partition("@")[0] not in known]
