"""demo/curve that notes when its device worked, and for whom: for the benchmarks of whole workers.

A file of notes, which WORKER_NOTES names, gets the begin and end of each step and of each decoding,
in nanoseconds of the monotonic clock, which is the same in all processes. If WORKER_PICTURE names a
picture, each result is that one. Both may be left out.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import time
from typing import Any

import numpy as np
import PIL.Image

import swell
from swell.models.icons import Icons
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.step_model import Plan
from swell_models.simulated_gpu import CurveModel

#: Rows of a step of `Noted`.
ROWS = 8
#: Begin, end, rows of a step, and whose they are; 0 rows for a decoding.
NOTE = struct.Struct(f"<qqq{ROWS}q")


class _Notes:
    def __init__(self) -> None:
        path = os.environ.get("WORKER_NOTES")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND) if path else None

    def write(self, begun_ns: int, rows: int, seeds: list[int]) -> None:
        if self._file is not None:
            whose = (seeds + [-1] * ROWS)[:ROWS]
            os.write(self._file, NOTE.pack(begun_ns, time.monotonic_ns(), rows, *whose))


def _picture() -> PIL.Image.Image | None:
    path = os.environ.get("WORKER_PICTURE")
    if not path:
        return None
    picture = PIL.Image.open(path)
    picture.load()
    return picture


class Noted(CurveModel):
    """demo/curve, with notes."""

    name = "demo/noted"
    bucket = ROWS

    def load(self, device: str) -> None:
        super().load(device)
        self.notes, self.picture = _Notes(), _picture()

    def prepare(self, item: Item[Any]) -> Plan:
        plan = super().prepare(item)
        return dataclasses.replace(plan, values={**plan.values, "whose": plan.seed or 0})

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        begun_ns = time.monotonic_ns()
        result = super().denoise(x, t, conditions)
        self.notes.write(begun_ns, len(x), conditions["whose"].tolist())
        return result

    def decode(self, latents: Any, item: Item[Any]) -> Image:
        begun_ns = time.monotonic_ns()
        plain = super().decode(latents, item)
        self.notes.write(begun_ns, 0, [item.seed])
        return plain if self.picture is None else Image(self.picture)


class Alone(Noted):
    """The same, one picture at a time: what a model is that never gains from a batch."""

    name = "demo/noted-alone"
    bucket = 1


class Serial(swell.Model):
    """The same without the step engine: one task after another, first come, first served."""

    name = "demo/noted-serial"
    Output = Image
    batch = swell.Batch(max=1)
    Input = CurveModel.Input

    def load(self, device: str) -> None:
        self.network = Alone()
        self.network.load(device)

    def run(self, items: list[Item[Any]]) -> list[Image]:
        return [self._drawn(item) for item in items]

    def _drawn(self, item: Item[Any]) -> Image:
        plan = self.network.prepare(item)
        x, t = np.zeros((1, *plan.shape), np.float32), np.zeros(1, np.float32)
        heard = {name: np.stack([np.asarray(value)]) for name, value in plan.values.items()}
        for _ in range(item.input.steps):
            self.network.denoise(x, t, heard)
        return self.network.decode(x[0], item)


class Threaded(Icons):
    """swell/icons with as many threads as WORKER_THREADS says, and notes that name nobody."""

    name = "demo/threaded-icons"
    files = ()

    def __init__(self) -> None:
        super().__init__(int(os.environ.get("WORKER_THREADS", "0")) or None)
        self.notes: _Notes | None = None

    def warmup(self) -> None:
        super().warmup()
        self.notes = _Notes()

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        begun_ns = time.monotonic_ns()
        result = super().denoise(x, t, conditions)
        self._note(begun_ns, len(x))
        return result

    def decode(self, latents: Any, item: Item[Any]) -> Any:
        # What another thread does of it is not noted.
        begun_ns = time.monotonic_ns()
        result = super().decode(latents, item)
        self._note(begun_ns, 0)
        return result

    def _note(self, begun_ns: int, rows: int) -> None:
        if self.notes is not None:
            self.notes.write(begun_ns, rows, [0])
