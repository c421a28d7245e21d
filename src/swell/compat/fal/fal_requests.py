"""Requests: run and wait, stream, or queue and follow."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from swell.compat.error_formats import TASK_ERRORS
from swell.compat.fal.fal_arguments import app_names, task_options, task_request
from swell.compat.fal.fal_facade import failure, failure_body, failure_reply, fal, reply, request_id
from swell.compat.fal.fal_results import FORMAT, file_view, result_of, signing_key
from swell.compat.follow_task import next_picture, progress_of, sse, stream_events, wait_for_end
from swell.compat.model_names import resolve
from swell.compat.request_inputs import json_object, with_uploads
from swell.compat.result_files import file_url
from swell.core.errors import InvalidInput, NotFound, SwellError, TooManyRequests, WouldExpire
from swell.core.events import Event, EventKind
from swell.core.store_types import Accepted
from swell.core.task import Task, TaskState
from swell.server.common_schemas import doc
from swell.server.decoding import read_query
from swell.server.files.file_routes import new_upload
from swell.server.request import Call, Reply
from swell.server.route import IDEMPOTENCY_KEY, Body, Header, Response
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.admission import check
from swell.server.tasks.submit import accept, fingerprint, follow, repeat_of
from swell.server.tasks.task_routes import cancel_task, find_task
from swell.server.tasks.task_schemas import WebhookRequest


class FalSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A queued request."""

    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    #: Requests ahead of it.
    queue_position: int
    status: str = "IN_QUEUE"


