"""Turns results into files: names, types, and the note in an image. Pure but for Pillow.

Milliseconds and KiB of an image of 1024 x 1024, least of five, one thread of an AMD EPYC, Pillow
13.0, by `benchmarks/encoders.py`:

    format                  grain            drawings
    png, level 1            86 ms  1725 KiB   33 ms  489 KiB
    png, level 6           341 ms  1463 KiB   89 ms  376 KiB
    webp, 90, method 2      35 ms    96 KiB   20 ms   41 KiB
    webp, 90, method 4      74 ms    95 KiB   48 ms   39 KiB
    jpeg, 90                 2 ms   150 KiB    2 ms   94 KiB
    avif, 80, speed 8       59 ms   103 KiB   87 ms   50 KiB
    avif, 75, speed 6      188 ms    74 KiB  433 ms   35 KiB
"""

import importlib
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import PIL.Image

from swell.core.task import Artifact
from swell.runtime.ipc_messages import Blob, Pixels

#: Longest note, in characters of ASCII: JPEG has 64 KiB for Exif.
MAX_NOTE: Final = 60_000

#: If a note is too long, texts of the input are cut to this many characters.
_CUT_TEXT: Final = 400

_EXTENSIONS: Final = {
    "image/png": "png",
    "image/webp": "webp",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/svg+xml": "svg",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "model/gltf-binary": "glb",
    "application/json": "json",
    "text/plain": "txt",
}


#: Formats, and the modules of Pillow that write them.
KINDS: Final = {"png": "Png", "webp": "WebP", "jpeg": "Jpeg", "avif": "Avif"}

#: Quality of JPEG and WebP: no visible loss at normal size.
QUALITY: Final = 90

#: On the scale of AVIF; it looks like 90 in other formats.
AVIF_QUALITY: Final = 80

#: From 0 to 10; at 6 a picture takes four times as long and is a tenth smaller.
AVIF_SPEED: Final = 8

#: From 0 to 6; 4 takes twice as long as 2 and saves a thirtieth.
WEBP_METHOD: Final = 2

#: zlib level 1 is three times as fast as 6 or more, and a quarter larger.
PNG_LEVEL: Final = 1

#: Exif tags: ImageDescription and Software.
EXIF_DESCRIPTION: Final = 0x010E
EXIF_SOFTWARE: Final = 0x0131


@dataclass(frozen=True, slots=True)
class FileNote:
    """The origin of an image, for its file."""

    model: str
    version: str
    #: The task's input, as JSON.
    input: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file ready to be delivered."""

    data: bytes
    content_type: str
    #: File name, such as `0.png`.
    name: str
    width: int | None = None
    height: int | None = None

    def artifact(self, key: str) -> Artifact:
        """Return its description in the outcome; `key` is where it is stored."""
        return Artifact(
            key=key,
            content_type=self.content_type,
            bytes=len(self.data),
            width=self.width,
            height=self.height,
        )


def wanted_format(raw: msgspec.Raw, default: str) -> str:
    """Return the format that an input asks for in `output_format` or `format`, or `default`."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return default
    for name in ("output_format", "format"):
        asked = str(fields.get(name, "")).lower().replace("jpg", "jpeg")
        if asked in KINDS:
            return asked
    return default


def kind_of(file: Pixels, default: str) -> str:
    """Return the format of an image: the model's choice, or the default."""
    return file.format if file.format in KINDS else default


def file_names(files: Sequence[Pixels | Blob], default_format: str, first: int = 0) -> list[str]:
    """Return the names that files will have, before they are encoded.

    Args:
        files: Of one task.
        default_format: Format of images.
        first: The number of the first of them.
    """
    return [
        _name(index, f"image/{kind_of(file, default_format)}")
        if isinstance(file, Pixels)
        else _as_it_is(file, index).name
        for index, file in enumerate(files, first)
    ]


def encode(file: Pixels | Blob, index: int, default_format: str, note: FileNote) -> Encoded:
    """Return file number `index` of a task as bytes, encoded by this thread."""
    if isinstance(file, Blob):
        return _as_it_is(file, index)
    kind = kind_of(file, default_format)
    expected = file.width * file.height * len(file.mode)
    if file.mode not in ("L", "RGB", "RGBA") or len(file.data) != expected:
        raise ValueError(f"the picture has {len(file.data):,} bytes and needs {expected:,}")
    picture = PIL.Image.frombytes(file.mode, (file.width, file.height), file.data)
    data, content_type = compress(picture, kind, note_text(file, note)), f"image/{kind}"
    return Encoded(data, content_type, _name(index, content_type), file.width, file.height)


