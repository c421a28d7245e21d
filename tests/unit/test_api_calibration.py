"""Estimates are corrected by how the last ones turned out."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from swell.server.estimates.eta import (
    MOST_OPEN,
    STEP,
    WINDOW,
    Calibration,
    Estimate,
    EtaSeconds,
    Forecast,
    IssuedEstimate,
    Situation,
)

MODEL = "demo/upper"


def a_forecast(situation: Situation = Situation.QUEUE) -> Forecast:
    """Return a forecast of 10 s, 6 s of them waiting."""
    return Forecast(situation, 6.0, EtaSeconds(low=5.0, median=10.0, high=20.0))


def uncorrected() -> Estimate:
    return Estimate(
        start=EtaSeconds(low=1.0, median=6.0, high=16.0),
        finish=EtaSeconds(low=5.0, median=10.0, high=20.0),
    )


def an_estimate(model: str = MODEL, at_s: float = 0.0) -> IssuedEstimate:
    return IssuedEstimate(model, a_forecast(), uncorrected(), at_s)


def tell(
    known: Calibration, situation: Situation = Situation.QUEUE
) -> tuple[Estimate, IssuedEstimate]:
    told = known.corrected(MODEL, a_forecast(situation))
    return told, IssuedEstimate(MODEL, a_forecast(situation), told)


def follow(
    took_s: Callable[[int, np.random.Generator], float], n: int = 4_000, delay: int = 0
) -> tuple[float, float]:
    """Return which share of tasks ended by the median and by the bound that they were told.

    Args:
        took_s: Returns how long a task takes, given its number.
        n: How many tasks.
        delay: So many are told something before the first of them has ended.
    """
    known, random = Calibration(), np.random.default_rng(1)
    by_median = by_high = 0
    waiting: list[tuple[IssuedEstimate, float]] = []
    for number in range(n):
        told, issued = tell(known)
        took = took_s(number, random)
        by_median += took <= told.finish.median
        by_high += took <= told.finish.high
        waiting.append((issued, took))
        if len(waiting) > delay:
            known.learn(*waiting.pop(0))
    return by_median / n, by_high / n


def test_before_enough_tasks_have_ended_nothing_is_corrected() -> None:
    known = Calibration()
    for _ in range(7):
        told, issued = tell(known)
        assert told == uncorrected()
        known.learn(issued, 40.0)
    known.learn(tell(known)[1], 40.0)
    assert tell(known)[0].finish.median == 40.0
    # Other situations and models have corrections of their own.
    assert tell(known, Situation.IDLE)[0] == uncorrected()
    assert known.corrected("demo/other", a_forecast()) == uncorrected()


def test_only_the_wait_is_corrected_and_not_the_duration() -> None:
    known = Calibration()
    for _ in range(20):
        known.learn(tell(known)[1], 40.0)
    told = tell(known)[0]
    assert told.finish.median - told.start.median == pytest.approx(4.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "took_s",
    [
        pytest.param(lambda n, random: random.lognormal(3.0, 1.0), id="far longer than expected"),
        pytest.param(lambda n, random: random.lognormal(0.0, 0.1), id="far shorter"),
        pytest.param(lambda n, random: 10.0 * 4.0 ** (n // 1_000), id="slower again and again"),
        pytest.param(lambda n, random: 5.0 + 2.0 * np.sin(n / 100) + random.random(), id="waves"),
        pytest.param(lambda n, random: 7.0, id="always the same"),
    ],
)
@pytest.mark.parametrize("delay", [0, 50])
def test_the_issuedd_shares_end_in_time(
    took_s: Callable[[int, np.random.Generator], float], delay: int
) -> None:
    by_median, by_high = follow(took_s, delay=delay)
    assert by_median == pytest.approx(0.5, abs=0.05)
    assert by_high == pytest.approx(0.9, abs=0.05)


def test_without_correction_the_same_tasks_would_all_be_late() -> None:
    took = np.random.default_rng(1).lognormal(3.0, 1.0, 4_000)
    assert (took <= uncorrected().finish.median).mean() < 0.3


@given(st.lists(st.floats(0.001, 1e6), max_size=300))
def test_low_median_and_high_stay_in_order(took: list[float]) -> None:
    known = Calibration()
    for took_s in took:
        told, issued = tell(known)
        known.learn(issued, took_s)
        for eta in (told.start, told.finish):
            assert 0 <= eta.low <= eta.median <= eta.high
        assert told.start.median <= told.finish.median


def test_only_the_last_tasks_count() -> None:
    known = Calibration()
    for _ in range(WINDOW):
        known.learn(tell(known)[1], 1_000.0)
    for _ in range(WINDOW):
        known.learn(tell(known)[1], 20.0)
    # The level still hangs where the tasks before have left it, at most this far from its aim.
    assert 20.0 <= tell(known)[0].finish.high <= 20.0 * np.exp(STEP * WINDOW)


def test_a_task_that_did_not_succeed_teaches_nothing_and_one_is_counted_once() -> None:
    known, clock = Calibration(), ManualClock()
    for number in range(20):
        told, issued = tell(known)
        known.issued(f"t{number}", issued)
        known.ended(f"t{number}", clock, has_succeeded=False)
        assert told == uncorrected()
    at_s = clock.monotonic_s()
    for number in range(8):
        known.issued(f"t{number}", an_estimate(at_s=at_s))
    clock.advance(30.0)
    for _ in range(2):
        for number in range(7):
            known.ended(f"t{number}", clock)
    assert tell(known)[0] == uncorrected()
    known.ended("t7", clock)
    assert tell(known)[0].finish.median == 30.0


def test_of_a_crowd_some_are_remembered() -> None:
    known = Calibration()
    for number in range(5_000):
        known.issued(str(number), an_estimate())
    # The oldest of a crowd end first.
    assert list(known.open) == [str(number) for number in range(MOST_OPEN)]
    known.ended("3000", ManualClock())
    assert len(known.open) == MOST_OPEN


def stuck(known: Calibration, n: int, model: str = "demo/stuck", at_s: float = 0.0) -> None:
    """Promise something to tasks that never end."""
    for number in range(n):
        known.issued(f"{model} {number}", an_estimate(model, at_s))


def test_a_model_whose_tasks_never_end_leaves_room_for_what_others_teach() -> None:
    known, clock = Calibration(), ManualClock()
    stuck(known, 2_000)
    at_s = clock.monotonic_s()
    for number in range(20):
        known.issued(f"t{number}", an_estimate(at_s=at_s))
        stuck(known, 10)
    clock.advance(40.0)
    for number in range(20):
        known.ended(f"t{number}", clock)
    assert tell(known)[0].finish.median == 40.0
    assert len(known.open) == MOST_OPEN


def test_models_whose_tasks_never_end_have_a_limit_each() -> None:
    known = Calibration()
    for model in ("demo/a", "demo/b", "demo/c", "demo/d"):
        stuck(known, 2_000, model)
    models = [each.partition(" ")[0] for each in known.open]
    assert [models.count(f"demo/{name}") for name in "abcd"] == [MOST_OPEN] * 4


def test_a_task_with_two_estimates_is_counted_by_the_last() -> None:
    known, clock = Calibration(), ManualClock()
    at_s = clock.monotonic_s()
    for number in range(8):
        for later_s in (0.0, 5.0):
            known.issued(f"t{number}", an_estimate(at_s=at_s + later_s))
    assert len(known.open) == 8
    clock.advance(15.0)
    for number in range(8):
        known.ended(f"t{number}", clock)
    assert list(known.open) == []
    assert tell(known)[0].finish.median == 10.0
