"""How much longer does a task take near serial capacity than alone, in a whole worker?

Tasks of demo/curve at 512 px come by chance, at nine tenths of what one picture at a time could
serve, whoever waits by then. Two mixes: the steps of GenTD26, and 4, 8, 20 or 30. A task counts
from its arrival at the backend to its result there, over what a task of as many steps takes in the
same worker when it is alone. Four workers serve at the same time: both mixes, in exact and in fast
batching, three series of arrivals each, one after another. A few hundred arrivals may be kind or
not: these series are close to a long one, whose p95 in simulated time stands beside theirs.

In exact batching steps have eight rows always, so a task alone takes no less time in each of them,
and this slowdown says little; `p95_over_one_row` compares with steps of a single row, which only
fast batching runs.

Value: the larger of (95th percentile with GenTD26's steps) / 1.6 and (with mixed ones) / 1.7, in
exact and in fast batching.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from machine import quiet, report, say
from replay import GENTD26_STEPS, MIXED_STEPS, Job, in_order, in_steps, poisson
from worker_rig import SPEED, Backend, curve, serve_arrivals, unloaded, working

LOAD = 0.9
ROWS = 8
WISH = {"size": 512, "speed": SPEED}
MIXES: Mapping[str, Mapping[int, float]] = {"gentd26": GENTD26_STEPS, "mixed": MIXED_STEPS}
PROMISED = {"gentd26": 1.6, "mixed": 1.7}
#: Tasks of these are measured alone.
ALONE = {"gentd26": (20, 30, 50), "mixed": (4, 8, 20, 30)}
#: Tasks of a series that is long enough not to depend on its seed; only simulated.
LONG = 8000


def p95(slowdowns: Sequence[float]) -> float:
    return round(float(np.percentile(slowdowns, 95)), 4)


def simulated(mix: str, exact: bool, series: Sequence[Sequence[Job]]) -> dict[str, float]:
    """The 95th percentiles of the schedule alone, and of serving in order, at the curve's times."""
    devices, pinned = {"key": curve(512)}, ROWS if exact else None
    long = poisson(LONG, MIXES[mix], curve(512)(1), LOAD, 0)
    return {
        "simulated_p95": p95(
            [s for j in series for s in in_steps(j, devices, pinned=pinned).slowdowns]
        ),
        "simulated_p95_of_a_long_series": p95(in_steps(long, devices, pinned=pinned).slowdowns),
        "simulated_p95_in_order": p95([s for j in series for s in in_order(j, devices).slowdowns]),
    }


async def measure(
    mix: str, exact: bool, series: Sequence[Sequence[Job]], times: int
) -> dict[str, Any]:
    name = f"{mix}, {'exact' if exact else 'fast'}"
    count, within_s = len(series[0]), series[0][-1].arrived_s
    say(f"{name}: {count} tasks within {within_s:.0f} s, {len(series)} times")
    backend = Backend()
    each: list[list[float]] = []
    one_row: list[float] = []
    async with working(backend, "Noted", exact=exact):
        alone_s = await unloaded(backend, "Noted", ALONE[mix], WISH, times)
        for jobs in series:
            served = await serve_arrivals(backend, "Noted", jobs, WISH)
            pairs = list(zip(served.seconds, jobs, strict=True))
            each.append([took_s / alone_s(job.steps) for took_s, job in pairs])
            one_row += [took_s / (job.steps * curve(512)(1)) for took_s, job in pairs]
    slowdowns = [slowdown for found in each for slowdown in found]
    found = {
        "p95": p95(slowdowns),
        "promised": PROMISED[mix],
        "p95_of_each_series": [p95(found) for found in each],
        "mean": round(fmean(slowdowns), 4),
        "most": round(max(slowdowns), 4),
        "p95_over_one_row": p95(one_row),
        "alone_s": {steps: round(alone_s(steps), 4) for steps in ALONE[mix]},
        "tasks": len(slowdowns),
    }
    say(f"{name}: p95 {found['p95']}, mean {found['mean']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gentd26", type=int, default=200, help="tasks in each series")
    parser.add_argument("--mixed", type=int, default=400, help="tasks in each series")
    parser.add_argument("--times", type=int, default=3, help="that each task is measured alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6], help="of the series")
    chosen = parser.parse_args()
    counts = {"gentd26": chosen.gentd26, "mixed": chosen.mixed}
    arms = [(mix, exact) for mix in counts for exact in (True, False)]
    series = {
        mix: [poisson(count, MIXES[mix], curve(512)(1), LOAD, seed) for seed in chosen.seeds]
        for mix, count in counts.items()
    }

    async def measure_all() -> list[dict[str, Any]]:
        runs = (measure(mix, how, series[mix], chosen.times) for mix, how in arms)
        return list(await asyncio.gather(*runs))

    with quiet():
        found = asyncio.run(measure_all())
    detail: dict[str, Any] = {"exact": {}, "fast": {}}
    for (mix, exact), one in zip(arms, found, strict=True):
        # Not before: who computes meanwhile keeps the workers from their work.
        told = one | simulated(mix, exact, series[mix])
        detail["exact" if exact else "fast"][mix] = told
    value = max(one["p95"] / one["promised"] for one in found)
    report(value, {**detail, "load": LOAD, "rows_in_exact": ROWS, "series": len(chosen.seeds)})


if __name__ == "__main__":
    main()
