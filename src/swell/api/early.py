"""Artifacts of a running task, as far as this backend has received them.

They come as events, which the bus remembers; the store gets them with the outcome. After a restart
workers send them again. A new attempt makes its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from swell.bus import Bus
from swell.events import ATTEMPT_STRIDE, Event, EventKind
from swell.results import Artifact
from swell.task import Task, TaskState


def early_artifacts(bus: Bus, task: Task) -> list[Artifact]:
    """Return the artifacts so far of a running task, in order; else nothing."""
    if task.state is not TaskState.RUNNING:
        return []
    return files_told(bus.remembered(task.id, after=task.attempt * ATTEMPT_STRIDE))


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
    """Whether an event is about artifact number `n`: files out of order are not shown."""
    return told.get("index") == n


def read_artifact(told: Mapping[str, Any]) -> Artifact | None:
    """Return the file of an event; None if its data is incomplete."""
    try:
        return msgspec.convert(told, Artifact)
    except msgspec.ValidationError:
        return None
