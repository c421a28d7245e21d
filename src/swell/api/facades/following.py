"""Following a task during a request: until its end, or as server-sent events.

A client that disconnects cancels nothing: the same request sent again finds the task.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from swell.api.call import Call, ClientGone
from swell.api.early import is_next, read_artifact
from swell.api.headers import NO_POLICY
from swell.api.service import Service
from swell.api.streams import Stream
from swell.api.submit import note_new
from swell.api.views import encode
from swell.errors import SwellError, Unavailable
from swell.events import TERMINAL_ID, Event, EventKind
from swell.store import Accepted
from swell.task import Artifact, Task

_log = structlog.get_logger("swell.api")

#: Seconds between two checks of the connection.
_CHECK_S: Final = 5.0

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def _updates(
    service: Service, accepted: Accepted, *, after: int, check_s: float | None = None
) -> AsyncGenerator[tuple[Task, Event | None]]:
    """Offer a task to the workers; yield it now, and with each event until it ends.

    Args:
        service: The backend.
        accepted: The task.
        after: Yield later events only.
        check_s: Seconds without an event until it yields None as event; None for never.
    """
    task = accepted.task
    # Subscribe before the offer, so that the end of a fast task is not missed.
    subscription = service.bus.subscribe(task.id, after=after)
    try:
        await note_new(service, [accepted])
        if not accepted.is_new:
            task = (await service.store.get([task.id]))[0] or task
        yield task, None
        while not task.state.is_terminal:
            event = await subscription.next(check_s)
            if event is None and check_s is None:
                return
            if event is not None and (event.task is not None or event.is_terminal):
                # Another backend does not send the task with its event.
                task = event.task or (await service.store.get([task.id]))[0] or task
            yield task, event
    finally:
        subscription.close()


async def wait_for_end(service: Service, call: Call, accepted: Accepted) -> Task:
    """Offer a task to the workers, and return it once it has ended.

    Args:
        service: The backend.
        call: The waiting request; its body was read.
        accepted: The task, new or known.

    Raises:
        ClientGone: The client disconnected.
        Unauthenticated: The key was revoked.
        Unavailable: The backend shuts down; another one continues.
    """
    task = accepted.task
    updates = _updates(service, accepted, after=TERMINAL_ID - 1, check_s=_CHECK_S)
    async with contextlib.aclosing(updates):
        async for task, _ in updates:
            if not task.state.is_terminal and call.is_gone():
                raise ClientGone
            if not task.state.is_terminal and service.is_ending:
                raise Unavailable(
                    f"this backend ends before task {task.id} does: send the request again",
                    headers={"Retry-After": "1"},
                )
            await service.keys.find(call.headers.get(b"authorization"))
    return task


def sse(data: Any, event: str = "") -> bytes:
    """Return one server-sent event. JSON from msgspec has no line breaks."""
    name = f"event: {event}\n".encode() if event else b""
    return b"%sdata: %s\n\n" % (name, encode(data))


async def stream_events(  # noqa: PLR0913
    service: Service,
    call: Call,
    accepted: Accepted,
    tell: Callable[[Task, Event], Awaitable[bytes]],
    end: Callable[[Task], Awaitable[bytes]],
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    has_progress: bool = True,
    first: bytes = b"",
) -> None:
    """Offer a task to the workers, and answer with its events until it ends.

    Args:
        service: The backend.
        call: The request; its body was read.
        accepted: The task, new or known.
        tell: Writes an event, empty for nothing.
        end: Writes the end. The task has not ended if the backend shuts down or the key was
            revoked.
        headers: Further headers of the answer.
        has_progress: Whether to write progress and previews, or the end only.
        first: Body to send at once.
    """

    async def send(body: bytes, *, more: bool = True) -> None:
        await call.send({"type": "http.response.body", "body": body, "more_body": more})

    stream = Stream(asyncio.current_task(), call, None)
    after = -1 if has_progress else TERMINAL_ID - 1
    async with contextlib.aclosing(_updates(service, accepted, after=after)) as updates:
        task, _ = await anext(updates)
        async with service.limits.open(call, stream):
            all_headers = [*_HEADERS, *headers, NO_POLICY, *call.own_headers()]
            await call.send({"type": "http.response.start", "status": 200, "headers": all_headers})
            await send(first)
            service.streams.add(stream)
            try:
                async for task, event in updates:
                    await service.keys.find(call.headers.get(b"authorization"))
                    if event is not None and (body := await tell(task, event)):
                        await send(body)
            except SwellError as error:
                # The answer has begun: its status can no longer report the error.
                _log.warning("stream ended early", task=task.id, detail=error.detail)
            finally:
                service.streams.remove(stream)
    await send(await end(task), more=False)


def progress_of(event: Event, before: float) -> float:
    """Return the progress of a task after an event, 0 to 1."""
    fraction = event.data.get("fraction")
    if event.kind is EventKind.PROGRESS and isinstance(fraction, int | float):
        return float(fraction)
    return before


def next_picture(event: Event, number: int) -> Artifact | None:
    """Return the picture of an event that is the task's artifact of this number; else None."""
    if event.kind is not EventKind.ARTIFACT or not is_next(event.data, number):
        return None
    artifact = read_artifact(event.data)
    is_picture = artifact is not None and artifact.content_type.startswith("image/")
    return artifact if is_picture else None
