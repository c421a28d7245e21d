"""Events of a task, as listeners receive them.

Event ids of one task only grow, also across attempts, restarts and backends, so a reader that knows
its last id can ask for later events:

    attempt * 1,000,000 + n    n = 0: queued again or started; then progress and previews in the
                               worker's order
    TERMINAL_ID                the end, larger than all others
"""

from enum import StrEnum
from typing import Any

import msgspec

from swell.core.pipeline_stages import Done
from swell.core.task import Task, TaskState, Timings

#: The ids of one attempt lie within this range.
ATTEMPT_STRIDE = 1_000_000

#: The id of the last event of every task; a double represents it exactly.
TERMINAL_ID = 2**53 - 1


class EventKind(StrEnum):
    """Names in event streams."""

    #: The task waits; data has `position` and `eta_s` if known.
    QUEUED = "queued"
    #: A worker leased it; data has `attempt` and `worker`.
    STARTED = "started"
    #: Data has `step`, `steps`, `fraction`.
    PROGRESS = "progress"
    #: Data has `image`, a data URI of a small picture.
    PREVIEW = "preview"
    #: Data is one artifact.
    ARTIFACT = "artifact"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


class TaskSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What other backends need to know of a changed task, so that they do not read it.

    Args:
        model: Of the current stage.
        attempt: The current or the last one.
        worker_id: The worker of that attempt.
        count: Samples.
        run_s: How long the model ran if the task has succeeded; else 0.
        took_s: `run_s` with encoding and upload.
        version: Of the model if the task has succeeded.
    """

    model: str
    attempt: int
    worker_id: str | None = None
    count: int = 1
    run_s: float = 0.0
    took_s: float = 0.0
    version: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One change of a task."""

    task_id: str
    #: Grows within a task.
    id: int
    kind: EventKind
    #: For the reader, as JSON values.
    data: dict[str, Any] = {}
    #: The summary of a state change at another backend.
    summary: TaskSummary | None = None
    #: The task after a state change at this backend.
    task: Task | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether this is the last event of its task."""
        return self.id == TERMINAL_ID


def event_of(task: Task) -> Event:
    """Return the event for the current state of a task."""
    if task.state.is_terminal:
        return Event(task_id=task.id, id=TERMINAL_ID, kind=EventKind(task.state), task=task)
    data: dict[str, Any] = {"attempt": task.attempt}
    if task.state is TaskState.RUNNING:
        kind, event_id = EventKind.STARTED, task.attempt * ATTEMPT_STRIDE
        data["worker"] = task.worker_id
    else:
        # Directly before the start of the next attempt, so after all events of the last one.
        kind, event_id = EventKind.QUEUED, (task.attempt + 1) * ATTEMPT_STRIDE - 1
    if task.run is not None:
        data["stage"] = task.run.stage.name
    return Event(task_id=task.id, id=event_id, kind=kind, data=data, task=task)


def for_peers(event: Event) -> Event:
    """Return an event for other backends: with a summary instead of the task."""
    if event.task is None:
        return event
    return msgspec.structs.replace(event, task=None, summary=summary_of(event.task))


def summary_of(task: Task) -> TaskSummary:
    """Return the summary of a task."""
    run_s, took_s, version = 0.0, 0.0, ""
    if task.state is TaskState.SUCCEEDED:
        if task.run is not None and task.run.done:
            return summary_of_stage(task, task.run.done[-1])
        version = task.version
        if task.timings is not None and task.timings.run_s > 0:
            run_s, took_s = task.timings.run_s, _took_s(task.timings)
        elif task.started_at and task.finished_at:
            # The worker reported no times, so these include the wait inside the worker.
            run_s = took_s = (task.finished_at - task.started_at).total_seconds()
    model, _, _ = task.queue.partition(":")
    return TaskSummary(model, task.attempt, task.worker_id, task.count, run_s, took_s, version)


def summary_of_stage(task: Task, done: Done) -> TaskSummary:
    """Return the summary of a finished stage of a pipeline."""
    count = 1 if task.run is None else task.run.samples_of(done.name, task.count)
    return TaskSummary(
        done.model,
        done.attempt,
        done.worker_id,
        count,
        done.timings.run_s,
        _took_s(done.timings),
        done.version,
    )


def _took_s(timings: Timings) -> float:
    return timings.run_s + timings.encode_s + timings.upload_s
