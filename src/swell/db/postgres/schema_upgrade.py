"""Inspects and migrates the schema of a database without a backend."""

from swell.core.clock import Clock
from swell.db.postgres.connection_pool import connected
from swell.db.postgres.migrate import SchemaStatus, migrate, schema_status


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
        Conflict: A newer Swell has changed it in a way that this one does not know.
        Internal: A migration failed; it has done nothing.
    """
    async with connected(url) as connection:
        return await migrate(connection, clock)
