"""What a backend on PostgreSQL remembers between its transactions."""

from datetime import UTC, datetime

import msgspec

from conformance.factories import a_new_task
from swell.core import task as life
from swell.core.task import Task
from swell.db.postgres.task_cache import PostgresState
from swell.db.transaction import MAX_LIVE_INPUT_BYTES, Line, StoredTask

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_task(*, input_bytes: int = 2) -> Task:
    new = msgspec.structs.replace(
        a_new_task(), input=msgspec.Raw(b'"' + b"x" * (input_bytes - 2) + b'"')
    )
    return life.accept(new, task_id=life.new_id(NOW), now=NOW)


def running(task: Task) -> StoredTask:
    return StoredTask(
        life.start(task, worker_id="w", version="1", token="t", now=NOW, lease_s=30), 1, None
    )


def test_a_running_task_is_remembered_until_it_ends_or_waits_again() -> None:
    state, task = PostgresState(), a_task()
    state.remember(StoredTask(task, 0, None))
    assert not state.live
    state.remember(running(task))
    assert state.live == {task.id: running(task)}
    state.remember(StoredTask(task, 2, None))
    assert not state.live


def test_a_task_with_a_large_input_is_not_remembered() -> None:
    state, large = PostgresState(), a_task(input_bytes=MAX_LIVE_INPUT_BYTES + 1)
    state.remember(running(large))
    assert not state.live


def test_counting_again_replaces_the_counts_of_these_queues_only() -> None:
    state = PostgresState()
    state.count("one", 1, "a", 3, 3)
    state.count("other", 1, "a", 1, 1)
    state.recount(["one"], [("one", 0, "b", 2, 5)])
    assert state.lines["one"] == {1: {"b": Line(2, 5)}}
    state.recount(["one"], [])
    assert state.lines == {"other": {1: {"a": Line(1, 1)}}}
