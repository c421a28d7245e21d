"""How much longer does a task take near serial capacity than alone, in a whole worker?

Tasks of demo/curve at 512 px come by chance, at nine tenths of what one picture at a time could
serve, whoever waits by then. Two mixes: the steps of GenTD26, and 4, 8, 20 or 30. A task counts
from its arrival at the backend to its result there, over what a task of as many steps takes in the
same worker when it is alone. Four workers serve at the same time: both mixes, in exact and in fast
batching. In exact batching steps have eight rows always, so a task alone takes no less time in each
of them; `p95_over_one_row` compares with steps of a single row, which only fast batching runs.

Value: the larger of (95th percentile with GenTD26's steps) / 1.6 and (with mixed ones) / 1.7, in
exact and in fast batching.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from machine import quiet, report, say
from replay import GENTD26_STEPS, MIXED_STEPS, in_order, in_steps, poisson
from worker_rig import SPEED, Backend, curve, serve_arrivals, unloaded, working

LOAD = 0.9
ROWS = 8
WISH = {"size": 512, "speed": SPEED}
MIXES: Mapping[str, Mapping[int, float]] = {"gentd26": GENTD26_STEPS, "mixed": MIXED_STEPS}
PROMISED = {"gentd26": 1.6, "mixed": 1.7}
#: Tasks of these are measured alone.
ALONE = {"gentd26": (20, 30, 50), "mixed": (4, 8, 20, 30)}


async def measure(mix: str, exact: bool, count: int, seed: int, times: int) -> dict[str, Any]:
    jobs = poisson(count, MIXES[mix], curve(512)(1), LOAD, seed)
    name = f"{mix}, {'exact' if exact else 'fast'}"
    say(f"{name}: {count} tasks within {jobs[-1].arrived_s:.0f} s")
    backend = Backend()
    async with working(backend, "Noted", exact=exact):
        alone_s = await unloaded(backend, "Noted", ALONE[mix], WISH, times)
        served = await serve_arrivals(backend, "Noted", jobs, WISH)
    slowdowns = np.array(
        [s / alone_s(job.steps) for s, job in zip(served.seconds, jobs, strict=True)]
    )
    one_row = [s / (job.steps * curve(512)(1)) for s, job in zip(served.seconds, jobs, strict=True)]
    devices = {"key": curve(512)}
    found = {
        "p95": round(float(np.percentile(slowdowns, 95)), 4),
        "promised": PROMISED[mix],
        "mean": round(float(slowdowns.mean()), 4),
        "most": round(float(slowdowns.max()), 4),
        "p95_over_one_row": round(float(np.percentile(one_row, 95)), 4),
        "alone_s": {steps: round(alone_s(steps), 4) for steps in ALONE[mix]},
        "simulated_p95": round(
            in_steps(jobs, devices, pinned=ROWS if exact else None).p95_slowdown, 4
        ),
        "simulated_p95_in_order": round(in_order(jobs, devices).p95_slowdown, 4),
        "tasks": count,
    }
    say(f"{name}: p95 {found['p95']}, mean {found['mean']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gentd26", type=int, default=300, help="tasks")
    parser.add_argument("--mixed", type=int, default=600, help="tasks")
    parser.add_argument("--times", type=int, default=3, help="that each task is measured alone")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    counts = {"gentd26": chosen.gentd26, "mixed": chosen.mixed}
    arms = [(mix, exact) for mix in counts for exact in (True, False)]

    async def measure_all() -> list[dict[str, Any]]:
        runs = (measure(mix, how, counts[mix], chosen.seed, chosen.times) for mix, how in arms)
        return list(await asyncio.gather(*runs))

    with quiet():
        found = asyncio.run(measure_all())
    detail: dict[str, Any] = {"exact": {}, "fast": {}}
    for (mix, exact), one in zip(arms, found, strict=True):
        detail["exact" if exact else "fast"][mix] = one
    value = max(one["p95"] / one["promised"] for one in found)
    report(value, {**detail, "load": LOAD, "rows_in_exact": ROWS})


if __name__ == "__main__":
    main()
