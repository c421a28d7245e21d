"""Tasks as rows of the `tasks` table, and back.

The order of columns is that of the statements in sql/queries/postgres.sql. Whole groups of rows go
to the server as one array for each column, or as one value where all rows have the same: most of
what a group writes is alike, and each element of an array costs the library some checks.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from swell.results import TaskWarning
from swell.stages import Run
from swell.task import Artifact, Task, TaskError, TaskState, Timings, next_wake_at
from swell.webhook import Webhook

#: What `removed` adds up.
INPUTS = 1
OUTPUTS = 2

_STATES = {state.value: state for state in TaskState}
_encode = msgspec.json.Encoder().encode
_artifacts = msgspec.json.Decoder(tuple[Artifact, ...]).decode
_error = msgspec.json.Decoder(TaskError).decode
_run = msgspec.json.Decoder(Run).decode
_timings = msgspec.json.Decoder(Timings).decode
_warnings = msgspec.json.Decoder(tuple[TaskWarning, ...]).decode
_webhook = msgspec.json.Decoder(Webhook).decode

_N_CHANGED = 21
_N_NEW = 26


class Row(NamedTuple):
    """A task as it lies in the table."""

    task: Task
    #: How often it was written; a write takes effect only where this is still so.
    edition: int
    wake_at: datetime | None


def row_of(record: Sequence[Any]) -> Row:
    """Return what a record of `tasks_by_id` holds."""
    task = Task(
        id=record[0],
        model=record[2],
        queue=record[3],
        version=record[4],
        state=_STATES[record[5]],
        input=msgspec.Raw(record[6]),
        count=record[7],
        seed=record[8],
        priority=record[9],
        key_id=record[10],
        user=record[11],
        metadata=_raw(record[12]),
        created_at=record[13],
        start_by_at=record[14],
        finish_by_at=record[15],
        available_at=record[16],
        tag=record[17],
        attempt=record[18],
        handed_back=record[19],
        max_attempts=record[20],
        worker_id=record[21],
        lease_token=record[22],
        lease_expires_at=record[23],
        cancel_requested=record[24],
        started_at=record[25],
        finished_at=record[26],
        output=_raw(record[27]),
        artifacts=() if record[28] is None else _artifacts(record[28]),
        error=None if record[29] is None else _error(record[29]),
        timings=None if record[30] is None else _timings(record[30]),
        dead=record[31],
        retry_of=record[32],
        checkpoint=record[34],
        traceparent=record[35],
        inputs_removed=bool(record[36] & INPUTS),
        outputs_removed=bool(record[36] & OUTPUTS),
        webhook=None if record[37] is None else _webhook(record[37]),
        run=None if record[38] is None else _run(record[38]),
        warnings=() if record[39] is None else _warnings(record[39]),
    )
    return Row(task, record[1], record[33])


def wake_of(before: Row | None, task: Task) -> datetime | None:
    """Return when the sweeper next looks at a task that is about to be written.

    Extending a lease leaves the time as it is, so that no index changes. The sweeper then finds the
    lease still held, and writes the same task with the right time.
    """
    wake_at = next_wake_at(task)
    if before is None or before.wake_at is None or wake_at is None or before.task is task:
        return wake_at
    was = before.task
    is_same_attempt = was.state is TaskState.RUNNING and was.attempt == task.attempt
    if is_same_attempt and task.state is TaskState.RUNNING:
        return min(before.wake_at, wake_at)
    return wake_at


def changed_columns(rows: Iterable[Row]) -> list[Any]:
    """Return the columns of rows that are there, each row with the edition that is there.

    As arrays, then as values of all rows; of ids as an array alone.
    """
    found = [
        (
            task.id,
            edition,
            task.version,
            task.state._value_,
            task.seed,
            task.available_at,
            task.attempt,
            task.handed_back,
            task.worker_id,
            task.lease_token,
            task.lease_expires_at,
            task.cancel_requested,
            task.started_at,
            task.finished_at,
            None if task.output is None else str(task.output, "utf-8"),
            _json(task.artifacts) if task.artifacts else None,
            _json(task.error) if task.error else None,
            _json(task.timings) if task.timings else None,
            task.dead,
            wake_at,
            task.checkpoint,
        )
        for task, edition, wake_at in rows
    ]
    return _columns(found, _N_CHANGED)


def new_columns(rows: Iterable[Row]) -> list[Any]:
    """Return the columns of rows that are new, queued or started already, in the same form."""
    found = [
        (
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
            task.created_at,
            task.start_by_at,
            task.finish_by_at,
            task.tag,
            task.attempt,
            task.max_attempts,
            task.worker_id,
            task.lease_token,
            task.lease_expires_at,
            task.started_at,
            task.retry_of,
            wake_at,
            task.traceparent,
            None if task.webhook is None else _json(task.webhook),
        )
        for task, _, wake_at in rows
    ]
    return _columns(found, _N_NEW)


def run_columns(tasks: Iterable[Task]) -> list[Sequence[Any]]:
    """Return the arrays of `save_runs`, of at least one pipeline."""
    found = [(task.id, task.queue, task.tag, _json(task.run)) for task in tasks]
    return list(zip(*found, strict=True))


def warnings_columns(tasks: Iterable[Task]) -> list[Sequence[Any]]:
    """Return the arrays of `save_warnings`, of at least one task."""
    found = [(task.id, _json(task.warnings) if task.warnings else None) for task in tasks]
    return list(zip(*found, strict=True))


def bare_columns(tasks: Iterable[Task]) -> list[Sequence[Any]]:
    """Return the arrays of `remove_parts`, of at least one task."""
    found = [
        (
            task.id,
            INPUTS * task.inputs_removed | OUTPUTS * task.outputs_removed,
            str(task.input, "utf-8"),
            None if task.metadata is None else str(task.metadata, "utf-8"),
            _json(task.error) if task.error else None,
            None if task.output is None else str(task.output, "utf-8"),
            _json(task.artifacts) if task.artifacts else None,
        )
        for task in tasks
    ]
    return list(zip(*found, strict=True))


def _columns(rows: Sequence[tuple[Any, ...]], n: int) -> list[Any]:
    """Return n columns: those in which rows differ as arrays, the others as one value each.

    Where there is the one, None stands for the other.
    """
    if not rows:
        return [None] * (2 * n - 1)
    ids, *others = zip(*rows, strict=True)
    arrays: list[Any] = [ids]
    values: list[Any] = []
    size = len(rows)
    for column in others:
        value = column[0]
        is_one = column.count(value) == size
        arrays.append(None if is_one else column)
        values.append(value if is_one else None)
    return arrays + values


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)


def _json(value: Any) -> str:
    return _encode(value).decode()
