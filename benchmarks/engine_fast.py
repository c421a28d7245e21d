"""How far from a picture drawn alone, row by row, is the same one drawn in fast mode among others?

Pictures of swell/icons with all kinds of words, steps and guidance come one by one while others are
being drawn, so that steps of all sizes run. Each is compared with what one row at a time gives.

Value: the smallest peak signal-to-noise ratio among them, in dB; 99 for equal pixels.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from typing import Any

import numpy as np

from engine_rig import drawn, load, requests, some_icons
from machine import report, say
from swell.core.clock import SystemClock
from swell.diffusion.step_engine import StepEngine
from swell.sdk.step_model import StepModel, whole

EQUAL_DB = 99.0


class Rows:
    """Counts the rows of each step."""

    def __init__(self, model: StepModel) -> None:
        self.seen: Counter[int] = Counter()
        denoise = model.denoise

        def count(x: Any, t: Any, conditions: Any) -> Any:
            self.seen[len(x)] += 1
            return denoise(x, t, conditions)

        model.denoise = count  # type: ignore[method-assign]


def fast(model: StepModel, inputs: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    results: dict[str, Any] = {}
    denoiser = StepEngine(SystemClock(), results.__setitem__, exact=False)
    for one in requests(model, inputs):
        denoiser.add([one])
        for _ in range(rng.choice((0, 0, 1, 2))):
            denoiser.boundary()
    while denoiser.boundary():
        pass
    return {name: whole(result) for name, result in results.items()}


def psnr_db(one: Any, other: Any) -> float:
    """Source: 10 log10(MAX² / MSE), with MAX = 255."""
    a, b = (np.asarray(picture.pil()).astype(np.float64) for picture in (one, other))
    error = float(((a - b) ** 2).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, 10 * math.log10(255**2 / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    model = load("swell/icons", chosen.threads or None)
    rng = random.Random(chosen.seed)
    inputs = [some_icons(rng) for _ in range(chosen.pictures)]
    alone = drawn(model, inputs, bucket=1)
    rows = Rows(model)
    among = fast(model, inputs, rng)
    found = sorted(psnr_db(alone[name], among[name]) for name in alone)
    say(f"{rows.seen}")
    detail = {
        "pictures": len(found),
        "equal": sum(value == EQUAL_DB for value in found),
        "smallest_db": [round(value, 2) for value in found[:5]],
        "steps_by_rows": {str(size): rows.seen[size] for size in sorted(rows.seen)},
        "threads": chosen.threads,
    }
    report(found[0], detail, ok=len(rows.seen) > 1)


if __name__ == "__main__":
    main()
