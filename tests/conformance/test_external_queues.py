"""Amazon SQS and NATS JetStream as external queues: messages, lost and doubled IDs, outages."""

import asyncio
import random
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.delivery import Delivery, LifeConformance
from conformance.external import QUEUE, ExternalQueuesConformance, a_ready_task, received
from conformance.factories import a_failure, a_new_task
from conformance.pipelines import PipelineConformance
from conformance.polled import PolledDelivery, SettledQueues
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from servers import MotoServer, NatsServer, Server
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.fair_queueing import MOST_URGENT
from swell.core.task import Released, Task, TaskState
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.queues import external_queue, nats_queue, sqs_queue
from swell.queues.external_queue import ExternalQueues, QueueId
from swell.queues.nats_queue import NatsQueues
from swell.queues.sqs_queue import SqsQueues
from swell.queues.table_broker import Broker

PATIENCE_S = 45.0


def a_name() -> str:
    return f"t{secrets.token_hex(4)}"


def nats_url(server: Server) -> str:
    return f"{server.url}/{a_name()}"


def sqs_url(server: Server) -> str:
    return f"sqs://us-east-1/{a_name()}?endpoint={server.url}"


def opened(url: str) -> ExternalQueues:
    return SqsQueues(url) if url.startswith("sqs") else NatsQueues(url)


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # The AWS library reads them from the environment.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def polled_over(own: Delivery, url: str) -> PolledDelivery:
    lock = asyncio.Lock()
    return PolledDelivery.over(own, SettledQueues(opened(url), lock), opened(url), lock)


@asynccontextmanager
async def polled(tmp_path: Path, url: str) -> AsyncIterator[PolledDelivery]:
    """A SQLite store whose tasks are leased through a queue service."""
    clock = ManualClock()
    database = SqliteDatabase.open(tmp_path / "swell.db", clock)
    store = Store(database, rng=random.Random(1))
    own = Delivery(clock, store, Broker(database))
    delivery = polled_over(own, url)
    yield delivery
    await delivery.close()
    await store.close()


