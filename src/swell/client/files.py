"""Uploads the files in a model's input and replaces them with URLs."""

import asyncio
import io
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import PIL.Image

from swell.client.connection import Connection
from swell.core.errors import InvalidRequest

_ANY: Final = "application/octet-stream"

#: First bytes of a file → media type, used if the name does not give it.
_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)

#: Form type of a RIFF file → media type.
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}

#: Concurrent uploads.
_SIDE_BY_SIDE: Final = 4


async def with_urls(connection: Connection, value: Any) -> Any:
    """Upload the files in an input, and return the input with their URLs in place of them.

    A file is a `pathlib.Path`, bytes, a PIL picture, or an open binary file. Lists and dictionaries
    are searched at any depth.

    Raises:
        InvalidRequest: A file cannot be read.
        Refused, Unreachable: A file cannot be uploaded.
    """
    gate = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def store(data: bytes, content_type: str, filename: str) -> str:
        async with gate:
            return await connection.upload(data, content_type, filename)

    async def walk(each: Any) -> Any:
        if isinstance(each, Mapping):
            values = await asyncio.gather(*map(walk, each.values()))
            return dict(zip(each, values, strict=True))
        if isinstance(each, list | tuple):
            return list(await asyncio.gather(*map(walk, each)))
        if isinstance(each, Path | bytes | bytearray | PIL.Image.Image) or hasattr(each, "read"):
            return await store(*_content(each))
        return each

    return await walk(value)


def _content(file: Any) -> tuple[bytes, str, str]:
    """Return the bytes, media type and name of a file."""
    if isinstance(file, Path):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be read: {error.strerror or error}") from error
        return data, _type_of(file.name, data), file.name
    if isinstance(file, PIL.Image.Image):
        made = io.BytesIO()
        file.save(made, "PNG")
        return made.getvalue(), "image/png", "picture.png"
    if isinstance(file, bytes | bytearray):
        return bytes(file), _type_of("", bytes(file)), "file"
    return _read(file)


def _read(file: IO[bytes]) -> tuple[bytes, str, str]:
    data = file.read()
    if not isinstance(data, bytes):
        raise InvalidRequest("a file in the input gives text: open it in binary mode (`rb`)")
    name = Path(str(getattr(file, "name", "") or "file")).name
    return data, _type_of(name, data), name


def _type_of(name: str, data: bytes) -> str:
    by_name = mimetypes.guess_type(name)[0]
    if by_name is not None:
        return by_name
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], _ANY)
    return next((kind for start, kind in _BEGINNINGS if data.startswith(start)), _ANY)


def name_of(stem: str, content_type: str, n: int) -> str:
    """Return a file name made of a stem, the file's number and the extension of its type."""
    return f"{stem}-{n}{mimetypes.guess_extension(content_type) or ''}"
