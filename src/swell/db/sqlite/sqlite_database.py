"""The database file, and the one transaction at a time that writes to it.

Tasks that have not ended stay in memory between transactions, since this process is the only one
that writes. A task is then never read on its way through the queue.

Statements run in the thread of the event loop, since they are short and hold Python's lock half of
the time. Only the commit, which waits for the disk, runs in a thread, and only if the disk is
slower than switching threads (docs/decisions/0004 and 0011).
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from swell.core.clock import Clock
from swell.core.errors import Conflict, Internal, SwellError, Unavailable
from swell.core.task import Task, next_wake_at, size_bytes
from swell.db.columns import EPOCH, MICROSECOND
from swell.db.group_commit import CLOSING, GroupWriter, Write
from swell.db.schema_files import load_migrations
from swell.db.sql import Row
from swell.db.sql import Transaction as SqlTransaction
from swell.db.sqlite import wal
from swell.db.sqlite.disk_reserve import Reserve
from swell.db.sqlite.sqlite_rows import (
    CHANGED_ROWS,
    INSERT,
    NEW_ROWS,
    QUERIES,
    STORED_ROWS,
    UPDATE,
    fetch_rows,
    micros,
)
from swell.db.transaction import LineId, Session, State

R = TypeVar("R")

#: Pages of write-ahead log (128 MiB) after which a commit moves them into the database itself, if
#: `WriteAheadLog` has not moved them in time.
CHECKPOINT_PAGES: Final = 32_768

#: Tasks kept in memory between transactions, and the largest input that is kept.
MAX_LIVE_TASKS: Final = 50_000
MAX_LIVE_INPUT_BYTES: Final = 4_096

#: Slow reads that run at once; more wait.
READERS: Final = 4

#: The event loop waits for a disk that syncs within this time, in seconds.
QUICK_SYNC_S: Final = 0.001


class SqliteState(State):
    """What the writer keeps between its transactions: every task that has not ended, if small."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection
        #: Tasks as their rows have them.
        self.live: dict[str, Task] = {}
        [(last,)] = connection.execute("SELECT coalesce(max(seq), 0) FROM tasks")
        self.seqs = itertools.count(last + 1)
        lines = connection.execute(QUERIES["ready_lines"])
        self.restore(lines, connection.execute(QUERIES["open_shares"]))


