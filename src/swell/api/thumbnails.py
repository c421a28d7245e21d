"""Pictures in small, made when somebody first asks and kept beside the others.

Reading a picture that somebody else has made is work that its maker chooses. So its sides are
looked at before it is decoded, only formats that models make are read, and few are made at a time,
off the event loop.
"""

import asyncio
import io
from typing import Final

from PIL import Image, ImageOps

from swell.errors import InvalidRequest, NotFound
from swell.objects import ObjectInfo, Objects
from swell.task import THUMBNAIL_WIDTHS, thumbnail_key

__all__ = ["Thumbnails", "has_thumbnail", "width_of"]

#: Larger pictures are not made small: decoding takes 4 bytes for each pixel.
_MOST_PIXELS: Final = 40_000_000
_MOST_BYTES: Final = 64 * 1024 * 1024

#: So many are decoded at once.
_AT_ONCE: Final = 2

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
_TYPES: Final = tuple(f"image/{each.lower()}" for each in _FORMATS)

#: What Pillow raises of pictures that are broken, or say that they are very large.
_UNREADABLE: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

#: A picture is at most so many times as high as wide in small.
_MOST_UPRIGHT: Final = 4

_QUALITY: Final = 80


class Thumbnails:
    """Makes thumbnails of artifacts.

    Args:
        objects: Where both lie.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lanes = asyncio.Semaphore(_AT_ONCE)
        #: Those being made, so that each is made once.
        self._making: dict[str, asyncio.Task[ObjectInfo]] = {}

    async def find(self, key: str, width: int) -> ObjectInfo:
        """Return what is known of an artifact's thumbnail, once it is there.

        Args:
            key: Of the artifact.
            width: One of `THUMBNAIL_WIDTHS`; a picture that is narrower stays as it is.

        Raises:
            NotFound: The artifact is not there.
            InvalidRequest: It is no picture that can be made small.
            Unavailable: The objects cannot be read or written now.
        """
        small = thumbnail_key(key, width)
        try:
            return await self._objects.head(small)
        except NotFound:
            pass
        making = self._making.get(small)
        if making is None:
            making = self._making[small] = asyncio.create_task(self._make(key, small, width))
            making.add_done_callback(lambda made: self._forget(small, made))
        # Whoever hangs up must not take it from the others who wait.
        return await asyncio.shield(making)

    def _forget(self, small: str, made: asyncio.Task[ObjectInfo]) -> None:
        self._making.pop(small, None)
        if not made.cancelled():
            # Everybody who waited may have gone: then nobody else hears of its error.
            made.exception()

    async def _make(self, key: str, small: str, width: int) -> ObjectInfo:
        async with self._lanes:
            info = await self._objects.head(key)
            _check(info)
            data = b"".join([piece async for piece in self._objects.read(key)])
            made = await asyncio.to_thread(_shrunk, data, width)
        stored = await self._objects.put(small, made, "image/webp")
        try:
            await self._objects.head(key)
        except NotFound:
            # It was removed meanwhile, and its thumbnails before this one was there.
            await self._objects.delete([small])
            raise
        return stored


def has_thumbnail(key: str, content_type: str) -> bool:
    """Whether a file is an output that may be shown in small."""
    return key.startswith("outputs/") and content_type in _TYPES


def width_of(text: str) -> int:
    """Return the width that a query asks for.

    Raises:
        InvalidRequest: Thumbnails are not made that wide.
    """
    if text not in map(str, THUMBNAIL_WIDTHS):
        widths = ", ".join(map(str, THUMBNAIL_WIDTHS))
        raise InvalidRequest(f"w={text[:20]!r} is no width of a thumbnail: use one of {widths}")
    return int(text)


def _check(info: ObjectInfo) -> None:
    if not has_thumbnail(info.key, info.content_type):
        raise InvalidRequest(
            f"{info.key[:120]!r} is no output that is a picture, so there is none in small: leave "
            "out w"
        )
    if info.bytes > _MOST_BYTES:
        raise InvalidRequest(
            f"the picture has {info.bytes:,} bytes, and only up to {_MOST_BYTES:,} are made "
            "small: leave out w"
        )


def _shrunk(data: bytes, width: int) -> bytes:
    """Return a picture as WebP, no wider than `width` px.

    Raises:
        InvalidRequest: It cannot be read, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    f"the picture has {picture.width:,} x {picture.height:,} pixels, and only up "
                    f"to {_MOST_PIXELS:,} are made small: leave out w"
                )
            # JPEG can be decoded in half, a quarter or an eighth of its size.
            picture.draft("RGB", (2 * width, 2 * width * _MOST_UPRIGHT))
            upright = ImageOps.exif_transpose(picture)
            has_alpha = "A" in upright.getbands() or "transparency" in upright.info
            small = upright.convert("RGBA" if has_alpha else "RGB")
            small.thumbnail((width, width * _MOST_UPRIGHT), Image.Resampling.LANCZOS)
            made = io.BytesIO()
            small.save(made, "WEBP", quality=_QUALITY)
    except InvalidRequest:
        raise
    except _UNREADABLE as error:
        raise InvalidRequest(
            f"the picture cannot be read ({str(error)[:100]}), so there is none in small: leave "
            "out w"
        ) from error
    return made.getvalue()
