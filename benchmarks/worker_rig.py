"""What the benchmarks of whole workers share: a worker at work, its backend, and who comes when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import worker_model
from replay import Device, Job, device
from swell.core.clock import SystemClock
from swell.core.errors import NotFound
from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.core.task import Outcome, Succeeded
from swell.protocol.worker_messages import (
    Ask,
    Grant,
    Incoming,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Upload,
    Welcome,
)
from swell.settings.worker_settings import WorkerSettings
from swell.worker.encoder_pool import Encoders
from swell.worker.worker_loop import Worker
from swell_models.simulated_gpu import SECONDS

#: So many times faster than the machine whose cost curves are taken.
SPEED = 10.0
#: Seeds of tasks that are not measured.
FIRST_OTHER_SEED = 1_000_000


def curve(size: int) -> Device:
    """Seconds of a step by rows."""
    return device({rows: seconds / SPEED for rows, seconds in SECONDS[size].items()})


class Backend:
    """A backend in this process that keeps its tasks in a list: what is measured is the worker.

    It notes when it gave out each task, and when that ended.

    Args:
        upload_s: What it needs to store a file, of any number at once.
    """

    def __init__(self, upload_s: float = 0.0) -> None:
        self.registrations: list[Registration] = []
        self.granted_s: dict[str, float] = {}
        self.ended_s: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        #: Key → file.
        self.objects: dict[str, bytes] = {}
        self._upload_s = upload_s
        self._queue: deque[LeasedTask] = deque()
        self._ids = itertools.count(1)
        self._queued = asyncio.Event()
        self._ended = asyncio.Event()

    def submit(self, model: str, wish: Mapping[str, Any], seed: int) -> str:
        """Queue a task; return its id."""
        task_id = str(next(self._ids))
        task = LeasedTask(
            task_id=task_id,
            attempt=1,
            token="t",
            model=model,
            version="1",
            input=msgspec.Raw(msgspec.json.encode(wish)),
            count=1,
            seed=seed,
        )
        self._queue.append(task)
        self._queued.set()
        return task_id

    async def all_succeeded(self, ids: Sequence[str], within_s: float) -> None:
        """Wait until all of these have ended.

        Raises:
            RuntimeError: One did not succeed at once.
        """
        async with asyncio.timeout(within_s):
            while not all(task_id in self.ended_s for task_id in ids):
                self._ended.clear()
                await self._ended.wait()
        for task_id in ids:
            if not isinstance(self.outcomes[task_id], Succeeded):
                raise RuntimeError(f"a task did not succeed: {self.outcomes[task_id]}")

    # What the worker asks

    async def starting(self, startup: Startup) -> StartingAnswer:
        return StartingAnswer(tell_every_s=10.0)

    async def register(self, registration: Registration) -> Welcome:
        self.registrations.append(registration)
        return Welcome(
            worker_id="worker",
            lease_s=30.0,
            heartbeat_s=10.0,
            max_wait_s=5.0,
            enclose_bytes=64 * 1024,
        )

    async def lease(self, ask: Ask) -> Grant:
        if not self._queue and ask.n and ask.wait_s:
            self._queued.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queued.wait(), ask.wait_s)
        elif not ask.n:
            await asyncio.sleep(ask.wait_s)
        return Grant(tasks=self._take(ask.n))

    async def report(self, report: Report) -> ReportAnswer:
        now_s = time.monotonic()
        for file in report.enclosures:
            self.objects[file.key] = file.data
        for settled in report.settlements:
            self.ended_s[settled.task_id] = now_s
            self.outcomes[settled.task_id] = settled.outcome
        self._ended.set()
        followed = [each.task_id for each in report.progress]
        return ReportAnswer(tasks=self._take(report.ask), watched=followed)

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        return [Upload(key=key, url=f"memory:{key}") for key in keys]

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        if self._upload_s:
            await asyncio.sleep(self._upload_s)
        self.objects[upload.key] = data

    async def fetch(self, url: str) -> tuple[bytes, str]:
        raise NotFound(f"there is no file at {url}")

    def open(self, url: str) -> contextlib.AbstractAsyncContextManager[Incoming]:
        raise NotFound(f"there is no file at {url}")

    async def close(self) -> None:
        """Hold nothing."""

    def _take(self, n: int) -> list[LeasedTask]:
        tasks = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        now_s = time.monotonic()
        self.granted_s |= {task.task_id: now_s for task in tasks}
        return tasks


@contextlib.asynccontextmanager
async def working(
    backend: Backend,
    model: str,
    *,
    encoders: Encoders | None = None,
    exact: bool = True,
) -> AsyncIterator[Worker]:
    """A worker with a model of worker_model.py, by the name of its class."""
    ref = f"{Path(worker_model.__file__)}:{model}"
    worker = Worker(
        WorkerSettings(name=model, batching="exact" if exact else "fast"),
        backend,
        [ref],
        SystemClock(),
        encoders=encoders,
    )
    running = asyncio.create_task(worker.run(handle_signals=False))
    up = asyncio.create_task(worker.is_up.wait())
    await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    yield worker
    worker.drain()
    if await running:
        raise RuntimeError("the worker ended with an error")


# --- who comes -----------------------------------------------------------------------------------


def name_of(model: str) -> str:
    return str(getattr(worker_model, model).name)


def submit(backend: Backend, model: str, wish: Mapping[str, Any], seed: int) -> str:
    return backend.submit(name_of(model), wish, seed)


async def serve_backlog(
    model: str,
    wishes: Sequence[Mapping[str, Any]],
    backend: Backend | None = None,
    **options: Any,
) -> list[float]:
    """Serve tasks that are queued from the start; return when each ended, in order."""
    backend = backend or Backend()
    ids = [submit(backend, model, wish, seed) for seed, wish in enumerate(wishes)]
    async with working(backend, model, **options):
        await backend.all_succeeded(ids, 300)
    return sorted(backend.ended_s[task_id] for task_id in ids)


def steady_rate(ended_s: Sequence[float], together: int, edge: int = 2) -> float:
    """Results per second between the ramps at both ends.

    With `together` samples of equal steps at a time, results come in rounds. What counts is a whole
    number of them: from the end of the round number `edge` to that of the last but `edge`, by the
    last result of each.
    """
    rounds = len(ended_s) // together
    first, last = edge * together - 1, (rounds - edge) * together - 1
    if last <= first:
        raise ValueError(f"{rounds} rounds are too few for ramps of {edge}")
    return (last - first) / (ended_s[last] - ended_s[first])


@dataclass(frozen=True)
class Latencies:
    """What came of an open loop, by job."""

    ids: list[str]
    #: When the first one could have come, on the monotonic clock.
    start_s: float
    #: From when a job was to come until its result was at the backend.
    seconds: list[float]


async def serve_arrivals(
    backend: Backend, model: str, jobs: Sequence[Job], wish: Mapping[str, Any]
) -> Latencies:
    """Submit each job when it comes, whoever waits by then. Its number is its seed."""
    start_s = time.monotonic() + 0.2
    ids = []
    for seed, job in enumerate(jobs):
        await asyncio.sleep(max(0.0, start_s + job.arrived_s - time.monotonic()))
        ids.append(submit(backend, model, {"steps": job.steps, **wish}, seed))
    await backend.all_succeeded(ids, 300)
    ended_s = [backend.ended_s[task_id] - start_s for task_id in ids]
    return Latencies(
        ids, start_s, [end - job.arrived_s for end, job in zip(ended_s, jobs, strict=True)]
    )


async def unloaded(
    backend: Backend, model: str, steps: Sequence[int], wish: Mapping[str, Any], times: int
) -> Callable[[int], float]:
    """What a task of so many steps takes alone: a line through the quickest of each count."""
    quickest: dict[int, float] = {}
    for seed, count in enumerate([*steps] * times, FIRST_OTHER_SEED):
        begun_s = time.monotonic()
        task_id = submit(backend, model, {"steps": count, **wish}, seed)
        await backend.all_succeeded([task_id], 60)
        took_s = backend.ended_s[task_id] - begun_s
        quickest[count] = min(quickest.get(count, took_s), took_s)
    slope, start = np.polyfit(list(quickest), list(quickest.values()), 1)
    return lambda count: float(start + slope * count)


# --- what the device did -------------------------------------------------------------------------


@dataclass(frozen=True)
class Notes:
    """When the device worked, in seconds of the monotonic clock; see `worker_model`."""

    begins_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    #: 0 for a decoding.
    rows: NDArray[np.int64]
    #: Shapes: (notes, rows). Seeds; -1 for none.
    whose: NDArray[np.int64]

    @property
    def is_step(self) -> NDArray[np.bool_]:
        return self.rows > 0

    def only(self, chosen: NDArray[Any]) -> Notes:
        return Notes(
            self.begins_s[chosen], self.ends_s[chosen], self.rows[chosen], self.whose[chosen]
        )

    def of_tasks(self) -> Notes:
        """Those of measured tasks: the warm-up and tasks alone are left out."""
        seeds = self.whose[:, 0]
        return self.only((seeds >= 0) & (seeds < FIRST_OTHER_SEED))


@dataclass(frozen=True)
class Gaps:
    """The times between two steps, in seconds, and what was decoded in each."""

    seconds: NDArray[np.float64]
    decodings: NDArray[np.int64]
    decoding_s: NDArray[np.float64]

    @property
    def plain_s(self) -> NDArray[np.float64]:
        """Gaps without a decoding."""
        return self.seconds[self.decodings == 0]

    @property
    def decoding_gaps_s(self) -> NDArray[np.float64]:
        """Gaps with one or more."""
        return self.seconds[self.decodings > 0]


def gaps(notes: Notes) -> Gaps:
    steps = notes.only(notes.is_step)
    decodings = notes.only(~notes.is_step)
    at = np.searchsorted(steps.begins_s, decodings.begins_s) - 1
    inside = (at >= 0) & (at < len(steps.rows) - 1)
    count = np.zeros(len(steps.rows) - 1, np.int64)
    total_s = np.zeros(len(steps.rows) - 1)
    np.add.at(count, at[inside], 1)
    np.add.at(total_s, at[inside], (decodings.ends_s - decodings.begins_s)[inside])
    return Gaps(steps.begins_s[1:] - steps.ends_s[:-1], count, total_s)


def in_ms(seconds: NDArray[np.float64]) -> dict[str, float]:
    """How long they are, for people."""
    if not len(seconds):
        return {"count": 0}
    found = {f"p{q}": round(float(np.percentile(seconds, q)) * 1e3, 3) for q in (50, 90, 99)}
    mean_ms = round(float(seconds.mean()) * 1e3, 3)
    return {
        "mean": mean_ms,
        **found,
        "longest": round(float(seconds.max()) * 1e3, 3),
        "count": len(seconds),
    }


def spent_ms(notes: Notes) -> dict[str, dict[str, float]]:
    """Where the time of a backlog went: steps, and the gaps between them."""
    steps, between = notes.only(notes.is_step), gaps(notes)
    return {
        "steps": in_ms(steps.ends_s - steps.begins_s),
        "gaps_without_decoding": in_ms(between.plain_s),
        "gaps_with_decoding": in_ms(between.decoding_gaps_s),
    }


@contextlib.contextmanager
def noting(home: Path, name: str = "notes") -> Iterator[Callable[[], Notes]]:
    """Have the model processes that start meanwhile take notes; gives who reads them."""
    path = home / name
    path.write_bytes(b"")
    os.environ["WORKER_NOTES"] = str(path)

    def read() -> Notes:
        table = np.frombuffer(path.read_bytes(), np.int64).reshape(-1, 3 + worker_model.ROWS)
        return Notes(table[:, 0] / 1e9, table[:, 1] / 1e9, table[:, 2], table[:, 3:])

    try:
        yield read
    finally:
        del os.environ["WORKER_NOTES"]
