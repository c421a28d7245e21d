"""Every registry satisfies the contract for cold starts and their charges."""

import contextlib
import sqlite3
from pathlib import Path

import asyncpg
import pytest

from conformance.registries import OnPostgres, OnSqlite
from conformance.startups import StartupsConformance, a_startup, an_entry
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.db.postgres import PostgresDatabase
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase


class TestSqliteStartups(OnSqlite, StartupsConformance):
    async def test_everything_survives_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "again.db"
        database = SqliteDatabase.open(path, ManualClock())
        await Registry(database).put_startup(a_startup())
        await Registry(database).charge([an_entry()])
        await database.close()
        database = SqliteDatabase.open(path, ManualClock())
        assert await Registry(database).startups() == [a_startup()]
        assert (await Registry(database).ledger()).entries == [an_entry()]
        await database.close()

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger SET seconds = 0",
            "DELETE FROM ledger",
            "INSERT OR REPLACE INTO ledger SELECT number, 'other', at, kind, pool, models, "
            "worker_id, ref, outcome, 0, micros, account, key_id, user_name, attempts, images "
            "FROM ledger",
        ],
    )
    async def test_the_ledger_is_only_added_to(self, tmp_path: Path, statement: str) -> None:
        path = tmp_path / "swell.db"
        database = SqliteDatabase.open(path, ManualClock())
        await Registry(database).charge([an_entry()])
        await database.close()
        with (
            contextlib.closing(sqlite3.connect(path)) as connection,
            pytest.raises(sqlite3.IntegrityError),
        ):
            connection.execute(statement)


class TestPostgresStartups(OnPostgres, StartupsConformance):
    @pytest.mark.parametrize(
        "statement", ["UPDATE ledger SET seconds = 0", "DELETE FROM ledger", "TRUNCATE ledger"]
    )
    async def test_the_ledger_is_only_added_to(
        self, postgres_databases: PostgresDatabases, clock: ManualClock, statement: str
    ) -> None:
        url = await postgres_databases.new()
        database = await PostgresDatabase.open(url, clock)
        await Registry(database).charge([an_entry()])
        await database.close()
        connection = await asyncpg.connect(url)
        try:
            with pytest.raises(asyncpg.RaiseError):
                await connection.execute(statement)
        finally:
            await connection.close()
