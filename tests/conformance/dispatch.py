"""A backend in this process, as a worker sees it: the real store and broker, without HTTP.

For tests of worker engines and of models. It can go away, lose answers and forget its workers on
command, which a real backend does only by accident.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from sqlite_rig import SqliteRig
from swell.core.broker_types import LeaseRequest
from swell.core.clock import Clock
from swell.core.errors import Conflict, NotFound, Unavailable
from swell.core.retry import RetryPolicy
from swell.core.startup_phases import Startup
from swell.core.store_types import Accepted, Hold
from swell.core.task import NewTask, Succeeded, Task, TaskState
from swell.protocol.worker_messages import (
    Ask,
    Grant,
    Incoming,
    LeasedTask,
    Progress,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Upload,
    Welcome,
)

#: Before the key of an object that this backend has.
_OWN: Final = "memory:"


class MemoryDispatch:
    """See `Dispatch`; plus what a test wants to do and see. Its files are kept in memory.

    Args:
        clock: Time of the store and its leases.
        lease_s: How long leases last.
        retry_policy: Waits between attempts; by default next to none.
    """

    def __init__(
        self, clock: Clock, *, lease_s: float = 30.0, retry_policy: RetryPolicy | None = None
    ) -> None:
        rig = SqliteRig(clock, retry_policy or RetryPolicy(base_s=0.01, floor_s=0.001))
        self.store, self.broker = rig.store, rig.broker
        self.clock = clock
        self.lease_s = lease_s
        #: What was said, in order.
        self.registrations: list[Registration] = []
        #: What was told of cold starts before the worker registered.
        self.startups: list[Startup] = []
        self.leases: list[Ask] = []
        self.reports: list[Report] = []
        self.progress: list[Progress] = []
        self.stale: list[str] = []
        #: Key → (bytes, media type).
        self.objects: dict[str, tuple[bytes, str]] = {}
        #: URL → (bytes, media type) of input files.
        self.inputs: dict[str, tuple[bytes, str]] = {}
        #: URLs of those that were read part by part, in order.
        self.opened: list[str] = []
        #: While set, every call but `close` fails.
        self.is_away = False
        #: So many next reports are taken, and their answers lost.
        self.answers_to_lose = 0
        self.is_draining = False
        #: Files up to this size come inside reports; 0 for none.
        self.enclose_bytes = 64 * 1024
        #: Whether somebody follows all tasks.
        self.is_watching = True
        self._workers: dict[str, dict[str, str]] = {}
        self._cancels: list[str] = []
        #: One call after another changes tasks, so none sees half of what another does.
        self._calls = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changed = asyncio.Condition()

    # --- what a test does ------------------------------------------------------------------------

    async def submit(self, model: str, input: Any = None, **wishes: Any) -> str:  # noqa: A002
        """Accept a task and make it ready; return its id."""
        raw = msgspec.Raw(msgspec.json.encode({} if input is None else input))
        new = NewTask(model=model, queue=model, input=raw, **wishes)
        [accepted] = await self.store.accept([new])
        assert isinstance(accepted, Accepted)
        self._wake()
        return accepted.task.id

    async def task(self, task_id: str) -> Task:
        """Return a task as it is now."""
        [task] = await self.store.get([task_id])
        assert task is not None
        return task

    async def ended(self, task_id: str, within_s: float = 60.0) -> Task:
        """Wait until a task has ended, and return it."""
        async with asyncio.timeout(within_s), self._changed:
            while not (task := await self.task(task_id)).state.is_terminal:
                await self._changed.wait()
        return task

    async def until(self, is_true: Any, within_s: float = 60.0) -> None:
        """Wait until something that the worker told makes `is_true()` true."""
        async with asyncio.timeout(within_s), self._changed:
            while not is_true():
                await self._changed.wait()

    async def cancel(self, task_id: str) -> None:
        """Cancel a task and have its worker told."""
        await self.store.cancel([task_id])
        self._cancels.append(task_id)
        await self._tell_change()

    async def tell_to_stop(self, task_id: str) -> None:
        """Have a worker told to stop a task that nobody cancelled, as if its lease were lost."""
        self._cancels.append(task_id)
        await self._tell_change()

    def drain(self) -> None:
        """Have the workers told to go."""
        self.is_draining = True
        self._wake()

    def forget_workers(self) -> None:
        """Be a backend that knows no worker any more."""
        self._workers.clear()
        self._wake()

    async def sweep(self) -> None:
        """Do what time demands."""
        await self.store.sweep()
        await self._tell_change()

    async def _tell_change(self) -> None:
        self._wake()
        async with self._changed:
            self._changed.notify_all()

    # --- what a worker sees ----------------------------------------------------------------------

    async def starting(self, startup: Startup) -> StartingAnswer:
        self._check_near()
        self.startups.append(startup)
        return StartingAnswer(tell_every_s=self.lease_s / 3)

    async def register(self, registration: Registration) -> Welcome:
        self._check_near()
        self.registrations.append(registration)
        worker_id = f"worker-{len(self.registrations)}"
        self._workers[worker_id] = {card.name: card.version for card in registration.models}
        return Welcome(
            worker_id=worker_id,
            lease_s=self.lease_s,
            heartbeat_s=self.lease_s / 3,
            max_wait_s=5.0,
            enclose_bytes=self.enclose_bytes,
        )

    async def lease(self, ask: Ask) -> Grant:
        self.leases.append(ask)
        models = self._known(ask.worker_id)
        until_s = self._loop.time() + ask.wait_s
        while True:
            news = self._news
            async with self._calls:
                if ask.worker_id not in self._workers:
                    break
                self._check_near()
                tasks = await self._lease(ask.worker_id, models, ask.n, ask.residents)
            if tasks or self._cancels or self.is_draining:
                return Grant(tasks=tasks, cancels=self._take_cancels(), drain=self.is_draining)
            if self._loop.time() >= until_s:
                break
            await self._wait(news, until_s)
        return Grant()

    async def report(self, report: Report) -> ReportAnswer:
        self._check_near()
        models = self._known(report.worker_id)
        self.reports.append(report)
        self.progress += report.progress
        self._keep(report)
        async with self._calls:
            settled = await self.store.settle(report.settlements)
            stale = [
                each.task_id
                for each, task in zip(report.settlements, settled, strict=True)
                if task is None
            ]
            self.stale += stale
            discarded = await self.store.discarded()
            for key in discarded:
                self.objects.pop(key, None)
            await self.store.forget_discarded(discarded)
            states = await self.store.extend(report.holds, lease_s=self.lease_s)
            lost = [
                hold.task_id
                for hold, state in zip(report.holds, states, strict=True)
                if not state.is_held or state.cancel_requested
            ]
            wanted = 0 if report.goodbye else report.ask
            tasks = await self._lease(report.worker_id, models, wanted, report.residents)
            if report.goodbye:
                self._workers.pop(report.worker_id, None)
                self._wake()
        await self._tell_change()
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise Unavailable("the answer got lost")
        return ReportAnswer(
            stale=stale,
            cancels=[*self._take_cancels(), *lost],
            drain=self.is_draining,
            tasks=tasks,
            watched=[each.task_id for each in report.progress] if self.is_watching else [],
        )

    def _keep(self, report: Report) -> None:
        """Store what a report encloses."""
        types = {
            artifact.key: artifact.content_type
            for each in report.settlements
            if isinstance(each.outcome, Succeeded)
            for artifact in each.outcome.artifacts
        }
        types |= {
            each.data["key"]: each.data["content_type"]
            for each in report.progress
            if each.kind == "artifact"
        }
        for file in report.enclosures:
            self.objects.setdefault(file.key, (file.data, types[file.key]))

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        self._check_near()
        [task] = await self.store.get([hold.task_id])
        if (
            task is None
            or task.state is not TaskState.RUNNING
            or (task.attempt, task.lease_token) != (hold.attempt, hold.token)
        ):
            raise Conflict(f"the lease of task {hold.task_id} is not held")
        return [Upload(key=key, url=_OWN + key) for key in keys]

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        self._check_near()
        if self.objects.setdefault(upload.key, (data, content_type))[0] != data:
            raise Conflict(f"{upload.key} holds another file")

    async def fetch(self, url: str) -> tuple[bytes, str]:
        self._check_near()
        stored = self.objects.get(url.removeprefix(_OWN)) if url.startswith(_OWN) else None
        found = stored or self.inputs.get(url)
        if found is None:
            raise NotFound(f"there is no file at {url}")
        return found

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Incoming]:
        data, _ = await self.fetch(url)
        self.opened.append(url)

        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 1 << 16):
                yield data[at : at + (1 << 16)]

        yield Incoming(len(data), parts())

    async def close(self) -> None:
        """See `Dispatch.close`."""

    def _wake(self) -> None:
        # Calls that wait now look again; later calls wait on a new event.
        self._news.set()
        self._news = asyncio.Event()

    async def _wait(self, news: asyncio.Event, until_s: float) -> None:
        """Wait for news, until a task's backoff is over, or for the time that is left."""
        wake_at = await self.store.next_wake_at()
        if wake_at is not None:
            pause_s = max(0.001, (wake_at - self.clock.now()).total_seconds())
            until_s = min(until_s, self._loop.time() + pause_s)
        try:
            async with asyncio.timeout_at(until_s):
                await news.wait()
        except TimeoutError:
            await self.sweep()

    def _check_near(self) -> None:
        if self.is_away:
            raise Unavailable("the backend is away")

    def _known(self, worker_id: str) -> dict[str, str]:
        if worker_id not in self._workers:
            raise NotFound(f"worker {worker_id} is not known; register again")
        return self._workers[worker_id]

    def _take_cancels(self) -> list[str]:
        cancels, self._cancels = self._cancels, []
        return cancels

    async def _lease(
        self,
        worker_id: str,
        models: dict[str, str],
        n: int,
        residents: Sequence[str] | None = None,
    ) -> list[LeasedTask]:
        if n <= 0 or self.is_draining:
            return []
        await self.store.sweep()
        request = LeaseRequest(
            worker_id=worker_id,
            queues=models | {f"{name}:{version}": version for name, version in models.items()},
            n=n,
            lease_s=self.lease_s,
            residents=residents or (),
        )
        return [_leased(task, self.clock.now()) for task in await self.broker.lease(request)]


def _leased(task: Task, now: datetime) -> LeasedTask:
    deadline = task.finish_by_at
    return LeasedTask(
        task_id=task.id,
        attempt=task.attempt,
        token=task.lease_token or "",
        model=task.model,
        version=task.version,
        input=task.input,
        count=task.count,
        seed=task.seed,
        finish_within_s=None if deadline is None else (deadline - now).total_seconds(),
        checkpoint=None if task.checkpoint is None else _OWN + task.checkpoint,
    )
