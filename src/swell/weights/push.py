"""Uploads weights to the store that workers download them from.

Only files that the store lacks are uploaded. The manifest of a version is written last, so a
version exists once all its files do. An interrupted push resumes with the next one.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from swell.weights.cache import DigestMismatch
from swell.weights.files import open_file
from swell.weights.formats import check_content
from swell.weights.store import Found, WeightStore
from swell.weights.weight_index import Entry, Listing

#: Files that are uploaded, or read to be verified, at once. The parts of each are uploaded in
#: parallel too.
_FILES: Final = 4

#: Concurrent requests for the sizes of files.
_LOOKS: Final = 32

_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push.

    Args:
        listing: The pushed version.
        sent_files: How many files were uploaded.
        sent_bytes: Their bytes.
        there_files: How many files were in the store before.
        there_bytes: Their bytes.
        wrong_files: How many uploaded files replaced a damaged one.
    """

    listing: Listing
    sent_files: int
    sent_bytes: int
    there_files: int
    there_bytes: int
    wrong_files: int


@dataclass(frozen=True, slots=True)
class PushProgress:
    """The progress of a push, for display."""

    doing: str
    done_bytes: int
    total_bytes: int


async def push(
    listing: Listing,
    paths: Mapping[str, Path],
    store: WeightStore,
    *,
    verify: bool = False,
    progress: Callable[[PushProgress], None] = lambda now: None,
) -> Pushed:
    """Upload a version.

    Args:
        listing: The files, with their digests.
        paths: Where each file is on this machine.
        store: The store.
        verify: Whether to read the files in the store and compare their digests, not only their
            sizes. Damaged ones are replaced.
        progress: Called during the push.

    Raises:
        DigestMismatch: A file differs from the listing.
        InvalidRequest: A file cannot be read.
        RefusedFormat, BrokenWeights: A file has a refused format.
        Conflict: The version was pushed with other weights; nothing was uploaded.
        InvalidListing: The manifest in the store cannot be used.
        Unavailable: The store does not take a file; those that it took stay.
    """
    await _check_version(listing.check(), store)
    names = {entry.sha256: name for name, entry in sorted(listing.files.items())}
    entries = {digest: listing.files[name] for digest, name in names.items()}
    found = await _look(entries.values(), store, verify, progress)
    missing = [digest for digest in entries if found[digest] is not Found.WHOLE]
    uploads = [_Upload(names[digest], paths[names[digest]], entries[digest]) for digest in missing]
    for upload in uploads:
        upload.check()
    await _send(uploads, store, progress)
    await store.publish(listing)
    sent = sum(entries[digest].size_bytes for digest in missing)
    return Pushed(
        listing=listing,
        sent_files=len(missing),
        sent_bytes=sent,
        there_files=len(entries) - len(missing),
        there_bytes=sum(entry.size_bytes for entry in entries.values()) - sent,
        wrong_files=sum(each is Found.WRONG for each in found.values()),
    )


async def _check_version(listing: Listing, store: WeightStore) -> None:
    told = f"{listing.model}@{listing.version}"
    try:
        there = await store.manifest(listing.model, listing.version)
    except NotFound:
        return
    ours, theirs = listing.files.items(), there.files.items()
    differ = sorted({name for name, _ in ours ^ theirs})
    if differ:
        raise Conflict(
            f"{told} was pushed with other weights, and a version never changes (different files: "
            f"{', '.join(differ)[:500]}): push these as another version, such as "
            f'`version = "{listing.version}-2"` for '
            f"{listing.model} in a weights.toml"
        )


async def _look(
    entries: Iterable[Entry],
    store: WeightStore,
    verify: bool,
    progress: Callable[[PushProgress], None],
) -> dict[str, Found]:
    """Return the state of each file in the store."""
    entries = list(entries)
    found: dict[str, Found] = {}
    done, total = 0, sum(entry.size_bytes for entry in entries)
    room = asyncio.Semaphore(_FILES if verify else _LOOKS)

    async def look(entry: Entry) -> None:
        nonlocal done
        async with room:
            found[entry.sha256] = await store.look(entry.sha256, entry.size_bytes, verify=verify)
        done += entry.size_bytes
        progress(PushProgress("comparing stored files", done, total))

    await _all(look(entry) for entry in entries)
    return found


async def _send(
    uploads: list["_Upload"], store: WeightStore, progress: Callable[[PushProgress], None]
) -> None:
    done, total = 0, sum(upload.entry.size_bytes for upload in uploads)
    sent = 0
    room = asyncio.Semaphore(_FILES)

    def moved(size: int) -> None:
        nonlocal done
        done += size
        progress(PushProgress("sending", done, total))

    async def send(upload: _Upload) -> None:
        nonlocal sent
        async with room:
            await upload.send(store, moved)
            sent += 1

    try:
        await _all(send(upload) for upload in uploads)
    except Unavailable as error:
        raise Unavailable(
            f"{error.detail}. {sent} of {len(uploads)} files were uploaded and stay in the store: "
            "run the same command again"
        ) from error


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


class _Upload:
    """A file on its way to the store."""

    def __init__(self, name: str, path: Path, entry: Entry) -> None:
        self.entry = entry
        self._name = name
        self._path = path
        #: Why reading it failed: the library of a bucket raises its own error then.
        self._error: Exception | None = None

    def check(self) -> None:
        """Check that the file can be read, and is not of a refused format."""
        try:
            check_content(self._name, self._path)
        except OSError as error:
            raise self._unreadable(error) from None

    async def send(self, store: WeightStore, moved: Callable[[int], None]) -> None:
        try:
            await store.put(self.entry.sha256, self._read(moved))
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise

    async def _read(self, moved: Callable[[int], None]) -> AsyncIterator[bytes]:
        """Yield the file. Fails before the end if its content is wrong, so it is not stored."""
        found, block = hashlib.sha256(), b""
        try:
            with open_file(self._path) as file:
                while data := await asyncio.to_thread(file.read, _BLOCK_BYTES):
                    if block:
                        yield block
                        moved(len(block))
                    await asyncio.to_thread(found.update, data)
                    block = data
        except OSError as error:
            self._error = self._unreadable(error)
            raise self._error from None
        if found.hexdigest() != self.entry.sha256:
            self._error = DigestMismatch(
                f"{self._path} has the SHA-256 {found.hexdigest()}, and its listing says "
                f"{self.entry.sha256}: pull it again, or correct the listing"
            )
            raise self._error
        yield block
        moved(len(block))

    def _unreadable(self, error: OSError) -> InvalidRequest:
        return InvalidRequest(f"{self._path} cannot be read: {error.strerror or error}")
