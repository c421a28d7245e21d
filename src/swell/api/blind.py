"""Copies of pictures that tell nothing of the model that drew them.

What a picture's file says of itself is left behind: it is decoded and written anew, all in the same
format, under a name that is drawn by lot.
"""

import asyncio
import io
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

from PIL import Image, ImageOps

from swell.api.files import read_file
from swell.comparisons import Picture
from swell.errors import InvalidRequest
from swell.objects import Objects
from swell.task import Artifact

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
_TYPES: Final = tuple(f"image/{each.lower()}" for each in _FORMATS)

#: Larger ones are refused; decoded, a pixel takes up to 16 bytes.
_MOST_PIXELS: Final = 20_000_000
_MOST_BYTES: Final = 64 * 1024 * 1024

#: Nobody sees what this loses.
_QUALITY: Final = 95

#: One comparison has so many of them on their way at once.
_AT_ONCE: Final = 2


def can_be_blind(artifact: Artifact) -> bool:
    """Whether a file is a picture that can be written anew."""
    return artifact.content_type in _TYPES


def folder_of(comparison_id: str) -> str:
    """Return where the copies of a comparison lie."""
    return f"comparisons/{comparison_id}"


async def copy_blind(
    objects: Objects,
    lanes: asyncio.Semaphore,
    comparison_id: str,
    artifacts: Sequence[Artifact | None],
) -> list[Picture | None]:
    """Store copies of pictures, one after the other, and return where they lie; None for None.

    Args:
        objects: Where both lie.
        lanes: One is held by each picture from when it is read until it is written anew.
        comparison_id: Whose they are.
        artifacts: In the order in which they are shown: when a copy was written tells no more.

    Raises:
        InvalidRequest: One cannot be read, or has too many pixels.
        NotFound: One is not there (any more).
    """
    keys = [f"{folder_of(comparison_id)}/{secrets.token_hex(16)}.webp" for _ in artifacts]
    made: list[Picture | None] = []
    try:
        for some in _parts(list(zip(keys, artifacts, strict=True))):
            # Both end before anything is deleted.
            ended = await asyncio.gather(
                *(_copy(objects, lanes, key, each) for key, each in some), return_exceptions=True
            )
            for each in ended:
                if isinstance(each, BaseException):
                    raise each
                made.append(each)
    except BaseException:
        await objects.delete(keys)
        raise
    return made


def _parts(work: Sequence[tuple[str, Artifact | None]]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(work), _AT_ONCE):
        yield work[start : start + _AT_ONCE]


async def _copy(
    objects: Objects, lanes: asyncio.Semaphore, key: str, artifact: Artifact | None
) -> Picture | None:
    if artifact is None:
        return None
    if artifact.bytes > _MOST_BYTES:
        raise InvalidRequest(
            f"a picture has {artifact.bytes:,} bytes, and only up to {_MOST_BYTES:,} are compared"
        )
    async with lanes:
        data = await read_file(objects, artifact)
        bare, width, height = await asyncio.to_thread(_bare, data)
    await objects.put(key, bare, "image/webp")
    return Picture(key=key, content_type="image/webp", width=width, height=height)


def _bare(data: bytes) -> tuple[bytes, int, int]:
    """Return a picture as WebP without anything beside its pixels, and its sides in px.

    Raises:
        InvalidRequest: It cannot be read, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    f"a picture has {picture.width:,} x {picture.height:,} pixels, and only up to "
                    f"{_MOST_PIXELS:,} are compared"
                )
            has_holes = "A" in picture.getbands() or "transparency" in picture.info
            upright = ImageOps.exif_transpose(picture).convert("RGBA" if has_holes else "RGB")
            # From its pixels alone: what came with the file would be written again.
            bare = Image.frombytes(upright.mode, upright.size, upright.tobytes())
            made = io.BytesIO()
            bare.save(made, "WEBP", quality=_QUALITY)
    except InvalidRequest:
        raise
    except Exception as error:
        # A decoder may raise anything on bytes that somebody has made up.
        raise InvalidRequest(f"a picture cannot be read ({str(error)[:100]})") from error
    return made.getvalue(), bare.width, bare.height
