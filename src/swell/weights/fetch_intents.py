"""Announces the downloads of this machine's workers to the processes that wait for them.

    wishes/RANDOM     the downloads of one worker, a name a line; locked while the worker lives

The lock of a file is held only during its download, and the file may be the last of many. A worker
therefore announces all downloads before the first. Names are `owner/name@version`, and digests of
manifests and files.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from swell.weights.disk import disk_errors


class FetchIntents:
    """The announcement of one worker; valid until `close`, or until its process ends.

    Args:
        folder: Of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "wishes" / secrets.token_hex(16)
        self._file: IO[bytes] | None = None

    def tell(self, names: Collection[str]) -> None:
        """Announce downloads, in place of the ones announced before.

        Raises:
            CacheFull, CacheUnusable: The announcement cannot be written.
        """
        if self._file is None:
            forget_the_dead(self._folder)
        fresh = self._path.with_name(f".{self._path.name}")
        with disk_errors(fresh), contextlib.ExitStack() as opened:
            fresh.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(fresh.open("wb"))
            # Locked before it has its name: an unlocked announcement may be removed.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("\n".join(names).encode())
            file.flush()
            fresh.replace(self._path)
            opened.pop_all()
        if self._file is not None:
            self._file.close()
        self._file = file

    def close(self) -> None:
        """Withdraw the announcement."""
        if self._file is not None:
            # If removing it fails, it is at least unlocked.
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()
            self._file = None

    def __enter__(self) -> "FetchIntents":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_wished(folder: Path, names: Collection[str]) -> bool:
    """Return whether a live worker has announced one of these names.

    Args:
        folder: Of the cache.
        names: The names of the version or file.
    """
    wanted = frozenset(names)
    return any(_is_wished_in(path, wanted) for path in _told(folder))


def _is_wished_in(path: Path, wanted: frozenset[str]) -> bool:
    while True:
        try:
            with path.open("rb") as file:
                told = file.read().decode(errors="replace").split("\n")
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return not wanted.isdisjoint(told)
                if os.fstat(file.fileno()).st_nlink:
                    return False  # Its worker has ended.
        except OSError:
            return False
        # The worker has replaced it: read the new one.


def forget_the_dead(folder: Path) -> int:
    """Remove the announcements of workers that have ended; return how many there were."""
    forgotten = 0
    for path in _told(folder):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # A live worker has replaced it.
            path.unlink()
            forgotten += 1
    return forgotten


def _told(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder / "wishes"))
        yield from (folder / "wishes" / name for name in names if not name.startswith("."))
