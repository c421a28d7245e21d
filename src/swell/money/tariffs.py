"""What an hour of a worker of a pool has cost over time, where its price changes. Pure.

Whoever scales pools asks clouds for prices of spot machines and writes down each change, as a note
in the registry; backends charge machines by it. A machine costs the price in force at each moment
of its life, from when that was learnt: what it has cost is the sum over the parts of its life.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

#: Name of the note: pool → `PoolTariff`.
TARIFFS: Final = "autoscaler.tariffs"

#: So many changes are remembered: a week of one every ten minutes. Older ones become one.
_MOST: Final = 1000

_HOUR_S: Final = 3600


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A price, in millionths of a dollar an hour, and from when it is in force."""

    at: datetime
    hour_micros: int


class PoolTariff(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the price of one pool."""

    #: The oldest first.
    steps: Sequence[Step] = ()
    #: Who said the newest, for people, and when: it holds for a while after nobody says anything.
    source: str = ""
    told_at: datetime | None = None
    #: Why it is none of now, for people; empty where it is.
    note: str = ""


def price_at(steps: Sequence[Step], at: datetime, before: int) -> int:
    """Return the price in force at a moment.

    Args:
        steps: The oldest first.
        at: The moment.
        before: What was in force before the first step.
    """
    known = [each.hour_micros for each in steps if each.at <= at]
    return known[-1] if known else before


def changed(steps: Sequence[Step], at: datetime, hour_micros: int) -> tuple[Step, ...]:
    """Return steps with a price that is in force from now on; the same where it was before.

    Of too many the two oldest become one that costs as much together.

    Args:
        steps: The oldest first.
        at: Now; not before the newest step.
        hour_micros: The price.
    """
    if steps and steps[-1].hour_micros == hour_micros:
        return tuple(steps)
    # A clock that was put back changes nothing of the past.
    at = max([at, *(each.at for each in steps[-1:])])
    kept = [*steps, Step(at, hour_micros)]
    while len(kept) > _MOST:
        first, second, third = kept[:3]
        one_s, both_s = (second.at - first.at), (third.at - first.at)
        share = one_s / both_s if both_s else 0.0
        mean = share * first.hour_micros + (1 - share) * second.hour_micros
        kept[:2] = [Step(first.at, round(mean))]
    return tuple(kept)


def life_micros(steps: Sequence[Step], since: datetime, until: datetime, first_micros: int) -> int:
    """Return what a machine has cost from a moment to another, rounded once, half to even.

    Args:
        steps: The oldest first.
        since: When it was asked for.
        until: Until when it is paid; nothing before `since`.
        first_micros: What an hour cost before the first step.
    """
    inside = [each for each in steps if since < each.at < until]
    parts = [Step(since, price_at(steps, since, first_micros)), *inside]
    ends = [*(each.at for each in inside), max(since, until)]
    paid = sum(
        (end - part.at).total_seconds() * part.hour_micros
        for part, end in zip(parts, ends, strict=True)
    )
    return round(paid / _HOUR_S)
