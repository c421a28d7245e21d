"""How demand usually grows: learnt from days that resemble each other, and not from others."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.autoscaler.seasonal import Habit, growth, habit, known, learn

DAY = 86400.0
#: A Monday.
MONDAY = 1_767_571_200.0


def course(at: float) -> float:
    """Three times as much in the evening as in the morning, as a logarithm."""
    return 0.55 * math.sin(2 * math.pi * at / DAY)


def seen(days: float, level: Callable[[float], float], remembered: Habit | None = None) -> Habit:
    found = remembered or habit(())
    for half_hour in range(round(days * 48) + 1):
        at = MONDAY + 1800.0 * half_hour
        found = learn(found, at, level(at))
    return found


def test_nothing_is_foretold_before_two_days_are_seen() -> None:
    assert growth(seen(0.9, course), MONDAY + 0.9 * DAY, 3600.0) == 0.0


@pytest.mark.parametrize("hour", [3, 9, 15.5])
def test_what_came_every_day_is_foretold(hour: float) -> None:
    at = MONDAY + 4 * DAY + hour * 3600.0
    found = growth(seen(4, course), at, 3600.0)
    assert found == pytest.approx(course(at + 3600.0) - course(at), abs=0.12)
    assert seen(4, course).trust > 0.7


def test_a_crowd_that_came_once_is_not_awaited_again() -> None:
    crowd = MONDAY + 2 * DAY + 15 * 3600.0

    def level(at: float) -> float:
        return 2.3 * math.exp(-(at - crowd) / 7200.0) if at >= crowd else 0.0

    found = seen(4, level)
    assert growth(found, crowd + 2 * DAY - 1800.0, 3600.0) < 0.1


def test_noise_is_no_habit() -> None:
    found = seen(6, lambda at: 0.3 * math.sin(at * at))
    assert found.trust < 0.2


def test_weekends_are_remembered_for_themselves() -> None:
    def level(at: float) -> float:
        is_weekend = (at - MONDAY) // DAY % 7 >= 5
        return -course(at) if is_weekend else course(at)

    found = seen(14, level)
    saturday = MONDAY + 19 * DAY + 3 * 3600.0
    tuesday = MONDAY + 15 * DAY + 3 * 3600.0
    assert growth(found, saturday, 3600.0) < -0.05
    assert growth(found, tuesday, 3600.0) > 0.05


def test_looking_often_teaches_no_more_than_looking_each_half_hour() -> None:
    often = habit(())
    for minute in range(2 * 1440 + 1):
        often = learn(often, MONDAY + 60.0 * minute, course(MONDAY + 60.0 * minute))
    assert often == seen(2, course)


def test_a_pause_teaches_nothing() -> None:
    before = seen(3, course)
    after = learn(before, MONDAY + 5 * DAY, 7.0)
    assert after.growths == before.growths


@pytest.mark.slow
@given(st.lists(st.floats(-20.0, 20.0), max_size=120))
def test_it_is_remembered_as_numbers(levels: list[float]) -> None:
    found = habit(())
    for place, level in enumerate(levels):
        found = learn(found, MONDAY + 1800.0 * place, level)
    again = habit(known(found))
    assert again.slot == found.slot
    assert again.growths == pytest.approx(found.growths, abs=1e-4)
    assert all(math.isfinite(each) for each in known(found))
