import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swell.core.errors import InvalidInput
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.traces import named

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rivals import least_s, levels_s, smoothest
from rivals.prices import certified, fair_prices

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def by_levels(work: list[int], gap: int) -> int:
    """What it costs, level by level, by looking at each gap."""
    total = 0
    for level in range(1, max(work) + 1):
        on = [at for at, each in enumerate(work) if each >= level]
        total += len(on) + min(on[0], gap)
        total += sum(min(after - before - 1, gap) for before, after in pairwise(on))
    return total


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 8))
def test_a_gap_is_bridged_or_begun_anew_at_each_level(work: list[int], gap: int) -> None:
    paid = levels_s(np.array(work, float), gap * TICK_S)
    assert paid == pytest.approx(by_levels(work, gap) * TICK_S)


def test_what_a_start_costs_besides_counts_as_time() -> None:
    work = np.array([1.0, 0, 0, 0, 0, 0, 1.0])
    assert levels_s(work, 20.0) == 2 * TICK_S + 20.0
    assert levels_s(work, 20.0, launch_s=15.0) == 2 * TICK_S + 35.0
    assert levels_s(work, 20.0, launch_s=900.0) == 7 * TICK_S


def test_without_waiting_everything_is_served_as_it_comes() -> None:
    came = np.array([1.0, 5.0, 0.0])
    assert smoothest(came, 0).tolist() == [1.0, 5.0, 0.0]


def test_a_burst_is_spread_over_what_it_may_wait() -> None:
    assert smoothest(np.array([0.0, 9.0, 0.0, 0.0]), 2) == pytest.approx([0, 3, 3, 3, 0, 0])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(COUNTS, st.integers(0, 4))
def test_nothing_is_served_before_it_came_or_after_it_was_due(came: list[int], wait: int) -> None:
    served = smoothest(np.array(came, float), wait)
    ends = np.concatenate([np.cumsum(came), np.full(wait, sum(came))])
    taken = np.cumsum(served)
    assert (taken <= ends + 1e-9).all()
    assert (taken[wait:] >= np.cumsum(came)[: len(taken) - wait] - 1e-9).all()
    assert (served >= -1e-9).all()
    # It is never rougher than what came.
    assert served.max() <= max(came) + 1e-9


# --- the linear programs, which need scipy ---

Program = pytest.importorskip("rivals.programs", reason="scipy is not installed")


def program_s(came: list[int], gap: int, wait_ticks: int, late: float = 0.0) -> float:
    """The least by HiGHS, of one pool that draws one sample a tick."""
    offer = Program.Offer(rate=1 / TICK_S, hour_micros=3600.0, start_s=gap * TICK_S)
    work = np.array(came, float)
    return Program.least_micros(work, TICK_S, [offer], wait_s=wait_ticks * TICK_S, late=late)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(0, 3), st.integers(0, 6))
def test_the_smoothest_service_is_the_cheapest_where_starts_take_longer_than_waits(
    came: list[int], wait: int, more: int
) -> None:
    gap = wait + more
    # As long as there is time to serve what came last.
    came = [*came, *[0] * wait]
    served = smoothest(np.array(came, float), wait)
    assert program_s(came, gap, wait) == pytest.approx(levels_s(served, gap * TICK_S), abs=1e-6)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@example([0, 0, 0, 1, 0], 1, 0.0, 20.0)
@given(COUNTS, st.integers(0, 8), st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([10.0, 20.0]))
def test_the_bound_for_some_late_is_never_above_the_linear_program(
    came: list[int], gap: int, late: float, wait_s: float
) -> None:
    ticks = round(wait_s / TICK_S)
    # As long as there is time to serve what came last: the program pays for nothing after its end.
    came = [*came, *[0] * ticks]
    start_s = gap * TICK_S
    bound = least_s(
        np.array(came, float), rate=1 / TICK_S, start_s=start_s, wait_s=wait_s, late=late
    )
    assert bound <= program_s(came, gap, ticks, late) + 1e-6


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=12, max_size=30), st.integers(1, 8))
def test_with_blocks_of_a_tick_the_bound_is_that_of_the_linear_program(
    came: list[int], gap: int
) -> None:
    bound = least_s(
        np.array(came, float), rate=1 / TICK_S, start_s=gap * TICK_S, wait_s=TICK_S, late=0.05
    )
    assert bound == pytest.approx(program_s(came, gap, 1, 0.05), rel=2e-3)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(COUNTS, st.lists(st.floats(0, 6), min_size=30, max_size=30), st.floats(0, 5))
