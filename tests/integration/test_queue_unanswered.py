"""A queue elsewhere that stops answering keeps nothing from workers that was theirs already."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

from conformance.factories import a_new_task
from servers import Server
from swell.broker import LeaseRequest
from swell.brokers.carried import CarriedBroker, CarriedSettings
from swell.brokers.lanes import Lane, Letter, Message
from swell.brokers.nats import NatsQueues
from swell.brokers.sqlite import SqliteBroker
from swell.clock import ManualClock, SystemClock
from swell.store import Accepted
from swell.stores.sqlite import SqliteDatabase, SqliteStore

LEASE_S = 30.0
PATIENCE_S = 30.0


class SilentQueues(NatsQueues):
    """NATS that says nothing more after it has given the first messages."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.has_given = False

    async def receive(self, lane: Lane, n: int, *, wait_s: float) -> list[Message]:
        if self.has_given:
            await asyncio.Event().wait()
        messages = await super().receive(lane, n, wait_s=wait_s)
        self.has_given = bool(messages)
        return messages


class SlowQueues(NatsQueues):
    """NATS that takes letters only once it is let."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.letters: list[Letter] = []
        self.may_go = asyncio.Event()

    async def send(self, lane: Lane, letters: Sequence[Letter]) -> None:
        self.letters += letters
        await self.may_go.wait()
        await super().send(lane, letters)


async def test_a_slow_queue_is_not_filled_up_with_copies(
    tmp_path: Path, nats_server: Server
) -> None:
    database = SqliteDatabase.open(tmp_path / "swell.db", SystemClock())
    store = SqliteStore(database)
    queues, clock = SlowQueues(f"{nats_server.url}/t{secrets.token_hex(4)}"), ManualClock()
    settings = CarriedSettings(reoffer_s=3.0)
    broker = CarriedBroker(store, SqliteBroker(database), queues, clock, settings)
    try:
        [accepted] = await store.accept([a_new_task(model="demo/one", queue="demo/one")])
        assert isinstance(accepted, Accepted)
        await broker.offer([accepted.task])
        async with asyncio.timeout(PATIENCE_S):
            while not queues.letters:
                await asyncio.sleep(0)
            for _ in range(10):
                clock.advance(10.0)
                await broker.feed(is_leader=True)
            assert len(queues.letters) == 1
            # What has arrived and is still not started is offered again.
            queues.may_go.set()
            while len({letter.mark for letter in queues.letters}) == 1:
                clock.advance(10.0)
                await broker.feed(is_leader=True)
                await asyncio.sleep(0)
            assert len({letter.mark for letter in queues.letters}) == 2
    finally:
        queues.may_go.set()
        await broker.close()
        await store.close()


async def test_what_was_started_reaches_its_worker_while_other_lanes_do_not_answer(
    tmp_path: Path, nats_server: Server
) -> None:
    database = SqliteDatabase.open(tmp_path / "swell.db", SystemClock())
    store = SqliteStore(database)
    queues = SilentQueues(f"{nats_server.url}/t{secrets.token_hex(4)}")
    broker = CarriedBroker(store, SqliteBroker(database), queues, SystemClock())
    try:
        [accepted] = await store.accept([a_new_task(model="demo/one", queue="demo/one")])
        assert isinstance(accepted, Accepted)
        await broker.offer([accepted.task])
        request = LeaseRequest(
            worker_id="w", models={"demo/one": "1", "demo/two": "1"}, n=5, lease_s=LEASE_S
        )
        # Well before the lease has run out.
        async with asyncio.timeout(LEASE_S / 2):
            leased = await broker.lease(request)
        assert [task.id for task in leased] == [accepted.task.id]
    finally:
        await broker.close()
        await store.close()
