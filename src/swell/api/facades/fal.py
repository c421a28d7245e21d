"""fal's API: run and wait, or queue and follow, and a place for the proxy of its JavaScript client.

An app is `owner/alias`, which is how models are named here too; what stands behind it (`/dev`) says
more only where an alias names it whole (`server.model_aliases`). Its requests are our tasks: the id
of one is that of the other.

The JavaScript client has fal's hosts built in. Given `proxyUrl`, it sends everything to one URL and
names what it wanted in a header. That header is read as the name of an operation here, and nothing
is ever fetched from where it points.

Source:
    fal-client 1.0.3, @fal-ai/client 1.10.1, and fal's documentation of its queue, November 2026.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from swell.api.call import Call, Reply
from swell.api.cards import Target
from swell.api.drafts import repeat_of
from swell.api.early import is_next, read_artifact
from swell.api.facades.aliases import resolve
from swell.api.facades.endings import is_users_fault, until_end
from swell.api.facades.files import picture_bytes, pictures_of
from swell.api.facades.inputs import data_uri, json_object, with_uploads
from swell.api.facades.links import direct_url, file_url
from swell.api.facades.pictures import picture_fields, refused, renamed, size_of, sized
from swell.api.facades.refusals import refusal
from swell.api.facades.streaming import Events, sse
from swell.api.facades.unanswered import mark_of
from swell.api.messages import TaskRequest, WebhookRequest
from swell.api.reading import read_query
from swell.api.route import IDEMPOTENCY_KEY, Body, Handler, Header, Response, Route
from swell.api.service import Service
from swell.api.submit import accept, check, follow
from swell.api.tasks import cancel_task, find_task
from swell.api.views import UrlMaker, encode, resolve_files
from swell.errors import (
    IdempotencyMismatch,
    InvalidInput,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    NoWorker,
    SwellError,
    TooLarge,
    TooManyRequests,
    Unavailable,
    WouldExpire,
)
from swell.events import Event, EventKind
from swell.fairness import USUAL_PRIORITY
from swell.outbox import Delivery
from swell.registry import Scope
from swell.store import Accepted
from swell.task import Artifact, Task, TaskState, new_id
from swell.webhook import Webhook

GROUPS: Final = {
    "fal": "The API of fal's clients, with their hosts set to `/fal/run` and `/fal/queue`; see "
    "docs/clients.md.",
}

#: The name of its form of webhooks.
FORMAT: Final = "fal"

#: fal's names of sizes, in px.
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

#: Our priorities of fal's: `low` lets all usual tasks go first, those of the same key included.
_PRIORITIES: Final = {b"": USUAL_PRIORITY, b"normal": USUAL_PRIORITY, b"low": USUAL_PRIORITY + 1}

#: What fal's own models take and ours need not: left out where a model does not know it.
_THEIRS: Final = ("enable_safety_checker", "sync_mode", "output_format", "acceleration")

#: Whose addresses the JavaScript client names in `x-fal-target-url`, and what lies there.
_RUN_HOST, _QUEUE_HOST = "fal.run", "queue.fal.run"
_REST_HOSTS: Final = ("rest.fal.ai", "rest.alpha.fal.ai")

_SECONDS: Final = re.compile(r"\d{1,7}(\.\d{1,6})?", re.ASCII)
_APP: Final = r"/([^/]+)/([^/]+)"
_OF_REQUEST: Final = re.compile(_APP + r"/requests/([^/]+)(/status|/status/stream|/cancel)?")

_MOST_PICTURES: Final = 100


class FalSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits for its turn."""

    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    #: How many come before it.
    queue_position: int
    status: str = "IN_QUEUE"


