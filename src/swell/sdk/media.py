"""Files and pictures, as models take and return them.

In JSON a file is a URL or a data URI; in a model it is one of these classes; in an output it is
`{"$artifact": i}`. The worker fetches, encodes and uploads files: authors never do.
"""

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import PIL.Image
import pydantic
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_jsonable_python

from swell.net.url_policy import bare_url
from swell.weights.lora import WrongLora, check_lora

#: Largest scale of a LoRA, in both directions; usual scales are between -5 and 5.
MAX_SCALE: Final = 100.0
#: Pillow's own warning limit: a file of a hundred bytes may unpack to this many pixels, which take
#: a second and 360 MB.
_MOST_PIXELS: Final = PIL.Image.MAX_IMAGE_PIXELS or 89_478_485
#: Formats that are decoded. Pillow supports forty more; some run programs (EPS), and most decoders
#: are little tested against hostile files.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")


class _Attachment:
    """A file: a URL or data URI in JSON, bytes in the model."""

    _kind: ClassVar[str] = "file"

    @classmethod
    def _read(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return value if isinstance(value, cls) else cls._read(value, info)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept an instance, a data URI, or a URL that the worker has fetched."""
        return core_schema.with_info_plain_validator_function(cls._validate)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe a string; `x-file` is the kind of file."""
        return {"type": "string", "format": "uri", "x-file": cls._kind}


def _named(value: Any, info: pydantic.ValidationInfo) -> tuple[bytes, str]:
    """Return the bytes and the media type of a fetched URL or a data URI."""
    if not isinstance(value, str):
        raise PydanticCustomError(
            "file_type", "give a URL, or a data URI such as data:image/png;base64,…"
        )
    return _fetched("files", value, info) or _read_data_uri(value)


def _fetched(kind: str, value: str, info: pydantic.ValidationInfo) -> Any:
    """Return what the worker has fetched for a URL, from the context; None for a data URI."""
    found = (info.context or {}).get(kind, {}).get(value)
    if found is None and not value.startswith("data:"):
        raise PydanticCustomError(
            "file_unavailable", "the file could not be fetched; give a URL that can be read"
        )
    return found


def _read_data_uri(uri: str) -> tuple[bytes, str]:
    header, comma, body = uri.partition(",")
    if not comma or not header.endswith(";base64"):
        raise PydanticCustomError("data_uri", "a data URI must look like data:TYPE;base64,DATA")
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error is one
        raise PydanticCustomError("data_uri", "the data URI is not valid base64") from None
    return data, header.removeprefix("data:").removesuffix(";base64") or "application/octet-stream"


class File(_Attachment):
    """A file as a result or an input. The worker uploads it; authors never do.

    Args:
        source: The bytes, or their path.
        content_type: Media type, such as `model/gltf-binary`.
        name: File name shown to the user.
    """

    default_type: ClassVar[str] = "application/octet-stream"

    def __init__(
        self, source: bytes | str | Path, *, content_type: str | None = None, name: str = ""
    ) -> None:
        self.source = source
        self.content_type = content_type or self.default_type
        self.name = name

    @classmethod
    def _read(cls, value: Any, info: pydantic.ValidationInfo) -> "File":
        data, content_type = _named(value, info)
        return cls(data, content_type=content_type)

    def read(self) -> bytes:
        """Return the bytes."""
        return self.source if isinstance(self.source, bytes) else Path(self.source).read_bytes()


class Audio(File):
    """A sound file, WAV unless said otherwise."""

    _kind = "audio"
    default_type = "audio/wav"


class Video(File):
    """A video file, MP4 unless said otherwise."""

    _kind = "video"
    default_type = "video/mp4"


@dataclass(frozen=True, slots=True)
class Within:
    """Limit of the size of a picture: `image: Annotated[Image, Within(40_000_000)]`.

    A file of some kilobytes may unpack to gigabytes. The size is read from the header, and larger
    pictures are refused before decoding.

    Args:
        most_pixels: Largest width times height.
        most_px: Largest longer side.
    """

    most_pixels: int = _MOST_PIXELS
    most_px: int | None = None

    def check(self, width_px: int, height_px: int) -> None:
        """Check the size of a picture.

        Raises:
            PydanticCustomError: It is too large.
        """
        if self.most_px is not None and max(width_px, height_px) > self.most_px:
            raise PydanticCustomError(
                "image",
                "the picture is {width} x {height} px: give {most} px a side at most",
                {"width": width_px, "height": height_px, "most": self.most_px},
            )
        if width_px * height_px > self.most_pixels:
            raise self.refusal()

    def refusal(self) -> PydanticCustomError:
        """Return the error for a picture with too many pixels."""
        side = min(math.isqrt(self.most_pixels) // 100 * 100, self.most_px or self.most_pixels)
        return PydanticCustomError(
            "image",
            "the picture is too large: at most {most} million pixels, such as {side} x {side};"
            " make it smaller",
            {"most": self.most_pixels // 10**6, "side": side},
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Accept the values of an `Image` that are not too large."""

        def validate(value: Any, info: pydantic.ValidationInfo) -> Image:
            if isinstance(value, Image):
                return value.checked(self, is_decoded=False)
            return Image(_named(value, info)[0]).checked(self)

        return core_schema.with_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe an `Image`."""
        return Image.__get_pydantic_json_schema__(schema, handler)


class Image(_Attachment):
    """A picture as a result or an input. The worker encodes and uploads it; authors never do.

    Args:
        source: A Pillow picture; an array, Shapes: (H, W, 3) or (H, W, 4) uint8 sRGB; an encoded
            picture (PNG, JPEG, WebP, AVIF or GIF) as bytes, or a path to one. Encoded results are
            delivered as they are.
        format: `png`, `webp`, `jpeg` or `avif` for the delivered file; the worker's default is PNG.
        metadata: Written into the file, in addition to the seed and the input.
    """

    _kind = "image"

    def __init__(
        self,
        source: Any,
        *,
        format: str | None = None,  # noqa: A002 - Pillow's own word
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self.format = format
        self.metadata = dict(metadata or {})

    @classmethod
    def _read(cls, value: Any, info: pydantic.ValidationInfo) -> "Image":
        return cls(_named(value, info)[0]).checked(Within())

    def checked(self, within: Within, *, is_decoded: bool = True) -> "Image":
        """Return it if it can be read and is not too large; the size is checked first.

        Args:
            within: The size limit.
            is_decoded: Whether to decode it, so that a broken file fails before it joins a batch.

        Raises:
            PydanticCustomError: It is too large, or broken.
        """
        try:
            picture = self.pil()
            within.check(*picture.size)
            if is_decoded:
                picture.load()
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
            raise within.refusal() from None
        except PydanticCustomError:
            raise
        except Exception:  # Pillow raises many types for broken files
            raise PydanticCustomError(
                "image", "not a picture that can be read; give PNG, JPEG, WebP, AVIF or GIF"
            ) from None
        return self

    @property
    def encoded(self) -> bytes | None:
        """The bytes of an encoded picture; None for pixels."""
        if isinstance(self.source, bytes):
            return self.source
        return Path(self.source).read_bytes() if isinstance(self.source, str | Path) else None

    def pil(self) -> PIL.Image.Image:
        """Return the picture as a Pillow image."""
        if isinstance(self.source, PIL.Image.Image):
            return self.source
        encoded = self.encoded
        if encoded is not None:
            return PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS)
        return PIL.Image.fromarray(self.source)


Attachment = Image | File


class LoRA(_Attachment):
    """Low-rank changes to a model's weights, from a safetensors file: an input.

    In JSON it is the name of the file, or `{"file": …, "scale": 0.8}`. The worker downloads the
    file to its cache before the model gets it. Equal LoRAs have the same content and scale.

    Args:
        source: The path of the file, or its bytes.
        scale: Strength; 1 is the strength of its training.
        digest: SHA-256 of the content, as 64 hexadecimal digits; computed if left out.
        name: For errors; the file's name if left out.
    """

    def __init__(
        self, source: bytes | str | Path, *, scale: float = 1.0, digest: str = "", name: str = ""
    ) -> None:
        self.source = Path(source) if isinstance(source, str) else source
        self.scale = float(scale)
        self.digest = digest or _digest(self.source)
        self.name = name or (self.source.name if isinstance(self.source, Path) else "the LoRA")

    def read(self) -> bytes:
        """Return the file's bytes."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoRA):
            return NotImplemented
        return (self.digest, self.scale) == (other.digest, other.scale)

    def __hash__(self) -> int:
        return hash((self.digest, self.scale))

    def __repr__(self) -> str:
        return f"LoRA({self.digest[:12]}, {self.scale:g})"

    @classmethod
    def _read(cls, value: Any, info: pydantic.ValidationInfo) -> "LoRA":
        given = value if isinstance(value, Mapping) else {"file": value}
        named, scale = given.get("file"), given.get("scale", 1.0)
        if not isinstance(named, str) or set(given) - {"file", "scale"}:
            raise PydanticCustomError(
                "lora_type", 'give the URL of a .safetensors file, or {"file": URL, "scale": 0.8}'
            )
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise PydanticCustomError("lora_scale", "the scale must be a number, such as 0.8")
        if not (math.isfinite(scale) and abs(scale) <= MAX_SCALE):
            raise PydanticCustomError("lora_scale", "the scale must be between -100 and 100")
        if found := _fetched("loras", named, info):
            path, digest = found
            return cls(path, scale=scale, digest=digest, name=bare_url(named))
        data, _ = _read_data_uri(named)
        made = cls(data, scale=scale)
        try:
            check_lora(data, made.name)
        except WrongLora as error:
            raise PydanticCustomError("lora", "{why}", {"why": error.detail}) from None
        return made

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe a string or an object; `x-file` is the kind of file."""
        scale = {"type": "number", "minimum": -MAX_SCALE, "maximum": MAX_SCALE, "default": 1.0}
        scaled = {
            "type": "object",
            "properties": {"file": {"type": "string"}, "scale": scale},
            "required": ["file"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string"}, scaled], "x-file": "lora"}


def combined(loras: Iterable[LoRA]) -> tuple[LoRA, ...]:
    """Return LoRAs in canonical order: each content once, scales added, none of scale 0."""
    alike: dict[str, list[LoRA]] = {}
    for lora in loras:
        alike.setdefault(lora.digest, []).append(lora)
    found = []
    for digest, same in sorted(alike.items()):
        # `fsum` does not depend on the order.
        scale = math.fsum(lora.scale for lora in same)
        found.append(LoRA(same[0].source, scale=scale, digest=digest, name=same[0].name))
    return tuple(lora for lora in found if lora.scale)


def _digest(source: bytes | Path) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(result: Any, files: list[Attachment]) -> Any:
    """Return `result` as JSON values, with each file replaced by `{"$artifact": i}`.

    Args:
        result: The result of a model for one item.
        files: The files are appended to this list, in the order of their numbers.

    Raises:
        TypeError: A value is neither JSON nor a file.
    """
    if result is None or isinstance(result, str | int | float | bool):
        return result
    if isinstance(result, PIL.Image.Image):
        result = Image(result)
    if isinstance(result, Image | File):
        files.append(result)
        return {"$artifact": len(files) - 1}
    if isinstance(result, BaseModel):
        return {name: flatten(value, files) for name, value in result}
    if isinstance(result, Mapping):
        return {str(key): flatten(value, files) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [flatten(value, files) for value in result]
    return _jsonable(result)


def _jsonable(result: Any) -> Any:
    try:
        return to_jsonable_python(result)
    except (PydanticUserError, ValueError, TypeError):
        if hasattr(result, "tolist"):  # numbers and arrays of numpy and similar libraries
            return result.tolist()
        kind = type(result).__name__
        raise TypeError(
            f"a model returned {kind}, which is neither JSON nor a file: return text, numbers, "
            "lists, dictionaries, a pydantic model, swell.Image or swell.File"
        ) from None
