"""Event streams of a task, as server-sent events.

A reader gets the current state of the task, unless it knows it, then all events, and at last the
terminal event with the whole task. Event ids grow, so a reader that lost its connection continues
after its last event (`Last-Event-ID` or `?after=`).

Source:
    HTML Living Standard, section 9.2, "Server-sent events".
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, NamedTuple

import structlog

from swell.core.errors import InvalidRequest, NotFound, SwellError
from swell.core.events import TERMINAL_ID, Event, EventKind, event_of
from swell.core.task import Task, TaskState
from swell.pubsub.local_bus import MemorySubscription
from swell.server.decoding import read_query
from swell.server.estimates.eta import Estimate
from swell.server.headers import NO_POLICY
from swell.server.open_streams import Stream
from swell.server.request import Call, Reply
from swell.server.route import Header, Response, task_route
from swell.server.serializers import encode, task_view, with_url
from swell.server.service import Service
from swell.server.tasks.task_routes import find_task
from swell.server.tasks.task_schemas import EventsQuery

_log = structlog.get_logger("swell.api")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

#: How long a browser waits before it reconnects, in milliseconds.
_RETRY = b"retry: 2000\n\n"

#: The range of that wait when this backend stops and others continue.
_STOPPING_RETRY_MS: Final = (50, 500)

#: Returns the current task if the caller may see it.
Finder = Callable[[Service, Call], Awaitable[Task]]


async def _spread_reconnects() -> bytes:
    """Return what keeps the readers of a service that stops from reconnecting all at once."""
    return b"retry: %d\n\n" % random.randint(*_STOPPING_RETRY_MS)


class StreamFormat(NamedTuple):
    """How an API writes the events of a task."""

    #: Returns an event; empty to skip it.
    write: Callable[[Service, Call, Stream, Event], Awaitable[bytes]]
    #: Further headers of the answer.
    headers: Sequence[tuple[bytes, bytes]] = ()
    #: What the stream begins with.
    first: bytes = _RETRY
    #: Returns the end of a stream that ends before its task.
    stopped: Callable[[], Awaitable[bytes]] = _spread_reconnects


_LAST_EVENT: Final = Header(
    "Last-Event-ID",
    "continue after this event",
    {"type": "string", "pattern": "^[0-9]{1,15}$"},
    "1000000",
)


@task_route(
    "GET /v1/tasks/{id}/events",
    {
        200: Response("Server-sent events", media_type="text/event-stream"),
        204: Response("The reader has already seen the end", media_type=""),
    },
    query=EventsQuery,
    headers=(_LAST_EVENT,),
    errors=(NotFound,),
)
async def stream_events(service: Service, call: Call) -> Reply | None:
    """Follow a task.

    Sends `queued` (with position and estimate), `started`, `progress`, `preview` and
    `artifact`, and finally `succeeded`, `failed`, `canceled` or `expired` with the whole task.
    Ids grow; a comment every 15 seconds keeps the connection open.
    """
    after = _after(call)
    task = await find_task(service, call)
    if after >= TERMINAL_ID and task.state.is_terminal:
        # The reader has the terminal event; 204 stops its reconnects.
        return Reply(204)
    if call.scope["method"] == "HEAD":
        return Reply(200, content_type=_HEADERS[0][1], headers=_HEADERS[1:])
    # After the end of the body, the server notices when the client hangs up.
    await call.body(0)
    await relay(service, call, task.id, after, find_task, _NATIVE)
    return None


async def relay(
    service: Service, call: Call, task_id: str, after: int, find: Finder, form: StreamFormat
) -> None:
    """Write the events of a task until it has ended or its reader has gone.

    Args:
        service: The backend.
        call: The reader's request.
        task_id: The task.
        after: The id of the reader's last event.
        find: Returns the current task if the caller may see it.
        form: Writes the events.
    """
    # Listen before reading the task, so that no event is lost in between.
    subscription = service.bus.subscribe(task_id, after=after)
    try:
        task = await find(service, call)
        stream = Stream(asyncio.current_task(), call, _queued(form, task))
        # A signed URL replaces the key, and expires.
        limit: AbstractAsyncContextManager[None] = nullcontext()
        if call.key is not None:
            limit = service.limits.open(call, stream)
        async with limit:
            await _relay(service, call, subscription, stream, task, after, form)
    finally:
        subscription.close()


async def _relay(
    service: Service,
    call: Call,
    subscription: MemorySubscription,
    stream: Stream,
    task: Task,
    after: int,
    form: StreamFormat,
) -> None:
    headers = [*_HEADERS, *form.headers, NO_POLICY, *call.own_headers()]
    send = call.send
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    state = event_of(task)
    first = b"" if state.id <= after else await form.write(service, call, stream, state)
    await send({"type": "http.response.body", "body": form.first + first, "more_body": True})
    seen = max(after, state.id)
    is_over = task.state.is_terminal
    task_id = task.id
    # An idle stream keeps little memory.
    del task, state, first, headers
    service.streams[stream] = None
    try:
        while not is_over:
            event = await subscription.next()
            if event is None:
                break
            needs_task = event.is_terminal or event.kind is EventKind.QUEUED
            if event.task is None and needs_task and event.id > seen:
                event = await _current(service, event)
            if event.id <= seen:
                continue
            if call.key is not None:
                await service.keys.find(call.headers.get(b"authorization"))
            seen, is_over = event.id, event.is_terminal
            stream.waiting = _queued(form, event.task)
            body = await form.write(service, call, stream, event)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            del event, body
    except asyncio.CancelledError:
        if not stream.is_gone:
            raise
        return
    except SwellError as error:
        # The store cannot be read or the key was revoked. The reader gets the error when it
        # reconnects.
        _log.warning("event stream: ended early", task=task_id, detail=error.detail)
    finally:
        service.streams.pop(stream, None)
    body = b"" if is_over else await form.stopped()
    await send({"type": "http.response.body", "body": body})


def _queued(form: StreamFormat, task: Task | None) -> Task | None:
    """Return the task if its reader gets new positions now and then."""
    is_queued = task is not None and task.state is TaskState.QUEUED
    return task if is_queued and form is _NATIVE else None


async def _current(service: Service, event: Event) -> Event:
    """Return the event of the current state, for an event of another backend without the task."""
    task = (await service.store.get([event.task_id]))[0]
    if task is None:
        raise NotFound("the task was forgotten")
    return event_of(task)


async def _write(service: Service, call: Call, stream: Stream, event: Event) -> bytes:
    if event.is_terminal:
        task = event.task
        assert task is not None, "a terminal event comes with its task"
        return frame(event.kind, encode(task_view(task, service.urls(call))), event.id)
    if event.kind is EventKind.QUEUED and event.task is not None:
        position, expected = await service.estimates.position(event.task)
        stream.last_position = position
        return frame(event.kind, encode(queued_data(event.task, position, expected)), event.id)
    data = event.data
    if event.kind is EventKind.ARTIFACT:
        data = with_url(data, service.urls(call))
    elif event.kind is EventKind.STARTED:
        data = {"state": TaskState.RUNNING.value, **data}
    return frame(event.kind, encode(data), event.id)


_NATIVE: Final = StreamFormat(_write)


def queued_data(task: Task, position: int | None, expected: Estimate | None) -> dict[str, Any]:
    """Return the data of a `queued` event."""
    return {
        "state": task.state.value,
        "attempt": task.attempt,
        "position": position,
        "eta_s": None if expected is None else expected.finish,
    }


def frame(kind: EventKind, data: bytes, event_id: int | None) -> bytes:
    """Return one server-sent event; without an id it does not change the reader's last id."""
    # In JSON, line breaks occur only between tokens, where a space means the same.
    line = data.replace(b"\r", b" ").replace(b"\n", b" ")
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.value.encode(), line)


def _after(call: Call) -> int:
    """Return the id of the reader's last event; -1 for none.

    Raises:
        InvalidRequest: `Last-Event-ID` is not a number.
    """
    after = read_query(call, EventsQuery).after
    if after is not None:
        return after
    text = (call.headers.get(b"last-event-id") or b"").strip()
    if not text:
        return -1
    if not text.isdigit() or len(text) > 16 or int(text) > TERMINAL_ID:
        raise InvalidRequest("Last-Event-ID: send the last `id:` that you got from this stream")
    return int(text)
