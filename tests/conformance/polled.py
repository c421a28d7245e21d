"""A delivery whose tasks reach workers through an external queue service."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from conformance.delivery import Delivery
from conformance.factories import a_lease_request
from swell.core import task as life
from swell.core.broker_types import LeaseRequest, ReadyTask
from swell.core.records import ModelCard
from swell.core.store_types import Start
from swell.core.task import Task
from swell.db.task_store import Store
from swell.protocol.backend_client import RemoteDispatch
from swell.protocol.worker_messages import Ask, Grant, LeasedTask, Registration, Welcome
from swell.queues.external_queue import ExternalQueues, QueueId
from swell.queues.queue_consumer import PollingDispatch
from swell.queues.queue_publisher import QueuePublisher


class StoreRemote(RemoteDispatch):
    """A backend that starts the tasks whose IDs a worker received, as the real one does."""

    def __init__(self, store: Store) -> None:
        super().__init__("http://127.0.0.1:9", "token")
        self._store = store
        self.request = a_lease_request()
        self.started: list[Task] = []
        self.calls = 0

    async def register(self, registration: Registration) -> Welcome:
        return Welcome(
            worker_id=self.request.worker_id,
            lease_s=30.0,
            heartbeat_s=10.0,
            max_wait_s=20.0,
            staged=self.staged,
        )

    async def lease(self, ask: Ask) -> Grant:
        self.calls += 1
        versions = self.request.queues
        starts = [
            Start(
                task_id=task.id,
                queue=task.queue,
                worker_id=self.request.worker_id,
                version=versions[task.queue],
                token=life.new_token(),
                lease_s=self.request.lease_s,
            )
            for task in await self._store.get(ask.offered)
            if task is not None and task.queue in versions
        ]
        tasks = [task for task in await self._store.start(starts) if task is not None]
        self.started += tasks
        leases = [
            LeasedTask(
                task_id=task.id,
                attempt=task.attempt,
                token=task.lease_token or "",
                model=task.stage_model,
                version=task.version or "",
                input=msgspec.Raw(b"{}"),
            )
            for task in tasks
        ]
        return Grant(tasks=leases, staged=self.staged)

    @property
    def staged(self) -> dict[str, tuple[str, ...]]:
        """Model → the queues that the worker serves."""
        found: dict[str, tuple[str, ...]] = {}
        for queue in self.request.queues:
            model, _, _ = queue.partition(":")
            found[model] = (*found.get(model, ()), queue)
        return found


class SettledQueues(ExternalQueues):
    """A queue service whose messages can be received as soon as `send` returns.

    JetStream stores a message, and says so, before those who pull without waiting can get it.

    Args:
        queues: The service.
        lock: Held by all who receive, so that nobody takes a message before it is counted.
    """

    def __init__(self, queues: ExternalQueues, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._queues = queues
        self.receive = queues.receive  # type: ignore[method-assign]
        self.delete = queues.delete  # type: ignore[method-assign]
        self.release = queues.release  # type: ignore[method-assign]
        self.pending = queues.pending  # type: ignore[method-assign]
        self.close = queues.close  # type: ignore[method-assign]

    async def send(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        async with self._lock, asyncio.timeout(30):
            before = await self._queues.pending(queue)
            await self._queues.send(queue, tasks)
            while await self._queues.pending(queue) < before + len(tasks):
                await asyncio.sleep(0.001)


@dataclass(frozen=True)
class PolledDelivery(Delivery):
    """See `Delivery`. Tasks are leased only through the queue service."""

    publisher: QueuePublisher
    remote: StoreRemote
    dispatch: PollingDispatch
    #: The harness has one worker: it leases for one request at a time.
    lock: asyncio.Lock

    @classmethod
    def over(
        cls,
        delivery: Delivery,
        queues: ExternalQueues,
        worker_queues: ExternalQueues,
        lock: asyncio.Lock | None = None,
    ) -> "PolledDelivery":
        """Return a delivery through queues over that of a database."""
        publisher = QueuePublisher(queues, delivery.broker)
        remote = StoreRemote(delivery.store)
        dispatch = PollingDispatch(remote, worker_queues)
        own = delivery.clock, delivery.store, delivery.broker
        return cls(*own, publisher, remote, dispatch, lock or asyncio.Lock())

    def publish(self, tasks: Sequence[Task]) -> None:
        self.publisher.publish(tasks)

    async def lease(self, n: int = 1, **fields: object) -> list[Task]:
        while self.publisher._sending is not None:
            await asyncio.sleep(0.001)
        async with self.lock:
            return await self._lease(a_lease_request(n, **fields))  # type: ignore[arg-type]

    async def _lease(self, request: LeaseRequest) -> list[Task]:
        n = request.n
        self.remote.request = request
        versions = {queue.partition(":")[0]: each for queue, each in request.queues.items()}
        cards = [ModelCard(name=name, version=version) for name, version in versions.items()]
        await self.dispatch.register(Registration(name="w", models=cards))
        self.remote.started = []
        calls = -1
        while len(self.remote.started) < n and calls != self.remote.calls:
            # A call that started nothing may have dropped messages of tasks that have ended.
            calls = self.remote.calls
            wanted = n - len(self.remote.started)
            residents = list(request.residents) or None
            await self.dispatch.lease(Ask(worker_id="w", n=wanted, residents=residents))
        return self.remote.started

    async def close(self) -> None:
        """Close both connections."""
        await self.publisher.close()
        await self.dispatch.close()
