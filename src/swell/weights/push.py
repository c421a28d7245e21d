"""Push weights to where workers fetch them from: only chunks that are not there go up.

A push that was broken off is simply run again. A version is said to be there when all its chunks
are, and never changes after that: one that is there with other weights is refused before anything
goes up.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, Unavailable
from swell.weights.cache import DigestMismatch
from swell.weights.chunks import CHUNK_BYTES, ChunkedFile, Manifest, cut, spans
from swell.weights.formats import check_content
from swell.weights.listing import Listing
from swell.weights.side_by_side import TRIES, SideBySide
from swell.weights.standing import standing_of
from swell.weights.store import Found, WeightStore

#: Chunks that go up, or are read to be compared, side by side.
_CHUNKS: Final = 8

#: Chunks of which is asked side by side whether they are there.
_ASKED: Final = 32


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push.

    Args:
        manifest: What was pushed.
        sent_chunks: How many chunks went up.
        sent_bytes: And their bytes.
        there_chunks: How many were there.
        there_bytes: And their bytes.
        wrong_chunks: How many of those that went up replaced one that was not what its name says.
    """

    manifest: Manifest
    sent_chunks: int
    sent_bytes: int
    there_chunks: int
    there_bytes: int
    wrong_chunks: int


@dataclass(frozen=True, slots=True)
class PushProgress:
    """How far a push is, for whoever shows it."""

    doing: str
    done_bytes: int
    total_bytes: int


#: Told of bytes that are done, of those that there are to do.
_Tell = Callable[[PushProgress], None]


async def push(
    listing: Listing,
    paths: Mapping[str, Path],
    store: WeightStore,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    verify: bool = False,
    clock: Clock | None = None,
    progress: _Tell | None = None,
) -> Pushed:
    """Push all files of a version.

    Args:
        listing: Which files, with their digests.
        paths: Where each of them lies.
        store: Where to.
        chunk_bytes: Size of a chunk, of a version that is not there yet.
        verify: Whether chunks that are there are read and compared with their digests too, and not
            by their sizes only. Wrong ones are replaced.
        clock: For waiting before further tries.
        progress: Called on the way, by any thread.

    Raises:
        DigestMismatch: A file is not what its listing says.
        InvalidRequest: A file cannot be read.
        RefusedFormat, BrokenWeights: A file is of a format that is not opened.
        Conflict: The version is there with other weights; nothing was sent.
        InvalidListing: What is there under its name is none of ours.
        Unavailable: The store does not take them; what has gone up stays.
    """
    tell = progress or (lambda _: None)
    standing = await standing_of(listing.check(), store)
    if standing.manifest is not None:
        chunk_bytes = standing.manifest.chunk_bytes
    manifest = standing.agree(await _read_files(listing, paths, chunk_bytes, tell))
    pushed = await send(
        manifest, paths, store, verify=verify, clock=clock or SystemClock(), tell=tell
    )
    await store.publish(manifest)
    return pushed


async def send(
    manifest: Manifest,
    paths: Mapping[str, Path],
    store: WeightStore,
    *,
    verify: bool,
    clock: Clock,
    tell: _Tell,
) -> Pushed:
    """Have all chunks of some files go up that are not there; says of no version that it is.

    Args:
        manifest: Which files, and of which chunks they are.
        paths: Where each of them lies.
        store: Where to.
        verify: As for `push`.
        clock: For waiting before further tries.
        tell: Called on the way.

    Raises:
        DigestMismatch: A file is not what its manifest says.
        Unavailable: The store does not take them; what has gone up stays.
    """
    going = _Going(manifest, paths, store, clock, tell)
    found = await going.look(verify=verify)
    missing = [digest for digest, each in found.items() if each is not Found.WHOLE]
    sent = await going.send(missing)
    return Pushed(
        manifest,
        len(missing),
        sent,
        len(found) - len(missing),
        sum(manifest.chunks.values()) - sent,
        sum(each is Found.WRONG for each in found.values()),
    )


