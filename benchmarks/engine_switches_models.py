"""The models of GenTD26 for a real worker: each takes its time to load and to draw, scaled down."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from pydantic import BaseModel

import swell
from fleet import LOAD_S, PICTURE_S, SIZE_BYTES

#: So many times faster than the trace.
SCALE = 250


class Sleeper(swell.StepModel):
    """Sleeps as long as a picture takes, once for each part."""

    Output = str
    bucket = 1
    load_s = 0.0

    class Input(BaseModel):
        parts: int = 1

    def load(self, device: str) -> None:
        time.sleep(self.load_s / SCALE)

    def prepare(self, item: Any) -> swell.Plan:
        return swell.Plan(sampler=swell.Sampler("flow_euler", item.input.parts), shape=(1, 2, 2))

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        time.sleep(PICTURE_S / SCALE)
        return x * np.float32(0.5)

    def decode(self, latents: Any, item: Any) -> str:
        return self.name


def owned(model: str) -> str:
    return f"gentd26/{model}"


def a_model(model: str) -> type[Sleeper]:
    body = {"load_s": LOAD_S[model], "memory_bytes": SIZE_BYTES[model]}
    return type(model, (Sleeper,), {"name": owned(model), "__module__": __name__, **body})


globals().update({model: a_model(model) for model in LOAD_S})
