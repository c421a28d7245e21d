"""Requests for pictures, from OpenAI's fields to a task."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from swell.compat import image_fields
from swell.compat.request_inputs import form_parts, json_object, upload_part, with_uploads
from swell.compat.result_files import file_url
from swell.core.errors import UNREADABLE
from swell.server.common_schemas import PLAIN, doc
from swell.server.decoding import convert_fields
from swell.server.models.model_cards import Target
from swell.server.multipart_forms import Part
from swell.server.problem_details import field_error
from swell.server.request import Call, check_values, too_large
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.task_schemas import TaskRequest

#: Factor of each quality on the model's default steps; other qualities change nothing.
_STEPS: Final = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 3.0}

#: Fields for OpenAI's own models, dropped unless the model has such an input.
_OPENAI_ONLY: Final = (
    *("moderation", "style", "svg", "complexity", "frame_count", "frame_duration_ms", "markup"),
    *("input_fidelity", "moderation_level", "metadata", "store"),
)


_Model = Annotated[str, doc("a model of this server, or an alias", max_length=200)]
_Count = Annotated[int, doc("number of pictures; 1 by default", ge=1, le=10)]
_Size = Annotated[str, doc("`auto`, or `WIDTHxHEIGHT` in px", max_length=40)]
_Quality = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
_User = Annotated[str, Meta(max_length=200, pattern=PLAIN)]


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures to generate. The model gets any other field under its own name."""

    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]
    model: _Model | None = None
    n: _Count | None = None
    size: _Size | None = None
    quality: _Quality | None = None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    user: _User | None = None
    safety_identifier: _User | None = None
    seed: Annotated[int, Meta(ge=-1, le=2**53 - 1)] | None = None


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that a JSON body names."""

    image_url: Annotated[str, Meta(min_length=1)] | None = None
    file_id: str | None = None


class EditRequest(ImageRequest, frozen=True, kw_only=True):
    """Pictures to edit; in a form they are the parts `image`, `image[]` and `mask`."""

    images: Annotated[list[ImageSource], Meta(max_length=16)] | None = None
    mask: ImageSource | None = None


@dataclass(frozen=True, slots=True)
class ImageJob:
    """A request that was read."""

    request: ImageRequest
    #: Fields that OpenAI does not define.
    own: Mapping[str, Any] = field(default_factory=dict)
    #: URLs or data URIs of the input pictures, and of the mask.
    images: Sequence[str] = ()
    mask: str | None = None
    kind: Literal["image_generation", "image_edit"] = "image_generation"
    #: Everything that the request asks for, as JSON; files by their SHA-256.
    fingerprint: bytes = b""


# --- to a task; pure


def read_fields(
    body: Mapping[str, Any], kind: type[ImageRequest], *, is_text: bool = False
) -> tuple[ImageRequest, dict[str, Any]]:
    """Return OpenAI's own fields of a request, and the others.

    Args:
        body: All fields; null means that a field is left out.
        kind: `ImageRequest` or `EditRequest`.
        is_text: Whether all values are texts, as in a form.

    Raises:
        InvalidInput: A value is not allowed.
    """
    others = {name: value for name, value in body.items() if value is not None}
    known = {name: others.pop(name) for name in kind.__struct_fields__ if name in others}
    return convert_fields(known, kind, is_text=is_text), others


def task_request(job: ImageJob, target: Target) -> TaskRequest:
    """Return the task that a request asks for.

    Raises:
        InvalidInput: The model cannot do it.
    """
    request, schema = job.request, target.card.input_schema
    known = image_fields.properties_of(schema)
    fields: dict[str, Any] = {}
    if image_fields.property_for(schema, "prompt") or not job.images:
        fields["prompt"] = request.prompt
    fields |= image_fields.placed_files(schema, target.model, job.images, job.mask)
    if request.size is not None and (size := image_fields.size_of(request.size)) is not None:
        fields |= image_fields.sized(schema, size)
    seed = None if request.seed == -1 else request.seed
    if seed is not None and "seed" in known:
        fields["seed"], seed = seed, None
    fields |= _quality_fields(request, schema)
    fields |= _background_fields(request, target)
    fields |= _format_fields(request, target)
    # The model's own names win over the meaning of OpenAI's.
    inputs = image_fields.renamed(fields, schema)
    inputs |= image_fields.renamed(_own_fields(job, schema), schema)
    metadata = None
    if job.kind == "image_edit":
        # Uploads have other URLs each time: retries are recognized by this digest.
        metadata = {"request": hashlib.sha256(job.fingerprint).hexdigest()}
    return TaskRequest(
        model=target.queue,
        input=msgspec.Raw(encode(inputs)),
        count=request.n or 1,
        seed=seed,
        user=request.user or request.safety_identifier,
        metadata=msgspec.Raw(encode(metadata)),
    )


def _own_fields(job: ImageJob, schema: Mapping[str, Any]) -> dict[str, Any]:
    known = image_fields.properties_of(schema)
    own = dict(job.own)
    for name in _OPENAI_ONLY:
        if name not in known:
            own.pop(name, None)
    styles = image_fields.choices_of(schema, "style")
    if styles is not None and own.get("style") in {"vivid", "natural"}.difference(styles):
        del own["style"]
    return own


def _quality_fields(request: ImageRequest, schema: Mapping[str, Any]) -> dict[str, Any]:
    quality = request.quality
    if quality is None or quality == "auto":
        return {}
    if quality in (image_fields.choices_of(schema, "quality") or ()):
        return {"quality": quality}
    return image_fields.stepped(schema, _STEPS.get(quality, 1))


def _background_fields(request: ImageRequest, target: Target) -> dict[str, Any]:
    background, schema = request.background, target.card.input_schema
    if background is None or background == "auto":
        return {}
    if background in (image_fields.choices_of(schema, "background") or ()):
        return {"background": background}
    transparent = image_fields.properties_of(schema).get("transparent")
    if isinstance(transparent, Mapping) and transparent.get("type") == "boolean":
        return {"transparent": background == "transparent"}
    if background == "transparent":
        detail = f"{target.model} draws no transparent pictures: leave it out, or say opaque"
        raise field_error("background", detail)
    return {}


def _format_fields(request: ImageRequest, target: Target) -> dict[str, Any]:
    kind, schema = request.output_format, target.card.input_schema
    if kind in ("gif", "svg"):
        raise field_error("output_format", f"no model here draws {kind}: use png, webp or jpeg")
    if kind == "jpeg" and request.background == "transparent":
        raise field_error("output_format", "jpeg has no transparency: use png or webp")
    fields: dict[str, Any] = {}
    compression = request.output_compression
    if compression is not None and "output_compression" in image_fields.properties_of(schema):
        fields["output_compression"] = compression
    if kind is None:
        return fields
    name = image_fields.property_for(schema, "output_format")
    choices = None if name is None else image_fields.choices_of(schema, name)
    if name is not None and (choices is None or kind in choices):
        return {**fields, name: kind}
    if name is None and image_fields.takes_any_field(schema):
        # Workers encode in this format, even if the model does not know the field.
        return {**fields, "output_format": kind}
    if request.response_format == "url" and kind != "png":
        raise field_error("output_format", f"{target.model} draws png: ask for b64_json or png")
    return fields


# --- reading


async def read_generation(service: Service, call: Call) -> ImageJob:
    """Read the body of `POST /images/generations`.

    Raises:
        InvalidRequest, InvalidInput, TooLarge: It cannot be read.
    """
    body = await json_object(service, call)
    return ImageJob(*read_fields(body, ImageRequest), fingerprint=encode(body))


async def read_edit(service: Service, call: Call) -> ImageJob:
    """Read the body of `POST /images/edits`; its files become uploads.

    Raises:
        InvalidRequest, InvalidInput, TooLarge, UnsupportedType: It cannot be read.
    """
    if call.media_type == "multipart/form-data":
        return await _read_form(service, call)
    body = await json_object(service, call)
    fingerprint = encode(body)
    request, own = read_fields(body, EditRequest)
    assert isinstance(request, EditRequest), "read_fields was asked for it"
    images = [_url(each, "images") for each in request.images or ()]
    if not images:
        raise field_error("images", "here is no picture: name one as {image_url}", "required")
    mask = None if request.mask is None else _url(request.mask, "mask")
    files = await with_uploads(service, call, {"images": images, "mask": mask}, "")
    return ImageJob(request, own, files["images"], files["mask"], "image_edit", fingerprint)


async def _read_form(service: Service, call: Call) -> ImageJob:
    texts: dict[str, str] = {}
    files: dict[str, list[str]] = {"image": [], "mask": []}
    digests = []
    left_chars = service.settings.server.max_body_bytes
    async for part in form_parts(call, service.settings.server.max_upload_bytes):
        name = part.name.removesuffix("[]")
        if name in files:
            url, sha256 = await _read_picture(service, call, part, name)
            files[name].append(url)
            digests.append((name, sha256))
        elif part.filename is None:
            texts[part.name] = await part.text()
            left_chars -= len(texts[part.name])
            if left_chars < 0:
                raise too_large(service.settings.server.max_body_bytes)
    request, own = read_fields(texts, ImageRequest, is_text=True)
    if not files["image"]:
        detail = "the form has no part `image` or `image[]` with a file"
        raise field_error("image", detail, "required")
    check_values(",".join(own.values()).encode())
    return ImageJob(
        request,
        {name: _json_or_text(text) for name, text in own.items()},
        files["image"],
        next(reversed(files["mask"]), None),
        "image_edit",
        encode([texts, digests]),
    )


async def _read_picture(service: Service, call: Call, part: Part, param: str) -> tuple[str, str]:
    """Return the URL of a form's picture, a file or a URL, and the SHA-256 of the part."""
    if part.filename is not None or part.media_type != "text/plain":
        info, sha256 = await upload_part(service, call, part)
        return file_url(service.urls(call), info.key, info.bytes), sha256
    text = await part.text()
    url = _url(ImageSource(image_url=text.strip()), param)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return await with_uploads(service, call, url, f"/{param}"), sha256


def _url(source: ImageSource, param: str) -> str:
    if source.image_url is None:
        raise field_error(param, "files are named by image_url here: a URL, or a data URI")
    if not source.image_url.startswith(("http://", "https://", "data:")):
        raise field_error(param, "an image_url is an http or https URL, or a data URI")
    return source.image_url


def _json_or_text(text: str) -> Any:
    """Return a number, boolean, list or object that a form's text holds; else the text."""
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE:
        return text
    return text if isinstance(value, str) or value is None else value
