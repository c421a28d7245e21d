"""Files that are being downloaded, with their locks.

A process holds the lock of a file while it downloads it, so no other process does. The bytes of an
interrupted download stay, and the next one resumes there.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from swell.core.clock import Clock
from swell.weights.disk import CacheUnusable, disk_errors
from swell.weights.weight_index import check_digest

_CHUNK_BYTES: Final = 8 << 20

#: Interval between looks at a file that another process downloads, in seconds.
LOCK_EVERY_S: Final = 0.1

#: The suffixes of partial files, and of the ETags of their sources.
PART: Final = ".part"
ETAG: Final = ".etag"


class PartialFile:
    """A partial file, open for appending. The caller holds its lock.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = hashlib.sha256()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._hash.update(chunk)
        self.size_bytes = self._file.tell()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append.

        Raises:
            CacheFull: The disk is full.
        """
        view = memoryview(data)
        while view:
            with disk_errors(self.path):
                written = self._file.write(view)
            self._hash.update(view[:written])
            self.size_bytes += written
            view = view[written:]

    def restart(self) -> None:
        """Discard all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Digest of the bytes so far."""
        return self._hash.hexdigest()

    def flush(self) -> None:
        """Sync the file to the disk."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; its bytes stay for the next download."""
        self._file.close()


class PartialFiles:
    """The partial files of a cache, each under a key of 64 hexadecimal digits.

    Args:
        folder: The cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def lock(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a file.

        Args:
            key: SHA-256 of its content, or of its URL if that of the content is unknown.
            wait: Whether to wait while another process holds it.

        Raises:
            BlockingIOError: Another process holds it, and `wait` is False.
            CacheFull, CacheUnusable: The lock cannot be written.
        """
        path = self._lock_path(key)
        while True:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("ab")
            with file:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                # If the previous holder removed it, other processes lock another file.
                if os.fstat(file.fileno()).st_nlink:
                    yield
                    return

    @contextlib.asynccontextmanager
    async def await_lock(self, key: str, clock: Clock) -> AsyncIterator[None]:
        """Hold the lock of a file; poll for it, so that waiting can be cancelled."""
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(self.lock(key, wait=False))
                    break
                except BlockingIOError:
                    await clock.sleep(LOCK_EVERY_S)
            yield

    def is_locked(self, key: str) -> bool:
        """Return whether a process holds the lock of a file."""
        return _is_locked(self._lock_path(key), fcntl.LOCK_SH)

    @contextlib.contextmanager
    def announce(self) -> Iterator[None]:
        """Announce downloads to models that wait for files, until this block or the process ends.

        The lock of a file is held only during its own download, which may be the last of many.

        Raises:
            CacheUnusable: The folder cannot be written to.
        """
        path = self._folder / "fetching"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def is_announced(self) -> bool:
        """Return whether a process has announced downloads."""
        return _is_locked(self._folder / "fetching", fcntl.LOCK_EX)

    def open(self, key: str) -> PartialFile:
        """Open a partial file, or a new one, with its lock held."""
        return PartialFile(self.path(key))

    def path(self, key: str) -> Path:
        """Return the path of a partial file, which may not exist."""
        return self._folder / "partial" / f"{check_digest(key, 'key')}{PART}"

    def paths(self) -> Iterator[Path]:
        """Return the paths of all partial files."""
        return (self._folder / "partial").glob(f"{'[0-9a-f]' * 64}{PART}")

    def size_bytes(self, key: str) -> int:
        """Return the size of a partial file; 0 if there is none."""
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return 0

    def remove_unlocked(self, key: str) -> bool:
        """Remove a partial file and its lock, unless a process holds the lock or it is read-only.

        Returns:
            Whether it is gone.
        """
        with (
            contextlib.suppress(OSError, CacheUnusable),
            self.lock(key, wait=False),
        ):
            # First the ETag: it must not be taken for that of the next partial file.
            for path in (self.path(key).with_suffix(ETAG), self.path(key), self._lock_path(key)):
                path.unlink(missing_ok=True)
            return True
        return False

    def _lock_path(self, key: str) -> Path:
        return self._folder / "locks" / check_digest(key, "key")


def _is_locked(path: Path, how: int) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
