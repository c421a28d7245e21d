"""PostgreSQL migrations: applied once, whole or not at all, under running backends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

import swell
from conformance.delivery import Delivery
from conformance.factories import a_new_task
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.cli import app
from swell.core.clock import SystemClock
from swell.core.errors import Conflict, Internal, InvalidRequest
from swell.db.postgres import PostgresDatabase
from swell.db.postgres.migrate import (
    compatible_from,
    migrate,
    schema_status,
    status_of,
    upgrade,
)
from swell.db.postgres.postgres_transaction import QUERIES
from swell.db.schema_files import load_migrations
from swell.db.sql import Statements
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

CLOCK = SystemClock()
MIGRATIONS = load_migrations("postgres")
NEXT = MIGRATIONS[-1][0] + 1

#: What a next version might do: a column, an index and a table more.
ADDITION = (
    NEXT,
    "addition",
    f"""-- compatible_from: {NEXT - 1}
ALTER TABLE tasks ADD COLUMN mood text;
ALTER TABLE workers ADD COLUMN mood text NOT NULL DEFAULT 'calm';
CREATE INDEX tasks_mood ON tasks (mood) WHERE mood IS NOT NULL;
CREATE TABLE moods (name text PRIMARY KEY);
""",
)


@pytest.fixture
async def connection(postgres_databases: PostgresDatabases) -> AsyncIterator[Any]:
    """A connection to an empty database."""
    connection = await asyncpg.connect(await postgres_databases.empty())
    yield connection
    await connection.close()


@pytest.fixture
async def migrated(postgres_databases: PostgresDatabases) -> AsyncIterator[Any]:
    """A connection to a database with the whole schema."""
    connection = await asyncpg.connect(await postgres_databases.new())
    yield connection
    await connection.close()


async def test_a_backend_waits_for_the_migrations_of_another_as_long_as_they_take(
    postgres_databases: PostgresDatabases, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.db.postgres.postgres_database.WRITE_S", 0.3)
    monkeypatch.setattr("swell.db.postgres.connection_pool.READ_S", 0.3)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("SELECT pg_advisory_lock($1)", 0x7377656C6C)
    opening = asyncio.create_task(
        PostgresDatabase.open(postgres_databases.server.url_of(name), CLOCK)
    )
    async with asyncio.timeout(30):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'advisory'"
            " AND clock_timestamp() - query_start > interval '1 second'",
            name,
        ):
            assert not opening.done()
            await asyncio.sleep(0.02)
    await connection.execute("SELECT pg_advisory_unlock($1)", 0x7377656C6C)
    database = await opening
    await database.close()


async def test_a_database_that_cannot_hold_all_texts_is_refused(
    postgres_databases: PostgresDatabases, connection: Any
) -> None:
    await connection.execute(
        "CREATE DATABASE of_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
    )
    url = postgres_databases.server.url_of("of_latin1")
    with pytest.raises(InvalidRequest, match="keeps texts as LATIN1"):
        await PostgresDatabase.open(url, CLOCK)
    with pytest.raises(InvalidRequest, match="keeps texts as LATIN1"):
        await upgrade(url, CLOCK)


async def test_a_password_in_an_address_that_cannot_be_read_is_not_told() -> None:
    url = "postgresql://odd:hidden#x@127.0.0.1/db"
    for call in (PostgresDatabase.open(url, CLOCK), upgrade(url, CLOCK)):
        with pytest.raises(InvalidRequest, match=r"store\.url cannot be read") as refused:
            await call
        assert refused.value.__suppress_context__
        assert "hidden" not in str(refused.value)


def test_every_migration_says_what_it_is_compatible_with() -> None:
    for migration in MIGRATIONS:
        assert 1 <= compatible_from(migration) <= migration[0]


async def test_every_query_can_be_prepared_against_the_schema(migrated: Any) -> None:
    for name, statement in QUERIES.items():
        try:
            await migrated.prepare(statement)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{name}: {error}")


def test_every_query_is_used_somewhere() -> None:
    package = Path(swell.__file__).parent
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("db", "queues")
        for path in (package / folder).rglob("*.py")
    )
    assert [name for name in Statements("postgres").all() if f'"{name}"' not in source] == []


@pytest.mark.parametrize(
    "name",
    [
        *("tasks_by_id", "next_ready", "ready_lines_of", "ready_lines", "open_shares", "ranks"),
        *("ready_depths", "woken_depths", "due_tasks", "next_wake", "open_tasks", "repeat_of"),
        *("idempotent", "forget_idempotent", "discarded", "update_tasks", "key_by_digest", "note"),
        *("page_ids", "ended_ids", "files_of", "unused_uploads", "overtake", "due_deliveries"),
        *("deliveries_to_tell", "save_deliveries", "quota_uses_at", "holds_by_id", "likes"),
    ],
)
async def test_what_runs_often_never_reads_a_whole_table(migrated: Any, name: str) -> None:
    await migrated.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    await migrated.execute(f"PREPARE asked AS {QUERIES[name]}")
    n = len((await migrated.prepare(QUERIES[name])).get_parameters())
    given = f"({', '.join(['NULL'] * n)})" if n else ""
    rows = await migrated.fetch(f"EXPLAIN EXECUTE asked{given}")
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan, plan
    if name == "next_ready":
        # In the order of its index, also where the table is empty.
        assert "tasks_ready" in plan, plan
        assert "Sort" not in plan, plan


async def test_backends_that_start_together_migrate_once(
    postgres_databases: PostgresDatabases,
) -> None:
    url = await postgres_databases.empty()
    databases = await asyncio.gather(*(PostgresDatabase.open(url, CLOCK) for _ in range(5)))
    try:
        status = await status_of(url)
        assert (status.applied, status.missing) == (MIGRATIONS[-1][0], [])
    finally:
        for database in databases:
            await database.close()


async def test_a_migration_that_fails_half_way_has_done_nothing(connection: Any) -> None:
    before = [*MIGRATIONS, ADDITION]
    broken = (NEXT + 1, "broken", "-- compatible_from: 1\nCREATE TABLE half (); SELECT 1 / 0")
    with pytest.raises(Internal, match="broken"):
        await migrate(connection, CLOCK, [*before, broken])
    status = await schema_status(connection, before)
    assert (status.applied, status.missing) == (NEXT, [])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    mended = (NEXT + 1, "broken", "-- compatible_from: 1\nCREATE TABLE half ()")
    assert await migrate(connection, CLOCK, [*before, mended]) == [f"{NEXT + 1:04}_broken"]


async def test_a_migration_whose_process_dies_has_done_nothing_and_the_next_one_applies_it(
    postgres_databases: PostgresDatabases,
) -> None:
    asleep = (NEXT, "asleep", "-- compatible_from: 1\nCREATE TABLE half (); SELECT pg_sleep(600)")
    awake = (*asleep[:2], asleep[2].replace("pg_sleep(600)", "1"))
    url = await postgres_databases.new()
    first, second = [await asyncpg.connect(url) for _ in range(2)]
    pid = await first.fetchval("SELECT pg_backend_pid()")
    dying = asyncio.ensure_future(migrate(first, CLOCK, [*MIGRATIONS, asleep]))
    sleeps = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(30):
        while not await second.fetchval(sleeps, pid):
            await asyncio.sleep(0)
    assert await second.fetchval("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await dying
    assert await second.fetchval("SELECT to_regclass('half')") is None
    assert await migrate(second, CLOCK, [*MIGRATIONS, awake]) == [f"{NEXT:04}_asleep"]
    await second.close()


async def test_a_backend_of_the_schema_before_serves_while_the_next_one_is_applied(
    postgres_databases: PostgresDatabases,
) -> None:
    url, clock = await postgres_databases.new(), ManualClock()
    old = await PostgresDatabase.open(url, clock)
    store = Store(old)
    delivery = Delivery(clock, store, Broker(old))
    is_over = False
    ended = 0

    async def serve() -> None:
        nonlocal ended
        # Some before, some while, and some after.
        rounds = 0
        while not is_over or rounds < 20:
            rounds += is_over
            await delivery.submit(*(a_new_task(user="ann", metadata=None) for _ in range(3)))
            for task in await delivery.settle(*await delivery.lease(3)):
                assert task is not None
                ended += 1

    serving = asyncio.ensure_future(serve())
    connection = await asyncpg.connect(url)
    assert await migrate(connection, CLOCK, [*MIGRATIONS, ADDITION]) == [f"{NEXT:04}_addition"]
    is_over = True
    await serving
    states = await connection.fetch("SELECT state, count(*) FROM tasks GROUP BY state")
    assert dict(states) == {"succeeded": ended}
    await connection.close()
    await store.close()


async def test_a_newer_schema_that_only_adds_is_served_and_any_other_is_refused(
    postgres_databases: PostgresDatabases,
) -> None:
    url = await postgres_databases.new()
    connection = await asyncpg.connect(url)
    await migrate(connection, CLOCK, [*MIGRATIONS, ADDITION])
    database = await PostgresDatabase.open(url, CLOCK)
    status = await status_of(url)
    assert (status.applied, status.known, status.missing) == (NEXT, NEXT - 1, [])
    await database.close()
    breaking = (NEXT + 1, "breaking", f"-- compatible_from: {NEXT + 1}\nDROP TABLE moods")
    await migrate(connection, CLOCK, [*MIGRATIONS, ADDITION, breaking])
    await connection.close()
    with pytest.raises(Conflict, match="install that version"):
        await PostgresDatabase.open(url, CLOCK)


def test_the_command_tells_what_is_missing_and_applies_it(
    postgres_databases: PostgresDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_STORE__URL", asyncio.run(postgres_databases.empty()))
    names = [f"{number:04}_{name}" for number, name, _ in MIGRATIONS]
    before = _said()
    assert (before["applied"], before["missing"]) == (0, names)
    assert _said("--upgrade") == {"applied": names}
    after = _said()
    assert (after["applied"], after["known"], after["missing"]) == (NEXT - 1, NEXT - 1, [])
    assert _said("--upgrade") == {"applied": []}


def _said(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["db", *options, "--json"])
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said
