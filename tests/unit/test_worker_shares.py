"""The shares of samples are the device's time, however they come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.worker.shares import Shares


def test_samples_share_a_step_by_their_rows() -> None:
    shares = Shares()
    for name in "ab":
        shares.begin(name)
    shares.took(3.0, {"a": 1, "b": 2})
    assert (shares.end("a"), shares.end("b")) == (1.0, 2.0)


def test_a_share_is_told_once() -> None:
    shares = Shares()
    shares.begin("a")
    shares.took(3.0, {"a": 1})
    assert shares.so_far("a") == 3.0
    assert (shares.end("a"), shares.end("a"), shares.end("stranger")) == (3.0, 0.0, 0.0)


def test_what_was_guessed_wrong_is_borne_by_who_is_drawn_next() -> None:
    shares = Shares()
    for name in "ab":
        shares.begin(name)
    assert shares.end("a", guessed_s=1.0) == 1.0
    shares.took(1.5, {"a": 1})
    assert shares.owed_s == 0.5
    shares.took(2.0, {"b": 1})
    assert (shares.end("b"), shares.owed_s) == (2.5, 0.0)


def test_nobody_has_less_than_nothing() -> None:
    shares = Shares()
    for name in "ab":
        shares.begin(name)
    shares.end("a", guessed_s=10.0)
    shares.took(1.0, {"a": 1})
    shares.took(2.0, {"b": 1})
    assert shares.so_far("b") == 0.0
    shares.took(8.0, {"b": 1})
    assert (shares.end("b"), shares.owed_s) == (1.0, 0.0)


def test_who_comes_and_goes_between_steps_of_the_same_samples_takes_no_part_of_others() -> None:
    shares, rows = Shares(), {"a": 1, "b": 2}
    for name in rows:
        shares.begin(name)
    shares.took(3.0, rows)
    shares.took(3.0, rows)
    assert shares.end("b") == 4.0
    shares.begin("c")
    shares.took(1.5, {"a": 1, "c": 2})
    assert (shares.so_far("a"), shares.so_far("c"), shares.owed_s) == (2.5, 1.0, 0.0)
    shares.took(3.0, rows)
    # Who has left bears nothing, so that others do.
    assert (shares.so_far("a"), shares.owed_s) == (5.5, 0.0)


_steps = st.lists(
    st.tuples(
        st.floats(0, 10), st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 2), min_size=1)
    ),
    max_size=30,
)


@pytest.mark.slow
@given(_steps, st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 3)), max_size=6))
def test_all_shares_and_what_is_owed_are_what_the_device_took(
    steps: list[tuple[float, dict[str, int]]], ends: list[tuple[str, float]]
) -> None:
    shares = Shares()
    for name in "abcdef":
        shares.begin(name)
    told = took = 0.0
    for number, (seconds, rows) in enumerate(steps):
        shares.took(seconds, rows)
        took += seconds
        if number < len(ends):
            told += shares.end(*ends[number])
    left = [shares.end(name) for name in "abcdef"]
    assert all(each >= -1e-9 for each in left)
    assert told + sum(left) + shares.owed_s == pytest.approx(took, abs=1e-6)
