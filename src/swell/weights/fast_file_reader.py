"""A file into memory, as fast as the disk gives it.

Several threads read parts of the file side by side, since a disk answers many questions at once
faster than one after another. What the operating system holds in its page cache is copied from
there; the rest is read past it (`O_DIRECT`), straight into place, which saves a copy and leaves
other files in the cache. The memory is made of large pages where the system offers them: a
gigabyte then costs 512 page faults instead of 262,144.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Questions that a disk is asked at once; cloud disks and NVMe are at their best from about 8.
THREADS: Final = 8

#: Bytes per question: large enough that its cost is small, small enough that all threads end alike.
PART_BYTES: Final = 8 << 20

#: Large pages of x86-64 and arm64 Linux.
LARGE_PAGE_BYTES: Final = 2 << 20

#: What `O_DIRECT` asks of offsets, sizes and addresses; the largest logical block in use.
BLOCK_BYTES: Final = 4096

_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)

#: How a file system says that it cannot do what was asked.
_NOT_HERE: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def host_memory(size_bytes: int) -> NDArray[np.uint8]:
    """Return fresh memory of at least `size_bytes`, of whole blocks, aligned to a page."""
    rounded = max(-(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES, BLOCK_BYTES)
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(rounded, np.uint8)
    memory = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if rounded >= LARGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            # A kernel without large pages.
            if error.errno not in _NOT_HERE:
                raise
    return np.frombuffer(memory, np.uint8)


class Reading:
    """A file on its way into memory.

    Args:
        path: The file.
        into: Memory of `host_memory` for at least the file's size. Left out, memory is made; or, if
            the page cache holds all of a file that nobody may write to, its pages are mapped
            as they are, which takes neither time nor memory. They are copied when written to.
        threads: How many parts are read at once.
        direct: Whether to read past the page cache what is not in it. On a slow disk, and where
            the same file is loaded again soon by a fresh process, False keeps it in the cache.

    Guarantees:
        Byte k of the file becomes byte k of `memory`.
    """

    def __init__(
        self,
        path: Path,
        *,
        into: NDArray[np.uint8] | None = None,
        threads: int = THREADS,
        direct: bool = True,
    ) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size
        if into is not None and into.nbytes < self.size_bytes:
            raise ValueError(f"{self.size_bytes} bytes do not fit into {into.nbytes}")
        self._into = into
        self._memory: NDArray[np.uint8] | None = None
        self._direct = direct and bool(_DIRECT)
        self._starts = list(range(0, self.size_bytes, PART_BYTES))
        self._cached = [True] * len(self._starts)
        self._wanted = min(max(threads, 1), len(self._starts))
        self._changed = threading.Condition()
        self._next = 0
        self._done = [False] * len(self._starts)
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Where the file comes to; once started. Shapes: (at least the file's size,) uint8."""
        assert self._memory is not None, "start() comes first"
        return self._memory

    def start(self) -> "Reading":
        """Begin to read, if it has not begun; returns at once."""
        if self._memory is not None:
            return self
        mapped = _map(self.path)
        cached = _cached_parts(mapped, self.path)
        is_fixed = not self.path.stat().st_mode & 0o222
        if self._into is None and is_fixed and all(cached) and mapped.nbytes == self.size_bytes:
            self._memory = mapped
            self._done = [True] * len(self._starts)
            return self
        self._memory = host_memory(self.size_bytes) if self._into is None else self._into
        self._direct = self._direct and self._is_aligned(self._memory)
        if self._direct:
            self._cached = [*cached, *self._cached[len(cached) :]]
        for number in range(self._wanted):
            thread = threading.Thread(
                target=self._work, name=f"read {self.path.name} {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return self

    def _is_aligned(self, memory: NDArray[np.uint8]) -> bool:
        whole = -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        return memory.ctypes.data % BLOCK_BYTES == 0 and memory.nbytes >= whole

    def wait(self) -> NDArray[np.uint8]:
        """Return the memory once all of the file is in it.

        Raises:
            OSError: It could not be read.
        """
        for _ in self.parts():
            pass
        return self.memory

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of what has come, in order and without gaps, as it comes.

        Raises:
            OSError: It could not be read.
        """
        at = 0
        try:
            while at < len(self._starts):
                first, at = at, self._arrived(at)
                stop = self._starts[at] if at < len(self._starts) else self.size_bytes
                yield self._starts[first], stop
        finally:
            self._end()

    def _arrived(self, at: int) -> int:
        """Wait until part `at` is there; return the first after it that is not."""
        with self._changed:
            self._changed.wait_for(lambda: self._done[at] or self._error is not None)
            if self._error is not None:
                raise self._error
            while at < len(self._done) and self._done[at]:
                at += 1
            return at

    def _end(self) -> None:
        with self._changed:
            self._next = len(self._starts)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                with _Direct(self.path, self._direct) as direct:
                    while (number := self._take()) is not None:
                        self._read_part(fd, direct, number)
            finally:
                os.close(fd)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._next = len(self._starts)
                self._changed.notify_all()

    def _take(self) -> int | None:
        with self._changed:
            if self._next >= len(self._starts):
                return None
            self._next += 1
            return self._next - 1

    def _read_part(self, fd: int, direct: "_Direct", number: int) -> None:
        at = self._starts[number]
        stop = min(at + PART_BYTES, self.size_bytes)
        view = memoryview(self.memory)
        if direct and not self._cached[number]:
            at = direct.read(view, at, stop)
        while at < stop:
            got = os.preadv(fd, [view[at:stop]], at)
            if got == 0:
                raise OSError(
                    errno.EIO, "the file became shorter while it was read", str(self.path)
                )
            at += got
        with self._changed:
            self._done[number] = True
            self._changed.notify_all()


def _map(path: Path) -> NDArray[np.uint8]:
    """Return a file's pages as memory: read when touched, copied when written to."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, np.uint8)


def _cached_parts(mapped: NDArray[np.uint8], path: Path) -> list[bool]:
    """Return for each part of a mapped file whether the page cache holds all of it.

    Linux tells only whoever owns the file or may write to it.
    """
    size_bytes = mapped.nbytes
    parts = -(-size_bytes // PART_BYTES)
    is_told = path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK)
    libc = ctypes.CDLL(None)
    if not is_told or not hasattr(libc, "mincore"):
        return [False] * parts
    pages = np.zeros(-(-size_bytes // mmap.PAGESIZE), np.uint8)
    ask = libc.mincore
    ask.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    if size_bytes and ask(mapped.ctypes.data, size_bytes, pages.ctypes.data) != 0:
        return [False] * parts
    step = PART_BYTES // mmap.PAGESIZE
    return [bool((pages[at : at + step] & 1).all()) for at in range(0, len(pages), step)]


class _Direct:
    """The file opened past the page cache; false where the file system cannot do that."""

    def __init__(self, path: Path, is_wanted: bool) -> None:
        self._path = path
        self._is_wanted = is_wanted
        self._fd = -1

    def __enter__(self) -> "_Direct":
        if self._is_wanted:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | _DIRECT)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
        return self

    def __exit__(self, *_: Any) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __bool__(self) -> bool:
        return self._fd >= 0

    def read(self, view: memoryview, at: int, stop: int) -> int:
        """Read [at, stop), both rounded to blocks; return how far it came.

        The last block of a file is read whole, into memory that `host_memory` has rounded up.
        """
        end = -(-stop // BLOCK_BYTES) * BLOCK_BYTES
        while at < stop:
            try:
                got = os.preadv(self._fd, [view[at:end]], at)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                break
            at += got
            if got == 0 or at % BLOCK_BYTES:
                break
        return min(at, stop)
