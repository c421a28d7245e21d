"""Predictions: create, get, list, cancel."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from swell.compat import request_inputs
from swell.compat.error_formats import TASK_ERRORS
from swell.compat.replicate import replicate_views
from swell.compat.replicate.replicate_deployments import current_version, find_deployment
from swell.compat.replicate.replicate_facade import (
    HOME,
    ReplicatePage,
    ReplicateQuery,
    full_name,
    page_links,
    replicate,
)
from swell.compat.replicate.replicate_files import with_file_urls
from swell.compat.replicate.replicate_views import ReplicatePrediction
from swell.compat.result_files import file_links
from swell.compat.retry_detection import accept_once
from swell.core.errors import InvalidInput, InvalidRequest, NotFound, UnsupportedType, WouldExpire
from swell.core.store_types import TaskFilter
from swell.core.task import Task
from swell.server.auth import only_own
from swell.server.common_schemas import HookEvent, doc
from swell.server.decoding import read_body, read_query
from swell.server.models.model_cards import Target
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import IDEMPOTENCY_KEY, Body, Header, Response
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.admission import check
from swell.server.tasks.partial_artifacts import early_artifacts
from swell.server.tasks.submit import follow, prefer_wait_s, repeat_of
from swell.server.tasks.task_routes import cancel_task, find_task
from swell.server.tasks.task_schemas import TaskRequest, WebhookRequest


class ReplicatePredictionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction to create. Unknown fields are ignored."""

    input: Annotated[
        msgspec.Raw,
        doc(
            "the model's input; every model accepts `seed` and `num_outputs`",
            extra_json_schema={"type": "object"},
        ),
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    version: Annotated[str | None, doc("an id, `owner/name:version` or `owner/name`")] = None
    webhook: Annotated[str | None, doc("a URL that receives the prediction's events")] = None
    webhook_events_filter: Annotated[
        list[Literal["start", "output", "logs", "completed"]] | None,
        doc("the events to send; `output` and `completed` by default"),
    ] = None
    webhook_completed: Annotated[str | None, doc("older name: a URL for the end only")] = None
    stream: Annotated[bool | None, doc("ignored: every prediction can be streamed")] = None


_replace = msgspec.structs.replace

#: Clients give up after 60.5 s, and the answer needs time.
_LONGEST_WAIT_S: Final = 59.0

#: `15s`, `2m`, `1h30m45s`, or a bare number of seconds.
_DURATION: Final = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?|(\d{1,8})", re.ASCII)

#: Events of a task by the names that clients filter with.
_EVENTS: Final[Mapping[str, Sequence[HookEvent]]] = {
    "start": ("started",),
    "output": ("artifact",),
    "logs": ("progress",),
    "completed": ("succeeded", "failed", "canceled", "expired"),
}

_DEFAULT_EVENTS: Final = ("output", "completed")

#: The shortest and the longest `Cancel-After`, in seconds.
_LEAST_S, _MOST_S = 5, 24 * 3600

_PREFER: Final = Header(
    "Prefer",
    "`wait`, or `wait=N`: hold the request until the prediction ends, for at most N seconds (N < "
    "60)",
    {"type": "string", "maxLength": 100},
    "wait=30",
)
_CANCEL_AFTER: Final = Header(
    "Cancel-After",
    "deadline of the prediction, `5s` to `24h`; refused if it cannot be met",
    {"type": "string", "maxLength": 40},
    "1m30s",
)
_CREATES: Final[dict[str, Any]] = {
    "responses": {
        201: Response("The ended prediction", ReplicatePrediction),
        202: Response("The prediction, `starting`", ReplicatePrediction),
    },
    "errors": (*TASK_ERRORS, InvalidInput, UnsupportedType, WouldExpire),
    "headers": (_PREFER, _CANCEL_AFTER, IDEMPOTENCY_KEY),
}
_INPUT: Final = {"input": {"text": "hello"}}
_BODY: Final = Body(ReplicatePredictionRequest, example=_INPUT)
_VERSION_BODY: Final = Body(ReplicatePredictionRequest, example={"version": "demo/upper", **_INPUT})


@replicate("POST /predictions", body=_VERSION_BODY, **_CREATES)
async def create(service: Service, call: Call) -> Reply:
    """Create a prediction with a version."""
    return await _create(service, call)


@replicate("POST /models/{owner}/{name}/predictions", body=_BODY, **_CREATES)
async def create_of_model(service: Service, call: Call) -> Reply:
    """Create a prediction with a model."""
    return await _create(service, call, full_name(call))


@replicate("POST /deployments/{owner}/{name}/predictions", body=_BODY, **_CREATES)
async def create_of_deployment(service: Service, call: Call) -> Reply:
    """Create a prediction with a deployment."""
    return await _create(service, call, deployment=full_name(call))


@replicate("GET /predictions", ReplicatePage[ReplicatePrediction], query=ReplicateQuery)
async def list_predictions(service: Service, call: Call) -> Reply:
    """A page of predictions, newest first."""
    query = read_query(call, ReplicateQuery)
    where = TaskFilter(key_id=only_own(call))
    page = await service.store.page(where, limit=query.limit, cursor=query.cursor)
    results = [await view(service, call, task, is_listed=True) for task in page.tasks]
    links = page_links(service, call, "/predictions", query, page.cursor)
    return Reply(200, encode(ReplicatePage(results=results, **links)))


@replicate("GET /predictions/{id}", ReplicatePrediction, (NotFound,))
async def get(service: Service, call: Call) -> Reply:
    """The prediction."""
    return Reply(200, encode(await view(service, call, await find_task(service, call))))


@replicate("POST /predictions/{id}/cancel", ReplicatePrediction, (NotFound,), audit="tasks.cancel")
async def cancel(service: Service, call: Call) -> Reply:
    """Cancel a prediction."""
    task = await cancel_task(service, await find_task(service, call))
    return Reply(200, encode(await view(service, call, task)))


async def view(
    service: Service, call: Call, task: Task, *, is_listed: bool = False
) -> ReplicatePrediction:
    """Return a task as a prediction; in a list without its progress, and with files as URLs."""
    version = task.model_version or await current_version(service, task.model)
    urls = service.urls(call)
    if is_listed:
        return replicate_views.prediction(task, urls, version=version)
    if early := early_artifacts(service.bus, task):
        task = _replace(task, artifacts=tuple(early))
    progress = service.polled.progress(task)
    files = await file_links(service, call, task.artifacts)
    return replicate_views.prediction(task, urls, version=version, progress=progress, files=files)


def cancel_after_s(header: bytes) -> float:
    """Return the seconds of a `Cancel-After` header.

    Raises:
        InvalidRequest: It is no duration from 5 seconds to 24 hours.

    Source:
        https://replicate.com/docs/topics/predictions/lifecycle, "Deadlines".
    """
    text = header.strip().decode("latin-1")
    found = _DURATION.fullmatch(text)
    if found is not None:
        hours, minutes, seconds, bare = (int(part or 0) for part in found.groups())
        total_s = 3600 * hours + 60 * minutes + seconds + bare
        if _LEAST_S <= total_s <= _MOST_S:
            return float(total_s)
    raise InvalidRequest(f"Cancel-After is {text[:40]!r}: give 5s to 24h, such as 90s or 1h30m")


async def _create(
    service: Service, call: Call, model: str | None = None, deployment: str | None = None
) -> Reply:
    """Create the prediction that a body asks for; without a model, with the version it names."""
    request = await read_body(service, call, ReplicatePredictionRequest)
    if deployment is not None:
        model = (await find_deployment(service, deployment)).ref
    repeat = await repeat_of(service, call, encode(request))
    target = await service.cards.target(model or await _model_of(service, request.version))
    task_request = await _task_request(service, call, request, target)
    if (cancel_after := call.headers.get(b"cancel-after")) is not None:
        task_request = _replace(task_request, finish_by_s=cancel_after_s(cancel_after))
    if deployment is not None:
        metadata = msgspec.Raw(encode({"replicate_deployment": deployment}))
        task_request = _replace(task_request, metadata=metadata)
    if url := request.webhook or request.webhook_completed:
        names = request.webhook_events_filter if request.webhook else ["completed"]
        task_request = _replace(task_request, webhook=_webhook(url, names))
    new = await check(service, call, task_request, repeat)
    longest_s = min(service.settings.server.max_wait_s, _LONGEST_WAIT_S)
    wait_s = prefer_wait_s(call.headers.get(b"prefer") or b"", longest_s)
    task = await follow(service, call, await accept_once(service, call, new), wait_s)
    made = await view(service, call, task)
    if made.status == "processing":
        # Clients that have waited take any other status for the end, and return its output.
        made = _replace(made, status="starting", output=None)
    headers = [(b"location", made.urls.get.encode())]
    if wait_s > 0:
        headers.append((b"preference-applied", b"wait=%d" % wait_s))
    return Reply(201 if task.state.is_terminal else 202, encode(made), headers=headers)


def _webhook(url: str, names: Sequence[str] | None) -> WebhookRequest:
    """Return the webhook of a prediction, for the events of these names or the default ones."""
    events = dict.fromkeys(event for name in names or _DEFAULT_EVENTS for event in _EVENTS[name])
    return WebhookRequest(url=url, events=list(events), format=replicate_views.FORMAT)


async def _task_request(
    service: Service, call: Call, request: ReplicatePredictionRequest, target: Target
) -> TaskRequest:
    """Return the task that a request asks for; `seed` and `num_outputs` belong to the task."""
    value: Any = request_inputs.decode_json(request.input, "the value at /input")
    if not isinstance(value, dict):
        detail = 'an input is an object of the model\'s fields, such as {"prompt"…}'
        raise field_error("/input", detail, "type")
    known = target.card.input_schema.get("properties", {})
    seed = request_inputs.take_seed(value, known, "/input/")
    count = request_inputs.take_count(value, known, "num_outputs", "/input/")
    value = await request_inputs.with_uploads(service, call, value)
    value = await with_file_urls(service, call, value)
    return TaskRequest(model=target.queue, input=msgspec.Raw(encode(value)), count=count, seed=seed)


async def _model_of(service: Service, version: str | None) -> str:
    """Return `owner/name:version` of a version.

    Raises:
        InvalidInput: None is named, or several models have one of this name.
        NotFound: No model has it.
    """
    if not version:
        detail = "'version' is required: a version's id, owner/name:version, or owner/name"
        raise field_error("/version", detail, "required")
    if "/" in version:
        return version
    # Another backend may have registered it a moment ago.
    await service.cards.refresh()
    found = sorted({card.name for card in service.cards.all() if card.version == version})
    if not found:
        raise NotFound(f"no model here has the version {version[:80]!r}: see GET {HOME}/models")
    if len(found) > 1:
        models = ", ".join(found[:5])
        detail = f"{models} all have a version {version[:80]!r}: write owner/name:version"
        raise field_error("/version", detail, "type")
    return f"{found[0]}:{version}"
