"""Where one picture fills the device, how much less do tasks of mixed steps wait than in order?

Tasks of demo/curve at 1024 px with 4, 8, 20 or 30 steps come by chance, at nine tenths of capacity.
A task's slowdown is its time from arrival at the backend to its result there, over what its steps
take by the curve. In order means first come, first served, without any overhead: that is computed
for the same arrivals. Two workers serve them at the same time: one whose model gains from a batch
at other sizes, and so holds more tasks than one that never does; the other holds as many as that.

Value: mean slowdown over that in order, the larger of both workers.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from arrivals import MIXED_STEPS, Job, in_order, in_steps, poisson
from machine import quiet, report, say
from swell.worker.batch import room_of
from swell.worker.schedule import Policy
from worker_rig import SPEED, Backend, curve, serve_arrivals, working

LOAD = 0.9
WISH = {"size": 1024, "speed": SPEED}
#: Slowdowns of more than this many times the policy's bound are none that it bounds.
BOUND_MARGIN = 1.25
MODELS = ("Noted", "Alone")


async def serve(model: str, jobs: Sequence[Job]) -> tuple[int, int, list[float]]:
    """Return slots, samples that the model process holds, and latencies."""
    backend = Backend()
    async with working(backend, model):
        served = await serve_arrivals(backend, model, jobs, WISH)
    [registration] = backend.registrations
    return registration.slots, room_of(registration.models[0]), served.seconds


async def serve_all(jobs: Sequence[Job]) -> list[tuple[int, int, list[float]]]:
    return list(await asyncio.gather(*(serve(model, jobs) for model in MODELS)))


def found_of(
    jobs: Sequence[Job], slots: int, room: int, latencies_s: list[float]
) -> dict[str, Any]:
    device = curve(1024)
    slowdowns = np.array(
        [s / (job.steps * device(1)) for s, job in zip(latencies_s, jobs, strict=True)]
    )
    in_turn = in_order(jobs, {"key": device})
    ideal = in_steps(jobs, {"key": device}, pinned=1, room=room)
    by_steps = {
        steps: round(float(slowdowns[[job.steps == steps for job in jobs]].mean()), 3)
        for steps in MIXED_STEPS
    }
    return {
        "over_in_order": round(float(slowdowns.mean()) / in_turn.mean_slowdown, 4),
        "simulated_over_in_order": round(ideal.mean_slowdown / in_turn.mean_slowdown, 4),
        "mean": round(float(slowdowns.mean()), 4),
        "mean_in_order": round(in_turn.mean_slowdown, 4),
        "most": round(float(slowdowns.max()), 4),
        "most_in_order": round(in_turn.slowdowns[-1], 4),
        "mean_by_steps": by_steps,
        "slots": slots,
        "room": room,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    jobs = poisson(chosen.tasks, MIXED_STEPS, curve(1024)(1), LOAD, chosen.seed)
    say(f"{chosen.tasks} tasks within {jobs[-1].arrived_s:.0f} s")
    with quiet():
        runs = asyncio.run(serve_all(jobs))
    workers = {model: found_of(jobs, *run) for model, run in zip(MODELS, runs, strict=True)}
    bound = Policy().bound
    most = max(found["most"] for found in workers.values())
    detail = {**workers, "bound": bound, "tasks": chosen.tasks, "load": LOAD}
    value = max(found["over_in_order"] for found in workers.values())
    report(value, detail, ok=most <= BOUND_MARGIN * bound)


if __name__ == "__main__":
    main()
