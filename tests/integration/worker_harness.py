"""A worker's engine in this process, with real model processes, over a backend in this process."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator
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

__all__ = ["dispatch", "output_of", "over", "picture_of", "restarted", "working"]


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
            async with asyncio.timeout(10):
                assert await running == 0
    finally:
        running.cancel()


async def over(pid: int) -> None:
    """Wait until a process has ended, though perhaps nobody asks how."""
    async with asyncio.timeout(20):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)


async def restarted(worker: Worker) -> None:
    """Kill the model process, and wait until another has taken its place."""
    pid = worker.models.process.pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while worker.models.process.pid == pid or not worker.runner.can_run:
            await asyncio.sleep(0.01)


def output_of(task: Task) -> Any:
    assert task.state is TaskState.SUCCEEDED, task.error
    return msgspec.json.decode(task.output or b"null")


def picture_of(dispatch: MemoryDispatch, task: Task, index: int = 0) -> PIL.Image.Image:
    data, _ = dispatch.objects[task.artifacts[index].key]
    return PIL.Image.open(io.BytesIO(data))
