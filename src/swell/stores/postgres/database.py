"""The connections to the database, and the transactions in which a backend writes.

Whoever wants to write hands in an action and waits. Everything that has arrived is run in one
transaction, written by one statement where that is possible, and only after its commit is everybody
told. So the way to the server and its disk costs the same for one caller and for a thousand
(docs/decisions/0025).

One group is prepared at a time. While the server writes it, the next may be prepared and sent on a
connection of its own; what must know how the first ended waits for that: reading, and writing one
of its tasks (docs/decisions/0039).
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from swell.addresses.database_urls import database_place, unreadable_url
from swell.background import PAUSE_S, log_failure
from swell.clock import Clock
from swell.errors import Internal, InvalidRequest, SwellError, Unavailable
from swell.stores.postgres.company import Company
from swell.stores.postgres.migrate import SchemaStatus, migrate, schema_status
from swell.stores.postgres.session import QUERIES, Session, Stale
from swell.stores.postgres.state import State

R = TypeVar("R")
Action = Callable[[Session], Awaitable[Any]]

#: With more than this many actions waiting, a group waits for turns of the loop that bring more; at
#: most for so many.
CROWD: Final = 2
MAX_TURNS: Final = 8

#: So many groups are written at once.
FLIGHTS: Final = 2

#: How often a group is tried again after somebody else was there before; then each of its actions.
TRIES: Final = 8

#: How long the server may take to be reached, in seconds.
CONNECT_S: Final = 5.0

#: How long it may take to answer before it is taken for lost, in seconds: a group of the writer, a
#: reader, and what counts all that is open. Migrations take as long as they do.
WRITE_S: Final = 10.0
READ_S: Final = 20.0
COUNT_S: Final = 60.0

#: A host that has vanished is noticed after about so long, whatever waits for it, in seconds.
SILENCE_S: Final = 10.0
_PROBE_S: Final = 2

#: Counts and clocks are read anew so often where there are other backends, in seconds, and after so
#: many times what it took.
REFRESH_S: Final = 1.0
REFRESH_SHARE: Final = 20.0

#: Queues with ready tasks that other backends have changed are counted again so often, in seconds.
RECOUNT_S: Final = 0.1

#: Of the server, for all connections: compiling a short statement takes longer than running it.
_SETTINGS: Final = {"application_name": "swell", "jit": "off"}

#: Of the connection that notifies. What a crash of the server takes away was lost for whoever was
#: connected anyway, so nobody waits for its disk.
_COMPANY: Final = _SETTINGS | {"synchronous_commit": "off"}

#: Of those that read and write tasks: they go by indexes, however small the tables were when their
#: statements were planned, since a plan is kept until the server has looked at the table again.
_BY_INDEX: Final = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}

#: Of the writer, whose statements are planned once. A row that another session locks for longer
#: fails the action that needs it, and not the whole group with its connection.
_WRITER: Final = _BY_INDEX | {"plan_cache_mode": "force_generic_plan", "lock_timeout": "3s"}

#: The server, or the way to it, is gone.
_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)

#: Somebody else was there at the same time: the same again, with care.
_RACES: Final = (
    Stale,
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class _Write:
    """One action that waits for its commit."""

    __slots__ = ("action", "done", "is_late", "is_served", "queues", "result", "until", "wants")

    def __init__(
        self,
        action: Action,
        done: "asyncio.Future[Any]",
        *,
        wants: Sequence[str] = (),
        is_late: bool = False,
        until: "asyncio.Future[None] | None" = None,
        queues: Sequence[str] = (),
    ) -> None:
        self.action = action
        self.done = done
        self.wants = wants
        self.queues = queues
        self.is_late = is_late
        #: When this is done, an action of `write_when` is not wanted any more.
        self.until = until
        #: Whether an action of `write_when` has found something, which is being written.
        self.is_served = False
        self.result: Any = None

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done() or (self.until is not None and self.until.done())

    def tell(self, result: Any) -> None:
        """Give the caller its result."""
        if not self.done.done():
            self.done.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Raise in the caller."""
        if not self.done.done():
            self.done.set_exception(error)

    def unserve(self) -> None:
        """What was found is not written: wait on, unless that is over."""
        self.is_served = False
        if self.is_given_up:
            self.tell(None)


