"""Moving the write-ahead log into the database, beside whoever writes.

SQLite would do so within every thousandth commit or so, which then takes a hundred times as long as
the others: everybody waits. Here a thread with a connection of its own moves what is committed
while commits go on. What came meanwhile is moved when nobody writes, which takes as long as a few
commits; then the log begins anew, and does not grow.

How long the log is counts for everybody: whoever looks for a page looks for it in the log first,
4,096 pages at a time, and a log of 100 MiB makes one client wait a third longer.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import structlog

_log = structlog.get_logger("swell.sqlite")

#: The log is moved after so many changes of rows: about 1,600 pages of small tasks, or 6 MiB.
CHANGES: Final = 10_000

#: A commit that changes one row writes as many pages, three, as this many rows of a large one.
COMMIT: Final = 20

#: How often it is moved while commits go on. Each time there is less left.
PASSES: Final = 2

_MOVE: Final = "PRAGMA wal_checkpoint(PASSIVE)"


class WriteAheadLog:
    """Moves the log of one file, whenever so much has been written.

    Args:
        connect: Opens the file once more.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swell-log")
        self._moving: Future[None] | None = None
        #: How many rows the writer had changed at the last commit.
        self._changes = 0
        #: What the log has grown by since it was moved last, in rows of large commits.
        self._grown = 0
        self._has_failed = False

    @property
    def is_moving(self) -> bool:
        """Whether it is being moved, so that the disk has more to do than to sync."""
        return self._moving is not None

    def written(self, changes: int) -> bool:
        """Note a commit; return whether the log is to be moved to its end (`move`) before another.

        Args:
            changes: How many rows the writer has changed in all.
        """
        self._grown += COMMIT + changes - self._changes
        self._changes = changes
        if self._moving is not None:
            if not self._moving.done():
                return False
            self._moving = None
            return True
        if self._grown >= CHANGES:
            self._grown = 0
            self._moving = self._thread.submit(self._move_beside)
        return False

    def close(self) -> None:
        """Wait until nothing is moved any more."""
        self._thread.shutdown()

    def move(self, connection: sqlite3.Connection) -> None:
        """Move what is committed, as far as no reader needs what it would replace.

        A failure fails no commit: the log grows, and is moved after the next changes. The first
        failure of a series is logged.
        """
        try:
            connection.execute(_MOVE).fetchone()
        except Exception as error:
            self._failed(error)

    def _move_beside(self) -> None:
        try:
            with contextlib.closing(self._connect()) as connection:
                for _ in range(PASSES):
                    connection.execute(_MOVE).fetchone()
            self._has_failed = False
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._has_failed:
            _log.warning("sqlite: write-ahead log not moved, retrying", error=str(error))
        self._has_failed = True
