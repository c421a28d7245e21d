"""Which steps are rehearsed, and what is believed of them."""

from collections.abc import Callable

import pytest

from swell.worker.curve import BUCKETS, Curve, best_size, full_size
from swell.worker.rehearsal import LONGEST_S, LOOKS, ROUNDS, TIMES, Rehearsal


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
    # That it gains nothing is looked at once more, and what somebody drew is rehearsed as well.
    assert rows[15:] == [4, 8, 1, 1, 1]


def test_where_everybody_has_two_rows_no_odd_numbers_are_rehearsed() -> None:
    rows, _ = moment(Rehearsal(), known(2), widest=2)
    assert set(rows) == {2, 4, 6, 8}


def test_what_fits_is_never_exceeded() -> None:
    assert max(moment(Rehearsal(), known(1), largest=5)[0]) == 4
    assert moment(Rehearsal(), known(1), largest=1)[0] == []


def test_a_disturbed_moment_is_not_believed() -> None:
    rehearsal = Rehearsal()
    rows, curve = moment(rehearsal, known(1), lambda rows: cost_s(rows) * (1 if rows == 1 else 5))
    assert (set(rows), best_size(curve, 8)) == ({1, 2}, 1)
    rows, curve = moment(rehearsal, curve)
    assert rows[:2] == [1, 2]
    assert curve.measured == (1, 2, 3, 4, 6, 8)
    assert best_size(curve, 8) == 4


def test_what_gains_nothing_is_looked_at_in_some_other_moments_and_then_believed() -> None:
    rehearsal = Rehearsal()
    rows, curve = moment(rehearsal, known(1), lambda rows: 0.01 * rows)
    assert rows == [2, 2, 2, 1, 2, 1, 1]
    for number in range(10):
        rows, curve = moment(rehearsal, curve, lambda rows: 0.01 * rows)
        assert rows == ([1, 2] * TIMES if number < ROUNDS - 1 else [])
        assert rehearsal._looks == min(number + 2, LOOKS)
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
    assert rows == [2, 2, 2, 2, 1, 1, 1]
    assert curve.seconds(2) == pytest.approx(cost_s(2))
    assert not set(BUCKETS[2:]) & set(curve.measured)


def test_whether_a_step_may_have_to_be_compiled_is_known() -> None:
    rehearsal = Rehearsal()
    assert rehearsal.is_first(known(1), 2)
    rehearsal.tried(known(1), 2, 0.01)
    assert not rehearsal.is_first(known(1), 2)
    # What was drawn here was compiled then; what is on disk ran in another process.
    assert not Rehearsal().is_first(known(2), 2)
    assert Rehearsal(known(2)).is_first(known(2), 2)


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


def drawn(times: dict[int, float]) -> Curve:
    """Buckets that were drawn when steps took so many times as long."""
    curve = Curve()
    for rows, slower in times.items():
        for _ in range(6):
            curve = curve.observe(rows, slower * cost_s(rows))
    return curve


AT_BAD_MOMENTS = {1: 1.0, 2: 1.3, 4: 1.0, 8: 1.4}


def test_what_was_drawn_at_bad_moments_is_rehearsed_in_one_and_then_known() -> None:
    rehearsal, curve = Rehearsal(), drawn(AT_BAD_MOMENTS)
    rows, curve = moment(rehearsal, curve)
    assert all(rows.count(n) >= TIMES for n in (1, 2, 4, 8))
    assert all(curve.seconds(n) == pytest.approx(cost_s(n)) for n in (1, 2, 4, 8))
    # Some other moments have a look as well, and then it is enough.
    for _ in range(ROUNDS - 1):
        assert set(moment(rehearsal, curve)[0]) == {1, 2, 4, 8}
    assert set(moment(rehearsal, curve)[0]) <= {4, 8}


@pytest.mark.parametrize("draws", [4, 30])
@pytest.mark.parametrize("slower", [1.25, 1.5, 2.0])
def test_a_moment_that_is_slow_throughout_is_not_believed_for_good(
    draws: int, slower: float
) -> None:
    def line_s(rows: int) -> float:
        return 0.007 + 0.0069 * rows

    def draw(curve: Curve, times: int) -> Curve:
        for _ in range(times):
            curve = curve.observe(2, line_s(2))
        return curve

    rehearsal, curve = Rehearsal(), draw(Curve(), draws)
    for times, most in ((slower, 200), (1.0, 200)):
        rows, curve = moment(
            rehearsal, curve, lambda rows, times=times: times * line_s(rows), largest=64, widest=2
        )
        assert len(rows) < most
        curve = draw(curve, 60)
    assert full_size(curve, 64) == 64
    for rows in (4, 8, 16, 32):
        assert curve.seconds(rows) == pytest.approx(line_s(rows), rel=0.01)


def test_a_moment_that_ends_too_soon_tells_nothing_of_what_was_drawn() -> None:
    rehearsal, curve = Rehearsal(), drawn({2: 1.0, 4: 1.0})
    for _ in range(ROUNDS):
        rehearsal.interrupt()
        for _ in range(20):
            rows = rehearsal.next(curve, 4)
            assert rows is not None
            if rehearsal._times(rows) == TIMES - 1 and rows == 4:
                break
            assert rehearsal.tried(curve, rows, 0.5 * cost_s(rows)) == curve
    # And it is not tried for ever.
    rehearsal.interrupt()
    assert rehearsal.next(curve, 4) is None


def test_what_is_too_long_to_be_rehearsed_becomes_as_much_cheaper_as_the_others() -> None:
    def slow_s(rows: int) -> float:
        return 0.3 * LONGEST_S * rows

    curve = Curve()
    for rows in (1, 2, 3, 4):
        for _ in range(6):
            curve = curve.observe(rows, 1.2 * slow_s(rows))
    rows, curve = moment(Rehearsal(), curve, slow_s, largest=4)
    assert rows == [1, 2] * TIMES
    assert all(curve.seconds(n) == pytest.approx(slow_s(n)) for n in (1, 2, 3, 4))


def test_what_only_another_process_ran_is_not_rehearsed_as_it_may_have_to_be_compiled() -> None:
    stored = drawn({1: 1.0, 2: 1.0, 4: 1.0})
    curve = stored
    for rows in (1, 2):
        curve = curve.observe(rows, cost_s(rows))
    assert moment(Rehearsal(stored), curve, largest=4)[0] == [1, 2] * TIMES
    assert moment(Rehearsal(), curve, largest=4)[0] == [1, 2, 4] * TIMES


def test_a_stall_of_a_step_that_was_drawn_here_is_no_compiling() -> None:
    stalls = iter([1.0])
    rows, curve = moment(
        Rehearsal(), drawn({2: 1.0, 4: 1.0}), lambda n: next(stalls, cost_s(n)), largest=4
    )
    assert rows == [2, 4] * TIMES
    assert curve.seconds(2) == pytest.approx(cost_s(2))
