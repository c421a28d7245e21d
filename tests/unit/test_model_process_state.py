"""What a model process has, and what it is at."""

import pytest

from swell.runtime.ipc_messages import DRAWN
from swell.worker.model_process_state import QUICK_S, ModelProcessState


def with_batches(*batches: str) -> ModelProcessState[str]:
    """Batches of these letters, begun at 0."""
    at: ModelProcessState[str] = ModelProcessState()
    for letters in batches:
        at.begin_batch({ord(letter): letter for letter in letters}, 0.0)
    return at


def test_one_that_has_nothing_is_at_nothing() -> None:
    at = with_batches()
    assert at.current is None
    assert at.since_s is None
    assert not at.running
    assert not at.sent
    assert at.wants_batch


def test_batches_run_one_after_another() -> None:
    at = with_batches("ab", "c")
    assert at.sent == {ord(letter) for letter in "abc"}
    assert set(at.running) == {ord("a"), ord("b")}
    assert at.remove(1, ord("a")) == "a"
    at.end_call(1.0, is_last=False)
    assert at.since_s == 1.0
    assert at.remove(1, ord("b")) == "b"
    at.end_call(2.0, is_last=True)
    assert at.current == 2
    assert at.since_s == 2.0
    assert set(at.running) == {ord("c")}


def test_the_next_batch_comes_early_only_where_batches_are_quick() -> None:
    at = with_batches("a")
    assert not at.wants_batch
    at.end_call(QUICK_S / 2, is_last=True)
    at.begin_batch({1: "b"}, 1.0)
    assert at.wants_batch
    at.begin_batch({2: "c"}, 1.0)
    assert not at.wants_batch
    at.end_call(1.0 + 2 * QUICK_S, is_last=True)
    assert not at.wants_batch


def test_who_draws_is_at_that_until_it_says_that_it_has_turned_to_a_batch() -> None:
    at = with_batches("a")
    at.begin_drawing(1, "drawn", 5.0)
    at.begin_drawing(2, "later", 6.0)
    assert at.current == DRAWN
    assert at.since_s == 5.0
    assert set(at.running) == {1, 2}
    at.turn_to(1, 7.0)
    assert at.current == 1
    assert at.since_s == 7.0
    at.end_call(8.0, is_last=True)
    assert at.current == DRAWN
    assert at.since_s == 8.0
    at.note_step(9.0)
    assert at.since_s == 9.0


def test_what_brings_a_model_has_no_limit_and_begins_to_count_anew() -> None:
    at = with_batches("a")
    at.busy_for = "m"
    assert at.since_s is None
    at.free(3.0)
    assert at.since_s == 3.0


def test_only_what_it_has_is_watched_and_once() -> None:
    at = with_batches("a")
    at.begin_drawing(1, "drawn", 0.0)
    assert at.watch([1, ord("a"), 99]) == [1, ord("a")]
    assert at.watch([1]) == []
    at.remove(DRAWN, 1)
    at.begin_drawing(1, "again", 0.0)
    assert at.watch([1]) == [1]


def test_of_a_dead_process_the_batch_that_it_was_at_is_suspect() -> None:
    lost = with_batches("ab", "c", "d").lose(blameless=False)
    assert (lost.suspects, lost.others) == (["a", "b"], ["c", "d"])


def test_of_one_that_drew_nobody_in_a_batch_is_suspect() -> None:
    at = with_batches("a")
    at.begin_drawing(1, "drawn", 0.0)
    lost = at.lose(blameless=False)
    assert (lost.suspects, lost.others) == (["drawn"], ["a"])
    assert at.current is None
    assert not at.sent


def test_of_one_that_was_ended_for_something_that_is_over_nobody_is_suspect() -> None:
    at = with_batches("a", "b")
    at.begin_drawing(1, "drawn", 0.0)
    lost = at.lose(blameless=True)
    assert (lost.suspects, lost.others) == ([], ["a", "b", "drawn"])


def test_seconds_per_task_rise_at_once_and_fall_slowly() -> None:
    at: ModelProcessState[str] = ModelProcessState()
    for handle, (run_s, task_s) in enumerate([(1.0, 1.0), (0.0, 0.8), (2.0, 2.0)]):
        at.begin_batch({handle: "a"}, 10.0)
        at.end_call(10.0 + run_s, is_last=True)
        assert at.task_s == pytest.approx(task_s)
