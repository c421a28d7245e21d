"""The life of a task: every verb, over every state."""

import itertools
import os
import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conformance.factories import a_failure, a_new_task, a_success
from swell.core import task as life
from swell.core.errors import Conflict
from swell.core.retry import RetryPolicy
from swell.core.task import (
    TRANSITIONS,
    Canceled,
    NewTask,
    Outcome,
    Released,
    Succeeded,
    Task,
    TaskState,
    Timings,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
DELAY_S = 5.0

TERMINAL = [state for state in TaskState if state.is_terminal]
OUTCOMES: list[Outcome] = [
    a_success(),
    a_failure(),
    a_failure(retryable=False),
    Canceled(),
    Released(),
]


def test_a_forked_process_draws_other_ids_and_tokens() -> None:
    # What would be drawn ahead is drawn before the fork.
    life.new_id(NOW), life.new_token()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, f"{life.new_id(NOW)} {life.new_token()}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        drawn = told.read().split()
    assert os.waitpid(child, 0) == (child, 0)
    assert len(drawn) == 2
    assert set(drawn).isdisjoint({life.new_id(NOW), life.new_token()})


def a_task(**fields: object) -> Task:
    return life.accept(a_new_task(**fields), task_id=life.new_id(NOW), now=NOW)


def started(task: Task, now: datetime = NOW) -> Task:
    return life.start(task, worker_id="w", version="v1", token="t", now=now, lease_s=30)


def settled(task: Task, outcome: Outcome, now: datetime = NOW) -> Task:
    return life.settle(task, outcome, now=now, retry_delay_s=DELAY_S)


def in_state(state: TaskState, **fields: object) -> Task:
    """Return a task that came to a state on a way that the lifecycle allows."""
    task = a_task(**fields)
    match state:
        case TaskState.QUEUED:
            return task
        case TaskState.RUNNING:
            return started(task)
        case TaskState.SUCCEEDED:
            return settled(started(task), a_success())
        case TaskState.FAILED:
            return settled(started(task), a_failure(retryable=False))
        case TaskState.CANCELED:
            return life.cancel(task, now=NOW)
        case TaskState.EXPIRED:
            return life.expire(task, now=NOW)


# ---- the seed


def test_a_task_that_names_no_seed_gets_one_when_it_is_accepted() -> None:
    tasks = [a_task() for _ in range(50)]
    assert len({task.seed for task in tasks}) == 50
    assert all(task.seed is not None and 0 <= task.seed < 2**31 for task in tasks)
    assert a_task(seed=0).seed == 0
    assert life.again(tasks[0]).seed == tasks[0].seed


# ---- the diagram

STEPS = list(itertools.product(TaskState, TaskState))


def test_succeeded_failed_canceled_and_expired_are_terminal() -> None:
    assert set(TERMINAL) == {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.CANCELED,
        TaskState.EXPIRED,
    }


def test_every_state_can_be_reached_from_queued() -> None:
    reached = {TaskState.QUEUED}
    for _ in TaskState:
        reached |= {after for state in reached for after in TRANSITIONS[state]}
    assert reached == set(TaskState)


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_step_is_allowed_exactly_where_the_table_says_so(
    before: TaskState, after: TaskState
) -> None:
    task = in_state(before)
    if after in TRANSITIONS[before]:
        assert life.transition(task, after).state is after
    else:
        with pytest.raises(Conflict, match=f"is {before} and cannot become {after}"):
            life.transition(task, after)


# ---- nothing leaves a terminal state


@pytest.mark.parametrize("state", TERMINAL)
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_no_outcome_changes_an_ended_task(state: TaskState, outcome: Outcome) -> None:
    with pytest.raises(Conflict):
        settled(in_state(state), outcome)
    # Nor does a cancellation that was asked for and came too late.
    with pytest.raises(Conflict):
        settled(msgspec.structs.replace(in_state(state), cancel_requested=True), outcome)


@pytest.mark.parametrize("state", TERMINAL)
def test_an_ended_task_cannot_be_started_lost_or_expired(state: TaskState) -> None:
    task = in_state(state)
    with pytest.raises(Conflict):
        started(task)
    with pytest.raises(Conflict):
        life.lose(task, now=LATER, retry_delay_s=DELAY_S)
    with pytest.raises(Conflict):
        life.expire(task, now=LATER)


@pytest.mark.parametrize("state", TERMINAL)
def test_canceling_and_sweeping_leave_an_ended_task_as_it_is(state: TaskState) -> None:
    task = in_state(state, start_by_s=1, finish_by_s=1)
    assert life.cancel(task, now=LATER) is task
    assert life.sweep(task, now=LATER, retry_delay_s=DELAY_S) is task
    assert life.next_wake_at(task) is None
    assert not life.is_expired(task, LATER)
    assert not task.is_held_by(task.attempt, task.lease_token or "")


@pytest.mark.parametrize("outcome", [a_success(), a_failure(), Released()])
def test_a_task_that_does_not_run_cannot_succeed_or_go_back(outcome: Outcome) -> None:
    with pytest.raises(Conflict):
        settled(a_task(), outcome)


# ---- settling


def test_a_success_carries_what_the_model_gave() -> None:
    outcome = Succeeded(output=msgspec.Raw(b"[1]"), timings=Timings(run_s=2), seed=9)
    task = settled(started(a_task(), now=NOW + timedelta(seconds=3)), outcome, now=LATER)
    assert (task.state, task.seed, task.finished_at) == (TaskState.SUCCEEDED, 9, LATER)
    assert task.output is not None
    assert bytes(task.output) == b"[1]"
    assert task.timings == Timings(queue_s=3, run_s=2)


def test_the_seed_that_was_asked_stays_where_the_model_names_none() -> None:
    assert settled(started(a_task(seed=4)), a_success()).seed == 4


def test_a_success_after_a_failed_attempt_has_no_error() -> None:
    waiting = settled(started(a_task()), a_failure())
    assert waiting.error is not None
    assert settled(started(waiting), a_success()).error is None


def test_a_cancellation_after_a_failed_attempt_has_no_error() -> None:
    waiting = settled(started(a_task()), a_failure())
    assert life.cancel(waiting, now=NOW).error is None


def test_a_failure_waits_for_its_delay_and_is_not_dead() -> None:
    waiting = settled(started(a_task()), a_failure())
    assert (waiting.state, waiting.dead) == (TaskState.QUEUED, False)
    assert waiting.available_at == NOW + timedelta(seconds=DELAY_S)
    ready = life.sweep(waiting, now=LATER, retry_delay_s=DELAY_S)
    assert (ready.state, ready.available_at) == (TaskState.QUEUED, None)


def test_a_failure_that_may_not_be_repeated_ends_the_task_and_is_no_dead_letter() -> None:
    ended = settled(started(a_task()), a_failure(retryable=False))
    assert (ended.state, ended.dead) == (TaskState.FAILED, False)


@pytest.mark.parametrize("outcome", [a_failure(), Released(), Canceled()])
def test_a_cancellation_that_was_asked_for_wins_over_going_back(outcome: Outcome) -> None:
    asked = life.cancel(started(a_task()), now=NOW)
    assert asked.state is TaskState.RUNNING
    assert asked.cancel_requested
    assert settled(asked, outcome).state is TaskState.CANCELED


def test_a_success_wins_over_a_cancellation_that_was_asked_for() -> None:
    asked = life.cancel(started(a_task()), now=NOW)
    assert settled(asked, a_success()).state is TaskState.SUCCEEDED


def test_a_lost_worker_whose_task_was_to_be_canceled_ends_it() -> None:
    asked = life.cancel(started(a_task()), now=NOW)
    assert life.lose(asked, now=LATER, retry_delay_s=DELAY_S).state is TaskState.CANCELED


def test_an_attempt_handed_back_is_ready_at_once() -> None:
    back = settled(started(a_task(max_attempts=1)), Released())
    assert (back.state, back.available_at, back.attempts_left) == (TaskState.QUEUED, None, 1)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_who_settled_may_tell_it_again(outcome: Outcome) -> None:
    task = settled(started(a_task()), outcome)
    assert life.was_settled_by(task, 1, "t")
    assert not life.was_settled_by(task, 1, "other")
    assert not life.was_settled_by(task, 2, "t")


def test_a_worker_that_was_lost_cannot_say_that_it_settled() -> None:
    lost = life.lose(started(a_task()), now=LATER, retry_delay_s=DELAY_S)
    expired = life.expire(started(a_task(finish_by_s=1)), now=LATER)
    assert not life.was_settled_by(lost, 1, "t")
    assert not life.was_settled_by(expired, 1, "t")


# ---- deadlines


def test_the_error_of_an_expired_task_names_the_deadline() -> None:
    start_by = life.expire(a_task(start_by_s=1), now=LATER)
    finish_by = life.expire(started(a_task(finish_by_s=1)), now=LATER)
    assert start_by.error is not None
    assert finish_by.error is not None
    assert "start_by" in start_by.error.detail
    assert "finish_by" in finish_by.error.detail


def test_start_by_binds_only_while_the_task_waits() -> None:
    task = a_task(start_by_s=1)
    assert life.is_expired(task, LATER)
    assert not life.is_expired(started(task), LATER)
    # After a failed attempt it waits again.
    assert life.is_expired(settled(started(task), a_failure()), LATER)


def test_a_deadline_has_passed_at_its_very_moment() -> None:
    task = a_task(finish_by_s=10)
    assert not life.is_expired(task, NOW + timedelta(seconds=9.999999))
    assert life.is_expired(task, NOW + timedelta(seconds=10))


# ---- repeating, ids, delays


def test_a_repeated_task_asks_the_same_and_leaves_the_deadlines() -> None:
    task = in_state(TaskState.FAILED, seed=3, count=2, user="ann", start_by_s=1, finish_by_s=2)
    new = life.again(task)
    kept = set(NewTask.__struct_fields__) & set(Task.__struct_fields__) - {"retry_of", "id"}
    assert {name: getattr(new, name) for name in kept} == {
        name: getattr(task, name) for name in kept
    }
    assert (new.start_by_s, new.finish_by_s, new.retry_of) == (None, None, task.id)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC)))
