"""Generations and edits: create a task, wait for its end, and answer or stream its pictures."""

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from swell.api.admission import check
from swell.api.call import Call, Reply
from swell.api.facades.errors import TASK_ERRORS, field_error
from swell.api.facades.following import next_picture, progress_of, sse, stream_events, wait_for_end
from swell.api.facades.model_names import resolve
from swell.api.facades.openai.api import error_member, failure, openai
from swell.api.facades.openai.requests import (
    EditRequest,
    ImageJob,
    ImageRequest,
    read_edit,
    read_generation,
    task_request,
)
from swell.api.facades.result_files import file_url, picture_bytes, pictures_of
from swell.api.facades.retry_detection import accept_once
from swell.api.problems import family_of
from swell.api.route import IDEMPOTENCY_KEY, Body, Response
from swell.api.service import Service
from swell.api.submit import repeat_of
from swell.api.views import encode
from swell.errors import InvalidRequest, SwellError, UnsupportedType
from swell.events import Event, EventKind
from swell.registry import ModelCard
from swell.store import Accepted
from swell.task import Artifact, Task, TaskState


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


@openai.route(
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


@openai.route(
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
    return not card.output_schema or _has_picture(card.output_schema)


def _has_picture(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("x-file") == "image" or any(map(_has_picture, schema.values()))
    return isinstance(schema, list) and any(map(_has_picture, schema))


async def _answer(service: Service, call: Call, job: ImageJob, task: Task) -> ImagesView:
    pictures = pictures_of(task)
    if not pictures:
        raise InvalidRequest(f"{task.model} has drawn no picture: name a model that draws some")
    kind = pictures[0].content_type.removeprefix("image/")
    data = []
    for each in pictures:
        if job.request.response_format == "url":
            url = file_url(service.urls(call), each.key, each.bytes)
            data.append(ImageDatum(url=url))
        else:
            text, kind = await _base64(service, job, each)
            data.append(ImageDatum(b64_json=text))
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
    quality = job.request.output_compression
    kind: str | None = job.request.output_format
    if kind is None and quality is not None:
        kind = picture.content_type.removeprefix("image/")
    data, kind = await picture_bytes(service, picture, kind, quality)
    return base64.b64encode(data).decode(), kind


def _look(job: ImageJob) -> dict[str, str]:
    is_transparent = job.request.background == "transparent"
    return {
        "background": "transparent" if is_transparent else "opaque",
        "quality": job.request.quality or "auto",
    }


def _size(picture: Artifact) -> str:
    return f"{picture.width}x{picture.height}" if picture.width and picture.height else "auto"


def _swell_part(task: Task) -> SwellPart:
    timings = task.timings
    return SwellPart(
        task=task.id,
        model=task.model,
        version=task.version,
        seed=task.seed,
        cost_micros=None if timings is None else timings.cost_micros,
        queue_s=0.0 if timings is None else timings.queue_s,
        run_s=0.0 if timings is None else timings.run_s,
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
            error = error_member(caught.detail, family_of(caught.status), caught.code)
    elif task.state.is_terminal:
        error = failure(task)[1]
    else:
        detail = "this backend ends: send the request again"
        error = error_member(detail, "server_error", "unavailable")
    return sse({"error": error}, "error")


def _partial_event(job: ImageJob, event: Event, index: int, task: Task) -> bytes:
    """Return a preview as an event, in its own format."""
    head, _, body = str(event.data.get("image", "")).partition(";base64,")
    return _event(
        job,
        task,
        "partial_image",
        b64_json=body,
        output_format=head.removeprefix("data:image/"),
        size=job.request.size or "auto",
        partial_image_index=index,
    )


async def _completed_event(service: Service, job: ImageJob, task: Task, picture: Artifact) -> bytes:
    text, kind = await _base64(service, job, picture)
    return _event(
        job,
        task,
        "completed",
        b64_json=text,
        output_format=kind,
        size=_size(picture),
        usage=Usage(),
        swell=_swell_part(task),
    )


def _event(job: ImageJob, task: Task, name: str, **members: Any) -> bytes:
    kind = f"{job.kind}.{name}"
    created_at = int(task.created_at.timestamp())
    return sse({"type": kind, "created_at": created_at, **_look(job), **members}, kind)
