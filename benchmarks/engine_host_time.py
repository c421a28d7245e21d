"""How much of a step's time does the step engine take for itself, with eight samples in it?

Its own time is that between two steps and around the network: who runs, rows, noise, guidance, the
solver, progress; all but what is spent inside the model's functions. A hundred samples wait.
Measured on demo/curve (one row a sample, 42.5 ms a step) and on swell/icons (two rows a sample).

Value: the larger of the two medians, as a share of the network's time in the same step, in percent.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from engine_rig import PROMPTS, Timed, load, requests
from machine import quiet, report, say
from swell.clock import SystemClock
from swell.worker.denoise import Denoiser

SAMPLES = 8
WAITING = 100


def inputs_of(name: str) -> list[dict[str, Any]]:
    count = SAMPLES + WAITING
    if name == "demo/curve":
        return [{"steps": 500 if n < SAMPLES else 1000} for n in range(count)]
    return [
        {"prompt": PROMPTS[n % len(PROMPTS)], "steps": 40 if n < SAMPLES else 50, "size": 128}
        for n in range(count)
    ]


def measure(name: str, steps: int, threads: int | None) -> dict[str, Any]:
    say(name)
    model = load(name, threads)
    bucket = SAMPLES if name == "demo/curve" else 2 * SAMPLES
    timed = Timed(model)
    denoiser = Denoiser(SystemClock(), lambda sample_id, result: None, bucket=bucket)
    denoiser.add(requests(model, inputs_of(name)))
    denoiser.boundary()
    own_s, network_s = [], []
    for _ in range(steps):
        timed.spent_s, timed.steps_s[:] = 0.0, []
        begun = time.perf_counter()
        denoiser.boundary()
        own_s.append(time.perf_counter() - begun - timed.spent_s)
        network_s.append(sum(timed.steps_s))
    shares = 100 * np.array(own_s) / np.array(network_s)
    return {
        "share_percent": {q: round(float(np.percentile(shares, q)), 4) for q in (50, 90, 99)},
        "own_us": {q: round(1e6 * float(np.percentile(own_s, q)), 1) for q in (50, 90, 99)},
        "step_ms": round(1e3 * float(np.median(network_s)), 3),
        "steps": steps,
        "rows": bucket,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="on demo/curve")
    parser.add_argument("--icons-steps", type=int, default=35, help="on swell/icons; at most 39")
    parser.add_argument("--threads", type=int, default=1, help="of swell/icons; 0 for all cores")
    chosen = parser.parse_args()
    threads = chosen.threads or None
    with quiet():
        detail = {
            "demo/curve": measure("demo/curve", min(chosen.steps, 499), None),
            "swell/icons": measure("swell/icons", min(chosen.icons_steps, 39), threads),
        }
    value = max(found["share_percent"][50] for found in detail.values())
    report(value, detail | {"samples": SAMPLES, "waiting": WAITING, "threads": chosen.threads})


if __name__ == "__main__":
    main()
