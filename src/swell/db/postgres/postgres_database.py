"""The writer of tasks: group commit to PostgreSQL (docs/decisions/0025).

All actions that have arrived run in one transaction. While the server writes one group, the next
gathers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.task import Task
from swell.db.group_commit import TRIES, GroupWriter, Write
from swell.db.postgres.connection_pool import (
    BY_INDEX,
    CONNECT_S,
    LOST,
    SETTINGS,
    connect,
    connected,
    open_pool,
    translated,
)
from swell.db.postgres.migrate import migrate
from swell.db.postgres.postgres_transaction import (
    QUERIES,
    REFRESH_SHARE,
    STORED_ROWS,
    PostgresSession,
    PostgresState,
    fetch_rows,
    lock_names,
)
from swell.db.sql import Row, Transaction

R = TypeVar("R")

#: How long the server may take before it is taken for lost, in seconds: to write a group, and to
#: count all ready tasks. Migrations take as long as they do.
WRITE_S: Final = 10.0
COUNT_S: Final = 60.0

#: How often the queues that workers wait for are checked, in seconds.
POLL_S: Final = 1.0

#: While other backends leave ready tasks, counts and clocks are read again this often, in seconds.
REFRESH_S: Final = 1.0

#: Of the writer: statements are planned once. A row that another session locks for longer fails
#: the action that needs it, and not the whole group with its connection. The rows of a backend
#: that vanished in a transaction are unlocked after a while.
_FOR_WRITER: Final = (
    SETTINGS
    | BY_INDEX
    | {
        "plan_cache_mode": "force_generic_plan",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "30s",
    }
)


class PostgresDatabase(GroupWriter):
    """One database: a pool of readers and the writer of this process; any number of processes.

    Guarantees:
        `write` returns after the commit that holds its changes. No other transaction wrote the
        same tasks between its reads and its commit.
    """

    state: PostgresState
    dialect = "postgres"
    conflicts = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(clock)
        self.state = PostgresState()
        self._url = url
        self._loop = asyncio.get_running_loop()
        #: Connections that read.
        self._pool: Any = None
        #: The writer's connection.
        self._writer_connection: Any = None
        #: Whether counts and clocks must be read before anything else.
        self._must_refresh = True
        self._refresh_at_s = 0.0
        #: Whether another backend left ready tasks since counts and clocks were read.
        self._has_heard = False
        self._polling: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, clock: Clock, *, connections: int = 4) -> "PostgresDatabase":
        """Connect, and bring the schema up to date.

        Args:
            url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            clock: Of all times that are written.
            connections: For reading; one more writes.

        Raises:
            InvalidRequest: The URL cannot be read, or the database does not keep UTF-8.
            Unavailable: The server cannot be reached, or refuses.
            Conflict: A newer Swell has changed the database in a way that this one does not know.
        """
        database = cls(url, clock)
        try:
            async with connected(url) as first:
                await migrate(first, clock)
                await database._writer()
                database._pool = await open_pool(url, connections)
        except BaseException:
            database._terminate()
            raise
        database._polling = asyncio.create_task(database._poll(), name="swell-postgres-poll")
        return database

    async def close(self) -> None:
        """Finish all writes, then close all connections. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.end_waits()
        if self._polling is not None:
            self._polling.cancel()
        self._terminate()

    def _terminate(self) -> None:
        if not self._is_lost:
            self._writer_connection.terminate()
        if self._pool is not None:
            self._pool.terminate()

    async def check_writable(self) -> None:
        """Write something if the last write was refused.

        Raises:
            Unavailable: It is refused again; the text says why.
        """
        if self._was_refused or self._is_lost:
            await self.write(lambda session: session.fetch("prove_writable"))

    # ---- apart from the writer of tasks

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Any]:
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
        async with self._reader() as connection:
            records = await connection.fetch(QUERIES["tasks_by_id"], list(task_ids))
        found = {task.id: task for task in map(STORED_ROWS.task, records)}
        return [found.get(task_id) for task_id in task_ids]

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        async with self._reader() as connection:
            return await fetch_rows(connection, query, values)

    scan = fetch
    execute = fetch

    async def transaction(
        self,
        action: Callable[[Transaction], Awaitable[R]],
        *,
        frees_space: bool = False,
    ) -> R:
        async with self._reader() as connection:
            for _ in range(TRIES - 1):
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

    # ---- groups

    async def _begin(self) -> PostgresSession:
        return PostgresSession(self, await self._writer())

    async def _finish(self, session: PostgresSession, served: list[Write]) -> None:
        if await session.write():
            self._was_refused = False
        if self.broadcast is not None and (left := session.left):
            await self.broadcast([PeerMessage(kind=MessageKind.READY, ids=tuple(left))])
        for write in served:
            write.end()

    async def _roll_back(self, session: PostgresSession, error: BaseException) -> None:
        if session.has_begun and not (isinstance(error, LOST) or self._is_lost):
            await self._writer_connection.execute("ROLLBACK")

    def _is_away(self, error: Exception) -> bool:
        if not isinstance(error, LOST):
            return False
        # An answer may still be on its way on this connection.
        self._was_refused = True
        if self._writer_connection is not None:
            self._writer_connection.terminate()
        return True

    def _translated(self, error: Exception) -> SwellError:
        return translated(error)

    async def _writer(self) -> Any:
        """Return the writer's connection, after counts and clocks are fresh enough."""
        if self._is_lost:
            self._writer_connection = await connect(self._url, _FOR_WRITER, WRITE_S)
            # The server may be back without its last commits.
            self._must_refresh = True
        is_old = self._has_heard and self._loop.time() > self._refresh_at_s
        if self._must_refresh or is_old:
            await self._refresh()
        return self._writer_connection

    async def _refresh(self) -> None:
        """Read counts and clocks again."""
        began_s = self._loop.time()
        lines = await self._writer_connection.fetch(QUERIES["ready_lines"], timeout=COUNT_S)
        shares = await self._writer_connection.fetch(QUERIES["open_shares"], timeout=COUNT_S)
        self.state.restore(lines, shares)
        self.state.unsure.clear()
        self._must_refresh = self._has_heard = False
        now_s = self._loop.time()
        self._refresh_at_s = now_s + max(REFRESH_S, REFRESH_SHARE * (now_s - began_s))

    @property
    def _is_lost(self) -> bool:
        return self._writer_connection is None or self._writer_connection.is_closed()

    # ---- other backends

    def may_have_ready(self, queues: Sequence[str]) -> bool:
        """Return True: another backend may have accepted tasks just now."""
        return True

    def note_ready(self, queues: Iterable[str]) -> None:
        self._has_heard = True
        self._check(queues)

    async def _poll(self) -> None:
        """Check all queues that workers wait for: a message of another backend may be lost."""
        while True:
            await asyncio.sleep(POLL_S)
            self._check(self._waiting)

    def _check(self, queues: Iterable[str]) -> None:
        self.state.unsure.update(queues)
        if self._waiting and not self._is_closing:
            self._must_serve = True
            self._write_soon()


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
