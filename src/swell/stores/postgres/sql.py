"""`swell.db.sql` over asyncpg."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from swell.clock import Clock
from swell.db.sql import Row, Statements, Transaction, to_json
from swell.stores.postgres.rows import row_of
from swell.task import Task

if TYPE_CHECKING:
    from swell.stores.postgres.database import PostgresDatabase

R = TypeVar("R")

STATEMENTS: Final = Statements("postgres")

#: How often a transaction runs before a deadlock with another is an error.
_TRIES: Final = 3


class PostgresSql:
    """Statements over a PostgreSQL connection pool, apart from the task writer."""

    def __init__(self, database: "PostgresDatabase") -> None:
        self._database = database

    @property
    def clock(self) -> Clock:
        return self._database.clock

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        async with self._database.connection() as connection:
            return await _fetch(connection, query, values)

    scan = fetch
    execute = fetch

    async def transaction(self, action: Callable[[Transaction], Awaitable[R]]) -> R:
        async with self._database.connection() as connection:
            for _ in range(_TRIES - 1):
                try:
                    async with connection.transaction():
                        return await action(_Transaction(connection))
                except asyncpg.DeadlockDetectedError:
                    continue
            async with connection.transaction():
                return await action(_Transaction(connection))


class _Transaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return await _fetch(self._connection, query, values)

    async def lock(self, scope: str, keys: Iterable[str]) -> None:
        names = [f"{scope} {key}" for key in sorted(set(keys))]
        await self.fetch("advisory_lock", names=names)

    async def running_tasks(self, task_ids: Iterable[str]) -> dict[str, Task]:
        running = await self.fetch("lock_running", ids=list(task_ids))
        statement, _ = STATEMENTS.find("tasks_by_id", {})
        records = await self._connection.fetch(statement, [row["id"] for row in running])
        return {record[0]: row_of(record).task for record in records}


def postgres_values(query: str, **values: Any) -> list[Any]:
    """Return parameters in the order of a statement."""
    return _ordered(STATEMENTS.find(query, values).parameters, values)


async def _fetch(connection: Any, query: str, values: Mapping[str, Any]) -> list[Row]:
    sql, parameters = STATEMENTS.find(query, values)
    return [dict(row) for row in await connection.fetch(sql, *_ordered(parameters, values))]


def _ordered(parameters: Iterable[str], values: Mapping[str, Any]) -> list[Any]:
    return [to_json(values[name]) if name == "rows" else values[name] for name in parameters]
