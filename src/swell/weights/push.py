"""Push weights to where workers fetch them from: only chunks that are not there go up.

A push that was broken off is simply run again. A version is said to be there when all its chunks
are, and never changes after that.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.weights.cache import DigestMismatch
from swell.weights.chunks import CHUNK_BYTES, ChunkedFile, Manifest, cut, spans
from swell.weights.formats import check_content
from swell.weights.listing import Listing
from swell.weights.store import WeightStore

__all__ = ["PushProgress", "Pushed", "push"]

#: Chunks that go up side by side.
PUTS: Final = 8


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push.

    Args:
        manifest: What was pushed.
        sent_chunks: How many chunks went up.
        sent_bytes: And their bytes.
        there_chunks: How many were there.
        there_bytes: And their bytes.
    """

    manifest: Manifest
    sent_chunks: int
    sent_bytes: int
    there_chunks: int
    there_bytes: int


@dataclass(frozen=True, slots=True)
class PushProgress:
    """How far a push is, for whoever shows it."""

    doing: str
    done_bytes: int
    total_bytes: int


async def push(
    listing: Listing,
    paths: Mapping[str, Path],
    store: WeightStore,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Callable[[PushProgress], None] | None = None,
) -> Pushed:
    """Push all files of a version.

    Args:
        listing: Which files, with their digests.
        paths: Where each of them lies.
        store: Where to.
        chunk_bytes: Size of a chunk.
        progress: Called on the way.

    Raises:
        DigestMismatch: A file is not what its listing says.
        RefusedFormat, BrokenWeights: A file is of a format that is not opened.
        Conflict: The version is there with other weights.
        Unavailable: The store does not take them.
    """
    manifest = await asyncio.to_thread(_manifest, listing.check(), paths, chunk_bytes, progress)
    chunks = manifest.chunks
    missing = await store.lacks(chunks)
    total = sum(chunks[digest] for digest in missing)
    sent = 0
    lanes = asyncio.Semaphore(PUTS)
    wheres = _wheres(manifest, paths)

    async def send(digest: str) -> None:
        nonlocal sent
        async with lanes:
            path, at, size = wheres[digest]
            data = await asyncio.to_thread(_read, path, at, size)
            if hashlib.sha256(data).hexdigest() != digest:
                raise DigestMismatch(f"{path} has changed while it was read: push it again")
            await store.put_chunk(digest, data)
            sent += size
            if progress is not None:
                progress(PushProgress("sending", sent, total))

    try:
        async with asyncio.TaskGroup() as group:
            for digest in missing:
                group.create_task(send(digest))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    await store.publish(manifest)
    return Pushed(
        manifest,
        len(missing),
        total,
        len(chunks) - len(missing),
        sum(chunks.values()) - total,
    )


def _manifest(
    listing: Listing,
    paths: Mapping[str, Path],
    chunk_bytes: int,
    progress: Callable[[PushProgress], None] | None,
) -> Manifest:
    files: dict[str, ChunkedFile] = {}
    done = 0
    for name, entry in sorted(listing.files.items()):
        check_content(name, paths[name])
        files[name] = cut(paths[name], chunk_bytes)
        if files[name].sha256 != entry.sha256:
            raise DigestMismatch(
                f"{name} of {listing.model} has the SHA-256 {files[name].sha256}, and its listing "
                f"says {entry.sha256}: pull it again"
            )
        done += entry.size_bytes
        if progress is not None:
            progress(PushProgress(f"reading {name}", done, listing.size_bytes))
    # Where they came from may hold a secret, or a path of this machine, and is no part of them.
    return Manifest(listing.model, listing.version, chunk_bytes, files)


def _wheres(manifest: Manifest, paths: Mapping[str, Path]) -> dict[str, tuple[Path, int, int]]:
    return {
        digest: (paths[name], at, size)
        for name, file in manifest.files.items()
        for digest, at, size in spans(file, manifest.chunk_bytes)
    }


def _read(path: Path, at: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, at)
    finally:
        os.close(fd)
