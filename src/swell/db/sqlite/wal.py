"""Checkpoints of the write-ahead log in a thread, while the writer commits.

SQLite would checkpoint in about every thousandth commit, which then takes a hundred times as long.
Here a thread with another connection copies committed pages into the database. A last checkpoint
between two commits copies the rest, which takes as long as a few commits, and resets the log.

A long log slows down every read, which searches the log first, 4,096 pages at a time: with a log
of 100 MiB, a single client waits a third longer.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import structlog

_log = structlog.get_logger("swell.sqlite")

#: Changed rows between checkpoints: about 1,600 pages of small tasks, or 6 MiB.
CHANGES: Final = 10_000

#: A commit that changes one row writes as many pages, three, as this many rows of a large one.
COMMIT: Final = 20

#: Checkpoints in the thread. Each leaves less for the next.
PASSES: Final = 2

_MOVE: Final = "PRAGMA wal_checkpoint(PASSIVE)"


class WriteAheadLog:
    """Checkpoints the log of one file after every `CHANGES` rows.

    Args:
        connect: Opens the file once more.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swell-log")
        #: The checkpoint that is running, which slows down commits.
        self.moving: Future[None] | None = None
        #: Growth of the log since the last checkpoint: each commit adds its rows and `COMMIT`.
        self.grown = 0
        self._has_failed = False

    def must_move(self) -> bool:
        """Checkpoint a log that has grown; return whether `move` must run before the next commit.

        Call it after commits, while `moving` is set and when `CHANGES` rows were written.
        """
        if self.moving is None:
            self.grown = 0
            self.moving = self._thread.submit(self._move_beside)
            return False
        if not self.moving.done():
            return False
        self.moving = None
        return True

    def close(self) -> None:
        """Wait for a running checkpoint."""
        self._thread.shutdown()

    def move(self, connection: sqlite3.Connection) -> None:
        """Copy committed pages, except those that a reader still needs.

        A failure does not fail a commit: the log grows until the next checkpoint. The first failure
        of a series is logged.
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
