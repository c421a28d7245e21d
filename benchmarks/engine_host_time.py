"""How much of a step's time does the step engine take for itself, with eight samples in it?

Its own time is that between two steps and around the network: scheduling, rows, noise, guidance,
the solver, progress, arrivals and results; everything but the model's functions.
A hundred samples wait, and another one comes for each that ends. Measured on demo/curve (one row a
sample, 42.5 ms a step), and on swell/icons (two rows a sample) twice: with eight samples in each
step, and with as many as it takes by default, on all cores.

Value: own time of all steps over the network's time in them, in percent; the largest of the three.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import msgspec
import numpy as np

from engine_rig import PROMPTS, Timed, load, requests
from machine import quiet, report, say
from swell.core.clock import SystemClock
from swell.diffusion.step_engine import StepEngine
from swell.sdk.step_model import StepModel

SAMPLES = 8
WAITING = 100


def input_of(name: str, number: int) -> dict[str, Any]:
    if name == "demo/curve":
        return {"steps": 20 + number % 21}
    return {"prompt": PROMPTS[number % len(PROMPTS)], "steps": 8 + number % 9, "size": 128}


class Backlog:
    """Samples that are drawn while others wait; whoever ends is replaced."""

    def __init__(self, name: str, model: StepModel, bucket: int | None) -> None:
        self.name, self.model = name, model
        self.ended = self.number = 0
        self.denoiser = StepEngine(SystemClock(), self._note, bucket=bucket)
        self.come(SAMPLES + WAITING)

    def _note(self, sample_id: str, result: Any) -> None:
        if isinstance(result, Exception):
            raise result
        self.ended += 1

    def come(self, count: int) -> None:
        for _ in range(count):
            [one] = requests(self.model, [input_of(self.name, self.number)])
            self.denoiser.add([msgspec.structs.replace(one, id=str(self.number))])
            self.number += 1

    def step(self) -> None:
        before = self.ended
        self.denoiser.boundary()
        self.come(self.ended - before)


def measure(
    name: str, steps: int, threads: int | None = None, bucket: int | None = None
) -> dict[str, Any]:
    say(f"{name}, {bucket or 'default'} rows")
    model = load(name, threads)
    timed = Timed(model)
    backlog = Backlog(name, model, bucket)
    backlog.step()
    ended = backlog.ended
    timed.rows.clear()
    own_s, network_s = [], []
    for _ in range(steps):
        timed.spent_s, timed.steps_s[:] = 0.0, []
        begun = time.perf_counter()
        backlog.step()
        own_s.append(time.perf_counter() - begun - timed.spent_s)
        network_s.append(sum(timed.steps_s))
    shares = np.array(
        [100 * own / there for own, there in zip(own_s, network_s, strict=True) if there]
    )
    return {
        "share_of_all_percent": round(100 * sum(own_s) / sum(network_s), 4),
        "share_percent": {q: round(float(np.percentile(shares, q)), 4) for q in (50, 90, 99)},
        "own_us": {q: round(1e6 * float(np.percentile(own_s, q)), 1) for q in (50, 90, 99)},
        "step_ms": round(1e3 * float(np.median(network_s)), 3),
        "steps": steps,
        "steps_by_rows": {str(size): timed.rows.count(size) for size in sorted(set(timed.rows))},
        "ended": backlog.ended - ended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="on demo/curve")
    parser.add_argument("--icons-steps", type=int, default=150, help="on swell/icons")
    parser.add_argument("--threads", type=int, default=0, help="of swell/icons; 0 for all cores")
    chosen = parser.parse_args()
    threads = chosen.threads or None
    with quiet():
        detail = {
            "demo/curve": measure("demo/curve", chosen.steps),
            "swell/icons": measure("swell/icons", chosen.icons_steps, threads, 2 * SAMPLES),
            "swell/icons by default": measure("swell/icons", chosen.icons_steps, threads),
        }
    value = max(found["share_of_all_percent"] for found in detail.values())
    report(value, detail | {"samples": SAMPLES, "waiting": WAITING, "threads": chosen.threads})


if __name__ == "__main__":
    main()
