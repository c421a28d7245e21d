"""How much of the time is the device busy, while encoding and uploading a picture take long?

A worker with all its parts and processes serves a backlog from a backend in memory. The model is
demo/curve, whose steps sleep as long as one of a large network takes, with pictures of 1024 x 1024.
Each becomes a PNG, and where that takes less than 155 ms the encoding process sleeps for the rest;
the backend needs 100 ms to store one. Two processes encode, as by default on three cores: one
could not keep up with 6.3 pictures per second.

Value: seconds in steps and decodings, of those from the first step's begin to the last one's end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

import engine_busy_model
from encoders import grain
from engine_rig import summary
from machine import folder, quiet, report, say
from swell.clock import SystemClock
from swell.dispatch import Upload
from swell.task import TaskState
from swell.testing.dispatch import MemoryDispatch
from swell.worker import compress
from swell.worker.encoders import Encoders
from swell.worker.engine import Worker
from swell.worker.settings import WorkerSettings
from swell.zoo.curve import SECONDS

MODEL = "demo/busy"
ENCODE_S = 0.155
UPLOAD_S = 0.1
SIDE = 1024
TOGETHER = 8
STEPS = 30
SPEED = 10.0


#: The program of an encoding process that takes `ENCODE_S` for a picture, or longer.
SLOW = f"""
import importlib.util, time
spec = importlib.util.spec_from_file_location("compress", {compress.__file__!r})
compress = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compress)
do_order = compress._answer
def do_slowly(memory, order):
    begun = time.monotonic()
    answer = do_order(memory, order)
    time.sleep(max(0, begun + {ENCODE_S} - time.monotonic()))
    return answer
compress._answer = do_slowly
compress.main()
"""


class SlowStore(MemoryDispatch):
    """Takes its time for each file, for any number at once."""

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        await asyncio.sleep(UPLOAD_S)
        await super().put(upload, data, content_type)


@contextlib.asynccontextmanager
async def working(dispatch: MemoryDispatch, encoders: Encoders) -> AsyncIterator[None]:
    path = str(Path(engine_busy_model.__file__))
    worker = Worker(WorkerSettings(name="busy"), dispatch, [path], SystemClock())
    # The worker's own ones are never asked, and so never start a process.
    worker._encoders = encoders
    running = asyncio.create_task(worker.run(handle_signals=False))
    up = asyncio.create_task(worker.is_up.wait())
    await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    yield
    worker.drain()
    if await running:
        raise RuntimeError("the worker ended with an error")


async def serve(count: int, processes: int, program: Path) -> list[float]:
    """Serves a backlog; returns seconds from each result to its encoded file."""
    dispatch = SlowStore(SystemClock())
    wish = {"steps": STEPS, "size": 512, "speed": SPEED}
    ids = [await dispatch.submit(MODEL, wish, seed=number) for number in range(count)]
    async with working(dispatch, Encoders(processes, program=program)):
        tasks = [await dispatch.ended(task_id, 120) for task_id in ids]
    if any(task.state is not TaskState.SUCCEEDED for task in tasks):
        raise RuntimeError(f"a task failed: {next(t.error for t in tasks if t.error)}")
    if len(dispatch.objects) != count:
        raise RuntimeError(f"{len(dispatch.objects)} files of {count} were stored")
    return [task.timings.encode_s for task in tasks if task.timings]


def one_run(home: Path, count: int, processes: int) -> dict[str, float]:
    notes = home / "notes"
    notes.write_bytes(b"")
    os.environ["BUSY_NOTES"] = str(notes)
    encode_s = asyncio.run(serve(count, processes, home / "slow.py"))
    table = np.frombuffer(notes.read_bytes(), np.int64).reshape(-1, 3)
    begins, ends, rows = table.T / 1e9
    # Warming up is not part of it: what counts begins with the first of the backlog's steps.
    first = len(table) - _notes_of(table, count)
    begins, ends, rows = begins[first:], ends[first:], rows[first:]
    window_s = ends[-1] - begins[0]
    gaps_s = begins[1:] - ends[:-1]
    best = TOGETHER / (STEPS * SECONDS[512][TOGETHER] / SPEED)
    found = {
        "busy": float((ends - begins).sum() / window_s),
        "of_full_rate": float(count / window_s / best),
        "longest_gap_ms": float(gaps_s.max() * 1e3),
        "encode_ms": statistics.median(encode_s) * 1e3,
    }
    say(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return found


def _notes_of(table: Any, count: int) -> int:
    """How many notes, from the last, belong to `count` pictures: the warm-up drew some as well."""
    decodings = np.flatnonzero(table[:, 2] == 0)
    before = decodings[: len(decodings) - count]
    return len(table) - (int(before[-1]) + 1 if len(before) else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="that encode")
    chosen = parser.parse_args()
    with quiet(), folder("engine-busy") as home:
        os.environ["BUSY_PICTURE"] = str(home / "picture.png")
        grain(SIDE).save(os.environ["BUSY_PICTURE"])
        (home / "slow.py").write_text(SLOW)
        runs = [one_run(home, chosen.pictures, chosen.processes) for _ in range(chosen.runs)]
    detail: dict[str, Any] = {name: summary([run[name] for run in runs]) for name in runs[0]}
    detail |= {
        "picture_px": SIDE,
        "png_ms": ENCODE_S * 1e3,
        "upload_ms": UPLOAD_S * 1e3,
        "pictures": chosen.pictures,
        "processes": chosen.processes,
    }
    report(detail["busy"]["median"], detail)


if __name__ == "__main__":
    main()
