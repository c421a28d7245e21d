"""The writer of tasks: group commit to PostgreSQL (docs/decisions/0025).

All actions that have arrived run in one transaction. While the server writes one group, the next
gathers.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from swell.core.clock import Clock
from swell.core.errors import SwellError, Unavailable
from swell.db.group_commit import GroupWriter, Write
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

#: How often a group runs again after a conflict; after that, each of its actions alone.
TRIES: Final = 8

#: How long the server may take before it is taken for lost, in seconds: to write a group, and to
#: count all ready tasks. Migrations take as long as they do.
WRITE_S: Final = 10.0
COUNT_S: Final = 60.0

#: While other backends leave ready tasks, counts and clocks are read again this often, in seconds.
REFRESH_S: Final = 1.0

#: For this long after another backend left tasks, in seconds.
HEARD_S: Final = 10.0

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

#: Conflicts with other transactions: run again.
_CONFLICTS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class _Batch:
    """A group of actions, and their session."""

    def __init__(self, group: list[Write], session: PostgresSession) -> None:
        self.group = group
        self.session = session
        #: Actions that raised, and have changed nothing.
        self._failed: dict[Write, SwellError] = {}
        #: Actions of `write_when` that have found something.
        self.served: list[Write] = []

    async def run(self) -> None:
        await self.session.load({task_id for write in self.group for task_id in write.wants})
        for write in self.group:
            await self._run(write)

    async def serve(self, waiting: Mapping[str, Mapping[Write, None]]) -> None:
        """Run the actions that wait for a queue, for as long as a task may be ready in it."""
        may_wait = self.session.state.may_wait
        for queue in list(filter(may_wait, waiting)):
            for write in list(waiting.get(queue, ())):
                if not may_wait(queue):
                    break
                if not write.may_run:
                    continue
                await self._run(write)
                if write.result or write in self._failed:
                    write.is_served = True
                    self.served.append(write)

    async def _run(self, write: Write) -> None:
        if write.queues:
            if write.until is None:
                # A notification may be on its way.
                self.session.state.unsure.update(write.queues)
            await self.session.count_again(write.queues)
        try:
            write.result = await write.action(self.session)
        except SwellError as error:
            self._failed[write] = error
        if write.queues and not write.result:
            # Other backends leased the tasks that were counted.
            await self.session.count_again(write.queues, is_wrong=True)

    def resolve(self) -> None:
        """Return the results to the callers."""
        for write in (*self.group, *self.served):
            if write in self._failed:
                write.fail(self._failed[write])
            else:
                write.resolve(write.result)

    def give_up(self) -> None:
        """After a failure: its waiting actions wait on, unless their callers have stopped."""
        for write in self.served:
            write.is_served = False
            if not write.may_run:
                write.resolve(None)


class PostgresDatabase(PostgresPool, GroupWriter):
    """One database: a pool of readers and the writer of this process; any number of processes.

    Guarantees:
        `write` returns after the commit that holds its changes. No other transaction wrote the
        same tasks between its reads and its commit.
    """

    state: PostgresState

    def __init__(self, url: str, clock: Clock) -> None:
        GroupWriter.__init__(self, clock)
        self.state = PostgresState()
        self._url = url
        self._loop = asyncio.get_running_loop()
        #: The writer's connection.
        self._writer_connection: Any = None
        #: Groups to write again in parts, and whether they serve waiting actions.
        self._again: list[tuple[list[Write], bool]] = []
        #: Whether the server refused, or did not answer, the last transaction.
        self._was_refused = False
        #: Whether counts and clocks must be read before anything else.
        self._must_refresh = True
        self._refresh_at_s = 0.0
        #: When another backend last left ready tasks.
        self._heard_s = -math.inf
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

    async def _write_all(self) -> None:
        try:
            while self._again or self._pending or self._must_serve:
                if self._again:
                    await self._write_group(*self._again.pop(0))
                else:
                    await self._write_group(await self._next_group())
        except Exception:
            self._writer_failed()
        finally:
            self._writing = None

    async def _write_group(self, group: list[Write], serves: bool = True) -> None:
        """Write a group, and return the results to the callers."""
        for _ in range(TRIES):
            try:
                await self._try_to_write(group, serves)
            except _CONFLICTS:
                continue
            except Exception as error:
                self._refuse(group, error, serves)
            return
        contended = Unavailable("other backends keep changing the same tasks; try again")
        self._refuse(group, contended, serves)

    async def _try_to_write(self, group: list[Write], serves: bool) -> None:
        session = PostgresSession(self, await self._writer())
        batch = _Batch(group, session)
        try:
            await batch.run()
            if serves:
                await batch.serve(self._waiting)
            await session.write()
        except BaseException as error:
            session.undo()
            # Other backends passed over the rows that were locked.
            self.peers.notify(session.taken)
            batch.give_up()
            if session.has_begun and not (isinstance(error, LOST) or self._is_lost):
                await self._writer_connection.execute("ROLLBACK")
            raise
        self._was_refused = False
        batch.resolve()
        if session.has_posted:
            self.state.wake_dispatcher()
        self.peers.notify(session.left)

    def _refuse(self, group: list[Write], error: Exception, serves: bool) -> None:
        """Write a group again in parts, or raise in its callers."""
        refused = translated(error)
        if isinstance(error, LOST):
            # An answer may still be on its way on this connection.
            self._was_refused = True
            if self._writer_connection is not None:
                self._writer_connection.terminate()
        elif len(group) > 1 or (group and serves and self._waiting):
            # The server refused a row, or the group lost every conflict. Writing the actions one by
            # one shows which row it was; then the waiting actions run.
            self._again += [*(([write], False) for write in group), ([], True)]
            return
        for write in group:
            write.fail(refused)
        if not group and not isinstance(refused, Unavailable):
            # Waiting actions wait on while the server is away.
            for write in {each for waiting in self._waiting.values() for each in waiting}:
                if not write.is_served:
                    write.fail(refused)

    async def _writer(self) -> Any:
        """Return the writer's connection, after counts and clocks are fresh enough."""
        if self._is_lost:
            self._writer_connection = await connect(self._url, _FOR_WRITER, WRITE_S)
            # The server may be back without its last commits.
            self._must_refresh = True
        if self._must_refresh or self._refresh_at_s < self._loop.time() < self._heard_s + HEARD_S:
            await self._refresh()
        return self._writer_connection

    async def _refresh(self) -> None:
        """Read counts and clocks again."""
        began_s = self._loop.time()
        lines = await self._writer_connection.fetch(QUERIES["ready_lines"], timeout=COUNT_S)
        shares = await self._writer_connection.fetch(QUERIES["open_shares"], timeout=COUNT_S)
        self.state.restore(lines, shares)
        self.state.unsure.clear()
        self._must_refresh = False
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
        self._heard_s = self._loop.time()
        self._check(queues)

    def _poll(self) -> None:
        """Check all queues that workers wait for: a notification may have been lost."""
        self._check(self._waiting)

    def _check(self, queues: Iterable[str]) -> None:
        self.state.unsure.update(queues)
        if self._waiting and not self._is_closing:
            self._must_serve = True
            self._write_soon()
