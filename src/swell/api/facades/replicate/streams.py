"""A prediction as server-sent events: `output`, `logs`, `error`, `done`, each with an id.

Clients know these four words and fail at any other, and they drop an event without an id. One event
of ours may be several of these, so an id is ours and a number: `1000004-0`. Whoever sends the last
one back as `Last-Event-ID` gets what comes after it.
"""

from collections.abc import Sequence
from typing import Any, Final

from swell.api.auth import check_scope
from swell.api.call import Call, Reply
from swell.api.early import is_next, read_artifact
from swell.api.events import relay
from swell.api.facades.links import file_links, links_to
from swell.api.facades.replicate.views import error_of, output_of, progress_line, stream_key
from swell.api.service import Service
from swell.api.streams import Stream
from swell.api.tasks import find_task
from swell.api.views import encode
from swell.errors import InvalidRequest, NotFound
from swell.events import TERMINAL_ID, Event, EventKind
from swell.registry import Scope
from swell.task import Task, TaskState

#: Kinds of our events of which something is told.
_TOLD: Final = frozenset(
    {
        EventKind.PROGRESS,
        EventKind.ARTIFACT,
        EventKind.SUCCEEDED,
        EventKind.FAILED,
        EventKind.CANCELED,
        EventKind.EXPIRED,
    }
)

#: The reader's place: an event of ours, and how many files were told by then; of the end how many
#: of its parts. So what was told is known by whichever backend a reader comes back to.
_Place = tuple[int, int]


async def stream(service: Service, call: Call) -> Reply | None:
    """`GET /predictions/{id}/stream`, signed or with a key."""
    task = await _find(service, call)
    place = _place(call)
    if call.scope["method"] == "HEAD":
        return Reply(200, content_type=b"text/event-stream; charset=utf-8")
    # The end has several parts, and comes again without those that were seen.
    after = min(place[0], TERMINAL_ID - 1)
    await relay(service, call, task.id, after, _find, _Reader(place).tell)
    return None


async def _find(service: Service, call: Call) -> Task:
    """Return the task, if the URL is signed for it or the key is its owner's.

    Raises:
        Unauthenticated: Neither a signature nor a key is sent.
        Forbidden: The signature is wrong, or its time is over.
        NotFound: There is no such task.
    """
    authorization = call.header(b"authorization")
    if authorization is not None or "signature" not in call.query():
        if call.key is None:
            call.key = await service.keys.find(authorization)
            check_scope(call.key, Scope.CLIENT)
        return await find_task(service, call)
    task_id = call.params["id"]
    service.objects.verify("GET", stream_key(task_id), call.query())
    task = (await service.store.get([task_id]))[0]
    if task is None:
        raise NotFound(f"there is no prediction {task_id[:60]!r}")
    return task


class _Reader:
    """One who listens, and what was told: each file once, also where an attempt makes it again.

    Args:
        place: Where the reader was.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        #: How many files it has heard of.
        self._told = place[1] if place[0] < TERMINAL_ID else 0

    async def tell(
        self, service: Service, call: Call, listening: Stream, task_id: str, event: Event
    ) -> bytes:
        """Return an event as these readers see it; nothing where they do not."""
        if event.kind not in _TOLD:
            return b""
        early = read_artifact(event.data) if event.kind is EventKind.ARTIFACT else None
        if early is not None:
            files = await links_to(service, call, [early])
        else:
            files = [] if event.task is None else await file_links(service, call, event.task)
        if event.is_terminal:
            parts, seen = parts_of(event, files), 0
            if event.id == self._place[0]:
                seen = self._place[1]
            elif event.kind is EventKind.SUCCEEDED:
                seen = self._told
            return b"".join(
                _frame(kind, data, f"{event.id}-{number}")
                for number, (kind, data) in enumerate(parts, 1)
                if number > seen
            )
        parts = parts_of(event, files, self._told)
        self._told += early is not None and bool(parts)
        return b"".join(_frame(kind, data, f"{event.id}-{self._told}") for kind, data in parts)


def parts_of(event: Event, files: Sequence[str], told: int = 0) -> list[tuple[str, str]]:
    """Return (name, data) of what an event of ours is to these readers. Pure.

    Args:
        event: What happened.
        files: What stands for the files of the task, or for that of the event.
        told: How many files were told before.
    """
    if event.kind is EventKind.PROGRESS:
        line = progress_line(event.data)
        return [] if line is None else [("logs", f"{line}\n")]
    if event.kind is EventKind.ARTIFACT:
        return [("output", url) for url in files] if is_next(event.data, told) else []
    task = event.task
    assert task is not None, "what ends a task comes with it"
    if task.state is TaskState.SUCCEEDED:
        return [*_outputs(output_of(task, files))[told:], ("done", "{}")]
    if task.state is TaskState.FAILED:
        return [("error", error_of(task) or "it failed"), ("done", '{"reason": "error"}')]
    return [("done", '{"reason": "canceled"}')]


def _outputs(output: Any) -> list[tuple[str, str]]:
    if output is None:
        return []
    each_alone = output if isinstance(output, list) else [output]
    return [
        ("output", each if isinstance(each, str) else encode(each).decode()) for each in each_alone
    ]


def _frame(kind: str, data: str, place: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.replace("\r", "").split("\n"))
    return f"event: {kind}\nid: {place}\n{lines}\n".encode()


def _place(call: Call) -> _Place:
    """Return where a reader that comes back was.

    Raises:
        InvalidRequest: `Last-Event-ID` is not of this stream.
    """
    header = (call.header(b"last-event-id") or b"").strip().decode("latin-1")
    if not header:
        return -1, 0
    event, dash, part = header.partition("-")
    plain = event.isascii() and event.isdigit() and len(event) <= 16
    if not (plain and dash and part.isascii() and part.isdigit() and len(part) <= 4):
        raise InvalidRequest(
            "Last-Event-ID is not an id of this stream: send the last `id:` that you got"
        )
    return int(event), int(part)
