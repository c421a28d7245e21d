"""What a backend on PostgreSQL keeps in mind of the tasks that are ready."""

from datetime import UTC, datetime

import msgspec

from conformance.factories import a_new_task
from swell import task as life
from swell.stores.postgres.rows import Row
from swell.stores.postgres.state import MAX_LIVE_INPUT_BYTES, State
from swell.task import Task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_task(*, input_bytes: int = 2) -> Task:
    new = msgspec.structs.replace(
        a_new_task(), input=msgspec.Raw(b'"' + b"x" * (input_bytes - 2) + b'"')
    )
    return life.accept(new, task_id=life.new_id(NOW), now=NOW)


def accepted(state: State, task: Task) -> None:
    state.count(task.queue, 0, task.key_id, 1, task.count)
    state.remember(task.id, Row(task, 0, None))


def test_ready_tasks_are_all_known_as_long_as_this_backend_made_them_ready() -> None:
    state, tasks = State(), [a_task() for _ in range(3)]
    for task in tasks:
        accepted(state, task)
    found = state.all_ready(tasks[0].queue, 3)
    assert found is not None
    assert [row.task for row in found] == tasks


def test_what_was_forgotten_must_be_read() -> None:
    state, tasks = State(), [a_task() for _ in range(2)]
    for task in tasks:
        accepted(state, task)
    state.forget([tasks[0].id])
    assert state.all_ready(tasks[0].queue, 9) is None


def test_whoever_forgets_all_must_read_where_something_was_ready() -> None:
    state, task = State(), a_task()
    accepted(state, task)
    state.forget_all()
    assert state.unremembered == {task.queue}


def test_an_input_that_is_too_large_to_keep_must_be_read() -> None:
    state, large = State(), a_task(input_bytes=MAX_LIVE_INPUT_BYTES + 1)
    accepted(state, large)
    assert state.all_ready(large.queue, 9) is None


def test_what_others_told_must_be_looked_for_until_it_was() -> None:
    state, task = State(), a_task()
    accepted(state, task)
    state.tell([task.queue])
    assert state.all_ready(task.queue, 9) is None
    state.tell([task.queue])
    state.found_some(task.queue, 1)
    assert state.all_ready(task.queue, 9) is None
    state.found_some(task.queue, 2)
    assert state.all_ready(task.queue, 9) is not None


def test_a_long_line_is_left_to_the_server() -> None:
    state, tasks = State(), [a_task() for _ in range(5)]
    for task in tasks:
        accepted(state, task)
    assert state.all_ready(tasks[0].queue, 4) is None


def test_a_task_that_was_started_is_not_ready() -> None:
    state, task = State(), a_task()
    accepted(state, task)
    running = life.start(task, worker_id="w", version="1", token="t", now=NOW, lease_s=30)
    state.count(task.queue, 0, task.key_id, -1, -task.count)
    state.remember(task.id, Row(running, 1, None))
    assert state.all_ready(task.queue, 9) == []
