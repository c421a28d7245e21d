"""Tasks as rows of the `tasks` table, and back.

The order of columns is that of `insert_task` and `tasks_by_id` in sql/queries/sqlite.sql. This runs
twice for each task, so it gives SQLite plain numbers and strings (a bool or an enum would take the
long way through the adapters of the sqlite3 module), and calls nothing for what is not there.
"""

import functools
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from swell.results import TaskWarning
from swell.stages import Run
from swell.task import Artifact, Task, TaskError, TaskState, Timings, next_wake_at
from swell.webhook import Webhook

#: What `removed` adds up.
INPUTS = 1
OUTPUTS = 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_STATES = {state.value: state for state in TaskState}
_encode = msgspec.json.Encoder().encode
_artifacts = msgspec.json.Decoder(tuple[Artifact, ...]).decode
_error = msgspec.json.Decoder(TaskError).decode
_run = msgspec.json.Decoder(Run).decode
_timings = msgspec.json.Decoder(Timings).decode
_warnings = msgspec.json.Decoder(tuple[TaskWarning, ...]).decode
_webhook = msgspec.json.Decoder(Webhook).decode


@functools.lru_cache(maxsize=1024)
def micros(at: datetime) -> int:
    """Return a time as microseconds since 1970 UTC; the tasks of a group have it in common."""
    return (at - _EPOCH) // _MICROSECOND


sqlite3.register_adapter(datetime, micros)


def moment(value: int | None) -> datetime | None:
    """Return the time that `micros` wrote."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def insert_row(seq: int, task: Task) -> tuple[Any, ...]:
    """Return the parameters of `insert_task`."""
    return (
        seq,
        task.id,
        task.model,
        task.queue,
        task.version,
        task.state._value_,
        str(task.input, "utf-8"),
        task.count,
        task.seed,
        task.priority,
        task.key_id,
        task.user,
        None if task.metadata is None else str(task.metadata, "utf-8"),
        micros(task.created_at),
        None if task.start_by_at is None else micros(task.start_by_at),
        None if task.finish_by_at is None else micros(task.finish_by_at),
        None if task.available_at is None else micros(task.available_at),
        task.tag,
        task.attempt,
        task.handed_back,
        task.max_attempts,
        task.worker_id,
        task.lease_token,
        None if task.lease_expires_at is None else micros(task.lease_expires_at),
        1 if task.cancel_requested else 0,
        None if task.started_at is None else micros(task.started_at),
        None if task.finished_at is None else micros(task.finished_at),
        None if task.output is None else str(task.output, "utf-8"),
        _json(task.artifacts) if task.artifacts else None,
        _json(task.error) if task.error else None,
        _json(task.timings) if task.timings else None,
        1 if task.dead else 0,
        task.retry_of,
        None if (wake_at := next_wake_at(task)) is None else micros(wake_at),
        task.checkpoint,
        task.traceparent,
        None if task.webhook is None else _json(task.webhook),
    )


def save_row(seq: int, task: Task) -> tuple[Any, ...]:
    """Return the parameters of `save_task`."""
    return (
        task.version,
        task.state._value_,
        task.seed,
        None if task.available_at is None else micros(task.available_at),
        task.attempt,
        task.handed_back,
        task.worker_id,
        task.lease_token,
        None if task.lease_expires_at is None else micros(task.lease_expires_at),
        1 if task.cancel_requested else 0,
        None if task.started_at is None else micros(task.started_at),
        None if task.finished_at is None else micros(task.finished_at),
        None if task.output is None else str(task.output, "utf-8"),
        _json(task.artifacts) if task.artifacts else None,
        _json(task.error) if task.error else None,
        _json(task.timings) if task.timings else None,
        1 if task.dead else 0,
        None if (wake_at := next_wake_at(task)) is None else micros(wake_at),
        task.checkpoint,
        seq,
    )


def run_row(seq: int, task: Task) -> tuple[Any, ...]:
    """Return the parameters of `save_run`."""
    return task.queue, task.tag, _json(task.run), seq


def warnings_row(seq: int, task: Task) -> tuple[Any, ...]:
    """Return the parameters of `save_warnings`."""
    return _json(task.warnings) if task.warnings else None, seq


def task_of(row: tuple[Any, ...]) -> tuple[int, Task]:
    """Return (seq, task) of a row of `tasks_by_id`."""
    return row[0], Task(
        id=row[1],
        model=row[2],
        queue=row[3],
        version=row[4],
        state=_STATES[row[5]],
        input=msgspec.Raw(row[6]),
        count=row[7],
        seed=row[8],
        priority=row[9],
        key_id=row[10],
        user=row[11],
        metadata=_raw(row[12]),
        created_at=_EPOCH + timedelta(microseconds=row[13]),
        start_by_at=moment(row[14]),
        finish_by_at=moment(row[15]),
        available_at=moment(row[16]),
        tag=row[17],
        attempt=row[18],
        handed_back=row[19],
        max_attempts=row[20],
        worker_id=row[21],
        lease_token=row[22],
        lease_expires_at=moment(row[23]),
        cancel_requested=bool(row[24]),
        started_at=moment(row[25]),
        finished_at=moment(row[26]),
        output=_raw(row[27]),
        artifacts=() if row[28] is None else _artifacts(row[28]),
        error=None if row[29] is None else _error(row[29]),
        timings=None if row[30] is None else _timings(row[30]),
        dead=bool(row[31]),
        retry_of=row[32],
        checkpoint=row[33],
        traceparent=row[34],
        inputs_removed=bool(row[35] & INPUTS),
        outputs_removed=bool(row[35] & OUTPUTS),
        webhook=None if row[36] is None else _webhook(row[36]),
        run=None if row[37] is None else _run(row[37]),
        warnings=() if row[38] is None else _warnings(row[38]),
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)


def _json(value: Any) -> str:
    return _encode(value).decode()
