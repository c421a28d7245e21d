"""What workers of this machine will fetch, told to whoever waits for it.

    wishes/RANDOM     what one worker will fetch, a name a line; locked as long as that worker lives

A file's lock is held only while it comes, and it may be the last of many. So that nobody gives up
before its turn, a worker says all that it will fetch before it begins. Names are
`owner/name@version` and digests, of manifests and of files.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from swell.weights.disk import disk_errors


class Wishing:
    """What one worker will fetch; until `close`, or until its process ends in whatever way.

    Args:
        folder: Of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "wishes" / secrets.token_hex(16)
        self._file: IO[bytes] | None = None

    def tell(self, names: Collection[str]) -> None:
        """Say what is still to be fetched, in the place of what was said before.

        Raises:
            CacheFull, CacheUnusable: It cannot be written down.
        """
        if self._file is None:
            forget_the_dead(self._folder)
        fresh = self._path.with_name(f".{self._path.name}")
        with disk_errors(fresh), contextlib.ExitStack() as opened:
            fresh.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(fresh.open("wb"))
            # Locked before it has its name: whoever finds it free may remove it.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("\n".join(names).encode())
            file.flush()
            fresh.replace(self._path)
            opened.pop_all()
        if self._file is not None:
            self._file.close()
        self._file = file

    def close(self) -> None:
        """Take it back."""
        if self._file is not None:
            # If it stays, nobody holds it.
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()
            self._file = None

    def __enter__(self) -> "Wishing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_wished(folder: Path, names: Collection[str]) -> bool:
    """Return whether a worker that lives will fetch one of these.

    Args:
        folder: Of the cache.
        names: What it may be called.
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
                    return False  # Of a worker that is gone.
        except OSError:
            return False
        # Another has taken its place meanwhile.


def forget_the_dead(folder: Path) -> int:
    """Remove what those have left who ended without taking it back; return of how many."""
    forgotten = 0
    for path in _told(folder):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # Another has taken its place, of one that lives.
            path.unlink()
            forgotten += 1
    return forgotten


def _told(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder / "wishes"))
        yield from (folder / "wishes" / name for name in names if not name.startswith("."))
