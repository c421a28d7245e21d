"""OpenAI's Images API: pictures from words, pictures from pictures, and previews on the way.

What its clients call by one of OpenAI's names (`gpt-image-1`, `dall-e-3`) goes to the model that
`facades.models` says. What they send beside OpenAI's own fields (`extra_body`) is the model's own
input. A request that comes again, because its client had lost patience, gets the pictures that are
being drawn for it already.

Source:
    The OpenAPI description of OpenAI's API and openai-python 3.57.0, November 2026.
"""

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from swell.api.call import Call, Reply, too_large
from swell.api.cards import Target
from swell.api.drafts import repeat_of
from swell.api.early import is_next, read_artifact
from swell.api.facades.aliases import available, resolve
from swell.api.facades.endings import is_users_fault, until_end
from swell.api.facades.files import picture_bytes, pictures_of
from swell.api.facades.inputs import json_object, with_uploads
from swell.api.facades.links import file_url
from swell.api.facades.pictures import (
    choices_of,
    first_of,
    placed_files,
    refused,
    renamed,
    size_of,
    sized,
    stepped,
)
from swell.api.facades.refusals import param_of, refusal
from swell.api.facades.repeats import earlier, is_retry
from swell.api.facades.streaming import Events, sse
from swell.api.files import keep_upload, plain_type
from swell.api.forms import Part, read_parts
from swell.api.json_limits import check_values
from swell.api.messages import PLAIN, TaskRequest
from swell.api.problems import family_of
from swell.api.reading import convert_fields
from swell.api.route import IDEMPOTENCY_KEY, Body, Response, Route
from swell.api.service import Service
from swell.api.submit import accept, check
from swell.api.views import encode
from swell.errors import (
    IdempotencyMismatch,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NoWorker,
    SwellError,
    TooLarge,
    Unavailable,
    UnsupportedType,
)
from swell.events import Event, EventKind
from swell.registry import ModelCard, Scope
from swell.store import Accepted
from swell.task import Artifact, Task, TaskState

GROUPS: Final = {
    "OpenAI": "The API of OpenAI's clients, with `base_url` set to `/openai/v1`; see "
    "docs/clients.md.",
}

#: How many times the usual steps a quality takes; none of the others change anything.
_STEPS: Final = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 3.0}

#: OpenAI's own fields that mean something to OpenAI's own models only.
_THEIRS: Final = (
    *("moderation", "style", "svg", "complexity", "frame_count", "frame_duration_ms", "markup"),
    *("input_fidelity", "moderation_level", "metadata", "store"),
)

#: Whoever is told to come back later than this comes at once (openai-python), so is told not to.
_LONGEST_RETRY_S: Final = 120.0

#: How a task that has ended without pictures is told: status, type, code.
_ENDS: Final = {
    TaskState.CANCELED: (409, "invalid_request_error", "canceled"),
    TaskState.EXPIRED: (504, "server_error", "expired"),
}


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be drawn. Any other field is given to the model under its own name."""

    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]
    model: (
        Annotated[str, Meta(max_length=200, description="a model of this server, or an alias")]
        | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=10, description="number of pictures; 1 by default")] | None = (
        None
    )
    size: (
        Annotated[str, Meta(max_length=40, description="`auto`, or `WIDTHxHEIGHT` in px")] | None
    ) = None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None = (
        None
    )
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    user: Annotated[str, Meta(max_length=200, pattern=PLAIN)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=200, pattern=PLAIN)] | None = None
    seed: Annotated[int, Meta(ge=-1, le=2**53 - 1)] | None = None


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that a JSON body names."""

    image_url: Annotated[str, Meta(min_length=1)] | None = None
    file_id: str | None = None


class EditRequest(ImageRequest, frozen=True, kw_only=True):
    """What is to be made of pictures; as a form, with them as parts `image`, `image[]`, `mask`."""

    images: Annotated[list[ImageSource], Meta(max_length=16)] | None = None
    mask: ImageSource | None = None


class TokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing here is counted in tokens."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing here is counted in tokens: see `swell` for what it took."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class SwellPart(msgspec.Struct, frozen=True, kw_only=True):
    """What we tell beside OpenAI's own fields."""

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


class OpenAiModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model, or a name that means one."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class OpenAiModels(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `model` may name."""

    data: list[OpenAiModel]
    object: str = "list"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was read."""

    request: ImageRequest
    #: Fields that are not OpenAI's.
    own: Mapping[str, Any] = field(default_factory=dict)
    #: URLs or data URIs of pictures, and of where to paint.
    images: Sequence[str] = ()
    mask: str | None = None
    #: Of the files that came in a form, so that the same ones are known again; empty without any.
    digest: bytes = b""
    kind: Literal["image_generation", "image_edit"] = "image_generation"


# --- from OpenAI's words to a task; pure


def read_fields(
    told: Mapping[str, Any], kind: type[ImageRequest], *, is_text: bool = False
) -> tuple[ImageRequest, dict[str, Any]]:
    """Return OpenAI's own fields of a request, and the others.

    Args:
        told: All fields; null means that a field is left out.
        kind: `ImageRequest` or `EditRequest`.
        is_text: Whether all values are texts, as a form has them.

    Raises:
        InvalidInput: A value is not allowed.
    """
    names = kind.__struct_fields__
    given = {name: value for name, value in told.items() if value is not None}
    ours = {name: value for name, value in given.items() if name in names}
    request: ImageRequest = convert_fields(ours, kind, is_text=is_text)
    return request, {name: value for name, value in given.items() if name not in names}


def task_request(asked: Asked, target: Target) -> TaskRequest:
    """Return the task that a request asks for.

    Raises:
        InvalidInput: The model cannot do what is asked.
    """
    request, schema = asked.request, target.card.input_schema
    known = schema.get("properties", {})
    fields: dict[str, Any] = {}
    if first_of(schema, "prompt") or not asked.images:
        fields["prompt"] = request.prompt
    fields |= placed_files(schema, target.model, asked.images, asked.mask)
    size = None if request.size is None else size_of(request.size)
    if size is not None:
        fields |= sized(schema, size)
    seed = None if request.seed == -1 else request.seed
    if seed is not None and "seed" in known:
        fields["seed"] = seed
    fields |= _of_quality(request, schema)
    fields |= _of_background(request, target)
    fields |= _of_format(request, target)
    own = {name: value for name, value in asked.own.items() if name in known or name not in _THEIRS}
    # What is given under the model's own names comes before what OpenAI's mean.
    whole = {**renamed(fields, schema), **renamed(own, schema)}
    _drop_foreign_style(whole, schema)
    return TaskRequest(
        model=target.queue,
        input=msgspec.Raw(encode(whole)),
        count=request.n or 1,
        seed=None if "seed" in known else seed,
        user=request.user or request.safety_identifier,
        metadata=msgspec.Raw(encode({"request": asked.digest.hex()}) if asked.digest else b"null"),
    )


def _of_quality(request: ImageRequest, schema: Mapping[str, Any]) -> dict[str, Any]:
    quality = request.quality
    if quality is None or quality == "auto":
        return {}
    if quality in (choices_of(schema, "quality") or ()):
        return {"quality": quality}
    return stepped(schema, _STEPS.get(quality, 1))


def _of_background(request: ImageRequest, target: Target) -> dict[str, Any]:
    background = request.background
    if background is None or background == "auto":
        return {}
    schema = target.card.input_schema
    if background in (choices_of(schema, "background") or ()):
        return {"background": background}
    transparent = schema.get("properties", {}).get("transparent")
    if isinstance(transparent, Mapping) and transparent.get("type") == "boolean":
        return {"transparent": background == "transparent"}
    if background == "transparent":
        raise refused(
            "background",
            f"{target.model} draws no transparent pictures: leave it out, or say opaque",
        )
    return {}


def _of_format(request: ImageRequest, target: Target) -> dict[str, Any]:
    kind = request.output_format
    if kind in ("gif", "svg"):
        raise refused("output_format", f"no model here draws {kind}: use png, webp or jpeg")
    if kind == "jpeg" and request.background == "transparent":
        raise refused("output_format", "jpeg knows no transparency: use png or webp")
    schema = target.card.input_schema
    known = schema.get("properties", {})
    fields: dict[str, Any] = {}
    if request.output_compression is not None and "output_compression" in known:
        fields["output_compression"] = request.output_compression
    if kind is None:
        return fields
    name = first_of(schema, "output_format")
    choices = None if name is None else choices_of(schema, name)
    if name is not None and (choices is None or kind in choices):
        return {**fields, name: kind}
    if name is None and schema.get("additionalProperties", True) is not False:
        # Workers know the word, whether or not the model does.
        return {**fields, "output_format": kind}
    if request.response_format == "url" and kind != "png":
        raise refused("output_format", f"{target.model} draws png: ask for b64_json, or for png")
    return fields


def _drop_foreign_style(fields: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Drop a style that is one of OpenAI's and none of the model's."""
    if fields.get("style") in ("vivid", "natural"):
        choices = choices_of(schema, "style")
        if choices is not None and fields["style"] not in choices:
            del fields["style"]


