"""Fixtures for each registry adapter: an empty registry on a manual clock."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.db.postgres import PostgresDatabase
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase

__all__ = ["OnPostgres", "OnSqlite"]


class _Clocked:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()


class OnSqlite(_Clocked):
    """Provides `registry` in a SQLite file."""

    @pytest.fixture
    async def registry(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Registry]:
        database = SqliteDatabase.open(tmp_path / "swell.db", clock)
        yield Registry(database)
        await database.close()


class OnPostgres(_Clocked):
    """Provides `registry` in a separate PostgreSQL database."""

    @pytest.fixture
    async def registry(
        self, postgres_databases: PostgresDatabases, clock: ManualClock
    ) -> AsyncIterator[Registry]:
        database = await PostgresDatabase.open(await postgres_databases.new(), clock)
        yield Registry(database)
        await database.close()
