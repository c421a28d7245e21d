"""Connections to the database, and statements on them apart from the writer of tasks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from swell.core.clock import Clock
from swell.core.errors import Internal, InvalidRequest, SwellError, Unavailable
from swell.core.task import Task
from swell.db.postgres.postgres_transaction import QUERIES, fetch_rows, lock_names
from swell.db.postgres.task_rows import STORED_ROWS
from swell.db.sql import Row, Transaction
from swell.net.database_urls import database_place, unreadable_url

R = TypeVar("R")

#: How often a transaction runs before a deadlock with another is an error.
_TRIES: Final = 3

#: How long the server may take to accept a connection, in seconds.
CONNECT_S: Final = 5.0

#: How long a reader waits for an answer before it takes the server for lost, in seconds.
READ_S: Final = 20.0

#: Of all connections: compiling a short statement takes longer than running it.
SETTINGS: Final = {"application_name": "swell", "jit": "off"}

#: Of connections that read and write tasks. Plans use indexes even if the tables were small when
#: a statement was planned, since plans are kept until the server has analyzed the table again.
BY_INDEX: Final = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}

#: Errors after which the server, or the way to it, is gone.
LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)



async def connect(url: str, settings: dict[str, str], limit_s: float | None = None) -> Any:
    """Connect; a statement that takes longer than `limit_s` seconds fails."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT_S,
        command_timeout=limit_s,
        statement_cache_size=256,
        server_settings=settings,
    )


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Connect, and translate the errors of connecting and of the body.

    Raises:
        InvalidRequest: The URL cannot be read.
        Unavailable: The server cannot be reached, or refuses.
    """
    database_place(url, "store.url")
    try:
        connection = await connect(url, SETTINGS)
        try:
            yield connection
        finally:
            connection.terminate()
    except (*LOST, asyncpg.PostgresError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"the database cannot be used: {why}") from error
    except ValueError:
        # The library's own words would show a part of the address.
        raise unreadable_url("store.url") from None


class PostgresPool:
    """A pool of connections, and the statements of `swell.db` on them."""

    dialect = "postgres"
    clock: Clock
    _url: str
    _pool: Any = None

    async def _open_pool(self, size: int) -> None:
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_S,
            command_timeout=READ_S,
            statement_cache_size=256,
            server_settings=SETTINGS | BY_INDEX,
            reset=_no_reset,
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """Take a connection from the pool.

        Raises:
            Unavailable: The server cannot be reached; a statement may have been written.
        """
        try:
            async with self._pool.acquire(timeout=CONNECT_S) as connection:
                yield connection
        except SwellError:
            raise
        except Exception as error:
            raise translated(error) from error

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """Return tasks, None for unknown ids."""
        async with self._connection() as connection:
            records = await connection.fetch(QUERIES["tasks_by_id"], list(task_ids))
        found = {task.id: task for task in map(STORED_ROWS.task, records)}
        return [found.get(task_id) for task_id in task_ids]

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        async with self._connection() as connection:
            return await fetch_rows(connection, query, values)

    scan = fetch
    execute = fetch

    async def transaction(
        self,
        action: Callable[[Transaction], Awaitable[R]],
        *,
        frees_space: bool = False,
    ) -> R:
        async with self._connection() as connection:
            for _ in range(_TRIES - 1):
                try:
                    async with connection.transaction():
                        return await action(_Transaction(connection))
                except asyncpg.DeadlockDetectedError:
                    continue
            async with connection.transaction():
                return await action(_Transaction(connection))

    def check_room(self) -> None:
        """Do nothing: only the server knows about its disk."""

    async def clock_ahead_s(self) -> float:
        """Return by how many seconds the backend's clock is ahead of the server's, at least."""
        asked_at = self.clock.now()
        [row] = await self.fetch("time")
        ahead_s = (asked_at - row["now"]).total_seconds()
        behind_s = (self.clock.now() - row["now"]).total_seconds()
        return max(0.0, float(ahead_s)) + min(0.0, float(behind_s))


class _Transaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return await fetch_rows(self._connection, query, values)

    async def lock(self, scope: str, keys: Iterable[str], *, is_shared: bool = False) -> None:
        query = "advisory_lock_shared" if is_shared else "advisory_lock"
        await self.fetch(query, names=lock_names(scope, keys))

    async def lock_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        records = await self._connection.fetch(QUERIES["tasks_locked"], list(task_ids))
        return list(map(STORED_ROWS.task, records))


async def _no_reset(connection: Any) -> None:
    """Save a round trip: readers change no settings of their session."""


def translated(error: BaseException) -> SwellError:
    """Return the error of Swell for an error of the client library."""
    if isinstance(error, SwellError):
        return error
    if isinstance(error, LOST):
        why = str(error) or type(error).__name__
        result: SwellError = Unavailable(f"the database does not answer ({why}); try again")
    elif isinstance(error, asyncpg.LockNotAvailableError):
        result = Unavailable("another session holds a lock on the rows to write; try again")
    elif isinstance(error, asyncpg.DataError):
        result = InvalidRequest(
            "the database cannot keep a value: a text with U+0000 or half of a pair of surrogates, "
            "or too large a number; send it without"
        )
    else:
        result = Internal(f"the database failed: {error}")
    result.__cause__ = error
    return result
