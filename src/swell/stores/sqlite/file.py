"""The database file, and the one thread that writes to it.

Whoever wants to write hands in an action and waits. The thread takes everything that arrived while
the last commit was in flight, runs it in one transaction, makes it durable with one fsync, and only
then tells everybody. So a commit costs the same for one caller and for a thousand, and nobody waits
for stragglers: there is no linger.

If one action of a group fails, the transaction is rolled back and the group is run again one by
one, so that only the one that fails is told so.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from swell.clock import Clock
from swell.errors import Conflict, Internal, SwellError, Unavailable
from swell.stores.queries import load_migrations, load_queries
from swell.stores.sqlite.session import Session, SessionState

__all__ = ["SqliteDatabase"]

R = TypeVar("R")
Action = Callable[[Session], Any]

#: Pages of write-ahead log after which the writer moves them into the database: 32 MiB.
CHECKPOINT_PAGES = 8_192

QUERIES = load_queries("sqlite")


class _Write:
    """One action that waits for its commit."""

    __slots__ = ("action", "done", "is_late", "loop", "result")

    def __init__(
        self,
        action: Action,
        is_late: bool,
        loop: asyncio.AbstractEventLoop,
        done: "asyncio.Future[Any]",
    ) -> None:
        self.action = action
        self.is_late = is_late
        self.loop = loop
        self.done = done
        self.result: Any = None


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
        self._arrival = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="swell-writer", daemon=True)

    @classmethod
    def open(cls, path: Path, clock: Clock) -> "SqliteDatabase":
        """Open the file, create or migrate it, and start the writer.

        Raises:
            Conflict: Another process has it open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        database = cls(path, clock)
        database._lock = _lock(path)
        database._writer = _connect(path)
        _migrate(database._writer)
        database._reader = _connect(path)
        database._reader.execute("PRAGMA query_only=1")
        database._state = SessionState(database._writer, QUERIES)
        database._thread.start()
        return database

    async def write(self, action: Callable[[Session], R], *, is_late: bool = False) -> R:
        """Run `action` in the next transaction and return its result once that is durable.

        Args:
            action: Runs in the writer's thread; may be run twice, so it must change nothing but
                the session.
            is_late: Run after the others of its group, so that it sees what they wrote.

        Raises:
            SwellError: Whatever the action raised, or `Unavailable` where the disk refused.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[R] = loop.create_future()
        with self._arrival:
            if self._is_closing:
                raise Unavailable("the store is closing; try again when the backend is back")
            self._pending.append(_Write(action, is_late, loop, done))
            self._arrival.notify()
        return await done

    def read(self, query: str, parameters: Any = ()) -> list[Any]:
        """Run a short query at once, in the caller's thread: it sees every finished commit."""
        return self._reader.execute(QUERIES[query], parameters).fetchall()

    async def read_slowly(self, *reads: tuple[str, Any]) -> list[list[Any]]:
        """Run queries that may take long in a thread with a connection of their own."""

        def run() -> list[list[Any]]:
            with contextlib.closing(_connect(self.path)) as connection:
                connection.execute("PRAGMA query_only=1")
                return [connection.execute(QUERIES[name], args).fetchall() for name, args in reads]

        return await asyncio.to_thread(run)

    async def close(self) -> None:
        """Commit what is waiting, then close the file. Idempotent."""
        with self._arrival:
            was_closing, self._is_closing = self._is_closing, True
            self._arrival.notify()
        if was_closing:
            return
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    def _run(self) -> None:
        while group := self._take():
            group.sort(key=lambda write: write.is_late)
            try:
                self._commit(group)
            except Exception as error:
                self._settle_one_by_one(group, error)
            _tell(group)

    def _take(self) -> list[_Write]:
        with self._arrival:
            while not self._pending and not self._is_closing:
                self._arrival.wait()
            group, self._pending = self._pending, []
        return group

    def _commit(self, group: list[_Write]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        session = Session(self._state, self.clock)
        try:
            for write in group:
                write.result = write.action(session)
            session.flush()
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        session.remember()

    def _settle_one_by_one(self, group: list[_Write], error: Exception) -> None:
        if len(group) == 1:
            group[0].result = _Raised(_translated(error))
            return
        for write in group:
            try:
                self._commit([write])
            except Exception as own_error:
                write.result = _Raised(_translated(own_error))

    _lock: int
    _writer: sqlite3.Connection
    _reader: sqlite3.Connection
    _state: SessionState


class _Raised:
    """Stands for a result where the action raised."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def _tell(group: list[_Write]) -> None:
    # One wake-up of the event loop for the whole group.
    by_loop: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
    for write in group:
        by_loop.setdefault(write.loop, []).append(write)
    for loop, writes in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed; nobody waits any more
            loop.call_soon_threadsafe(_resolve, writes)


def _resolve(writes: list[_Write]) -> None:
    for write in writes:
        if write.done.done():
            continue
        if isinstance(write.result, _Raised):
            write.done.set_exception(write.result.error)
        else:
            write.done.set_result(write.result)


def _translated(error: Exception) -> Exception:
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


def _migrate(connection: sqlite3.Connection) -> None:
    (done,) = connection.execute("PRAGMA user_version").fetchone()
    for number, name, script in load_migrations("sqlite"):
        if number <= done:
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            raise Internal(f"migration {number} ({name}) failed: {error}") from error
