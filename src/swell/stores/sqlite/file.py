"""The database file, and the one transaction at a time that writes to it.

Whoever wants to write hands in an action and waits. Everything that arrived while the last commit
was in flight is run in one transaction, made durable with one fsync, and only then is everybody
told. So a commit costs the same for one caller and for a thousand, and nobody waits for stragglers:
there is no linger.

The statements run in the event loop's own thread, since they are short and hold Python's lock half
of the time; only the commit, which waits for the disk, goes to a thread, and not even that where
the disk is quicker than the thread (docs/decisions/0004 and 0011).

If an action raises, the transaction is rolled back, its caller is told, and the others are run
again without it.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from swell.clock import Clock
from swell.errors import Conflict, Internal, SwellError, Unavailable
from swell.stores.queries import load_migrations, load_queries
from swell.stores.sqlite.reserve import Reserve
from swell.stores.sqlite.session import Session, SessionState
from swell.stores.sqlite.wal import WriteAheadLog

R = TypeVar("R")
Action = Callable[[Session], Any]

#: Pages of write-ahead log after which a commit moves them into the database itself, should the log
#: not have been moved beside it in time (`WriteAheadLog`): 128 MiB.
CHECKPOINT_PAGES = 32_768

#: With more than this many actions waiting, a commit waits for turns of the loop that bring more;
#: at most for so many.
CROWD = 2
MAX_TURNS = 8

#: Slow reads that run at once; more wait.
READERS = 4

#: A disk that syncs within this is waited for in the event loop, in seconds.
QUICK_SYNC_S = 0.001

QUERIES = load_queries("sqlite")


class _Write:
    """One action that waits for its commit."""

    __slots__ = ("action", "done", "is_late", "queues", "result", "until")

    def __init__(
        self,
        action: Action,
        is_late: bool,
        done: "asyncio.Future[Any]",
        until: "asyncio.Future[None] | None" = None,
        queues: Sequence[str] = (),
    ) -> None:
        self.action = action
        self.is_late = is_late
        self.done = done
        self.queues = queues
        #: When this is done, an action of `write_when` is not wanted any more.
        self.until = until
        self.result: Any = None

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done() or (self.until is not None and self.until.done())


class SqliteDatabase:
    """One SQLite file: many readers, one writer.

    Guarantees:
        `write` returns after the commit that holds its changes was synced to the disk
        (`synchronous=FULL`). Only one process has the file open for writing.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self._pending: list[_Write] = []
        #: Queue → actions of `write_when` that wait for its tasks, in order of arrival.
        self._waiting: dict[str, dict[_Write, None]] = {}
        self._is_waiting_new = False
        self._is_committing = False
        self._committed_changes = -1
        #: How long commits took lately, in seconds; unknown is as good as slow.
        self._sync_s = 2 * QUICK_SYNC_S
        self._is_closing = False
        #: Whether the disk refused the last transaction that wrote something.
        self._was_refused = False
        #: How many actions the last turn of the loop had gathered, and how many turns it took.
        self._gathered, self._turns = CROWD, 0
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swell-commit")
        self._readers = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="swell-read")
        self._log = WriteAheadLog(partial(_connect, path))

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Self:
        """Open the file, create or migrate it, and start the writer.

        What it creates is for its user alone, since inputs and secrets lie in it.

        Raises:
            Conflict: Another process has it open, or a newer Swell has written it.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = cls(path, clock)
        database._lock = _lock(path)
        database._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        _make_private(path)
        database._writer = _connect(path)
        try:
            _migrate(database._writer)
            database._writer.execute(QUERIES["check_words_mark"])
        except SwellError:
            database._writer.close()
            os.close(database._lock)
            raise
        database._reader = _connect(path)
        database._reader.execute("PRAGMA query_only=1")
        database._state = SessionState(database._writer, QUERIES)
        database._reserve.keep()
        return database

    async def write(self, action: Callable[[Session], R], *, is_late: bool = False) -> R:
        """Run `action` in the next transaction and return its result once that is durable.

        Args:
            action: Runs in the event loop's thread; may be run twice, so it must change nothing
                but the session.
            is_late: Run after the others of its group, so that it sees what they wrote.

        Raises:
            SwellError: Whatever the action raised, or `Unavailable` where the disk refused.
        """
        self._check_open()
        self._loop = asyncio.get_running_loop()
        done: asyncio.Future[R] = self._loop.create_future()
        self._pending.append(_Write(action, is_late, done))
        self._commit_soon()
        return await done

    def _check_open(self) -> None:
        if self._is_closing:
            raise Unavailable("the store is closing; try again when the backend is back")

    def _commit_soon(self) -> None:
        if not self._is_committing:
            self._is_committing = True
            # Whatever else this turn of the loop brings shares the first commit.
            self._loop.call_soon(self._commit_next)

    async def write_when(
        self,
        action: Callable[[Session], R],
        until: "asyncio.Future[None]",
        *,
        queues: Sequence[str],
    ) -> R | None:
        """Run `action` when a task is ready in one of its queues, until it returns something true.

        Returns that, or None if `until` is done first. What others write and this action does with
        it is one commit: a task that comes while a worker waits is accepted and started at once.

        It returns when the statements have run, while the commit is still on its way, so that the
        worker's work and the disk's overlap (docs/decisions/0013). Should the commit fail, what the
        caller has was never written: nobody else was told of it, and the store knows no such lease.

        Args:
            action: As in `write`.
            until: Ends the wait. From then on the action is not run.
            queues: A transaction that ends without a ready task in any of these does not run it.
        """
        self._check_open()
        self._loop = asyncio.get_running_loop()
        waiting = _Write(action, True, self._loop.create_future(), until, queues)

        def give_up(_: object) -> None:
            if not waiting.done.done():
                waiting.done.set_result(None)

        for queue in queues:
            self._waiting.setdefault(queue, {})[waiting] = None
        until.add_done_callback(give_up)
        if self._is_committing or any(map(self.ready_count, queues)):
            self._is_waiting_new = True
            self._commit_soon()
        try:
            result: R | None = await waiting.done
        finally:
            until.remove_done_callback(give_up)
            self._stop_waiting([waiting])
        return result

    def _stop_waiting(self, writes: Iterable[_Write]) -> None:
        for write in writes:
            for queue in write.queues:
                waiting = self._waiting.get(queue, {})
                waiting.pop(write, None)
                if not waiting:
                    self._waiting.pop(queue, None)

    async def write_to_free(self, action: Callable[[Session], R]) -> R:
        """Run an action that frees space. If the disk is full, delete the reserve and try again."""
        try:
            return await self.write(action)
        except Unavailable:
            if not self._reserve.give_up():
                raise
            return await self.write(action)
        finally:
            # The next erasure needs the room, and so does a start.
            self._reserve.keep(spare_bytes=0)

    def check_room(self) -> None:
        """Raise while the reserve is gone: the disk has room for a start and for erasing only.

        Raises:
            Unavailable: With what to do.
        """
        if not self._reserve.keep():
            raise Unavailable(
                "the database refused to write (database or disk is full); make room on the disk "
                f"of {self.path.parent}, such as by erasing tasks, and try again"
            )

    async def check_writable(self) -> None:
        """Write something if the last write was refused.

        Raises:
            Unavailable: It is refused again, or there is no room; the text says why.
        """
        self.check_room()
        if self._was_refused:
            await self.write(lambda session: session.run("prove_writable"))

    def read(self, query: str, parameters: Any = ()) -> list[Any]:
        """Run a short query at once, in the caller's thread: it sees every finished commit."""
        return self._reader.execute(QUERIES[query], parameters).fetchall()

    @property
    def reader(self) -> sqlite3.Connection:
        """A read-only connection that sees every finished commit."""
        return self._reader

    @property
    def is_busy(self) -> bool:
        """Whether writes are under way or wait."""
        return self._is_committing

    @property
    def state(self) -> SessionState:
        """What the writer keeps in memory; its counts are those after the last finished commit."""
        return self._state

    def ready_count(self, queue: str) -> int:
        """Return how many tasks of a queue are ready, after the last finished commit."""
        return self._state.ready.get(queue, 0)

    async def read_slowly(self, *reads: tuple[str, Any]) -> list[list[Any]]:
        """Run queries that may take long in a thread with a connection of their own."""
        return await self.read_in_thread(
            lambda connection: [
                connection.execute(QUERIES[name], args).fetchall() for name, args in reads
            ]
        )

    async def read_in_thread(self, read: Callable[[sqlite3.Connection], R]) -> R:
        """Run `read` in a thread, with a connection of its own."""
        self._check_open()

        def run() -> R:
            with contextlib.closing(_connect(self.path)) as connection:
                connection.execute("PRAGMA query_only=1")
                return read(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def close(self) -> None:
        """Commit what is waiting, wait for slow reads, then close the file. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        while self._is_committing:
            await asyncio.wrap_future(self._syncer.submit(lambda: None))
            await asyncio.sleep(0)
        self._syncer.shutdown()
        self._readers.shutdown(cancel_futures=True)
        self._log.close()
        self._reader.close()
        self._writer.close()
        self._reserve.keep(spare_bytes=0)
        os.close(self._lock)

    def _commit_next(self) -> None:
        """Run what is waiting in one transaction, and go on to its commit."""
        if self._gathered < len(self._pending) and self._turns < MAX_TURNS:
            # A crowd is arriving: take what else the sockets hold before paying for a commit.
            self._gathered = max(CROWD, len(self._pending))
            self._turns += 1
            self._loop.call_soon(self._commit_next)
            return
        self._gathered, self._turns = CROWD, 0
        group, self._pending = self._pending, []
        if not group and not self._is_waiting_new:
            self._is_committing = False
            return
        self._is_waiting_new = False
        group.sort(key=_is_late)
        session = self._run(group)
        if session is None:
            self._loop.call_soon(self._commit_next)
            return
        early = [write for write in group if write.until is not None]
        if not early:
            self._make_durable(group, session)
            return
        for write in early:
            if not write.done.done():
                write.done.set_result(write.result)
        # They run before this does.
        self._loop.call_soon(self._make_durable, group, session)

    def _make_durable(self, group: list[_Write], session: Session) -> None:
        """Commit, here or in the thread that syncs, and tell everybody."""
        if self._writer.total_changes == self._committed_changes:
            # Nothing was written (a lease that found nothing): no disk to wait for.
            self._writer.execute("COMMIT")
            self._resolve(group, session)
            self._loop.call_soon(self._commit_next)
            return
        is_usual = not self._log.is_moving
        if self._sync_s < QUICK_SYNC_S and is_usual:
            # Waking a thread and being woken by it costs more than such a disk takes.
            self._finish(group, session, self._commit(is_usual))
            return
        committed = self._syncer.submit(self._commit, is_usual)
        committed.add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(
                self._finish, group, session, future.result()
            )
        )

    def _commit(self, is_usual: bool) -> Exception | None:
        """Commit, in whichever thread, and learn how long the disk usually takes."""
        started_s = self.clock.monotonic_s()
        try:
            self._writer.execute("COMMIT")
        except Exception as error:
            return error
        if not is_usual:
            return None
        took_s = self.clock.monotonic_s() - started_s
        # A slow commit counts at once, and is forgotten over the next fifty.
        self._sync_s = max(took_s, self._sync_s + 0.02 * (took_s - self._sync_s))
        return None

    def _finish(self, group: list[_Write], session: Session, error: Exception | None) -> None:
        if error is None:
            self._committed_changes = self._writer.total_changes
            self._was_refused = False
            self._resolve(group, session)
            if self._log.written(self._committed_changes):
                moved = self._syncer.submit(self._log.move, self._writer)
                moved.add_done_callback(
                    lambda _: self._loop.call_soon_threadsafe(self._commit_next)
                )
                return
        else:
            self._was_refused = True
            self._roll_back()
            _fail(group, error)
            # What they were given is ready again, for others that wait.
            self._is_waiting_new = True
        self._loop.call_soon(self._commit_next)

    def _resolve(self, group: list[_Write], session: Session) -> None:
        session.remember()
        for write in group:
            if not write.done.done():
                write.done.set_result(write.result)

    def _run(self, group: list[_Write]) -> Session | None:
        """Run a group in one transaction; without those that raise, who are told at once.

        Adds to the group those of the waiting actions that found something to do.
        """
        is_searching = False
        while group or self._waiting:
            session = Session(self._state, self.clock)
            doing: _Write | None = None
            served: dict[_Write, None] = {}
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for doing in group:
                    doing.result = doing.action(session)
                    if is_searching:
                        session.flush()
                for doing in self._woken(session, served):
                    doing.result = doing.action(session)
                    if doing.result:
                        served[doing] = None
                    if is_searching:
                        session.flush()
                doing = None
                session.flush()
            except Exception as error:
                self._roll_back()
                if not is_searching and not isinstance(error, SwellError):
                    # The database refused somebody's row, perhaps when another action read what was
                    # written before it; writing after each action tells whose it was.
                    is_searching = True
                    continue
                self._was_refused = self._was_refused or _is_refusal(error)
                blamed = [*group, *served] if doing is None else [doing]
                _fail(blamed, error)
                group[:] = [write for write in group if write not in blamed]
                self._stop_waiting(blamed)
            else:
                self._stop_waiting(served)
                group += served
                return session
        return None

    def _woken(self, session: Session, served: Container[_Write]) -> Iterator[_Write]:
        """Yield the actions that wait for a queue, for as long as a task is ready in it."""
        for queue in [each for each in self._waiting if session.ready.count(each) > 0]:
            for write in self._waiting[queue]:
                if session.ready.count(queue) <= 0:
                    break
                # Those that were told to stop in this turn are not awake yet.
                if write not in served and not write.is_given_up:
                    yield write

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    _loop: asyncio.AbstractEventLoop
    _lock: int
    _reserve: Reserve
    _writer: sqlite3.Connection
    _reader: sqlite3.Connection
    _state: SessionState


def _is_late(write: _Write) -> bool:
    return write.is_late


def _fail(group: list[_Write], error: BaseException) -> None:
    for write in group:
        if not write.done.done():
            write.done.set_exception(_translated(error))


def _is_refusal(error: BaseException) -> bool:
    """Whether the database could not write at all, rather than not this."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.OperationalError):
        translated: SwellError = Unavailable(f"the database refused to write ({error}); try again")
    elif isinstance(error, sqlite3.Error):
        translated = Internal(f"the database failed: {error}")
    else:
        return error
    translated.__cause__ = error
    return translated


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size=-65536")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def library_version() -> str:
    """Return the version of the SQLite library."""
    return sqlite3.sqlite_version


def _lock(path: Path) -> int:
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(
            f"another process is using {path}; stop it, or give this one another data directory"
        ) from error
    return descriptor


def _make_private(path: Path) -> None:
    """Make an empty file that nobody else can read; one that is there is left as it is.

    SQLite gives the write-ahead log the same permissions.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _migrate(connection: sqlite3.Connection) -> None:
    (done,) = connection.execute("PRAGMA user_version").fetchone()
    migrations = load_migrations("sqlite")
    newest = migrations[-1][0]
    if done > newest:
        raise Conflict(
            f"the data was written by a newer Swell (schema {done}, this one knows "
            f"{newest}); install that version, or use another data directory"
        )
    for number, name, script in migrations:
        if number <= done:
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            raise Internal(f"migration {number} ({name}) failed: {error}") from error