def test_an_id_carries_its_time_of_creation(now: datetime) -> None:
    task_id = life.new_id(now)
    assert life.is_id(task_id)
    assert abs(life.created_at_of(task_id) - now) <= timedelta(milliseconds=1)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(milliseconds=2), timedelta(days=10_000)),
)
def test_ids_sort_by_time_of_creation(now: datetime, later: timedelta) -> None:
    assert life.new_id(now) < life.new_id(now + later)


def test_ids_of_one_moment_differ() -> None:
    assert len({life.new_id(NOW) for _ in range(10_000)}) == 10_000


@given(st.text(max_size=40))
def test_whatever_is_not_32_hexadecimal_digits_is_no_id(text: str) -> None:
    digits = set("0123456789abcdef")
    assert life.is_id(text) == (len(text) == 32 and set(text) <= digits)


@given(attempt=st.integers(0, 50), data=st.data())
def test_attempts_handed_back_do_not_lengthen_the_delay(attempt: int, data: st.DataObject) -> None:
    back = data.draw(st.integers(0, attempt))
    task = msgspec.structs.replace(a_task(), attempt=attempt, handed_back=back)
    policy = RetryPolicy(base_s=1, cap_s=1e9)
    delay_s = life.retry_delay_s(task, policy, random.Random(1))
    assert delay_s == policy.delay_s(max(1, attempt - back), random.Random(1))


