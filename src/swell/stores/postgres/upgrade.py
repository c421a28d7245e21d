"""Inspects and migrates the schema of a database without a backend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from swell.addresses.database_urls import database_place, unreadable_url
from swell.clock import Clock
from swell.errors import Unavailable
from swell.stores.postgres.migrate import SchemaStatus, migrate, schema_status

_CONNECT_S = 5.0


async def status_of(url: str) -> SchemaStatus:
    """Return which migrations a database has had. Changes nothing.

    Raises:
        Unavailable: The server cannot be reached, or refuses.
    """
    async with _connected(url) as connection:
        return await schema_status(connection)


async def upgrade(url: str, clock: Clock) -> list[str]:
    """Apply missing migrations, and return their names. Backends may run at the same time.

    Raises:
        Unavailable: The server cannot be reached, or refuses.
        Conflict: A newer Swell has changed it in a way that this one does not know.
        Internal: A migration failed; it has done nothing.
    """
    async with _connected(url) as connection:
        return await migrate(connection, clock)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    database_place(url, "store.url")
    try:
        connection = await _connect(url)
        try:
            yield connection
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"the database cannot be used: {why}") from error


async def _connect(url: str) -> Any:
    try:
        return await asyncpg.connect(url, timeout=_CONNECT_S)
    except asyncpg.InterfaceError:
        raise
    except ValueError:
        # The library's own words would show a part of the address.
        raise unreadable_url("store.url") from None