class PolledConformance(LifeConformance, PipelineConformance):
    """What holds if tasks reach workers through a queue service."""

    async def test_every_task_is_started_once(self, delivery: PolledDelivery) -> None:
        tasks = await delivery.submit(*(a_new_task(user=f"{n % 3}") for n in range(80)))
        started: list[Task] = []
        while len(started) < 80:
            more = await delivery.lease(16)
            assert more
            started += more
        assert sorted(task.id for task in started) == sorted(task.id for task in tasks)
        assert await delivery.lease(5) == []

    async def test_a_doubled_message_is_dropped(self, delivery: PolledDelivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        for _ in range(3):
            delivery.publish([task])
            await asyncio.sleep(0)
        assert [held.id for held in await delivery.lease(4)] == [task.id]
        delivery.publish([task])
        assert await delivery.lease(4) == []
        (held,) = [each for each in await delivery.store.get([task.id]) if each]
        await delivery.settle(held)
        delivery.publish([task])
        assert await delivery.lease(4) == []

    async def test_a_task_accepted_by_a_backend_that_died_is_published_by_the_repair_job(
        self, delivery: PolledDelivery
    ) -> None:
        await delivery.store.accept([a_new_task(), a_new_task(priority=5)])
        assert await delivery.lease(2) == []
        # A message may be on its way at the first comparison.
        assert await delivery.publisher.repair() == 0
        assert await delivery.publisher.repair() == 2
        assert [task.priority for task in await delivery.lease(3)] == [1, 5]
        assert await delivery.publisher.repair() == 0

    async def test_tasks_with_a_message_are_not_published_again(
        self, delivery: PolledDelivery
    ) -> None:
        await delivery.submit(*(a_new_task() for _ in range(20)))
        await delivery.lease(5)
        for _ in range(3):
            assert await delivery.publisher.repair() == 0

    async def test_a_retry_is_published_when_it_is_ready(self, delivery: PolledDelivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        await delivery.settle(held, outcome=a_failure())
        assert await delivery.lease() == []
        delivery.clock.advance(61)
        await delivery.sweep()
        (again,) = await delivery.lease()
        assert (again.id, again.attempt) == (task.id, 2)

    async def test_released_tasks_are_published_each_time(self, delivery: PolledDelivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        for attempt in range(1, 6):
            (held,) = await delivery.lease()
            assert (held.id, held.attempt) == (task.id, attempt)
            await delivery.settle(held, outcome=Released())
        (held,) = await delivery.lease()
        await delivery.settle(held)
        assert await delivery.lease() == []

    async def test_the_default_class_goes_first_and_the_lower_one_is_not_starved(
        self, delivery: PolledDelivery
    ) -> None:
        await delivery.submit(*(a_new_task(priority=5) for _ in range(3)))
        await delivery.submit(*(a_new_task(priority=n % 2) for n in range(2 * MOST_URGENT)))
        classes = [(await delivery.lease())[0].priority == 5 for _ in range(2 * MOST_URGENT + 2)]
        assert classes.index(True) == MOST_URGENT
        assert sum(classes) == 2

    async def test_models_and_pinned_versions_take_turns(self, delivery: PolledDelivery) -> None:
        queues = ["demo/a", "demo/a:v1", "demo/b", "demo/b:v1"]
        for queue in queues:
            model = queue.partition(":")[0]
            await delivery.submit(*(a_new_task(model, queue=queue) for _ in range(8)))
        models = {"demo/a": "v1", "demo/b": "v1"}
        started = [(await delivery.lease(models=models))[0] for _ in range(8)]
        assert sorted(task.queue for task in started) == sorted(2 * queues)
        started = [(await delivery.lease(models=models, residents=["demo/b"]))[0] for _ in range(8)]
        assert {task.model for task in started} == {"demo/b"}

    async def test_a_message_that_is_no_task_id_is_deleted(self, delivery: PolledDelivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        bad = external_queue.ReadyTask(
            id="no id", queue=task.queue, key_id="", user=None, priority=1
        )
        await delivery.publisher._queues.send(external_queue.queue_of(bad), [bad])
        assert [held.id for held in await delivery.lease(3)] == [task.id]
        assert await delivery.publisher._queues.pending(external_queue.queue_of(bad)) == 0

    async def test_tasks_leased_over_http_are_not_published(self, delivery: PolledDelivery) -> None:
        delivery.publisher.leased([])
        (task,) = await delivery.submit(a_new_task())
        delivery.publisher.leased([task])
        assert await delivery.lease() == []


class TestNatsPolled(PolledConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, nats_server: Server) -> AsyncIterator[PolledDelivery]:
        async with polled(tmp_path, nats_url(nats_server)) as delivery:
            yield delivery


class TestSqsPolled(PolledConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, moto_server: Server) -> AsyncIterator[PolledDelivery]:
        async with polled(tmp_path, sqs_url(moto_server)) as delivery:
            yield delivery


class TestNatsPolledOverPostgres(PolledConformance):
    @pytest.fixture
    async def delivery(
        self, postgres_databases: PostgresDatabases, nats_server: Server
    ) -> AsyncIterator[PolledDelivery]:
        clock, url = ManualClock(), nats_url(nats_server)
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        store = Store(database, rng=random.Random(1))
        own = Delivery(clock, store, Broker(database))
        delivery = polled_over(own, url)
        yield delivery
        await delivery.close()
        await store.close()


class TestNats(ExternalQueuesConformance):
    @pytest.fixture
    async def queues(self, nats_server: Server) -> AsyncIterator[ExternalQueues]:
        queues = NatsQueues(nats_url(nats_server))
        yield queues
        await queues.close()

    @pytest.fixture
    def queues_that_hide_briefly(
        self, queues: ExternalQueues, monkeypatch: pytest.MonkeyPatch
    ) -> ExternalQueues:
        monkeypatch.setattr(nats_queue, "VISIBILITY_S", 2)
        return queues

    @pytest.mark.server
    async def test_messages_outlive_a_killed_server(self, tmp_path: Path) -> None:
        server = NatsServer(tmp_path / "nats")
        server.start()
        queues = NatsQueues(nats_url(server))
        try:
            tasks = [a_ready_task() for _ in range(20)]
            await queues.send(QUEUE, tasks)
            server.kill()
            with pytest.raises(Unavailable):
                await queues.send(QUEUE, [a_ready_task()])
            server.start()
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        found = await received(queues, 20)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.1)
            assert {message.task_id for message in found} == {task.id for task in tasks}
        finally:
            await queues.close()
            server.kill()


class TestSqs(ExternalQueuesConformance):
    @pytest.fixture
    async def queues(self, moto_server: Server) -> AsyncIterator[ExternalQueues]:
        queues = SqsQueues(sqs_url(moto_server))
        yield queues
        await queues.close()

    @pytest.fixture
    def queues_that_hide_briefly(
        self, queues: ExternalQueues, monkeypatch: pytest.MonkeyPatch
    ) -> ExternalQueues:
        monkeypatch.setattr(sqs_queue, "VISIBILITY_S", 2)
        return queues


@dataclass(frozen=True)
class Outage:
    """A delivery through a server of its own, to kill."""

    server: Server
    delivery: PolledDelivery


KINDS = [(NatsServer, nats_url), (MotoServer, sqs_url)]


@pytest.fixture(params=KINDS, ids=["nats", "sqs"])
async def outage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outage]:
    kind: type[Server]
    url_of: Callable[[Server], str]
    kind, url_of = request.param
    server = kind(tmp_path / "server")
    server.start()
    async with polled(tmp_path, url_of(server)) as delivery:
        yield Outage(server, delivery)
    server.kill()


@pytest.mark.server
async def test_no_task_is_lost_or_doubled_when_the_queue_service_is_killed(
    outage: Outage,
) -> None:
    server, delivery = outage.server, outage.delivery
    before = await delivery.submit(*(a_new_task() for _ in range(20)))
    (first,) = await delivery.lease(1)
    server.kill()
    # Accepted in the database, and leased from it by workers that use HTTP.
    during = await delivery.submit(*(a_new_task() for _ in range(20)))
    meanwhile = await Delivery.lease(delivery, 10)
    assert (await delivery.settle(first))[0] is not None
    server.start()
    held = [first, *meanwhile]
    async with asyncio.timeout(PATIENCE_S):
        while len(held) < 40:
            try:
                await delivery.publisher.repair()
                held += await delivery.lease(40 - len(held))
            except Unavailable:
                await asyncio.sleep(0.1)
    assert sorted(task.id for task in held) == sorted(task.id for task in before + during)
    assert {each.attempt for each in held} == {1}
    assert {each.state for each in held} == {TaskState.RUNNING}


@given(st.text(min_size=1, max_size=120), st.booleans())
def test_a_queue_has_a_name_that_sqs_and_nats_allow(queue: str, is_default: bool) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,57}", QueueId(queue, is_default).name)


@given(st.lists(st.tuples(st.text(min_size=1), st.booleans()), unique=True, max_size=20))
def test_two_queues_have_two_names(queues: list[tuple[str, bool]]) -> None:
    assert len({QueueId(*queue).name for queue in queues}) == len(queues)


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
