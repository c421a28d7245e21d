"""Fetches the LoRAs of tasks into the weights cache.

A task's LoRAs are fetched from its lease on; the task runs once they are there. Each file is
fetched once, however many tasks need it at a time. It is stored by its content, so the model
process gets a path, and stays at least until the last of these tasks has ended.

A LoRA is named by a URL, with `#sha256=…` to pin its content; by `sha256:…`, the digest of a file
in the cache; or by weights that were pulled (`acme/style`, `acme/style@v2`,
`acme/style@v2/ink.safetensors`). Files of the backend never change under their URL. Others may, so
they are fetched again after a while.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, TooLarge
from swell.protocol.worker_messages import Dispatch
from swell.weights.cache import DigestMismatch, InUse, NotCached, PartialFile, WeightCache
from swell.weights.formats import PICKLE_SUFFIXES, check_name
from swell.weights.known_urls import recall, remember
from swell.weights.lora import WrongLora, check_lora
from swell.weights.weight_errors import RefusedFormat
from swell.weights.weight_index import Entry, InvalidListing, Listing, check_digest

#: Most LoRAs of a task. Two or three are usual.
MOST_LORAS: Final = 16

#: A file from elsewhere is fetched again after this time, in seconds.
FRESH_S: Final = 600.0

#: Files fetched at a time.
FETCHES: Final = 4

#: Bytes that are buffered before a thread hashes and writes them.
BLOCK_BYTES: Final = 4 << 20

_NAME: Final = re.compile(
    r"(?P<model>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<version>[\w-][\w.-]*))?(?:/(?P<file>.+))?"
)

#: Name of a file in the listing that holds it.
_FILE: Final = "lora.safetensors"


class HeldLora:
    """A LoRA in the cache, which is not evicted until it is closed.

    Args:
        digest: SHA-256 of its content.
        in_use: The hold on it.
    """

    def __init__(self, digest: str, in_use: InUse) -> None:
        self.digest = digest
        self.path = str(in_use.paths[_FILE])
        self._in_use = in_use

    def close(self) -> None:
        """Release it."""
        self._in_use.close()


class Loras:
    """Fetches LoRAs.

    Args:
        dispatch: Reads URLs.
        cache: The weights cache; None if the worker has none.
        clock: The time.
        limit_bytes: Largest file that is accepted.
    """

    def __init__(
        self, dispatch: Dispatch, cache: WeightCache | None, clock: Clock, limit_bytes: int
    ) -> None:
        self._dispatch = dispatch
        self._cache = cache
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._slots = asyncio.Semaphore(FETCHES)
        #: Downloads in progress, by key.
        self._flights: dict[str, asyncio.Task[Entry]] = {}

    async def bring(
        self, names: Sequence[str], own_files: Mapping[str, str]
    ) -> dict[str, HeldLora]:
        """Return the LoRAs of a task, in the cache and held, by their names in its input.

        Args:
            names: The names in the input.
            own_files: See `LeasedTask.own_files`.

        Raises:
            InvalidInput, WrongLora, TooLarge, NotCached: One cannot be used; the text says why.
            SwellError: One could not be fetched.
        """
        if len(names) > MOST_LORAS:
            raise InvalidInput(f"{len(names)} LoRAs are named: give at most {MOST_LORAS}")
        coming = (self._one(name, own_files) for name in names)
        brought = await asyncio.gather(*coming, return_exceptions=True)
        held = {n: one for n, one in zip(names, brought, strict=True) if isinstance(one, HeldLora)}
        error = next((one for one in brought if isinstance(one, BaseException)), None)
        if error is not None:
            for lora in held.values():
                lora.close()
            raise error
        return held

    async def close(self) -> None:
        """Cancel all downloads."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _one(self, name: str, own_files: Mapping[str, str]) -> HeldLora:
        if self._cache is None:
            raise NotCached("this worker keeps no weights, so it takes no LoRAs")
        try:
            try:
                entry = await self._found(self._cache, name, own_files)
                return await asyncio.to_thread(_hold, self._cache, entry)
            except NotCached:
                # It may have been evicted before it was held.
                entry = await self._found(self._cache, name, own_files)
                return await asyncio.to_thread(_hold, self._cache, entry)
        except (DigestMismatch, InvalidListing) as error:
            raise InvalidInput(error.detail) from error

    async def _found(self, cache: WeightCache, name: str, own_files: Mapping[str, str]) -> Entry:
        if "://" not in name and not name.startswith("/"):
            return await asyncio.to_thread(_kept, cache, name)
        url, _, digest = name.partition("#")
        own = own_files.get(name) or own_files.get(url)
        address = _Address(url if own is None else own, _told(url), own is not None, digest)
        flight = self._flights.get(address.key)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fetch(cache, address))
            self._flights[address.key] = flight
            flight.add_done_callback(partial(self._ended, address.key))
        # A caller that is cancelled does not cancel it for others.
        return await asyncio.shield(flight)

    def _ended(self, key: str, flight: "asyncio.Task[Entry]") -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # all callers may be gone

    async def _fetch(self, cache: WeightCache, address: "_Address") -> Entry:
        known = await asyncio.to_thread(self._known, cache, address)
        if known is not None:
            return known
        async with self._slots, cache.partials.await_lock(address.place, self._clock):
            # Another worker may have fetched it.
            known = await asyncio.to_thread(self._known, cache, address)
            if known is None:
                known = await self._download(cache, address)
                await asyncio.to_thread(remember, cache, address.key, known, self._clock.now())
            return known

    def _known(self, cache: WeightCache, address: "_Address") -> Entry | None:
        if address.sha256 is not None:
            return cache.entry(address.sha256)
        found = recall(cache, address.key)
        if found is None:
            return None
        entry, at = found
        # Below 0 where the clock was ahead.
        age = self._clock.now() - at
        is_fresh = address.is_own or timedelta(0) <= age < timedelta(seconds=FRESH_S)
        return entry if is_fresh else None

    async def _download(self, cache: WeightCache, address: "_Address") -> Entry:
        growing = await asyncio.to_thread(cache.partials.open, address.place)
        try:
            # Drop the rest of a failed download.
            growing.restart()
            await self._read(cache, address, growing)
            await asyncio.to_thread(check_lora, growing.path, address.told)
            return await asyncio.to_thread(cache.keep, growing, _FILE, address.sha256)
        finally:
            growing.close()
            growing.path.unlink(missing_ok=True)

    async def _read(self, cache: WeightCache, address: "_Address", growing: PartialFile) -> None:
        async with self._dispatch.open(address.url) as incoming:
            self._check_size(incoming.size_bytes or 0, address.told)
            await asyncio.to_thread(cache.make_room, incoming.size_bytes or 0)
            block = bytearray()
            async for part in incoming.parts:
                block += part
                self._check_size(growing.size_bytes + len(block), address.told)
                if len(block) >= BLOCK_BYTES:
                    full, block = block, bytearray()
                    await asyncio.to_thread(growing.write, full)
            await asyncio.to_thread(growing.write, block)

    def _check_size(self, size_bytes: int, told: str) -> None:
        if size_bytes > self._limit_bytes:
            raise TooLarge(
                f"the LoRA {told} is larger than {self._limit_bytes:,} bytes: give a smaller one, "
                "such as one of lower rank or in half precision (worker.max_lora_bytes)"
            )