class SqliteSession(Session):
    """The tasks as one transaction sees them; its coroutines never suspend."""

    state: SqliteState

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        self.flush()
        return fetch_rows(self.state.connection, query, values)

    async def load(self, task_ids: Iterable[str]) -> None:
        missing = []
        for task_id in task_ids:
            if task_id in self.tasks:
                continue
            task = self.state.live.get(task_id)
            if task is None:
                missing.append(task_id)
            else:
                self._before.setdefault(task_id, task)
                self.tasks[task_id] = task
        if missing:
            for found in self._execute("tasks_by_id", {"ids": missing}):
                self._note(STORED_ROWS.task(found))

    async def due(self, limit: int) -> list[Task]:
        self.flush()
        rows = self._execute("due_tasks", {"now": self.now, "limit": limit})
        return [self._note(STORED_ROWS.task(row)) for row in rows]

    async def read_lines(self, wanted: Sequence[LineId], n: int) -> None:
        task_ids: list[str] = []
        for read in self.reads(wanted, n):
            *line, limit = read
            places = self._execute("ready_head", (*line, micros(self.now), limit))
            self.note_read(read, places)
            task_ids += [task_id for _, _, task_id in places]
        await self.load(task_ids)

    def _execute(self, query: str, parameters: Any) -> list[Any]:
        return self.state.connection.execute(QUERIES[query], parameters).fetchall()

    async def lock(self, scope: str, keys: Iterable[str], *, is_shared: bool = False) -> None:
        """Do nothing: there is one writer."""

    async def lock_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """Return those of these tasks that exist; ended ones are read again after this."""
        ids = list(task_ids)
        await self.load(ids)
        found = [self.tasks[each] for each in ids if each in self.tasks]
        for task in found:
            if task.state.is_terminal:
                self.tasks.pop(task.id, None)
                self.state.live.pop(task.id, None)
        return found

    def flush(self) -> None:
        """Send changes to the database, for statements that must see them."""
        tasks = self.tasks
        new = [(tasks[each], next(self.state.seqs)) for each in self._added]
        changed = [(tasks[each], each) for each in self._changed]
        for statement, rows, of in ((INSERT, new, NEW_ROWS.of), (UPDATE, changed, CHANGED_ROWS.of)):
            if rows:
                wakes = [(task, key, next_wake_at(task)) for task, key in rows]
                values = [
                    of(task, key, at and (at - EPOCH) // MICROSECOND) for task, key, at in wakes
                ]
                self.state.connection.executemany(statement, values)
        self._added, self._changed = {}, set()
        for query, parameters in self._take_statements():
            fetch_rows(self.state.connection, query, parameters)

    def remember(self) -> None:
        """After the commit: keep the tasks that have not ended for the next transactions."""
        live = self.state.live
        for task_id, task in self.tasks.items():
            if task.state.is_terminal or size_bytes(task) > MAX_LIVE_INPUT_BYTES:
                live.pop(task_id, None)
            elif task_id in live or len(live) < MAX_LIVE_TASKS:
                live[task_id] = task


class SqliteDatabase(GroupWriter):
    """One SQLite file: many readers, one writer.

    Guarantees:
        `write` returns after the commit that holds its changes was synced to the disk
        (`synchronous=FULL`). Only one process has the file open for writing.
    """

    dialect = "sqlite"

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(clock)
        self.path = path
        #: `total_changes` of the writer when the transaction began.
        self._changes_before = 0
        #: How long commits took lately, in seconds; at first it is taken for slow.
        self._sync_s = 2 * QUICK_SYNC_S
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swell-commit")
        self._readers = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="swell-read")
        self._log = wal.WriteAheadLog(partial(_connect, path))

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
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.end_waits()
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
        rows = self._reader.execute(QUERIES["tasks_by_id"], {"ids": list(task_ids)})
        found = {task.id: task for task in map(STORED_ROWS.task, rows)}
        return [found.get(task_id) for task_id in task_ids]

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return fetch_rows(self._reader, query, values)

    async def scan(self, query: str, **values: Any) -> list[Row]:
        if self._is_closing:
            raise Unavailable(CLOSING)

        def run() -> list[Row]:
            with contextlib.closing(_connect(self.path)) as connection:
                connection.execute("PRAGMA query_only=1")
                return fetch_rows(connection, query, values)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def clock_ahead_s(self) -> None:
        """Return None: the database has no clock."""

    # ---- writing

    async def execute(self, query: str, **values: Any) -> list[Row]:
        return await self.write(lambda session: session.fetch(query, **values))

    async def transaction(
        self,
        action: Callable[[SqlTransaction], Awaitable[R]],
        *,
        frees_space: bool = False,
    ) -> R:
        async def run(session: SqliteSession) -> R:
            session.flush()
            session.state.connection.execute("SAVEPOINT action")
            try:
                return await action(session)
            except SwellError:
                # The other actions of the group are written.
                session.state.connection.execute("ROLLBACK TO action")
                raise

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
        if not (self._reserve.is_there or self._reserve.keep()):
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

    async def _begin(self) -> SqliteSession:
        if (self._log.moving or self._log.grown >= wal.CHANGES) and self._log.must_move():
            await self._in_syncer(self._log.move, self._writer)
        session = SqliteSession(self.state, self.clock.now())
        self._writer.execute("BEGIN IMMEDIATE")
        self._changes_before = self._writer.total_changes
        return session

    async def _finish(self, session: SqliteSession, served: list[Write]) -> None:
        """Write and commit, here or in the thread that syncs."""
        session.flush()
        if served:
            # Their callers go on before the commit.
            for write in served:
                write.end()
            await asyncio.sleep(0)
        changes = self._writer.total_changes - self._changes_before
        try:
            if not changes:
                # A lease that found nothing: there is no disk to wait for.
                self._writer.execute("COMMIT")
            elif self._sync_s < QUICK_SYNC_S and self._log.moving is None:
                # Waking a thread and being woken by it costs more than such a disk takes.
                self._commit()
            else:
                await self._in_syncer(self._commit)
        except Exception:
            # The tasks that waiting workers got are ready again, for others that wait.
            self._must_serve = True
            raise
        session.remember()
        if changes:
            self._was_refused = False
            self._log.grown += wal.COMMIT + changes

    def _commit(self) -> None:
        """Commit, and measure how long the disk takes."""
        started_s = self.clock.monotonic_s()
        self._writer.execute("COMMIT")
        if self._log.moving is None:
            took_s = self.clock.monotonic_s() - started_s
            # A slow commit counts at once, and is forgotten over the next fifty.
            self._sync_s = max(took_s, self._sync_s + 0.02 * (took_s - self._sync_s))

    async def _in_syncer(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._syncer, work, *arguments)

    async def _roll_back(self, session: SqliteSession, error: BaseException) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _is_away(self, error: Exception) -> bool:
        is_away = type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)
        self._was_refused = self._was_refused or is_away
        return is_away

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            why = f"the database refused to write ({error}); try again"
            translated: SwellError = Unavailable(why)
        elif isinstance(error, sqlite3.Error):
            translated = Internal(f"the database failed: {error}")
        else:
            return error
        translated.__cause__ = error
        return translated

    _lock: int
    _reserve: Reserve
    _writer: sqlite3.Connection
    _reader: sqlite3.Connection
    #: What the writer keeps in memory.
    state: SqliteState


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
