"""Samples on model cards: small files next to the model that show its results."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import PIL.Image

from swell.core.errors import InvalidRequest
from swell.core.records import Sample

#: Limits of samples on a card: number, and bytes of each.
MOST_SAMPLES: Final = 12
MOST_BYTES: Final = 96 * 1024

#: The card itself contains text samples.
MOST_TEXT_BYTES: Final = 4 * 1024
TEXT: Final = "text/plain"

#: Types that browsers show or play and never execute.
_PICTURES: Final = frozenset({"image/png", "image/webp", "image/jpeg", "image/gif", "image/avif"})
CONTENT_TYPES: Final = _PICTURES | {"audio/wav", "audio/ogg", "audio/mpeg", TEXT}

_SOUND_SUFFIXES: Final = (".wav", ".ogg", ".mp3")


def read_samples(paths: Mapping[str, Path]) -> list[Sample]:
    """Return the samples of a card, with their content.

    Args:
        paths: Caption → file: `.txt` is a text, `.wav`, `.ogg` and `.mp3` are sounds, all others
            are pictures.

    Raises:
        InvalidRequest: A file cannot be read, is too large, or is of another type than its name
            says. The error says what to do.
    """
    if len(paths) > MOST_SAMPLES:
        raise InvalidRequest(f"a card has room for {MOST_SAMPLES} samples, not {len(paths)}")
    return [_read(caption, path) for caption, path in paths.items()]


def _read(caption: str, path: Path) -> Sample:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the sample {path.name} cannot be read: {error.strerror}") from error
    content_type, width, height = _type_of(data, path)
    sample = Sample(
        caption=caption,
        content_type=content_type,
        digest=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        data=data,
    )
    try:
        return msgspec.structs.replace(sample, text=checked_text(sample))
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.detail}") from None


def _type_of(data: bytes, path: Path) -> tuple[str, int, int]:
    """Return the content type of a file; of a picture, also its width and height in px."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return TEXT, 0, 0
    if suffix in _SOUND_SUFFIXES:
        return _sound_type(data, path.name), 0, 0
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            return PIL.Image.MIME.get(picture.format or "", ""), picture.width, picture.height
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InvalidRequest(f"the sample {path.name} is no picture: {error}") from error


def _sound_type(data: bytes, name: str) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"OggS":
        return "audio/ogg"
    # An MP3 begins with a tag or with a frame (11 bits that are 1).
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return "audio/mpeg"
    raise InvalidRequest(f"the sample {name} is no sound: save it as WAV, Ogg or MP3")


def checked_text(sample: Sample) -> str:
    """Return the text of a sample that a card may contain; empty for pictures and sounds.

    Raises:
        InvalidRequest: It is empty, too large, of a type that browsers do not show, or a text that
            is not UTF-8.
    """
    if not sample.data:
        raise InvalidRequest(f"the sample {sample.caption[:60]!r} is empty: send its content")
    is_text = sample.content_type == TEXT
    limit_bytes = MOST_TEXT_BYTES if is_text else MOST_BYTES
    if len(sample.data) > limit_bytes:
        remedy = "shorten it" if is_text else "make it smaller"
        if sample.content_type in _PICTURES:
            remedy += ", or save it as WebP"
        raise InvalidRequest(
            f"a sample has {len(sample.data):,} bytes, and the limit is {limit_bytes:,}: {remedy}"
        )
    if sample.content_type not in CONTENT_TYPES:
        kinds = ", ".join(sorted(each.partition("/")[2] for each in CONTENT_TYPES - {TEXT}))
        raise InvalidRequest(
            f"a sample must be a plain text, or a picture or sound of one of these kinds: {kinds}"
        )
    if not is_text:
        return ""
    try:
        return sample.data.decode().strip()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"the sample {sample.caption[:60]!r} is not in UTF-8: save it in that"
        ) from None
