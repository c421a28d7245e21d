"""Every registry keeps comparisons of models, and what people said of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postgres_databases import PostgresDatabases
from swell.clock import ManualClock
from swell.stores.memory import MemoryRegistry
from swell.stores.postgres import PostgresDatabase, PostgresRegistry
from swell.stores.sqlite import SqliteDatabase, SqliteRegistry
from swell.testing.comparisons import NOW, ComparisonsConformance, a_comparison, a_vote


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryComparisons(ComparisonsConformance):
    @pytest.fixture
    def registry(self, clock: ManualClock) -> MemoryRegistry:
        return MemoryRegistry(clock)


class TestSqliteComparisons(ComparisonsConformance):
    @pytest.fixture
    async def registry(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteRegistry]:
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        yield SqliteRegistry(database)
        await database.close()


class TestPostgresComparisons(ComparisonsConformance):
    @pytest.fixture
    async def registry(
        self, postgres_databases: PostgresDatabases, clock: ManualClock
    ) -> AsyncIterator[PostgresRegistry]:
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        yield PostgresRegistry(database)
        await database.close()

    async def test_no_vote_is_taken_after_the_names_were_told(
        self, registry: PostgresRegistry
    ) -> None:
        await registry.put_comparison(a_comparison())
        votes = [registry.vote(a_vote(voter=f"v{n}")) for n in range(40)]
        *taken, closed = await asyncio.gather(*votes, registry.close_comparison("c1", NOW))
        assert closed is not None
        assert len(await registry.votes("c1")) == taken.count(True)
