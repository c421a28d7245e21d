"""How many steps are drawn twice because a worker, or its model process, was killed while it drew?

A worker with all its parts and processes draws three tasks of five samples, by solvers with memory
and with noise of their own, one task without a seed. In each round it is killed at a random step:

    release   the signal to go at once: another worker goes on from what was handed over
    process   SIGKILL of the model process: its worker starts another one
    alone     the same, of a process that draws a single task, which loses the attempt
    worker    the worker dies without a word: another one gets its tasks when the leases run out

A step counts from its begin, so one that was in flight when the process died is drawn twice. At the
end every task is drawn once more without being disturbed, and all files are compared.

Value: steps that one sample has drawn twice in one round of all kinds but `worker`, at most. All
tasks must have succeeded, once each, with the same bytes as when nothing is killed, and no sample
may have drawn more than all of its steps twice where the worker died.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import engine_redone_model
from engine_redone_model import SAMPLES
from machine import folder, quiet, report, say
from swell.core.clock import SystemClock
from swell.core.task import Succeeded, Task, TaskState
from swell.diffusion.step_engine import Request, StepEngine
from swell.runtime.checkpoint_shm import CheckpointMemory, new_slate
from swell.sdk.context import Item
from swell.sdk.step_model import Plan, Sampler
from swell.settings.worker_settings import WorkerSettings
from swell.worker.worker_loop import Worker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from conformance.dispatch import MemoryDispatch

MODEL = "demo/redone"
STEPS = 20
#: (seed, samples, solver) of the tasks of a round.
TASKS = ((3, 1, "euler_ancestral"), (4, 3, "dpmpp_2m"), (None, 1, "lcm"))
#: How long leases last; only the death of a whole worker waits for that.
LEASE_S = 3.0
#: Numbers of latents of which it is measured what leaving a checkpoint takes.
LATENTS = (4 * 64 * 64, 4 * 128 * 128, 16 * 128 * 128)


class Notes:
    """Steps that have begun."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open()
        self.begun: collections.Counter[tuple[int, str]] = collections.Counter()

    def read(self) -> int:
        """Reads what is new; returns how many steps have begun so far."""
        for line in self._file:
            who, when = line.split()
            self.begun[int(who), when] += 1
        return self.begun.total()

    def redone(self, tasks: range) -> int:
        """Steps begun again, of the sample of these tasks that is worst off."""
        self.read()
        extra: collections.Counter[int] = collections.Counter()
        for (who, _), times in self.begun.items():
            if who // SAMPLES in tasks:
                extra[who] += times - 1
        return max(extra.values())


