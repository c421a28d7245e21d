"""Pictures that a task has made, as the bytes of an answer: in the format that was asked for."""

import asyncio
import io
from typing import Final
from weakref import WeakKeyDictionary

import PIL.Image

from swell.api.files import read_file
from swell.api.service import Service
from swell.errors import InvalidRequest
from swell.task import Artifact, Task

#: What pictures are turned into, as Pillow calls it.
FORMATS: Final = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}

_READ: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")

#: Larger pictures stay as they are: what is read here was chosen by whoever asked for it.
_MOST_PIXELS: Final = 40_000_000

#: So many are turned at once, and who takes turns in each event loop.
_AT_ONCE: Final = 2
_LANES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()

_QUALITY: Final = 95


def is_picture(artifact: Artifact) -> bool:
    """Whether a file is a picture."""
    return artifact.content_type.startswith("image/")


def pictures_of(task: Task) -> list[Artifact]:
    """Return the pictures of a task, in their order."""
    return [each for each in task.artifacts if is_picture(each)]


async def picture_bytes(
    service: Service, artifact: Artifact, kind: str | None, quality: int | None
) -> tuple[bytes, str]:
    """Return a picture as bytes, and what format it has.

    Args:
        service: Whose it is.
        artifact: The picture.
        kind: `png`, `jpeg` or `webp`; None for as it is.
        quality: Of JPEG and WebP, 0 to 100; None for the usual one.

    Raises:
        NotFound, Unavailable: It cannot be read.
        InvalidRequest: It is too large to be turned into another format.
    """
    data = await read_file(service.objects, artifact)
    told = artifact.content_type.removeprefix("image/")
    if kind is None or (kind == told and (quality is None or kind == "png")):
        return data, told
    lanes = _LANES.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE))
    async with lanes:
        return await asyncio.to_thread(recoded, data, kind, quality), kind


def recoded(data: bytes, kind: str, quality: int | None = None) -> bytes:
    """Return a picture in another format.

    Raises:
        InvalidRequest: It has too many pixels, or cannot be read.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_READ) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    f"the picture has {picture.width:,} x {picture.height:,} pixels, and only up "
                    f"to {_MOST_PIXELS:,} are turned into {kind}: leave the format out"
                )
            made = io.BytesIO()
            told = _plain(picture, kind)
            if kind == "png":
                told.save(made, "PNG", compress_level=1)
            else:
                told.save(made, FORMATS[kind], quality=_QUALITY if quality is None else quality)
    except InvalidRequest:
        raise
    except Exception as error:
        # A decoder may raise anything on bytes that a model has made up.
        raise InvalidRequest(
            f"the picture cannot be turned into {kind} ({str(error)[:100]}): leave the format out"
        ) from error
    return made.getvalue()


def _plain(picture: PIL.Image.Image, kind: str) -> PIL.Image.Image:
    """Return a picture as a format takes it: JPEG knows no transparency, so it stands on white."""
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    if kind != "jpeg":
        return picture.convert("RGBA" if has_alpha else "RGB")
    if not has_alpha:
        return picture.convert("RGB")
    ground = PIL.Image.new("RGBA", picture.size, "white")
    return PIL.Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
