"""How demand usually grows at this time of the day, learnt from what was seen. Pure.

For each half hour of a workday and of a weekend it is remembered by how much demand grew in it, as
a logarithm, over the last days. What is remembered counts as far as it has foretold what came then:
a day unlike the others is not believed, and a crowd that came once is not awaited again.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_HALF_HOUR_S: Final = 1800.0
_SLOTS: Final = 48
_DAY_S: Final = 86400.0
#: The first day of 1970 was a Thursday.
_FIRST_WEEKDAY: Final = 3
_WEEKEND: Final = (5, 6)
#: So many days are remembered, the last ones more.
_DAYS: Final = 7.0
#: So many half hours say how good it foretells.
_JUDGED: Final = 48.0
#: Of growth in half an hour, more than this is no habit.
_MOST_GROWTH: Final = 2.5


class Habit(NamedTuple):
    """What is remembered of one model.

    Args:
        slot: The half hour that was begun last, counted from 1970; -1 before the first.
        level: Logarithm of the rate when it began.
        with_: Mean square of what was not foretold, by what was remembered.
        without: The same if nothing were.
        days: How many workdays and weekends were seen.
        growths: Of each half hour of a workday, then of a weekend.
    """

    slot: float
    level: float
    with_: float
    without: float
    days: tuple[float, float]
    growths: tuple[float, ...]

    @property
    def trust(self) -> float:
        """How far it is believed, 0 to 1."""
        if self.without <= 0.0 or min(1.0, max(self.days)) < 1.0:
            return 0.0
        return max(0.0, 1.0 - self.with_ / self.without)


_NOTHING: Final = Habit(-1.0, 0.0, 0.0, 0.0, (0.0, 0.0), (0.0,) * (2 * _SLOTS))


def habit(numbers: Sequence[float]) -> Habit:
    """Return what was remembered as numbers; nothing where they are none."""
    if len(numbers) != 6 + 2 * _SLOTS:
        return _NOTHING
    slot, level, with_, without, workdays, weekends, *growths = numbers
    return Habit(slot, level, with_, without, (workdays, weekends), tuple(growths))


def known(remembered: Habit) -> list[float]:
    """Return what is remembered as numbers."""
    slot, level, with_, without, days, growths = remembered
    rounded = (round(each, 4) for each in (level, with_, without, *days, *growths))
    return [slot, *rounded]


def learn(remembered: Habit, at: float, level: float) -> Habit:
    """Return what is remembered after a look.

    Args:
        remembered: Before it.
        at: Now, in seconds since 1970.
        level: Logarithm of the rate now.
    """
    slot = math.floor(at / _HALF_HOUR_S)
    if slot <= remembered.slot:
        return remembered
    if slot != remembered.slot + 1:
        return remembered._replace(slot=float(slot), level=level)
    grown = max(-_MOST_GROWTH, min(_MOST_GROWTH, level - remembered.level))
    place, is_weekend = _place(slot - 1)
    foretold = remembered.growths[place]
    days = list(remembered.days)
    days[is_weekend] += 1.0 / _SLOTS
    gain = 1.0 / min(_DAYS, 1.0 + math.floor(remembered.days[is_weekend]))
    growths = list(remembered.growths)
    growths[place] += gain * (grown - foretold)
    with_, without = remembered.with_, remembered.without
    if remembered.days[is_weekend] >= 1.0:
        with_ += ((grown - foretold) ** 2 - with_) / _JUDGED
        without += (grown**2 - without) / _JUDGED
    return Habit(float(slot), level, with_, without, (days[0], days[1]), tuple(growths))


def growth(remembered: Habit, at: float, ahead_s: float) -> float:
    """Return by how much demand usually grows from now on, as a logarithm, as far as is believed.

    Args:
        remembered: What was learnt.
        at: Now, in seconds since 1970.
        ahead_s: Until when.
    """
    trust = remembered.trust
    if trust <= 0.0:
        return 0.0
    total, begin, end = 0.0, at, at + ahead_s
    while begin < end:
        slot = math.floor(begin / _HALF_HOUR_S)
        until = min(end, (slot + 1) * _HALF_HOUR_S)
        place, is_weekend = _place(slot)
        if remembered.days[is_weekend] >= 1.0:
            total += remembered.growths[place] * (until - begin) / _HALF_HOUR_S
        begin = until
    return trust * total


def _place(slot: int) -> tuple[int, int]:
    """Return where a half hour is remembered, and whether it is of a weekend."""
    day = math.floor(slot * _HALF_HOUR_S / _DAY_S)
    is_weekend = int((day + _FIRST_WEEKDAY) % 7 in _WEEKEND)
    return slot % _SLOTS + _SLOTS * is_weekend, is_weekend
