"""Weights that were pushed: from who has them into this machine's cache.

    manifest = await source.manifest("acme/poster", "2026-11-01")
    listing = await fetch(manifest, cache, source, clock)

All workers of a machine share what comes: whoever holds a file's lock fetches it, and the others
wait for that. Whoever may trust the manifest (`swell.weights.provided`) uses a file as soon as its
chunks are there; it enters the cache under its own digest once it was read whole.
"""

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from swell.clock import Clock
from swell.weights.cache import NotCached, WeightCache
from swell.weights.chunks import Manifest, read_manifest, write_manifest
from swell.weights.gather import Gathering, Place, Terms
from swell.weights.growing import Growing
from swell.weights.listing import Listing, check_digest

__all__ = ["Source", "fetch", "note_manifest", "noted_manifest"]

#: A file that another process fetches is looked at so often, in seconds.
LOCK_EVERY_S: Final = 0.1

#: How nice whoever reads files whole is to models that load meanwhile.
_NICE: Final = 19


class Source(Protocol):
    """Who has weights that were pushed."""

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        """Return which files a version has, and of which chunks.

        Args:
            model: `owner/name`.
            version: Which of its versions.
            digest: What the manifest's SHA-256 must be; None to take the word of this source.

        Raises:
            NotFound: It was not pushed there.
            InvalidListing: It is not what it should be.
            PullFailed: It is not given to this worker.
            Unavailable: Nobody answers; it may be tried again.
        """
        ...

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        """Return where chunks are; called by any thread, and may block it.

        Raises:
            PullFailed: Nobody tells.
        """
        ...


class _Places:
    """Who knows where the chunks of one manifest are."""

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source = source
        self._manifest = manifest

    def places(self, digests: Sequence[str]) -> list[Place]:
        return self._source.places(self._manifest, digests)


async def fetch(
    manifest: Manifest,
    cache: WeightCache,
    source: Source,
    clock: Clock,
    *,
    origin: Manifest | None = None,
    terms: Terms | None = None,
    moved: Callable[[int], None] | None = None,
) -> Listing:
    """Have all files of a manifest in the cache, and note them there.

    Args:
        manifest: Of `source`, or what is wanted of one.
        origin: The one of `source`, by whose digest it knows the chunks; None for the same.
        cache: Where to.
        source: Who knows where the chunks are.
        clock: For waiting.
        terms: How servers are treated.
        moved: Told of bytes that have come, by any thread.

    Raises:
        PullFailed: They cannot be had; what has come is kept.
        DigestMismatch, RefusedFormat, BrokenWeights: A content is not what it should be.
        CacheFull: There is no room.
    """
    places = _Places(source, origin or manifest)
    await asyncio.to_thread(note_manifest, cache, manifest)
    left = cache.missing(manifest.listing)
    while left:
        with contextlib.ExitStack() as held:
            mine = [name for name in left if _locked(cache, manifest, name, held)]
            # Somebody may have fetched it before the lock was had.
            mine = [name for name in mine if name in cache.missing(manifest.listing)]
            if mine:
                await _fetch_some(mine, manifest, cache, places, clock, terms, moved)
        left = cache.missing(manifest.listing)
        if left and not mine:
            await clock.sleep(LOCK_EVERY_S)
    listing = manifest.listing
    await asyncio.to_thread(_note, cache, listing)
    return listing


def _locked(cache: WeightCache, manifest: Manifest, name: str, held: contextlib.ExitStack) -> bool:
    """Take the lock of a file's content, as every fetch does, and that of where it grows."""
    with contextlib.ExitStack() as taken:
        try:
            for key in (manifest.files[name].sha256, manifest.file_key(name)):
                taken.enter_context(cache.locked(key, wait=False))
        except BlockingIOError:
            return False
        held.push(taken.pop_all())
    return True


async def _fetch_some(
    names: Sequence[str],
    manifest: Manifest,
    cache: WeightCache,
    places: _Places,
    clock: Clock,
    terms: Terms | None,
    moved: Callable[[int], None] | None,
) -> None:
    with contextlib.ExitStack() as opened:
        files = [(name, Growing(cache, manifest, name)) for name in names]
        for _, growing in files:
            opened.callback(growing.close)
        gathering = Gathering(
            files,
            manifest.model,
            manifest.chunk_bytes,
            places,
            clock,
            terms=terms,
            moved=moved,
        )
        await asyncio.to_thread(cache.make_room, gathering.missing_bytes)
        await _to_the_end(gathering.run, gathering.stop)
        await _to_the_end(lambda: _keep(files))


async def _to_the_end(work: Callable[[], None], stop: Callable[[], None] | None = None) -> None:
    """Wait for a thread, also when cancelled: it uses files that are closed afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await asyncio.gather(running, return_exceptions=True)
        raise


def _keep(files: Sequence[tuple[str, Growing]]) -> None:
    """Take files into the cache, while whoever may trust the chunks uses them already."""
    failed: list[BaseException] = []

    def work() -> None:
        # A thread of its own: what it is called with stays as it is.
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            for _, growing in files:
                growing.keep()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="keep")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _note(cache: WeightCache, listing: Listing) -> None:
    cache.use(listing).close()
    cache.note(listing)
    if cache.budget_bytes is not None:
        cache.evict(cache.budget_bytes)


def note_manifest(cache: WeightCache, manifest: Manifest) -> None:
    """Keep a manifest under its digest."""
    path = cache.manifest_path(manifest.digest)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fresh.write_bytes(write_manifest(manifest))
    fresh.replace(path)


def noted_manifest(cache: WeightCache, digest: str) -> Manifest:
    """Return the manifest of a digest.

    Raises:
        NotCached: It is not here.
        InvalidListing: It was changed.
    """
    path = cache.manifest_path(check_digest(digest, "manifest"))
    try:
        return read_manifest(path.read_bytes(), digest)
    except FileNotFoundError:
        raise NotCached(f"the manifest {digest} is not in {cache.folder}") from None
