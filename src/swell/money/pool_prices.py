"""What an hour of one worker of a pool costs, and who says so. Pure.

What the pool itself says counts; else what the operator has set for its kind of machine; else what
its cloud tells now, where it tells that; else what the list says that comes with Swell. A pool that
may get several kinds of machines has the price of the dearest, so that no budget is passed by a
guess; where its machines stand already, and their cloud tells what each costs, it has their mean,
so that together they cost what is paid.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from swell.money.pricing import LIST, LivePrice, MachinePrice, PriceBook, price_name
from swell.settings.load import Settings
from swell.settings.pools import PoolTable


class _Names(NamedTuple):
    """How a provider calls kinds of machines and regions among its options."""

    kinds: str
    region: str
    #: What its prices of now are called; empty where it is not asked for any.
    prices: str = ""


_CLOUDS: Final[Mapping[str, _Names]] = {
    "aws": _Names("types", "region", "EC2's spot price history"),
    "gcp": _Names("types", "region"),
    "azure": _Names("sizes", "location", "Azure's retail prices"),
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


def tells_prices(table: PoolTable) -> bool:
    """Return whether a pool's cloud tells what machines cost now."""
    names = _CLOUDS.get(table.provider)
    return names is not None and bool(names.prices)


def may_change(table: PoolTable, book: PriceBook) -> bool:
    """Return whether a pool's price is one that its cloud tells, and that changes."""
    if table.hour_micros is not None or not tells_prices(table):
        return False
    if table.provider == "aws" and not table.is_spot:
        return False
    names = _CLOUDS[table.provider]
    places = _places(table.options, names.region)
    kinds = _words(table.options, names.kinds)
    own = [book.own_name(table.provider, kind, places, spot=table.is_spot) for kind in kinds]
    return None in own


def live_price(
    name: str,
    table: PoolTable,
    book: PriceBook,
    told: Sequence[LivePrice],
    standing: Mapping[tuple[str, str], int],
) -> MachinePrice | None:
    """Return what an hour of one worker of a pool costs by what its cloud tells now.

    None where nothing of that can be a price.

    Args:
        name: The pool.
        table: Its settings.
        book: All other prices.
        told: By kind of machine and place.
        standing: Kind and place → how many machines of the pool stand there.
    """
    names = _CLOUDS[table.provider]
    rows = _believed(table, book, told, _places(table.options, names.region))
    if not rows:
        return None
    found = [(_of(rows, *where), n) for where, n in standing.items()]
    known = [(row, n) for row, n in found if row is not None]
    if known:
        many = sum(n for _, n in known)
        mean = round(sum(row.hour_micros * n for row, n in known) / many)
        paid = {row: None for row, _ in known}
        return MachinePrice(mean, _said(table, list(paid), names.prices))
    dearest = max(rows, key=lambda row: row.hour_micros)
    listed = pool_price(name, _without(table, {row.kind for row in rows}), book)
    if listed is not None and listed.hour_micros > dearest.hour_micros:
        return listed
    return MachinePrice(dearest.hour_micros, _said(table, [dearest], names.prices))


def _believed(
    table: PoolTable, book: PriceBook, told: Sequence[LivePrice], places: Sequence[str]
) -> list[LivePrice]:
    """Return what is told, within bounds, and what the operator says in its place."""
    spot, found = table.is_spot, []
    for each in told:
        where = list(dict.fromkeys((each.place, *places)))
        if book.own_name(table.provider, each.kind, where, spot=spot) is not None:
            own = book.machine(table.provider, each.kind, places=where, spot=spot)
            micros = None if own is None else own.hour_micros
        else:
            micros = book.believed(table.provider, each, places=where, spot=spot)
        if micros is not None:
            found.append(each._replace(hour_micros=micros))
    return found


def _of(rows: Sequence[LivePrice], kind: str, place: str) -> LivePrice | None:
    """Return the price of a kind of machine in a place, or else the dearest of its kind."""
    own = [row for row in rows if row.kind == kind]
    exact = [row for row in own if row.place == place]
    return max(exact or own, key=lambda row: row.hour_micros, default=None)


def _said(table: PoolTable, rows: Sequence[LivePrice], prices: str) -> str:
    names = [
        price_name(table.provider, row.kind, region=row.place, spot=table.is_spot) for row in rows
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    mean = ", the mean" if len(names) > 1 else ""
    return f"{', '.join(names[:3])}{more}: {prices}{mean}"


def _without(table: PoolTable, kinds: Collection[str]) -> PoolTable:
    """Return a pool without some of its kinds of machines."""
    name = _CLOUDS[table.provider].kinds
    left = [each for each in _words(table.options, name) if each not in kinds]
    return table.model_copy(update={"options": {**table.options, name: left}})


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


def whole_machines(settings: Settings) -> list[str]:
    """Return the names of one's own prices that count for a whole machine.

    A price is of one GPU, but how many such a machine has, neither the list nor the pool says.
    """
    book, found = book_of(settings), dict[str, None]()
    for table in settings.pools.values():
        names = _CLOUDS.get(table.provider)
        if names is None or table.hour_micros is not None or table.options.get("accelerator"):
            continue
        places = _places(table.options, names.region)
        for kind in _words(table.options, names.kinds):
            own = book.own_name(table.provider, kind, places, spot=table.is_spot)
            own = own or book.own_name(table.provider, kind, places, spot=False)
            if own is not None and not book.knows(table.provider, kind):
                found[own] = None
    return list(found)


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
