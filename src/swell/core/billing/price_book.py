"""The price book: the price of an hour of one GPU, by provider, machine type and region. Pure.

The first of three sources with a price counts: the operator's settings, the cloud's current quote,
and Swell's list (`prices.toml`), where each row has its source and date. A quote counts within
bounds of the list, so neither an outlier nor a price of zero is used.
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.resources import files
from typing import Annotated, Final, NamedTuple

import msgspec

#: Bounds of a quote, as multiples of the listed price.
LEAST: Final = 0.2
MOST: Final = 3.0


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of an hour of one GPU."""

    #: Such as `aws`, `gcp`, `azure`.
    provider: str
    #: The provider's name of the machine type, such as `g6.xlarge`.
    kind: str
    gpu: str
    #: GPUs of such a machine; the price is that of one.
    gpus: int = 1
    #: Region or zone; empty for any.
    region: str = ""
    #: Whether the provider may reclaim it.
    spot: bool = False
    #: Millionths of a dollar.
    hour_micros: Annotated[int, msgspec.Meta(ge=1)]
    #: Date and source of the price.
    read_on: date
    source: str
    note: str = ""


class MachinePrice(NamedTuple):
    """The price of an hour of a whole machine.

    Args:
        hour_micros: Millionths of a dollar.
        source: For people: a setting, or a row of the list.
        read_on: The date of the list's source; None for a setting.
    """

    hour_micros: int
    source: str
    read_on: date | None = None


class Machine(NamedTuple):
    """A machine that a provider may launch.

    Args:
        provider: Such as `aws`.
        kind: The machine type.
        places: Where it may run, the most exact first, such as a zone and its region.
        spot: Whether the provider may reclaim it.
        gpus: Its GPUs, if the list does not have them.
    """

    provider: str
    kind: str
    places: Sequence[str] = ()
    spot: bool = False
    gpus: int = 1


class LivePrice(NamedTuple):
    """A cloud's current quote for an hour of a whole machine.

    Args:
        kind: The cloud's name of the machine type.
        place: Zone or region.
        hour_micros: Millionths of a dollar.
    """

    kind: str
    place: str
    hour_micros: int


def prices_of(text: str) -> list[Price]:
    """Return the rows of a price list in TOML.

    Raises:
        ValueError: The list is invalid, a row lacks a field, or a price is below 1.
    """
    return msgspec.convert(tomllib.loads(text).get("price", []), list[Price])


def price_name(provider: str, kind: str, *, region: str = "", spot: bool = False) -> str:
    """Return the name of a price in the settings, such as `aws/g6.xlarge@us-east-1/spot`."""
    return f"{provider}/{kind}" + (f"@{region}" if region else "") + ("/spot" if spot else "")


class PriceBook:
    """All known prices.

    Args:
        listed: The rows of a list.
        own: The operator's prices by `price_name`, in millionths of a dollar an hour.
    """

    def __init__(self, listed: Sequence[Price], own: Mapping[str, int] | None = None) -> None:
        self._own = dict(own or {})
        self._listed: dict[tuple[str, str, bool], list[Price]] = {}
        for each in listed:
            key = (each.provider, each.kind, each.spot)
            self._listed.setdefault(key, []).append(each)

    def price(self, machine: Machine) -> MachinePrice | None:
        """Return the price of an hour of a whole machine; None if unknown.

        A spot machine without a price has the on-demand price, which is never lower. An operator's
        price counts for each GPU of a listed machine, else for the whole machine.
        """
        row, usual = self._row(machine), machine._replace(spot=False)
        like = row or self._row(machine._replace(spot=not machine.spot))
        gpus = machine.gpus if like is None else like.gpus
        name = self.own_name(machine)
        if name is not None:
            return MachinePrice(gpus * self._own[name], f"prices.hour_micros, {name}")
        if row is not None:
            name = price_name(row.provider, row.kind, region=row.region, spot=row.spot)
            return MachinePrice(gpus * row.hour_micros, f"{name}: {row.source}", row.read_on)
        price = self.price(usual) if machine.spot else None
        return price and price._replace(source=f"{price.source}; on-demand price")

    def own_name(self, machine: Machine) -> str | None:
        """Return the name of the operator's price; None if there is none."""
        provider, kind, places, spot, _ = machine
        names = (price_name(provider, kind, region=each, spot=spot) for each in (*places, ""))
        return next((name for name in names if name in self._own), None)

    def live_micros(self, machine: Machine, quote_micros: int) -> int | None:
        """Return the price of an hour of a machine by its cloud's quote.

        The operator's price counts instead of the quote. None if the quote cannot be a price and
        the machine is not listed.
        """
        if self.own_name(machine) is not None:
            own = self.price(machine)
            return own and own.hour_micros
        row = self._row(machine)
        if row is None:
            return quote_micros if quote_micros > 0 else None
        listed = row.gpus * row.hour_micros
        if quote_micros <= 0:
            return listed
        return max(1, round(LEAST * listed), min(round(MOST * listed), quote_micros))

    def _row(self, machine: Machine) -> Price | None:
        """Return the row of the most exact place, or of any place, or the most expensive row."""
        rows = self._listed.get((machine.provider, machine.kind, machine.spot), [])
        by_region = {each.region: each for each in reversed(rows)}
        exact = (by_region[each] for each in (*machine.places, "") if each in by_region)
        return next(exact, max(rows, key=lambda each: each.hour_micros, default=None))


#: The list that comes with Swell.
LIST: Final[Sequence[Price]] = tuple(
    prices_of((files("swell.core.billing") / "prices.toml").read_text(encoding="utf-8"))
)
