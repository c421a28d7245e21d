"""How many of Swell's functions does one request go through, from its first byte to its answer?

`POST /v1/tasks` with `Prefer: wait` on SQLite, with one worker that waits for a task: accepting,
leasing, reporting and answering in one event loop, on a backend that has served such a request
before. Python calls into `swell` are counted by `sys.setprofile` on all threads.

Value: calls. The detail has the number of modules, and the calls of each.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from machine import ROOT, report
from swell.core.clock import SystemClock

sys.path.insert(0, str(ROOT / "tests" / "unit"))
sys.path.insert(0, str(ROOT / "tests"))

from api_harness import World, a_world, succeeded

MOST_MODULES = 22
PACKAGE = str(ROOT / "src" / "swell")


class Counting:
    """Counts calls of Python functions of `swell`."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        # Frames are kept, so that no two have one id. A coroutine that goes on is the same call.
        self._frames: dict[int, FrameType] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if id(frame) not in self._frames:
            self._frames[id(frame)] = frame
            module = str(Path(code.co_filename).relative_to(PACKAGE).with_suffix(""))
            self.calls[module, code.co_qualname] += 1


async def one_request(world: World, worker: str) -> None:
    waiting = asyncio.create_task(world.lease(worker, n=1, wait_s=20))
    while not world.service.fleet.workers[worker].polls:
        await asyncio.sleep(0.001)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    asking = asyncio.create_task(
        world.anna("POST", "/v1/tasks", body, headers={"prefer": "wait=10"})
    )
    lease = (await waiting)["tasks"][0]
    await world.report(worker, settlements=[succeeded(lease, "A")])
    answer = await asking
    assert answer.status == 201, answer.body


async def measure() -> Counter[tuple[str, str]]:
    async with a_world(clock=SystemClock()) as world:
        worker = await world.register()
        for _ in range(3):
            await one_request(world, worker)
        counting = Counting()
        threading.setprofile_all_threads(counting)
        try:
            await one_request(world, worker)
        finally:
            threading.setprofile_all_threads(None)
        return counting.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="print each function")
    asked = parser.parse_args()
    calls = asyncio.run(measure())
    if asked.all:
        for (module, name), n in calls.items():
            print(f"{n:4} {module} {name}")
    modules: Counter[str] = Counter()
    for (module, _), n in calls.items():
        modules[module] += n
    detail: dict[str, Any] = {"modules": len(modules), "calls_of": dict(modules.most_common())}
    report(calls.total(), detail, ok=len(modules) <= MOST_MODULES)


if __name__ == "__main__":
    main()