class FalLog(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a log."""

    message: str
    timestamp: str
    level: str = "INFO"
    source: str = "swell"


class FalStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Status of a request: `IN_QUEUE`, `IN_PROGRESS`, or `COMPLETED` after any end."""

    status: Annotated[str, Meta(pattern="^(IN_QUEUE|IN_PROGRESS|COMPLETED)$")]
    request_id: str
    response_url: str
    #: In the queue: requests ahead of it.
    queue_position: int | msgspec.UnsetType = msgspec.UNSET
    logs: list[FalLog] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    error_type: str | msgspec.UnsetType = msgspec.UNSET


class FalStatusQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether logs are wanted."""

    logs: Annotated[str, Meta(pattern="^(0|1|true|false|True|False)$")] = "0"


class FalSubmitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The receiver of a webhook."""

    fal_webhook: Annotated[str, Meta(max_length=8192)] | None = None


_RESULT: Final = {
    200: Response(
        "The result: for pictures `images`, `seed`, `timings`, `has_nsfw_concepts` and `prompt`",
        dict,
    )
}
_SUBMITTED: Final = {200: Response("The URLs of the request", FalSubmitted)}
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
_ERRORS: Final = (*TASK_ERRORS, InvalidInput, TooManyRequests, WouldExpire)
_CREATES: Final[dict[str, Any]] = {"errors": _ERRORS, "body": Body(), "headers": _HEADERS}
_QUEUE: Final[dict[str, Any]] = {**_CREATES, "query": FalSubmitQuery}
_REQUEST: Final = "/queue/{owner}/{alias}/requests/{id}"


@fal("POST /run/{owner}/{alias}/{path:path}", _RESULT, **_CREATES, operation_id="fal_run_path")
@fal("POST /run/{owner}/{alias}", _RESULT, **_CREATES)
async def run(service: Service, call: Call) -> Reply | None:
    """Run an app and wait, or stream from it.

    A path after the app counts only if an alias has the whole name. A path that ends in `stream`
    answers with server-sent events: previews, then the result.
    """
    accepted, digest = await _accept(service, call)
    if call.params.get("path", "").rstrip("/").rpartition("/")[2] == "stream":
        await _stream(service, call, accepted)
        return None
    with service.unanswered.watch(digest, call, accepted.task.id):
        task = await wait_for_end(service, call, accepted)
        return await _result(service, call, task)


@fal("POST /queue/{owner}/{alias}/{path:path}", _SUBMITTED, **_QUEUE, operation_id="fal_queue_path")
@fal("POST /queue/{owner}/{alias}", _SUBMITTED, **_QUEUE)
async def queue(service: Service, call: Call) -> Reply:
    """Queue a request.

    A path after the app counts only if an alias has the whole name.
    """
    accepted, digest = await _accept(service, call, read_query(call, FalSubmitQuery).fal_webhook)
    with service.unanswered.watch(digest, call, accepted.task.id):
        task = await follow(service, call, accepted, 0.0)
        home = _home(service, call, task)
        view = FalSubmitted(
            request_id=task.id,
            response_url=home,
            status_url=home + "/status",
            cancel_url=home + "/cancel",
            queue_position=await _ahead(service, task, is_new=accepted.is_new),
        )
        return reply(200, view, task.id)


@fal(f"GET {_REQUEST}", _RESULT, (NotFound,))
async def result(service: Service, call: Call) -> Reply:
    """Get a result.

    A request without a result answers with its error and the error's status.
    """
    task = await find_task(service, call)
    if not task.state.is_terminal:
        body = {"detail": "Request is still in progress", "error_type": "in_progress"}
        return reply(400, body, task.id)
    return await _result(service, call, task)


@fal(
    f"GET {_REQUEST}/status",
    {
        200: Response("The request has ended", FalStatus),
        202: Response("The request has not ended", FalStatus),
    },
    (NotFound,),
    query=FalStatusQuery,
)
async def status(service: Service, call: Call) -> Reply:
    """Get the status of a request."""
    task = await find_task(service, call)
    view = await _status_view(service, call, task)
    return reply(200 if task.state.is_terminal else 202, view, task.id)


@fal(
    f"GET {_REQUEST}/status/stream",
    {200: Response("A status for every change", None, "text/event-stream")},
    (NotFound,),
    query=FalStatusQuery,
)
async def status_stream(service: Service, call: Call) -> Reply | None:
    """Follow a request."""
    await call.body(service.settings.server.max_body_bytes)
    task = await find_task(service, call)
    accepted = Accepted(task=task, is_new=False)
    latest = sse(await _status_view(service, call, task))

    async def tell(task: Task, event: Event) -> bytes:
        nonlocal latest
        before = latest
        if not task.state.is_terminal:
            latest = sse(await _status_view(service, call, task, _lines(event)))
        return b"" if latest == before else latest

    async def end(ended: Task) -> bytes:
        is_new = ended.state.is_terminal and not task.state.is_terminal
        return sse(await _status_view(service, call, ended)) if is_new else b""

    headers = [request_id(task.id)]
    await stream_events(service, call, accepted, tell, end, headers=headers, first=latest)
    return None


_STOPPED: Final = {202: Response("The request will be stopped", dict)}
_ENDED: Final = {400: Response("The request had already ended", dict)}


@fal(f"PUT {_REQUEST}/cancel", _STOPPED | _ENDED, (NotFound,), audit="tasks.cancel")
async def cancel(service: Service, call: Call) -> Reply:
    """Cancel a request."""
    task = await find_task(service, call)
    if task.state.is_terminal:
        body = {"status": "ALREADY_COMPLETED", "detail": f"the request has ended: {task.state}"}
        return reply(400, body, task.id)
    await cancel_task(service, task)
    return reply(202, {"status": "CANCELLATION_REQUESTED"}, task.id)


# --- create


async def _accept(
    service: Service, call: Call, webhook_url: str | None = None
) -> tuple[Accepted, bytes]:
    """Return the task of a request, and the request's digest.

    The task is new, unless the same request came before with the same idempotency key, or without
    one and its client disconnected before the answer.
    """
    params = call.params
    names = app_names(params["owner"], params["alias"], params.get("path", ""))
    options = task_options(call, service.classes.priority_of(call.caller))
    arguments = await json_object(service, call)
    target = await resolve(service, *names, param="app")
    asked = [names, arguments, webhook_url]
    repeat = await repeat_of(service, call, encode(asked))
    # Requests with and without an idempotency key never match each other.
    key = None if repeat is None else repeat.key
    digest = fingerprint(call.path, encode([call.caller.id, key, asked]))
    first_id = service.unanswered.take(digest)
    first = None if first_id is None else (await service.store.get([first_id]))[0]
    if first is not None and first.state not in (TaskState.CANCELED, TaskState.EXPIRED):
        accepted = Accepted(task=first, is_new=False)
    else:
        if webhook_url is not None:
            options["webhook"] = WebhookRequest(url=webhook_url, format=FORMAT)
        request = task_request(await with_uploads(service, call, arguments, ""), target)
        request = msgspec.structs.replace(request, **options)
        [accepted] = await accept(service, call, [await check(service, call, request, repeat)])
    call.task_id = accepted.task.id
    return accepted, digest


# --- status


def _home(service: Service, call: Call, task: Task) -> str:
    owner, alias = call.params["owner"], call.params["alias"]
    return f"{service.base_url(call)}/fal/queue/{owner}/{alias}/requests/{task.id}"


async def _ahead(service: Service, task: Task, *, is_new: bool = False) -> int:
    """Return how many tasks are ahead of a queued one."""
    position, _ = await service.estimates.position(task, is_new=is_new)
    return max(0, (position or 1) - 1)


async def _status_view(
    service: Service, call: Call, task: Task, new_lines: Sequence[str] | None = None
) -> FalStatus:
    """Return the status of a request.

    Args:
        service: The backend.
        call: The request.
        task: Its task.
        new_lines: None for all that this process has, as polling clients get them.
    """
    status, more = "IN_PROGRESS", dict[str, Any](logs=None)
    if task.state is TaskState.QUEUED:
        status, more = "IN_QUEUE", {"queue_position": await _ahead(service, task)}
    elif call.query().get("logs", "0").lower() in ("1", "true"):
        lines = map(_step, service.polled.progress(task)) if new_lines is None else new_lines
        now = service.clock.now().isoformat()
        more["logs"] = [FalLog(message=line, timestamp=now) for line in lines]
    if task.state.is_terminal:
        status = "COMPLETED"
        more["metrics"] = {} if task.timings is None else {"inference_time": task.timings.run_s}
        if task.state is not TaskState.SUCCEEDED:
            _, more["error"], more["error_type"] = failure(task)
    home = _home(service, call, task)
    return FalStatus(status=status, request_id=task.id, response_url=home, **more)


def _lines(event: Event) -> list[str]:
    """Return the lines of an event."""
    if event.kind is EventKind.STARTED:
        return [f"attempt {event.data.get('attempt')} began"]
    return [_step(event.data)] if event.kind is EventKind.PROGRESS else []


def _step(data: Mapping[str, Any]) -> str:
    return f"step {data.get('step')} of {data.get('steps')}"


# --- results


async def _result(service: Service, call: Call, task: Task) -> Reply:
    if task.state is TaskState.SUCCEEDED:
        return reply(200, await result_of(service, call, task), task.id)
    return failure_reply(task)


async def _stream(service: Service, call: Call, accepted: Accepted) -> None:
    pictures, fraction = list[dict[str, Any]](), 0.0

    async def tell(task: Task, event: Event) -> bytes:
        nonlocal fraction
        fraction = progress_of(event, fraction)
        shown = pictures
        picture = next_picture(event, len(pictures))
        if picture is not None:
            url = file_url(service.urls(call), picture.key, picture.bytes)
            pictures.append(file_view(picture, url))
        elif event.kind is EventKind.PREVIEW:
            url = str(event.data.get("image", ""))
            shown = [{"url": url, "content_type": url.partition(";")[0].removeprefix("data:")}]
        else:
            return b""
        return sse({"images": shown, "progress": fraction, "partial": True})

    async def end(task: Task) -> bytes:
        if not task.state.is_terminal:
            return sse({"detail": "this backend ends: ask again", "error_type": "unavailable"})
        if task.state is not TaskState.SUCCEEDED:
            return sse(failure_body(task))
        try:
            return sse(await result_of(service, call, task))
        except SwellError as error:
            return sse({"detail": error.detail, "error_type": error.code})

    headers = [request_id(accepted.task.id)]
    await stream_events(service, call, accepted, tell, end, headers=headers)


# --- the endpoint of `proxyUrl` in fal's JavaScript client, which has fal's hosts built in

# The client sends everything to this one URL and names its target in a header. The header selects
# an operation; nothing is ever fetched from it.
_TARGET: Final = Header(
    "X-Fal-Target-Url",
    "the target at fal; Swell answers itself and fetches nothing",
    {"type": "string", "maxLength": 8192},
    "https://queue.fal.run/swell/icons",
)


async def start_upload(service: Service, call: Call) -> Reply:
    """Return where to PUT a file, and its URL afterwards."""
    filename = str((await json_object(service, call)).get("file_name", ""))
    key = await new_upload(service, call, filename)
    put = service.objects.sign("PUT", key, service.settings.server.signed_url_s)
    upload_url = f"{service.base_url(call)}{put}"
    body = {"upload_url": upload_url, "file_url": file_url(service.urls(call), key)}
    return reply(200, body, call.request_id)


_APP: Final = r"/(?P<owner>[^/]+)/(?P<alias>[^/]+)"
_TARGET_REQUEST: Final = rf"queue\.fal\.run{_APP}/requests/(?P<id>[^/]+)"

#: Operations by method and target.
_OPERATIONS: Final[tuple[tuple[str, Callable[[Service, Call], Awaitable[Reply | None]]], ...]] = (
    (rf"POST fal\.run{_APP}(?:/(?P<path>.*))?", run),
    (rf"GET {_TARGET_REQUEST}", result),
    (rf"GET {_TARGET_REQUEST}/status", status),
    (rf"GET {_TARGET_REQUEST}/status/stream", status_stream),
    (rf"PUT {_TARGET_REQUEST}/cancel", cancel),
    (rf"POST queue\.fal\.run{_APP}(?:/(?P<path>.*))?", queue),
    (r"POST rest(\.alpha)?\.fal\.ai/storage/upload/initiate", start_upload),
)


@fal("PUT /proxy", _STOPPED, (NotFound,), headers=(_TARGET,), operation_id="fal_proxy_put")
@fal("GET /proxy", _RESULT, (NotFound,), headers=(_TARGET,), operation_id="fal_proxy_get")
@fal("POST /proxy", _RESULT, _ERRORS, headers=(_TARGET, *_HEADERS))
async def proxy(service: Service, call: Call) -> Reply | None:
    """Forwarded request of the JavaScript client.

    For `proxyUrl` of @fal-ai/client: runs the operation that the header names.
    """
    target = (call.headers.get(b"x-fal-target-url") or b"").decode("latin-1")
    url, _, query = target.partition("?")
    place = re.sub("/{2,}", "/", url.removeprefix("https://")).rstrip("/")
    for pattern, operation in _OPERATIONS:
        found = re.fullmatch(pattern, f"{call.scope['method']} {place}")
        if found is not None:
            call.params = found.groupdict("")
            call.scope = {**call.scope, "query_string": query.encode("latin-1")}
            return await operation(service, call)
    detail = f"x-fal-target-url must be an address of fal.run or queue.fal.run: {target[:120]!r}"
    raise NotFound(detail)


# --- keys of webhooks

#: Receivers may cache the keys for an hour; fal's documentation says a day at most.
_CACHE_CONTROL: Final = b"public, max-age=3600"


class FalJwk(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as a JSON Web Key."""

    x: Annotated[str, doc("The public key, in base64url")]
    kid: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    use: str = "sig"
    alg: str = "EdDSA"


class FalKeySet(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys; one of them has signed."""

    keys: list[FalJwk]


@fal(
    "GET /.well-known/jwks.json",
    {200: Response("Public keys, as receivers of fal's webhooks read them", FalKeySet)},
    (NotFound,),
    scope=None,
    operation_id="fal_fal_webhooks_keys",
)
async def keys(service: Service, call: Call) -> Reply:
    """Read the keys that sign webhooks.

    What `rest.fal.ai/.well-known/jwks.json` is at fal: receivers check `X-Fal-Webhook-Signature`
    with it.
    """
    key = await signing_key(service.registry)
    if key is None:
        raise NotFound("webhooks are not signed as fal signs them here: install `swell[fal]`")
    known = FalKeySet(keys=[FalJwk(x=key.x, kid=key.id)])
    return Reply(200, encode(known), headers=[(b"cache-control", _CACHE_CONTROL)])