def makes_pictures(card: ModelCard) -> bool:
    """Whether a model's results hold pictures, as far as its schema tells."""
    return not card.output_schema or _names_picture(card.output_schema)


def _names_picture(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("x-file") == "image" or any(map(_names_picture, schema.values()))
    return isinstance(schema, list) and any(map(_names_picture, schema))


# --- reading


async def read_generation(service: Service, call: Call) -> Asked:
    """Return what `POST /images/generations` asks.

    Raises:
        InvalidRequest, InvalidInput, TooLarge: It cannot be read.
    """
    request, own = read_fields(await json_object(service, call), ImageRequest)
    return Asked(request, own)


async def read_edit(service: Service, call: Call) -> Asked:
    """Return what `POST /images/edits` asks, whose files have become uploads of ours.

    Raises:
        InvalidRequest, InvalidInput, TooLarge, UnsupportedType: It cannot be read.
    """
    if call.media_type == "multipart/form-data":
        return await _read_form(service, call)
    told = await json_object(service, call)
    request, own = read_fields(told, EditRequest)
    assert isinstance(request, EditRequest), "that is what was asked for"
    images = [_source(each, "images") for each in request.images or ()]
    if not images:
        raise refused("images", "here is no picture: name one as {image_url}", "required")
    mask = None if request.mask is None else _source(request.mask, "mask")
    body = encode([images, mask])
    kept = await with_uploads(service, call, {"images": images, "mask": mask}, "")
    digest = b"" if kept["images"] == images and kept["mask"] == mask else body
    return Asked(
        request,
        own,
        kept["images"],
        kept["mask"],
        _digest(told) if digest else b"",
        kind="image_edit",
    )


async def _read_form(service: Service, call: Call) -> Asked:
    limit = service.settings.server.max_upload_bytes
    header = call.header(b"content-type") or b""
    texts: dict[str, Any] = {}
    images: list[str] = []
    mask: str | None = None
    digest = hashlib.sha256()
    left_chars = service.settings.server.max_body_bytes
    async for part in read_parts(header, call.chunks(limit)):
        name = part.name.removesuffix("[]")
        if name not in ("image", "mask"):
            if part.filename is None:
                texts[part.name] = text = await part.text()
                left_chars -= len(text)
                if left_chars < 0:
                    raise too_large(service.settings.server.max_body_bytes)
            continue
        is_field = part.filename is None and part.media_type == "text/plain"
        keep = _named if is_field else _kept
        url, sha = await keep(service, call, part)
        digest.update(name.encode() + sha)
        if name == "mask":
            mask = url
        else:
            images.append(url)
    request, own = read_fields(texts, ImageRequest, is_text=True)
    if not images:
        raise refused("image", "the form has no part `image` or `image[]` with a file", "required")
    digest.update(encode(sorted(texts.items())))
    check_values(",".join(own.values()).encode())
    numbers = {name: _number(value) for name, value in own.items()}
    return Asked(request, numbers, images, mask, digest.digest(), kind="image_edit")


async def _kept(service: Service, call: Call, part: Part) -> tuple[str, bytes]:
    """Keep a form's file; return its URL and the SHA-256 of its bytes."""
    sha = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for piece in part.data:
            sha.update(piece)
            yield piece

    content_type = plain_type(part.media_type)
    info = await keep_upload(service, call, hashed(), content_type, part.filename or "")
    return file_url(service, call, info.key, info.bytes), sha.digest()


async def _named(service: Service, call: Call, part: Part) -> tuple[str, bytes]:
    """Return the URL that a form's field gives in place of a file, and the SHA-256 of that."""
    param, text = part.name.removesuffix("[]"), await part.text()
    url = _source(ImageSource(image_url=text.strip()), param)
    kept: str = await with_uploads(service, call, url, f"/{param}")
    return kept, hashlib.sha256(text.encode()).digest()


def _source(source: ImageSource, param: str) -> str:
    if source.image_url is None:
        raise refused(param, "files are named by image_url here: a URL, or a data URI")
    if not source.image_url.startswith(("http://", "https://", "data:")):
        raise refused(param, "an image_url is an http or https URL, or a data URI")
    return source.image_url


def _digest(told: Any) -> bytes:
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).digest()


