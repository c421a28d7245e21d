"""Samples on a model's card: small files beside the model that show what it makes."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import PIL.Image

from swell.errors import InvalidRequest
from swell.registry import Sample

#: So many samples a card may have, of so many bytes each: they travel with the card.
MOST_SAMPLES: Final = 12
MOST_BYTES: Final = 96 * 1024

#: A text stands on the card itself.
MOST_TEXT_BYTES: Final = 4 * 1024
TEXT: Final = "text/plain"

#: What browsers show or play and nothing executes.
_PICTURES: Final = frozenset({"image/png", "image/webp", "image/jpeg", "image/gif", "image/avif"})
_SOUNDS: Final = frozenset({"audio/wav", "audio/ogg", "audio/mpeg"})
CONTENT_TYPES: Final = _PICTURES | _SOUNDS | {TEXT}

#: Files with these endings are sounds.
_SOUND_ENDINGS: Final = (".wav", ".ogg", ".mp3")


def read_samples(paths: Mapping[str, Path]) -> list[Sample]:
    """Return the samples of a card, with their content.

    Args:
        paths: Caption → file: a text if it ends in `.txt`, a sound if in `.wav`, `.ogg` or
            `.mp3`, and else a picture.

    Raises:
        InvalidRequest: One cannot be read, is too large or not what its name says; the text says
            what to do.
    """
    if len(paths) > MOST_SAMPLES:
        raise InvalidRequest(f"a card has room for {MOST_SAMPLES} samples, not {len(paths)}")
    return [_read(caption, path) for caption, path in paths.items()]


def _read(caption: str, path: Path) -> Sample:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the sample {path.name} cannot be read: {error.strerror}") from error
    kind, width, height = _looked_at(data, path)
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
    return msgspec.structs.replace(sample, text=text_of(sample))


def _looked_at(data: bytes, path: Path) -> tuple[str, int, int]:
    """Return the content type of a file; of a picture, also its width and height in px."""
    ending = path.suffix.lower()
    if ending == ".txt":
        return TEXT, 0, 0
    if ending in _SOUND_ENDINGS:
        return _sound_kind(data, path.name), 0, 0
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            return PIL.Image.MIME.get(picture.format or "", ""), picture.width, picture.height
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InvalidRequest(f"the sample {path.name} is no picture: {error}") from error


def _sound_kind(data: bytes, name: str) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"OggS":
        return "audio/ogg"
    # An MP3 begins with a tag or with a frame, whose first 11 bits are ones.
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return "audio/mpeg"
    raise InvalidRequest(f"the sample {name} is no sound: save it as WAV, Ogg or MP3")


def check_sample(sample: Sample) -> None:
    """Check that a sample may stand on a card.

    Raises:
        InvalidRequest: It is too large, or of a kind that browsers do not show.
    """
    if not sample.data:
        raise InvalidRequest(f"the sample {sample.caption[:60]!r} is empty: send its content")
    most_bytes = MOST_TEXT_BYTES if sample.content_type == TEXT else MOST_BYTES
    if len(sample.data) > most_bytes:
        remedy = "shorten it" if sample.content_type == TEXT else "make it smaller"
        if sample.content_type in _PICTURES:
            remedy += ", or save it as WebP"
        raise InvalidRequest(
            f"a sample has {len(sample.data):,} bytes, and {most_bytes:,} is the most: {remedy}"
        )
    if sample.content_type not in CONTENT_TYPES:
        kinds = ", ".join(sorted(each.partition("/")[2] for each in CONTENT_TYPES - {TEXT}))
        raise InvalidRequest(
            f"a sample must be a plain text, or a picture or sound of one of these kinds: {kinds}"
        )
    text_of(sample)


def text_of(sample: Sample) -> str:
    """Return what a text says, from its content; nothing for pictures and sounds.

    Raises:
        InvalidRequest: It is not in UTF-8.
    """
    if sample.content_type != TEXT:
        return ""
    try:
        return sample.data.decode().strip()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"the sample {sample.caption[:60]!r} is not in UTF-8: save it in that"
        ) from None
