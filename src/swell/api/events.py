"""Event streams of a task, as server-sent events.

What a reader gets: the state that the task is in now, unless it has seen it, then everything that
happens, and at last the event that ends the task, with the whole task in it. Ids grow, so a reader
that lost its connection goes on where it was (`Last-Event-ID`, or `?after=`).

Source:
    HTML Living Standard, section 9.2, "Server-sent events".
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from swell.api.call import Call, Reply
from swell.api.eta import Estimate
from swell.api.headers import NO_POLICY
from swell.api.messages import EventsQuery
from swell.api.reading import read_query
from swell.api.service import Service
from swell.api.streams import Stream
from swell.api.tasks import find_task
from swell.api.views import encode, encode_task, with_url
from swell.bus import Subscription
from swell.errors import InvalidRequest, NotFound, SwellError
from swell.events import TERMINAL_ID, Event, EventKind, event_of
from swell.task import Task, TaskState

_log = structlog.get_logger("swell.api")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

#: How long a browser waits before it connects again, in milliseconds.
_RETRY = b"retry: 2000\n\n"

#: The same where a backend ends and others go on: between these.
_COME_BACK_MS: Final = (50, 500)

#: Of these the reader is told more than the event has.
_WITH_TASK: Final = frozenset(
    {
        EventKind.QUEUED,
        EventKind.SUCCEEDED,
        EventKind.FAILED,
        EventKind.CANCELED,
        EventKind.EXPIRED,
    }
)


async def stream_events(service: Service, call: Call) -> Reply | None:
    """`GET /v1/tasks/{id}/events`."""
    after = _after(call)
    task = await find_task(service, call)
    if after >= TERMINAL_ID and task.state.is_terminal:
        # The reader has seen the end; 204 tells it not to come back.
        return Reply(204)
    if call.scope["method"] == "HEAD":
        return Reply(200, content_type=_HEADERS[0][1], headers=_HEADERS[1:])
    await relay(service, call, task.id, after, find_task, _told)
    return None


#: Returns an event as the readers of one kind of stream see it; nothing where they do not.
Teller = Callable[[Service, Call, Stream, str, Event], Awaitable[bytes]]


async def relay(
    service: Service,
    call: Call,
    task_id: str,
    after: int,
    find: Callable[[Service, Call], Awaitable[Task]],
    tell: Teller,
) -> None:
    """Write what happens to a task, until it has ended or its reader has gone.

    Args:
        service: Whose task it is.
        call: Who listens.
        task_id: The task.
        after: The last event that it has seen.
        find: Returns the task, as it is now, if the caller may see it.
        tell: How events are told.
    """
    # Listen before reading the truth, so that nothing falls between.
    subscription = service.bus.subscribe(task_id, after=after)
    try:
        # Read to its end, the body lets the server tell when the client hangs up.
        await call.body(0)
        task = await find(service, call)
        stream = Stream(asyncio.current_task(), call, _waiting(tell, task))
        if call.key is None:
            # A signed URL stands for the key, and ends with its time.
            await _tell(service, call, subscription, stream, task, after, tell)
        else:
            async with service.limits.open(call, stream):
                await _tell(service, call, subscription, stream, task, after, tell)
    finally:
        subscription.close()


async def _tell(
    service: Service,
    call: Call,
    subscription: Subscription,
    stream: Stream,
    task: Task,
    after: int,
    tell: Teller,
) -> None:
    headers = [*_HEADERS, NO_POLICY, *call.own_headers()]
    send = call.send
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    state = event_of(task)
    first = b"" if state.id <= after else await tell(service, call, stream, task.id, state)
    await send({"type": "http.response.body", "body": _RETRY + first, "more_body": True})
    seen = max(after, state.id)
    is_over = task.state.is_terminal
    task_id = task.id
    del task, state, first, headers
    service.streams.add(stream)
    try:
        while not is_over:
            event = await subscription.next()
            if event is None:
                break
            if event.task is None and event.id > seen and event.kind in _WITH_TASK:
                # From another backend, which does not send the task along.
                event = await _as_stored(service, event)
            if event.id <= seen:
                continue
            if call.key is not None:
                await service.check_again(call)
            seen, is_over = event.id, event.is_terminal
            stream.waiting = _waiting(tell, event.task)
            body = await tell(service, call, stream, task_id, event)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # An idle stream keeps nothing of what it has told.
            del event, body
    except asyncio.CancelledError:
        if not stream.is_gone:
            raise
        return
    except SwellError as error:
        # The store cannot be read now, or the key works no more. The reader comes back, and hears
        # of it then.
        _log.warning("an event stream ends early", task=task_id, detail=error.detail)
    finally:
        service.streams.remove(stream)
    # A service that ends does so before the task; its readers come back, not all at once.
    body = b"" if is_over else b"retry: %d\n\n" % random.randint(*_COME_BACK_MS)
    await send({"type": "http.response.body", "body": body})


def _waiting(tell: Teller, task: Task | None) -> Task | None:
    """Return the task of which a reader is told its position now and then; None for none."""
    is_waiting = task is not None and task.state is TaskState.QUEUED
    return task if is_waiting and tell is _told else None


async def _as_stored(service: Service, event: Event) -> Event:
    """Return the event of the state that a task is in by now, with the task."""
    task = await service.lookups.get(event.task_id)
    if task is None:
        raise NotFound("the task was forgotten")
    return event_of(task)


async def _told(service: Service, call: Call, stream: Stream, task_id: str, event: Event) -> bytes:
    """Return an event as the reader sees it."""
    if event.is_terminal:
        task = event.task
        assert task is not None, "what ends a task comes with it"
        return frame(event.kind, encode_task(task, service.urls(call)), event.id)
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


def queued_data(task: Task, position: int | None, expected: Estimate | None) -> dict[str, Any]:
    """Return what a waiting reader is told."""
    return {
        "state": task.state.value,
        "attempt": task.attempt,
        "position": position,
        "eta_s": None if expected is None else expected.finish,
    }


def frame(kind: EventKind, data: bytes, number: int | None) -> bytes:
    """Return one event on the wire; without a number it does not move the reader's place."""
    # JSON from msgspec has no line breaks, and user JSON is broken into lines if it has.
    lines = data if b"\n" not in data and b"\r" not in data else _one_line(data)
    place = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (place, kind.value.encode(), lines)


def _one_line(data: bytes) -> bytes:
    """Return JSON without line breaks."""
    # A line break inside JSON can only stand between tokens, where a space means the same.
    return data.replace(b"\r", b" ").replace(b"\n", b" ")


def _after(call: Call) -> int:
    """Return the id of the last event that the reader saw; -1 for none.

    Raises:
        InvalidRequest: `Last-Event-ID` is not a number.
    """
    asked = read_query(call, EventsQuery).after
    if asked is not None:
        return asked
    header = call.header(b"last-event-id")
    if header is None or not header.strip():
        return -1
    text = header.strip()
    if not text.isdigit() or len(text) > 16 or int(text) > TERMINAL_ID:
        raise InvalidRequest(
            "Last-Event-ID is not an id of this stream: send the last `id:` that you got"
        )
    return int(text)
