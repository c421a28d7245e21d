"""How webhooks' bodies are written: in Swell's own form here, and by façades in theirs.

A form writes a delivery, with the task as it was when the event happened and what makes URLs, as a
value that can be written as JSON. `hook_formats.py` lists them all.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from swell.api.messages import TaskView
from swell.api.views import UrlMaker, encode, task_view, with_url
from swell.db.registry import Registry
from swell.events import EventKind
from swell.outbox import Delivery
from swell.results import Artifact
from swell.task import Task, TaskState
from swell.webhook import ENDS, EVENTS, STARTED

#: Bodies are kept below this where leaving out what was asked and what came of it is enough.
MAX_BODY_BYTES: Final = 20_000

#: Under this name what a file's event tells has all files of the attempt that were there then.
SO_FAR: Final = "so_far"


class Form(msgspec.Struct, frozen=True):
    """How bodies are written, and of which events: some have words for ends only."""

    write: Callable[[Delivery, Task, UrlMaker], Any]
    events: tuple[str, ...] = EVENTS


class Seal(Protocol):
    """Signs what is sent in one form besides the signature that all have."""

    async def headers(
        self, delivery: Delivery, task: Task, body: bytes, now: datetime
    ) -> Mapping[str, str]:
        """Return the headers that an attempt has for it.

        Args:
            delivery: What is told.
            task: Of which.
            body: What is sent.
            now: When.
        """
        ...


#: Makes a seal from where its keys are kept.
SealOf = Callable[[Registry], Seal]


class HookBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a webhook says, in Swell's own form (Standard Webhooks)."""

    #: `task.` and the name of the event.
    type: str
    #: When it happened.
    timestamp: datetime
    #: The task as it was then.
    data: TaskView
    #: What progress, a preview or an artifact tells; as the events of a task.
    detail: dict[str, Any] | None = None
    #: What of the task is not in `data`, since it is long: GET the task for it.
    left_out: tuple[str, ...] = ()


def native(delivery: Delivery, task: Task, urls: UrlMaker) -> HookBody:
    """Return the body of a delivery in Swell's own form."""
    detail = None
    if delivery.event not in (STARTED, *ENDS) and delivery.data is not None:
        told = msgspec.json.decode(delivery.data)
        told.pop(SO_FAR, None)
        detail = with_url(told, urls)
    body = HookBody(
        type=f"task.{delivery.event}",
        timestamp=delivery.at,
        data=task_view(task, urls),
        detail=detail,
    )
    for part, shorter in _SHORTER:
        if len(encode(body)) <= MAX_BODY_BYTES:
            break
        data = msgspec.structs.replace(body.data, **shorter)
        body = msgspec.structs.replace(body, data=data, left_out=(*body.left_out, part))
    return body


#: What is left out of a body that is too long, one after the other, and what stands there instead.
_SHORTER: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("input", {"input": msgspec.Raw(b"{}")}),
    ("output", {"output": None}),
    ("metadata", {"metadata": None}),
    ("warnings", {"warnings": []}),
)


def as_it_was(delivery: Delivery, task: Task) -> Task:
    """Return the task as it was when an event happened: it may have gone on since."""
    if delivery.event in ENDS:
        return task
    is_same = task.attempt == delivery.attempt and task.started_at is not None
    return msgspec.structs.replace(
        task,
        state=TaskState.RUNNING,
        attempt=delivery.attempt,
        started_at=delivery.at if delivery.event == STARTED or not is_same else task.started_at,
        finished_at=None,
        output=None,
        artifacts=_files_then(delivery, task),
        warnings=(),
        error=None,
        timings=None,
    )


def _files_then(delivery: Delivery, task: Task) -> tuple[Artifact, ...]:
    """Return the files of a running task that were there when one of them was told."""
    if delivery.event != EventKind.ARTIFACT or delivery.data is None or task.outputs_removed:
        return ()
    return msgspec.convert(msgspec.json.decode(delivery.data).get(SO_FAR, ()), tuple[Artifact, ...])


def written(form: Form, delivery: Delivery, task: Task, urls: UrlMaker) -> bytes:
    """Return the body of a delivery, in the form that its receiver asked for."""
    return encode(form.write(delivery, as_it_was(delivery, task), urls))
