"""Sends the IDs of ready tasks to an external queue service, after the commit.

A crash between commit and send leaves a ready task without a message. The repair job finds it by
comparing counts: if a queue has fewer messages than the database has ready tasks, the oldest ready
tasks are sent again. Consumers drop duplicates.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import structlog

from swell.core.background_tasks import log_failure
from swell.core.broker_types import ReadyTask
from swell.core.errors import SwellError
from swell.core.task import Task
from swell.queues.external_queue import ExternalQueues, QueueId, queue_of
from swell.queues.table_broker import Broker

_log = structlog.get_logger("swell.broker")

#: If workers lease from this backend too, IDs wait this long, in seconds: most need no message.
_LINGER_S: Final = 0.05

#: Workers count as leasing here for this long after a lease, in seconds.
_LEASING_S: Final = 1.0

#: The repair job sends nothing to a queue that has this many messages.
_REPAIR_N: Final = 10_000

#: IDs kept in memory while the service is slow; the repair job sends the others.
_MOST_WAITING: Final = 10_000

#: `close` waits this long for messages that are being sent, in seconds.
_CLOSE_S: Final = 2.0


class QueuePublisher:
    """Sends the IDs of ready tasks to an external queue service.

    Guarantees:
        At least once: every task that stays ready is sent, by `publish` or by `repair`.

    Args:
        queues: The service.
        broker: Counts and lists ready tasks for the repair job.
    """

    def __init__(self, queues: ExternalQueues, broker: Broker) -> None:
        self._queues = queues
        self._broker = broker
        #: ID → ready task, not sent yet.
        self._waiting: dict[str, ReadyTask] = {}
        self._sending: asyncio.Task[None] | None = None
        self._leased_s = -math.inf
        #: Queues that had too few messages when the repair job last looked.
        self._short: set[str] = set()
        self._is_failing = False
        self._is_closed = False

    def publish(self, tasks: Iterable[Task]) -> None:
        """Send the ready ones among these tasks soon. Call it after the commit."""
        for task in tasks:
            if task.is_ready and len(self._waiting) < _MOST_WAITING:
                ready = msgspec.convert(task, ReadyTask, from_attributes=True)
                self._waiting[task.id] = ready
        if self._waiting and self._sending is None and not self._is_closed:
            self._sending = asyncio.create_task(self._send_waiting())
            self._sending.add_done_callback(log_failure)

    def leased(self, tasks: Iterable[Task]) -> None:
        """Do not send these tasks if they are not sent yet: a worker leased them here."""
        self._leased_s = asyncio.get_running_loop().time()
        for task in tasks:
            self._waiting.pop(task.id, None)

    async def _send_waiting(self) -> None:
        """Send in batches: IDs that arrive during a call go with the next one."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                is_leased = loop.time() < self._leased_s + _LEASING_S
                await asyncio.sleep(_LINGER_S if is_leased else 0)
                tasks, self._waiting = self._waiting, {}
                await self._send(tasks.values())
        finally:
            self._sending = None

    async def _send(self, tasks: Iterable[ReadyTask]) -> None:
        batches: dict[QueueId, list[ReadyTask]] = {}
        for task in tasks:
            batches.setdefault(queue_of(task), []).append(task)
        sends = (self._send_batch(queue, batch) for queue, batch in batches.items())
        await asyncio.gather(*sends)

    async def _send_batch(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        try:
            await self._queues.send(queue, tasks)
        except SwellError as error:
            if not self._is_failing:
                _log.warning(
                    "queue service: task IDs not sent; the repair job sends them later",
                    detail=error.detail,
                )
            self._is_failing = True
        else:
            self._is_failing = False

    async def repair(self) -> int:
        """Send ready tasks again that have no message; return how many.

        One backend calls this from time to time. It acts on queues that had too few messages at
        two calls in succession.

        Raises:
            Unavailable: The service or the database cannot be reached.
        """
        short: set[str] = set()
        sent = 0
        for depth in await self._broker.depths():
            if depth.ready == 0:
                continue
            queues = [QueueId(depth.queue, is_default) for is_default in (True, False)]
            waiting = sum([await self._queues.pending(queue) for queue in queues])
            missing = min(depth.ready, _REPAIR_N) - waiting
            if missing <= 0:
                continue
            short.add(depth.queue)
            if depth.queue in self._short:
                tasks = await self._broker.oldest_ready(depth.queue, missing)
                await self._send(tasks)
                sent += len(tasks)
        self._short = short
        return sent

    async def close(self) -> None:
        """Send the last messages, if that is quick, and close the connection."""
        self._is_closed = True
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_CLOSE_S)
        if self._sending is not None:
            self._sending.cancel()
        await self._queues.close()
