"""What the benchmarks of the step engine share: models, samples, and arms that take turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from machine import say
from swell.core.clock import SystemClock
from swell.diffusion.step_engine import Request, StepEngine
from swell.models.icons import STYLES, Icons
from swell.sdk.context import Item
from swell.sdk.step_model import StepModel, whole
from swell_models.simulated_gpu import CurveModel

PROMPTS = (
    "a red fox in the snow",
    "a blue cat",
    "rocket in space",
    "a heart",
    "green tree on a yellow background",
    "an umbrella in the rain",
)


def load(name: str, threads: int | None = None) -> StepModel:
    model: StepModel = CurveModel() if name == "demo/curve" else Icons(threads)
    model.load("cpu")
    model.warmup()
    return model


def asked(model: StepModel, **values: Any) -> Any:
    return model.Input(**values)


def some_icons(rng: random.Random, steps: tuple[int, int] = (2, 12)) -> dict[str, Any]:
    """An input for icons as it may come along: any words, steps, style and guidance."""
    return {
        "prompt": rng.choice(PROMPTS),
        "style": rng.choice((*STYLES, "none")),
        "steps": rng.randint(*steps),
        "guidance": rng.choice((0.0, 1.0, 3.0, 7.5)),
        "size": 128,
        "seed": rng.getrandbits(31),
    }


def requests(model: StepModel, inputs: list[dict[str, Any]]) -> Iterator[Request]:
    for number, values in enumerate(inputs):
        item = Item(asked(model, **values), seed=number)
        yield Request(id=str(number), model=model, item=item)


def drawn(model: StepModel, inputs: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Draws everything from a backlog, and returns results by number."""
    results: dict[str, Any] = {}
    denoiser = StepEngine(SystemClock(), results.__setitem__, **options)
    denoiser.add(requests(model, inputs))
    while denoiser.boundary():
        pass
    wrong = [result for result in results.values() if isinstance(result, Exception)]
    if wrong:
        raise wrong[0]
    return {name: whole(result) for name, result in results.items()}


class Timed:
    """Adds up the seconds that are spent in a model's own functions."""

    def __init__(self, model: StepModel) -> None:
        self.spent_s = 0.0
        #: Seconds and rows of each call of `denoise`.
        self.steps_s: list[float] = []
        self.rows: list[int] = []
        for name in ("prepare", "encode", "denoise", "decode", "preview"):
            setattr(model, name, self._timed(getattr(model, name), name == "denoise"))

    def _timed(self, function: Callable[..., Any], is_step: bool) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun, before_s = time.perf_counter(), self.spent_s
            try:
                return function(*arguments)
            finally:
                took = time.perf_counter() - begun
                # One may call another, which counts once.
                self.spent_s = before_s + took
                if is_step:
                    self.steps_s.append(took)
                    self.rows.append(len(arguments[0]))

        return call


def paired(
    pairs: int, one: Callable[[], float], other: Callable[[], float]
) -> list[tuple[float, float]]:
    """Runs two arms in turns, each first as often as the other."""
    found = []
    for number in range(pairs):
        if number % 2:
            second = other()
            found.append((one(), second))
        else:
            first = one()
            found.append((first, other()))
        say(f"pair {number + 1}: {found[-1][0]:.4f} and {found[-1][1]:.4f}")
    return found


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }
