"""A file of weights that comes in chunks, in no order, into the cache that all workers share.

    partial/KEY.part    the file at its full size; what has not come is a hole
    partial/KEY.done    a line of this file and this start of the machine, then a byte a chunk

KEY is made of the digests of all chunks (`Manifest.file_key`), so that nothing else ever lies
there. A chunk is written once it was compared with its digest, and noted after that: whoever sees
the note may read the chunk, from the pages that the one who fetched it has written. The notes
outlive any process. What was written when the machine last ran may not have reached its disk: such
chunks are compared again before they count.

Notes never outlive what they are about: they go before the file goes or takes its name in the
cache, and before one is made anew. Else a file of holes would be taken for whole.

One process at a time fetches a file, with its lock held (`WeightCache.locked`). Others look.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import secrets
import threading
from pathlib import Path
from typing import Final

from swell.core.errors import SwellError
from swell.weights.cache import DigestMismatch, WeightCache
from swell.weights.chunks import Manifest, spans
from swell.weights.disk import disk_errors
from swell.weights.formats import check_content
from swell.weights.listing import Entry

_DONE: Final = b"1"
_MISSING: Final = b"0"
_BLOCK_BYTES: Final = 1 << 20

#: Length of the first line of notes.
_HEAD_BYTES: Final = 40

#: Brought to the disk at once, so that nobody who is told to go waits for a whole file.
_SYNC_BYTES: Final = 32 << 20


class GivenUp(Exception):
    """Whoever wanted it does not any more; what has come is kept."""


def _boot_id() -> str:
    """Return what names this start of the machine; where it has none, this moment."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


def _head_of(status: os.stat_result) -> bytes:
    """Return the first line of the notes about a file that is open, or lies there, now."""
    text = f"{_boot_id()} {status.st_dev} {status.st_ino}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()[: _HEAD_BYTES - 1].encode() + b"\n"


class GrowingPaths:
    """Where a file of a manifest grows, for whoever only looks.

    Args:
        cache: Where.
        manifest: What it is part of.
        name: Which of its files.
    """

    def __init__(self, cache: WeightCache, manifest: Manifest, name: str) -> None:
        self.file = manifest.files[name]
        self.key = manifest.file_key(name)
        self.part = cache.part_path(self.key)
        self.notes = self.part.with_suffix(".done")
        self.entry = Entry(self.file.sha256, self.file.bytes)

    def done(self) -> list[bool]:
        """Return which chunks may be read."""
        wanted = len(self.file.chunks)
        try:
            text, status = self.notes.read_bytes(), self.part.stat()
        except OSError:
            return [False] * wanted
        if text[:_HEAD_BYTES] != _head_of(status):
            return [False] * wanted
        noted = text[_HEAD_BYTES:].ljust(wanted, _MISSING)
        return [noted[at : at + 1] == _DONE for at in range(wanted)]

    def is_whole(self) -> bool:
        """Return whether every chunk may be read."""
        return self.part.exists() and all(self.done())


