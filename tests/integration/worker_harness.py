"""A worker's engine in this process, with real model processes, over a backend in this process."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import PIL.Image
import psutil
import pytest

from conformance.dispatch import MemoryDispatch
from swell.core.clock import SystemClock
from swell.core.task import Task, TaskState
from swell.settings.worker_settings import WorkerSettings
from swell.weights.cache import WeightCache
from swell.worker.worker_loop import Worker

__all__ = [
    "PATIENCE_S",
    "dispatch",
    "output_of",
    "over",
    "picture_of",
    "restarted",
    "until",
    "working",
]

#: Longest wait for anything that must happen, in seconds.
PATIENCE_S = 60.0


@pytest.fixture
async def dispatch() -> MemoryDispatch:
    return MemoryDispatch(SystemClock())


@asynccontextmanager
async def working(
    dispatch: MemoryDispatch,
    *refs: str,
    weights: WeightCache | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Worker, "asyncio.Task[int]"]]:
    """A worker that is up; it is told to go at the end, if it has not gone by then."""
    worker = Worker(
        WorkerSettings(name="tester", **settings),
        dispatch,
        refs,
        SystemClock(),
        weights=weights,
    )
    running = asyncio.create_task(worker.run(handle_signals=False))
    up = asyncio.create_task(worker.is_up.wait())
    await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    if running.done():
        running.result()
    try:
        yield worker, running
        if not running.done():
            worker.release()
            async with asyncio.timeout(PATIENCE_S):
                assert await running == 0
    finally:
        running.cancel()


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def over(pid: int) -> None:
    """Wait until a process has ended, though perhaps nobody asks how."""
    with contextlib.suppress(psutil.NoSuchProcess):
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def restarted(worker: Worker) -> None:
    """Kill the model process, and wait until another has taken its place."""
    pid = worker.models.process.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: worker.models.process.pid != pid and worker.runner.can_run)


def output_of(task: Task) -> Any:
    assert task.state is TaskState.SUCCEEDED, task.error
    return msgspec.json.decode(task.output or b"null")


def picture_of(dispatch: MemoryDispatch, task: Task, index: int = 0) -> PIL.Image.Image:
    data, _ = dispatch.objects[task.artifacts[index].key]
    return PIL.Image.open(io.BytesIO(data))
