"""Brokers that carry task IDs guarantee delivery, and order up to their window."""

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from conformance.delivery import Delivery, ExactOrderConformance
from conformance.pipelines import PipelineConformance
from conformance.window import WindowedConformance
from postgres_databases import PostgresDatabases
from servers import Server
from swell.brokers.carried import CarriedBroker, CarriedSettings
from swell.brokers.lanes import Queues
from swell.brokers.nats import NatsQueues
from swell.brokers.postgres import PostgresBroker
from swell.brokers.sqlite import SqliteBroker
from swell.brokers.sqs import SqsQueues
from swell.clock import ManualClock, SystemClock
from swell.stores.postgres import PostgresDatabase, PostgresStore
from swell.stores.sqlite import SqliteDatabase, SqliteStore

WINDOW = 16


def a_name() -> str:
    return f"t{secrets.token_hex(4)}"


@asynccontextmanager
async def carried(tmp_path: Path, queues: Queues, window: int = WINDOW) -> AsyncIterator[Delivery]:
    """A SQLite store with IDs in an external queue; only the queue's clock runs."""
    clock = ManualClock()
    database = SqliteDatabase.open(tmp_path / "swell.db", clock)
    store = SqliteStore(database, rng=random.Random(1))
    settings = CarriedSettings(window=window, flow_window=window, wait_s=2.0)
    broker = CarriedBroker(store, SqliteBroker(database), queues, SystemClock(), settings)
    yield Delivery(clock, store, broker, window)
    await broker.close()
    await store.close()


class TestNats(WindowedConformance, PipelineConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, nats_server: Server) -> AsyncIterator[Delivery]:
        async with carried(tmp_path, NatsQueues(f"{nats_server.url}/{a_name()}")) as delivery:
            yield delivery


class TestNatsOverPostgres(WindowedConformance, PipelineConformance):
    @pytest.fixture
    async def delivery(
        self, postgres_databases: PostgresDatabases, nats_server: Server
    ) -> AsyncIterator[Delivery]:
        clock = ManualClock()
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        store = PostgresStore(database, rng=random.Random(1))
        queues = NatsQueues(f"{nats_server.url}/{a_name()}")
        settings = CarriedSettings(window=WINDOW, flow_window=WINDOW, wait_s=2.0)
        broker = CarriedBroker(store, PostgresBroker(database), queues, SystemClock(), settings)
        yield Delivery(clock, store, broker, WINDOW)
        await broker.close()
        await store.close()


class TestNatsWithAWindowOfOne(ExactOrderConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, nats_server: Server) -> AsyncIterator[Delivery]:
        queues = NatsQueues(f"{nats_server.url}/{a_name()}")
        async with carried(tmp_path, queues, window=1) as delivery:
            yield delivery


@pytest.fixture
def moto_url(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Separate queues; the AWS library reads keys from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return f"sqs://us-east-1/{a_name()}?endpoint={moto_server.url}"


class TestSqs(WindowedConformance, PipelineConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, moto_url: str) -> AsyncIterator[Delivery]:
        async with carried(tmp_path, SqsQueues(moto_url)) as delivery:
            yield delivery


class TestSqsWithAWindowOfOne(ExactOrderConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path, moto_url: str) -> AsyncIterator[Delivery]:
        async with carried(tmp_path, SqsQueues(moto_url), window=1) as delivery:
            yield delivery
