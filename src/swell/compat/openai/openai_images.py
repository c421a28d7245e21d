"""Generations and edits: create a task, wait for its end, and answer or stream its pictures."""

import base64
from typing import Any, Final

import msgspec

from swell.compat.error_formats import TASK_ERRORS
from swell.compat.follow_task import next_picture, progress_of, sse, stream_events, wait_for_end
from swell.compat.model_names import available, resolve
from swell.compat.openai.openai_facade import error_member, failure, openai
from swell.compat.openai.openai_requests import (
    EditRequest,
    ImageJob,
    ImageRequest,
    read_edit,
    read_generation,
    task_request,
)
from swell.compat.result_files import file_url, picture_bytes, pictures_of
from swell.compat.retry_detection import accept_once
from swell.core.errors import InvalidRequest, NotFound, SwellError, UnsupportedType
from swell.core.events import Event, EventKind
from swell.core.records import ModelCard
from swell.core.store_types import Accepted
from swell.core.task import Artifact, Task, TaskState, Timings
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import IDEMPOTENCY_KEY, Body, Response
from swell.server.serializers import encode, project
from swell.server.service import Service
from swell.server.tasks.admission import check
from swell.server.tasks.submit import repeat_of


class TokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Always zero."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Always zero: `swell` has times and cost."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class SwellPart(msgspec.Struct, frozen=True, kw_only=True):
    """Task, times and cost, in addition to OpenAI's fields."""

    task: str
    model: str
    version: str
    seed: int | None
    cost_micros: int | None
    queue_s: float
    run_s: float