class FalLog(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what happened."""

    message: str
    timestamp: str
    level: str = "INFO"
    source: str = "swell"


class FalStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a request is: `IN_QUEUE`, `IN_PROGRESS` or `COMPLETED`, however it ended."""

    status: Annotated[str, Meta(pattern="^(IN_QUEUE|IN_PROGRESS|COMPLETED)$")]
    request_id: str
    response_url: str
    #: While it waits: how many come before it.
    queue_position: int | msgspec.UnsetType = msgspec.UNSET
    logs: list[FalLog] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    error_type: str | msgspec.UnsetType = msgspec.UNSET


class FalStatusQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether logs are wanted."""

    logs: Annotated[str, Meta(pattern="^(0|1|true|false|True|False)$")] = "0"


class FalSubmitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the end is to be told."""

    fal_webhook: Annotated[str, Meta(max_length=8192)] | None = None


class FalUpload(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is about to come."""

    file_name: Annotated[str, Meta(max_length=1000)] = ""
    content_type: Annotated[str, Meta(max_length=200)] = "application/octet-stream"


class FalUploadView(msgspec.Struct, frozen=True, kw_only=True):
    """Where to PUT a file, and where it is then."""

    upload_url: str
    file_url: str


# --- from fal's words to a task; pure


def task_request(told: Mapping[str, Any], target: Target, headers: "Wishes") -> TaskRequest:
    """Return the task that a request asks for.

    Args:
        told: Its arguments.
        target: The model.
        headers: What its headers wish.

    Raises:
        InvalidInput: The model cannot do what is asked.
    """
    schema = target.card.input_schema
    known = schema.get("properties", {})
    given = {name: value for name, value in told.items() if value is not None}
    if _is_any_seed(given.get("seed")):
        del given["seed"]
    count, seed = 1, None
    fields: dict[str, Any] = {}
    if "num_images" not in known and "num_images" in given:
        count = _whole(given.pop("num_images"), "num_images", 1, _MOST_PICTURES)
    if "seed" in given and "seed" not in known:
        seed = _whole(given.pop("seed"), "seed", 0, 2**53 - 1)
    if "image_size" not in known and "image_size" in given:
        fields |= sized(schema, _size(given.pop("image_size")), "image_size")
    is_inline = given.get("sync_mode") is True
    given = {name: value for name, value in given.items() if name in known or name not in _THEIRS}
    kind = told.get("output_format")
    if "output_format" not in given and schema.get("additionalProperties", True) is not False:
        # Workers know the word, whether or not the model does.
        fields |= {"output_format": kind} if isinstance(kind, str) else {}
    return TaskRequest(
        model=target.queue,
        input=msgspec.Raw(encode(_one_or_many({**fields, **renamed(given, schema)}, schema))),
        count=count,
        seed=seed,
        priority=headers.priority,
        start_by_s=headers.start_by_s,
        max_attempts=1 if headers.is_once else 3,
        metadata=msgspec.Raw(b'{"sync_mode":true}' if is_inline else b"null"),
    )


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of a request wish."""

    priority: int = USUAL_PRIORITY
    #: It is worthless unless it starts within so many seconds.
    start_by_s: float | None = None
    #: Not to be tried again where it fails.
    is_once: bool = False


def wishes_of(call: Call) -> Wishes:
    """Return what the headers of a request wish.

    Raises:
        InvalidInput: One of them has no such value.
    """
    told = (call.header(b"x-fal-queue-priority") or b"").strip().lower()
    if told not in _PRIORITIES:
        raise refused("X-Fal-Queue-Priority", "it is normal or low")
    start_by_s = None
    timeout = call.header(b"x-fal-request-timeout")
    if timeout is not None:
        text = timeout.strip().decode("latin-1")
        if not _SECONDS.fullmatch(text) or not 0 < float(text) <= 2_592_000:
            raise refused("X-Fal-Request-Timeout", "it is a number of seconds, 30 days at most")
        start_by_s = float(text)
    once = (call.header(b"x-fal-no-retry") or b"").strip().lower()
    return Wishes(
        priority=_PRIORITIES[told], start_by_s=start_by_s, is_once=once in (b"1", b"true", b"yes")
    )


def as_low_as(wishes: Wishes, usual: int) -> Wishes:
    """Return wishes of which none is more urgent than what its key asks for usually. Pure."""
    if wishes.priority == USUAL_PRIORITY:
        return wishes
    return msgspec.structs.replace(wishes, priority=max(wishes.priority, usual))


def _whole(value: Any, param: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise refused(param, f"it is a whole number, {least} to {most}", "type")
    return value


def _is_any_seed(value: Any) -> bool:
    # Less than nothing asks for any seed at many models.
    return type(value) is int and value < 0


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        sides = [_whole(value.get(name), "image_size", 1, 65_536) for name in ("width", "height")]
        return sides[0], sides[1]
    if isinstance(value, str) and value in SIZES:
        return SIZES[value]
    size = size_of(value, "image_size") if isinstance(value, str) else None
    if size is None:
        raise refused("image_size", f"use {', '.join(SIZES)}, or {{width, height}} in px")
    return size


def _one_or_many(fields: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with the only picture of a list where a model takes one, and as a list else."""
    pictures = picture_fields(schema)
    single = next((name for name, many in pictures.items() if not many), None)
    several = next((name for name, many in pictures.items() if many), None)
    for name in ("image_urls", "images"):
        urls = fields.get(name)
        if name in pictures or not isinstance(urls, list):
            continue
        if several is not None:
            fields[several] = fields.pop(name)
        elif single is not None and len(urls) == 1:
            fields[single] = fields.pop(name)[0]
    if single is None and several is not None and "image_url" in fields:
        fields[several] = [fields.pop("image_url")]
    return fields


def app_names(owner: str, alias: str, path: str) -> list[str]:
    """Return what an app may be called, the closest first. Pure."""
    whole = f"{owner}/{alias}"
    rest = path.strip("/").removesuffix("stream").strip("/")
    return [f"{whole}/{rest}", whole] if rest else [whole]


# --- operations


async def run(service: Service, call: Call) -> Reply | None:
    """`POST /fal/run/{owner}/{alias}`."""
    service.traces.begin(call)
    path = call.params.get("path", "")
    accepted, mark = await _accepted(service, call)
    if path.rstrip("/").rpartition("/")[2] == "stream":
        await _stream(service, call, accepted)
        return None
    with service.unanswered.waits(mark, call, accepted.task.id):
        task = await until_end(service, call, accepted)
    return _kept(service, mark, task, await _result(service, call, task))


async def queue(service: Service, call: Call) -> Reply:
    """`POST /fal/queue/{owner}/{alias}`."""
    service.traces.begin(call)
    accepted, mark = await _accepted(service, call, webhook_of(service, call))
    task = await follow(service, call, accepted, 0.0)
    position, _ = await service.place(task, is_new=accepted.is_new)
    home = _home(service, call, task)
    view = FalSubmitted(
        request_id=task.id,
        response_url=home,
        status_url=home + "/status",
        cancel_url=home + "/cancel",
        queue_position=max(0, (position or 1) - 1),
    )
    reply = Reply(200, encode(view), headers=[_request_id(task.id)])
    return _kept(service, mark, task, reply)


async def run_path(service: Service, call: Call) -> Reply | None:
    """`POST /fal/run/{owner}/{alias}/{path}`."""
    return await run(service, call)


async def queue_path(service: Service, call: Call) -> Reply:
    """`POST /fal/queue/{owner}/{alias}/{path}`."""
    return await queue(service, call)


async def status(service: Service, call: Call) -> Reply:
    """`GET /fal/queue/{owner}/{alias}/requests/{id}/status`."""
    task = await find_task(service, call)
    view = await _status_view(service, call, task)
    return Reply(
        200 if task.state.is_terminal else 202, encode(view), headers=[_request_id(task.id)]
    )


async def status_stream(service: Service, call: Call) -> Reply | None:
    """`GET /fal/queue/{owner}/{alias}/requests/{id}/status/stream`."""
    await call.body(service.settings.server.max_body_bytes)
    task = await find_task(service, call)
    wants_logs = _wants_logs(call)
    accepted = Accepted(task=task, is_new=False)
    first = told = encode(await _status_view(service, call, task))
    headers = [_request_id(task.id)]
    events = Events(service, call, accepted, headers, first=sse(msgspec.Raw(first)))
    async with contextlib.aclosing(events.each()) as each:
        async for event in each:
            if event.is_terminal or events.task.state.is_terminal:
                continue
            logs = [_log_of(service, event)] if wants_logs and _is_step(event) else []
            body = encode(await _status_view(service, call, events.task, logs))
            if body != told:
                told = body
                await events.send(sse(msgspec.Raw(body)))
    if not task.state.is_terminal and events.task.state.is_terminal:
        await events.send(sse(await _status_view(service, call, events.task)))
    await events.close()
    return None


async def result(service: Service, call: Call) -> Reply:
    """`GET /fal/queue/{owner}/{alias}/requests/{id}`."""
    task = await find_task(service, call)
    if not task.state.is_terminal:
        told = {"detail": "Request is still in progress", "error_type": "in_progress"}
        return Reply(400, encode(told), headers=[_request_id(task.id)])
    return await _result(service, call, task)


async def cancel(service: Service, call: Call) -> Reply:
    """`PUT /fal/queue/{owner}/{alias}/requests/{id}/cancel`."""
    task = await find_task(service, call)
    if task.state.is_terminal:
        told = {"status": "ALREADY_COMPLETED", "detail": f"the request has ended: {task.state}"}
        return Reply(400, encode(told), headers=[_request_id(task.id)])
    await cancel_task(service, task)
    done = {"status": "CANCELLATION_REQUESTED"}
    return Reply(202, encode(done), headers=[_request_id(task.id)])


async def start_upload(service: Service, call: Call) -> Reply:
    """What `rest.fal.ai/storage/upload/initiate` answers: where a file may be put."""
    told = await json_object(service, call)
    upload: FalUpload = msgspec.convert(
        {name: str(told[name])[:200] for name in ("file_name", "content_type") if name in told},
        FalUpload,
    )
    ending = re.search(r"\.[A-Za-z0-9]{1,10}$", upload.file_name)
    key = f"uploads/{call.caller.id}/{new_id(service.clock.now())}{ending[0] if ending else ''}"
    await service.store.note_upload(key)
    put = service.objects.sign("PUT", key, service.settings.server.signed_url_s)
    where = f"{service.base_url(call)}{put}" if put.startswith("/") else put
    view = FalUploadView(upload_url=where, file_url=file_url(service, call, key))
    return Reply(200, encode(view), headers=[_request_id(call.request_id)])


async def proxy(service: Service, call: Call) -> Reply | None:
    """`POST /fal/proxy`: does what `x-fal-target-url` names, here."""
    told = (call.header(b"x-fal-target-url") or b"").decode("latin-1")
    try:
        url = urlsplit(told)
        host = url.hostname or ""
    except ValueError:
        host = ""
    path = re.sub("/{2,}", "/", url.path).rstrip("/") if host else ""
    call.scope = {
        **call.scope,
        "query_string": url.query.encode("latin-1", "replace") if host else b"",
    }
    method = str(call.scope["method"])
    if host == _RUN_HOST and method == "POST":
        return await _proxied_app(service, call, path, run)
    if host == _QUEUE_HOST:
        return await _proxied_queue(service, call, path, method)
    if host in _REST_HOSTS and path == "/storage/upload/initiate" and method == "POST":
        return await start_upload(service, call)
    raise NotFound(
        f"x-fal-target-url names nothing that is answered here ({told[:120]!r}): it is an address "
        f"of {_RUN_HOST} or {_QUEUE_HOST}, as @fal-ai/client sets it"
    )


async def proxy_get(service: Service, call: Call) -> Reply | None:
    """`GET /fal/proxy`."""
    return await proxy(service, call)


async def proxy_put(service: Service, call: Call) -> Reply | None:
    """`PUT /fal/proxy`."""
    return await proxy(service, call)


async def _proxied_queue(service: Service, call: Call, path: str, method: str) -> Reply | None:
    found = _OF_REQUEST.fullmatch(path)
    if found is None:
        if method != "POST":
            raise MethodNotAllowed("an app of the queue takes POST", headers={"Allow": "POST"})
        return await _proxied_app(service, call, path, queue)
    call.params = {"owner": found[1], "alias": found[2], "id": found[3]}
    operations = {
        ("GET", None): result,
        ("GET", "/status"): status,
        ("GET", "/status/stream"): status_stream,
        ("PUT", "/cancel"): cancel,
    }
    operation = operations.get((method, found[4]))
    if operation is None:
        raise MethodNotAllowed(
            "requests take GET, and PUT to be canceled", headers={"Allow": "GET, PUT"}
        )
    return await operation(service, call)


async def _proxied_app(service: Service, call: Call, path: str, operation: Any) -> Reply | None:
    parts = path.strip("/").split("/", 2)
    if len(parts) < 2:
        raise NotFound("x-fal-target-url names no app: it ends in owner/alias")
    call.params = {"owner": parts[0], "alias": parts[1], "path": "".join(parts[2:])}
    reply: Reply | None = await operation(service, call)
    return reply


# --- what these share


def webhook_of(service: Service, call: Call) -> Webhook | None:
    """Return what is to be told of a new request; None for nothing."""
    url = read_query(call, FalSubmitQuery).fal_webhook
    if url is None:
        return None
    request = WebhookRequest(url=url, format=FORMAT)
    return service.need_hooks().checked(request, service.base_url(call), "/fal_webhook")


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> dict[str, Any]:
    """Return the body of a webhook: how a request ended, and its result or its error."""
    told = {"request_id": task.id, "gateway_request_id": task.id}
    if task.state is TaskState.SUCCEEDED:
        return {**told, "status": "OK", "payload": result_body(task, urls)}
    _, detail, error_type = failure(task)
    payload = {"detail": detail, "error_type": error_type}
    return {**told, "status": "ERROR", "error": _text(detail), "payload": payload}


async def _accepted(
    service: Service, call: Call, webhook: Webhook | None = None
) -> tuple[Accepted, bytes]:
    """Return the task of a request, and what tells it when it comes again.

    It is new, unless the same request came before: with the same idempotency key, or with none and
    nobody was left to be told of its task.
    """
    params = call.params
    names = app_names(params["owner"], params["alias"], params.get("path", ""))
    wishes = wishes_of(call)
    told = await json_object(service, call)
    target = await resolve(service, *names, param="app")
    asked = call.caller.id, call.path, names, told, None if webhook is None else webhook.url
    repeat = await repeat_of(service, call, mark_of(*asked))
    # Requests with and without a key never match each other.
    mark = mark_of(*asked, None if repeat is None else repeat.key)
    accepted = await _unanswered(service, mark)
    if accepted is None:
        wishes = as_low_as(wishes, service.classes.priority_of(call.caller))
        request = task_request(await with_uploads(service, call, told, ""), target, wishes)
        new = await check(service, call, request, repeat)
        if webhook is not None:
            new = msgspec.structs.replace(new, webhook=webhook)
        accepted = await accept(service, call, new)
    call.task_id = accepted.task.id
    return accepted, mark


async def _unanswered(service: Service, mark: bytes) -> Accepted | None:
    task_id = service.unanswered.claim(mark)
    task = None if task_id is None else (await service.store.get([task_id]))[0]
    if task is None or task.state in (TaskState.CANCELED, TaskState.EXPIRED):
        return None
    return Accepted(task=task, is_new=False)


def _kept(service: Service, mark: bytes, task: Task, reply: Reply) -> Reply:
    """Return an answer whose task can be had again where nobody is left to hear it."""

    async def lose() -> None:
        service.unanswered.lose(mark, task.id)

    reply.lost = lose
    return reply


def _home(service: Service, call: Call, task: Task) -> str:
    owner, alias = call.params["owner"], call.params["alias"]
    return f"{service.base_url(call)}/fal/queue/{owner}/{alias}/requests/{task.id}"


def _request_id(text: str) -> tuple[bytes, bytes]:
    return b"x-fal-request-id", text.encode("latin-1", "replace")


def _wants_logs(call: Call) -> bool:
    return call.query().get("logs", "0").lower() in ("1", "true")


async def _status_view(
    service: Service, call: Call, task: Task, logs: Sequence[FalLog] | None = None
) -> FalStatus:
    home = _home(service, call, task)
    if task.state is TaskState.QUEUED:
        position, _ = await service.place(task)
        ahead = max(0, (position or 1) - 1)
        return FalStatus(
            status="IN_QUEUE", request_id=task.id, response_url=home, queue_position=ahead
        )
    lines = None
    if _wants_logs(call):
        # Who polls is listened for; who listens is told what happens.
        lines = _logs_of(service, task) if logs is None else list(logs)
    if not task.state.is_terminal:
        return FalStatus(status="IN_PROGRESS", request_id=task.id, response_url=home, logs=lines)
    ended = FalStatus(
        status="COMPLETED",
        request_id=task.id,
        response_url=home,
        logs=lines,
        metrics={} if task.timings is None else {"inference_time": task.timings.run_s},
    )
    if task.state is TaskState.SUCCEEDED:
        return ended
    _, detail, error_type = failure(task)
    return msgspec.structs.replace(ended, error=_text(detail), error_type=error_type)


def _logs_of(service: Service, task: Task) -> list[FalLog]:
    return [_log(service, _step_text(data)) for data in service.polled.progress(task)]


def _is_step(event: Event) -> bool:
    return event.kind in (EventKind.PROGRESS, EventKind.STARTED)


def _log_of(service: Service, event: Event) -> FalLog:
    data = event.data
    is_step = event.kind is EventKind.PROGRESS
    return _log(service, _step_text(data) if is_step else f"attempt {data.get('attempt')} began")


def _step_text(data: Mapping[str, Any]) -> str:
    return f"step {data.get('step')} of {data.get('steps')}"


def _log(service: Service, message: str) -> FalLog:
    return FalLog(message=message, timestamp=service.clock.now().isoformat())


# --- results


async def _result(service: Service, call: Call, task: Task) -> Reply:
    if task.state is TaskState.SUCCEEDED:
        return Reply(200, encode(await result_of(service, call, task)), headers=_id_of(task))
    code, detail, error_type = failure(task)
    headers = [*_id_of(task), (b"x-fal-error-type", error_type.encode("latin-1", "replace"))]
    if task.state is TaskState.EXPIRED:
        headers.append((b"x-fal-request-timeout-type", b"user"))
    return Reply(code, encode({"detail": detail, "error_type": error_type}), headers=headers)


def _id_of(task: Task) -> list[tuple[bytes, bytes]]:
    return [_request_id(task.id)]


async def result_of(service: Service, call: Call, task: Task) -> dict[str, Any]:
    """Return a result as its caller gets it: with pictures in it, where that was asked for."""
    inline: dict[str, str] = {}
    if task.metadata is not None and b'"sync_mode"' in bytes(task.metadata):
        for each in task.artifacts:
            data, _ = await picture_bytes(service, each, None, None)
            inline[each.key] = data_uri(data, each.content_type)
    return result_body(task, service.urls(call), inline)


def result_body(
    task: Task, urls: UrlMaker, inline: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a result in the shape that fal's models of pictures, sound and video have.

    Args:
        task: One that has succeeded.
        urls: Makes URLs of files.
        inline: What stands for a file instead of its URL, by its key.
    """
    named = {each.key: direct_url(urls, each.key, each.bytes) for each in task.artifacts} | dict(
        inline or {}
    )
    output = None
    if task.output is not None:
        output = msgspec.json.decode(resolve_files(task.output, list(named.values())))
    whole = dict(output) if isinstance(output, dict) else {}
    pictures = pictures_of(task)
    if pictures:
        whole["images"] = [_file_view(each, named[each.key]) for each in pictures]
        whole["has_nsfw_concepts"] = [False] * len(pictures)
    elif task.artifacts:
        first = task.artifacts[0]
        kind = first.content_type.partition("/")[0]
        whole[kind if kind in ("audio", "video") else "file"] = _file_view(first, named[first.key])
    elif not isinstance(output, dict):
        whole["output"] = output
    if task.artifacts:
        timings = task.timings
        whole.setdefault("seed", task.seed)
        whole.setdefault("timings", {} if timings is None else {"inference": timings.run_s})
        whole.setdefault("prompt", _prompt(task))
    return whole


def _file_view(file: Artifact, url: str) -> dict[str, Any]:
    view = {
        "url": url,
        "content_type": file.content_type,
        "file_name": file.key.rpartition("/")[2],
        "file_size": file.bytes,
    }
    return {**view, "width": file.width, "height": file.height} if file.width else view


def _prompt(task: Task) -> str:
    try:
        told = msgspec.json.decode(task.input)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return str(told.get("prompt", "")) if isinstance(told, dict) else ""


def failure(task: Task) -> tuple[int, Any, str]:
    """Return status, detail and type of the error of a task without a result. Pure."""
    if task.state is TaskState.EXPIRED:
        return 504, "the request did not start, or end, in time", "request_timeout"
    if task.state is TaskState.CANCELED:
        return 400, "the request was canceled", "request_canceled"
    error = task.error
    code = "internal_error" if error is None else error.code
    text = "the model failed" if error is None else f"{error.title}: {error.detail}"
    if is_users_fault(task):
        return 422, [{"loc": ["body"], "msg": text, "type": code}], code
    if code == "worker_lost":
        return 503, text, "runner_disconnected"
    return 500, text, code


def _text(detail: Any) -> str:
    return detail if isinstance(detail, str) else "; ".join(str(each["msg"]) for each in detail)


# --- streams


async def _stream(service: Service, call: Call, accepted: Accepted) -> None:
    events = Events(service, call, accepted, [_request_id(accepted.task.id)])
    fraction, files = 0.0, list[dict[str, Any]]()
    async with contextlib.aclosing(events.each()) as each:
        async for event in each:
            early = _early_file(service, call, event, len(files))
            if early is not None:
                files.append(early)
                await events.send(sse({"images": files, "progress": fraction, "partial": True}))
            if event.kind is EventKind.PROGRESS:
                told = event.data.get("fraction")
                fraction = float(told) if isinstance(told, int | float) else fraction
            if event.kind is EventKind.PREVIEW:
                await events.send(sse(_partial(event, fraction)))
    await events.send(sse(await _last(service, call, events.task)))
    await events.close()


def _early_file(service: Service, call: Call, event: Event, told: int) -> dict[str, Any] | None:
    """Return the picture that an event tells of, if it is the next of those that were told."""
    if event.kind is not EventKind.ARTIFACT or not is_next(event.data, told):
        return None
    artifact = read_artifact(event.data)
    if artifact is None or not artifact.content_type.startswith("image/"):
        return None
    return _file_view(artifact, direct_url(service.urls(call), artifact.key, artifact.bytes))


def _partial(event: Event, fraction: float) -> dict[str, Any]:
    url = str(event.data.get("image", ""))
    content_type = url.partition(";")[0].removeprefix("data:")
    return {
        "images": [{"url": url, "content_type": content_type}],
        "progress": fraction,
        "partial": True,
    }


async def _last(service: Service, call: Call, task: Task) -> dict[str, Any]:
    if task.state is TaskState.SUCCEEDED:
        try:
            return await result_of(service, call, task)
        except SwellError as error:
            return {"detail": error.detail, "error_type": error.code}
    if not task.state.is_terminal:
        return {"detail": "this backend ends: ask again", "error_type": "unavailable"}
    _, detail, error_type = failure(task)
    return {"detail": detail, "error_type": error_type}


# --- errors


def refuse(call: Call, error: SwellError) -> Reply:
    """Return the answer that tells an error in fal's words."""
    status, kind = error.status, error.code
    headers = [_request_id(call.request_id)]
    if isinstance(error, WouldExpire):
        status, kind = 504, "request_timeout"
        headers.append((b"x-fal-request-timeout-type", b"user"))
    elif isinstance(error, NoWorker):
        kind = "runner_scheduling_failure"
    headers.append((b"x-fal-error-type", kind.encode()))
    members = {"detail": _detail(error), "error_type": kind}
    return refusal(call, error, members, status=status, headers=headers)


def _detail(error: SwellError) -> Any:
    """Return what is wrong with an input as a list, as FastAPI has it; None for a text."""
    if error.status != 422 or not error.errors:
        return None
    return [
        {
            "loc": ["body", *each["pointer"].removeprefix("/input").strip("/").split("/")],
            "msg": each["detail"],
            "type": each["code"],
        }
        for each in error.errors
    ]


_ERRORS: Final[tuple[type[SwellError], ...]] = (
    *(InvalidRequest, InvalidInput, IdempotencyMismatch, NotFound, TooLarge),
    *(TooManyRequests, NoWorker, WouldExpire, Unavailable),
)
_RESULT: Final = Response(
    "The result: for pictures `images`, `seed`, `timings`, `has_nsfw_concepts` and `prompt`", dict
)
_SUBMITTED: Final = Response("The URLs of the request", FalSubmitted)
_HEADERS: Final = (
    IDEMPOTENCY_KEY,
    Header(
        "X-Fal-Request-Timeout",
        "seconds until it must start, or 504",
        {"type": "string", "pattern": "^[0-9]{1,7}(.[0-9]{1,6})?$"},
        "30",
    ),
    Header(
        "X-Fal-Queue-Priority",
        "`low` goes after usual tasks",
        {"type": "string", "enum": ["normal", "low"]},
        "normal",
    ),
    Header("X-Fal-No-Retry", "`1`: one attempt only", {"type": "string", "maxLength": 10}, "1"),
)
_TARGET: Final = Header(
    "X-Fal-Target-Url",
    "the target at fal; Swell answers itself and fetches nothing",
    {"type": "string", "maxLength": 8192},
    "https://queue.fal.run/swell/icons",
)
_STREAMS: Final = (
    "A path that ends in `stream` answers with server-sent events: previews, then the result."
)
_OTHERS: Final = "The path after the app counts only if an alias has the whole name. "


def _route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    responses: dict[int, Response],
    errors: tuple[type[SwellError], ...] = (NotFound,),
    **more: Any,
) -> Route:
    return Route(
        method,
        f"/fal/{path}",
        handler,
        Scope.CLIENT,
        summary,
        "fal",
        responses,
        errors,
        facade="fal",
        refuse=refuse,
        **more,
    )


_ARGUMENTS: Final = Body(None, example=None)
_REQUEST: Final = "queue/{owner}/{alias}/requests/{id}"

ROUTES: Final = (
    _route(
        *("POST", "run/{owner}/{alias}", run, "Run an app and wait", {200: _RESULT}, _ERRORS),
        body=_ARGUMENTS,
        headers=_HEADERS,
    ),
    _route(
        *("POST", "run/{owner}/{alias}/{path:path}", run_path, "Run an app, or stream from it"),
        *({200: _RESULT}, _ERRORS),
        description=_OTHERS + _STREAMS,
        body=_ARGUMENTS,
        headers=_HEADERS,
    ),
    _route(
        *("POST", "queue/{owner}/{alias}", queue, "Queue a request", {200: _SUBMITTED}, _ERRORS),
        body=_ARGUMENTS,
        query=FalSubmitQuery,
        headers=_HEADERS,
    ),
    _route(
        *("GET", _REQUEST, result, "Get a result", {200: _RESULT}),
        description="A request without a result answers with its error and the error's status.",
    ),
    _route(
        *("GET", _REQUEST + "/status", status, "Get the status of a request"),
        {
            200: Response("The request has ended", FalStatus),
            202: Response("The request has not ended", FalStatus),
        },
        query=FalStatusQuery,
    ),
    _route(
        *("GET", _REQUEST + "/status/stream", status_stream, "Follow a request"),
        {200: Response("A status for every change", None, "text/event-stream")},
        query=FalStatusQuery,
    ),
    _route(
        *("PUT", _REQUEST + "/cancel", cancel, "Cancel a request"),
        {
            202: Response("The request will be stopped", dict),
            400: Response("The request had already ended", dict),
        },
        audit="tasks.cancel",
    ),
    _route(
        *("POST", "queue/{owner}/{alias}/{path:path}", queue_path, "Queue a request with a path"),
        *({200: _SUBMITTED}, _ERRORS),
        description=_OTHERS,
        body=_ARGUMENTS,
        query=FalSubmitQuery,
        headers=_HEADERS,
    ),
    _route(
        *("POST", "proxy", proxy, "Forwarded POST of the JavaScript client"),
        *({200: _RESULT}, _ERRORS),
        description="For `proxyUrl` of @fal-ai/client: runs the operation that the header names.",
        headers=(_TARGET, *_HEADERS),
    ),
    _route(
        *("GET", "proxy", proxy_get, "Forwarded GET of the JavaScript client"),
        {200: _RESULT},
        headers=(_TARGET,),
    ),
    _route(
        *("PUT", "proxy", proxy_put, "Forwarded cancellation of the JavaScript client"),
        {202: Response("The request will be stopped", dict)},
        headers=(_TARGET,),
    ),
)
