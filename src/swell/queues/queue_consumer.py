"""A worker inside the trusted network receives task IDs from the queue service itself.

The backend starts the tasks and gets the results, like from every other worker. A message is
deleted when its attempt has ended, so that the service sees which tenants have tasks running.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import structlog
from msgspec.structs import replace

from swell.core.background_tasks import log_failure
from swell.core.errors import SwellError
from swell.core.fair_queueing import MOST_PASSED, MOST_URGENT
from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.core.task import is_id
from swell.protocol.worker_messages import (
    Ask,
    Dispatch,
    Grant,
    Incoming,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Upload,
    Welcome,
)
from swell.queues.external_queue import ExternalQueues, Message, QueueId

_log = structlog.get_logger("swell.broker")

#: The most tasks that one call to the backend starts.
_START_N: Final = 512

#: One long poll takes at most this many messages and waits this long, in seconds.
_POLL_N: Final = 64
_POLL_S: Final = 20.0

#: Pause after a failed poll, in seconds.
_RETRY_S: Final = 0.5

#: Messages that the worker has no room for are released after this time, in seconds.
_KEEP_S: Final = 0.25


class PollingDispatch:
    """See `Dispatch`.

    Args:
        remote: The backend.
        queues: The queue service.
    """

    def __init__(self, remote: Dispatch, queues: ExternalQueues) -> None:
        self._remote = remote
        self._queues = queues
        #: Model → version.
        self._models: dict[str, str] = {}
        #: As of `Grant.staged`.
        self._staged: dict[str, tuple[str, ...]] = {}
        #: Leases with tasks so far; it decides which queues come first.
        self._turn = 0
        #: Received, not started.
        self._received: dict[QueueId, list[Message]] = {}
        #: Task ID → attempt and message of a task that runs.
        self._running: dict[str, tuple[int, Message]] = {}
        self._polls: dict[QueueId, asyncio.Task[None]] = {}
        self._leasing = 0
        self._releasing: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()
        #: The open call to the backend that returns cancellations and drain.
        self._news: asyncio.Future[Grant] | None = None

    async def register(self, registration: Registration) -> Welcome:
        welcome = await self._remote.register(registration)
        if self._news is not None:
            # It waits under the worker's former ID.
            self._news.cancel()
            self._news = None
        self._models = {card.name: card.version for card in registration.models}
        self._staged = welcome.staged
        return welcome

    async def lease(self, ask: Ask) -> Grant:
        """See `Dispatch.lease`. Waits for messages and for news from the backend."""
        if ask.n <= 0 and ask.wait_s <= 0:
            return self._learn(await self._remote.lease(ask))
        wants_tasks = ask.n > 0
        self._leasing += wants_tasks
        if wants_tasks and self._releasing is not None:
            self._releasing.cancel()
            self._releasing = None
        try:
            while True:
                grant = Grant()
                if wants_tasks:
                    grant = await self._start(ask, await self._take(ask))
                if grant.tasks or grant.cancels or grant.drain or ask.wait_s <= 0:
                    return grant
                news = self._listen(ask)
                waits: list[asyncio.Future[Any]] = [news]
                if wants_tasks:
                    waits += self._poll_all(ask)
                await asyncio.wait(waits, return_when="FIRST_COMPLETED")
                if news.done():
                    if self._news is news:
                        self._news = None
                    return Grant() if news.cancelled() else self._learn(news.result())
        finally:
            self._leasing -= wants_tasks
            self._release_soon()

    def _listen(self, ask: Ask) -> "asyncio.Future[Grant]":
        """Return the open call for news. All callers share it: the backend sends an item once."""
        if self._news is None:
            # `known` may be out of date when the call ends.
            self._news = asyncio.ensure_future(self._remote.lease(replace(ask, n=0, known=None)))
        return self._news

    def _learn(self, grant: Grant) -> Grant:
        self._staged = grant.staged
        return grant

    # ---- messages

    def _order(self, ask: Ask) -> list[QueueId]:
        """Return this worker's queues: the default class first, models in turn.

        Resident models come first. One lease in 20 begins with the lower class, and one in 64
        ignores which models are resident, so nothing waits forever.
        """
        models = list(self._models)
        at = self._turn % len(models) if models else 0
        models = models[at:] + models[:at]
        if ask.residents and self._turn % MOST_PASSED:
            models.sort(key=lambda model: model not in (ask.residents or ()))
        queues: list[str] = []
        for model in models:
            own = self._staged.get(model) or (model, f"{model}:{self._models[model]}")
            # Tasks of any version and tasks of one version take turns.
            queues += reversed(own) if self._turn // len(models) % 2 else own
        is_lower_first = self._turn % (MOST_URGENT + 1) == MOST_URGENT
        classes = (False, True) if is_lower_first else (True, False)
        return [QueueId(queue, is_default) for is_default in classes for queue in queues]

    async def _take(self, ask: Ask) -> list[Message]:
        """Return up to n messages that are here or in the queues now.

        Long polls return in any order. Before messages of the lower class are used, the queues of
        the default class are read once more.
        """
        n, order = min(ask.n, _START_N), self._order(ask)
        has_lower = any(self._received.get(queue) for queue in order if not queue.is_default)
        taken: list[Message] = []
        try:
            for queue in order:
                lacks = n - len(taken) - len(self._received.get(queue, ()))
                if lacks > 0 and (ask.wait_s <= 0 or (has_lower and queue.is_default)):
                    self._keep(await self._queues.receive(queue, lacks, wait_s=0.0))
                here, lacks = self._received.get(queue, []), n - len(taken)
                taken += here[:lacks]
                del here[:lacks]
        except BaseException as error:
            if not (taken and isinstance(error, SwellError)):
                self._keep(taken)
                raise
        return taken

    def _poll_all(self, ask: Ask) -> "list[asyncio.Task[None]]":
        for queue in self._order(ask):
            if queue not in self._polls:
                n = min(ask.n, _POLL_N)
                self._polls[queue] = asyncio.create_task(self._poll(queue, n))
        return list(self._polls.values())

    async def _poll(self, queue: QueueId, n: int) -> None:
        try:
            self._keep(await self._queues.receive(queue, n, wait_s=_POLL_S))
        except SwellError as error:
            _log.warning("queue service: receive failed", queue=queue.name, detail=error.detail)
            await asyncio.sleep(_RETRY_S)
        finally:
            del self._polls[queue]

    def _keep(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if is_id(message.task_id):
                self._received.setdefault(message.queue, []).append(message)
            else:
                _log.warning(
                    "queue service: deleted a message that is no task ID",
                    queue=message.queue.name,
                    body=message.task_id[:200],
                )
                self._do(self._queues.delete([message]))
        self._release_soon()

    def _release_soon(self) -> None:
        if self._leasing == 0 and self._releasing is None and any(self._received.values()):
            loop = asyncio.get_running_loop()
            self._releasing = loop.call_later(_KEEP_S, self._release)

    def _release(self) -> None:
        self._releasing = None
        messages = [message for each in self._received.values() for message in each]
        self._received.clear()
        if messages:
            self._do(self._queues.release(messages))

    async def _start(self, ask: Ask, messages: list[Message]) -> Grant:
        """Have the backend start the tasks of messages; delete those that it does not start."""
        if not messages:
            return Grant()
        ids = list(dict.fromkeys(message.task_id for message in messages))
        try:
            grant = await self._remote.lease(replace(ask, n=len(ids), offered=ids, wait_s=0.0))
        except BaseException:
            self._keep(messages)
            raise
        started = {task.task_id: task.attempt for task in grant.tasks}
        others: list[Message] = []
        for message in messages:
            attempt = started.pop(message.task_id, None)
            if attempt is None:
                others.append(message)
            else:
                self._end(message.task_id)
                self._running[message.task_id] = (attempt, message)
        if grant.drain or grant.staged != self._staged:
            # Other workers may start them.
            self._keep(others)
        elif others:
            self._do(self._queues.delete(others))
        self._turn += bool(grant.tasks)
        return self._learn(grant)

    def _end(self, task_id: str) -> None:
        """Delete the message of an attempt that has ended."""
        _, message = self._running.pop(task_id, (0, None))
        if message is not None:
            self._do(self._queues.delete([message]))

    def _do(self, call: Awaitable[None]) -> None:
        """Run a call in the background. If it fails, the message comes again later."""

        async def run() -> None:
            try:
                await call
            except SwellError as error:
                _log.warning("queue service: cannot be reached", detail=error.detail)

        chore = asyncio.create_task(run())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        chore.add_done_callback(log_failure)

    async def report(self, report: Report) -> ReportAnswer:
        """See `Dispatch.report`. Never leases: the next call to `lease` does."""
        answer = await self._remote.report(replace(report, ask=0))
        for settlement in report.settlements:
            if self._running.get(settlement.task_id, (0, None))[0] == settlement.attempt:
                self._end(settlement.task_id)
        return answer

    # ---- calls for the backend only

    async def starting(self, startup: Startup) -> StartingAnswer:
        return await self._remote.starting(startup)

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        return await self._remote.uploads(worker_id, hold, keys)

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        await self._remote.put(upload, data, content_type)

    async def fetch(self, url: str) -> tuple[bytes, str]:
        return await self._remote.fetch(url)

    def open(self, url: str) -> AbstractAsyncContextManager[Incoming]:
        return self._remote.open(url)

    async def close(self) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
        waits: list[asyncio.Future[Any]] = list(self._polls.values())
        if self._news is not None:
            waits.append(self._news)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        self._release()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._queues.close()
        await self._remote.close()
