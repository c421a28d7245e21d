"""What happens to a task, as it is told to whoever waits.

Event ids of one task only grow, also across attempts, restarts and backends: a reader that knows
the last id it saw can ask for what came after. The id says where in the task's life the event lies:

    attempt · 1,000,000 + place        place 0: queued again or started, then progress and
                                       previews as the worker counts them
    TERMINAL_ID                        the end, larger than any other
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from swell.task import Task, TaskState

__all__ = ["ATTEMPT_STRIDE", "TERMINAL_ID", "Event", "EventKind", "event_of"]

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
        number = task.attempt * ATTEMPT_STRIDE
        return Event(task_id=task.id, id=number, kind=EventKind.STARTED, data=data, task=task)
    # One below the next attempt's start, so that being queued again follows all that came before.
    number = (task.attempt + 1) * ATTEMPT_STRIDE - 1
    return Event(
        task_id=task.id,
        id=number,
        kind=EventKind.QUEUED,
        data={"attempt": task.attempt},
        task=task,
    )
