"""Pictures of a task as bytes, in the format that the client asked for."""

import asyncio
import io
from typing import Final

import PIL.Image

from swell.api.files import read_file
from swell.api.service import Service
from swell.errors import InvalidRequest
from swell.task import Artifact, Task

_READABLE: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")

#: Largest picture that is converted: its user chose its size.
_MOST_PIXELS: Final = 40_000_000

_QUALITY: Final = 95


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
        quality: Of JPEG and WebP, 0 to 100; None for the default.

    Raises:
        NotFound, Unavailable: The file cannot be read.
        InvalidRequest: The picture is too large to convert.
    """
    data = await read_file(service.objects, artifact)
    stored = artifact.content_type.removeprefix("image/")
    if kind is None or (kind == stored and (quality is None or kind == "png")):
        return data, stored
    async with service.lanes:
        return await asyncio.to_thread(recoded, data, kind, quality), kind


def recoded(data: bytes, kind: str, quality: int | None = None) -> bytes:
    """Return a picture in another format.

    Raises:
        InvalidRequest: It has too many pixels, or cannot be read.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_READABLE) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    f"the picture has {picture.width:,} x {picture.height:,} pixels, and only up "
                    f"to {_MOST_PIXELS:,} can be converted into {kind}: leave the format out"
                )
            options = {"quality": _QUALITY if quality is None else quality}
            if kind == "png":
                options = {"compress_level": 1}
            made = io.BytesIO()
            _with_mode(picture, kind).save(made, kind.upper(), **options)
    except InvalidRequest:
        raise
    except Exception as error:
        # A decoder may raise anything on the bytes of a model.
        raise InvalidRequest(
            f"the picture cannot be converted into {kind} ({str(error)[:100]}): leave the format "
            "out"
        ) from error
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
