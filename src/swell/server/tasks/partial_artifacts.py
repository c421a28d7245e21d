"""Files of a task that exist before it ends.

They arrive as events, and the bus keeps them; the store gets them with the outcome. Workers report
them again after a restart. Files of an earlier attempt do not count: each attempt makes its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from swell.core.events import ATTEMPT_STRIDE, Event, EventKind
from swell.core.results import Artifact
from swell.core.task import Task, TaskState
from swell.pubsub.local_bus import MemoryBus


def early_artifacts(bus: MemoryBus, task: Task) -> list[Artifact]:
    """Return the files so far of a running task, in order; otherwise nothing."""
    if task.state is not TaskState.RUNNING:
        return []
    return files_told(bus.history(task.id, after=task.attempt * ATTEMPT_STRIDE))


def files_told(events: Iterable[Event]) -> list[Artifact]:
    """Return the files in the events of one attempt, up to the first gap."""
    found: list[Artifact] = []
    for event in events:
        if event.kind is EventKind.ARTIFACT and is_next(event.data, len(found)):
            artifact = read_artifact(event.data)
            if artifact is not None:
                found.append(artifact)
    return found


def is_next(data: Mapping[str, Any], n: int) -> bool:
    """Whether the data of an event is artifact number `n`; later ones wait for it."""
    return data.get("index") == n


def read_artifact(data: Mapping[str, Any]) -> Artifact | None:
    """Return the file in the data of an event; None if it is incomplete."""
    try:
        return msgspec.convert(data, Artifact)
    except msgspec.ValidationError:
        return None
