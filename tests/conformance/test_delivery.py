"""Every store with its broker keeps the promises of both contracts."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postgres_databases import PostgresDatabases
from swell.brokers.memory import MemoryBroker
from swell.brokers.postgres import PostgresBroker
from swell.brokers.sqlite import SqliteBroker
from swell.clock import ManualClock
from swell.stores.memory import MemoryStore
from swell.stores.postgres import PostgresDatabase, PostgresStore
from swell.stores.sqlite import SqliteDatabase, SqliteStore
from swell.testing.delivery import Delivery, DeliveryConformance
from swell.testing.order import OrderConformance


class TestMemory(DeliveryConformance, OrderConformance):
    @pytest.fixture
    def delivery(self) -> Delivery:
        clock = ManualClock()
        store = MemoryStore(clock, rng=random.Random(1))
        return Delivery(clock, store, MemoryBroker(store))


class TestSqlite(DeliveryConformance, OrderConformance):
    @pytest.fixture
    async def delivery(self, tmp_path: Path) -> AsyncIterator[Delivery]:
        clock = ManualClock()
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        store = SqliteStore(database, rng=random.Random(1))
        yield Delivery(clock, store, SqliteBroker(database))
        await store.close()


class TestPostgres(DeliveryConformance, OrderConformance):
    @pytest.fixture
    async def delivery(self, postgres_databases: PostgresDatabases) -> AsyncIterator[Delivery]:
        clock = ManualClock()
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        store = PostgresStore(database, rng=random.Random(1))
        yield Delivery(clock, store, PostgresBroker(database))
        await store.close()
