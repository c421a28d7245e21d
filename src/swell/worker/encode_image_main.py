"""Encodes the pixels of an image into a file.

This file is also the program of an encoding process (`encoder_pool.py`). It imports Pillow and
nothing of Swell, so that a process starts quickly and stays small. An order on the standard input
is a head, pixels and the note. The answer on the standard output is a head, and the file or the
text of an error.

Milliseconds and KiB of an image of 1024 x 1024, least of five, one thread of an AMD EPYC, Pillow
13.0, by `benchmarks/encoders.py formats`:

    format                  grain            drawings
    png, level 1            86 ms  1725 KiB   33 ms  489 KiB
    png, level 6           341 ms  1463 KiB   89 ms  376 KiB
    webp, 90, method 2      35 ms    96 KiB   20 ms   41 KiB
    webp, 90, method 4      74 ms    95 KiB   48 ms   39 KiB
    jpeg, 90                 2 ms   150 KiB    2 ms   94 KiB
    avif, 80, speed 8       59 ms   103 KiB   87 ms   50 KiB
    avif, 75, speed 6      188 ms    74 KiB  433 ms   35 KiB
"""

import contextlib
import importlib
import io
import os
import struct
import sys
from typing import Any, Final

import PIL.Image

#: Width, height, bytes of the note, index in `MODES`, index in `KINDS`.
ORDER: Final = struct.Struct("!IIIBB")

#: Whether it failed, and how many bytes follow: a file, or an error in UTF-8.
ANSWER: Final = struct.Struct("!?Q")

#: Modes of pixels; each letter is a byte per pixel.
MODES: Final = ("L", "RGB", "RGBA")

#: Formats, and the modules of Pillow that write them.
KINDS: Final = {"png": "Png", "webp": "WebP", "jpeg": "Jpeg", "avif": "Avif"}

_KIND_AT: Final = list(KINDS)

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

#: Added to the niceness of an encoding process, so that worker and model come first.
LOWERED_BY: Final = 5


def compress(picture: PIL.Image.Image, kind: str, note: str) -> bytes:
    """Return an image as a file.

    Args:
        picture: Of a mode in `MODES`; JPEG drops transparency.
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
        # Images are encoded in parallel already, by processes.
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


# The program


def _answer(order: bytes, pixels: bytes, note: bytes) -> bytes:
    """Return the answer to one order."""
    width, height, _, mode_at, kind_at = ORDER.unpack(order)
    mode, is_error = MODES[mode_at], False
    try:
        picture = PIL.Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
        data = compress(picture, _KIND_AT[kind_at], note.decode())
    except Exception as error:
        data, is_error = f"{error}".encode(errors="replace") or b"no reason was given", True
    return ANSWER.pack(is_error, len(data)) + data


def main() -> None:
    """Answer orders until the input closes."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    os.nice(LOWERED_BY)
    with contextlib.suppress(BrokenPipeError):
        while len(order := source.read(ORDER.size)) == ORDER.size:
            width, height, note_bytes, mode_at, _ = ORDER.unpack(order)
            pixels = source.read(width * height * len(MODES[mode_at]))
            target.write(_answer(order, pixels, source.read(note_bytes)))
            target.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
