"""When workers that were asked for will be ready, and what a pool's workers cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.autoscaler.outlook import PoolView
from swell.autoscaler.supply import Boots, supply, time_left_s


def pool(**given: object) -> PoolView:
    defaults = {"pool": "a", "rates": {"m": 0.5}, "start_p50_s": 300.0, "start_p95_s": 360.0}
    return PoolView(**(defaults | given))  # type: ignore[arg-type]


def test_a_start_takes_what_starts_take_less_its_age() -> None:
    assert time_left_s(0.0, 300.0, 360.0) == 300.0
    assert time_left_s(100.0, 300.0, 360.0) == pytest.approx(200.0, abs=1.0)


def test_one_that_takes_longer_than_others_is_expected_to_take_longer_still() -> None:
    late = [time_left_s(age, 300.0, 600.0) for age in (600.0, 900.0, 1500.0)]
    assert late == sorted(late)
    assert late[0] > 50.0


@given(st.floats(0.0, 1e5), st.floats(1.0, 2000.0), st.floats(1.0, 10.0))
def test_it_is_never_over_already(age_s: float, p50_s: float, factor: float) -> None:
    left_s = time_left_s(age_s, p50_s, p50_s * factor)
    assert 0.0 < left_s <= max(1e5, p50_s) * 10.0


@given(st.floats(0.0, 500.0), st.floats(0.0, 500.0))
def test_whoever_began_first_is_expected_first_as_long_as_none_is_overdue(
    one: float, other: float
) -> None:
    older, younger = max(one, other, 0.0), min(one, other)
    if older < 280.0:
        assert time_left_s(older, 300.0, 360.0) <= time_left_s(younger, 300.0, 360.0)


def test_those_that_start_together_are_counted_together() -> None:
    found = supply(pool(ready=2, booting=[10.0, 10.0, 200.0]))
    assert [(each.n, each.age_s) for each in found.boots] == [(1, 200.0), (2, 10.0)]
    assert isinstance(found.boots[0], Boots)
    assert found.n == 5
    assert found.coming(150.0) == 1


def test_what_a_start_costs_besides_lengthens_how_long_an_idle_worker_is_kept() -> None:
    found = supply(pool(hour_micros=1_000_000, launch_micros=50_000))
    assert found.keep_s == pytest.approx(300.0 + 180.0)


def test_a_pool_that_refused_has_room_for_those_that_it_has() -> None:
    assert supply(pool(ready=3, closed_s=60.0)).room == 3
    assert supply(pool(ready=3, most=10)).room == 10


def test_a_new_worker_costs_more_than_one_that_is_there_by_its_start() -> None:
    found = supply(pool(hour_micros=1_200_000))
    assert found.price == 1_200_000
    assert found.new_price == pytest.approx(1_300_000)
    rough = supply(pool(hour_micros=1_200_000, losses_per_hour=0.5, is_spot=True))
    assert rough.price == pytest.approx(1_250_000)
    assert rough.left == pytest.approx(0.959, abs=0.001)
