"""External queues satisfy their contract, also while their server is down."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from conformance.delivery import Delivery
from conformance.factories import a_lease_request, a_new_task, hold_of
from conformance.lanes import (
    HOLD_S,
    TRIES,
    LanesConformance,
    a_letter,
    received,
    stays_held,
)
from servers import MotoServer, NatsServer, Server
from swell.broker import LeaseRequest
from swell.brokers.carried import CarriedBroker, CarriedSettings
from swell.brokers.lanes import Lane, Letter, Queues, lane_of
from swell.brokers.nats import NatsQueues
from swell.brokers.sqlite import SqliteBroker
from swell.brokers.sqs import SqsQueues
from swell.clock import ManualClock, SystemClock
from swell.errors import InvalidRequest, Unavailable
from swell.stores.sqlite import SqliteDatabase, SqliteStore
from swell.task import Task

LANE = Lane("demo/upper", True)
PATIENCE_S = 45.0


def a_name() -> str:
    return f"t{secrets.token_hex(4)}"


def nats_queues(server: Server, name: str | None = None) -> NatsQueues:
    return NatsQueues(f"{server.url}/{name or a_name()}", hold_s=HOLD_S)


def sqs_queues(server: Server, name: str | None = None) -> SqsQueues:
    return SqsQueues(
        f"sqs://us-east-1/{name or a_name()}?endpoint={server.url}", hold_s=HOLD_S, max_receives=2
    )


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # The AWS library reads them from the environment.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class TestNats(LanesConformance):
    @pytest.fixture
    async def queues(self, nats_server: Server) -> AsyncIterator[Queues]:
        queues = nats_queues(nats_server)
        yield queues
        await queues.close()

    async def test_the_same_offer_sent_twice_is_one_message(self, queues: Queues) -> None:
        letter = a_letter()
        await queues.send(LANE, [letter])
        await queues.send(LANE, [letter])
        await queues.forget(await received(queues, 1))
        assert await queues.receive(LANE, 1, wait_s=1.0) == []

    @pytest.mark.server
    async def test_messages_outlive_a_killed_server(self, tmp_path: Path) -> None:
        server = NatsServer(tmp_path / "nats")
        server.start()
        queues = nats_queues(server)
        try:
            letters = [a_letter() for _ in range(20)]
            await queues.send(LANE, letters)
            server.kill()
            with pytest.raises(Unavailable):
                await queues.send(LANE, [a_letter()])
            server.start()
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        found = await received(queues, 20)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.1)
            assert {message.body for message in found} == {letter.body for letter in letters}
        finally:
            await queues.close()
            server.kill()


class TestSqs(LanesConformance):
    @pytest.fixture
    async def queues(self, moto_server: Server) -> AsyncIterator[Queues]:
        queues = sqs_queues(moto_server)
        yield queues
        await queues.close()


class OnlyByMessages(SqliteBroker):
    """Leases no task itself, so every task passes through the queues."""

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        if until is not None:
            ended = asyncio.Event()
            until.add_done_callback(lambda _: ended.set())
            await ended.wait()
        return []


@dataclass(frozen=True)
class Outage:
    """A separate server to kill, and the queues on it."""

    server: Server
    queues: Queues
    delivery: Delivery


async def standing(
    kind: type[Server],
    make: Callable[[Server], Queues],
    order_of: Callable[[SqliteDatabase], SqliteBroker],
    tmp_path: Path,
) -> AsyncIterator[Outage]:
    """Yield a delivery that resends IDs after half a second."""
    server = kind(tmp_path / "server")
    server.start()
    clock = ManualClock()
    database = SqliteDatabase.open(tmp_path / "swell.db", clock)
    store = SqliteStore(database, rng=random.Random(1))
    settings = CarriedSettings(window=64, reoffer_s=0.5, wait_s=1.0, max_receives=3)
    queues = make(server)
    broker = CarriedBroker(store, order_of(database), queues, SystemClock(), settings)
    yield Outage(server, queues, Delivery(clock, store, broker, 64))
    await broker.close()
    await store.close()
    server.kill()


KINDS = [(NatsServer, nats_queues), (MotoServer, sqs_queues)]


@pytest.fixture(params=KINDS, ids=["nats", "sqs"])
async def outage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outage]:
    """Yield external queues with a store that also leases tasks."""
    async for each in standing(*request.param, SqliteBroker, tmp_path):
        yield each


@pytest.fixture(params=KINDS, ids=["nats", "sqs"])
async def carrying(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outage]:
    """Yield external queues that carry every task."""
    async for each in standing(*request.param, OnlyByMessages, tmp_path):
        yield each


async def leased(delivery: Delivery, n: int) -> list[Task]:
    """Feed and lease like a backend, ignoring failures, until n tasks are leased."""
    held: list[Task] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(held) < n:
            await delivery.broker.feed(is_leader=True)
            try:
                held += await delivery.lease(n - len(held))
            except Unavailable:
                await asyncio.sleep(0.1)
    return held


async def listened(delivery: Delivery, wait_s: float = 5.0) -> list[Task]:
    """Lease like a waiting worker, from the lanes too."""
    loop = asyncio.get_running_loop()
    until: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(wait_s, until.set_result, None)
    try:
        return await delivery.broker.lease(a_lease_request(1), until=until)
    finally:
        timer.cancel()


@pytest.mark.server
async def test_nothing_is_lost_when_the_server_of_the_queues_dies(
    outage: Outage,
) -> None:
    server, delivery = outage.server, outage.delivery
    before = await delivery.submit(*(a_new_task() for _ in range(20)))
    (first,) = await leased(delivery, 1)
    server.kill()
    # Accepted anyway: they are in the store.
    during = await delivery.submit(*(a_new_task() for _ in range(20)))
    # Leased anyway: the store keeps the order.
    meanwhile = await leased(delivery, 10)
    server.start()
    held = [first, *meanwhile, *await leased(delivery, 29)]
    assert sorted(task.id for task in held) == sorted(task.id for task in before + during)
    assert (await delivery.settle(first))[0] is not None


@pytest.mark.server
async def test_a_message_that_cannot_be_read_goes_to_the_dead_letters_of_the_queues(
    outage: Outage,
) -> None:
    queues, delivery = outage.queues, outage.delivery
    (task,) = await delivery.submit(a_new_task())
    await queues.send(lane_of(task), [Letter(task_id="no id", group="", mark=a_name())])
    (held,) = await leased(delivery, 1)
    assert held.id == task.id
    buried = 0
    async with asyncio.timeout(PATIENCE_S):
        while not buried:
            assert await listened(delivery) == []
            buried = await delivery.broker.feed(is_leader=True)
    assert buried == 1
    assert await delivery.broker.feed(is_leader=True) == 0


@pytest.mark.server
async def test_a_message_that_comes_too_often_is_buried_and_its_task_offered_again(
    outage: Outage,
) -> None:
    queues, delivery = outage.queues, outage.delivery
    (task,) = await delivery.submit(a_new_task())
    lane = lane_of(task)
    # Each receiver dies.
    for _ in range(3):
        await queues.put_back(await received(queues, 1, lane))
    (held,) = await leased(delivery, 1)
    assert held.id == task.id


@pytest.mark.server
async def test_messages_are_held_as_long_as_their_leases(
    carrying: Outage,
) -> None:
    queues, delivery = carrying.queues, carrying.delivery
    for _ in range(TRIES):
        since_s = time.monotonic()
        (task,) = await delivery.submit(a_new_task())
        (held,) = await listened(delivery)
        extend = partial(delivery.broker.extend, [hold_of(held)], lease_s=HOLD_S)
        if await stays_held(queues, lane_of(task), extend, since_s):
            break
    else:
        raise AssertionError("it came each time")
    # Settled tasks are removed shortly; the message is held until then.
    await extend()
    await delivery.settle(held)
    for _ in range(3):
        assert await queues.receive(lane_of(task), 1, wait_s=1.0) == []


@pytest.mark.parametrize(
    "url",
    ["nats://", "http://127.0.0.1", "nats://127.0.0.1:1/a.b", "nats://127.0.0.1:1/a b"],
)
def test_an_address_that_is_none_of_nats_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        NatsQueues(url)


@pytest.mark.parametrize("url", ["sqs:///x", "http://127.0.0.1", "sqs://eu-west-1/" + 23 * "x"])
def test_an_address_that_is_none_of_sqs_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        SqsQueues(url)
