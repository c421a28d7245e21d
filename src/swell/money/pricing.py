"""The price book: what an hour of one GPU costs, by provider, kind of machine and region. Pure.

Three sources, the first that has a price: what the operator has set, what a cloud tells now, and a
small list that comes with Swell (`prices.toml`), each row with the day it was read and its source.
What a cloud tells is believed within bounds: none of zero, and no outlier, may win.
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.resources import files
from typing import Final, NamedTuple

import msgspec

#: A live price counts from and up to so many times the listed one.
LEAST: Final = 0.2
MOST: Final = 3.0


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an hour of one GPU costs."""

    #: Such as `aws`, `gcp`, `azure`.
    provider: str
    #: As the provider calls it, such as `g6.xlarge`.
    kind: str
    gpu: str
    #: How many GPUs such a machine has; the price is that of one.
    gpus: int = 1
    #: Region or zone; empty for any.
    region: str = ""
    #: Whether the provider may take it back.
    spot: bool = False
    #: Millionths of a dollar; >= 1.
    hour_micros: int
    #: When it was read, and where.
    read_on: date
    source: str
    note: str = ""


class MachinePrice(NamedTuple):
    """What an hour of a whole machine costs, and who says so.

    Args:
        hour_micros: Millionths of a dollar.
        source: For people: a setting, or a row of the list.
        read_on: When the list's source was read; None for a setting.
    """

    hour_micros: int
    source: str
    read_on: date | None = None


class LivePrice(NamedTuple):
    """What an hour of a whole machine costs now, as its cloud tells.

    Args:
        kind: Of machine, as the cloud calls it.
        place: Zone or region.
        hour_micros: Millionths of a dollar.
    """

    kind: str
    place: str
    hour_micros: int


def prices_of(text: str) -> list[Price]:
    """Return the rows of a price list in TOML.

    Raises:
        ValueError: It is none, a row lacks something, or a price is below 1.
    """
    rows = msgspec.convert(tomllib.loads(text).get("price", []), list[Price])
    for each in rows:
        if each.hour_micros < 1:
            raise ValueError(f"the price of {each.provider} {each.kind} must be at least 1")
    return rows


def price_name(provider: str, kind: str, *, region: str = "", spot: bool = False) -> str:
    """Return how settings name a price, such as `aws/g6.xlarge@us-east-1/spot`."""
    return f"{provider}/{kind}" + (f"@{region}" if region else "") + ("/spot" if spot else "")


def bounded(live_micros: int, listed_micros: int) -> int:
    """Return a live price within bounds of the listed one; that itself where it cannot be one.

    Args:
        live_micros: What a cloud tells.
        listed_micros: What is listed; >= 1.
    """
    if live_micros <= 0:
        return listed_micros
    least, most = round(LEAST * listed_micros), round(MOST * listed_micros)
    return max(1, least, min(most, live_micros))


class PriceBook:
    """All prices that are known.

    Args:
        listed: Of a list.
        own: The operator's, by `price_name`, in millionths of a dollar an hour.
    """

    def __init__(self, listed: Sequence[Price], own: Mapping[str, int] | None = None) -> None:
        self._own = dict(own or {})
        self._listed: dict[tuple[str, str, bool], list[Price]] = {}
        for each in listed:
            key = (each.provider, each.kind, each.spot)
            self._listed.setdefault(key, []).append(each)

    def listed(
        self, provider: str, kind: str, *, region: str = "", spot: bool = False
    ) -> Price | None:
        """Return the row of a region, or else of any, or else the dearest; None for no row."""
        return self._row(provider, kind, (region,), spot)

    def machine(
        self,
        provider: str,
        kind: str,
        *,
        places: Sequence[str] = (),
        spot: bool = False,
        gpus: int = 1,
    ) -> MachinePrice | None:
        """Return what an hour of a whole machine costs; None where nobody knows it.

        Where no price of spot machines is known, it is that of others: they never cost more. An
        operator's price counts for each GPU of a machine that is listed, else for all of it.

        Args:
            provider: Such as `aws`.
            kind: Of machine.
            places: Where it may stand, the most exact first, such as a zone and its region.
            spot: Whether the provider may take it back.
            gpus: How many GPUs it has, where the list does not say it.
        """
        row = self._row(provider, kind, places, spot)
        like = row or self._row(provider, kind, places, not spot)
        many = gpus if like is None else like.gpus
        name = self.own_name(provider, kind, places, spot=spot)
        if name is not None:
            return MachinePrice(many * self._own[name], f"prices.hour_micros, {name}")
        if row is not None:
            name = price_name(provider, kind, region=row.region, spot=spot)
            return MachinePrice(many * row.hour_micros, f"{name}: {row.source}", row.read_on)
        if not spot:
            return None
        usual = self.machine(provider, kind, places=places, gpus=gpus)
        if usual is None:
            return None
        return usual._replace(source=f"{usual.source}; on-demand price")

    def own_name(
        self, provider: str, kind: str, places: Sequence[str], *, spot: bool
    ) -> str | None:
        """Return by which name the operator has set a price; None where that is not so."""
        for place in (*places, ""):
            name = price_name(provider, kind, region=place, spot=spot)
            if name in self._own:
                return name
        return None

    def knows(self, provider: str, kind: str) -> bool:
        """Return whether a kind of machine is listed, and so how many GPUs it has."""
        return any((provider, kind, spot) in self._listed for spot in (False, True))

    def believed(
        self, provider: str, told: LivePrice, *, places: Sequence[str], spot: bool
    ) -> int | None:
        """Return what an hour of a machine costs by what a cloud tells, within bounds.

        None where that cannot be a price, and nothing is listed.

        Args:
            provider: Such as `aws`.
            told: What it tells.
            places: Where the machine may stand, the most exact first.
            spot: Whether that is the price of spot machines.
        """
        row = self._row(provider, told.kind, places, spot)
        if row is not None:
            return bounded(told.hour_micros, row.gpus * row.hour_micros)
        return told.hour_micros if told.hour_micros > 0 else None

    def _row(self, provider: str, kind: str, places: Sequence[str], spot: bool) -> Price | None:
        rows = self._listed.get((provider, kind, spot), [])
        for wanted in (*places, ""):
            for each in rows:
                if each.region == wanted:
                    return each
        return max(rows, key=lambda each: each.hour_micros, default=None)

    def hour_micros(
        self,
        provider: str,
        kind: str,
        *,
        region: str = "",
        spot: bool = False,
        live_micros: int | None = None,
    ) -> int | None:
        """Return what an hour of one GPU costs, in millionths of a dollar; None if nobody knows.

        Args:
            provider: Such as `aws`.
            kind: Of machine.
            region: Region or zone; empty where that is not known.
            spot: Whether the provider may take it back.
            live_micros: What the provider tells now; None where it was not asked.
        """
        for wanted in (region, ""):
            own = self._own.get(price_name(provider, kind, region=wanted, spot=spot))
            if own is not None:
                return own
        listed = self.listed(provider, kind, region=region, spot=spot)
        if listed is None:
            return live_micros if live_micros is not None and live_micros > 0 else None
        if live_micros is None:
            return listed.hour_micros
        return bounded(live_micros, listed.hour_micros)


#: What comes with Swell.
LIST: Final[Sequence[Price]] = tuple(
    prices_of((files("swell.money") / "prices.toml").read_text(encoding="utf-8"))
)
