"""Databases of a test server: fresh and with the whole schema, quickly."""

import itertools

import asyncpg

from servers import PostgresServer
from swell.core.clock import SystemClock
from swell.db.postgres.migrate import migrate

__all__ = ["PostgresDatabases"]

_TEMPLATE = "swell_template"


class PostgresDatabases:
    """Makes databases, each a copy of one that was migrated once."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._has_template = False

    async def new(self) -> str:
        """Return the URL of a new database that has had every migration."""
        if not self._has_template:
            await self._make(_TEMPLATE, "template0")
            connection = await asyncpg.connect(self.server.url_of(_TEMPLATE))
            await migrate(connection, SystemClock())
            await connection.close()
            self._has_template = True
        return await self._make(f"test_{next(self._numbers)}", _TEMPLATE)

    async def empty(self) -> str:
        """Return the URL of a new database without anything."""
        return await self._make(f"test_{next(self._numbers)}", "template0")

    async def _make(self, name: str, template: str) -> str:
        connection = await asyncpg.connect(self.server.url)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        await connection.close()
        return self.server.url_of(name)
