"""Where one picture fills the device, does the step engine cost anything against serial work?

Two whole workers serve the same tasks of demo/curve at 1024 px, in turns: one with the step engine,
one whose model draws each task from its first step to its last, first come, first served. From a
backlog they tell images per second, between the ramps at both ends. From arrivals by chance, with
the steps of GenTD26 at seven tenths of capacity, they tell the mean latency.

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
from machine import folder, quiet, report
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
            ended_s = asyncio.run(serve_backlog(Backend(), self.model, wishes))
            self.spent_ms = spent_ms(read().of_tasks())
        return steady_rate(ended_s, 1)


def latencies_s(model: str, jobs: Sequence[Job]) -> list[float]:
    async def serve() -> list[float]:
        backend = Backend()
        async with working(backend, model):
            return (await serve_arrivals(backend, model, jobs, WISH)).seconds

    return asyncio.run(serve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backlog", type=int, default=16, help="pictures, 4 are ramps")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--arrivals", type=int, default=55)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    jobs = poisson(chosen.arrivals, GENTD26_STEPS, curve(1024)(1), LOAD, chosen.seed)
    with quiet(), folder("engine-full") as home:
        in_steps = Worker("Noted", chosen.backlog, home)
        serial = Worker("Serial", chosen.backlog, home)
        rates = paired(chosen.pairs, in_steps.rate, serial.rate)
        [latency] = paired(
            1,
            lambda: fmean(latencies_s("Noted", jobs)),
            lambda: fmean(latencies_s("Serial", jobs)),
        )
    of_rate = summary([one / other for one, other in rates])
    of_latency = latency[0] / latency[1]
    detail: dict[str, Any] = {
        "rate_over_serial": of_rate,
        "latency_over_serial": round(of_latency, 4),
        "promised": {"rate": PROMISED_RATE, "latency": PROMISED_LATENCY},
        "images_per_s": {
            "in_steps": summary([one for one, _ in rates]),
            "serial": summary([other for _, other in rates]),
        },
        "mean_latency_s": {"in_steps": round(latency[0], 4), "serial": round(latency[1], 4)},
        "mean_latency_s_without_overhead": round(
            in_order(jobs, {"key": curve(1024)}).mean_latency_s, 4
        ),
        "spent_ms": {"in_steps": in_steps.spent_ms, "serial": serial.spent_ms},
        "backlog": chosen.backlog,
        "arrivals": chosen.arrivals,
        "load": LOAD,
    }
    report(min(of_rate["median"] / PROMISED_RATE, PROMISED_LATENCY / of_latency), detail)


if __name__ == "__main__":
    main()
