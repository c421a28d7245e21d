"""Quantiles with unfinished durations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.kaplan_meier import Observation, Prior, Quantile, quantiles

SECONDS = st.floats(0.0, 1e5, allow_nan=False).map(lambda s: round(s, 3))
OVER = st.builds(Observation, SECONDS)
ANY = st.builds(Observation, SECONDS, st.booleans())
SHARES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5).map(sorted)


def told(*observed: Observation, at: float = 0.5) -> Quantile:
    return quantiles(observed, [at])[0]


def test_without_observations_there_is_no_quantile() -> None:
    assert quantiles([], [0.5, 0.9]) == [Quantile(None), Quantile(None)]


@given(st.lists(OVER, min_size=1), SHARES)
def test_where_all_is_over_they_are_those_of_the_sample(
    observed: list[Observation], shares: list[float]
) -> None:
    ordered = sorted(each.seconds for each in observed)
    for share, found in zip(shares, quantiles(observed, shares), strict=True):
        place = max(0, math.ceil(share * len(ordered) - 1e-6) - 1)
        assert found == Quantile(ordered[place])


def test_the_textbook_case_is_as_in_the_textbook() -> None:
    # 6-MP arm of Freireich et al. (1963), as in every text on survival: the median is 23 weeks.
    over = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    going_on = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    observed = [*(Observation(s) for s in over), *(Observation(s, False) for s in going_on)]
    assert quantiles(observed, [0.25, 0.5, 0.75]) == [
        Quantile(13),
        Quantile(23),
        Quantile(35, is_bound=True),
    ]


@given(st.lists(ANY, min_size=1), SHARES)
def test_a_larger_share_never_takes_less(observed: list[Observation], shares: list[float]) -> None:
    found = [each.seconds for each in quantiles(observed, shares)]
    assert None not in found
    assert found == sorted(found, key=lambda s: s or 0.0)


@given(st.lists(ANY, min_size=1), SECONDS, SHARES)
def test_unfinished_durations_never_make_a_quantile_shorter(
    observed: list[Observation], seconds: float, shares: list[float]
) -> None:
    before = quantiles(observed, shares)
    after = quantiles([*observed, Observation(seconds, is_over=False)], shares)
    for old, new in zip(before, after, strict=True):
        assert old.seconds is not None
        assert new.seconds is not None
        assert new.seconds >= old.seconds


@given(st.lists(ANY, min_size=1), st.randoms(), SHARES)
def test_their_order_does_not_matter(
    observed: list[Observation], random: object, shares: list[float]
) -> None:
    shuffled = list(observed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert quantiles(shuffled, shares) == quantiles(observed, shares)


@given(st.lists(ANY, min_size=1), st.integers(2, 9), SHARES)
def test_a_weight_counts_as_that_number_of_observations(
    observed: list[Observation], times: int, shares: list[float]
) -> None:
    heavy = [Observation(each.seconds, each.is_over, float(times)) for each in observed]
    assert quantiles(heavy, shares) == quantiles(observed * times, shares)


def test_unfinished_boots_raise_the_quantiles() -> None:
    seen = [Observation(60.0)] * 5
    assert told(*seen, at=0.9) == Quantile(60.0)
    stuck = [Observation(300.0, is_over=False)] * 3
    assert told(*seen, *stuck, at=0.9) == Quantile(300.0, is_bound=True)
    # Those that began just now say nothing yet.
    young = [Observation(5.0, is_over=False)] * 50
    assert told(*seen, *young, at=0.9) == Quantile(60.0)


PRIOR = Prior(120.0, 300.0)


def test_a_prior_stands_in_where_nothing_is_known() -> None:
    p50, p90 = (each.seconds for each in quantiles([], [0.5, 0.9], PRIOR))
    assert p50 == pytest.approx(120.0, rel=0.06)
    assert p90 == pytest.approx(300.0, rel=0.06)


@given(st.lists(OVER, min_size=5), SHARES)
def test_a_prior_is_forgotten_once_enough_was_seen(
    observed: list[Observation], shares: list[float]
) -> None:
    assert quantiles(observed, shares, PRIOR) == quantiles(observed, shares)


def test_observations_draw_the_prior_to_them() -> None:
    found = [told_with(n) for n in range(6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(300.0, rel=0.06)
    assert found[-1] == 10.0


def told_with(n: int) -> float:
    seconds = quantiles([Observation(10.0)] * n, [0.9], PRIOR)[0].seconds
    assert seconds is not None
    return seconds


def test_what_has_not_ended_leaves_the_prior_in_place() -> None:
    waiting = [Observation(200.0, is_over=False)] * 3
    seconds = quantiles(waiting, [0.5], PRIOR)[0].seconds
    assert seconds is not None
    assert seconds > 200.0
