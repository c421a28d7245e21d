"""The writer of tasks: group commit to PostgreSQL.

All actions that have arrived run in one transaction, which one statement writes where that is
possible (docs/decisions/0025). While the server writes one group, the next is prepared and may be
sent on a second connection. Reads, and writes of a task that is being written, wait for the first
group (docs/decisions/0039).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from swell.core.background_tasks import log_failure
from swell.core.clock import Clock
from swell.core.errors import SwellError, Unavailable
from swell.db.group_commit import GroupWriter, Write
from swell.db.postgres.connection_pool import (
    BY_INDEX,
    CONNECT_S,
    LOST,
    SETTINGS,
    PostgresPool,
    connect,
    connected,
    translated,
)
from swell.db.postgres.listen_notify import Peers
from swell.db.postgres.migrate import migrate
from swell.db.postgres.postgres_transaction import QUERIES, PostgresSession, Stale
from swell.db.postgres.task_cache import REFRESH_SHARE, PostgresState

#: Groups that are written at once.
MAX_IN_FLIGHT: Final = 2

#: How often a group runs again after a conflict; after that, each of its actions alone.
TRIES: Final = 8

#: How long the server may take before it is taken for lost, in seconds: to write a group, and to
#: count all ready tasks. Migrations take as long as they do.
WRITE_S: Final = 10.0
COUNT_S: Final = 60.0

#: With other backends, counts and clocks are read again this often, in seconds.
REFRESH_S: Final = 1.0

#: Of the connection for notifications. A crash of the server disconnects all listeners anyway, so
#: no commit of a notification waits for the disk.
_FOR_PEERS: Final = SETTINGS | {"synchronous_commit": "off"}

#: Of the writer: statements are planned once. A row that another session locks for longer fails
#: the action that needs it, and not the whole group with its connection.
_FOR_WRITER: Final = (
    SETTINGS | BY_INDEX | {"plan_cache_mode": "force_generic_plan", "lock_timeout": "3s"}
)

#: Conflicts with other transactions: run again, with care.
_CONFLICTS: Final = (
    Stale,
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class _Batch:
    """A group of actions, and their session."""

    def __init__(self, group: list[Write], session: PostgresSession) -> None:
        self.group = group
        self.session = session
        #: Actions that raised, and have changed nothing.
        self._failed: dict[Write, SwellError] = {}
        #: Actions of `write_when` that have found something.
        self.served: list[Write] = []
        #: Ids of the tasks that it writes.
        self.written: set[str] = set()

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
        #: The writer's connections, one for each group that is written at once.
        self._connections: list[Any] = [None] * MAX_IN_FLIGHT
        #: Place of the connection → the group that is being written, and its asyncio task.
        self._in_flight: dict[int, tuple[_Batch, asyncio.Task[None]]] = {}
        #: Groups to write alone and with care, and whether they serve waiting actions.
        self._again: list[tuple[list[Write], bool]] = []
        #: Whether the server refused, or did not answer, the last transaction.
        self._was_refused = False
        #: Whether counts and clocks must be read before anything else.
        self._must_refresh = True
        self._refresh_at_s = 0.0
        #: Whether there were other backends since counts were read, or just before.
        self._had_peers = False
        self.peers = Peers(lambda: connect(url, _FOR_PEERS, WRITE_S), self._on_ready, self._poll)

    @classmethod
    async def open(cls, url: str, clock: Clock, *, connections: int = 4) -> "PostgresDatabase":
        """Connect, bring the schema up to date, and begin to listen.

        Args:
            url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            clock: Of all times that are written.
            connections: For reading; three more write and listen.

        Raises:
            InvalidRequest: The URL cannot be read, or the database does not keep UTF-8.
            Unavailable: The server cannot be reached, or refuses.
            Conflict: A newer Swell has changed the database in a way that this one does not know.
        """
        database = cls(url, clock)
        try:
            async with connected(url, SETTINGS) as first:
                await migrate(first, clock)
                # Until the server has noticed its end, it would count as another backend.
                await first.close(timeout=CONNECT_S)
                for place in range(MAX_IN_FLIGHT):
                    await database._writer(place)
                await database._open_pool(connections)
        except BaseException:
            database._terminate()
            raise
        await database.peers.start()
        return database

    async def close(self) -> None:
        """Finish all writes, then close all connections. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        while self._writing is not None or self._in_flight:
            if self._writing is not None:
                await self._writing
            await self.wait_for_writes()
        self.end_waits()
        await self.peers.stop()
        self._terminate()

    def _terminate(self) -> None:
        for connection in self._connections:
            if not _is_gone(connection):
                connection.terminate()
        if self._pool is not None:
            self._pool.terminate()

    async def check_writable(self) -> None:
        """Write something if the last write was refused.

        Raises:
            Unavailable: It is refused again; the text says why.
        """
        if self._was_refused or _is_gone(self._connections[0]):
            await self.write(lambda session: session.fetch("prove_writable"))

    # ---- groups

    async def _write_all(self) -> None:
        try:
            while self._again or self._pending or self._must_serve:
                if self._again:
                    await self.wait_for_writes()
                    await self._write_alone(*self._again.pop(0))
                    continue
                if len(self._in_flight) == MAX_IN_FLIGHT:
                    writes = [each for _, each in self._in_flight.values()]
                    await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
                    # The group may have to be written again.
                    continue
                await self._write_group(await self._next_group())
        except Exception:
            self._writer_failed()
        finally:
            self._writing = None

    async def wait_for_writes(self) -> None:
        """Wait until nothing is being written."""
        while self._in_flight:
            await asyncio.wait([writing for _, writing in self._in_flight.values()])

    async def _write_group(self, group: list[Write]) -> None:
        """Prepare a group and send it; its callers return when it is written."""
        place = next(place for place in range(MAX_IN_FLIGHT) if place not in self._in_flight)
        try:
            batch = await self._prepare(group, place, is_careful=False)
        except Exception as error:
            self._refuse(group, error, place)
            return
        batch.session.remember()
        writing = self._loop.create_task(self._send(batch, place), name="swell-postgres-write")
        writing.add_done_callback(log_failure)
        self._in_flight[place] = (batch, writing)

    async def _send(self, batch: _Batch, place: int) -> None:
        try:
            await self._finish(batch, place)
        except Exception as error:
            self._refuse(batch.group, error, place)
        else:
            self._written(batch)
        finally:
            del self._in_flight[place]

    async def _write_alone(self, group: list[Write], serves: bool) -> None:
        """Write a group with care, while nothing else is being written."""
        for _ in range(TRIES):
            try:
                batch = await self._prepare(group, 0, is_careful=True, serves=serves)
                await self._finish(batch, 0)
            except _CONFLICTS:
                continue
            except Exception as error:
                self._refuse(group, error, 0, serves=serves)
            else:
                batch.session.remember()
                self._written(batch)
            return
        contended = Unavailable("other backends keep changing the same tasks; try again")
        self._refuse(group, contended, 0, serves=serves)

    async def _prepare(
        self, group: list[Write], place: int, *, is_careful: bool, serves: bool = True
    ) -> _Batch:
        """Run the actions; wait for groups that are being written if they touch the same tasks."""
        connection = await self._writer(place)
        session = PostgresSession(self, connection, is_careful)
        batch = _Batch(group, session)
        try:
            await batch.run()
            if serves:
                await batch.serve(self._waiting)
            await session.close()
            batch.written = session.written
            others = [each.written for each, _ in self._in_flight.values()]
            if not all(map(batch.written.isdisjoint, others)):
                await self.wait_for_writes()
            session.check()
        except BaseException as error:
            await self._undo(batch, place, error)
            raise
        return batch

    async def _finish(self, batch: _Batch, place: int) -> None:
        try:
            await batch.session.write()
        except BaseException as error:
            await self._undo(batch, place, error)
            raise

    async def _undo(self, batch: _Batch, place: int, error: BaseException) -> None:
        batch.session.forget()
        if self.has_peers:
            # They passed over the rows that were locked.
            self.peers.notify(batch.session.taken)
        batch.give_up()
        connection = self._connections[place]
        is_lost = isinstance(error, LOST) or _is_gone(connection)
        if batch.session.has_begun and not is_lost:
            await connection.execute("ROLLBACK")

    def _written(self, batch: _Batch) -> None:
        self._was_refused = False
        batch.resolve()
        if batch.session.has_posted:
            self.state.posting.wake()
        if self.has_peers:
            self.peers.notify(batch.session.left)

    def _refuse(
        self, group: list[Write], error: Exception, place: int, *, serves: bool = True
    ) -> None:
        """Write a group again in another way, or raise in its callers."""
        if isinstance(error, _CONFLICTS):
            self._again.append((group, serves))
            self._write_soon()
            return
        refused = translated(error)
        if isinstance(error, LOST):
            # An answer may still be on its way on this connection.
            self._was_refused = self._must_refresh = True
            if self._connections[place] is not None:
                self._connections[place].terminate()
                self._connections[place] = None
        elif len(group) > 1 or (group and serves and self._waiting):
            # The server refused a row, or the group lost every conflict. Writing the actions one by
            # one shows which row it was; then the waiting actions run.
            self._again += [*(([write], False) for write in group), ([], True)]
            self._write_soon()
            return
        for write in group:
            write.fail(refused)
        if not group and not isinstance(refused, Unavailable):
            # Waiting actions wait on while the server is away.
            for write in {each for waiting in self._waiting.values() for each in waiting}:
                if not write.is_served:
                    write.fail(refused)

    async def _writer(self, place: int) -> Any:
        """Return one of the writer's connections, after counts and clocks are fresh enough."""
        connection = self._connections[place]
        if _is_gone(connection):
            self._must_refresh = self._must_refresh or connection is not None
            connection = await connect(self._url, _FOR_WRITER, WRITE_S)
            self._connections[place] = connection
            # Only the first: it would take the following ones for other backends.
            if place == 0 and await connection.fetchval(QUERIES["others"]):
                self.peers.assume()
        # Also once after the last other backend has gone: it may have left tasks.
        self._had_peers |= self.has_peers
        is_old = self._had_peers and self._loop.time() > self._refresh_at_s
        if self._must_refresh or is_old:
            await self.wait_for_writes()
            if self._must_refresh:
                # A server that was lost may be back without its last commits.
                self.state.live.clear()
            await self._refresh(connection)
            self._had_peers = self.has_peers
        return connection

    async def _refresh(self, connection: Any) -> None:
        """Read counts and clocks again."""
        began_s = self._loop.time()
        lines = await connection.fetch(QUERIES["ready_lines"], timeout=COUNT_S)
        shares = await connection.fetch(QUERIES["open_shares"], timeout=COUNT_S)
        self.state.restore(lines, shares)
        self.state.unsure.clear()
        self._must_refresh = False
        now_s = self._loop.time()
        self._refresh_at_s = now_s + max(REFRESH_S, REFRESH_SHARE * (now_s - began_s))

    # ---- other backends

    @property
    def has_peers(self) -> bool:
        """Whether other backends may lease from the same queues."""
        return self.peers.exist

    def may_have_ready(self, queues: Sequence[str]) -> bool:
        """Whether a task is ready in one of these queues, or may be once writes have ended."""
        if self.has_peers:
            # A notification may be on its way.
            self.state.unsure.update(queues)
        is_writing = self._writing is not None or bool(self._in_flight)
        return is_writing or any(map(self.state.may_wait, queues))

    def _on_ready(self, queues: Iterable[str]) -> None:
        """Check queues with ready tasks that other backends left."""
        self.state.unsure.update(queues)
        if self._waiting and not self._is_closing:
            self._must_serve = True
            self._write_soon()

    def _poll(self) -> None:
        """Check all queues that workers wait for: a notification may have been lost."""
        self._had_peers |= self.has_peers
        self._on_ready(self._waiting)


def _is_gone(connection: Any) -> bool:
    return connection is None or connection.is_closed()
