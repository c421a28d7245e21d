"""A prediction as server-sent events: `output`, `logs`, `error`, `done`, each with an id.

Clients fail at other names and drop events without an id. One event of a task may become several
of these, so an id is the event's and a number, such as `1000004-0`; `Last-Event-ID` continues
after it. The number counts the files sent so far, and at the end its parts: so every backend
knows what a reader has.
"""

import re
from typing import Any, Final

from swell.compat.replicate.replicate_facade import replicate
from swell.compat.replicate.replicate_views import error_of, output_of, progress_line, stream_key
from swell.compat.result_files import file_links
from swell.core.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from swell.core.events import TERMINAL_ID, Event, EventKind
from swell.core.records import Scope
from swell.core.task import Task, TaskState
from swell.server.auth import check_scope
from swell.server.open_streams import Stream
from swell.server.request import Call, Reply
from swell.server.route import Header, Response
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.event_streams import StreamFormat, relay
from swell.server.tasks.partial_artifacts import is_next, read_artifact
from swell.server.tasks.task_routes import find_task

_EVENT_ID: Final = re.compile(r"(\d{1,16})-(\d{1,4})", re.ASCII)

_LAST_EVENT: Final = Header(
    "Last-Event-ID",
    "continue after this event",
    {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,4}$"},
    "1000000-0",
)


@replicate(
    "GET /predictions/{id}/stream",
    {200: Response("Server-sent events", media_type="text/event-stream")},
    (InvalidRequest, Unauthenticated, Forbidden, NotFound),
    scope=None,
    query=dict,
    headers=(_LAST_EVENT,),
)
async def stream(service: Service, call: Call) -> Reply | None:
    """Stream a prediction's output and logs.

    The prediction contains this signed URL; it also works with the key. Events are `output`,
    `logs`, `error` and finally `done`, each with an id.
    """
    task = await _find(service, call)
    event_id, number = _last_event(call)
    if call.scope["method"] == "HEAD":
        return Reply(200, content_type=b"text/event-stream; charset=utf-8")
    # The end has several parts: the reader may lack the last ones.
    after = min(event_id, TERMINAL_ID - 1)
    # After the end of the body, the server notices when the client hangs up.
    await call.body(0)
    await relay(service, call, task.id, after, _find, _format(event_id, number))
    return None


async def _find(service: Service, call: Call) -> Task:
    """Return the task, if its URL is signed or the key is its owner's."""
    authorization = call.headers.get(b"authorization")
    if authorization is not None or "signature" not in call.query():
        if call.key is None:
            call.key = call.caller = await service.keys.find(authorization)
            check_scope(call.caller, Scope.CLIENT)
        return await find_task(service, call)
    task_id = call.params["id"]
    service.objects.verify("GET", stream_key(task_id), call.query())
    task = (await service.store.get([task_id]))[0]
    if task is None:
        raise NotFound(f"there is no prediction {task_id[:60]!r}")
    return task


def _last_event(call: Call) -> tuple[int, int]:
    """Return event and number of the last event that a reader has; (-1, 0) without one."""
    header = (call.headers.get(b"last-event-id") or b"").strip().decode("latin-1")
    if not header:
        return -1, 0
    found = _EVENT_ID.fullmatch(header)
    if found is None:
        raise InvalidRequest("Last-Event-ID: send the last `id:` that you got from this stream")
    return int(found[1]), int(found[2])


def _format(last_event: int, last_number: int) -> StreamFormat:
    """Return the format for a reader that has this event, and this number of its parts."""
    # A file counts once, even if another attempt makes it again.
    files = last_number if last_event < TERMINAL_ID else 0

    async def write(service: Service, call: Call, stream: Stream, event: Event) -> bytes:
        nonlocal files
        if event.is_terminal:
            task = event.task
            assert task is not None, "an end comes with its task"
            seen = files if event.kind is EventKind.SUCCEEDED else 0
            if event.id == last_event:
                seen = last_number
            parts = _end(task, await file_links(service, call, task.artifacts))
            numbered = list(enumerate(parts, 1))[seen:]
            return b"".join(_frame(*part, f"{event.id}-{number}") for number, part in numbered)
        if event.kind is EventKind.PROGRESS and (line := progress_line(event.data)) is not None:
            return _frame("logs", f"{line}\n", f"{event.id}-{files}")
        if event.kind is EventKind.ARTIFACT and is_next(event.data, files):
            artifact = read_artifact(event.data)
            if artifact is not None:
                [link] = await file_links(service, call, [artifact])
                files += 1
                return _frame("output", link, f"{event.id}-{files}")
        return b""

    return StreamFormat(write)


def _end(task: Task, links: list[str]) -> list[tuple[str, str]]:
    """Return names and data of the last events. Pure."""
    if task.state is TaskState.SUCCEEDED:
        output = output_of(task, links)
        parts: list[Any] = output if isinstance(output, list) else [output]
        texts = [each if isinstance(each, str) else encode(each).decode() for each in parts]
        return [*(("output", text) for text in texts if output is not None), ("done", "{}")]
    if task.state is TaskState.FAILED:
        return [("error", error_of(task) or "it failed"), ("done", '{"reason": "error"}')]
    return [("done", '{"reason": "canceled"}')]


def _frame(kind: str, data: str, place: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.replace("\r", "").split("\n"))
    return f"event: {kind}\nid: {place}\n{lines}\n".encode()