def _number(text: str) -> Any:
    """Return a form's text as the JSON value that it looks like: a number, true, false or JSON."""
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    return text if isinstance(value, str) or value is None else value


# --- operations


async def generate(service: Service, call: Call) -> Reply | None:
    """`POST /openai/v1/images/generations`."""
    service.traces.begin(call)
    return await _draw(service, call, await read_generation(service, call))


async def edit(service: Service, call: Call) -> Reply | None:
    """`POST /openai/v1/images/edits`."""
    service.traces.begin(call)
    return await _draw(service, call, await read_edit(service, call))


async def models(service: Service, call: Call) -> Reply:
    """`GET /openai/v1/models`."""
    found = await available(service)
    data = [_model_view(name, card) for name, card in found.items()]
    return Reply(200, encode(OpenAiModels(data=data)))


async def model(service: Service, call: Call) -> Reply:
    """`GET /openai/v1/models/{model}`."""
    name = call.params["model"]
    target = await resolve(service, name)
    return Reply(200, encode(_model_view(name, target.card)))


def _model_view(name: str, card: ModelCard) -> OpenAiModel:
    at = card.registered_at
    return OpenAiModel(
        id=name, created=0 if at is None else int(at.timestamp()), owned_by=card.name.split("/")[0]
    )


async def _draw(service: Service, call: Call, asked: Asked) -> Reply | None:
    names = () if asked.request.model is None else (asked.request.model,)
    target = await resolve(service, *names)
    if not makes_pictures(target.card):
        raise refused("model", f"{target.model} draws no pictures: name one that does")
    repeat = None
    if call.header(b"idempotency-key") is not None:
        words = [asked.request, asked.own, asked.images, asked.mask]
        repeat = await repeat_of(service, call, asked.digest or encode(words))
    new = await check(service, call, task_request(asked, target), repeat)
    is_again = is_retry(call)
    by_files = bool(asked.digest)
    found = await earlier(service, call, new, by_metadata=by_files) if is_again else None
    accepted = (
        await accept(service, call, new) if found is None else Accepted(task=found, is_new=False)
    )
    call.task_id = accepted.task.id
    if asked.request.stream:
        await _stream(service, call, asked, accepted)
        return None
    task = await until_end(service, call, accepted)
    if task.state is not TaskState.SUCCEEDED:
        return _failure(task)
    return await _answer(service, call, asked, task)


async def _answer(service: Service, call: Call, asked: Asked, task: Task) -> Reply:
    request, pictures = asked.request, pictures_of(task)
    if not pictures:
        raise InvalidRequest(f"{task.model} has drawn no picture: name a model that draws some")
    data: list[ImageDatum] = []
    told = pictures[0].content_type.removeprefix("image/")
    for each in pictures:
        if request.response_format == "url":
            data.append(ImageDatum(url=file_url(service, call, each.key, each.bytes)))
        else:
            text, told = await _b64(service, request, each)
            data.append(ImageDatum(b64_json=text))
    view = ImagesView(
        created=int(task.created_at.timestamp()),
        data=data,
        background=_background(request),
        output_format=told,
        quality=request.quality or "auto",
        size=_size(pictures[0]),
        usage=Usage(),
        swell=_swell_part(task),
    )
    return Reply(200, encode(view), headers=[(b"swell-task", task.id.encode())])


