"""Pictures to files. Pure functions of bytes; they run in threads, since Pillow lets go of the
interpreter's lock while it compresses.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import PIL.Image
import PIL.PngImagePlugin

from swell.task import Artifact
from swell.worker.frames import Blob, Pixels

__all__ = ["Encoded", "FileNote", "encode", "wanted_format"]

#: Quality of the lossy formats: no visible loss at normal size.
QUALITY: Final = 90

#: zlib level 1 is three times as fast as 6 and a tenth larger on pictures.
PNG_LEVEL: Final = 1

#: Exif tags: ImageDescription and Software.
EXIF_DESCRIPTION, EXIF_SOFTWARE = 0x010E, 0x0131

_TYPES: Final = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
_EXTENSIONS: Final = {
    "image/png": "png",
    "image/webp": "webp",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/avif": "avif",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "model/gltf-binary": "glb",
    "application/json": "json",
    "text/plain": "txt",
}


@dataclass(frozen=True, slots=True)
class FileNote:
    """What a picture's file says about how it came to be."""

    model: str
    version: str
    #: The task's input, as JSON.
    input: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file ready to be delivered."""

    data: bytes
    content_type: str
    #: File name, such as `0.png`.
    name: str
    width: int | None = None
    height: int | None = None

    def artifact(self, key: str) -> Artifact:
        """Return what the outcome says about it, once it lies under `key`."""
        return Artifact(
            key=key,
            content_type=self.content_type,
            bytes=len(self.data),
            width=self.width,
            height=self.height,
        )


def wanted_format(raw: msgspec.Raw, default: str) -> str:
    """Return the format that an input asks for in `output_format` or `format`, or `default`."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return default
    for name in ("output_format", "format"):
        asked = str(fields.get(name, "")).lower().replace("jpg", "jpeg")
        if asked in _TYPES:
            return asked
    return default


def encode(file: Pixels | Blob, index: int, default_format: str, note: FileNote) -> Encoded:
    """Return file number `index` of a task as bytes."""
    if isinstance(file, Blob):
        return _as_it_is(file, index)
    kind = file.format if file.format in _TYPES else default_format
    picture = PIL.Image.frombytes(file.mode, (file.width, file.height), file.data)
    told = {
        "model": note.model,
        "version": note.version,
        "seed": file.seed,
        "input": note.input,
        **msgspec.json.decode(file.metadata, type=dict[str, Any]),
    }
    data = _compress(picture, kind, told)
    content_type = _TYPES[kind]
    return Encoded(data, content_type, _name(index, content_type), file.width, file.height)


def _compress(picture: PIL.Image.Image, kind: str, told: Mapping[str, Any]) -> bytes:
    text = msgspec.json.encode(told).decode()
    target = io.BytesIO()
    if kind == "png":
        info = PIL.PngImagePlugin.PngInfo()
        info.add_text("Software", "Swell")
        info.add_itxt("swell", text)
        picture.save(target, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
        return target.getvalue()
    exif = PIL.Image.Exif()
    # Exif text is ASCII: JSON's own escapes keep the rest.
    exif[EXIF_DESCRIPTION] = text.encode("ascii", "backslashreplace").decode()
    exif[EXIF_SOFTWARE] = "Swell"
    if kind == "jpeg":
        picture.convert("RGB").save(target, "JPEG", quality=QUALITY, exif=exif)
    else:
        picture.save(target, "WEBP", quality=QUALITY, method=2, exif=exif)
    return target.getvalue()


def _as_it_is(file: Blob, index: int) -> Encoded:
    content_type, width, height = file.content_type, None, None
    if content_type.startswith("image/"):
        with PIL.Image.open(io.BytesIO(file.data)) as picture:
            width, height = picture.size
            content_type = PIL.Image.MIME.get(picture.format or "", content_type)
    return Encoded(file.data, content_type, file.name or _name(index, content_type), width, height)


def _name(index: int, content_type: str) -> str:
    return f"{index}.{_EXTENSIONS.get(content_type, 'bin')}"