class _Going:
    """Chunks of one manifest on their way up."""

    def __init__(
        self,
        manifest: Manifest,
        paths: Mapping[str, Path],
        store: WeightStore,
        clock: Clock,
        tell: _Tell,
    ) -> None:
        self._chunks = manifest.chunks
        self._wheres = {
            digest: (paths[name], at, size)
            for name, file in manifest.files.items()
            for digest, at, size in spans(file, manifest.chunk_bytes)
        }
        self._store = store
        self._clock = clock
        self._tell = tell
        # A disk that is full or refuses does so again at once.
        self._tries = 1 if store.is_here else TRIES

    async def look(self, *, verify: bool) -> dict[str, Found]:
        """Return what there is of each chunk."""
        found: dict[str, Found] = {}
        done, total = 0, sum(self._chunks.values())
        doing = "comparing what is there" if verify else "looking what is there"

        async def look(digest: str) -> None:
            nonlocal done
            size = self._chunks[digest]
            found[digest] = await self._store.look(digest, size, read=verify)
            done += size
            self._tell(PushProgress(doing, done, total))

        await self._side_by_side(_CHUNKS if verify else _ASKED).run(self._chunks, look)
        # In the order of the files again.
        return {digest: found[digest] for digest in self._chunks}

    async def send(self, digests: Sequence[str]) -> int:
        """Have chunks go up; return their bytes."""
        total = sum(self._chunks[digest] for digest in digests)
        sent_chunks, sent = 0, 0

        async def send(digest: str) -> None:
            nonlocal sent_chunks, sent
            await self._store.put_chunk(digest, await asyncio.to_thread(self._read, digest))
            sent_chunks += 1
            sent += self._chunks[digest]
            self._tell(PushProgress("sending", sent, total))

        try:
            await self._side_by_side(_CHUNKS).run(digests, send)
        except Unavailable as error:
            raise Unavailable(
                f"{error.detail}. {sent_chunks} of {len(digests)} chunks have gone up and stay "
                "there: run the same command again"
            ) from error
        return sent

    def _side_by_side(self, most: int) -> SideBySide:
        return SideBySide(most, self._clock, self._tries)

    def _read(self, digest: str) -> bytes:
        path, at, size = self._wheres[digest]
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, size, at)
        finally:
            os.close(fd)
        if hashlib.sha256(data).hexdigest() != digest:
            raise DigestMismatch(f"{path} has changed while it was read: push it again")
        return data


async def _read_files(
    listing: Listing, paths: Mapping[str, Path], chunk_bytes: int, tell: _Tell
) -> Manifest:
    """Read all files and return what they are made of; a cancellation ends it at once."""
    is_over = threading.Event()
    try:
        return await asyncio.to_thread(_manifest, listing, paths, chunk_bytes, tell, is_over)
    finally:
        is_over.set()


class _Over(Exception):
    """Nobody wants it any more."""


def _manifest(
    listing: Listing,
    paths: Mapping[str, Path],
    chunk_bytes: int,
    tell: _Tell,
    is_over: threading.Event,
) -> Manifest:
    files: dict[str, ChunkedFile] = {}
    done, total = 0, sum(entry.size_bytes for entry in listing.files.values())
    for name, entry in sorted(listing.files.items()):

        def seen(size: int, name: str = name) -> None:
            nonlocal done
            if is_over.is_set():
                raise _Over
            done += size
            tell(PushProgress(f"reading {name}", done, total))

        try:
            check_content(name, paths[name])
            files[name] = cut(paths[name], chunk_bytes, seen)
        except OSError as error:
            raise InvalidRequest(f"{paths[name]} cannot be read: {error.strerror}") from None
        if files[name].sha256 != entry.sha256:
            raise DigestMismatch(
                f"{name} of {listing.model} has the SHA-256 {files[name].sha256}, and its listing "
                f"says {entry.sha256}: pull it again, or correct the listing"
            )
    # Where they came from may hold a secret, or a path of this machine, and is no part of them.
    return Manifest(listing.model, listing.version, chunk_bytes, files)