def compress(picture: PIL.Image.Image, kind: str, note: str) -> bytes:
    """Return an image as a file.

    Args:
        picture: In `L`, `RGB` or `RGBA`; JPEG drops transparency.
        kind: One of `KINDS`.
        note: JSON with the origin of the image; at most 64 KB for JPEG.

    Raises:
        ValueError: It does not fit the format, or this Pillow cannot write it.
        OSError: As `ValueError`.
    """
    target = io.BytesIO()
    plugin = _plugin(kind)
    if kind == "png":
        info = plugin.PngInfo()
        info.add_text("Software", "Swell")
        info.add_itxt("swell", note)
        picture.save(target, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
        return target.getvalue()
    exif = PIL.Image.Exif()
    exif[EXIF_DESCRIPTION] = in_ascii(note)
    exif[EXIF_SOFTWARE] = "Swell"
    if kind == "jpeg":
        picture.convert("RGB").save(target, "JPEG", quality=QUALITY, exif=exif)
    elif kind == "webp":
        picture.save(target, "WEBP", quality=QUALITY, method=WEBP_METHOD, exif=exif)
    else:
        # Images are encoded in parallel already.
        options = {"quality": AVIF_QUALITY, "speed": AVIF_SPEED, "max_threads": 1}
        picture.save(target, "AVIF", exif=exif, **options)
    return target.getvalue()


def in_ascii(text: str) -> str:
    """Return JSON with escapes for all that is not ASCII, as Exif needs it."""
    if text.isascii():
        return text
    return "".join(letter if letter.isascii() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    units = struct.iter_unpack(">H", letter.encode("utf-16-be"))
    return "".join(f"\\u{unit:04x}" for (unit,) in units)


def _plugin(kind: str) -> Any:
    """Load one format; Pillow would load all of them."""
    plugin = importlib.import_module(f"PIL.{KINDS[kind]}ImagePlugin")
    if kind.upper() not in PIL.Image.SAVE:
        raise ValueError(f"the Pillow of this worker cannot write {kind.upper()}")
    return plugin


def note_text(file: Pixels, note: FileNote) -> str:
    """Return the origin of an image as JSON of at most `MAX_NOTE` characters."""
    for told in _notes(file, note):
        text = msgspec.json.encode(told).decode()
        if len(text) <= MAX_NOTE and len(in_ascii(text)) <= MAX_NOTE:
            break
    return text


def _notes(file: Pixels, note: FileNote) -> Iterator[dict[str, Any]]:
    """Yield the whole note, then shorter ones: long texts of the input go first."""
    origin = {"model": note.model, "version": note.version, "seed": file.seed}
    own = msgspec.json.decode(file.metadata, type=dict[str, Any])
    yield {**origin, "input": note.input, **own}
    yield {**origin, "input": _cut(msgspec.json.decode(note.input)), **own}
    yield {**origin, **own}
    yield origin


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _CUT_TEXT:
        return f"{value[:_CUT_TEXT]}… ({len(value):,} characters)"
    if isinstance(value, list):
        return [_cut(part) for part in value]
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    return value


def _as_it_is(file: Blob, index: int) -> Encoded:
    content_type, width, height = file.content_type, None, None
    if content_type.startswith("image/"):
        try:
            with PIL.Image.open(io.BytesIO(file.data)) as picture:
                width, height = picture.size
                content_type = PIL.Image.MIME.get(picture.format or "", content_type)
        except Exception:
            # A vector image, a format unknown to Pillow, or one that is too large for it.
            if content_type == "image/*":
                content_type = _type_of(file.data)
    return Encoded(file.data, content_type, file.name or _name(index, content_type), width, height)


def _type_of(data: bytes) -> str:
    """Return the type of an image by its first bytes."""
    for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF"):
        _, is_kind = PIL.Image.OPEN.get(kind, (None, None))
        if is_kind is not None and is_kind(data[:16]) is True:
            return PIL.Image.MIME[kind]
    return "application/octet-stream"


def _name(index: int, content_type: str) -> str:
    return f"{index}.{_EXTENSIONS.get(content_type, 'bin')}"
