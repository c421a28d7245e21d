"""Files of a task that are there before it ends, as far as this backend has heard of them.

They are told once, as events, and the bus remembers them; the store learns of them with the
outcome. Those of an attempt that is over count no more: the next one makes its own.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from swell.api.service import Service
from swell.events import ATTEMPT_STRIDE, EventKind
from swell.results import Artifact
from swell.task import Task, TaskState

__all__ = ["early_artifacts", "is_next", "read_artifact"]


def early_artifacts(service: Service, task: Task) -> list[Artifact]:
    """Return what is there of a running task, in the order of its artifacts; else nothing."""
    if task.state is not TaskState.RUNNING:
        return []
    found: list[Artifact] = []
    for event in service.bus.remembered(task.id, after=task.attempt * ATTEMPT_STRIDE):
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
