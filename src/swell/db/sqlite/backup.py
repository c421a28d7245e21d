"""A copy of the database file, taken while a backend writes to it."""

import contextlib
import os
import sqlite3
from pathlib import Path

from swell.core.errors import Conflict, NotFound, Unavailable


def back_up(source: Path, target: Path) -> int:
    """Copy a database as of one commit, and return the size of the copy.

    The copy does not block writers; until it is done, the write-ahead log grows. The copy gets its
    name only after it was checked and synced to the disk. Only this user may read it, since it
    holds inputs and secrets. Blocks.

    Returns:
        Its size, in bytes.

    Raises:
        NotFound: There is no such database.
        Conflict: There is a file of the target's name.
        Unavailable: It cannot be read or written, or the copy is not whole.
    """
    if not source.is_file():
        raise NotFound(f"there is no database {source}: check --data, or the setting store.url")
    exists = f"{target} exists: a backup replaces nothing, choose another name"
    if target.exists():
        raise Conflict(exists)
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)
    try:
        _copy(source, partial)
        os.link(partial, target)
    except FileExistsError as error:
        raise Conflict(exists) from error
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    _sync(target.parent)
    return target.stat().st_size


def _copy(source: Path, target: Path) -> None:
    # SQLite takes an empty file, and leaves its permissions.
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Not read-only: a backend that died has left a log that must be read, and its index made.
    with contextlib.closing(sqlite3.connect(source, isolation_level=None, timeout=30)) as live:
        live.execute("VACUUM INTO ?", (str(target),))
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        [(found,)] = copy.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is not whole: {found}")
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
