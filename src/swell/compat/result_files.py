"""Files of a task: URLs, and pictures as bytes in the format that the client asked for.

Clients send their key along and follow no redirect, and a bucket refuses a request with two kinds
of credentials. So these URLs always lead to the backend, even if `objects.serve` names the bucket.
"""

import asyncio
import contextlib
import io
from collections.abc import Sequence
from typing import Final

import PIL.Image

from swell.compat.request_inputs import data_uri
from swell.core.errors import NotFound
from swell.core.task import Artifact, Task
from swell.server.files.file_routes import plain_type, read_file
from swell.server.files.thumbnails import opened_picture
from swell.server.request import Call
from swell.server.serializers import UrlMaker
from swell.server.service import Service

#: Base URLs of a backend that is used on its own machine without TLS.
_LOCAL: Final = ("http://127.0.0.1", "http://localhost", "http://[::1]")

#: Most bytes of a task's files that become data URIs.
_MOST_INLINE_BYTES: Final = 4 * 1024 * 1024

_QUALITY: Final = 95


def file_url(urls: UrlMaker, key: str, size_bytes: int | None = None) -> str:
    """Return the signed URL of a file, which never redirects."""
    return f"{urls.file(key, size_bytes)}&redirect=no"


async def file_links(service: Service, call: Call, files: Sequence[Artifact]) -> list[str]:
    """Return a URL for each file of a task; small files become data URIs without TLS.

    Replicate's clients recognize a file only by `https:` or `data:`.

    Raises:
        Unavailable: A file cannot be read now.
    """
    urls = service.urls(call)
    links = [file_url(urls, each.key, each.bytes) for each in files]
    size_bytes = sum(each.bytes for each in files)
    if urls.base.startswith(_LOCAL) and size_bytes <= _MOST_INLINE_BYTES:
        for index, file in enumerate(files):
            with contextlib.suppress(NotFound):  # The file is removed: its URL reports it.
                data = await read_file(service.objects, file)
                links[index] = data_uri(data, plain_type(file.content_type))
    return links


def pictures_of(task: Task) -> list[Artifact]:
    """Return the pictures of a task, in order."""
    return [each for each in task.artifacts if each.content_type.startswith("image/")]


async def picture_bytes(
    service: Service, artifact: Artifact, kind: str | None = None, quality: int | None = None
) -> tuple[bytes, str]:
    """Return a picture and its format.

    Args:
        service: The backend.
        artifact: The picture.
        kind: `png`, `jpeg` or `webp`; None keeps the format.
        quality: Of JPEG and WebP, 0 to 100; None keeps the file, or is the default of a new one.

    Raises:
        NotFound, Unavailable: The file cannot be read.
        InvalidRequest: The picture is too large to convert.
    """
    data = await read_file(service.objects, artifact)
    stored = artifact.content_type.removeprefix("image/")
    kind = kind or stored
    if kind == stored and (quality is None or kind == "png"):
        return data, stored
    async with service.lanes:
        return await asyncio.to_thread(recoded, data, kind, quality), kind


def recoded(data: bytes, kind: str, quality: int | None = None) -> bytes:
    """Return a picture in another format.

    Raises:
        InvalidRequest: It has too many pixels, or cannot be read.
    """
    options = {"quality": _QUALITY if quality is None else quality}
    if kind == "png":
        options = {"compress_level": 1}
    made = io.BytesIO()
    with opened_picture(data, "leave the format out") as picture:
        _with_mode(picture, kind).save(made, kind.upper(), **options)
    return made.getvalue()


def _with_mode(picture: PIL.Image.Image, kind: str) -> PIL.Image.Image:
    """Return a picture as RGB or RGBA; for JPEG, which has no transparency, on white."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    if kind != "jpeg":
        return picture
    ground = PIL.Image.new("RGBA", picture.size, "white")
    return PIL.Image.alpha_composite(ground, picture).convert("RGB")
