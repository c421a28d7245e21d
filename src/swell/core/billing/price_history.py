"""The price of an hour of a worker over time. Pure.

The autoscaler writes each change of a pool's price into a note in the registry; backends charge
machines by it. A machine costs the price in force at each moment of its life.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

#: Name of the note: pool → `PoolTariff`.
TARIFFS: Final = "autoscaler.tariffs"

#: Changes kept: a week of one every ten minutes. The oldest are merged.
_MOST: Final = 1000

_HOUR_S: Final = 3600


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A price in millionths of a dollar an hour, in force from a moment on."""

    at: datetime
    hour_micros: int


class PoolTariff(msgspec.Struct, frozen=True, kw_only=True):
    """The price of one pool over time."""

    #: The oldest first.
    steps: Sequence[Step] = ()
    #: Source and time of the newest price, for people.
    source: str = ""
    told_at: datetime | None = None
    #: Why the newest price is not current; empty if it is.
    note: str = ""


def price_at(steps: Sequence[Step], at: datetime, before: int) -> int:
    """Return the price in force at a moment.

    Args:
        steps: The oldest first.
        at: The moment.
        before: The price before the first step.
    """
    known = [each.hour_micros for each in steps if each.at <= at]
    return known[-1] if known else before


def changed(steps: Sequence[Step], at: datetime, hour_micros: int) -> tuple[Step, ...]:
    """Return steps with a price in force from now on; the same steps if it has not changed.

    Beyond the limit, the two oldest steps become one that costs as much.

    Args:
        steps: The oldest first.
        at: Now.
        hour_micros: The price.
    """
    if steps and steps[-1].hour_micros == hour_micros:
        return tuple(steps)
    # If the clock was set back, the past stays as it is.
    at = max([at, *(each.at for each in steps[-1:])])
    kept = [*steps, Step(at, hour_micros)]
    while len(kept) > _MOST:
        first, second, third = kept[:3]
        first_s, both_s = (second.at - first.at), (third.at - first.at)
        share = first_s / both_s if both_s else 0.0
        mean = share * first.hour_micros + (1 - share) * second.hour_micros
        kept[:2] = [Step(first.at, round(mean))]
    return tuple(kept)


def life_micros(steps: Sequence[Step], since: datetime, until: datetime, first_micros: int) -> int:
    """Return the cost of a machine between two moments, rounded once, half to even.

    Args:
        steps: The oldest first.
        since: The start.
        until: The end; nothing is charged if it is before `since`.
        first_micros: The price before the first step.
    """
    inside = [each for each in steps if since < each.at < until]
    parts = [Step(since, price_at(steps, since, first_micros)), *inside]
    ends = [*(each.at for each in inside), max(since, until)]
    paid = sum(
        (end - part.at).total_seconds() * part.hour_micros
        for part, end in zip(parts, ends, strict=True)
    )
    return round(paid / _HOUR_S)