class ImageDatum(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImagesView(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures."""

    created: int
    data: list[ImageDatum]
    background: str
    output_format: str
    quality: str
    size: str
    usage: Usage
    swell: SwellPart


_PICTURES: Final = {200: Response("The pictures", ImagesView)}


@openai(
    "POST /images/generations",
    _PICTURES,
    TASK_ERRORS,
    body=Body(ImageRequest, example={"model": "swell/icons", "prompt": "a red fox"}),
    headers=(IDEMPOTENCY_KEY,),
)
async def generate(service: Service, call: Call) -> Reply | None:
    """Generate pictures.

    Other fields go to the model under their own names. With `stream` the answer is server-sent
    events: up to `partial_images` of `image_generation.partial_image`, none if the model makes no
    previews, then `image_generation.completed` for each picture.
    """
    return await _draw(service, call, await read_generation(service, call))


@openai(
    "POST /images/edits",
    _PICTURES,
    (*TASK_ERRORS, UnsupportedType),
    body=Body(EditRequest, media_types=("multipart/form-data", "application/json")),
    headers=(IDEMPOTENCY_KEY,),
)
async def edit(service: Service, call: Call) -> Reply | None:
    """Edit pictures.

    A form with files as `image` or `image[]` and `mask`, or JSON with `images[].image_url`. The
    worker fetches URLs, but not from private networks.
    """
    return await _draw(service, call, await read_edit(service, call))


async def _draw(service: Service, call: Call, job: ImageJob) -> Reply | None:
    names = () if job.request.model is None else (job.request.model,)
    target = await resolve(service, *names)
    if not makes_pictures(target.card):
        raise field_error("model", f"{target.model} draws no pictures: name one that does")
    repeat = await repeat_of(service, call, job.fingerprint)
    new = await check(service, call, task_request(job, target), repeat)
    is_edit = job.kind == "image_edit"
    accepted = await accept_once(service, call, new, by_metadata=is_edit)
    call.task_id = accepted.task.id
    if job.request.stream:
        await _stream(service, call, job, accepted)
        return None
    task = await wait_for_end(service, call, accepted)
    headers = [(b"swell-task", task.id.encode())]
    if task.state is not TaskState.SUCCEEDED:
        status, error = failure(task)
        headers.append((b"x-should-retry", b"false"))
        return Reply(status, encode({"error": error}), headers=headers)
    return Reply(200, encode(await _answer(service, call, job, task)), headers=headers)


def makes_pictures(card: ModelCard) -> bool:
    """Whether a model's results hold pictures, as far as its schema says."""
    return not card.output_schema or b'"x-file":"image"' in encode(card.output_schema)


async def _answer(service: Service, call: Call, job: ImageJob, task: Task) -> ImagesView:
    pictures = pictures_of(task)
    if not pictures:
        raise InvalidRequest(f"{task.model} has drawn no picture: name a model that draws some")
    kind = pictures[0].content_type.removeprefix("image/")
    if job.request.response_format == "url":
        urls = service.urls(call)
        data = [ImageDatum(url=file_url(urls, each.key, each.bytes)) for each in pictures]
    else:
        encoded = [await _base64(service, job, each) for each in pictures]
        data = [ImageDatum(b64_json=text) for text, _ in encoded]
        kind = encoded[-1][1]
    return ImagesView(
        created=int(task.created_at.timestamp()),
        data=data,
        output_format=kind,
        size=_size(pictures[0]),
        usage=Usage(),
        swell=_swell_part(task),
        **_look(job),
    )


async def _base64(service: Service, job: ImageJob, picture: Artifact) -> tuple[str, str]:
    """Return a picture as base64, and its format."""
    asked = job.request
    data, kind = await picture_bytes(
        service, picture, asked.output_format, asked.output_compression
    )
    return base64.b64encode(data).decode(), kind


def _look(job: ImageJob) -> dict[str, str]:
    background = "transparent" if job.request.background == "transparent" else "opaque"
    return {"background": background, "quality": job.request.quality or "auto"}


def _size(picture: Artifact) -> str:
    return f"{picture.width}x{picture.height}" if picture.width and picture.height else "auto"


def _swell_part(task: Task) -> SwellPart:
    timings = task.timings or Timings()
    return project(
        SwellPart, timings, task=task.id, model=task.model, version=task.version, seed=task.seed
    )


# --- streams


def is_preview_due(sent: int, most: int, fraction: float) -> bool:
    """Whether to send another preview, so that few of them show all of the progress. Pure.

    The first is sent at once.

    Args:
        sent: Previews sent so far.
        most: Previews that the client wants.
        fraction: Progress of the task.
    """
    return sent < most and (sent == 0 or fraction >= sent / most)


async def _stream(service: Service, call: Call, job: ImageJob, accepted: Accepted) -> None:
    most = job.request.partial_images or 0
    previews = pictures = 0
    fraction = 0.0

    async def tell(task: Task, event: Event) -> bytes:
        nonlocal previews, pictures, fraction
        fraction = progress_of(event, fraction)
        if event.kind is EventKind.PREVIEW and is_preview_due(previews, most, fraction):
            previews += 1
            return _partial_event(job, event, previews - 1, task)
        picture = next_picture(event, pictures)
        if picture is None:
            return b""
        try:
            body = await _completed_event(service, job, task, picture)
        except SwellError:
            return b""  # The picture is sent at the end, or the error is.
        pictures += 1
        return body

    async def end(task: Task) -> bytes:
        return await _last_events(service, job, task, pictures)

    # Of a single picture without previews only the end is sent.
    has_progress = most > 0 or (job.request.n or 1) > 1
    await stream_events(service, call, accepted, tell, end, has_progress=has_progress)


async def _last_events(service: Service, job: ImageJob, task: Task, sent: int) -> bytes:
    if task.state is TaskState.SUCCEEDED:
        try:
            left = pictures_of(task)[sent:]
            return b"".join([await _completed_event(service, job, task, each) for each in left])
        except SwellError as caught:
            error = error_member(caught.detail, caught.status, caught.code)
    elif task.state.is_terminal:
        error = failure(task)[1]
    else:
        error = error_member("this backend ends: send the request again", 503, "unavailable")
    return sse({"error": error}, "error")


def _partial_event(job: ImageJob, event: Event, index: int, task: Task) -> bytes:
    """Return a preview as an event, in its own format."""
    head, _, body = str(event.data.get("image", "")).partition(";base64,")
    kind, size = head.removeprefix("data:image/"), job.request.size or "auto"
    members = {"b64_json": body, "output_format": kind, "size": size, "partial_image_index": index}
    return _event(job, task, "partial_image", **members)


async def _completed_event(service: Service, job: ImageJob, task: Task, picture: Artifact) -> bytes:
    text, kind = await _base64(service, job, picture)
    members = {"b64_json": text, "output_format": kind, "size": _size(picture), "usage": Usage()}
    return _event(job, task, "completed", **members, swell=_swell_part(task))


def _event(job: ImageJob, task: Task, name: str, **members: Any) -> bytes:
    kind = f"{job.kind}.{name}"
    created_at = int(task.created_at.timestamp())
    return sse({"type": kind, "created_at": created_at, **_look(job), **members}, kind)


# --- models


class OpenAiModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model, or an alias."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class OpenAiModels(msgspec.Struct, frozen=True, kw_only=True):
    """All values that `model` may have."""

    data: list[OpenAiModel]
    object: str = "list"


@openai("GET /models", {200: Response("Models and aliases", OpenAiModels)})
async def models(service: Service, call: Call) -> Reply:
    """List models."""
    found = await available(service)
    data = [_view(name, card) for name, card in found.items()]
    return Reply(200, encode(OpenAiModels(data=data)))


@openai("GET /models/{model:path}", {200: Response("The model", OpenAiModel)}, (NotFound,))
async def model(service: Service, call: Call) -> Reply:
    """Get a model."""
    name = call.params["model"]
    return Reply(200, encode(_view(name, (await resolve(service, name)).card)))


def _view(name: str, card: ModelCard) -> OpenAiModel:
    at = card.registered_at
    return OpenAiModel(
        id=name,
        created=0 if at is None else int(at.timestamp()),
        owned_by=card.name.partition("/")[0],
    )
