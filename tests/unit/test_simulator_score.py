import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rivals.score import Served, at_equal_service, for_all, geometric_mean, pooled


def served(times: float, late: float, knob: float, curve: str = "one") -> Served:
    return Served(curve=curve, knob=knob, times=times, late=late)


def test_the_cheapest_that_serves_well_enough_counts() -> None:
    tried = [served(2.0, 0.0, 1), served(1.5, 0.05, 2), served(1.7, 0.04, 3, "other")]
    assert at_equal_service(tried) == 1.5


def test_between_two_neighbours_the_cost_is_interpolated() -> None:
    assert at_equal_service([served(1.4, 0.01, 1), served(1.2, 0.09, 2)]) == pytest.approx(1.3)


def test_nothing_is_interpolated_between_curves_or_past_a_neighbour() -> None:
    tried = [served(1.4, 0.05, 1), served(1.0, 0.9, 1, "other")]
    assert at_equal_service(tried) == 1.4
    tried = [served(1.4, 0.05, 1), served(1.6, 0.06, 2), served(1.0, 0.9, 3)]
    assert at_equal_service(tried) == 1.4


def test_what_never_serves_well_enough_has_no_cost() -> None:
    assert at_equal_service([served(1.0, 0.06, 1), served(2.0, 0.07, 2)]) is None
    assert at_equal_service([]) is None


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.floats(1, 9), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=9)
)
def test_a_score_is_never_below_all_that_was_tried(tried: list[tuple[float, float, int]]) -> None:
    found = at_equal_service([served(*each) for each in tried])
    if found is not None:
        assert found >= min(times for times, _, _ in tried)
    assert (found is None) == all(late > 0.05 for _, late, _ in tried)


def test_one_setting_for_all_serves_well_enough_on_each() -> None:
    calm = [served(1.4, 0.0, 1), served(1.2, 0.04, 2), served(1.0, 0.3, 3)]
    wild = [served(1.8, 0.0, 1), served(1.6, 0.1, 2), served(1.5, 0.5, 3)]
    # Half way between the first and the second, 5 % are late on the wild one.
    assert for_all([calm, wild]) == [pytest.approx(1.3), pytest.approx(1.7)]
    assert for_all([calm]) == [1.2]


def test_where_one_trace_is_never_served_there_is_no_setting_for_all() -> None:
    assert for_all([[served(1.0, 0.0, 1)], [served(1.0, 0.06, 1)]]) is None


def test_runs_of_several_seeds_count_by_their_samples() -> None:
    both = pooled([served(1.0, 0.0, 1), served(2.0, 0.1, 1)], [3.0, 1.0])
    assert (both.times, both.late) == (pytest.approx(1.25), pytest.approx(0.025))


def test_the_geometric_mean_is_one() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
