"""The database file, and the one transaction at a time that writes to it.

Statements run in the thread of the event loop, since they are short and hold Python's lock half of
the time. Only the commit, which waits for the disk, runs in a thread, and only if the disk is
slower than switching threads (docs/decisions/0004 and 0011).

If an action raises, the transaction is rolled back, its caller gets the error, and the others run
again without it.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from swell.clock import Clock
from swell.db.sql import Row
from swell.db.sql import Transaction as SqlTransaction
from swell.errors import Conflict, Internal, SwellError, Unavailable
from swell.stores.migrations import load_migrations
from swell.stores.sqlite.reserve import Reserve
from swell.stores.sqlite.session import (
    QUERIES,
    SqliteSession,
    SqliteState,
    fetch_rows,
    run_to_end,
    stored_task,
)
from swell.stores.sqlite.wal import WriteAheadLog
from swell.stores.writer import CROWD, MAX_TURNS, GroupWriter, Write
from swell.task import Task

R = TypeVar("R")

#: Pages of write-ahead log (128 MiB) after which a commit moves them into the database itself, if
#: `WriteAheadLog` has not moved them in time.
CHECKPOINT_PAGES: Final = 32_768

#: Slow reads that run at once; more wait.
READERS: Final = 4

#: The event loop waits for a disk that syncs within this time, in seconds.
QUICK_SYNC_S: Final = 0.001


class SqliteDatabase(GroupWriter):
    """One SQLite file: many readers, one writer.

    Guarantees:
        `write` returns after the commit that holds its changes was synced to the disk
        (`synchronous=FULL`). Only one process has the file open for writing.
    """

    dialect = "sqlite"
    has_peers = False

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(clock)
        self.path = path
        self._is_committing = False
        self._committed_changes = -1
        #: How long commits took lately, in seconds; at first it is taken for slow.
        self._sync_s = 2 * QUICK_SYNC_S
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

        Only the user may read the files that it creates, since they hold inputs and secrets.

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
        database.state = SqliteState(database._writer)
        database._reserve.keep()
        return database

    async def close(self) -> None:
        """Finish all writes and slow reads, then close the file. Idempotent."""
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

    # ---- reading

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """Return tasks, None for unknown ids."""
        if len(task_ids) == 1:
            rows = self._reader.execute(QUERIES["task_by_id"], {"id": task_ids[0]})
        else:
            rows = self._reader.execute(QUERIES["tasks_by_id"], {"ids": list(task_ids)})
        found = {task.id: task for task, *_ in map(stored_task, rows)}
        return [found.get(task_id) for task_id in task_ids]

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return fetch_rows(self._reader, query, values)

    async def scan(self, query: str, **values: Any) -> list[Row]:
        return await self.read_in_thread(lambda connection: fetch_rows(connection, query, values))

    async def read_in_thread(self, read: Callable[[sqlite3.Connection], R]) -> R:
        """Run `read` in a thread, with a read-only connection that nothing else uses."""
        self._check_open()

        def run() -> R:
            with contextlib.closing(_connect(self.path)) as connection:
                connection.execute("PRAGMA query_only=1")
                return read(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def clock_ahead_s(self) -> None:
        """Return None: the database has no clock."""

    # ---- writing

    async def execute(self, query: str, **values: Any) -> list[Row]:
        return await self.transaction(lambda tx: tx.fetch(query, **values))

    async def transaction(
        self,
        action: Callable[[SqlTransaction], Awaitable[R]],
        *,
        frees_space: bool = False,
    ) -> R:
        def run(session: SqliteSession) -> Awaitable[R]:
            return action(_Transaction(session))

        if not frees_space:
            return await self.write(run)
        try:
            return await self.write(run)
        except Unavailable:
            if not self._reserve.give_up():
                raise
            return await self.write(run)
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
            await self.execute("prove_writable")

    @property
    def is_busy(self) -> bool:
        """Whether writes are under way or wait."""
        return self._is_committing

    def may_have_ready(self, queues: Sequence[str]) -> bool:
        """Whether a task is ready in one of these queues, or may be once writes have ended."""
        return self._is_committing or any(queue in self.state.ready for queue in queues)

    _may_serve = may_have_ready

    def _write_soon(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._is_committing:
            self._is_committing = True
            # All other actions of this turn of the loop share the first commit.
            self._loop.call_soon(self._commit_next)

    def _commit_next(self) -> None:
        """Run all waiting actions in one transaction, and start its commit."""
        if self._gathered < len(self._pending) and self._turns < MAX_TURNS:
            # A crowd is arriving: read more requests from the sockets before paying for a commit.
            self._gathered = max(CROWD, len(self._pending))
            self._turns += 1
            self._loop.call_soon(self._commit_next)
            return
        self._gathered, self._turns = CROWD, 0
        if not self._pending and not self._must_serve:
            self._is_committing = False
            return
        group = self._take_group()
        session = self._run(group)
        if session is None:
            self._loop.call_soon(self._commit_next)
            return
        early = [write for write in group if write.until is not None]
        if not early:
            self._make_durable(group, session)
            return
        for write in early:
            write.resolve(write.result)
        # They run before this does.
        self._loop.call_soon(self._make_durable, group, session)

    def _make_durable(self, group: list[Write], session: SqliteSession) -> None:
        """Commit, here or in the thread that syncs, and resolve the group."""
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
        """Commit, and measure how long the disk takes."""
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

    def _finish(self, group: list[Write], session: SqliteSession, error: Exception | None) -> None:
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
            # The tasks that they got are ready again, for others that wait.
            self._must_serve = True
        self._loop.call_soon(self._commit_next)

    def _resolve(self, group: list[Write], session: SqliteSession) -> None:
        session.remember()
        for write in group:
            write.resolve(write.result)

    def _run(self, group: list[Write]) -> SqliteSession | None:
        """Run a group in one transaction, and add the waiting actions that found something to do.

        An action that raises is removed from the group, and its caller gets the error at once.
        """
        is_searching = False
        while group or self._waiting:
            session = SqliteSession(self.state, self.clock)
            doing: Write | None = None
            served: dict[Write, None] = {}
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for doing in group:
                    doing.result = _run_action(doing, session)
                    if is_searching:
                        session.flush()
                for doing in self._woken(session, served):
                    doing.result = _run_action(doing, session)
                    if doing.result:
                        served[doing] = None
                    if is_searching:
                        session.flush()
                doing = None
                session.flush()
            except Exception as error:
                self._roll_back()
                if not is_searching and not isinstance(error, SwellError):
                    # The database refused a row, perhaps when a later action flushed it. Flushing
                    # after each action shows which row it was.
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

    def _woken(self, session: SqliteSession, served: Container[Write]) -> Iterator[Write]:
        """Yield the actions that wait for a queue, for as long as a task is ready in it."""
        for queue in [each for each in self._waiting if session.ready.count(each) > 0]:
            for write in self._waiting[queue]:
                if session.ready.count(queue) <= 0:
                    break
                # A wait that ended in this turn of the loop is not awake yet.
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
    #: What the writer keeps in memory; its counts are those after the last finished commit.
    state: SqliteState


class _Transaction:
    """Statements of `swell.db` in the transaction of a group."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session
        session.flush()  # changed tasks must be in the file before SQL reads them

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return await self._session.fetch(query, **values)

    async def lock(self, scope: str, keys: Iterable[str], *, is_shared: bool = False) -> None:
        """Do nothing: there is one writer."""

    async def tasks(self, task_ids: Iterable[str]) -> list[Task]:
        ids = list(task_ids)
        await self._session.load(ids)
        found = [task for task in map(self._session.get, ids) if task is not None]
        self._session.forget(task for task in found if task.state.is_terminal)
        return found


def _run_action(write: Write, session: SqliteSession) -> Any:
    if write.wants:
        run_to_end(session.load(write.wants))
    return run_to_end(write.action(session))


def _fail(group: list[Write], error: BaseException) -> None:
    for write in group:
        write.fail(_translated(error))


def _is_refusal(error: BaseException) -> bool:
    """Whether the database cannot write at all."""
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
    """Make an empty file that only this user can read, unless there is one.

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
