"""LoRAs that tasks name, brought to the weights cache before the model needs them.

A task's LoRAs are fetched from the moment it is leased, while others are drawn; it joins them once
its files are there. A file is fetched once, for however many tasks want it at a time, and lies in
the cache by its content, so that the model process gets a path. It stays there at least until the
last of these tasks has ended.

What names a file is a URL, as for any other input, with `#sha256=…` where its content must be just
that; `sha256:…`, the digest of a file that the cache has; or the name of a listing that was pulled
(`acme/style`, `acme/style@v2`, `acme/style@v2/ink.safetensors`). Files of the backend never change
under their URL. What lies elsewhere may, so its address is asked again after a while.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, TooLarge
from swell.protocol.worker_messages import Dispatch
from swell.weights.cache import DigestMismatch, InUse, NotCached, Partial, WeightCache
from swell.weights.formats import PICKLE_SUFFIXES, check_name
from swell.weights.lora import WrongLora, check_lora
from swell.weights.weight_errors import RefusedFormat
from swell.weights.weight_index import Entry, InvalidListing, Listing, check_digest

#: LoRAs of one task. People put on two or three; more of them would only fill the disk.
MOST_LORAS: Final = 16

#: A file that is not the backend's is asked for again after so long, in seconds.
FRESH_S: Final = 600.0

#: Files fetched side by side.
FETCHES: Final = 4

#: A file that another worker fetches is looked at so often, in seconds.
LOCK_EVERY_S: Final = 0.1

#: Bytes gathered before they are hashed and written by a thread.
BLOCK_BYTES: Final = 4 << 20

_NAME: Final = re.compile(
    r"(?P<model>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<version>[\w-][\w.-]*))?(?:/(?P<file>.+))?"
)

#: Under which name a file stands in the listing that holds it.
_FILE: Final = "lora.safetensors"


class HeldLora:
    """A LoRA in the cache, which nothing evicts until it is closed.

    Args:
        digest: SHA-256 of its content.
        in_use: What holds it.
    """

    def __init__(self, digest: str, in_use: InUse) -> None:
        self.digest = digest
        self.path = str(in_use.paths[_FILE])
        self._in_use = in_use

    def close(self) -> None:
        """Let it go."""
        self._in_use.close()


class Loras:
    """Brings LoRAs.

    Args:
        dispatch: Reads URLs.
        cache: Where to; None where a worker has none.
        clock: The time.
        limit_bytes: Largest file that is taken.
    """

    def __init__(
        self, dispatch: Dispatch, cache: WeightCache | None, clock: Clock, limit_bytes: int
    ) -> None:
        self._dispatch = dispatch
        self._cache = cache
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._slots = asyncio.Semaphore(FETCHES)
        #: Files on their way, by what names them.
        self._flights: dict[str, asyncio.Task[Entry]] = {}

    async def bring(
        self, names: Sequence[str], own_files: Mapping[str, str]
    ) -> dict[str, HeldLora]:
        """Return the files of a task, in the cache and held, by what names them in its input.

        Args:
            names: What the input names.
            own_files: See `LeasedTask.own_files`.

        Raises:
            InvalidInput, WrongLora, TooLarge, NotCached: One cannot be used; the text says why.
            SwellError: One cannot be fetched.
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
        """End what is on its way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _one(self, name: str, own_files: Mapping[str, str]) -> HeldLora:
        if self._cache is None:
            raise NotCached("this worker keeps no weights, so it takes no LoRAs")
        try:
            return await self._held(self._cache, name, own_files)
        except NotCached:
            # Another file may have needed its room before it was held.
            return await self._held(self._cache, name, own_files)
        except (DigestMismatch, InvalidListing) as error:
            raise InvalidInput(error.detail) from error

    async def _held(self, cache: WeightCache, name: str, own_files: Mapping[str, str]) -> HeldLora:
        entry = await self._found(cache, name, own_files)
        return await asyncio.to_thread(_hold, cache, entry)

    async def _found(self, cache: WeightCache, name: str, own_files: Mapping[str, str]) -> Entry:
        if "://" not in name and not name.startswith("/"):
            return await asyncio.to_thread(_kept, cache, name)
        url, _, digest = name.partition("#")
        own = own_files.get(name) or own_files.get(url)
        address = _Address(url if own is None else own, _told(url), own is not None, digest)
        key = address.key
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fly(cache, address))
            self._flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        # Whoever stops waiting does not stop it for the others.
        return await asyncio.shield(flight)

    def _landed(self, key: str, flight: "asyncio.Task[Entry]") -> None:
        del self._flights[key]
        if not flight.cancelled():
            # It may be that nobody waits for it any more.
            flight.exception()

    async def _fly(self, cache: WeightCache, address: "_Address") -> Entry:
        known = await asyncio.to_thread(self._known, cache, address)
        if known is not None:
            return known
        async with self._slots, self._locked(cache, address.place):
            # Another worker may have fetched it meanwhile.
            known = await asyncio.to_thread(self._known, cache, address)
            if known is None:
                known = await self._download(cache, address)
                now = self._clock.now()
                await asyncio.to_thread(cache.remember, address.key, known, now)
            return known

    def _known(self, cache: WeightCache, address: "_Address") -> Entry | None:
        if address.sha256 is not None:
            return cache.entry(address.sha256)
        found = cache.recall(address.key)
        if found is None:
            return None
        entry, at = found
        # Below 0 where the clock was ahead.
        age = self._clock.now() - at
        is_fresh = address.is_own or timedelta(0) <= age < timedelta(seconds=FRESH_S)
        return entry if is_fresh else None

    @contextlib.asynccontextmanager
    async def _locked(self, cache: WeightCache, key: str) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(cache.locked(key, wait=False))
                    break
                except BlockingIOError:
                    await self._clock.sleep(LOCK_EVERY_S)
            yield

    async def _download(self, cache: WeightCache, address: "_Address") -> Entry:
        growing = await asyncio.to_thread(cache.partial, address.place)
        try:
            # What is left of another file that broke off.
            growing.restart()
            await self._read(cache, address, growing)
            await asyncio.to_thread(check_lora, growing.path, address.told)
            return await asyncio.to_thread(cache.keep, growing, _FILE, address.sha256)
        finally:
            growing.close()
            growing.path.unlink(missing_ok=True)

    async def _read(self, cache: WeightCache, address: "_Address", growing: Partial) -> None:
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
    """Where a file lies.

    Args:
        url: What is read.
        told: The same for people: nothing that opens it.
        is_own: Whether the backend has it.
        digest: What stood behind the `#`.
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
            raise _refused(PurePosixPath(path).name)
        # A signature is another one each time.
        text = urlsplit(url).path if is_own else url
        self.key = hashlib.sha256(f"{is_own} {text} {digest}".encode()).hexdigest()
        #: Where it grows, and its lock: one of 256, since each leaves a file.
        self.place = hashlib.sha256(self.key[:2].encode()).hexdigest()


