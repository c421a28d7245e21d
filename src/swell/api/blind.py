"""Copies of pictures that do not reveal the model: decoded, and encoded again without metadata."""

import asyncio
import io
import secrets
from collections.abc import Mapping
from typing import Final

from PIL import Image, ImageOps

from swell.api.files import read_file
from swell.comparisons import Picture
from swell.errors import InvalidRequest
from swell.objects import Objects
from swell.task import Artifact

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
_TYPES: Final = tuple(f"image/{each.lower()}" for each in _FORMATS)

#: Limits of one picture; decoded, a pixel takes up to 16 bytes.
_MOST_PIXELS: Final = 20_000_000
_MOST_BYTES: Final = 64 * 1024 * 1024

#: No visible loss.
_QUALITY: Final = 95


def can_be_blind(artifact: Artifact) -> bool:
    """Whether a file is a picture that can be copied."""
    return artifact.content_type in _TYPES


async def copy_blind(
    objects: Objects,
    lanes: asyncio.Semaphore,
    comparison_id: str,
    artifacts: Mapping[str, Artifact],
) -> dict[str, Picture]:
    """Store copies of pictures under random keys; store none if one fails.

    Args:
        objects: Stores originals and copies.
        lanes: Limits how many pictures the backend decodes at a time.
        comparison_id: Of the comparison.
        artifacts: By task, in the order that voters see: the times of the copies then
            reveal nothing.

    Raises:
        InvalidRequest: A picture cannot be read, or is too large.
        NotFound: A picture was deleted.
    """
    keys = {each: f"comparisons/{comparison_id}/{secrets.token_hex(16)}.webp" for each in artifacts}
    try:
        return {
            task_id: await _copy(objects, lanes, keys[task_id], artifact)
            for task_id, artifact in artifacts.items()
        }
    except BaseException:
        await objects.delete(list(keys.values()))
        raise


async def _copy(
    objects: Objects, lanes: asyncio.Semaphore, key: str, artifact: Artifact
) -> Picture:
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
    """Return a picture as WebP without metadata, its width and its height."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise InvalidRequest(
                    f"a picture has {picture.width:,} x {picture.height:,} pixels, and only up to "
                    f"{_MOST_PIXELS:,} are compared"
                )
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            upright = ImageOps.exif_transpose(picture).convert("RGBA" if has_alpha else "RGB")
            # Pillow would write the metadata of the picture itself again.
            bare = Image.frombytes(upright.mode, upright.size, upright.tobytes())
            encoded = io.BytesIO()
            bare.save(encoded, "WEBP", quality=_QUALITY)
    except InvalidRequest:
        raise
    except Exception as error:
        # Decoders raise errors of any type on broken files.
        raise InvalidRequest(f"a picture cannot be read ({str(error)[:100]})") from error
    return encoded.getvalue(), bare.width, bare.height
