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

import fcntl
import hashlib
import os
import secrets
import threading
from pathlib import Path
from typing import Final

from swell.errors import SwellError
from swell.weights.cache import DigestMismatch, WeightCache, disk_errors
from swell.weights.chunks import Manifest, spans
from swell.weights.formats import check_content
from swell.weights.listing import Entry

__all__ = ["Growing", "GrowingPaths"]

_DONE: Final = b"1"
_MISSING: Final = b"0"
_BLOCK_BYTES: Final = 1 << 20

#: Length of the first line of notes.
_HEAD_BYTES: Final = 40


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
        self.part = cache.folder / "partial" / f"{self.key}.part"
        self.notes = self.part.with_suffix(".done")
        self.entry = Entry(self.file.sha256, self.file.bytes)

    def done(self) -> list[bool]:
        """Return which chunks may be read."""
        wanted = len(self.file.chunks)
        try:
            text, status = self.notes.read_bytes(), self.part.stat()
        except FileNotFoundError:
            return [False] * wanted
        if text[:_HEAD_BYTES] != _head_of(status):
            return [False] * wanted
        noted = text[_HEAD_BYTES:].ljust(wanted, _MISSING)
        return [noted[at : at + 1] == _DONE for at in range(wanted)]

    def is_whole(self) -> bool:
        """Return whether every chunk may be read."""
        return self.part.exists() and all(self.done())


class Growing(GrowingPaths):
    """A file that this process fetches; make it with the lock of its key held.

    Raises:
        CacheFull: The disk is full.
    """

    def __init__(self, cache: WeightCache, manifest: Manifest, name: str) -> None:
        super().__init__(cache, manifest, name)
        self._cache = cache
        self._name = name
        self._told = f"{name} of {manifest.model}"
        self._spans = list(spans(self.file, manifest.chunk_bytes))
        self._writing = threading.Lock()
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        # Whoever uses it, and this process, keep it from being evicted.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        self._notes = os.open(self.notes, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.has = self._known()

    def _open(self) -> int:
        try:
            self.part.chmod(0o600)
        except FileNotFoundError:
            self.notes.unlink(missing_ok=True)
        fd = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with disk_errors(self.part):
                os.ftruncate(fd, self.file.bytes)
            # As all files of the cache: whoever loads it may take its pages as they are.
            os.fchmod(fd, 0o444)
        except BaseException:
            os.close(fd)
            raise
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
        with disk_errors(self.notes):
            os.ftruncate(self._notes, 0)
            os.pwrite(self._notes, fresh, 0)
        return has

    def _holds(self, number: int) -> bool:
        digest, at, size = self._spans[number]
        found = hashlib.sha256()
        for start in range(at, at + size, _BLOCK_BYTES):
            found.update(os.pread(self._file, min(_BLOCK_BYTES, at + size - start), start))
        return found.hexdigest() == digest

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
            CacheFull: The disk is full.
        """
        try:
            found = hashlib.sha256()
            for at in range(0, self.file.bytes, _BLOCK_BYTES):
                found.update(os.pread(self._file, _BLOCK_BYTES, at))
            if found.hexdigest() != self.file.sha256:
                raise DigestMismatch(
                    f"{self._told}: its chunks make a file with the SHA-256 {found.hexdigest()}, "
                    f"and its manifest says {self.file.sha256}: the manifest is wrong, so push "
                    "the model again"
                )
            check_content(self._name, self.part)
        except SwellError:
            self.remove()
            raise
        with disk_errors(self.part):
            os.fsync(self._file)
        self.notes.unlink(missing_ok=True)
        self._cache.take(self.part, self.entry)
        return self.entry

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
