"""What steps would have taken if nobody else had wanted the processors."""

import random

import pytest

from swell.worker.curve import Curve, best_size
from swell.worker.undisturbed import Undisturbed


def test_a_step_that_had_its_processors_counts_as_long_as_it_took() -> None:
    steps = Undisturbed()
    assert steps.seconds(4, 0.1, 0.2) == pytest.approx(0.1)
    assert steps.seconds(4, 0.2, 0.4) == pytest.approx(0.2)


def test_one_that_had_to_share_them_counts_by_what_they_spent_on_it() -> None:
    steps = Undisturbed()
    steps.seconds(4, 0.1, 0.2)
    assert steps.seconds(4, 0.3, 0.2) == pytest.approx(0.1)
    assert steps.seconds(8, 0.8, 0.4) == pytest.approx(0.2)


def test_a_single_row_need_not_keep_as_many_processors_busy_as_several() -> None:
    steps = Undisturbed()
    steps.seconds(2, 0.1, 0.2)
    assert steps.seconds(1, 0.1, 0.1) == pytest.approx(0.1)


def test_where_nothing_is_computed_here_only_the_clock_tells() -> None:
    steps = Undisturbed()
    for wall_s in (0.1, 0.3, 0.05):
        assert steps.seconds(1, wall_s, 0.001) == wall_s


def test_it_is_never_more_than_it_took() -> None:
    steps, rng = Undisturbed(), random.Random(1)
    for _ in range(200):
        wall_s, cpu_s = rng.uniform(0.01, 1), rng.uniform(0, 2)
        assert steps.seconds(rng.randrange(1, 64), wall_s, cpu_s) <= wall_s


@pytest.mark.parametrize("seed", range(20))
def test_a_curve_that_was_learnt_among_others_is_the_one_of_an_idle_machine(seed: int) -> None:
    """Others take one of two processors, as they like; rows cost less the more there are."""
    rng, steps, curve = random.Random(seed), Undisturbed(), Curve()
    clock, idle, truth = Curve(), Curve(), {1: 0.02, 2: 0.02, 4: 0.03, 8: 0.05, 16: 0.08, 32: 0.14}
    for _ in range(12):
        for rows, alone_s in truth.items():
            cpu_s = alone_s * (1 if rows == 1 else 2)
            wall_s = alone_s * rng.choice([1, 1.1, 2, 3])
            curve = curve.observe(rows, steps.seconds(rows, wall_s, cpu_s))
            clock = clock.observe(rows, wall_s)
            idle = idle.observe(rows, alone_s)
    # One step of any few rows that was not disturbed is enough to know what all would take.
    for rows, alone_s in truth.items():
        assert curve.seconds(rows) == pytest.approx(alone_s, rel=0.15)
    assert best_size(curve, 32) == best_size(idle, 32)
    assert max(clock.seconds(rows) / alone_s for rows, alone_s in truth.items()) > 1.3
