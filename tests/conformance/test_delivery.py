"""Every store and broker pair satisfies both contracts."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.delivery import Delivery, DeliveryConformance
from conformance.favourites import FavouritesConformance
from conformance.pipelines import (
    PipelineConformance,
    PipelineOrderConformance,
    SharedPipelineConformance,
)
from conformance.searching import SearchingConformance
from conformance.shared import Pair, SharedConformance
from conformance.sharing import SharingConformance
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.queues.table_broker import Broker


class TestSqlite(
    DeliveryConformance,
    PipelineConformance,
    PipelineOrderConformance,
    SharingConformance,
    FavouritesConformance,
    SearchingConformance,
):
    @pytest.fixture
    async def delivery(self, tmp_path: Path) -> AsyncIterator[Delivery]:
        clock = ManualClock()
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        store = Store(database, rng=random.Random(1))
        yield Delivery(clock, store, Broker(database))
        await store.close()


class TestPostgres(
    DeliveryConformance,
    PipelineConformance,
    PipelineOrderConformance,
    SharingConformance,
    FavouritesConformance,
    SearchingConformance,
):
    @pytest.fixture
    async def delivery(self, postgres_databases: PostgresDatabases) -> AsyncIterator[Delivery]:
        clock = ManualClock()
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        store = Store(database, rng=random.Random(1))
        yield Delivery(clock, store, Broker(database))
        await store.close()


class TestTwoBackendsOnPostgres(SharedConformance, SharedPipelineConformance):
    @pytest.fixture
    async def pair(self, postgres_databases: PostgresDatabases) -> AsyncIterator[Pair]:
        clock, url = ManualClock(), await postgres_databases.new()
        one, two = [await PostgresDatabase.open(url, clock) for _ in range(2)]
        stores = [Store(each, rng=random.Random(1)) for each in (one, two)]
        yield (
            Delivery(clock, stores[0], Broker(one)),
            Delivery(clock, stores[1], Broker(two)),
        )
        for store in stores:
            await store.close()
