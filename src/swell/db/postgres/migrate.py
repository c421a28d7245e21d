"""Migrations of the schema.

Migrations only add, so a backend of an earlier version keeps running while one is applied. Each is
one transaction with the row that records it: an interrupted one has done nothing. An advisory lock
makes processes that start together apply them once.

A migration names the oldest schema with which backends can still run after it
(`-- compatible_from: N`). A backend that finds a newer schema than its own checks that number.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from swell.core.clock import Clock
from swell.core.errors import Conflict, Internal, InvalidRequest
from swell.db.postgres.connection_pool import connected
from swell.db.schema_files import load_migrations

#: "swell" in ASCII: of all advisory locks of the database, the one of its migrations.
_LOCK: Final = 0x7377656C6C

#: A migration that waits this long for a table fails, since other statements wait behind it.
_LOCK_TIMEOUT: Final = "5s"

_COMPATIBLE: Final = re.compile(r"^-- compatible_from: (\d+)$", re.MULTILINE)

_CREATE_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS swell_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    compatible_from integer NOT NULL,
    applied_at timestamptz NOT NULL
)
"""

Migration = tuple[int, str, str]


class SchemaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Which migrations a database has had, and which this Swell knows."""

    #: Number of the newest that was applied; 0 for none.
    applied: int
    #: Number of the newest that this Swell knows.
    known: int
    #: Backends of this schema and later can run on the database.
    compatible_from: int
    #: Names, such as `0003_name`, of those that were not applied yet.
    missing: list[str]


def compatible_from(migration: Migration) -> int:
    """Return the oldest schema with which backends can run after this migration.

    Raises:
        ValueError: The migration does not say.
    """
    number, name, script = migration
    found = _COMPATIBLE.search(script)
    if found is None:
        raise ValueError(f"migration {number} ({name}) does not declare its compatibility")
    return int(found[1])


async def schema_status(
    connection: Any, migrations: Sequence[Migration] | None = None
) -> SchemaStatus:
    """Return which migrations were applied. Changes nothing."""
    known = load_migrations("postgres") if migrations is None else migrations
    rows = []
    if await connection.fetchval("SELECT to_regclass('swell_migrations') IS NOT NULL"):
        rows = await connection.fetch("SELECT number, compatible_from FROM swell_migrations")
    done = {row[0] for row in rows}
    return SchemaStatus(
        applied=max(done, default=0),
        known=max(number for number, _, _ in known),
        compatible_from=max((row[1] for row in rows), default=0),
        missing=[f"{number:04}_{name}" for number, name, _ in known if number not in done],
    )


async def status_of(url: str) -> SchemaStatus:
    """Return which migrations a database has had. Changes nothing.

    Raises:
        Unavailable: The server cannot be reached, or refuses.
    """
    async with connected(url) as connection:
        return await schema_status(connection)


async def upgrade(url: str, clock: Clock) -> list[str]:
    """Apply missing migrations, and return their names. Backends may run at the same time.

    Raises:
        Unavailable: The server cannot be reached, or refuses.
        Conflict, Internal: As `migrate`.
    """
    async with connected(url) as connection:
        return await migrate(connection, clock)


def check_schema(status: SchemaStatus) -> None:
    """Refuse a database that this Swell cannot run on.

    Raises:
        Conflict: A newer Swell has changed it in a way that this one does not understand.
    """
    if status.compatible_from > status.known:
        raise Conflict(
            f"the database was changed by a newer Swell (schema {status.applied}, which needs "
            f"{status.compatible_from} or later; this one knows {status.known}): install that "
            "version, or name another database in store.url"
        )


async def migrate(
    connection: Any, clock: Clock, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Apply missing migrations in order, and return their names.

    Raises:
        InvalidRequest: The database keeps texts in another encoding than UTF-8.
        Conflict: As `check_schema`.
        Internal: A migration failed; it and those after it have done nothing.
    """
    _check_encoding(connection)
    known = load_migrations("postgres") if migrations is None else migrations
    if not (status := await schema_status(connection, known)).missing:
        check_schema(status)
        return []
    applied = []
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_CREATE_LEDGER)
        status = await schema_status(connection, known)
        check_schema(status)
        for migration in known:
            number, name, _ = migration
            if f"{number:04}_{name}" in status.missing:
                await _apply(connection, clock, migration)
                applied.append(f"{number:04}_{name}")
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return applied


def _check_encoding(connection: Any) -> None:
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise InvalidRequest(
            f"the database of store.url keeps texts as {encoding}, which cannot hold all that "
            "people write: take one made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def _apply(connection: Any, clock: Clock, migration: Migration) -> None:
    number, name, script = migration
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(script)
            await connection.execute(
                "INSERT INTO swell_migrations VALUES ($1, $2, $3, $4)",
                *(number, name, compatible_from(migration), clock.now()),
            )
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise Internal(f"migration {number} ({name}) failed: {error}") from error
