"""Predictions: make one, get one, list, cancel."""

import re
from typing import Any, Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.drafts import repeat_of
from swell.api.early import early_artifacts
from swell.api.facades.inputs import replaced_strings, with_uploads
from swell.api.facades.links import file_links, page_url
from swell.api.facades.repeats import earlier, is_retry
from swell.api.facades.replicate.deployments import find_deployment
from swell.api.facades.replicate.files import file_urls
from swell.api.facades.replicate.messages import (
    HOME,
    ReplicatePrediction,
    ReplicatePredictionList,
    ReplicatePredictionRequest,
    ReplicateQuery,
)
from swell.api.facades.replicate.views import HIDDEN_VERSION, logs_of, prediction
from swell.api.facades.replicate.webhooks import webhook_of
from swell.api.messages import TaskRequest
from swell.api.reading import Reader, check_json, read_query
from swell.api.service import Service
from swell.api.submit import accept, check, follow, prefer_wait_s
from swell.api.tasks import cancel_task, find_task, only_own
from swell.api.views import encode
from swell.errors import FieldError, InvalidInput, InvalidRequest, NotFound, SwellError
from swell.registry import ModelCard
from swell.store import TaskFilter
from swell.task import Task

_request = Reader(ReplicatePredictionRequest)
_decode = msgspec.json.Decoder().decode

#: Clients give up after 60.5 s, and the answer needs its time.
_LONGEST_WAIT_S: Final = 59.0

#: `15s`, `2m`, `1h30m45s`, or a bare number of seconds.
_DURATION: Final = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?|(\d{1,8})", re.ASCII)

#: The longest `Cancel-After`, and the shortest, in seconds.
_DURATIONS_S: Final = (5, 24 * 3600)

#: How many samples a task may have.
_MOST_OUTPUTS: Final = 100

#: The largest seed of a task; larger ones are taken modulo the next.
_MOST_SEED: Final = 2**53 - 1


async def create(service: Service, call: Call) -> Reply:
    """`POST /predictions`."""
    asked, body = await _read(service, call)
    return await _create(service, call, asked, body, await _model_of(service, asked.version))


async def create_of_model(service: Service, call: Call) -> Reply:
    """`POST /models/{owner}/{name}/predictions`."""
    asked, body = await _read(service, call)
    return await _create(
        service, call, asked, body, f"{call.params['owner']}/{call.params['name']}"
    )


async def create_of_deployment(service: Service, call: Call) -> Reply:
    """`POST /deployments/{owner}/{name}/predictions`."""
    asked, body = await _read(service, call)
    name = f"{call.params['owner']}/{call.params['name']}"
    deployment = await find_deployment(service, name)
    return await _create(service, call, asked, body, deployment.ref, name)


async def get(service: Service, call: Call) -> Reply:
    """`GET /predictions/{id}`."""
    return Reply(200, encode(await view(service, call, await find_task(service, call))))


async def list_predictions(service: Service, call: Call) -> Reply:
    """`GET /predictions`: absolute URLs lead to the next page, and back to the first."""
    query = read_query(call, ReplicateQuery)
    where = TaskFilter(key_id=only_own(call))
    page = await service.store.page(where, limit=query.limit, cursor=query.cursor)
    home = f"{HOME}/predictions"
    limit = str(query.limit)
    here = ReplicatePredictionList(
        previous=None if query.cursor is None else page_url(service, call, home, limit=limit),
        next=(
            None
            if page.cursor is None
            else page_url(service, call, home, cursor=page.cursor, limit=limit)
        ),
        results=[await view(service, call, task, is_listed=True) for task in page.tasks],
    )
    return Reply(200, encode(here))


async def cancel(service: Service, call: Call) -> Reply:
    """`POST /predictions/{id}/cancel`."""
    task = await cancel_task(service, await find_task(service, call))
    return Reply(200, encode(await view(service, call, task)))


async def view(
    service: Service, call: Call, task: Task, *, is_listed: bool = False
) -> ReplicatePrediction:
    """Return a task as its caller sees it; in a list without its progress, and files as URLs."""
    heard = [] if is_listed else service.polled.progress(task)
    version = task.model_version or await current_version(service, task.model)
    early = [] if is_listed else early_artifacts(service.bus, task)
    if early:
        task = msgspec.structs.replace(task, artifacts=tuple(early))
    return prediction(
        task,
        service.urls(call),
        version=version,
        logs=logs_of(task, heard),
        files=None if is_listed else await file_links(service, call, task),
    )


async def current_version(service: Service, model: str) -> str:
    """Return which version of a model a task gets that insists on none."""
    try:
        return (await service.cards.target(model)).card.version
    except NotFound:
        return HIDDEN_VERSION


def cancel_after_s(header: bytes) -> float:
    """Return after how many seconds a `Cancel-After` header wants a prediction to end.

    Raises:
        InvalidRequest: It cannot be read, or lies outside 5 seconds to 24 hours.

    Source:
        https://replicate.com/docs/topics/predictions/lifecycle, "Deadlines".
    """
    text = header.strip().decode("latin-1")
    found = _DURATION.fullmatch(text)
    if found is not None and text:
        hours, minutes, seconds, bare = (int(part or 0) for part in found.groups())
        total_s = 3600 * hours + 60 * minutes + seconds + bare
        least_s, most_s = _DURATIONS_S
        if least_s <= total_s <= most_s:
            return float(total_s)
    raise InvalidRequest(
        f"Cancel-After cannot be {text[:40]!r}: write a duration of 5s to 24h, such as 90s or 1h30m"
    )


