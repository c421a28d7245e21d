"""Every registry keeps quotas and credits, and gives no more of them than there is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postgres_databases import PostgresDatabases
from swell.clock import ManualClock
from swell.stores.memory import MemoryRegistry
from swell.stores.postgres import PostgresDatabase, PostgresRegistry
from swell.stores.sqlite import SqliteDatabase, SqliteRegistry
from swell.testing.quotas import QuotasConformance


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryQuotas(QuotasConformance):
    @pytest.fixture
    def registry(self, clock: ManualClock) -> MemoryRegistry:
        return MemoryRegistry(clock)


class TestSqliteQuotas(QuotasConformance):
    @pytest.fixture
    async def registry(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteRegistry]:
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        yield SqliteRegistry(database)
        await database.close()


class TestPostgresQuotas(QuotasConformance):
    @pytest.fixture
    async def registry(
        self, postgres_databases: PostgresDatabases, clock: ManualClock
    ) -> AsyncIterator[PostgresRegistry]:
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        yield PostgresRegistry(database)
        await database.close()