async def _b64(service: Service, request: ImageRequest, picture: Artifact) -> tuple[str, str]:
    """Return a picture as base64, and what format it has."""
    kind: str | None = request.output_format
    if kind is None and request.output_compression is not None:
        kind = picture.content_type.removeprefix("image/")
    data, told = await picture_bytes(service, picture, kind, request.output_compression)
    return base64.b64encode(data).decode(), told


def _background(request: ImageRequest) -> str:
    return "transparent" if request.background == "transparent" else "opaque"


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


class Previews:
    """Which of a task's previews are told, so that few of them show all of the way. Pure.

    Args:
        most: How many are told at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._fraction = 0.0
        self.told = 0

    def wants(self, event: Event) -> bool:
        """Whether a preview is to be told; of progress it takes note of how far it is."""
        if event.kind is EventKind.PROGRESS:
            fraction = event.data.get("fraction")
            self._fraction = float(fraction) if isinstance(fraction, int | float) else 0.0
        if event.kind is not EventKind.PREVIEW or self.told >= self.most:
            return False
        # The first comes as soon as there is one: somebody waits.
        if self.told and self._fraction < self.told / self.most:
            return False
        self.told += 1
        return True


async def _stream(service: Service, call: Call, asked: Asked, accepted: Accepted) -> None:
    previews = Previews(asked.request.partial_images or 0)
    # Of one picture nothing is there before the end.
    is_shown = previews.most > 0 or (asked.request.n or 1) > 1
    events = Events(service, call, accepted, is_shown=is_shown)
    told = 0
    async with contextlib.aclosing(events.each()) as each:
        async for event in each:
            if previews.wants(event):
                await events.send(_partial_event(asked, event, previews.told - 1, accepted.task))
            early = _early_picture(event, told)
            if early is not None:
                try:
                    body = await _completed_event(service, asked, events.task, early)
                except SwellError:
                    # It is told at the end, or why it cannot be.
                    continue
                await events.send(body)
                told += 1
    for body in await _last_events(service, asked, events.task, told):
        await events.send(body)
    await events.close()


def _early_picture(event: Event, told: int) -> Artifact | None:
    """Return the picture that an event tells of, if it is the next of those that were told."""
    if event.kind is not EventKind.ARTIFACT or not is_next(event.data, told):
        return None
    artifact = read_artifact(event.data)
    is_picture = artifact is not None and artifact.content_type.startswith("image/")
    return artifact if is_picture else None


async def _last_events(service: Service, asked: Asked, task: Task, told: int) -> list[bytes]:
    if task.state is TaskState.SUCCEEDED:
        try:
            return [
                await _completed_event(service, asked, task, each)
                for each in pictures_of(task)[told:]
            ]
        except SwellError as error:
            why = _error(error.detail, family_of(error.status), error.code, None)
    elif task.state.is_terminal:
        why = _failure_error(task)[1]
    else:
        detail = "this backend ends: send the request again"
        why = _error(detail, "server_error", "unavailable", None)
    return [sse({"error": why}, "error")]


def _partial_event(asked: Asked, event: Event, index: int, task: Task) -> bytes:
    """Return a preview as an event, in the format that it has."""
    head, _, body = str(event.data.get("image", "")).partition(";base64,")
    kind = head.removeprefix("data:image/")
    name = f"{asked.kind}.partial_image"
    return sse(
        {
            "type": name,
            "b64_json": body,
            "partial_image_index": index,
            "created_at": int(task.created_at.timestamp()),
            "size": asked.request.size or "auto",
            "quality": asked.request.quality or "auto",
            "background": _background(asked.request),
            "output_format": kind,
        },
        name,
    )


async def _completed_event(service: Service, asked: Asked, task: Task, picture: Artifact) -> bytes:
    text, told = await _b64(service, asked.request, picture)
    name = f"{asked.kind}.completed"
    return sse(
        {
            "type": name,
            "b64_json": text,
            "created_at": int(task.created_at.timestamp()),
            "size": _size(picture),
            "quality": asked.request.quality or "auto",
            "background": _background(asked.request),
            "output_format": told,
            "usage": Usage(),
            "swell": _swell_part(task),
        },
        name,
    )


# --- errors


def refuse(call: Call, error: SwellError) -> Reply:
    """Return the answer that tells an error in OpenAI's words."""
    status = 400 if isinstance(error, InvalidInput) and error.status == 422 else error.status
    told = {"type": family_of(status), "param": param_of(error)}
    if error.errors:
        told["code"] = error.errors[0]["code"]
    final = [] if _may_retry(error) else [(b"x-should-retry", b"false")]
    return refusal(call, error, {"error": told}, status=status, headers=final)


