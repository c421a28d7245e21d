from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.simulator.arrivals import TICK_S
from swell.simulator.oracle import levels_s, smoothest


def by_levels(work: list[int], gap: int) -> int:
    """What it costs, level by level, by looking at each gap."""
    total = 0
    for level in range(1, max(work) + 1):
        is_on = [each >= level for each in work]
        if not any(is_on):
            continue
        on = [at for at, each in enumerate(is_on) if each]
        total += len(on) + min(on[0], gap)
        total += sum(min(b - a - 1, gap) for a, b in pairwise(on))
    return total


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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 4))
def test_nothing_is_served_before_it_came_or_after_it_was_due(came: list[int], wait: int) -> None:
    served = smoothest(np.array(came, float), wait)
    ends = np.concatenate([np.cumsum(came), np.full(wait, sum(came))])
    taken = np.cumsum(served)
    assert (taken <= ends + 1e-9).all()
    assert (taken[wait:] >= np.cumsum(came)[: len(taken) - wait] - 1e-9).all()
    assert (served >= -1e-9).all()
    # It is never rougher than what came.
    assert served.max() <= max(came) + 1e-9
