"""A model that draws nothing and takes its time: for measuring the loop around a network.

A step of so many rows sleeps as long as one took on another machine, divided by `speed`. Sleeping
leaves the processor to whoever encodes, uploads or schedules, as a GPU does.

Source:
    Seconds per step of Qwen-Image-2512 on an H200, bf16, compiled: sglang, pull request 22183.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from swell import ui
from swell.core.records import Speed
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.step_model import Plan, Sampler, StepModel

Floats = NDArray[np.float32]

#: Seconds per step by rows, for pictures of so many pixels a side.
SECONDS: Final[Mapping[int, Mapping[int, float]]] = {
    512: {1: 0.167, 2: 0.183, 3: 0.186, 4: 0.240, 8: 0.425, 16: 0.832},
    1024: {1: 0.243, 2: 0.474, 3: 0.711},
}

#: Four numbers for each of 8 x 8 places.
_LATENTS: Final = (4, 8, 8)

_MOST_POINTS: Final = 16


class CurveModel(StepModel):
    """Sleeps through its steps as long as a large network on a GPU would take for them.

    `size` chooses between two measured cost curves: at 512 px, eight pictures at once cost 2.5
    times what one costs; at 1024 px, one fills the device. `curve` tells another one. The picture
    is noise, from the seed, that got a little calmer.
    """

    name = "demo/curve"
    licence = "Apache-2.0"
    Output = Image
    memory_bytes = 4_000_000
    speed = (Speed("any CPU", "30 steps, ten times as fast as the curve", 1.29, "2026-11-25"),)
    samples = {"its latents, 8 x 8": "samples/curve.webp"}
    examples = ({"steps": 2}, {"steps": 30, "size": 1024, "speed": 100})
    bucket = 8

    class Input(BaseModel):
        """How long to take."""

        model_config = ConfigDict(extra="forbid")
        steps: Annotated[int, Field(ge=1, le=1000), ui.slider()] = 30
        size: Annotated[
            int,
            Field(ge=512, le=1024, description="Pixels a side whose curve is taken: 512 or 1024."),
        ] = 512
        curve: Annotated[
            dict[int, Annotated[float, Field(ge=0, le=60)]] | None,
            Field(min_length=1, max_length=_MOST_POINTS, description="Seconds per step by rows."),
        ] = None
        speed: Annotated[float, Field(ge=1, le=10_000, description="So many times faster.")] = 10.0
        decode_s: Annotated[float, Field(ge=0, le=60, description="To decode a picture.")] = 0.0
        seed: Annotated[int | None, Field(ge=0, lt=2**63), ui.seed()] = None

        @model_validator(mode="after")
        def _is_known(self) -> "CurveModel.Input":
            if self.curve is None and self.size not in SECONDS:
                raise ValueError("size: use 512 or 1024, or tell a curve")
            if self.curve is not None and min(self.curve) < 1:
                raise ValueError("curve: a step has 1 row or more")
            return self

    def prepare(self, item: Item[Input]) -> Plan:
        """Samples of one curve run together."""
        asked = item.input
        seconds = SECONDS[asked.size] if asked.curve is None else asked.curve
        points = tuple((rows, seconds[rows] / asked.speed) for rows in sorted(seconds))
        padded = (*points, *((0, 0.0),) * (_MOST_POINTS - len(points)))
        return Plan(
            sampler=Sampler("flow_euler", asked.steps, spacing="even"),
            shape=_LATENTS,
            values={"curve": np.array(padded, np.float32)},
            key=points,
            bucket=1 if asked.curve is None and asked.size == 1024 else None,
            seed=item.seed if asked.seed is None else asked.seed + item.index,
        )

    def denoise(self, x: Floats, t: Floats, conditions: Mapping[str, Any]) -> Floats:
        """Sleep as long as so many rows take, padding included."""
        time.sleep(step_s(conditions["curve"][0], len(x)))
        return x * np.float32(0.5)

    def decode(self, latents: Floats, item: Item[Input]) -> Image:
        """Show the first three of four numbers. Shapes: (4, 8, 8) -> 8 x 8 px."""
        if item.input.decode_s:
            time.sleep(item.input.decode_s)
        return Image(self.preview(latents, item))

    def preview(self, latents: Floats, item: Any) -> PIL.Image.Image:
        """Do the same without taking time."""
        pixels = ((latents[:3].clip(-2, 2) + 2) * 63.75).round().astype(np.uint8)
        return PIL.Image.fromarray(pixels.transpose(1, 2, 0))


def step_s(points: Floats, rows: int) -> float:
    """Return seconds of a step: in a straight line between points, and on as the last two go.

    Shapes: points (16, 2), rows and seconds, smallest first, the rest zeros.
    """
    known, seconds = (column[points[:, 0] > 0].astype(np.float64) for column in points.T)
    if rows <= known[-1] or len(known) == 1:
        return float(np.interp(rows, known, seconds))
    slope = (seconds[-1] - seconds[-2]) / (known[-1] - known[-2])
    return float(seconds[-1] + slope * (rows - known[-1]))
