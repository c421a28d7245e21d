"""Where one picture fills the device, how much less do tasks of mixed steps wait than in order?

Tasks of demo/curve at 1024 px with 4, 8, 20 or 30 steps come by chance, at nine tenths of capacity.
A task's slowdown is its time from arrival at the backend to its result there, over what its steps
take by the curve. In order means first come, first served, without any overhead: that is computed
for the same arrivals. Whole workers serve three series of arrivals, all at the same time, and of
two models: one gains from a batch at other sizes, and so its process holds more samples than that
of the other, which never does.

Near capacity a little overhead is much waiting. `load_with_overhead` tells what the device had to
do by the mean time from a step's begin to the next one's, where somebody waited; `simulated` runs
the schedule alone, at the curve's times, and at those of the worker.

Value: mean slowdown over that in order, the larger of both models.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from machine import folder, quiet, report, say
from replay import MIXED_STEPS, Device, Job, Run, in_order, in_steps, poisson
from swell.diffusion.batch_scheduler import Policy
from swell.worker.batching import room_of
from worker_rig import SPEED, Backend, Latencies, Notes, curve, noting, serve_arrivals, working

LOAD = 0.9
WISH = {"size": 1024, "speed": SPEED}
#: A slowdown may be so many times the policy's bound: who is overdue waits for others who are.
BOUND_MARGIN = 1.25
MODELS = ("Noted", "Alone")


@dataclass(frozen=True)
class Series:
    """One worker, what came, and what came of it."""

    model: str
    jobs: Sequence[Job]
    slots: int
    room: int
    served: Latencies
    notes: Notes

    @property
    def slowdowns(self) -> list[float]:
        device = curve(1024)
        found = zip(self.served.seconds, self.jobs, strict=True)
        return [latency_s / (job.steps * device(1)) for latency_s, job in found]

    @property
    def interval_s(self) -> float:
        """From a step's begin to the next one's, where somebody waited for it."""
        steps = self.notes.only(self.notes.is_step)
        came_s = self.served.start_s + np.array([job.arrived_s for job in self.jobs])
        last = dict(zip(steps.whose[:, 0].tolist(), steps.ends_s, strict=True))
        present = np.searchsorted(came_s, steps.ends_s)
        present -= np.searchsorted(sorted(last.values()), steps.ends_s, side="right")
        return float(np.diff(steps.begins_s)[present[:-1] > 0].mean())

    def in_order(self, device: Device) -> Run:
        return in_order(self.jobs, {"key": device})

    def in_steps(self, device: Device) -> Run:
        return in_steps(self.jobs, {"key": device}, pinned=1, room=self.room)


async def serve_all(home: Path, arrivals: Sequence[Sequence[Job]]) -> list[Series]:
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for number, (model, jobs) in enumerate((m, jobs) for m in MODELS for jobs in arrivals):
            backend = Backend()
            with noting(home, f"notes-{number}") as read:
                await stack.enter_async_context(working(backend, model))
            workers.append((model, jobs, backend, read))
        served = await asyncio.gather(
            *(serve_arrivals(backend, model, jobs, WISH) for model, jobs, backend, _ in workers)
        )
    found = []
    for (model, jobs, backend, read), answer in zip(workers, served, strict=True):
        [told] = backend.registrations
        room, notes = room_of(told.models[0]), read().of_tasks()
        found.append(Series(model, jobs, told.slots, room, answer, notes))
    return found


def told(every: Sequence[Series]) -> dict[str, Any]:
    device = curve(1024)
    slowdowns = np.concatenate([series.slowdowns for series in every])
    steps = np.array([job.steps for series in every for job in series.jobs])
    interval_s = fmean(series.interval_s for series in every)
    in_turn = [series.in_order(device) for series in every]
    mean_in_order = fmean(run.mean_slowdown for run in in_turn)
    alone = [series.in_steps(device) for series in every]
    slower = [series.in_steps(lambda rows: interval_s * rows) for series in every]
    of_curve = interval_s / device(1)
    return {
        "over_in_order": round(float(slowdowns.mean()) / mean_in_order, 4),
        "simulated": {
            "by_the_curve": round(fmean(r.mean_slowdown for r in alone) / mean_in_order, 4),
            "by_the_worker": round(
                fmean(r.mean_slowdown for r in slower) * of_curve / mean_in_order, 4
            ),
        },
        "load_with_overhead": round(LOAD * of_curve, 4),
        "step_to_step_ms": round(interval_s * 1e3, 3),
        "mean": round(float(slowdowns.mean()), 4),
        "mean_in_order": round(mean_in_order, 4),
        "most": round(float(slowdowns.max()), 4),
        "most_in_order": round(max(run.slowdowns[-1] for run in in_turn), 4),
        "mean_by_steps": {
            count: round(float(slowdowns[steps == count].mean()), 3) for count in MIXED_STEPS
        },
        "slots": every[0].slots,
        "room": every[0].room,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500, help="in each series")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the series")
    chosen = parser.parse_args()
    arrivals = [
        poisson(chosen.tasks, MIXED_STEPS, curve(1024)(1), LOAD, seed) for seed in chosen.seeds
    ]
    say(f"{chosen.tasks} tasks within {max(jobs[-1].arrived_s for jobs in arrivals):.0f} s")
    with quiet(), folder("engine-timeslice") as home:
        served = asyncio.run(serve_all(home, arrivals))
    models = {
        model: told([series for series in served if series.model == model]) for model in MODELS
    }
    bound = Policy().bound
    most = max(found["most"] for found in models.values())
    detail = {
        **models,
        "bound": bound,
        "tasks": chosen.tasks * len(arrivals),
        "series": len(arrivals),
        "load": LOAD,
    }
    value = max(found["over_in_order"] for found in models.values())
    report(value, detail, ok=most <= BOUND_MARGIN * bound)


if __name__ == "__main__":
    main()
