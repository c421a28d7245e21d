"""Which steps are rehearsed, and what is believed of them."""

from collections.abc import Callable

import pytest

from swell.worker.curve import BUCKETS, Curve, best_size
from swell.worker.rehearsal import LONGEST_S, LOOKS, Rehearsal


def cost_s(rows: int) -> float:
    """A device of which four rows take as long as one."""
    return 0.01 * max(1.0, rows / 4)


def known(*rows: int) -> Curve:
    curve = Curve()
    for each in rows:
        for _ in range(3):
            curve = curve.observe(each, cost_s(each))
    return curve


def moment(
    rehearsal: Rehearsal,
    curve: Curve,
    seconds: Callable[[int], float] = cost_s,
    *,
    largest: int = 8,
    widest: int = 1,
) -> tuple[list[int], Curve]:
    """Rehearse all that is wanted while nobody draws; return the rows of each step."""
    rehearsal.interrupt()
    rows: list[int] = []
    while (wanted := rehearsal.next(curve, largest, widest)) is not None:
        rows.append(wanted)
        curve = rehearsal.tried(curve, wanted, seconds(wanted))
        assert len(rows) < 200
    return rows, curve


def test_nothing_is_rehearsed_before_somebody_has_drawn() -> None:
    assert moment(Rehearsal(), Curve())[0] == []


def test_larger_steps_are_rehearsed_three_times_each_until_they_gain_nothing() -> None:
    rows, curve = moment(Rehearsal(), known(1), largest=32)
    assert rows[:15] == [n for n in (2, 3, 4, 6, 8) for _ in range(3)]
    assert curve.measured == (1, 2, 3, 4, 6, 8)
    # That it gains nothing is looked at once more.
    assert rows[15:] == [4, 8]


def test_where_everybody_has_two_rows_no_odd_numbers_are_rehearsed() -> None:
    rows, _ = moment(Rehearsal(), known(2), widest=2)
    assert set(rows) == {4, 6, 8}


def test_what_fits_is_never_exceeded() -> None:
    assert max(moment(Rehearsal(), known(1), largest=5)[0]) == 4
    assert moment(Rehearsal(), known(1), largest=1)[0] == []


def test_a_disturbed_moment_is_not_believed() -> None:
    rehearsal = Rehearsal()
    rows, curve = moment(rehearsal, known(1), lambda rows: 5 * cost_s(rows))
    assert (set(rows), best_size(curve, 8)) == ({1, 2}, 1)
    rows, curve = moment(rehearsal, curve)
    assert rows[:2] == [1, 2]
    assert curve.measured == (1, 2, 3, 4, 6, 8)
    assert best_size(curve, 8) == 4


def test_what_gains_nothing_is_looked_at_in_some_other_moments_and_then_believed() -> None:
    rehearsal = Rehearsal()
    rows, curve = moment(rehearsal, known(1), lambda rows: 0.01 * rows)
    assert rows == [2, 2, 2, 1, 2]
    for number in range(10):
        rows, curve = moment(rehearsal, curve, lambda rows: 0.01 * rows)
        assert rows == ([1, 2] if number < LOOKS - 1 else [])
    # The next process looks again: what is on disk may have been disturbed.
    assert moment(Rehearsal(), curve)[0][:2] == [1, 2]


def test_of_several_the_shortest_counts() -> None:
    curve = known(1).rehearse(2, 0.5).rehearse(2, 0.02).rehearse(2, 0.3)
    assert curve.seconds(2) == 0.02
    assert curve.count(2) == 3
    assert known(1).rehearse(2, 0.0) == known(1)


def test_a_step_that_compiles_is_not_counted_and_nothing_larger_is_rehearsed() -> None:
    slow = iter([60.0])
    rows, curve = moment(Rehearsal(), known(1), lambda rows: next(slow, cost_s(rows)), largest=16)
    assert rows == [2, 2, 2, 2]
    assert curve.seconds(2) == pytest.approx(cost_s(2))
    assert not set(BUCKETS[2:]) & set(curve.measured)


def test_whether_a_step_may_have_to_be_compiled_is_known() -> None:
    rehearsal = Rehearsal()
    assert rehearsal.is_first(2)
    rehearsal.tried(known(1), 2, 0.01)
    assert not rehearsal.is_first(2)


def test_steps_for_which_nobody_should_wait_are_not_rehearsed() -> None:
    curve = Curve()
    for _ in range(3):
        curve = curve.observe(1, 0.6 * LONGEST_S)
    assert Rehearsal().next(curve, 8) is None


def test_what_fails_is_the_end() -> None:
    rehearsal = Rehearsal()
    assert rehearsal.next(known(1), 8) == 2
    rehearsal.end()
    assert rehearsal.next(known(1), 8) is None
