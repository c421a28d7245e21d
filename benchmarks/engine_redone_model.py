"""A model that notes each step that it begins: for engine_redone.py.

A file, which REDONE_NOTES names, gets a line with the sample and the time of its step, before the
step runs. So a step that was in flight when the process was killed is noted as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.step_model import Plan, Sampler, StepModel

#: Samples are named by 100 times their task's number, and their index.
SAMPLES = 100


class Redone(StepModel):
    """Draws noise that gets calmer, by the solvers that remember or draw something."""

    name = "demo/redone"
    Output = Image
    bucket = 4

    class Input(BaseModel):
        who: int = 0
        steps: int = 20
        step_s: float = 0.025
        solver: str = "euler_ancestral"

    def load(self, device: str) -> None:
        self.notes = os.open(os.environ["REDONE_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def prepare(self, item: Item[Any]) -> Plan:
        asked = item.input
        return Plan(
            sampler=Sampler(asked.solver, asked.steps),
            shape=(4, 32, 32),
            values={"step_s": asked.step_s, "who": float(SAMPLES * asked.who + item.index)},
        )

    def denoise(
        self, x: NDArray[np.float32], t: NDArray[np.float32], conditions: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        # Padding names the first sample once more.
        begun = {(int(who), f"{when:.3f}") for who, when in zip(conditions["who"], t, strict=True)}
        os.write(self.notes, "".join(f"{who} {when}\n" for who, when in begun).encode())
        time.sleep(float(conditions["step_s"].max()))
        return x * np.float32(0.5)

    def decode(self, latents: NDArray[np.float32], item: Item[Any]) -> Image:
        pixels = (latents[:3].transpose(1, 2, 0) * 40 + 128).clip(0, 255)
        return Image(pixels.astype(np.uint8))
