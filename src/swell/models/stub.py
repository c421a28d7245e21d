"""Models that need nothing: for demonstrations, tests, and measuring what Swell itself costs."""

import math
import os
import signal
import time
from typing import Annotated, Any, Literal

import PIL.Image
from pydantic import BaseModel, ConfigDict, Field

import swell
from swell import ui

#: What a process grows by with one of these, about.
_MEMORY_BYTES = 1_000_000


class Noop(swell.Model):
    """Gives the text back. The fastest model there is, to measure everything around it."""

    name = "demo/noop"
    licence = "Apache-2.0"
    memory_bytes = _MEMORY_BYTES
    speed = (swell.Speed("one core of an AMD EPYC", "a text", 0.000002, "2026-11-25"),)
    samples = {"a text comes back": "samples/noop.txt"}
    batch = swell.Batch(max=256)
    Output = str

    class Input(BaseModel):
        """What to give back."""

        model_config = ConfigDict(extra="forbid")
        text: str = Field("", examples=["hello"])

    def run(self, items: list[swell.Item[Input]]) -> list[str | Exception]:
        """Return each text."""
        return [item.input.text for item in items]


@swell.model(
    "demo/upper",
    batch=swell.Batch(max=32),
    licence="Apache-2.0",
    memory_bytes=_MEMORY_BYTES,
    speed=(swell.Speed("one core of an AMD EPYC", "a text", 0.000005, "2026-11-25"),),
    samples={"in capitals": "samples/upper.txt"},
)
def upper(text: Annotated[str, Field(examples=["hello"]), ui.textarea()]) -> str:
    """Writes the text in capitals."""
    return text.upper()


@swell.model(
    "demo/echo-picture",
    licence="Apache-2.0",
    memory_bytes=_MEMORY_BYTES,
    speed=(
        swell.Speed(
            "one core of an AMD EPYC", "128 x 128, steps that take no time", 0.0016, "2026-11-25"
        ),
    ),
    samples={
        "a red fox": "samples/echo-picture-fox.webp",
        "a blue cat": "samples/echo-picture-cat.webp",
    },
)
def echo_picture(  # noqa: PLR0913 - each parameter is a field of the form
    prompt: Annotated[str, Field(max_length=500, examples=["a red fox"]), ui.textarea()] = "",
    width: Annotated[int, Field(ge=16, le=1024), ui.slider(step=16)] = 128,
    height: Annotated[int, Field(ge=16, le=1024), ui.slider(step=16)] = 128,
    steps: Annotated[int, Field(ge=1, le=1000), ui.slider()] = 8,
    step_s: Annotated[float, Field(ge=0, le=60), ui.slider(step=0.01, advanced=True)] = 0.0,
    output_format: Literal["png", "webp", "jpeg"] = "png",
    seed: Annotated[int | None, ui.seed()] = None,
    ctx: swell.Context | None = None,
) -> swell.Image:
    """Draws rings; their colours and centre depend on the prompt and the seed alone.

    It takes `steps` steps of `step_s` seconds, reports progress and previews, and stops when it is
    cancelled: all that a diffusion model does, without one.
    """
    ctx = ctx or swell.Context(seed=seed or 0)
    wave = _Wave(prompt, ctx.seed if seed is None else seed)
    for step in range(1, steps + 1):
        ctx.check()
        if step_s:
            time.sleep(step_s)
        rings = step
        ctx.progress(step, steps)
        ctx.preview(lambda rings=rings: wave.draw(64, 64, rings))  # type: ignore[misc]
    return swell.Image(wave.draw(width, height, steps))


class _Wave:
    def __init__(self, prompt: str, seed: int) -> None:
        state = seed & 0xFFFFFFFF
        for byte in prompt.encode():
            state = (state * 16777619 ^ byte) & 0xFFFFFFFF
        # A few rounds of a linear congruential generator (Numerical Recipes, 2nd ed., section 7.1).
        self._numbers = []
        for _ in range(8):
            state = (1664525 * state + 1013904223) & 0xFFFFFFFF
            self._numbers.append(state / 2**32)

    def draw(self, width: int, height: int, rings: int) -> PIL.Image.Image:
        """Return the picture, coarse and then made large: a small loop is enough."""
        side = 48
        centre_x, centre_y = self._numbers[0] * side, self._numbers[1] * side
        phases = [2 * math.pi * number for number in self._numbers[2:5]]
        pixels = bytearray()
        for y in range(side):
            for x in range(side):
                far = math.hypot(x - centre_x, y - centre_y) / side * (2 + rings % 12)
                pixels += bytes(int(127.5 + 127.5 * math.sin(far * 3 + phase)) for phase in phases)
        small = PIL.Image.frombytes("RGB", (side, side), bytes(pixels))
        return small.resize((width, height), PIL.Image.Resampling.BICUBIC)


class Crash(swell.Model):
    """Fails in every way a model can, on demand. For tests of everything around it."""

    name = "demo/crash"
    licence = "Apache-2.0"
    memory_bytes = _MEMORY_BYTES
    speed = (swell.Speed("one core of an AMD EPYC", "a text, not failing", 0.000002, "2026-11-25"),)
    samples = {"what becomes of the task": "samples/crash.txt"}
    batch = swell.Batch(max=8)
    Output = str
    examples = ({"how": "not"},)

    class Input(BaseModel):
        """How to fail."""

        model_config = ConfigDict(extra="forbid")
        how: Literal[
            "not", "die", "exit", "raise", "reject", "sleep", "memory", "wrong-result", "raise-all"
        ] = "die"
        #: For `sleep`.
        sleep_s: float = Field(1.0, ge=0, le=3600)
        #: For `memory`.
        mebibytes: int = Field(64, ge=1, le=1 << 20)
        text: str = ""

    def run(self, items: list[swell.Item[Input]]) -> list[Any]:
        """Return each text, or fail as requested."""
        return [self._one(item) for item in items]

    def _one(self, item: swell.Item[Input]) -> Any:
        match item.input.how:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "raise":
                return RuntimeError(item.input.text or "as asked")
            case "raise-all":
                raise RuntimeError(item.input.text or "as asked")
            case "reject":
                return swell.Reject(item.input.text or "as asked")
            case "memory":
                return f"{len(bytes(item.input.mebibytes << 20)) >> 20} MiB"
            case "wrong-result":
                return object()
            case "sleep":
                return self._sleep(item)
        return item.input.text

    def _sleep(self, item: swell.Item[Input]) -> str:
        steps = max(1, round(item.input.sleep_s / 0.01))
        for step in range(steps):
            if item.cancelled:
                return "cancelled"
            time.sleep(item.input.sleep_s / steps)
            item.progress(step + 1, steps)
        return item.input.text
