"""Weights that were pushed: from who has them into this machine's cache.

    manifest = await source.manifest("acme/poster", "2026-11-01")
    listing = await fetch(manifest, cache, source, clock)

All workers of a machine share what comes: whoever holds a file's lock fetches it, and the others
wait for that. Whoever may trust the manifest (`swell.weights.provided`) uses a file as soon as its
chunks are there; it enters the cache under its own digest once it was read whole.

All of it happens in threads of its own, which stop within a fraction of a second when `fetch` is
cancelled. Files are open only while they come or are read whole, some at a time: however many a
model has, this process does not run out of descriptors.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from swell.core.clock import Clock
from swell.weights import descriptors
from swell.weights.addresses import Addresses, Source
from swell.weights.aside import to_the_end
from swell.weights.cache import CacheFull, WeightCache
from swell.weights.chunks import Manifest
from swell.weights.gather import Gathering, Terms
from swell.weights.growing import GivenUp, Growing
from swell.weights.listing import Listing
from swell.weights.noted import note_manifest

#: A file that another process fetches is looked at so often, in seconds; many are less often.
LOCK_EVERY_S: Final = 0.1
_LOOKS: Final = 5000
_MOST_WAIT_S: Final = 2.0

#: Files that come at once, where so many may be open.
MOST_FILES: Final = 128

#: A file that comes is open with its notes and two locks.
_DESCRIPTORS: Final = 4

#: How nice whoever reads files whole is to models that load meanwhile.
_NICE: Final = 19

_File = tuple[str, Growing]


@dataclass(frozen=True, slots=True)
class Wisher:
    """Who wants weights.

    Args:
        moved: Called with the bytes that have come over the network, by any thread.
        tell: Called with an event and what is to say of it, for the log, by any thread.
        sparing: Digests of what else he needs, which makes no room for these.
    """

    moved: Callable[[int], None] | None = None
    tell: Callable[..., None] = lambda event, **facts: None
    sparing: Collection[str] = ()


async def fetch(
    manifest: Manifest,
    cache: WeightCache,
    source: Source,
    clock: Clock,
    *,
    origin: Manifest | None = None,
    terms: Terms | None = None,
    wisher: Wisher | None = None,
) -> Listing:
    """Have all files of a manifest in the cache, and note them there.

    Args:
        manifest: Of `source`, or what is wanted of one.
        origin: The one of `source`, by whose digest it knows the chunks; None for the same.
        cache: Where to.
        source: Who knows where the chunks are.
        clock: For time-outs.
        terms: How servers are treated.
        wisher: Who hears of it, and what else he needs.

    Raises:
        PullFailed: They cannot be had; what has come is kept.
        DigestMismatch, RefusedFormat, BrokenWeights: A content is not what it should be.
        CacheFull: There is no room.
        CacheUnusable: The cache cannot be written to.
    """
    stopping, wisher = threading.Event(), wisher or Wisher()
    addresses = Addresses(source, origin or manifest, list(manifest.chunks), stopping, wisher.tell)
    work = _Fetch(manifest, cache, addresses, clock, stopping, terms, wisher)
    await to_the_end(work.run, stopping.set)
    return manifest.listing


class _Fetch:
    """One fetch, in a thread that may wait."""

    def __init__(
        self,
        manifest: Manifest,
        cache: WeightCache,
        addresses: Addresses,
        clock: Clock,
        stopping: threading.Event,
        terms: Terms | None,
        wisher: Wisher,
    ) -> None:
        self._manifest = manifest
        self._listing = manifest.listing
        self._cache = cache
        self._addresses = addresses
        self._clock = clock
        self._stopping = stopping
        self._terms = terms
        self._moved = wisher.moved
        self._keys = {name: manifest.file_key(name) for name in manifest.files}
        digests = (file.sha256 for file in manifest.files.values())
        self._sparing = {*wisher.sparing, *digests, *self._keys.values()}
        #: What is to be looked at, and what others fetched when it was.
        self._names: deque[str] = deque()
        self._others: list[str] = []
        #: What each file still needs, by its digest, that had not begun to come.
        self._needed: dict[str, int] = {}

    def run(self) -> None:
        """Bring it all; blocks. Raises as `fetch`, and `GivenUp`."""
        note_manifest(self._cache, self._manifest)
        # Once more where something was evicted meanwhile.
        while missing := self._cache.missing(self._listing):
            self._names.extend(missing)
            self._count()
            with _Keeper() as keeper:
                while self._names or self._others:
                    self._some(keeper)
        self._cache.touch(self._listing)
        self._cache.note(self._listing)
        if self._cache.budget_bytes is not None:
            self._cache.evict(self._cache.budget_bytes, self._sparing)

    def _some(self, keeper: "_Keeper") -> None:
        """Bring some of the files, or wait for others who do."""
        if self._stopping.is_set():
            raise GivenUp(self._manifest.model)
        with contextlib.ExitStack() as opened:
            files = self._open(opened)
            if files:
                self._make_room()
                gathering = Gathering(
                    files,
                    self._manifest,
                    self._addresses,
                    self._clock,
                    stopping=self._stopping,
                    terms=self._terms,
                    moved=self._moved,
                )
                gathering.run()
                keeper.keep(files, opened.pop_all())
        if not self._names:
            if not files and not keeper.finish():
                self._stopping.wait(LOCK_EVERY_S + min(len(self._others) / _LOOKS, _MOST_WAIT_S))
            self._names.extend(self._others)
            self._others.clear()

    def _make_room(self) -> None:
        try:
            self._cache.make_room(sum(self._needed.values()), self._sparing)
        except CacheFull:
            # Others may have begun to fetch some of it, which counts already.
            self._count()
            self._cache.make_room(sum(self._needed.values()), self._sparing)

    def _count(self) -> None:
        """Note what is missing, besides what counts already since it has begun to come."""
        entries = self._listing.files
        self._needed = {
            entries[name].sha256: entries[name].size_bytes
            - self._cache.begun_bytes(self._keys[name])
            for name in (*self._names, *self._others)
            if not self._cache.has(entries[name])
        }

    def _open(self, opened: contextlib.ExitStack) -> list[_File]:
        """Lock and open files that nobody else fetches, as many as may be open at once."""
        # Twice: some come while others are read whole.
        most = max(1, min(MOST_FILES, descriptors.spare() // (2 * _DESCRIPTORS)))
        files: list[_File] = []
        while self._names and len(files) < most:
            name = self._names.popleft()
            entry = self._listing.files[name]
            with contextlib.ExitStack() as held:
                if not self._locked(name, held):
                    self._others.append(name)
                    continue
                # It is here, or counts from now on as what has begun to come.
                self._needed.pop(entry.sha256, None)
                # Somebody may have fetched it before the lock was had.
                if not self._cache.has(entry):
                    growing = Growing(self._cache, self._manifest, name, self._stopping)
                    held.callback(growing.close)
                    files.append((name, growing))
                    opened.push(held.pop_all())
        return files

    def _locked(self, name: str, held: contextlib.ExitStack) -> bool:
        """Take the lock of a file's content, as every fetch does, and that of where it grows."""
        try:
            for key in (self._listing.files[name].sha256, self._keys[name]):
                held.enter_context(self._cache.locked(key, wait=False))
        except BlockingIOError:
            return False
        return True


class _Keeper:
    """Takes files whose chunks are there into the cache, while others come.

    Whoever may trust the chunks uses them already.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def keep(self, files: Sequence[_File], opened: contextlib.ExitStack) -> None:
        """Begin to keep files, once those before them are; close them at the end.

        Raises:
            SwellError: Those before could not be kept.
        """
        with opened:
            self.finish()
            self._thread = threading.Thread(
                target=self._work, args=(files, opened.pop_all()), name="keep", daemon=True
            )
            self._thread.start()

    def finish(self) -> bool:
        """Wait until all are kept; return whether there were any.

        Raises:
            SwellError: They could not be kept.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        thread.join()
        if self._error is not None:
            raise self._error
        return True

    def _work(self, files: Sequence[_File], opened: contextlib.ExitStack) -> None:
        # Its own thread: what it is called with stays as it is.
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            with opened:
                for _, growing in files:
                    growing.keep()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish()
        except BaseException:
            # What ended all is told, and not what came of it.
            if kind is None:
                raise
