"""Pixels to the bytes of a picture's file.

This file is also a program, `python compress.py SOCKET MEMORY`: an encoding process as
`encoders.py` starts them. So that many start at once and stay small, it imports Pillow and nothing
of Swell. Both arguments are numbers of open files. An order comes through the socket, and what it
is about lies in the shared memory: the pixels, and behind them the note. The file's bytes, or the
text of an error, are put into the same memory, and the answer tells how many there are.

Milliseconds and KiB of a picture of 1024 x 1024, least of five, one thread of an AMD EPYC, Pillow
13.0, by `benchmarks/encoders.py formats`; of soft colours with grain, and of drawings:

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
import mmap
import os
import struct
import sys
from typing import Any, Final

import PIL.Image

#: Width, height, bytes of the note, index in `MODES`, index in `KINDS`.
ORDER: Final = struct.Struct("!IIIBB")

#: Whether it went wrong, and how many bytes lie in the memory: a file, or an error in UTF-8.
ANSWER: Final = struct.Struct("!?Q")

#: What pixels may be; the number of letters is that of bytes per pixel.
MODES: Final = ("L", "RGB", "RGBA")

#: Formats, and the modules of Pillow that write them.
KINDS: Final = {"png": "Png", "webp": "WebP", "jpeg": "Jpeg", "avif": "Avif"}

_KIND_AT: Final = list(KINDS)

#: Quality of JPEG and WebP: no visible loss at normal size.
QUALITY: Final = 90

#: AVIF's scale is another one: this looks like 90 elsewhere.
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

#: So much less than its worker and its model an encoding process insists on the processor.
LOWERED_BY: Final = 5


def compress(picture: PIL.Image.Image, kind: str, note: str) -> bytes:
    """Return a picture as a file.

    Args:
        picture: Of a mode in `MODES`; JPEG has no transparency and leaves it out.
        kind: One of `KINDS`.
        note: JSON that tells how the picture came to be; at most 64 KB for JPEG.

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
        # Pictures run side by side in processes: more threads for one would only disturb others.
        options = {"quality": AVIF_QUALITY, "speed": AVIF_SPEED, "max_threads": 1}
        picture.save(target, "AVIF", exif=exif, **options)
    return target.getvalue()


def in_ascii(text: str) -> str:
    """Return JSON with escapes for all that is not ASCII: Exif has no other letters."""
    if text.isascii():
        return text
    return "".join(letter if letter.isascii() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    units = struct.iter_unpack(">H", letter.encode("utf-16-be"))
    return "".join(f"\\u{unit:04x}" for (unit,) in units)


def _plugin(kind: str) -> Any:
    """Load what writes a format: by itself Pillow would load every format that it knows."""
    plugin = importlib.import_module(f"PIL.{KINDS[kind]}ImagePlugin")
    if kind.upper() not in PIL.Image.SAVE:
        raise ValueError(f"the Pillow of this worker cannot write {kind.upper()}")
    return plugin


# --- the program ---------------------------------------------------------------------------------


class _Memory:
    """The shared memory, which the other side may enlarge between two orders."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._map: mmap.mmap | None = None

    def view(self, size_bytes: int) -> memoryview:
        if self._map is None or len(self._map) < size_bytes:
            # The old map goes when nobody looks at it any more.
            self._map = mmap.mmap(self._number, size_bytes)
        return memoryview(self._map)[:size_bytes]

    def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            at += os.pwrite(self._number, memoryview(data)[at:], at)


def _answer(memory: _Memory, order: bytes) -> bytes:
    """Do one order, and return the answer to it."""
    width, height, note_bytes, mode_at, kind_at = ORDER.unpack(order)
    mode, is_error = MODES[mode_at], False
    pixel_bytes = width * height * len(mode)
    try:
        view = memory.view(pixel_bytes + note_bytes)
        note = bytes(view[pixel_bytes:]).decode()
        pixels: Any = view[:pixel_bytes]
        picture = PIL.Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
        data = compress(picture, _KIND_AT[kind_at], note)
    except Exception as error:
        data, is_error = f"{error}".encode(errors="replace") or b"no reason was given", True
    memory.write(data)
    return ANSWER.pack(is_error, len(data))


def _read(number: int, count: int) -> bytes:
    """Return so many bytes, or fewer if there will be no more."""
    data = b""
    while len(data) < count and (more := os.read(number, count - len(data))):
        data += more
    return data


def main() -> None:
    """Encode until the other side closes the socket, in whatever way."""
    socket, memory = int(sys.argv[1]), _Memory(int(sys.argv[2]))
    os.nice(LOWERED_BY)
    try:
        while len(order := _read(socket, ORDER.size)) == ORDER.size:
            os.write(socket, _answer(memory, order))
    except (BrokenPipeError, ConnectionResetError):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
