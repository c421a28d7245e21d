"""Files of a task that are there before it ends, as far as this backend has heard of them.

They are told as events, and the bus remembers them; the store learns of them with the outcome.
After a restart workers tell them again. Those of an attempt that is over count no more: the next
one makes its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from swell.bus import Bus
from swell.events import ATTEMPT_STRIDE, Event, EventKind
from swell.results import Artifact
from swell.task import Task, TaskState


def early_artifacts(bus: Bus, task: Task) -> list[Artifact]:
    """Return what is there of a running task, in the order of its artifacts; else nothing."""
    if task.state is not TaskState.RUNNING:
        return []
    return files_told(bus.history(task.id, after=task.attempt * ATTEMPT_STRIDE))


def files_told(events: Iterable[Event]) -> list[Artifact]:
    """Return the files that events of one attempt tell of, as far as none is missing before."""
    found: list[Artifact] = []
    for event in events:
        if event.kind is EventKind.ARTIFACT and is_next(event.data, len(found)):
            artifact = read_artifact(event.data)
            if artifact is not None:
                found.append(artifact)
    return found


def is_next(told: Mapping[str, Any], n: int) -> bool:
    """Whether an event tells of artifact number `n`: what comes out of order is not shown."""
    return told.get("index") == n


def read_artifact(told: Mapping[str, Any]) -> Artifact | None:
    """Return the file that an event tells of; None where that is not whole."""
    try:
        return msgspec.convert(told, Artifact)
    except msgspec.ValidationError:
        return None
