"""The disk of the weight cache: explained errors, and atomic writes of small files."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swell.core.errors import SwellError

#: Error number → cause and remedy.
_MEANINGS: Final = {
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "cannot be written to: give this user the right to, or name another folder with "
        "worker.cache_dir",
    ),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
        "has something else where the cache keeps a file or a folder of its own: move it away",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "has more files than may be open at once: raise the limit (ulimit -n)",
    ),
    errno.EIO: "is on a disk that does not read or write: see the system's log, and change it",
    errno.EFBIG: "is on a file system that takes no file of this size: use another one",
}


class CacheFull(SwellError):
    """There is no room for a file, and nothing left that may be removed."""

    code, status, title = "cache_full", 507, "The cache of weights is full"


class CacheUnusable(SwellError):
    """The folder of the cache cannot be used as it is; the text says what to do."""

    code, status, title = "cache_unusable", 500, "The cache of weights cannot be used"


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file atomically, and sync it to the disk.

    Raises:
        CacheFull, CacheUnusable: The disk does not take it.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with disk_errors(fresh):
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Explain errors of a full disk or an unusable folder.

    Raises:
        CacheFull: It is full.
        CacheUnusable: It cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _MEANINGS:
            raise CacheUnusable(
                f"{path.parent} {_MEANINGS[error.errno]} ({error.strerror}: "
                f"{error.filename2 or error.filename or path})"
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CacheFull(
            f"the disk of {path.parent} is full ({_free_bytes(path):,} bytes free): make room, or "
            "set a budget so that unused weights are removed in time, and start again: what has "
            "come whole is kept"
        ) from error


def _free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a path would be on."""
    there = next((each for each in path.parents if each.exists()), Path("/"))
    return shutil.disk_usage(there).free
