"""Pictures on a model's card: small files beside the model that show what it makes."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import PIL.Image

from swell.errors import InvalidRequest
from swell.registry import Sample

__all__ = ["CONTENT_TYPES", "MOST_BYTES", "MOST_SAMPLES", "check_sample", "read_samples"]

#: So many pictures a card may have, of so many bytes each: they travel with the card.
MOST_SAMPLES: Final = 12
MOST_BYTES: Final = 96 * 1024

#: What browsers show and nothing executes.
CONTENT_TYPES: Final = frozenset(
    {"image/png", "image/webp", "image/jpeg", "image/gif", "image/avif"}
)


def read_samples(paths: Mapping[str, Path]) -> list[Sample]:
    """Return the pictures of a card, with their content.

    Args:
        paths: Caption → file.

    Raises:
        InvalidRequest: One cannot be read, is too large or no picture; the text says what to do.
    """
    if len(paths) > MOST_SAMPLES:
        raise InvalidRequest(f"a card has room for {MOST_SAMPLES} samples, not {len(paths)}")
    return [_read(caption, path) for caption, path in paths.items()]


def _read(caption: str, path: Path) -> Sample:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the sample {path.name} cannot be read: {error.strerror}") from error
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            (width, height), kind = picture.size, PIL.Image.MIME.get(picture.format or "", "")
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InvalidRequest(f"the sample {path.name} is no picture: {error}") from error
    sample = Sample(
        caption=caption,
        content_type=kind,
        digest=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        data=data,
    )
    try:
        check_sample(sample)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.detail}") from None
    return sample


def check_sample(sample: Sample) -> None:
    """Check that a picture may stand on a card.

    Raises:
        InvalidRequest: It is too large, or of a kind that browsers do not show.
    """
    if not sample.data:
        raise InvalidRequest(f"the sample {sample.caption[:60]!r} is empty: send its content")
    if len(sample.data) > MOST_BYTES:
        raise InvalidRequest(
            f"a sample has {len(sample.data):,} bytes, and {MOST_BYTES:,} is the most: make it "
            "smaller, or save it as WebP"
        )
    if sample.content_type not in CONTENT_TYPES:
        kinds = ", ".join(sorted(each.partition("/")[2] for each in CONTENT_TYPES))
        raise InvalidRequest(f"a sample must be a picture of one of these kinds: {kinds}")