def test_whatever_the_prices_they_prove_no_more_than_is_true(
    came: list[int], prices: list[float], extra: float
) -> None:
    work = np.array(came, float)
    proved = certified(work, 3.0, 0.1, np.array(prices[: len(came)]), extra)
    assert proved * TICK_S <= program_s(came, 3, 1, 0.1) + 1e-6


def test_prices_by_which_a_worker_would_earn_are_made_smaller() -> None:
    assert fair_prices(np.array([0.5, 1.2, 1.2]), 1.0).tolist() == [0.5, 1.2, 1.2]
    # Who is there from the beginning earns nothing.
    assert fair_prices(np.array([2.0, 0.5, 2.0]), 5.0).tolist() == [1.0, 0.5, 1.5]
    # Started for the last two it may earn as much as a start costs.
    assert fair_prices(np.array([0, 0, 0, 0, 4.0, 4.0]), 2.0).tolist() == [0, 0, 0, 0, 3.0, 1.0]
    assert fair_prices(np.array([-1.0, 1.0]), 2.0).tolist() == [0.0, 1.0]


def test_with_nothing_to_do_nothing_is_paid() -> None:
    nothing = np.zeros(4)
    assert least_s(nothing, rate=1.0, start_s=60.0) == 0.0
    offer = Program.Offer(rate=1.0, hour_micros=1.0)
    assert Program.least_micros(nothing, TICK_S, [offer], wait_s=20.0) == 0.0


@pytest.mark.parametrize(("wait_s", "late"), [(0.0, 0.05), (15.0, 0.05), (20.0, 1.0), (20.0, -0.1)])
def test_a_wait_that_no_blocks_can_have_is_refused(wait_s: float, late: float) -> None:
    with pytest.raises(InvalidInput, match="multiple of 10 s"):
        least_s(np.ones(4), rate=1.0, start_s=60.0, wait_s=wait_s, late=late)


def test_a_day_that_goes_viral_is_bounded_closely() -> None:
    came = arrivals(named("v2").between(1.4, 1.9), 101)
    bound = least_s(came, rate=0.5, start_s=300.0)
    work = came.sum() / 0.5
    nobody_late = levels_s(smoothest(came, 2) / TICK_S / 0.5, 300.0)
    assert work < bound < nobody_late < 1.1 * work


# --- several pools ---


def test_the_cheapest_pool_does_the_work_as_far_as_it_goes() -> None:
    cheap = Program.Offer(rate=0.1, hour_micros=1800.0, start_s=10.0, most=np.full(6, 2.0))
    dear = Program.Offer(rate=0.1, hour_micros=3600.0, start_s=10.0)
    paid = Program.least_micros(np.full(6, 5.0), TICK_S, [dear, cheap], wait_s=0.0)
    assert paid == pytest.approx(6 * TICK_S * (2 * 0.5 + 3 * 1.0))


def test_a_pool_that_is_taken_back_is_replaced_by_the_other() -> None:
    spot = Program.Offer(
        rate=0.1, hour_micros=360.0, start_s=10.0, most=np.array([9, 9, 9, 0, 0, 0], float)
    )
    firm = Program.Offer(rate=0.1, hour_micros=3600.0, start_s=20.0)
    paid = Program.least_micros(np.full(6, 1.0), TICK_S, [spot, firm], wait_s=0.0)
    # Three steps on spot, two to start the other, three with it.
    assert paid == pytest.approx(TICK_S * (3 * 0.1 + 2 + 3))


def test_who_is_billed_for_longer_is_kept_for_longer() -> None:
    came = np.array([0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0])
    offer = {"rate": 0.1, "hour_micros": 3600.0, "start_s": 10.0}
    for_least = [
        Program.least_micros(
            came, TICK_S, [Program.Offer(**offer, least_billed_s=least_s)], wait_s=0.0
        )
        for least_s in (0.0, 30.0, 70.0)
    ]
    # Twice (1 + 1); twice 3, of which the last may go on after the end; or all the time.
    assert for_least[0] == pytest.approx(40.0)
    assert for_least[0] < for_least[1] <= for_least[2]


def test_launches_may_cost_besides() -> None:
    came = np.array([0, 0, 1.0, 0, 0, 0, 1.0])
    offer = Program.Offer(rate=0.1, hour_micros=3600.0, start_s=10.0, launch_micros=5.0)
    assert Program.least_micros(came, TICK_S, [offer], wait_s=0.0) == pytest.approx(20 + 20 + 10)


def test_pools_that_cannot_do_it_say_so() -> None:
    offer = Program.Offer(rate=0.1, hour_micros=1.0, most=np.full(3, 1.0))
    with pytest.raises(InvalidInput, match="Allow more workers"):
        Program.least_micros(np.full(3, 5.0), TICK_S, [offer], wait_s=0.0)