# ---- any life


class Lives(RuleBasedStateMachine):
    """Every verb, in any order, with time going on."""

    @initialize(
        max_attempts=st.integers(1, 4),
        start_by_s=st.one_of(st.none(), st.integers(1, 200)),
        finish_by_s=st.one_of(st.none(), st.integers(1, 200)),
    )
    def accept(
        self, max_attempts: int, start_by_s: float | None, finish_by_s: float | None
    ) -> None:
        self.now = NOW
        self.task = a_task(
            max_attempts=max_attempts, start_by_s=start_by_s, finish_by_s=finish_by_s
        )
        self.ended: Task | None = None

    def become(self, task: Task) -> None:
        assert task.state is self.task.state or task.state in TRANSITIONS[self.task.state]
        self.task = task
        if task.state.is_terminal and self.ended is None:
            self.ended = task

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.task.state is TaskState.QUEUED)
    @rule()
    def start(self) -> None:
        if self.task.available_at is None and not life.is_expired(self.task, self.now):
            self.become(started(self.task, self.now))

    @precondition(lambda self: self.task.state is TaskState.RUNNING)
    @rule(outcome=st.sampled_from(OUTCOMES))
    def settle(self, outcome: Outcome) -> None:
        self.become(settled(self.task, outcome, self.now))

    @precondition(lambda self: self.task.state is TaskState.RUNNING)
    @rule()
    def lose(self) -> None:
        self.become(life.lose(self.task, now=self.now, retry_delay_s=DELAY_S))

    @rule()
    def cancel(self) -> None:
        self.become(life.cancel(self.task, now=self.now))

    @rule(retry_delay_s=st.floats(0, 60))
    def sweep(self, retry_delay_s: float) -> None:
        wake_at = life.next_wake_at(self.task)
        swept = life.sweep(self.task, now=self.now, retry_delay_s=retry_delay_s)
        due = wake_at is not None and wake_at <= self.now
        assert due == (swept is not self.task)
        self.become(swept)

    @invariant()
    def an_outcome_never_changes(self) -> None:
        if self.ended is not None:
            assert self.task == self.ended

    @invariant()
    def attempts_that_count_never_exceed_the_maximum(self) -> None:
        assert 0 <= self.task.attempt - self.task.handed_back <= self.task.max_attempts
        assert self.task.attempts_left >= 0

    @invariant()
    def a_waiting_task_has_an_attempt_left(self) -> None:
        if self.task.state is TaskState.QUEUED:
            assert self.task.attempts_left > 0

    @invariant()
    def an_ended_task_says_when_and_a_living_one_does_not(self) -> None:
        assert (self.task.finished_at is not None) == self.task.state.is_terminal

    @invariant()
    def only_a_running_task_has_a_lease(self) -> None:
        running = self.task.state is TaskState.RUNNING
        assert (self.task.lease_expires_at is not None) == running

    @invariant()
    def failed_and_expired_tasks_say_why_and_the_other_ends_do_not(self) -> None:
        if self.task.state.is_terminal:
            bad = self.task.state in {TaskState.FAILED, TaskState.EXPIRED}
            assert (self.task.error is not None) == bad

    @invariant()
    def dead_letters_have_failed_with_no_attempt_left(self) -> None:
        if self.task.dead:
            assert self.task.state is TaskState.FAILED
            assert self.task.attempts_left == 0

    @invariant()
    def sweeping_comes_to_rest(self) -> None:
        task = self.task
        for _ in range(4):
            task = life.sweep(task, now=self.now, retry_delay_s=0)
        wake_at = life.next_wake_at(task)
        assert wake_at is None or wake_at > self.now

    @invariant()
    def what_only_time_can_end_has_a_time_to_wake(self) -> None:
        waits = self.task.state is TaskState.QUEUED and self.task.available_at is not None
        if self.task.state is TaskState.RUNNING or waits:
            assert life.next_wake_at(self.task) is not None


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
