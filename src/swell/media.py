"""Files and pictures, as models take and return them.

On the wire a file is a URL or a data URI; in a model it is one of these classes; in an output it is
`{"$artifact": i}`. The worker fetches, encodes and uploads: authors never do.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import PIL.Image
import pydantic
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_jsonable_python

__all__ = ["Attachment", "Audio", "File", "Image", "Video", "flatten"]


class _Attachment:
    """Something that lies beside the JSON: a URL or data URI on the wire, bytes in the model."""

    _kind: ClassVar[str] = "file"

    @classmethod
    def _from_bytes(cls, data: bytes, content_type: str) -> Any:
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError(
                "file_type", "give a URL, or a data URI such as data:image/png;base64,…"
            )
        files = (info.context or {}).get("files", {})
        if value in files:
            data, content_type = files[value]
        elif value.startswith("data:"):
            data, content_type = _read_data_uri(value)
        else:
            raise PydanticCustomError(
                "file_unavailable", "the file could not be fetched; give a URL that can be read"
            )
        return cls._from_bytes(data, content_type)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take the class itself, a data URI, or a URL whose bytes the worker has fetched."""
        return core_schema.with_info_plain_validator_function(cls._validate)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """On the wire it is a string; `x-file` says what the string stands for."""
        return {"type": "string", "format": "uri", "x-file": cls._kind}


def _read_data_uri(uri: str) -> tuple[bytes, str]:
    header, comma, body = uri.partition(",")
    if not comma or not header.endswith(";base64"):
        raise PydanticCustomError("data_uri", "a data URI must look like data:TYPE;base64,DATA")
    try:
        data = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise PydanticCustomError("data_uri", "the data URI is not valid base64") from None
    return data, header.removeprefix("data:").removesuffix(";base64") or "application/octet-stream"


class File(_Attachment):
    """A file as a result or an input. The worker uploads it; authors never do.

    Args:
        source: The bytes, or where they lie.
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
    def _from_bytes(cls, data: bytes, content_type: str) -> "File":
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


class Image(_Attachment):
    """A picture as a result or an input. The worker encodes and uploads it; authors never do.

    Args:
        source: A Pillow picture; an array, Shapes: (H, W, 3) or (H, W, 4) uint8 sRGB; an encoded
            picture as bytes, or a path to one. Encoded results are delivered as they are.
        format: `png`, `webp` or `jpeg` for the delivered file; the worker's default is PNG.
        metadata: Written into the file beside the seed and the input.
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
    def _from_bytes(cls, data: bytes, content_type: str) -> "Image":
        picture = cls(data)
        try:
            # Whoever asked should hear of a broken file before it joins a batch.
            picture.pil().load()
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
            raise PydanticCustomError(
                "image", "not a picture that can be read; give PNG, JPEG, WebP, AVIF or GIF"
            ) from None
        return picture

    @property
    def encoded(self) -> bytes | None:
        """The file's bytes, where the picture came as a file; None for pixels."""
        if isinstance(self.source, bytes):
            return self.source
        return Path(self.source).read_bytes() if isinstance(self.source, str | Path) else None

    def pil(self) -> PIL.Image.Image:
        """Return the picture as Pillow knows it."""
        if isinstance(self.source, PIL.Image.Image):
            return self.source
        encoded = self.encoded
        if encoded is not None:
            return PIL.Image.open(io.BytesIO(encoded))
        return PIL.Image.fromarray(self.source)


Attachment = Image | File


def flatten(result: Any, files: list[Attachment]) -> Any:
    """Return `result` as JSON values, with each file replaced by `{"$artifact": i}`.

    Args:
        result: What a model returned for one item.
        files: Gets the files, in the order of their numbers.

    Raises:
        TypeError: Something in it cannot be told as JSON.
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
        if hasattr(result, "tolist"):  # numbers and arrays of numpy and its kin
            return result.tolist()
        kind = type(result).__name__
        raise TypeError(
            f"a model returned {kind}, which is neither JSON nor a file: return text, numbers, "
            "lists, dictionaries, a pydantic model, swell.Image or swell.File"
        ) from None