class _Flight:
    """A group that is prepared, or on its way."""

    __slots__ = ("failed", "group", "served", "session", "written")

    def __init__(self, group: list[_Write], session: Session) -> None:
        self.group = group
        self.session = session
        #: Those that raised, and have changed nothing.
        self.failed: dict[_Write, SwellError] = {}
        #: Those of `write_when` that have found something.
        self.served: list[_Write] = []
        #: Ids of the tasks that it writes.
        self.written: set[str] = set()


class Watched(asyncpg.Connection):  # type: ignore[misc]  # it is not typed
    """A connection that ends by itself when the other host has vanished."""

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        _watch(transport.get_extra_info("socket"))


def _watch(end: Any) -> None:
    """Have the kernel ask the other end, of TCP, now and then whether it is there.

    Source:
        https://man7.org/linux/man-pages/man7/tcp.7.html
    """
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _PROBE_S,
        "TCP_KEEPINTVL": _PROBE_S,
        "TCP_KEEPCNT": int(SILENCE_S / _PROBE_S) - 1,
        "TCP_USER_TIMEOUT": int(SILENCE_S * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Not on every system.
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class PostgresDatabase:
    """One database: a pool of readers and the writer of this process; any number of processes.

    Guarantees:
        `write` returns after the commit that holds its changes. What it read is what it changed:
        nobody else has written in between.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        self.state = State()
        self._url = url
        self._loop = asyncio.get_running_loop()
        #: The writer's connections, one for each group that is written at once.
        self._connections: list[Any] = [None] * FLIGHTS
        #: What is being written, and by which task; by the place of its connection.
        self._flights: dict[int, tuple[_Flight, asyncio.Task[None]]] = {}
        #: Groups that have failed, to be written with care and alone; and whether who waits is
        #: served with them.
        self._again: list[tuple[list[_Write], bool]] = []
        self._pending: list[_Write] = []
        #: Queue → actions of `write_when` that wait for its tasks, in order of arrival.
        self._waiting: dict[str, dict[_Write, None]] = {}
        self._is_waiting_new = False
        self._writing: asyncio.Task[None] | None = None
        self._is_closing = False
        #: Whether the server refused, or was not there for, the last transaction.
        self._was_refused = False
        #: Whether counts and clocks must be read before anything else.
        self._knows_nothing = True
        self._refresh_at_s = 0.0
        self._recount_at_s = 0.0
        #: Whether there were other backends since they were read, or just before.
        self._had_company = False
        self.company = Company(lambda: self._connect(_COMPANY, WRITE_S), self._told, self._poll)

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
        database_place(url, "store.url")
        database = cls(url, clock)
        try:
            first = await database._connect(_SETTINGS, None)
            try:
                await migrate(first, clock)
            finally:
                # Not cut off: while the server has not noticed, it would count as somebody else.
                await first.close(timeout=CONNECT_S)
            for place in range(FLIGHTS):
                await database._writer(place)
            database._readers = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                timeout=CONNECT_S,
                command_timeout=READ_S,
                statement_cache_size=256,
                server_settings=_SETTINGS | _BY_INDEX,
                connection_class=Watched,
                reset=_leave_as_it_is,
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            await database._let_go()
            why = str(error) or type(error).__name__
            raise Unavailable(f"the database cannot be used: {why}") from error
        except ValueError:
            # The library's own words would tell a part of the address.
            await database._let_go()
            raise unreadable_url("store.url") from None
        except BaseException:
            await database._let_go()
            raise
        await database.company.start()
        return database

    async def _connect(self, settings: dict[str, str], limit_s: float | None) -> Any:
        return await asyncpg.connect(
            self._url,
            timeout=CONNECT_S,
            command_timeout=limit_s,
            statement_cache_size=256,
            server_settings=settings,
            connection_class=Watched,
        )

    # ---- reading, and writing without tasks

    async def read(self, query: str, *values: Any) -> list[Any]:
        """Run a query: it sees every finished commit.

        Raises:
            Unavailable: The server is gone, or the way to it.
        """
        async with self.connection() as connection:
            rows: list[Any] = await connection.fetch(QUERIES[query], *values)
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Callable[..., Awaitable[list[Any]]]]:
        """Run named statements in one transaction, apart from the tasks'.

        Raises:
            Unavailable: The server is gone, or the way to it; whether it was written is not known.
        """
        async with self.connection() as connection, connection.transaction():

            async def run(query: str, *values: Any) -> list[Any]:
                rows: list[Any] = await connection.fetch(QUERIES[query], *values)
                return rows

            yield run

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Take a connection from the pool.

        Raises:
            Unavailable: The server is gone, or the way to it; whether it was written is not known.
        """
        try:
            async with self._readers.acquire(timeout=CONNECT_S) as connection:
                yield connection
        except SwellError:
            raise
        except Exception as error:
            raise _translated(error) from error

    async def schema_status(self) -> SchemaStatus:
        """Return which migrations the database has had."""
        async with self._readers.acquire(timeout=CONNECT_S) as connection:
            return await schema_status(connection)

    # ---- writing

    async def write(
        self,
        action: Callable[[Session], Awaitable[R]],
        *,
        wants: Sequence[str] = (),
        is_late: bool = False,
    ) -> R:
        """Run `action` in the next transaction and return its result once that is durable.

        Args:
            action: May be run several times, so it must change nothing but the session; and if it
                raises, it must have changed nothing in that.
            wants: Tasks that it reads, so that those of a whole group are read together.
            is_late: Run after the others of its group, so that it sees what they wrote.

        Raises:
            SwellError: What the action raised, or `Unavailable` where the server is gone. Whether
                it was written is not known then.
        """
        if self._is_closing:
            raise Unavailable("the store is closing; try again when the backend is back")
        done: asyncio.Future[R] = self._loop.create_future()
        self._pending.append(_Write(action, done, wants=wants, is_late=is_late))
        self._write_soon()
        return await done

    async def write_when(
        self,
        action: Callable[[Session], Awaitable[R]],
        until: "asyncio.Future[None]",
        *,
        queues: Sequence[str],
    ) -> R | None:
        """Run `action` when a task is ready in one of its queues, until it returns something true.

        Returns that, once it is durable, or None if `until` is done first. What others write and
        this action does with it is one commit: a task that comes while a worker waits is accepted
        and started at once.

        Args:
            action: As in `write`.
            until: Ends the wait. From then on the action is not run.
            queues: A transaction that ends without a ready task in any of these does not run it.
        """
        if self._is_closing:
            raise Unavailable("the store is closing; try again when the backend is back")
        waiting = _Write(action, self._loop.create_future(), until=until, queues=queues)

        def give_up(_: object) -> None:
            if not waiting.is_served:
                waiting.tell(None)

        for queue in queues:
            self._waiting.setdefault(queue, {})[waiting] = None
        until.add_done_callback(give_up)
        self._is_waiting_new = True
        self._write_soon()
        try:
            result: R | None = await waiting.done
        finally:
            until.remove_done_callback(give_up)
            self._stop_waiting(waiting)
        return result

    def _stop_waiting(self, write: _Write) -> None:
        for queue in write.queues:
            waiting = self._waiting.get(queue, {})
            waiting.pop(write, None)
            if not waiting:
                self._waiting.pop(queue, None)

    def _all_waiting(self) -> set[_Write]:
        return {write for waiting in self._waiting.values() for write in waiting}

    @property
    def is_busy(self) -> bool:
        """Whether writes are under way or wait."""
        return self._writing is not None or bool(self._flights)

    async def check_writable(self) -> None:
        """Write something if the last write was refused.

        Raises:
            Unavailable: It is refused again; the text says why.
        """
        if self._was_refused or _is_gone(self._connections[0]):
            await self.write(_prove_writable)

    async def close(self) -> None:
        """Write what is waiting, then close all connections. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        while self._writing is not None or self._flights:
            if self._writing is not None:
                await self._writing
            await self._land()
        for waiting in self._all_waiting():
            waiting.tell(None)
        await self.company.stop()
        await self._let_go()

    async def _let_go(self) -> None:
        for connection in self._connections:
            if not _is_gone(connection):
                connection.terminate()
        if self._readers is not None:
            self._readers.terminate()

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = self._loop.create_task(self._write_all(), name="swell-postgres-writer")
            self._writing.add_done_callback(self._go_on_writing)

    def _go_on_writing(self, writing: asyncio.Task[None]) -> None:
        """Take up again what a writer that failed has left."""
        log_failure(writing)
        if not writing.cancelled() and writing.exception() is not None:
            self._loop.call_later(PAUSE_S, self._write_soon)

    async def _write_all(self) -> None:
        try:
            while self._again or self._pending or self._is_waiting_new:
                if self._again:
                    await self._land()
                    await self._write_alone(*self._again.pop(0))
                    continue
                await self._gather()
                if len(self._flights) == FLIGHTS:
                    await self._one_lands()
                    # More may have come, and what has landed may have to be written again.
                    continue
                group, self._pending = self._pending, []
                self._is_waiting_new = False
                group.sort(key=_is_late)
                await self._write_group(group)
        finally:
            self._writing = None

    async def _gather(self) -> None:
        """Take what else the sockets hold while a crowd is arriving, before paying for a commit."""
        gathered = CROWD
        for _ in range(MAX_TURNS):
            if len(self._pending) <= gathered:
                return
            gathered = len(self._pending)
            await asyncio.sleep(0)

    async def _write_group(self, group: list[_Write]) -> None:
        """Prepare a group and send it; who waits for it is told when it is written."""
        place = next(place for place in range(FLIGHTS) if place not in self._flights)
        try:
            flight = await self._prepare(group, place, is_careful=False)
        except Exception as error:
            self._refuse(group, error, place)
            return
        flight.session.remember()
        flying = self._loop.create_task(self._fly(flight, place), name="swell-postgres-flight")
        flying.add_done_callback(log_failure)
        self._flights[place] = (flight, flying)

    async def _fly(self, flight: _Flight, place: int) -> None:
        try:
            await self._finish(flight, place)
        except Exception as error:
            self._refuse(flight.group, error, place)
        else:
            self._tell(flight)
        finally:
            del self._flights[place]

    def _refuse(
        self, group: list[_Write], error: Exception, place: int, *, serves: bool = True
    ) -> None:
        """Tell everybody of a group that it was not written, or see to it that it is."""
        if isinstance(error, _RACES):
            self._write_again([(group, serves)])
            return
        refused = _translated(error)
        if isinstance(error, _LOST):
            self._lose_connection(place)
        elif len(group) > 1 or (group and serves and self._waiting):
            # The server refused a row, or the group lost every race: writing one by one tells whose
            # row it was, and then what those get who wait.
            self._write_again([*(([write], False) for write in group), ([], True)])
            return
        for write in group or [each for each in self._all_waiting() if not each.is_served]:
            # Who waits for something to come goes on waiting while the server is away.
            if group or not isinstance(refused, Unavailable):
                write.fail(refused)

    def _write_again(self, groups: list[tuple[list[_Write], bool]]) -> None:
        self._again += groups
        self._write_soon()

    async def _write_alone(self, group: list[_Write], serves: bool) -> None:
        """Write a group with care, while nothing else is being written."""
        for _ in range(TRIES):
            try:
                flight = await self._prepare(group, 0, is_careful=True, serves=serves)
                await self._finish(flight, 0)
            except _RACES:
                continue
            except Exception as error:
                self._refuse(group, error, 0, serves=serves)
            else:
                flight.session.remember()
                self._tell(flight)
            return
        contended = Unavailable("other backends keep changing the same tasks; try again")
        self._refuse(group, contended, 0, serves=serves)

    async def _prepare(
        self, group: list[_Write], place: int, *, is_careful: bool, serves: bool = True
    ) -> _Flight:
        """Run the actions, and wait for what is being written where that matters."""
        connection = await self._writer(place)
        session = Session(
            self.state,
            self.clock,
            connection,
            is_careful=is_careful,
            has_company=self.company.is_there,
            land=self._land,
        )
        flight = _Flight(group, session)
        try:
            await self._run(flight)
            if serves:
                await self._serve_waiting(flight)
            await session.close()
            flight.written = session.written
            if not all(
                flight.written.isdisjoint(each.written) for each, _ in self._flights.values()
            ):
                await self._land()
            # Of what has landed meanwhile, here or where the server was asked for something.
            session.check()
        except BaseException as error:
            await self._undo(flight, place, error)
            raise
        return flight

    async def _finish(self, flight: _Flight, place: int) -> None:
        """Have the server write what was prepared."""
        try:
            await flight.session.write()
        except BaseException as error:
            await self._undo(flight, place, error)
            raise

    async def _undo(self, flight: _Flight, place: int, error: BaseException) -> None:
        flight.session.forget()
        if self.company.is_there:
            # They passed over the rows that were locked.
            self.company.tell(flight.session.taken)
        for write in flight.served:
            write.unserve()
        connection = self._connections[place]
        is_lost = isinstance(error, _LOST) or _is_gone(connection)
        if flight.session.has_begun and not is_lost:
            await connection.execute("ROLLBACK")

    def _tell(self, flight: _Flight) -> None:
        """Tell everybody of a group that it is written."""
        self._was_refused = False
        for write in (*flight.group, *flight.served):
            if write in flight.failed:
                write.fail(flight.failed[write])
            else:
                write.tell(write.result)
            if write.is_served:
                self._stop_waiting(write)
        if flight.session.has_posted:
            self.state.posting.wake()
        if self.company.is_there:
            self.company.tell(flight.session.ready.left())

    async def _land(self) -> None:
        """Wait until nothing is being written."""
        while self._flights:
            await asyncio.wait([flying for _, flying in self._flights.values()])

    async def _one_lands(self) -> None:
        flying = [each for _, each in self._flights.values()]
        await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)

    async def _run(self, flight: _Flight) -> None:
        """Run the actions of a group."""
        session = flight.session
        await session.load({task_id for write in flight.group for task_id in write.wants})
        for write in flight.group:
            try:
                write.result = await write.action(session)
            except SwellError as error:
                flight.failed[write] = error

    async def _serve_waiting(self, flight: _Flight) -> None:
        """Run the actions that wait for a queue, for as long as a task may be ready in it."""
        may_wait = flight.session.may_wait
        for queue in [each for each in self._waiting if may_wait(each)]:
            for write in list(self._waiting.get(queue, ())):
                if not may_wait(queue):
                    break
                # Without those that are being served, and those that were told to stop in this
                # turn and are not awake yet.
                if write.is_given_up or write.is_served:
                    continue
                try:
                    write.result = await write.action(flight.session)
                except SwellError as error:
                    flight.failed[write] = error
                if write.result or write in flight.failed:
                    write.is_served = True
                    flight.served.append(write)

    async def _writer(self, place: int) -> Any:
        """Return one of the writer's connections, with counts and clocks that are fresh enough."""
        connection = self._connections[place]
        if _is_gone(connection):
            if connection is not None:
                self._knows_nothing = True
            connection = await self._connect(_SETTINGS | _WRITER, WRITE_S)
            self._connections[place] = connection
            # The first one: it would take those that follow for somebody else.
            if place == 0 and await connection.fetchval(QUERIES["others"]):
                self.company.suppose()
        self._note_company()
        # Once more, too, after it has gone: it may have left something.
        is_old = self._had_company and self._loop.time() > self._refresh_at_s
        if self._knows_nothing or is_old:
            await self._land()
            if self._knows_nothing:
                # A server that was lost may be back without its last commits.
                self.state.live.clear()
            await self._refresh(connection)
            self._had_company = self.company.is_there
        return connection

    def _note_company(self) -> None:
        self._had_company |= self.company.is_there

    async def _refresh(self, connection: Any) -> None:
        """Read counts and clocks anew."""
        began_s = self._loop.time()
        lines = await connection.fetch(QUERIES["ready_lines"], timeout=COUNT_S)
        shares = await connection.fetch(QUERIES["open_shares"], timeout=COUNT_S)
        self.state.restore(lines, shares)
        self.state.unsure.clear()
        self._knows_nothing = False
        now_s = self._loop.time()
        self._refresh_at_s = now_s + max(REFRESH_S, REFRESH_SHARE * (now_s - began_s))

    def _lose_connection(self, place: int) -> None:
        """Make a new one for the next group: on this one an answer may still be on its way."""
        self._was_refused = True
        self._knows_nothing = True
        if self._connections[place] is not None:
            self._connections[place].terminate()
            self._connections[place] = None

    # ---- other backends

    async def count_unsure(self, session: Session, queues: Sequence[str]) -> None:
        """Count queues again that other backends may have changed: at once if none has tasks."""
        unsure = [queue for queue in queues if queue in self.state.unsure]
        began_s = self._loop.time()
        if not unsure:
            return
        if began_s < self._recount_at_s and any(session.ready.count(each) > 0 for each in queues):
            return
        await session.count_ready(unsure)
        took_s = self._loop.time() - began_s
        self._recount_at_s = began_s + max(RECOUNT_S, REFRESH_SHARE * took_s)

    def _told(self, queues: Iterable[str]) -> None:
        """Look at queues in which other backends left ready tasks."""
        self.state.unsure.update(queues)
        self._look_again()

    def _poll(self) -> None:
        """Look at all queues that workers wait for: a notification may have been lost."""
        self._note_company()
        self._told(self._waiting)

    def _look_again(self) -> None:
        if self._waiting and not self._is_closing:
            self._is_waiting_new = True
            self._write_soon()

    _readers: Any = None


def _is_gone(connection: Any) -> bool:
    return connection is None or connection.is_closed()


async def _leave_as_it_is(connection: Any) -> None:
    """Readers change nothing of their session, so nothing needs one more way to the server."""


async def _prove_writable(session: Session) -> None:
    session.afterwards("prove_writable")


def _is_late(write: _Write) -> bool:
    return write.is_late


def _translated(error: BaseException) -> SwellError:
    """Return what an error of the library means to the caller."""
    if isinstance(error, SwellError):
        return error
    if isinstance(error, _LOST):
        why = str(error) or type(error).__name__
        translated: SwellError = Unavailable(f"the database does not answer ({why}); try again")
    elif isinstance(error, asyncpg.LockNotAvailableError):
        translated = Unavailable("another session holds a lock on the rows to write; try again")
    elif isinstance(error, asyncpg.DataError):
        translated = InvalidRequest(
            "the database cannot keep a value: a text with U+0000 or half of a pair of surrogates, "
            "or too large a number; send it without"
        )
    else:
        translated = Internal(f"the database failed: {error}")
    translated.__cause__ = error
    return translated
