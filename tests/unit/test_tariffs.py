"""A machine costs the price in force at each moment of its life."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.billing.ledger import cost_micros
from swell.core.billing.price_history import Step, changed, life_micros, price_at

AT = datetime(2030, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


#: Steps some time apart, the oldest first.
STEPS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9_000_000)), max_size=12).map(
    lambda told: tuple(Step(after(at), price) for at, price in sorted(told))
)
MOMENTS = st.integers(-2000, 9000)


def test_each_part_of_a_life_has_the_price_that_was_in_force() -> None:
    steps = (Step(after(1000), 7_200_000), Step(after(2000), 3_600_000))
    # 1,000 s at 1,800, 1,000 s at 2,000 and 500 s at 1,000 micros a second.
    assert life_micros(steps, AT, after(2500), 6_480_000) == 1_800_000 + 2_000_000 + 500_000
    assert life_micros(steps, after(2100), after(2100), 6_480_000) == 0
    assert [price_at(steps, after(at), 5) for at in (999, 1000, 1999, 9000)] == [
        5,
        7_200_000,
        7_200_000,
        3_600_000,
    ]


@given(steps=STEPS, moments=st.lists(MOMENTS, min_size=3, max_size=3), first=st.integers(0, 10**7))
def test_a_life_costs_what_its_parts_do(
    steps: tuple[Step, ...], moments: list[int], first: int
) -> None:
    since, between, until = (after(each) for each in sorted(moments))
    whole = life_micros(steps, since, until, first)
    parts = life_micros(steps, since, between, first) + life_micros(steps, between, until, first)
    assert abs(whole - parts) <= 1, "each is rounded once"
    prices = [first, *(each.hour_micros for each in steps)]
    seconds = (until - since).total_seconds()
    assert seconds * min(prices) / 3600 - 1 <= whole <= seconds * max(prices) / 3600 + 1


@given(seconds=st.floats(0, 10**6), price=st.integers(0, 10**8))
def test_a_price_that_does_not_change_costs_what_it_ever_did(seconds: float, price: int) -> None:
    until = after(seconds)
    lived_s = (until - AT).total_seconds()
    assert life_micros((), AT, until, price) == cost_micros(lived_s, price)
    assert life_micros((Step(AT, price),), AT, until, 1) == cost_micros(lived_s, price)


def test_the_same_price_is_no_change_and_time_never_runs_back() -> None:
    steps = changed((), AT, 5)
    assert changed(steps, after(10), 5) == steps
    assert changed(steps, after(-10), 6) == (Step(AT, 5), Step(AT, 6))


@pytest.mark.parametrize("prices", [(1_000_000, 3_000_000), (900_000, 700_000)])
def test_beyond_the_limit_the_oldest_changes_become_one_that_costs_as_much(
    prices: tuple[int, int],
) -> None:
    steps: tuple[Step, ...] = ()
    for number in range(1300):
        steps = changed(steps, after(600 * number), prices[number % 2] + number)
    assert len(steps) == 1000
    assert steps[0].at == AT
    exact = sum(600 * (prices[number % 2] + number) for number in range(1300)) / 3600
    assert life_micros(steps, AT, after(600 * 1300), 0) == pytest.approx(exact, rel=1e-6)