def _may_retry(error: SwellError) -> bool:
    """Whether the same request may succeed soon, or its status says already that it will not."""
    if error.retryable:
        after = error.headers.get("Retry-After", "5")
        return not after.isdigit() or int(after) <= _LONGEST_RETRY_S
    return error.status < 500 and error.status not in (408, 409, 429)


def _failure(task: Task) -> Reply:
    status, told = _failure_error(task)
    headers = [(b"swell-task", task.id.encode()), (b"x-should-retry", b"false")]
    return Reply(status, encode({"error": told}), headers=headers)


def _failure_error(task: Task) -> tuple[int, dict[str, Any]]:
    """Return status and error of a task that has ended without pictures. Pure."""
    if task.state in _ENDS:
        status, family, code = _ENDS[task.state]
        return status, _error(f"task {task.id} was {task.state}", family, code, None)
    error = task.error
    detail = "the model failed" if error is None else f"{error.title}: {error.detail}"
    code = "failed" if error is None else error.code
    if is_users_fault(task):
        return 400, _error(detail, "invalid_request_error", code, None)
    return 500, _error(detail, "server_error", code, None)


def _error(message: str, family: str, code: str, param: str | None) -> dict[str, Any]:
    return {"message": message, "type": family, "code": code, "param": param}


_ERRORS: Final[tuple[type[SwellError], ...]] = (
    *(InvalidRequest, IdempotencyMismatch, NotFound, TooLarge, NoWorker, Unavailable),
)
_DONE: Final = Response("The pictures", ImagesView)

ROUTES: Final = (
    Route(
        "POST",
        "/openai/v1/images/generations",
        generate,
        Scope.CLIENT,
        "Generate pictures",
        "OpenAI",
        {200: _DONE},
        _ERRORS,
        "Other fields go to the model under their own names. With `stream` the answer is "
        "server-sent events: up to `partial_images` of `image_generation.partial_image`, none if "
        "the model makes no previews, then `image_generation.completed` for each picture.",
        body=Body(ImageRequest, example={"model": "swell/icons", "prompt": "a red fox"}),
        headers=(IDEMPOTENCY_KEY,),
        facade="openai",
        refuse=refuse,
    ),
    Route(
        "POST",
        "/openai/v1/images/edits",
        edit,
        Scope.CLIENT,
        "Edit pictures",
        "OpenAI",
        {200: _DONE},
        (*_ERRORS, UnsupportedType),
        "A form with files as `image` or `image[]` and `mask`, or JSON with "
        "`images[].image_url`. The worker fetches URLs, but not from private networks.",
        body=Body(EditRequest, media_types=("multipart/form-data", "application/json")),
        headers=(IDEMPOTENCY_KEY,),
        facade="openai",
        refuse=refuse,
    ),
    Route(
        "GET",
        "/openai/v1/models",
        models,
        Scope.CLIENT,
        "List models",
        "OpenAI",
        {200: Response("Models and aliases", OpenAiModels)},
        facade="openai",
        refuse=refuse,
    ),
    Route(
        "GET",
        "/openai/v1/models/{model:path}",
        model,
        Scope.CLIENT,
        "Get a model",
        "OpenAI",
        {200: Response("The model", OpenAiModel)},
        (NotFound,),
        facade="openai",
        refuse=refuse,
    ),
)