class Rig:
    """A backend in this process and one worker at a time."""

    def __init__(self, notes: Path) -> None:
        self.dispatch = MemoryDispatch(SystemClock(), lease_s=LEASE_S)
        self.notes = Notes(notes)
        self.rng = random.Random(17)
        #: Number of the next task, and what was asked as what.
        self.number = 0
        self.asked: dict[str, tuple[dict[str, Any], int]] = {}

    async def start(self) -> None:
        path = str(Path(engine_redone_model.__file__))
        self.worker = Worker(WorkerSettings(name="r"), self.dispatch, [path], SystemClock())
        self.running = asyncio.create_task(self.worker.run(handle_signals=False))
        up = asyncio.create_task(self.worker.is_up.wait())
        await asyncio.wait({self.running, up}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()

    async def stop(self) -> None:
        self.worker.drain()
        if await self.running:
            raise RuntimeError("the worker ended with an error")

    async def round(self, kind: str) -> int:
        """Draws some tasks and kills whoever does; returns the steps that were redone."""
        first = self.number
        chosen = TASKS[:1] if kind == "alone" else TASKS
        ids = [await self._submit(*each) for each in chosen]
        whole = STEPS * sum(count for _, count, _ in chosen)
        upto = self.notes.read() + self.rng.randrange(1, whole)
        while self.notes.read() < upto:
            await asyncio.sleep(0.001)
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        await self._kill(kind)
        for task_id in ids:
            await self.dispatch.ended(task_id, 60)
        return self.notes.redone(range(first, self.number))

    async def _submit(self, seed: int | None, count: int, solver: str) -> str:
        wish = {"who": self.number, "steps": STEPS, "solver": solver}
        self.number += 1
        task_id = await self.dispatch.submit(MODEL, wish, seed=seed, count=count)
        self.asked[task_id] = (wish, count)
        return task_id

    async def _kill(self, kind: str) -> None:
        match kind:
            case "release":
                self.worker.release()
                await self.running
                await self.start()
            case "worker":
                self.running.cancel()
                await asyncio.gather(self.running, return_exceptions=True)
                await self.start()
            case _:
                dead = self.worker.models.process.pid
                os.kill(dead, signal.SIGKILL)
                while self.worker.models.process.pid == dead or not self.worker.runner.can_run:
                    await asyncio.sleep(0.005)

    async def judged(self) -> dict[str, int]:
        """Counts lost and doubled tasks, and files that are not those of an undisturbed run."""
        tasks = [await self.dispatch.task(task_id) for task_id in self.asked]
        again = []
        for task in tasks:
            wish, count = self.asked[task.id]
            again.append(await self.dispatch.submit(MODEL, wish, seed=task.seed, count=count))
        through = [await self.dispatch.ended(task_id, 120) for task_id in again]
        told = [
            settlement.task_id
            for each in self.dispatch.reports
            for settlement in each.settlements
            if isinstance(settlement.outcome, Succeeded)
        ]
        successes = collections.Counter(told) - collections.Counter(self.dispatch.stale)
        pairs = [
            (self._files(one), self._files(other))
            for one, other in zip(tasks, through, strict=True)
        ]
        return {
            "tasks": len(tasks),
            "lost": sum(task.state is not TaskState.SUCCEEDED for task in tasks),
            "doubled": sum(successes[task.id] > 1 for task in tasks),
            "files": sum(len(files) for files, _ in pairs),
            "other_bytes": sum(files != plain for files, plain in pairs),
            "checkpoints_left": sum(
                key.startswith("checkpoints/") for key in self.dispatch.objects
            ),
        }

    def _files(self, task: Task) -> list[bytes]:
        return [self.dispatch.objects[file.key][0] for file in task.artifacts]


async def killed(notes: Path, rounds: dict[str, int]) -> tuple[dict[str, list[int]], Any]:
    """Returns the steps that were redone in each round, by kind, and what the judge says."""
    rig, redone = Rig(notes), {}
    await rig.start()
    for kind, count in rounds.items():
        redone[kind] = [await rig.round(kind) for _ in range(count)]
        say(f"{kind}: {redone[kind]}")
    judged = await rig.judged()
    await rig.stop()
    return redone, judged


class Still(engine_redone_model.Redone):
    """The same with as many latents as one likes, and no notes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def prepare(self, item: Item[Any]) -> Plan:
        return Plan(sampler=Sampler("flow_euler", 1000, spacing="even"), shape=(self.size,))

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        return x * np.float32(0.5)


def leaving_us(size: int, times: int = 200) -> float:
    """Microseconds that the model process takes to leave one checkpoint of so many numbers."""
    denoiser = StepEngine(SystemClock(), lambda _, result: say(str(result)))
    model = Still(size)
    denoiser.add([Request(id="a", model=model, item=Item(model.Input(), seed=1))])
    denoiser.boundary()
    took: list[float] = []
    with new_slate() as file:
        page = CheckpointMemory(file.fileno()).page(1, 0, 1, "", 4 * size, 0)
        for _ in range(times):
            begun = time.perf_counter()
            drawn = denoiser.drawn_since("a", 0)
            assert drawn is not None, "it has moved"
            page.write(drawn.step, *drawn.read())
            took.append(time.perf_counter() - begun)
    return round(statistics.median(took) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of release and of process")
    parser.add_argument("--few", type=int, default=2, help="rounds of the other kinds")
    chosen = parser.parse_args()
    rounds = {
        "release": chosen.rounds,
        "process": chosen.rounds,
        "alone": chosen.few,
        "worker": chosen.few,
    }
    with quiet(), folder("engine-redone") as home:
        os.environ["REDONE_NOTES"] = str(home / "notes")
        redone, judged = asyncio.run(killed(home / "notes", rounds))
        detail: dict[str, Any] = {
            "redone": {
                kind: {"kills": len(steps), "most": max(steps), "mean": statistics.mean(steps)}
                for kind, steps in redone.items()
            },
            **judged,
            "steps_of_a_job": STEPS,
            "leaving_us": {f"{4 * size // 1024} KiB": leaving_us(size) for size in LATENTS},
        }
    is_right = not (judged["lost"] or judged["doubled"] or judged["other_bytes"])
    is_right &= not judged["checkpoints_left"] and max(redone["worker"]) <= STEPS
    report(max(*redone["release"], *redone["process"], *redone["alone"]), detail, ok=is_right)


if __name__ == "__main__":
    main()
