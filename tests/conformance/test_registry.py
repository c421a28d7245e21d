"""Every registry keeps the promises of its contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postgres_databases import PostgresDatabases
from swell.clock import ManualClock
from swell.registry import ModelCard
from swell.stores.memory import MemoryRegistry
from swell.stores.postgres import PostgresDatabase, PostgresRegistry
from swell.stores.sqlite import SqliteDatabase, SqliteRegistry
from swell.testing.registry import RegistryConformance, a_key, a_worker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryRegistry(RegistryConformance):
    @pytest.fixture
    def registry(self, clock: ManualClock) -> MemoryRegistry:
        return MemoryRegistry(clock)


class TestSqliteRegistry(RegistryConformance):
    @pytest.fixture
    async def registry(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteRegistry]:
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        yield SqliteRegistry(database)
        await database.close()

    async def test_everything_survives_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "again.db"
        database = SqliteDatabase.open(path, ManualClock())
        registry = SqliteRegistry(database)
        await registry.put_models([ModelCard(name="demo/a", version="v1")])
        await registry.put_worker(a_worker())
        await registry.put_key(a_key())
        await registry.put_note("times", b"{}")
        secret = await registry.secret("urls")
        await database.close()

        database = SqliteDatabase.open(path, ManualClock())
        registry = SqliteRegistry(database)
        assert await registry.models() == [ModelCard(name="demo/a", version="v1")]
        assert await registry.workers() == [a_worker()]
        assert await registry.keys() == [a_key()]
        assert await registry.note("times") == b"{}"
        assert await registry.secret("urls") == secret
        await database.close()


class TestPostgresRegistry(RegistryConformance):
    @pytest.fixture
    async def registry(
        self, postgres_databases: PostgresDatabases, clock: ManualClock
    ) -> AsyncIterator[PostgresRegistry]:
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        yield PostgresRegistry(database)
        await database.close()