def _refused(name: str) -> WrongLora:
    try:
        check_name(name)
    except RefusedFormat as error:
        return WrongLora(error.detail)
    raise AssertionError(name)


def _told(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])[:200]


def _hold(cache: WeightCache, entry: Entry) -> HeldLora:
    in_use = cache.use(Listing("loras/file", "now", {_FILE: entry}))
    if cache.budget_bytes is not None:
        # Files that come side by side do not see each other's need.
        cache.evict(cache.budget_bytes)
    return HeldLora(entry.sha256, in_use)


def _kept(cache: WeightCache, name: str) -> Entry:
    """Return a file that the cache has, by its digest or by the name of what was pulled.

    Raises:
        NotCached: There is no such file.
        InvalidInput: The name is none, or means several files.
        WrongLora: It is no LoRA.
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
    versions = [found["version"]] if found["version"] else cache.versions(found["model"])
    if len(versions) > 1:
        told = ", ".join(f"{found['model']}@{version}" for version in versions[:10])
        raise InvalidInput(f"{name} has several versions: give one of {told}")
    try:
        files = cache.listing(found["model"], *versions).files if versions else {}
    except NotCached:
        return None
    weights = {each: entry for each, entry in files.items() if each.endswith(".safetensors")}
    if found["file"] is None and len(weights) > 1:
        raise InvalidInput(f"{name} has several files: add one, such as /{next(iter(weights))}")
    wanted = found["file"] or next(iter(weights), "")
    return weights.get(wanted)
