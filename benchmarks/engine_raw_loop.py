"""How many images per second does the step engine draw, against a bare loop around the network?

The bare loop calls the network with the same rows as often as it takes, decodes each picture, and
does nothing else: no noise, no guidance, no solver, no choice of who runs. The engine has a backlog
of as many pictures. Both run in this process, in turns.

Value: the smaller of (ratio on demo/curve, whose steps sleep as long as one on an H200 takes at 512
px, ten times faster) / 0.98 and (ratio on swell/icons) / 0.90.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from engine_rig import PROMPTS, drawn, load, paired, summary
from machine import quiet, report, say
from swell.model import Item, StepModel

PROMISED = {"demo/curve": 0.98, "swell/icons": 0.90}
#: Rows of a step, and pictures that have them: those of icons have guidance.
BUCKET = 8
TOGETHER = {"demo/curve": 8, "swell/icons": 4}


def inputs_of(name: str, count: int) -> list[dict[str, Any]]:
    if name == "demo/curve":
        return [{"steps": 30, "size": 512}] * count
    return [{"prompt": PROMPTS[n % len(PROMPTS)], "size": 128} for n in range(count)]


class Arms:
    def __init__(self, name: str, rounds: int, threads: int | None) -> None:
        self.model: StepModel = load(name, threads)
        self.together = TOGETHER[name]
        self.inputs = inputs_of(name, rounds * self.together)
        item = Item(self.model.Input(**self.inputs[0]), seed=1)
        plan = self.model.prepare(item)
        words = self.model.encode([plan.words])[0] if plan.words is not None else {}
        told = {**words, **plan.values}
        self.item, self.steps = item, plan.sampler.steps
        self.x = np.random.default_rng(0).standard_normal((BUCKET, *plan.shape), np.float32)
        self.t = np.full(BUCKET, 0.5, np.float32)
        self.conditions = {
            name: np.stack([np.asarray(value)] * BUCKET) for name, value in told.items()
        }

    def bare(self) -> float:
        """Images per second."""
        begun = time.perf_counter()
        for _ in range(len(self.inputs) // self.together):
            for _ in range(self.steps):
                self.model.denoise(self.x, self.t, self.conditions)
            for row in range(self.together):
                self.model.decode(self.x[row], self.item)
        return len(self.inputs) / (time.perf_counter() - begun)

    def engine(self) -> float:
        """Images per second."""
        begun = time.perf_counter()
        drawn(self.model, self.inputs, bucket=BUCKET)
        return len(self.inputs) / (time.perf_counter() - begun)


def measure(name: str, rounds: int, pairs: int, threads: int | None) -> dict[str, Any]:
    say(name)
    arms = Arms(name, rounds, threads)
    arms.bare()
    found = paired(pairs, arms.engine, arms.bare)
    ratios = [engine / bare for engine, bare in found]
    return {
        "ratio": summary(ratios),
        "promised": PROMISED[name],
        "engine_images_per_s": summary([engine for engine, _ in found]),
        "bare_images_per_s": summary([bare for _, bare in found]),
        "images": len(arms.inputs),
        "rows": BUCKET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(PROMISED), action="append")
    parser.add_argument("--rounds", type=int, default=4, help="full batches per arm")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of swell/icons; 0 for all cores")
    chosen = parser.parse_args()
    with quiet():
        detail = {
            name: measure(name, chosen.rounds, chosen.pairs, chosen.threads or None)
            for name in chosen.model or PROMISED
        }
    value = min(found["ratio"]["median"] / found["promised"] for found in detail.values())
    detail["threads"] = chosen.threads
    report(value, detail)


if __name__ == "__main__":
    main()
