"""Thumbnails, made at the first request and stored next to the originals.

The author of a picture decides how much work its decoding is. So its sides are checked first, only
formats that models make are decoded, and few at a time, off the event loop.
"""

import asyncio
import contextlib
import io
from collections.abc import Iterator
from functools import partial
from typing import Final

from PIL import ExifTags, Image, ImageOps

from swell.core.errors import InvalidRequest, NotFound
from swell.core.task import THUMBNAIL_WIDTHS, thumbnail_key
from swell.objects.object_store import ObjectInfo, Objects
from swell.server.single_flight import SingleFlight

#: Larger pictures are not decoded. Decoded, a pixel takes up to 4 bytes, which the decoders of
#: WebP and AVIF decoders need up to four times this; later steps work in bands.
_MOST_PIXELS: Final = 40_000_000
_MOST_OF: Final = {"WEBP": 20_000_000, "AVIF": 20_000_000}
_MOST_BYTES: Final = 64 * 1024 * 1024

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
PICTURE_TYPES: Final = tuple(f"image/{each.lower()}" for each in _FORMATS)

#: Values of EXIF's orientation that swap the sides.
_SWAPPED: Final = range(5, 9)

#: Pixels of one band.
_BAND_PIXELS: Final = 1_000_000

#: Largest ratio of height to width of a thumbnail.
_MOST_UPRIGHT: Final = 4

_QUALITY: Final = 80

#: Later requests do not wait for a thumbnail that takes longer than this, in seconds.
_SHARED_S: Final = 60.0


class Thumbnails:
    """Makes thumbnails of artifacts.

    Args:
        objects: The store of originals and thumbnails.
        lanes: Limits the pictures that are decoded at once.
    """

    def __init__(self, objects: Objects, lanes: asyncio.Semaphore) -> None:
        self._objects = objects
        self._lanes = lanes
        #: Those being made, so that each is made once.
        self._flights = SingleFlight[str, ObjectInfo](shared_s=_SHARED_S)

    async def find(self, key: str, width: int) -> ObjectInfo:
        """Return the metadata of an artifact's thumbnail, and make it first if necessary.

        Args:
            key: Key of the artifact.
            width: One of `THUMBNAIL_WIDTHS`; a narrower picture keeps its size.

        Raises:
            NotFound: The artifact is not there.
            InvalidRequest: It is no picture that can be made small.
            Unavailable: The objects cannot be read or written now.
        """
        small = thumbnail_key(key, width)
        with contextlib.suppress(NotFound):
            return await self._objects.head(small)
        return await self._flights.run(small, partial(self._make, key, small, width))

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
            # The original was removed, with its thumbnails, before this one was stored.
            await self._objects.delete([small])
            raise
        return stored


def has_thumbnail(key: str, content_type: str) -> bool:
    """Whether a file is an output that may be shown in small."""
    return key.startswith("outputs/") and content_type in PICTURE_TYPES


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
        raise InvalidRequest(f"{info.key[:120]!r} is not a picture of a task: leave out w")
    if info.bytes > _MOST_BYTES:
        size = f"{info.bytes:,} bytes, more than {_MOST_BYTES:,}"
        raise InvalidRequest(f"the picture has {size}: leave out w")


@contextlib.contextmanager
def opened_picture(data: bytes, advice: str, most: int = _MOST_PIXELS) -> Iterator[Image.Image]:
    """Open a picture of a model or a user, whose sides are checked before it is decoded.

    Raises:
        InvalidRequest: It cannot be read, or has too many pixels; the text ends with the advice.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            most = min(most, _MOST_OF.get(picture.format or "", most))
            if picture.width * picture.height > most:
                size = f"{picture.width:,} x {picture.height:,} pixels, more than {most:,}"
                raise InvalidRequest(f"the picture has {size}: {advice}")
            yield picture
    except InvalidRequest:
        raise
    except Exception as error:
        # A decoder may raise anything on malicious bytes.
        detail = f"the picture cannot be read ({str(error)[:100]}): {advice}"
        raise InvalidRequest(detail) from error


def _shrunk(data: bytes, width: int) -> bytes:
    """Return a picture as WebP, no wider than `width` px."""
    made = io.BytesIO()
    with opened_picture(data, "leave out w") as picture:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        upright = (width, width * _MOST_UPRIGHT)
        sides = upright[::-1] if orientation in _SWAPPED else upright
        # JPEG can be decoded in half, a quarter or an eighth of its size.
        picture.draft("RGB", (2 * sides[0], 2 * sides[1]))
        small = _coarse(picture, sides)
        small.thumbnail(sides, Image.Resampling.LANCZOS)
        small.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(small).save(made, "WEBP", quality=_QUALITY)
    return made.getvalue()


def _coarse(picture: Image.Image, sides: tuple[int, int]) -> Image.Image:
    """Return a picture in RGB or RGBA, made small by a whole number where it is much too large.

    It stays at least twice as large as asked, for the finer filter that comes after.
    """
    factor = max(1, int(max(picture.width / sides[0], picture.height / sides[1]) / 2))
    rows = factor * max(1, _BAND_PIXELS // (picture.width * factor))
    picture.load()
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    made = Image.new(mode, (-(-picture.width // factor), -(-picture.height // factor)))
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        made.paste(_eight_bits(band).convert(mode).reduce(factor), (0, top // factor))
    return made


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture with 8-bit greys: Pillow would clip larger values."""
    if not picture.mode.startswith("I"):
        return picture
    return picture.point(lambda grey: grey / 256).convert("L")
