"""What happens to a task, as it is told to whoever waits.

Event ids of one task only grow, also across attempts, restarts and backends: a reader that knows
the last id it saw can ask for what came after. The id says where in the task's life the event lies:

    attempt · 1,000,000 + place        place 0: queued again or started, then progress and
                                       previews as the worker counts them
    TERMINAL_ID                        the end, larger than any other
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from swell.stages import Done
from swell.task import Task, TaskState

#: Ids of one attempt's events lie within one stride.
ATTEMPT_STRIDE = 1_000_000

#: The id of the last event of every task; fits a double exactly.
TERMINAL_ID = 2**53 - 1


class EventKind(StrEnum):
    """Names on the wire."""

    #: Waits; data has `position` and `eta_s` where known.
    QUEUED = "queued"
    #: A worker took it; data has `attempt` and `worker`.
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


class Brief(msgspec.Struct, frozen=True, array_like=True):
    """What another backend keeps in mind of a task, so that it need not read it.

    Args:
        model: Which one.
        attempt: The current or the last one.
        worker_id: Who has or had it.
        count: Its samples.
        run_s: How long the model ran, of a task that has succeeded; else 0.
        took_s: The same with encoding and upload.
        version: Of the model, of a task that has succeeded.
    """

    model: str
    attempt: int
    worker_id: str | None = None
    count: int = 1
    run_s: float = 0.0
    took_s: float = 0.0
    version: str = ""


class Lives(msgspec.Struct, frozen=True, array_like=True):
    """Attempts that began and ended before another backend was told of either: what their briefs
    would say, together.

    Args:
        kind: How they ended.
        model: Which one.
        version: Of the model, where they have succeeded.
        worker_id: Who had them.
        count: The samples of each.
        ids: Their tasks.
        run_s: How long the model ran, of each, where they have succeeded; else empty.
        took_s: The same with encoding and upload.
    """

    kind: EventKind
    model: str
    version: str
    worker_id: str | None
    count: int
    ids: list[str] = []
    run_s: list[float] = []
    took_s: list[float] = []


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a task."""

    task_id: str
    #: Grows within a task.
    id: int
    kind: EventKind
    #: What is shown to the reader, as JSON values.
    data: dict[str, Any] = {}
    #: The task after a change of state, where the event comes from this process; a reader without
    #: it asks the store.
    task: Task | None = None
    #: Of the task, where the event comes from another process.
    brief: Brief | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether nothing comes after this event."""
        return self.id == TERMINAL_ID


#: Name of a terminal state → kind of the event that tells it.
_ENDS: Final = {state.value: EventKind(state.value) for state in TaskState if state.is_terminal}


def event_of(task: Task) -> Event:
    """Return the event that tells the state a task is in now."""
    if task.state.is_terminal:
        return Event(task_id=task.id, id=TERMINAL_ID, kind=_ENDS[task.state._value_], task=task)
    if task.state is TaskState.RUNNING:
        data = {"attempt": task.attempt, "worker": task.worker_id}
        if task.run is not None:
            data["stage"] = task.run.stage.name
        number = task.attempt * ATTEMPT_STRIDE
        return Event(task_id=task.id, id=number, kind=EventKind.STARTED, data=data, task=task)
    # One below the next attempt's start, so that being queued again follows all that came before.
    number = (task.attempt + 1) * ATTEMPT_STRIDE - 1
    data = {"attempt": task.attempt}
    if task.run is not None:
        data["stage"] = task.run.stage.name
    return Event(task_id=task.id, id=number, kind=EventKind.QUEUED, data=data, task=task)


def brief_of(task: Task) -> Brief:
    """Return what other backends keep in mind of a task."""
    run_s, took_s = 0.0, 0.0
    if task.run is not None and task.run.done and task.state is TaskState.SUCCEEDED:
        return brief_of_stage(task, task.run.done[-1])
    if task.state is TaskState.SUCCEEDED and task.started_at and task.finished_at:
        timings = task.timings
        if timings is not None and timings.run_s > 0:
            run_s = timings.run_s
            took_s = run_s + timings.encode_s + timings.upload_s
        else:
            # A worker that does not tell. What the task waited for in there counts too.
            run_s = took_s = (task.finished_at - task.started_at).total_seconds()
    version = task.version if took_s else ""
    return Brief(task.stage_model, task.attempt, task.worker_id, task.count, run_s, took_s, version)


def lives_of(ends: Iterable[Event]) -> list[Lives]:
    """Return what other backends keep in mind of attempts that they were not told of before.

    Args:
        ends: Events of this process that tell how tasks ended, which are no pipelines.
    """
    found: dict[tuple[EventKind, str, str, str | None, int], Lives] = {}
    for end in ends:
        assert end.task is not None, "it comes from this process"
        brief = brief_of(end.task)
        key = (end.kind, brief.model, brief.version, brief.worker_id, brief.count)
        lives = found.get(key)
        if lives is None:
            lives = found[key] = Lives(*key, [], [], [])
        lives.ids.append(end.task_id)
        if end.kind is EventKind.SUCCEEDED:
            lives.run_s.append(round(brief.run_s, 6))
            lives.took_s.append(round(brief.took_s, 6))
    return list(found.values())


def brief_of_stage(task: Task, done: Done) -> Brief:
    """Return what backends keep in mind of a stage of a pipeline that is over."""
    timings = done.timings
    took_s = timings.run_s + timings.encode_s + timings.upload_s
    count = 1 if task.run is None else task.run.samples_of(done.name, task.count)
    return Brief(
        done.model, done.attempt, done.worker_id, count, timings.run_s, took_s, done.version
    )
