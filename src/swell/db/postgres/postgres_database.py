"""The writer of tasks: group commit to PostgreSQL (docs/decisions/0025).

All actions that have arrived run in one transaction. While the server writes one group, the next
gathers.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.db.group_commit import Batch, GroupWriter
from swell.db.postgres.connection_pool import (
    BY_INDEX,
    LOST,
    SETTINGS,
    PostgresPool,
    connect,
    connected,
    translated,
)
from swell.db.postgres.listen_notify import Peers
from swell.db.postgres.migrate import migrate
from swell.db.postgres.postgres_transaction import (
    QUERIES,
    REFRESH_SHARE,
    PostgresSession,
    PostgresState,
)

#: How long the server may take before it is taken for lost, in seconds: to write a group, and to
#: count all ready tasks. Migrations take as long as they do.
WRITE_S: Final = 10.0
COUNT_S: Final = 60.0

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


class PostgresDatabase(PostgresPool, GroupWriter):
    """One database: a pool of readers and the writer of this process; any number of processes.

    Guarantees:
        `write` returns after the commit that holds its changes. No other transaction wrote the
        same tasks between its reads and its commit.
    """

    state: PostgresState
    conflicts = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

    def __init__(self, url: str, clock: Clock) -> None:
        GroupWriter.__init__(self, clock)
        self.state = PostgresState()
        self._url = url
        self._loop = asyncio.get_running_loop()
        #: The writer's connection.
        self._writer_connection: Any = None
        #: Whether counts and clocks must be read before anything else.
        self._must_refresh = True
        self._refresh_at_s = 0.0
        #: Whether another backend left ready tasks since counts and clocks were read.
        self._has_heard = False
        self.peers = Peers(url, self._on_ready, self._poll)

    @classmethod
    async def open(cls, url: str, clock: Clock, *, connections: int = 4) -> "PostgresDatabase":
        """Connect, bring the schema up to date, and begin to listen.

        Args:
            url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            clock: Of all times that are written.
            connections: For reading; two more write and listen.

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
                await database._open_pool(connections)
            await database.peers.start()
        except BaseException:
            database._terminate()
            raise
        return database

    async def close(self) -> None:
        """Finish all writes, then close all connections. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.end_waits()
        await self.peers.stop()
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

    # ---- groups

    async def _begin(self) -> PostgresSession:
        return PostgresSession(self, await self._writer())

    async def _finish(self, batch: Batch) -> None:
        session: PostgresSession = batch.session
        await session.write()
        self._was_refused = False
        self.peers.notify(session.left)

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

    def _on_ready(self, queues: Iterable[str]) -> None:
        """Check queues with ready tasks that another backend left."""
        self._has_heard = True
        self._check(queues)

    def _poll(self) -> None:
        """Check all queues that workers wait for: a notification may have been lost."""
        self._check(self._waiting)

    def _check(self, queues: Iterable[str]) -> None:
        self.state.unsure.update(queues)
        if self._waiting and not self._is_closing:
            self._must_serve = True
            self._write_soon()
