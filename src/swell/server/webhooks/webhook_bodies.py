"""Bodies of webhooks in Swell's native format. Compatible APIs have other formats.

A format turns a delivery and the task at the time of the event into a JSON value.
`webhook_formats.py` lists all formats.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from swell.core.events import EventKind
from swell.core.outbox import Delivery
from swell.core.results import Artifact
from swell.core.task import Task, TaskState
from swell.core.webhook import ENDS, EVENTS, STARTED
from swell.db.registry import Registry
from swell.server.serializers import UrlMaker, encode, task_view, with_url
from swell.server.tasks.task_schemas import TaskView

#: Longer bodies leave out parts of the task.
MAX_BODY_BYTES: Final = 20_000

#: Data of an `artifact` event: all files of the attempt up to this one.
SO_FAR: Final = "so_far"


class BodyFormat(msgspec.Struct, frozen=True):
    """A format of bodies, for all events or some of them."""

    write: Callable[[Delivery, Task, UrlMaker], Any]
    events: tuple[str, ...] = EVENTS
    #: Returns more headers of an attempt, such as another signature, given its body and time. The
    #: registry holds the keys.
    headers: (
        Callable[[Registry, Delivery, Task, bytes, datetime], Awaitable[Mapping[str, str]]] | None
    ) = None


class HookBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A body in the native format (Standard Webhooks)."""

    #: `task.` and the name of the event.
    type: str
    #: Time of the event.
    timestamp: datetime
    #: The task at that time.
    data: TaskView
    #: Data of `progress`, `preview` and `artifact`, as in the events of a task.
    detail: dict[str, Any] | None = None
    #: Long fields that are missing in `data`; GET the task for them.
    left_out: tuple[str, ...] = ()


def native(delivery: Delivery, task: Task, urls: UrlMaker) -> HookBody:
    """Return the body of a delivery in the native format."""
    detail = None
    if delivery.event not in (STARTED, *ENDS) and delivery.data is not None:
        data = msgspec.json.decode(delivery.data)
        data.pop(SO_FAR, None)
        detail = with_url(data, urls)
    body = HookBody(
        type=f"task.{delivery.event}",
        timestamp=delivery.at,
        data=task_view(task, urls),
        detail=detail,
    )
    for part, shorter in _SHORTER:
        if len(encode(body)) <= MAX_BODY_BYTES:
            break
        view = msgspec.structs.replace(body.data, **shorter)
        body = msgspec.structs.replace(body, data=view, left_out=(*body.left_out, part))
    return body


#: Parts that long bodies leave out, in this order, with their replacements.
_SHORTER: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("input", {"input": msgspec.Raw(b"{}")}),
    ("output", {"output": None}),
    ("metadata", {"metadata": None}),
    ("warnings", {"warnings": []}),
)


def as_it_was(delivery: Delivery, task: Task) -> Task:
    """Return the task at the time of an event."""
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
    if delivery.event != EventKind.ARTIFACT or delivery.data is None or task.outputs_removed:
        return ()
    return msgspec.convert(msgspec.json.decode(delivery.data).get(SO_FAR, ()), tuple[Artifact, ...])


def written(form: BodyFormat, delivery: Delivery, task: Task, urls: UrlMaker) -> bytes:
    """Return the body of a delivery in the receiver's format."""
    return encode(form.write(delivery, as_it_was(delivery, task), urls))
