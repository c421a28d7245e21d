"""Where one picture fills the device, does the step engine cost anything against serial work?

Two whole workers serve the same tasks of demo/curve at 1024 px, in turns: one with the step engine,
one whose model draws each task from its first step to its last, first come, first served. From a
backlog they tell images per second, between the ramps at both ends. From arrivals by chance, with
the steps of GenTD26 at seven tenths of capacity, they tell the mean latency: three series, each
served by both at the same time, one after another.

Value: the smaller of (rate over serial rate) / 0.99 and 1.02 / (mean latency over serial one).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from engine_rig import paired, summary
from machine import folder, quiet, report, say
from replay import GENTD26_STEPS, Job, in_order, poisson
from worker_rig import (
    SPEED,
    Backend,
    curve,
    noting,
    serve_arrivals,
    serve_backlog,
    spent_ms,
    steady_rate,
    working,
)

STEPS = 30
LOAD = 0.7
PROMISED_RATE, PROMISED_LATENCY = 0.99, 1.02
WISH = {"size": 1024, "speed": SPEED}


class Worker:
    """A worker that serves a backlog whenever it is asked."""

    def __init__(self, model: str, count: int, home: Path) -> None:
        self.model, self.count, self.home = model, count, home
        #: Of the last backlog.
        self.spent_ms: dict[str, Any] = {}

    def rate(self) -> float:
        """Images per second."""
        wishes = [{"steps": STEPS, **WISH}] * self.count
        with noting(self.home) as read:
            ended_s = asyncio.run(serve_backlog(self.model, wishes))
            self.spent_ms = spent_ms(read().of_tasks())
        return steady_rate(ended_s, 1)


async def latencies_s(model: str, series: Sequence[Sequence[Job]]) -> list[float]:
    """The mean of each series, of one worker."""
    backend, means = Backend(), []
    async with working(backend, model):
        for jobs in series:
            means.append(fmean((await serve_arrivals(backend, model, jobs, WISH)).seconds))
    say(f"{model}: mean latencies {[round(mean, 3) for mean in means]}")
    return means


async def both_latencies_s(series: Sequence[Sequence[Job]]) -> list[tuple[float, float]]:
    """Of the worker in steps and of the serial one, by series."""
    found = await asyncio.gather(latencies_s("Noted", series), latencies_s("Serial", series))
    return list(zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backlog", type=int, default=16, help="pictures, 4 are ramps")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--arrivals", type=int, default=80, help="in each series")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the series")
    chosen = parser.parse_args()
    series = [
        poisson(chosen.arrivals, GENTD26_STEPS, curve(1024)(1), LOAD, seed) for seed in chosen.seeds
    ]
    with quiet(), folder("engine-full") as home:
        in_steps = Worker("Noted", chosen.backlog, home)
        serial = Worker("Serial", chosen.backlog, home)
        rates = paired(chosen.pairs, in_steps.rate, serial.rate)
        latencies = asyncio.run(both_latencies_s(series))
    of_rate = summary([one / other for one, other in rates])
    in_steps_s, serial_s = (fmean(each) for each in zip(*latencies, strict=True))
    of_latency = in_steps_s / serial_s
    detail: dict[str, Any] = {
        "rate_over_serial": of_rate,
        "latency_over_serial": round(of_latency, 4),
        "latency_over_serial_of_each_series": [round(one / two, 4) for one, two in latencies],
        "promised": {"rate": PROMISED_RATE, "latency": PROMISED_LATENCY},
        "images_per_s": {
            "in_steps": summary([one for one, _ in rates]),
            "serial": summary([other for _, other in rates]),
        },
        "mean_latency_s": {"in_steps": round(in_steps_s, 4), "serial": round(serial_s, 4)},
        "mean_latency_s_without_overhead": round(
            fmean(in_order(jobs, {"key": curve(1024)}).mean_latency_s for jobs in series), 4
        ),
        "spent_ms": {"in_steps": in_steps.spent_ms, "serial": serial.spent_ms},
        "backlog": chosen.backlog,
        "arrivals": chosen.arrivals * len(series),
        "load": LOAD,
    }
    report(min(of_rate["median"] / PROMISED_RATE, PROMISED_LATENCY / of_latency), detail)


if __name__ == "__main__":
    main()
