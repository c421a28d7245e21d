from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from swell.autoscaler.arrivals import arrived
from swell.core.arrival_rates import BIN_S, Arrivals, stale

START = datetime(2030, 1, 1, 12, 0, 3, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def count(arrivals: Arrivals, model: str, n: int) -> None:
    arrivals.fresh[model] = arrivals.fresh.get(model, 0) + n


def test_arrivals_are_in_the_bin_of_their_time() -> None:
    arrivals = Arrivals(START)
    count(arrivals, "a/b", 3)
    assert arrivals.close(at(8))
    count(arrivals, "a/b", 5)
    arrivals.close(at(18))
    found = arrived([arrivals.dump()], at(20))
    assert found["a/b"].tens == (0.0, 3.0, 5.0)


def test_nothing_new_is_not_written_again() -> None:
    arrivals = Arrivals(START)
    assert not arrivals.close(at(8))
    count(arrivals, "a/b", 1)
    assert arrivals.close(at(18))
    assert not arrivals.close(at(28))


def test_the_open_bin_is_not_read_before_all_have_written_it() -> None:
    arrivals = Arrivals(START)
    count(arrivals, "a/b", 4)
    arrivals.close(at(7.1))
    assert arrived([arrivals.dump()], at(7.2))["a/b"].tens == (0.0, 0.0, 0.0)
    assert arrived([arrivals.dump()], at(9))["a/b"].tens == (0.0, 0.0, 4.0)


def test_a_backend_that_is_started_again_counts_nothing_twice() -> None:
    first = Arrivals(START)
    count(first, "a/b", 2)
    first.close(at(3))  # it ends within the bin
    second = Arrivals(at(4))
    count(second, "a/b", 3)
    second.close(at(8))
    notes = [first.dump(), second.dump()]
    assert arrived(notes, at(10))["a/b"].tens[-1] == 5.0
    assert arrived(notes, at(10)) == arrived(list(reversed(notes)), at(10))


def test_minutes_do_not_overlap_and_end_with_the_last_whole_bin() -> None:
    arrivals = Arrivals(START)
    for number in range(20 * 6):
        count(arrivals, "a/b", number)
        arrivals.close(at(7 + number * BIN_S))
    last = 20 * 6 - 1
    found = arrived([arrivals.dump()], at(7 + last * BIN_S + 2))["a/b"]
    assert len(found.minutes) == 16
    assert found.minutes[-1] == sum(range(last - 5, last + 1))
    assert found.minutes[-2] == sum(range(last - 11, last - 5))
    assert found.tens == (last - 2, last - 1, last)


def test_minutes_before_the_first_count_are_left_out() -> None:
    arrivals = Arrivals(START)
    count(arrivals, "a/b", 7)
    arrivals.close(at(8))
    assert arrived([arrivals.dump()], at(40))["a/b"].minutes == ()
    assert arrived([arrivals.dump()], at(80))["a/b"].minutes == (0.0,)
    assert len(arrived([arrivals.dump()], at(5 * 60))["a/b"].minutes) == 4


def test_models_without_arrivals_are_forgotten() -> None:
    arrivals = Arrivals(START)
    count(arrivals, "a/b", 1)
    arrivals.close(at(8))
    arrivals.close(at(3600))
    assert b"a/b" not in arrivals.dump()


def test_old_notes_are_named_and_so_are_those_that_cannot_be_read() -> None:
    old, new = Arrivals(START), Arrivals(at(3600))
    count(new, "a/b", 1)
    new.close(at(3610))
    notes = {"arrivals:old": old.dump(), "arrivals:new": new.dump(), "arrivals:odd": b"\xff"}
    assert stale(notes, at(3615)) == ["arrivals:old", "arrivals:odd"]
    assert arrived([b"\xff", b"{}"], at(3615)) == {}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 9), st.floats(0.1, 12.0)),
        min_size=1,
        max_size=60,
    )
)
def test_all_that_came_within_the_minutes_is_counted_once(
    steps: list[tuple[int, int, float]],
) -> None:
    """However many processes count, and whenever their loops come round."""
    oldest = Arrivals(START - timedelta(hours=1))
    processes = [Arrivals(START) for _ in range(4)]
    now, came = 0.0, 0
    for process, n, passed in steps:
        count(processes[process], "a/b", n)
        came += n
        now += passed
        for each in processes:
            if each.next_in_s(at(now)) <= 0:
                each.close(at(now))
    for each in processes:
        each.close(at(now + BIN_S))
    found = arrived([each.dump() for each in (oldest, *processes)], at(now + BIN_S + 2))
    assert sum(found["a/b"].minutes) == came


def test_a_backend_that_began_by_a_clock_far_ahead_has_counted_since_it_was_put_right() -> None:
    arrivals = Arrivals(at(7200))
    for number in range(32):
        count(arrivals, "a/b", 10)
        arrivals.close(at(10 * number))
    assert arrived([arrivals.dump()], at(300))["a/b"].minutes[-3:] == (60.0, 60.0, 60.0)
