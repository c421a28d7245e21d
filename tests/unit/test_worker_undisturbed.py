"""What steps would have taken if nobody else had wanted the processors."""

import random

import pytest

from swell.worker.curve import Curve, best_size
from swell.worker.undisturbed import Undisturbed


def used(rows: int, wall_s: float, cpu_s: float, processors: int = 4) -> Undisturbed:
    """Return what has seen such steps often enough."""
    steps = Undisturbed(processors)
    for _ in range(3):
        assert steps.seconds(rows, wall_s, cpu_s) == wall_s
    return steps


def test_a_step_that_had_its_processors_counts_as_long_as_it_took() -> None:
    assert used(4, 0.1, 0.2).seconds(4, 0.2, 0.4) == 0.2


def test_one_that_had_to_share_them_counts_by_what_they_spent_on_it() -> None:
    steps = used(4, 0.1, 0.2)
    assert steps.seconds(4, 0.3, 0.2) == pytest.approx(0.1)
    assert steps.seconds(8, 0.8, 0.4) == pytest.approx(0.2)


def test_a_single_row_need_not_keep_as_many_processors_busy_as_several() -> None:
    assert used(2, 0.1, 0.2).seconds(1, 0.1, 0.1) == 0.1


def test_where_nothing_is_computed_here_only_the_clock_tells() -> None:
    steps = Undisturbed(4)
    for wall_s in (0.1, 0.3, 0.05, 0.1, 0.5):
        assert steps.seconds(1, wall_s, 0.001) == wall_s


def test_short_steps_are_counted_by_the_clock() -> None:
    """What threads have spent is told some milliseconds late."""
    steps = used(1, 0.1, 0.2)
    assert steps.seconds(1, 0.001, 0.0) == 0.001
    assert steps.seconds(1, 0.001, 0.05) == 0.001
    assert steps.seconds(1, 0.1, 0.2) == 0.1


def test_two_steps_that_were_told_too_much_of_mislead_nobody() -> None:
    steps = used(1, 0.1, 0.1)
    for _ in range(2):
        steps.seconds(1, 0.1, 0.4)
    assert steps.seconds(1, 0.1, 0.1) == 0.1


def test_nobody_uses_more_processors_than_there_are() -> None:
    assert used(1, 0.1, 0.3, processors=2).seconds(1, 0.3, 0.3) == pytest.approx(0.15)


def test_it_is_never_more_than_it_took() -> None:
    steps, rng = Undisturbed(4), random.Random(1)
    for _ in range(200):
        wall_s, cpu_s = rng.uniform(0.01, 1), rng.uniform(0, 2)
        assert steps.seconds(rng.randrange(1, 64), wall_s, cpu_s) <= wall_s


@pytest.mark.parametrize("seed", range(20))
def test_a_curve_that_was_learnt_among_others_is_the_one_of_an_idle_machine(seed: int) -> None:
    """Others take one of two processors, as they like; rows cost less the more there are."""
    rng, steps, curve = random.Random(seed), Undisturbed(2), Curve()
    clock, idle, truth = Curve(), Curve(), {1: 0.04, 2: 0.04, 4: 0.06, 8: 0.1, 16: 0.16, 32: 0.28}
    for _ in range(30):
        for rows, alone_s in truth.items():
            # Told with an error of some milliseconds.
            cpu_s = alone_s * (1 if rows == 1 else 2) + rng.uniform(-0.004, 0.004)
            wall_s = alone_s * rng.choice([1, 1.1, 2, 3])
            curve = curve.observe(rows, steps.seconds(rows, wall_s, cpu_s))
            clock = clock.observe(rows, wall_s)
            idle = idle.observe(rows, alone_s)
    for rows, alone_s in truth.items():
        assert curve.seconds(rows) == pytest.approx(alone_s, rel=0.2)
    chosen = best_size(curve, 32)
    # All lie about a line, by which it may cost 15 % more; and what was learnt is not exact.
    assert idle.seconds(chosen) / chosen <= 1.15 * 1.07 * idle.seconds(32) / 32
    assert max(clock.seconds(rows) / alone_s for rows, alone_s in truth.items()) > 1.3