class _Address:
    """The place of a file.

    Args:
        url: The URL that is read.
        told: The same for messages, without secrets.
        is_own: Whether the file is the backend's.
        digest: The fragment of the URL.
    """

    def __init__(self, url: str, told: str, is_own: bool, digest: str) -> None:
        self.url = url
        self.told = told
        self.is_own = is_own
        self.sha256: str | None = None
        if digest:
            if not digest.startswith("sha256="):
                raise InvalidInput(f"{told}: write #sha256=… behind the URL, or nothing")
            self.sha256 = check_digest(digest.removeprefix("sha256="), told)
        path = unquote(urlsplit(url).path)
        if path.lower().endswith(PICKLE_SUFFIXES):
            try:
                check_name(PurePosixPath(path).name)
            except RefusedFormat as error:
                raise WrongLora(error.detail) from None
        # Signatures in the backend's URLs change.
        text = urlsplit(url).path if is_own else url
        self.key = hashlib.sha256(f"{is_own} {text} {digest}".encode()).hexdigest()
        #: Where it is written, and its lock: one of 256, since each leaves a file.
        self.place = hashlib.sha256(self.key[:2].encode()).hexdigest()


def _told(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])[:200]


def _hold(cache: WeightCache, entry: Entry) -> HeldLora:
    in_use = cache.use(Listing("loras/file", "now", {_FILE: entry}))
    if cache.budget_bytes is not None:
        # Files that are fetched at a time do not know each other's size.
        cache.evict(cache.budget_bytes)
    return HeldLora(entry.sha256, in_use)


def _kept(cache: WeightCache, name: str) -> Entry:
    """Return a file in the cache, by its digest or by the name of pulled weights.

    Raises:
        NotCached: There is no such file.
        InvalidInput: The name is invalid, or means several files.
        WrongLora: The file is not a LoRA.
    """
    if name.startswith("sha256:"):
        entry = cache.entry(check_digest(name, "a LoRA"))
        told = name[:19]
    else:
        entry = _listed(cache, name)
        told = name[:200]
    if entry is None:
        raise NotCached(
            f"{told} is not in this worker's weights cache: give the URL of a .safetensors file, "
            "or have it pulled there (swell models pull)"
        )
    check_lora(cache.path(entry.sha256), told)
    return entry


def _listed(cache: WeightCache, name: str) -> Entry | None:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidInput(
            f"{name[:200]!r} names no LoRA: give a URL, sha256:… of a file that the worker has, or "
            "owner/name of weights that were pulled there"
        )
    versions = [found["version"]] if found["version"] else cache.listings.versions(found["model"])
    if len(versions) > 1:
        told = ", ".join(f"{found['model']}@{version}" for version in versions[:10])
        raise InvalidInput(f"{name} has several versions: give one of {told}")
    try:
        files = cache.listings.get(found["model"], *versions).files if versions else {}
    except NotCached:
        return None
    weights = {each: entry for each, entry in files.items() if each.endswith(".safetensors")}
    if found["file"] is None and len(weights) > 1:
        raise InvalidInput(f"{name} has several files: add one, such as /{next(iter(weights))}")
    wanted = found["file"] or next(iter(weights), "")
    return weights.get(wanted)
