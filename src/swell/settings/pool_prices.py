"""The price of an hour of one worker of a pool, and its source. Pure.

The first that has a price counts: the pool itself, the operator's price of the machine type, the
cloud's current quote, Swell's list. A pool with several machine types has the highest of their
prices, so that a guess never exceeds a budget; if its machines run already and their cloud quotes
prices, it has the mean of their prices.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from swell.core.billing.price_book import (
    LIST,
    LivePrice,
    Machine,
    MachinePrice,
    PriceBook,
    price_name,
)
from swell.settings.load import Settings
from swell.settings.pool_settings import PoolTable


class _Cloud(NamedTuple):
    """Names of the options of a provider."""

    kinds: str
    region: str
    #: The name of its quotes; empty if there are none.
    quotes: str = ""


_CLOUDS: Final[Mapping[str, _Cloud]] = {
    "aws": _Cloud("types", "region", "EC2's spot price history"),
    "gcp": _Cloud("types", "region"),
    "azure": _Cloud("sizes", "location", "Azure's retail prices"),
}


def _machines(table: PoolTable) -> list[Machine]:
    """Return the machines that a pool requests from a cloud; empty without a cloud."""
    cloud, options = _CLOUDS.get(table.provider), table.options
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
    machines = [each for each in _machines(table) if each.kind not in without]
    prices = {each.kind: book.price(each) for each in machines}
    known = [price for price in prices.values() if price is not None]
    unknown = [kind for kind, price in prices.items() if price is None]
    highest = max(known, key=lambda price: price.hour_micros, default=None)
    if highest is None or not unknown:
        return highest
    return highest._replace(source=f"{highest.source}; no price is known of {', '.join(unknown)}")


def may_change(table: PoolTable, book: PriceBook) -> bool:
    """Return whether a cloud quotes the price of a pool."""
    cloud = _CLOUDS.get(table.provider)
    if table.hour_micros is not None or cloud is None or not cloud.quotes:
        return False
    if table.provider == "aws" and not table.is_spot:
        return False
    return any(book.own_name(each) is None for each in _machines(table))


def live_price(
    name: str,
    table: PoolTable,
    book: PriceBook,
    quotes: Sequence[LivePrice],
    standing: Mapping[tuple[str, str], int],
) -> MachinePrice | None:
    """Return the price of an hour of one worker of a pool by its cloud's quotes; None without any.

    Args:
        name: The pool.
        table: Its settings.
        book: All other prices.
        quotes: By machine type and place.
        standing: Machine type and place → number of the pool's machines there.
    """
    machines, prices = {each.kind: each for each in _machines(table)}, []
    for quote in (each for each in quotes if each.kind in machines):
        machine = machines[quote.kind]
        places = (quote.place, *machine.places)
        micros = book.live_micros(machine._replace(places=places), quote.hour_micros)
        if micros is not None:
            prices.append(quote._replace(hour_micros=micros))
    if not prices:
        return None
    running = [(_price_of(prices, *where), n) for where, n in standing.items()]
    known = [(price, n) for price, n in running if price is not None]
    if known:
        total = sum(price.hour_micros * n for price, n in known)
        mean = round(total / sum(n for _, n in known))
        return MachinePrice(mean, _source(table, list(dict.fromkeys(price for price, _ in known))))
    highest = max(prices, key=lambda price: price.hour_micros)
    listed = pool_price(name, table, book, without={price.kind for price in prices})
    if listed is not None and listed.hour_micros > highest.hour_micros:
        return listed
    return MachinePrice(highest.hour_micros, _source(table, [highest]))


def _price_of(prices: Sequence[LivePrice], kind: str, place: str) -> LivePrice | None:
    """Return the price of a machine type in a place, or else the highest price of the type."""
    own = [each for each in prices if each.kind == kind]
    exact = [each for each in own if each.place == place]
    return max(exact or own, key=lambda each: each.hour_micros, default=None)


def _source(table: PoolTable, prices: Sequence[LivePrice]) -> str:
    names = [
        price_name(table.provider, each.kind, region=each.place, spot=table.is_spot)
        for each in prices
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    mean = ", the mean" if len(names) > 1 else ""
    return f"{', '.join(names[:3])}{more}: {_CLOUDS[table.provider].quotes}{mean}"


def unknown_kinds(settings: Settings) -> list[str]:
    """Return names of the operator's prices that match no pool and no row of the list."""
    known = {f"{row.provider}/{row.kind}" for row in LIST}
    for table in settings.pools.values():
        known |= {f"{each.provider}/{each.kind}" for each in _machines(table)}
    names = settings.prices.hour_micros
    return [name for name in names if name.removesuffix("/spot").partition("@")[0] not in known]
