"""How many of Swell's functions does one SDXL task go through, from its lease to its upload?

A small random SDXL draws one picture of six steps on the CPU, by a worker and model process that
have drawn one before. The backend is a stub, and takes files by upload. Python functions of `swell`
are noted with `sys.setprofile` in all threads of both processes; a comprehension belongs to the
function around it.

Value: distinct functions (module and qualified name), both processes together. The detail has the
number of modules, and the functions of each.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

import torch_environment
from machine import ROOT, folder, report
from swell.core.clock import SystemClock
from swell.protocol.worker_messages import (
    Ask,
    Grant,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Upload,
    Welcome,
)
from swell.runtime.model_process_client import Origin
from swell.runtime.venvs import Home
from swell.settings.environment import process_environment
from swell.settings.worker_settings import WorkerSettings
from swell.worker.worker_loop import Worker

MOST_MODULES = 12
STEPS = 6
PACKAGE = str(ROOT / "src" / "swell")

# Runs in the model process before Swell: SIGUSR1 begins to note functions, SIGUSR2 writes them.
TRACED = """
import sys
sys.path.insert(0, {benchmarks!r})
import engine_flow
engine_flow.trace_by_signals({out!r})
"""


class Tracer:
    """Notes which functions of `swell` are called, by module and qualified name."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, str]] = set()
        self.is_on = False
        # Of threads that start from now on; `begin` notes those of the main thread.
        threading.setprofile(self)

    def begin(self) -> None:
        self.is_on = True
        sys.setprofile(self)

    def end(self) -> list[tuple[str, str]]:
        sys.setprofile(None)
        self.is_on = False
        return sorted(self.functions)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self.is_on and event == "call" and code.co_filename.startswith(PACKAGE):
            names = code.co_qualname.split(".")
            while len(names) > 1 and names[-1] in COMPREHENSIONS:
                names = names[:-2]
            if names[-1] in (*COMPREHENSIONS, "<module>"):
                return
            module = str(Path(code.co_filename).relative_to(PACKAGE).with_suffix(""))
            self.functions.add((module, ".".join(names)))


COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<setcomp>", "<dictcomp>")


def trace_by_signals(out: str) -> None:
    tracer = Tracer()

    def write(*_: object) -> None:
        Path(out + ".part").write_text(json.dumps(tracer.end()))
        Path(out + ".part").rename(out)

    signal.signal(signal.SIGUSR1, lambda *_: tracer.begin())
    signal.signal(signal.SIGUSR2, write)


class Backend:
    """One task at a time for one worker; all that it reports is taken."""

    def __init__(self) -> None:
        self.task: asyncio.Queue[LeasedTask] = asyncio.Queue()
        self.ended: asyncio.Queue[Any] = asyncio.Queue()
        self.stored: dict[str, bytes] = {}
        self.cards: list[Any] = []

    async def starting(self, startup: Any) -> StartingAnswer:
        return StartingAnswer(tell_every_s=10)

    async def register(self, registration: Registration) -> Welcome:
        self.cards = registration.models
        return Welcome(worker_id="w", lease_s=60, heartbeat_s=20, max_wait_s=60)

    async def lease(self, ask: Ask) -> Grant:
        if ask.n == 0:
            await asyncio.sleep(ask.wait_s)
            return Grant()
        return Grant(tasks=[await self.task.get()])

    async def report(self, report: Report) -> ReportAnswer:
        for each in report.settlements:
            self.ended.put_nowait(each.outcome)
        return ReportAnswer(watched=[each.task_id for each in report.progress])

    async def uploads(self, worker_id: str, hold: Any, keys: list[str]) -> list[Upload]:
        return [Upload(key=key, url=f"/{key}") for key in keys]

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        self.stored[upload.key] = data

    async def close(self) -> None:
        pass

    async def draw(self, number: int) -> None:
        [card] = self.cards
        asked = {"prompt": "a red fox", "width": 64, "height": 64, "steps": STEPS}
        task = LeasedTask(
            task_id=f"task-{number}",
            attempt=1,
            token="t",
            model=card.name,
            version=card.version,
            input=msgspec.Raw(msgspec.json.encode(asked)),
            finish_within_s=600,
        )
        self.task.put_nowait(task)
        async with asyncio.timeout(120):
            outcome = await self.ended.get()
        assert type(outcome).__name__ == "Succeeded", outcome


async def one_task(added: Path, work: Path) -> set[tuple[str, str]]:
    (work / "sitecustomize.py").write_text(
        TRACED.format(benchmarks=str(ROOT / "benchmarks"), out=str(work / "functions.json"))
    )
    variables = process_environment() | {"PYTHONPATH": str(work), "OMP_NUM_THREADS": "1"}
    tracer, backend = Tracer(), Backend()
    worker = Worker(
        WorkerSettings(name="flow", encode_threads=1),
        backend,  # type: ignore[arg-type]
        [str(added)],
        SystemClock(),
        origin=Origin(home=Home(sys.executable, variables)),
    )
    running = asyncio.create_task(worker.run(handle_signals=False))
    up = asyncio.create_task(worker.is_up.wait())
    await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
    await backend.draw(1)
    await asyncio.sleep(1)
    os.kill(worker.models.process.pid, signal.SIGUSR1)
    await asyncio.sleep(0.2)
    tracer.begin()
    await backend.draw(2)
    tracer.end()
    os.kill(worker.models.process.pid, signal.SIGUSR2)
    theirs = work / "functions.json"
    for _ in range(1000):
        if theirs.exists():
            break
        await asyncio.sleep(0.01)
    assert len(backend.stored) == 2, backend.stored.keys()
    worker.release()
    await running
    return tracer.functions | {(module, name) for module, name in json.loads(theirs.read_text())}


def measure() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    cases, tiny = importlib.import_module("family_cases"), importlib.import_module("tiny_pipelines")
    with folder("flow") as place:
        source = tiny.stable_diffusion_xl(place / "source")
        added = cases.add(source, place / "data", "tiny/sdxl")
        functions = asyncio.run(one_task(added, place))
    by_module: dict[str, list[str]] = {}
    for module, name in sorted(functions):
        by_module.setdefault(module, []).append(name)
    detail = {"modules": len(by_module), "steps": STEPS, "functions": by_module}
    report(len(functions), detail, ok=len(by_module) <= MOST_MODULES)


if __name__ == "__main__":
    sys.exit(torch_environment.run(measure))
