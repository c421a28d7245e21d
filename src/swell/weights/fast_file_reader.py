"""Reads a file into memory as fast as the disk allows.

Several threads read parts of the file at once. Parts in the page cache are copied from there; the
others are read past it (`O_DIRECT`), which saves a copy and leaves other files in the cache. Large
pages save page faults: 512 for a gigabyte instead of 262,144.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Concurrent reads; cloud disks and NVMe are fastest from about 8.
THREADS: Final = 8

#: Bytes of a read.
PART_BYTES: Final = 8 << 20

#: Large pages of x86-64 and arm64 Linux.
LARGE_PAGE_BYTES: Final = 2 << 20

#: `O_DIRECT` needs multiples of this as offset, size and address; the largest logical block in use.
BLOCK_BYTES: Final = 4096

_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)

#: Errors of a file system that lacks a feature.
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
            if error.errno not in _NOT_HERE:
                raise
    return np.frombuffer(memory, np.uint8)


class Reading:
    """A file that is read into memory by threads.

    Args:
        path: The file.
        into: Memory of `host_memory` for at least the file's size. By default memory is allocated;
            or, if the page cache holds all of a read-only file, its pages are mapped, which takes
            no time and no memory. They are copied when written to.
        direct: Whether to read uncached parts past the page cache. On a slow disk, and for a file
            that another process loads soon, False keeps it in the cache.

    Guarantees:
        Byte k of the file becomes byte k of `memory`.
    """

    def __init__(
        self, path: Path, *, into: NDArray[np.uint8] | None = None, direct: bool = True
    ) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size
        if into is not None and into.nbytes < self.size_bytes:
            raise ValueError(f"{self.size_bytes} bytes do not fit into {into.nbytes}")
        self._into = into
        self._memory: NDArray[np.uint8] | None = None
        self._direct = direct and bool(_DIRECT)
        self._reads: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"read {path.name}")

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The file's bytes; after `start`. Shapes: (at least the file's size,) uint8."""
        assert self._memory is not None, "start() comes first"
        return self._memory

    def start(self) -> "Reading":
        """Start to read, unless started; return at once."""
        if self._memory is not None:
            return self
        mapped = _map(self.path)
        cached = _cached_parts(mapped, self.path)
        is_fixed = not self.path.stat().st_mode & 0o222
        if self._into is None and is_fixed and all(cached) and mapped.nbytes == self.size_bytes:
            self._memory = mapped
            return self
        self._memory = host_memory(self.size_bytes) if self._into is None else self._into
        whole = -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        is_aligned = self._memory.ctypes.data % BLOCK_BYTES == 0 and self._memory.nbytes >= whole
        for number, at in enumerate(range(0, self.size_bytes, PART_BYTES)):
            is_cached = number >= len(cached) or cached[number]
            is_direct = self._direct and is_aligned and not is_cached
            self._reads[at] = self._pool.submit(self._read, at, is_direct)
        return self

    def wait(self) -> NDArray[np.uint8]:
        """Return the memory once the file is read.

        Raises:
            OSError: It cannot be read.
        """
        for _ in self.parts():
            pass
        return self.memory

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of each part that is read, in order.

        Raises:
            OSError: The file cannot be read.
        """
        try:
            if not self._reads and self.size_bytes:
                yield 0, self.size_bytes
            for at, read in self._reads.items():
                read.result()
                yield at, min(at + PART_BYTES, self.size_bytes)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _read(self, at: int, is_direct: bool) -> None:
        stop = min(at + PART_BYTES, self.size_bytes)
        view = memoryview(self.memory)
        if is_direct:
            at = _read_direct(self.path, view, at, stop)
        with self.path.open("rb", buffering=0) as file:
            while at < stop:
                got = os.preadv(file.fileno(), [view[at:stop]], at)
                if got == 0:
                    raise OSError(
                        errno.EIO, "the file became shorter while it was read", str(self.path)
                    )
                at += got


def _map(path: Path) -> NDArray[np.uint8]:
    """Map a file's pages as memory: read when touched, copied when written to."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, np.uint8)


def _cached_parts(mapped: NDArray[np.uint8], path: Path) -> list[bool]:
    """Return for each part of a mapped file whether the page cache holds all of it.

    Linux reports it only to the file's owner, and to users that may write to it.
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


def _read_direct(path: Path, view: memoryview, at: int, stop: int) -> int:
    """Read [at, stop) in whole blocks past the page cache; return where it ended.

    It reads nothing on a file system without `O_DIRECT`. The last block of a file is read whole:
    `host_memory` rounds up.
    """
    end = -(-stop // BLOCK_BYTES) * BLOCK_BYTES
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)
        while at < stop:
            got = os.preadv(fd, [view[at:end]], at)
            at += got
            if got == 0 or at % BLOCK_BYTES:
                break
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    finally:
        if fd >= 0:
            os.close(fd)
    return min(at, stop)
