"""A queue elsewhere that stops answering keeps nothing from workers that was theirs already."""

import asyncio
import secrets
from pathlib import Path

from servers import Server
from swell.broker import LeaseRequest
from swell.brokers.carried import CarriedBroker
from swell.brokers.lanes import Lane, Message
from swell.brokers.nats import NatsQueues
from swell.brokers.sqlite import SqliteBroker
from swell.clock import SystemClock
from swell.store import Accepted
from swell.stores.sqlite import SqliteDatabase, SqliteStore
from swell.testing.factories import a_new_task

LEASE_S = 3.0


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
