"""How often does a worker change the model on its device, against first come, first served?

A replay with the statistics of GenTD26: 87 models of 1 to 20 GB, bursts, 2.7 pictures a request,
and the trace's own load, which keeps one device busy for 0.39 of the time with pictures alone. The
backend's turns and affinity, the worker's slots, its line, its schedule and who leaves the device
are Swell's code; only time is simulated. Models may take 64 GB of a device of 80 GB. First come,
first served holds one model at a time, as a server with one pipeline does: the trace itself counts
as many updates of pipelines as inferences.

Value: switches per request over those of first come, first served, over all seeds.

The details have the stricter readings as well: the same room for both sides, one model at a time
and 64 GB, at the trace's load and at 0.9. At the trace's own load these do not reach 0.3: a good
part of the switches that are left are for requests that find nobody waiting, and no order of
service helps there. A part of the replay also runs in a real worker with a real model process whose
models sleep, so many times faster: `real` and `simulated` are the switches of the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import engine_switches_models
from engine_switches_models import SCALE, owned
from fleet import (
    BUDGET_BYTES,
    ONE_AT_A_TIME,
    Fleet,
    Outcome,
    Request,
    in_order,
    requests,
)
from machine import quiet, report, say
from replay import quantile
from swell.core.clock import SystemClock
from swell.core.task import TaskState
from swell.settings.worker_settings import WorkerSettings
from swell.worker.worker_loop import Worker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from conformance.dispatch import MemoryDispatch

TRACE_LOAD = 0.39
ROOMS = {"one": ONE_AT_A_TIME, "64 GB": BUDGET_BYTES}


def summary(outcomes: Sequence[Outcome], asked: Sequence[Sequence[Request]]) -> dict[str, Any]:
    latencies_s: list[float] = []
    slowdowns: list[float] = []
    for outcome, each in zip(outcomes, asked, strict=True):
        work_s = {request.id: request.work_s for request in each}
        latencies_s += outcome.latency_s.values()
        slowdowns += [took / work_s[name] for name, took in outcome.latency_s.items()]
    count = sum(len(each) for each in asked)
    return {
        "switches_per_request": round(sum(o.switches for o in outcomes) / count, 4),
        "latency_s": {
            "mean": round(statistics.fmean(latencies_s)),
            "p95": round(quantile(latencies_s, 0.95)),
            "most": round(max(latencies_s)),
        },
        "slowdown": {q: round(quantile(slowdowns, q / 100), 1) for q in (50, 95)},
    }


def replay(load: float, count: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Both sides, with each room, over the same requests."""
    asked = [requests(count, load, seed) for seed in seeds]
    found: dict[str, Any] = {}
    for room, budget_bytes in ROOMS.items():
        theirs = [in_order(each, budget_bytes) for each in asked]
        ours = [Fleet(each, budget_bytes).run() for each in asked]
        found[f"in order, {room}"] = summary(theirs, asked)
        found[f"swell, {room}"] = summary(ours, asked)
        say(f"load {load}, {room}: done")
    per_request = {name: arm["switches_per_request"] for name, arm in found.items()}
    found["ratio"] = {
        "swell 64 GB over in order one": per_request["swell, 64 GB"] / per_request["in order, one"],
        "both one": per_request["swell, one"] / per_request["in order, one"],
        "both 64 GB": per_request["swell, 64 GB"] / per_request["in order, 64 GB"],
    }
    found["ratio"] = {name: round(ratio, 4) for name, ratio in found["ratio"].items()}
    return found


# --- a real worker -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def working(dispatch: MemoryDispatch) -> AsyncIterator[Worker]:
    path = str(Path(engine_switches_models.__file__))
    settings = WorkerSettings(name="switches", device_memory_bytes=BUDGET_BYTES)
    worker = Worker(settings, dispatch, [path], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    up = asyncio.create_task(worker.is_up.wait())
    await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    yield worker
    worker.drain()
    if await running:
        raise RuntimeError("the worker ended with an error")


async def serve(asked: Sequence[Request]) -> int:
    """Serve requests as they come, `SCALE` times faster; return how often a model was loaded."""
    dispatch = MemoryDispatch(SystemClock())
    loop = asyncio.get_running_loop()
    async with working(dispatch) as worker:
        loaded = len(worker.models.residents)
        begun_s, ids = loop.time(), []
        for request in asked:
            comes_s = begun_s + (request.arrived_s - asked[0].arrived_s) / SCALE
            await asyncio.sleep(max(0.0, comes_s - loop.time()))
            wish = {"parts": request.parts}
            ids.append(await dispatch.submit(owned(request.model), wish, count=request.pictures))
        tasks = [await dispatch.ended(task_id, 120) for task_id in ids]
    if any(task.state is not TaskState.SUCCEEDED for task in tasks):
        raise RuntimeError(f"a task failed: {next(t.error for t in tasks if t.error)}")
    told = [each.switches for each in dispatch.reports if each.switches]
    # A worker has loaded what fits before it takes work, and the simulated one nothing.
    return loaded + sum(each.disk + each.host for each in told[-1])


def confirm(count: int, seed: int) -> dict[str, Any]:
    """The same requests in a real worker and in simulated time."""
    asked = requests(count, 0.9, seed)
    simulated = Fleet(asked).run().switches
    real = asyncio.run(serve(asked))
    say(f"real {real}, simulated {simulated}")
    noise = 3 * math.sqrt(simulated) / simulated
    return {
        "requests": count,
        "load": 0.9,
        "times_faster": SCALE,
        "real": real,
        "simulated": simulated,
        "in_order_one": in_order(asked, ONE_AT_A_TIME).switches,
        "real_over_simulated": round(real / simulated, 3),
        "noise": round(noise, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, help="for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--real", type=int, default=200, help="requests for the real worker")
    chosen = parser.parse_args()
    with quiet():
        real = confirm(chosen.real, chosen.seeds[0])
        at = {load: replay(load, chosen.requests, chosen.seeds) for load in (TRACE_LOAD, 0.9)}
    detail = {f"load {load}": found for load, found in at.items()}
    detail |= {"real worker": real, "requests": chosen.requests, "seeds": chosen.seeds}
    is_confirmed = abs(real["real_over_simulated"] - 1) <= real["noise"]
    value = at[TRACE_LOAD]["ratio"]["swell 64 GB over in order one"]
    report(value, detail, ok=is_confirmed)


if __name__ == "__main__":
    main()
