"""Following a task during a request: until its end, or as server-sent events.

A client that disconnects cancels nothing: the same request sent again finds the task.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from swell.core.errors import Unavailable
from swell.core.events import TERMINAL_ID, Event, EventKind
from swell.core.store_types import Accepted
from swell.core.task import Artifact, Task
from swell.server.open_streams import Stream
from swell.server.request import Call, ClientGone
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.event_streams import StreamFormat, relay
from swell.server.tasks.partial_artifacts import is_next, read_artifact
from swell.server.tasks.submit import follow, note_new

#: Seconds between two checks of the connection.
_CHECK_S: Final = 5.0


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
    while True:
        task = await follow(service, call, accepted, _CHECK_S)
        if task.state.is_terminal:
            return task
        if call.is_gone():
            raise ClientGone
        if service.is_ending:
            detail = f"this backend ends before task {task.id} does: send the request again"
            raise Unavailable(detail, headers={"Retry-After": "1"})
        accepted = Accepted(task=task, is_new=False)


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
    task = accepted.task

    async def find(service: Service, call: Call) -> Task:
        nonlocal task
        await note_new(service, [accepted])
        if not accepted.is_new:
            task = (await service.store.get([task.id]))[0] or task
        return task

    async def write(service: Service, call: Call, stream: Stream, event: Event) -> bytes:
        nonlocal task
        task = event.task or task
        return await (end(task) if event.is_terminal else tell(task, event))

    async def stopped() -> bytes:
        return await end(task)

    after = -1 if has_progress else TERMINAL_ID - 1
    form = StreamFormat(write, headers, first, stopped)
    await relay(service, call, task.id, after, find, form)


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
