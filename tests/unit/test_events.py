"""Event ids over any life of a task."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.factories import a_failure, a_new_task, a_success
from swell.core import task as life
from swell.core.events import ATTEMPT_STRIDE, TERMINAL_ID, Event, EventKind, event_of
from swell.core.task import Canceled, Outcome, Released, Task, TaskState

NOW = datetime(2030, 1, 1, tzinfo=UTC)

outcomes = st.sampled_from(
    [a_success(), a_failure(), a_failure(retryable=False), Canceled(), Released()]
)
#: For each attempt: how many events the worker told of, and how it ended (None: it was lost).
lives = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(outcomes, st.none())), min_size=1, max_size=8
)


def a_task() -> Task:
    return life.accept(a_new_task(max_attempts=5), task_id="0" * 32, now=NOW)


def live(task: Task, attempts: list[tuple[int, Outcome | None]]) -> list[Event]:
    """Return every event of a life, as the backend publishes them."""
    events = [event_of(task)]
    for told, outcome in attempts:
        if task.state is not TaskState.QUEUED:
            break
        task = life.start(task, worker_id="w", version="v", token="t", now=NOW, lease_s=30)
        events.append(event_of(task))
        for place in range(1, told + 1):
            number = task.attempt * ATTEMPT_STRIDE + place
            events.append(Event(task_id=task.id, id=number, kind=EventKind.PROGRESS))
        if outcome is None:
            task = life.lose(task, now=NOW, retry_delay_s=1)
        else:
            task = life.settle(task, outcome, now=NOW, retry_delay_s=1)
        events.append(event_of(task))
    return events


@pytest.mark.slow
@given(lives)
def test_ids_only_grow_and_nothing_follows_the_terminal_event(
    attempts: list[tuple[int, Outcome | None]],
) -> None:
    ids = [event.id for event in live(a_task(), attempts)]
    assert ids == sorted(set(ids))
    assert all(number < TERMINAL_ID for number in ids[:-1])


@pytest.mark.slow
@given(lives)
def test_the_last_event_is_terminal_exactly_when_the_task_has_ended(
    attempts: list[tuple[int, Outcome | None]],
) -> None:
    last = live(a_task(), attempts)[-1]
    assert last.task is not None
    assert last.is_terminal == last.task.state.is_terminal
    assert last.kind.value == last.task.state.value or last.kind is EventKind.STARTED


@given(st.integers(1, 999_998), st.integers(1, 1_000_000))
def test_the_largest_place_of_an_attempt_lies_before_the_next_queued_and_started(
    place: int, attempt: int
) -> None:
    told = attempt * ATTEMPT_STRIDE + place
    queued_again = (attempt + 1) * ATTEMPT_STRIDE - 1
    assert attempt * ATTEMPT_STRIDE < told < queued_again < (attempt + 1) * ATTEMPT_STRIDE
    assert queued_again < TERMINAL_ID


def test_the_terminal_id_is_exact_in_languages_that_only_have_doubles() -> None:
    assert int(float(TERMINAL_ID)) == TERMINAL_ID


def test_every_state_has_an_event_kind_of_its_own() -> None:
    states = {"started" if state == "running" else state.value for state in TaskState}
    assert states <= {kind.value for kind in EventKind}
