"""How many images per second does a worker deliver, against a bare loop around the same network?

The worker has all its parts and processes: it leases from a backlog in a backend in the same
process, draws, encodes 512 px PNGs of demo/curve and 128 px ones of swell/icons, uploads and
reports. What counts are results at the backend, between the ramps at both ends. The bare loop is in
a process of its own: it calls the network as often as it takes, decodes each picture, and does
nothing else: no noise, no guidance, no solver, no choice of who runs. Its steps have the rows of
exact mode; where that leaves the worker the choice (`batch_invariant`), those that cost the least
per row here, as a look before it tells. They take turns. A network of swell/icons has the same
number of threads on both sides; it shares the cores with the worker and with who encodes.

`engine_alone` is the same ratio without the worker: the step engine by itself, in this process.

Value: the smaller of (ratio on demo/curve, whose steps sleep as long as one on an H200 takes at 512
px, ten times faster) / 0.98 and (ratio on swell/icons) / 0.90.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import worker_model
from encoders import grain
from engine_rig import PROMPTS, drawn, paired, summary
from machine import folder, quiet, report, say
from swell.sdk.context import Item
from swell.sdk.step_model import StepModel
from worker_rig import noting, serve_backlog, spent_ms, steady_rate

PROMISED = {"demo/curve": 0.98, "swell/icons": 0.90}
#: Who runs instead, from worker_model.py; the last one is for engine_gain.py.
MODELS = {"demo/curve": "Noted", "swell/icons": "Threaded", "one row": "Alone"}
#: Rows of a picture: those of icons have guidance.
ROWS = {"demo/curve": 1, "swell/icons": 2, "one row": 1}
#: Pictures of a step, at most.
TOGETHER = {"demo/curve": 8, "swell/icons": 8, "one row": 1}
#: Rows that a bare loop tries, and how often each, where it may choose.
TRIED, TIMES = (2, 4, 6, 8, 12, 16), 10
#: Batches at each end that do not count.
EDGE = 2


def inputs_of(name: str, count: int) -> list[dict[str, Any]]:
    if name == "swell/icons":
        return [{"prompt": PROMPTS[n % len(PROMPTS)], "size": 128} for n in range(count)]
    return [{"steps": 30, "size": 512}] * count


def loaded(name: str) -> StepModel:
    model: StepModel = getattr(worker_model, MODELS[name])()
    model.load("cpu")
    model.warmup()
    return model


# --- the arms ------------------------------------------------------------------------------------


class Worker:
    """A worker that serves a backlog whenever it is asked."""

    def __init__(self, name: str, rounds: int, home: Path) -> None:
        self.name, self.home = name, home
        self.wishes = inputs_of(name, rounds * TOGETHER[name])
        #: Of the last backlog.
        self.spent_ms: dict[str, Any] = {}
        self.steps_by_rows: dict[str, int] = {}

    def rate(self) -> float:
        """Images per second."""
        with noting(self.home) as read:
            ended_s = asyncio.run(serve_backlog(MODELS[self.name], self.wishes))
            notes = read().of_tasks()
        self.spent_ms = spent_ms(notes)
        sizes, counts = np.unique(notes.rows[notes.is_step], return_counts=True)
        self.steps_by_rows = dict(zip(map(str, sizes), counts.tolist(), strict=True))
        return steady_rate(ended_s, TOGETHER[self.name], EDGE)


def engine_alone(model: StepModel, name: str, rounds: int) -> float:
    """Images per second."""
    inputs = inputs_of(name, rounds * TOGETHER[name])
    begun = time.perf_counter()
    drawn(model, inputs)
    return len(inputs) / (time.perf_counter() - begun)


class Bare:
    """A bare loop in a process of its own, whenever it is asked."""

    def __init__(self, name: str, pictures: int) -> None:
        self._command = [sys.executable, __file__, "--bare", name, "--pictures", str(pictures)]
        #: Of its steps, each time.
        self.rows: list[int] = []

    def rate(self) -> float:
        """Images per second."""
        ran = subprocess.run(self._command, stdout=subprocess.PIPE, text=True, check=True)
        rate, rows = json.loads(ran.stdout)
        self.rows.append(rows)
        return float(rate)


def bare_loop(name: str, pictures: int) -> tuple[float, int]:
    """Images per second, from the second batch on, and the rows of a step."""
    model = loaded(name)
    item = Item(model.Input(**inputs_of(name, 1)[0]), seed=1)
    plan = model.prepare(item)
    words = model.encode([plan.words])[0] if plan.words is not None else {}
    told = {**words, **plan.values}

    def filled(rows: int) -> tuple[Any, ...]:
        x = np.random.default_rng(0).standard_normal((rows, *plan.shape), np.float32)
        conditions = {name: np.stack([np.asarray(value)] * rows) for name, value in told.items()}
        return x, np.full(rows, 0.5, np.float32), conditions

    rows, steps = plan.bucket or model.bucket, plan.sampler.steps
    if model.batch_invariant and plan.bucket is None:
        rows = cheapest(lambda rows: model.denoise(*filled(rows)))
    x, t, conditions = filled(rows)
    together = rows // ROWS[name]
    rounds = -(-pictures // together)
    begun = 0.0
    for number in range(rounds + 1):
        if number == 1:
            begun = time.perf_counter()
        for _ in range(steps):
            model.denoise(x, t, conditions)
        for row in range(together):
            decoded(model, x[row], item)
    return rounds * together / (time.perf_counter() - begun), rows


def decoded(model: StepModel, latents: Any, item: Item[Any]) -> Any:
    """By all threads, since nothing else is done meanwhile."""
    result = model.decode(latents, item)
    return model.preview(latents, item) if callable(result) else result


def cheapest(step: Callable[[int], Any]) -> int:
    """How many rows cost the least each."""
    spent: dict[int, list[float]] = {rows: [] for rows in TRIED}
    for _ in range(TIMES):
        for rows, seconds in spent.items():
            begun = time.perf_counter()
            step(rows)
            seconds.append((time.perf_counter() - begun) / rows)
    return min(spent, key=lambda rows: statistics.median(spent[rows]))


# --- what is measured ----------------------------------------------------------------------------


def measure(name: str, rounds: int, pairs: int, home: Path) -> dict[str, Any]:
    """Compare worker and engine with bare loops that count as many pictures as the worker does."""
    counted = rounds - 2 * EDGE
    bare = Bare(name, counted * TOGETHER[name])
    say(f"{name}: the worker and a bare loop")
    worker = Worker(name, rounds, home)
    found = paired(pairs, worker.rate, bare.rate)
    say(f"{name}: the engine alone and a bare loop")
    model = loaded(name)
    alone = paired(1, lambda: engine_alone(model, name, counted), bare.rate)
    return {
        "ratio": summary([one / other for one, other in found]),
        "promised": PROMISED[name],
        "worker_images_per_s": summary([one for one, _ in found]),
        "bare_images_per_s": summary([other for _, other in found]),
        "engine_alone_ratio": round(alone[0][0] / alone[0][1], 4),
        "images_counted": counted * TOGETHER[name],
        "images_in_ramps": 2 * EDGE * TOGETHER[name],
        "bare_rows": bare.rows,
        "worker_steps_by_rows": worker.steps_by_rows,
        "worker_spent_ms": worker.spent_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(PROMISED), action="append")
    parser.add_argument("--rounds", type=int, default=9, help="of demo/curve; 4 are ramps")
    parser.add_argument("--icons-rounds", type=int, default=10, help="4 are ramps")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of swell/icons; 0 for all cores")
    parser.add_argument("--bare", choices=list(MODELS), help="only this loop, in this process")
    parser.add_argument("--pictures", type=int, default=32, help="of the bare loop")
    chosen = parser.parse_args()
    if chosen.bare:
        print(json.dumps(bare_loop(chosen.bare, chosen.pictures)))
        return
    rounds = {"demo/curve": chosen.rounds, "swell/icons": chosen.icons_rounds}
    os.environ["WORKER_THREADS"] = str(chosen.threads)
    with quiet(), folder("engine-raw-loop") as home:
        os.environ["WORKER_PICTURE"] = str(home / "picture.png")
        grain(512).save(os.environ["WORKER_PICTURE"])
        detail: dict[str, Any] = {
            name: measure(name, rounds[name], chosen.pairs, home)
            for name in chosen.model or PROMISED
        }
    value = min(found["ratio"]["median"] / found["promised"] for found in detail.values())
    report(value, {**detail, "threads": chosen.threads or f"all of {os.cpu_count()} cores"})


if __name__ == "__main__":
    main()
