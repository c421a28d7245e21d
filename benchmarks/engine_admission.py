"""How long does a task wait for its first step, in step times, when a slot is free?

A whole worker serves short tasks of demo/curve at 512 px that come by chance. A task counts from
when the backend gave it to the worker until the first step with it in it began; so the way to the
model process is part of it. A slot is free if fewer than eight tasks were given out that had not
seen the end of their last step.

Value: the 99th percentile of those that found a free slot, over the median time of a step.
`from_arrival` tells the same from when the task was to come to the backend.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from machine import folder, quiet, report, say
from replay import Job, poisson
from worker_rig import (
    SPEED,
    Backend,
    Notes,
    curve,
    gaps,
    in_ms,
    noting,
    serve_arrivals,
    working,
)

ROWS = 8
#: Short, so that many come in a minute.
STEPS = {4: 0.5, 8: 0.5}
LOAD = 0.9
WISH = {"size": 512, "speed": SPEED}


async def serve(jobs: list[Job]) -> tuple[list[float], list[float]]:
    """Return when each job was to come, and when it was given out."""
    backend = Backend()
    async with working(backend, "Noted"):
        served = await serve_arrivals(backend, "Noted", jobs, WISH)
    came_s = [served.start_s + job.arrived_s for job in jobs]
    return came_s, [backend.granted_s[task_id] for task_id in served.ids]


def first_and_last(notes: Notes, count: int) -> tuple[list[float], list[float]]:
    """Return when each task's first step began, and when its last one ended."""
    first, last = [0.0] * count, [0.0] * count
    steps = notes.only(notes.is_step)
    for begin_s, end_s, whose in zip(steps.begins_s, steps.ends_s, steps.whose, strict=True):
        for seed in set(whose.tolist()) - {-1}:
            first[seed] = first[seed] or begin_s
            last[seed] = end_s
    return first, last


def one_run(home: Path, jobs: list[Job]) -> tuple[Notes, list[float], list[float]]:
    """Return the waits of those who found a slot, from the worker's getting it and from arrival."""
    with noting(home) as read:
        came_s, granted_s = asyncio.run(serve(jobs))
        notes = read().of_tasks()
    first_s, last_s = first_and_last(notes, len(jobs))
    waits_s, from_arrival_s = [], []
    for came, now_s, begin_s in zip(came_s, granted_s, first_s, strict=True):
        others = zip(granted_s, last_s, strict=True)
        present = sum(given_s < now_s < end_s for given_s, end_s in others)
        if present < ROWS:
            waits_s.append(begin_s - now_s)
            from_arrival_s.append(begin_s - came)
    return notes, waits_s, from_arrival_s


def percentiles(values: NDArray[np.float64]) -> dict[int, float]:
    return {q: round(float(np.percentile(values, q)), 4) for q in (50, 90, 95, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    jobs = poisson(chosen.tasks, STEPS, curve(512)(1), LOAD, chosen.seed)
    say(f"{chosen.tasks} tasks within {jobs[-1].arrived_s:.0f} s")
    with quiet(), folder("engine-admission") as home:
        notes, waits_s, from_arrival_s = one_run(home, jobs)
    steps = notes.only(notes.is_step)
    step_s = float(np.median(steps.ends_s - steps.begins_s))
    waits = np.array(waits_s) / step_s
    between = gaps(notes)
    detail = {
        "in_steps": percentiles(waits),
        "from_arrival": percentiles(np.array(from_arrival_s) / step_s),
        "longest": round(float(waits.max()), 4),
        "step_ms": round(step_s * 1e3, 3),
        "tasks": len(waits),
        "tasks_without_a_slot": len(jobs) - len(waits),
        "load": LOAD,
        "gap_between_steps_ms": in_ms(between.plain_s[between.plain_s < step_s]),
    }
    report(float(np.percentile(waits, 99)), detail)


if __name__ == "__main__":
    main()