async def _read(service: Service, call: Call) -> tuple[ReplicatePredictionRequest, bytes]:
    service.traces.begin(call)
    check_json(call)
    body = await call.body(service.settings.server.max_body_bytes)
    asked: ReplicatePredictionRequest = _request.read(body)
    return asked, body


async def _create(
    service: Service,
    call: Call,
    asked: ReplicatePredictionRequest,
    body: bytes,
    model: str,
    deployment: str | None = None,
) -> Reply:
    target = await service.cards.target(model)
    cancel_after = call.header(b"cancel-after")
    request = await _task_request(service, call, asked, target.card, target.queue)
    noted = {} if deployment is None else {"replicate_deployment": deployment}
    request = msgspec.structs.replace(
        request,
        finish_by_s=None if cancel_after is None else cancel_after_s(cancel_after),
        metadata=msgspec.Raw(encode(noted) if noted else b"null"),
    )
    new = await check(service, call, request, await repeat_of(service, call, body))
    webhook = webhook_of(service, call, asked)
    if webhook is not None:
        new = msgspec.structs.replace(new, webhook=webhook)
    prefer = call.header(b"prefer")
    longest_s = min(service.settings.server.max_wait_s, _LONGEST_WAIT_S)
    wait_s = 0.0 if prefer is None else prefer_wait_s(prefer, longest_s)
    task = await earlier(service, call, new) if is_retry(call) else None
    if task is None:
        task = await follow(service, call, await accept(service, call, new), wait_s)
    return await _created(service, call, task, wait_s)


async def _created(service: Service, call: Call, task: Task, wait_s: float) -> Reply:
    made = await view(service, call, task)
    if made.status == "processing":
        # Clients that waited take any other word for the end, and return an output of null, or
        # the part of it that is there.
        made = msgspec.structs.replace(made, status="starting", output=None)
    headers = [(b"location", made.urls.get.encode())]
    if wait_s > 0:
        headers.append((b"preference-applied", b"wait=%d" % wait_s))
    return Reply(201 if task.state.is_terminal else 202, encode(made), headers=headers)


async def _task_request(
    service: Service,
    call: Call,
    asked: ReplicatePredictionRequest,
    card: ModelCard,
    queue: str,
) -> TaskRequest:
    """Return what is asked, with what only Swell knows apart taken out of the input.

    `seed` and `num_outputs` belong to a task; a model that has fields of these names keeps them.
    """
    value = _input(asked.input)
    known = card.input_schema.get("properties", {})
    seed = None if "seed" in known else _seed(value.pop("seed", None))
    count = 1 if "num_outputs" in known else _count(value.pop("num_outputs", None))
    value = await with_uploads(service, call, value)
    home, signed = file_urls(service, call)
    value = await replaced_strings(value, lambda text: text.startswith(home), signed, "/input")
    return TaskRequest(model=queue, input=msgspec.Raw(encode(value)), count=count, seed=seed)


def _input(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the value at /input is not JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise _wrong("/input", 'an input is an object of the model\'s fields, such as {"prompt"…}')
    return value


def _seed(value: Any) -> int | None:
    if value is None or value == "" or (type(value) is int and value < 0):
        # Less than nothing asks for any seed at many models.
        return None
    if type(value) is not int:
        raise _wrong("/input/seed", "a seed is a whole number, 0 or more")
    return value % (_MOST_SEED + 1)


def _count(value: Any) -> int:
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= _MOST_OUTPUTS:
        raise _wrong("/input/num_outputs", f"it is a whole number from 1 to {_MOST_OUTPUTS}")
    return value


def _wrong(pointer: str, detail: str) -> SwellError:
    where = FieldError(pointer=pointer, detail=detail, code="type")
    return InvalidInput(f"{pointer}: {detail}", errors=[where])


async def _model_of(service: Service, version: str | None) -> str:
    """Return which model a version is of, as `owner/name:version`.

    Raises:
        InvalidInput: None is named, or several models have one of this name.
        NotFound: No model has it.
    """
    if not version:
        detail = "'version' is required: a version's id, owner/name:version, or owner/name"
        where = FieldError(pointer="/version", detail=detail, code="required")
        raise InvalidInput(detail, errors=[where])
    if "/" in version:
        return version
    for is_last in (False, True):
        found = sorted({card.name for card in service.cards.all() if card.version == version})
        if found or is_last:
            break
        # It may have been registered through another backend a moment ago.
        await service.cards.refresh()
    if not found:
        raise NotFound(
            f"no model here has the version {version[:80]!r}: GET {HOME}/models lists those there "
            "are, each with its latest version"
        )
    if len(found) > 1:
        raise _wrong(
            "/version",
            f"{', '.join(found[:5])} all have a version {version[:80]!r}: write owner/name:version",
        )
    return f"{found[0]}:{version}"
