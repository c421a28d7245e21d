"""demo/curve with pictures of a real size, which notes when its device worked: for engine_busy.py.

A file of notes, which BUSY_NOTES names, gets the begin and end of each step and of each decoding,
in nanoseconds of the monotonic clock, which is the same in all processes.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

import PIL.Image

from swell.model import Image
from swell.zoo.curve import CurveModel

#: Begin, end, and rows of a step; 0 rows for a decoding.
NOTE = struct.Struct("<qqq")


class Busy(CurveModel):
    """Sleeps as demo/curve does, and shows the picture that BUSY_PICTURE names."""

    name = "demo/busy"

    def load(self, device: str) -> None:
        super().load(device)
        self.notes = os.open(os.environ["BUSY_NOTES"], os.O_WRONLY | os.O_APPEND)
        self.picture = PIL.Image.open(os.environ["BUSY_PICTURE"])
        self.picture.load()

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        begun = time.monotonic_ns()
        result = super().denoise(x, t, conditions)
        os.write(self.notes, NOTE.pack(begun, time.monotonic_ns(), len(x)))
        return result

    def decode(self, latents: Any, item: Any) -> Image:
        begun = time.monotonic_ns()
        super().decode(latents, item)
        os.write(self.notes, NOTE.pack(begun, time.monotonic_ns(), 0))
        return Image(self.picture)
