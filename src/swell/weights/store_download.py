"""Downloads pushed weights into this machine's cache.

    listing = await source.manifest("acme/poster", "2026-11-01")
    await fetch(listing, cache, source, clock)

Files are read in ranges, several at once. The ranges of a file are appended in order to a partial
file, so an interrupted download resumes where it ended. A file with the right SHA-256 enters the
cache at once, and is synced to the disk afterwards: models can load it earlier, from memory.

Workers of one machine share the cache. The one that holds the lock of a file downloads it, and the
others wait. A cancelled fetch ends within a fraction of a second: requests run in threads that are
abandoned, and writes in threads that are awaited.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from functools import partial
from typing import Any, Final

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.weights.cache import DigestMismatch, PartialFile, PullFailed, WeightCache
from swell.weights.detached_threads import aside, to_the_end
from swell.weights.store_reader import MOST_URLS, Expired, Place, Source, until_answered
from swell.weights.weight_index import Entry, Listing

#: Bytes of a request.
RANGE_BYTES = 16 << 20

#: Concurrent requests of a fetch. Each holds its range in memory until it is written.
REQUESTS: Final = 12

#: Files that are downloaded at once, so that small ones do not wait for round trips.
FILES: Final = 8

#: How often a range is tried, and the first and the longest wait in between, in seconds.
TRIES: Final = 8
WAIT_S = 0.25
_MOST_WAIT_S: Final = 8.0

#: A larger file enters the cache before it is on the disk.
SYNC_BYTES = 32 << 20


def _unnoticed(*_: object, **__: object) -> None:
    """Ignore an event."""


async def fetch(
    listing: Listing,
    cache: WeightCache,
    source: Source,
    clock: Clock,
    *,
    moved: Callable[[int], None] = _unnoticed,
    tell: Callable[..., None] = _unnoticed,
    sparing: Collection[str] = (),
) -> Listing:
    """Download the files of a version that the cache lacks, and note the version there.

    Args:
        listing: The files, by any names.
        cache: The cache.
        source: Where they were pushed.
        clock: Times the waits for a source that does not answer.
        moved: Called with the bytes of each range that has come.
        tell: Called with an event and its fields, for the log.
        sparing: SHA-256 of other files that must not be evicted.

    Returns:
        The listing.

    Raises:
        PullFailed: A file cannot be downloaded; the partial file is kept.
        DigestMismatch, RefusedFormat, BrokenWeights: A file has wrong content.
        CacheFull: There is no room.
        CacheUnusable: The cache cannot be written to.
    """
    sparing = {*sparing, *(entry.sha256 for entry in listing.files.values())}
    # Again if another process has evicted a file.
    while missing := {listing.files[name].sha256: name for name in cache.missing(listing)}:
        entries = {digest: listing.files[name] for digest, name in missing.items()}
        await aside(partial(_make_room, cache, entries, sparing))
        download = _Download(listing, entries, cache, source, clock, moved, tell)
        try:
            async with asyncio.TaskGroup() as group:
                for digest, name in missing.items():
                    group.create_task(download.file(name, entries[digest]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
    cache.touch(listing)
    cache.listings.write(listing)
    budget_bytes = cache.budget_bytes
    if budget_bytes is not None:
        await aside(lambda: cache.evict(budget_bytes, sparing))
    return listing


def _make_room(cache: WeightCache, entries: dict[str, Entry], sparing: Collection[str]) -> None:
    needed = sum(
        max(0, entry.size_bytes - cache.partials.size_bytes(digest))
        for digest, entry in entries.items()
    )
    cache.make_room(needed, sparing)


class _Download:
    """The missing files of a fetch."""

    def __init__(
        self,
        listing: Listing,
        entries: dict[str, Entry],
        cache: WeightCache,
        source: Source,
        clock: Clock,
        moved: Callable[[int], None],
        tell: Callable[..., None],
    ) -> None:
        self._listing = listing
        self._entries = entries
        self._cache = cache
        self._source = source
        self._clock = clock
        self._moved = moved
        self._tell = tell
        self._places: dict[str, Place] = {}
        self._locating = asyncio.Lock()
        self._files = asyncio.Semaphore(FILES)
        self._requests = asyncio.Semaphore(REQUESTS)

    async def file(self, name: str, entry: Entry) -> None:
        """Download one file, unless another worker does."""
        label = f"{name} of {self._listing.model}"
        async with self._files, self._cache.partials.await_lock(entry.sha256, self._clock):
            if not self._cache.has(entry):
                await self._file(name, label, entry)

    async def _file(self, name: str, label: str, entry: Entry) -> None:
        is_small = entry.size_bytes <= SYNC_BYTES
        # Reads and hashes the partial file of an earlier download.
        part = await aside(lambda: self._cache.partials.open(entry.sha256))
        try:
            if part.size_bytes > entry.size_bytes:
                part.restart()
            await self._append(part, label, entry)
            if part.sha256 != entry.sha256:
                # The beginning may be damaged, or it was changed on the way.
                part.restart()
                await self._append(part, label, entry)
            if part.sha256 != entry.sha256:
                found = part.sha256
                part.restart()
                raise DigestMismatch(
                    f"{label}: its SHA-256 is {found}, and {entry.sha256} was asked for. It came "
                    "wrong twice: it was changed in the store or on the way, so it is not used. "
                    "Push the model again with `swell models push --verify`, which replaces "
                    "damaged files in the store"
                )
            await to_the_end(lambda: self._cache.keep(part, name, entry.sha256, is_synced=is_small))
            if not is_small:
                # A cancellation does not stop the thread; after a kill the file counts as unsynced.
                await aside(partial(self._cache.sync, entry.sha256))
        finally:
            part.close()

    async def _append(self, part: PartialFile, label: str, entry: Entry) -> None:
        """Append the missing bytes of a file."""
        async with contextlib.aclosing(self._ranges(label, entry, part.size_bytes)) as ranges:
            async for data in ranges:
                await to_the_end(partial(part.write, data))

    async def _ranges(self, label: str, entry: Entry, start: int) -> AsyncGenerator[Any, None]:
        """Yield the rest of a file in order, with as many requests ahead as others leave room."""
        running: deque[asyncio.Task[Any]] = deque()
        try:
            while start < entry.size_bytes or running:
                while start < entry.size_bytes and not (running and self._requests.locked()):
                    await self._requests.acquire()
                    end = min(start + RANGE_BYTES, entry.size_bytes)
                    running.append(asyncio.create_task(self._range(label, entry, start, end)))
                    start = end
                data = await running[0]
                # It counts until it is written.
                yield data
                running.popleft()
                self._requests.release()
        finally:
            for task in running:
                task.cancel()
                self._requests.release()
            await asyncio.gather(*running, return_exceptions=True)

    async def _range(self, label: str, entry: Entry, start: int, end: int) -> Any:
        failures = 0
        while True:
            place = await self._place(entry.sha256)
            try:
                data = await self._source.read(place, start, end)
                if len(data) == end - start:
                    self._moved(len(data))
                    return data
                why = f"{len(data):,} bytes came instead of {end - start:,}"
            except Expired as error:
                why = str(error)
            except Unavailable as error:
                why = error.detail
            except PullFailed as error:
                raise PullFailed(f"{label}: {error.detail}") from None
            self._places.pop(entry.sha256, None)
            failures += 1
            if failures == TRIES:
                raise PullFailed(
                    f"{label}: {why} ({TRIES} tries). The partial file is kept: try again"
                )
            await asyncio.sleep(min(WAIT_S * 2.0 ** (failures - 1), _MOST_WAIT_S))

    async def _place(self, digest: str) -> Place:
        """Return where a file is; one request asks for all files that are missing."""
        async with self._locating:
            if digest not in self._places:
                others = [each for each in self._entries if each not in {*self._places, digest}]
                asked = [digest, *others][:MOST_URLS]
                places = await until_answered(
                    lambda: self._source.places(self._listing, asked), self._clock, self._tell
                )
                self._places.update(zip(asked, places, strict=True))
            return self._places[digest]