class Growing(GrowingPaths):
    """A file that this process fetches; make it with the lock of its key held, and in a thread.

    Chunks of an earlier start of the machine are read and compared when it is made.

    Args:
        cache: Where.
        manifest: What it is part of.
        name: Which of its files.
        stopping: Set where nobody wants it any more.

    Raises:
        CacheFull: The disk is full.
        CacheUnusable: It cannot be written to.
        GivenUp: `stopping` was set.
    """

    def __init__(
        self,
        cache: WeightCache,
        manifest: Manifest,
        name: str,
        stopping: threading.Event | None = None,
    ) -> None:
        super().__init__(cache, manifest, name)
        self._cache = cache
        self._name = name
        self._told = f"{name} of {manifest.model}"
        self._spans = list(spans(self.file, manifest.chunk_bytes))
        self._stopping = stopping or threading.Event()
        self._writing = threading.Lock()
        with contextlib.ExitStack() as opened, disk_errors(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open(opened)
            # Whoever uses it, and this process, keep it from being evicted.
            fcntl.flock(self._file, fcntl.LOCK_SH)
            self._notes = _opened(self.notes, 0o644, opened)
            self.has = self._known()
            opened.pop_all()

    def _open(self, opened: contextlib.ExitStack) -> int:
        try:
            self.part.chmod(0o600)
        except FileNotFoundError:
            self.notes.unlink(missing_ok=True)
        fd = _opened(self.part, 0o600, opened)
        os.ftruncate(fd, self.file.bytes)
        # As all files of the cache: whoever loads it may take its pages as they are.
        os.fchmod(fd, 0o444)
        return fd

    def _known(self) -> list[bool]:
        """Return which chunks are there; those of an earlier start of the machine if they hold."""
        text = os.pread(self._notes, _HEAD_BYTES + len(self._spans), 0)
        noted = text[_HEAD_BYTES:].ljust(len(self._spans), _MISSING)
        has = [noted[at : at + 1] == _DONE for at in range(len(self._spans))]
        head = _head_of(os.fstat(self._file))
        if text[:_HEAD_BYTES] == head:
            return has
        has = [is_noted and self._holds(number) for number, is_noted in enumerate(has)]
        fresh = head + b"".join(_DONE if each else _MISSING for each in has)
        os.ftruncate(self._notes, 0)
        os.pwrite(self._notes, fresh, 0)
        return has

    def _holds(self, number: int) -> bool:
        digest, at, size = self._spans[number]
        found = hashlib.sha256()
        for start in range(at, at + size, _BLOCK_BYTES):
            self._go_on()
            found.update(os.pread(self._file, min(_BLOCK_BYTES, at + size - start), start))
        return found.hexdigest() == digest

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise GivenUp(self._told)

    def write(self, number: int, data: memoryview) -> None:
        """Keep a chunk that was compared with its digest.

        Raises:
            CacheFull: The disk is full.
        """
        _, at, size = self._spans[number]
        assert len(data) == size, "a chunk has the size that its manifest gives"
        # One at a time: the kernel writes one file so anyway, and who waits there wastes a core.
        with self._writing, disk_errors(self.part):
            while data:
                written = os.pwrite(self._file, data, at)
                at += written
                data = data[written:]
            os.pwrite(self._notes, _DONE, _HEAD_BYTES + number)
        self.has[number] = True

    def keep(self) -> Entry:
        """Take a file whose chunks are all there into the cache; reads it whole.

        Raises:
            DigestMismatch: Its chunks make another file than its manifest says; it was removed.
            RefusedFormat, BrokenWeights: It is not what its name says; it was removed.
            CacheFull, CacheUnusable: The disk does not take it; it was removed.
            GivenUp: `stopping` was set.
        """
        with disk_errors(self.part):
            self._cache.own_path(self.file.sha256).parent.mkdir(parents=True, exist_ok=True)
        try:
            found = self._read_whole()
            if found != self.file.sha256:
                raise DigestMismatch(
                    f"{self._told}: its chunks make a file with the SHA-256 {found}, and its "
                    f"manifest says {self.file.sha256}: the manifest is wrong, so push the model "
                    "again"
                )
            check_content(self._name, self.part)
            with disk_errors(self.part):
                os.fsync(self._file)
        except (SwellError, OSError):
            # Where the disk did not take it, memory has it and says no more that it does not.
            self.remove()
            raise
        self.notes.unlink(missing_ok=True)
        self._cache.take(self.part, self.entry)
        return self.entry

    def _read_whole(self) -> str:
        """Return the digest of it all, with all but its end on the disk."""
        found = hashlib.sha256()
        for start in range(0, self.file.bytes, _SYNC_BYTES):
            size = min(_SYNC_BYTES, self.file.bytes - start)
            for at in range(start, start + size, _BLOCK_BYTES):
                self._go_on()
                found.update(os.pread(self._file, min(_BLOCK_BYTES, start + size - at), at))
            if start + size < self.file.bytes:
                with disk_errors(self.part):
                    _sync_part(self._file, start, size)
        return found.hexdigest()

    def remove(self) -> None:
        """Forget all that has come."""
        self.notes.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what has come for whoever goes on."""
        if self._file >= 0:
            os.close(self._file)
            os.close(self._notes)
            self._file = self._notes = -1


def _opened(path: Path, mode: int, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    opened.callback(os.close, fd)
    return fd


def _sync_part(fd: int, start: int, size: int) -> None:
    """Have a part of a file reach the disk.

    Source:
        msync(2): MS_SYNC writes the pages of the range, and waits for them.
    """
    try:
        mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, offset=start)
    except (OSError, ValueError):
        # A file system that maps nothing: the whole is brought there at the end.
        return
    with mapped:
        mapped.flush()
