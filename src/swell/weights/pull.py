"""Fetch weights into the cache: from a listing, an address, a folder, or a repository of a hub.

    listing = await pull("models/weights.toml", cache, progress=show)
    with cache.use(listing) as held:
        weights = load(held.paths["unet/model.safetensors"])

What is there already is not fetched again. A fetch that broke off goes on where it stopped
(`Range`, with `If-Range` so that a file that has changed meanwhile starts anew). Each file is
hashed as it comes, and enters the cache only if its digest is the one asked for.

Source:
    RFC 9110, sections 13.1.5 and 14: ranges and their conditions. `hf://owner/name@commit`
    follows the Hugging Face Hub: files at `/{owner}/{name}/resolve/{commit}/{path}`
    (https://huggingface.co/docs/xet/file-id), which may redirect; the commit of a branch or tag at
    `/api/models/{owner}/{name}/revision/{branch}`, and its files with sizes and, for large ones,
    their SHA-256 as `lfs.oid`, for small ones their name in git as `oid`, at
    `/api/models/{owner}/{name}/tree/{commit}`; why it refuses in `X-Error-Code` and
    `X-Error-Message` (https://huggingface.co/docs/hub/api, and the requests of huggingface_hub
    2.4).
"""

import asyncio
import contextlib
import fnmatch
import hashlib
import re
import urllib.parse
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from swell.core.clock import Clock, SystemClock
from swell.core.errors import SwellError
from swell.weights.cache import DigestMismatch, Partial, PullFailed, WeightCache
from swell.weights.formats import check_name, is_allowed
from swell.weights.listing import (
    Entry,
    InvalidListing,
    Listing,
    Wanted,
    WantedFile,
    check_digest,
    read_listing,
)

__all__ = ["HUB", "Hub", "Progress", "PullFailed", "pull"]

#: Files fetched side by side.
FETCHES: Final = 4

#: Tries of one file without a single new byte.
TRIES: Final = 5

#: Wait before the second try, doubled for each further one, in seconds.
WAIT_S: Final = 0.5

#: A file that another process fetches is looked at so often, in seconds.
LOCK_EVERY_S: Final = 0.2

#: Nothing heard for so long counts as broken off, in seconds.
SILENCE_S: Final = 60.0

#: Bytes gathered before they are hashed and written by a thread.
BLOCK_BYTES: Final = 4 << 20

#: A text that comes packed has at most so many bytes, so that nothing swells without end.
MAX_TEXT_BYTES: Final = 256 << 20

#: Pages of a hub's list of files, of which each has up to 1,000.
MAX_PAGES: Final = 100

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

_HUB_REFERENCE: Final = re.compile(
    r"hf:(?://)?(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:@(?P<branch>[^/@]+))?(?:/(?P<path>.+))?"
)


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub that speaks the Hugging Face Hub's HTTP API.

    Args:
        endpoint: Its address.
        token: For private and gated repositories; sent to the hub only, never where it redirects.
    """

    endpoint: str = "https://huggingface.co"
    token: str | None = field(default=None, repr=False)


HUB: Final = Hub()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is, for whoever shows it.

    Args:
        name: The file that has grown, or is there now.
        file_bytes: What there is of it.
        done_bytes: What there is of all files, cached ones included.
        total_bytes: What all files will have; None while one of them is not known.
        files_done: How many files are whole.
        files: How many there are.
    """

    name: str
    file_bytes: int
    done_bytes: int
    total_bytes: int | None
    files_done: int
    files: int


async def pull(
    reference: str | Path,
    cache: WeightCache,
    *,
    progress: Callable[[Progress], None] | None = None,
    include: Sequence[str] = (),
    hub: Hub = HUB,
    clock: Clock | None = None,
    held: contextlib.ExitStack | None = None,
) -> Listing:
    """Fetch what a reference names, and note it in the cache.

    Args:
        reference: One of

            - a listing, `weights.toml` or `weights.json` (see `swell.weights.listing`)
            - a folder or a file, as a path or `file:` address
            - `https://host/path/model.safetensors#sha256=…`; plain `http` on this machine only
            - `hf://owner/name@branch` for the files of a repository, `hf://owner/name@branch/path`
              for one of them; a commit or a tag will do, `main` if left out. The same without //

        cache: Where to.
        progress: Called on the way, at most once per block of 4 MiB and file.
        include: Patterns such as `unet/*.safetensors`; only names that match one are fetched.
        hub: Where `hf://` leads.
        clock: For waiting between tries.
        held: Holds what was pulled until it is closed; in its place, nothing is noted. For files
            that get names elsewhere.

    Returns:
        The listing: model, version, and digest and size of each file.

    Raises:
        InvalidListing: The reference cannot be understood, or names no file.
        RefusedFormat: A file is of a format that is not opened, a pickle above all.
        DigestMismatch, BrokenWeights: A content is not what it should be.
        PullFailed: The other side cannot be reached, or has no such file.
        CacheFull: There is no room.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        source = _Source(session, hub, clock or SystemClock())
        wanted = await source.resolve(str(reference))
        files = {name: file for name, file in wanted.files.items() if _matches(name, include)}
        if not files:
            raise InvalidListing(f"{reference} has no weights{_told(include)}")
        fetch = _Fetch(cache, source, clock or SystemClock(), _Meter(files, progress))
        # What nothing names yet is held, or it could go before it is noted.
        with contextlib.ExitStack() as own:
            entries = await fetch.all(files, own if held is None else held)
            listing = Listing(
                wanted.model, wanted.version or _sum(entries), entries, str(reference)
            )
            if held is None:
                await asyncio.to_thread(_note, cache, listing)
    return listing


def _note(cache: WeightCache, listing: Listing) -> None:
    # Of a long pull the first files have come long ago: whoever prunes meanwhile would take them.
    cache.use(listing).close()
    cache.note(listing)


def _matches(name: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatch.fnmatchcase(name, pattern) for pattern in include)


def _told(include: Sequence[str]) -> str:
    return f" that match {' or '.join(include)}" if include else ""


def _sum(entries: Mapping[str, Entry]) -> str:
    """Return a version made from the content, for sources that have none."""
    text = "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(entries.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- what a reference means ----------------------------------------------------------------------


class _Source:
    """Turns references into addresses and opens them."""

    def __init__(self, session: aiohttp.ClientSession, hub: Hub, clock: Clock) -> None:
        self._session = session
        self._hub = hub
        self._clock = clock

    async def resolve(self, reference: str) -> Wanted:
        if reference.startswith("hf:"):
            return await self._from_hub(reference)
        if reference.startswith(("https://", "http://")):
            return _single(reference)
        path = _local_path(reference)
        if path.suffix in (".toml", ".json") and path.is_file():
            return await asyncio.to_thread(read_listing, path)
        return await asyncio.to_thread(_local, path, reference)

    async def _from_hub(self, reference: str) -> Wanted:
        found = _parts(reference)
        _check_https(self._hub.endpoint)
        model, path = f"{found['owner']}/{found['name']}", found["path"]
        branch = urllib.parse.quote(found["branch"] or "", safe="")
        api = f"{self._hub.endpoint}/api/models/{model}"
        about = await self._json(f"{api}/revision/{branch}", reference)
        commit = str(about[0].get("sha", "")) if isinstance(about[0], dict) else ""
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise PullFailed(f"{self._hub.endpoint} told no commit of {reference}")
        files: dict[str, WantedFile] = {}
        url: str | None = f"{api}/tree/{commit}?recursive=true"
        for _ in range(MAX_PAGES):
            if url is None:
                break
            entries, url = await self._json(url, reference)
            files |= _listed(entries, f"hf://{model}@{commit}", path)
        if path and path not in files:
            check_name(path)
            raise PullFailed(f"{model} has no file {path} at {found['branch']}")
        return Wanted(model, commit, files)

    async def _json(self, url: str, reference: str) -> tuple[Any, str | None]:
        """Return an answer of the hub, and the address of its next page."""
        for failed in range(1, TRIES + 1):
            try:
                async with self._session.get(url, headers=self._headers(url)) as response:
                    _check_status(response, reference, self._hub.endpoint)
                    return await response.json(), self._next_page(response)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if failed == TRIES:
                    raise PullFailed(f"{reference}: {_cause(error)} ({failed} tries)") from error
            await self._clock.sleep(WAIT_S * 2.0 ** (failed - 1))
        raise AssertionError("the last try returns or raises")

    def _next_page(self, response: aiohttp.ClientResponse) -> str | None:
        """Return the next page's address, at the hub that was asked: a mirror may not say so."""
        if "next" not in response.links:
            return None
        told = str(response.links["next"]["url"])
        if told.startswith(self._hub.endpoint + "/"):
            return told
        parts = urllib.parse.urlsplit(told)
        if not parts.path.startswith("/api/models/"):
            raise PullFailed(f"{response.url.host} leads to another host for its list of files")
        return f"{self._hub.endpoint}{parts.path}?{parts.query}"

    def _headers(self, url: str) -> dict[str, str]:
        is_hub = url.startswith(self._hub.endpoint + "/")
        if self._hub.token and is_hub:
            return {"Authorization": f"Bearer {self._hub.token}"}
        return {}

    def address(self, source: str) -> str:
        """Return the https address of a file.

        Raises:
            InvalidListing: It is plain http to another machine.
        """
        if source.startswith("hf:"):
            found = _parts(source)
            branch = urllib.parse.quote(found["branch"] or "", safe="")
            path = urllib.parse.quote(found["path"] or "")
            owner_name = f"{found['owner']}/{found['name']}"
            return f"{self._hub.endpoint}/{owner_name}/resolve/{branch}/{path}"
        _check_https(source)
        return source

    def check(self, response: aiohttp.ClientResponse, name: str) -> None:
        """Raise unless a file is there: see `_check_status`."""
        first = response.history[0] if response.history else response
        is_hub = str(first.url).startswith(self._hub.endpoint + "/")
        _check_status(response, name, self._hub.endpoint if is_hub else "")

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a file. aiohttp drops `Authorization` where a redirect leaves the host."""
        asked = {"Accept-Encoding": "identity", **headers, **self._headers(url)}
        async with self._session.get(url, headers=asked) as response:
            yield response


def _check_https(url: str) -> None:
    host = urllib.parse.urlsplit(url).hostname
    if url.startswith("http://") and host not in _LOOPBACK:
        raise InvalidListing(f"{url}: fetch weights by https")


def _parts(reference: str) -> dict[str, str | None]:
    found = _HUB_REFERENCE.fullmatch(reference)
    if found is None:
        raise InvalidListing(f"{reference}: give hf://owner/name@branch, then /path if needed")
    parts = found.groupdict()
    return parts | {"branch": urllib.parse.unquote(parts["branch"] or "main")}


def _listed(entries: Any, base: str, only: str | None) -> dict[str, WantedFile]:
    """Return a hub's entries that may be fetched; pickles and programs beside them are left out."""
    files = {}
    for entry in entries if isinstance(entries, list) else []:
        name, lfs = str(entry.get("path", "")), entry.get("lfs") or {}
        if entry.get("type") != "file" or not is_allowed(name) or only not in (None, name):
            continue
        digest = check_digest(str(lfs["oid"]), name) if "oid" in lfs else None
        size, blob = entry.get("size"), str(entry.get("oid", ""))
        is_blob = digest is None and re.fullmatch("[0-9a-f]{40}", blob)
        files[check_name(name)] = WantedFile(
            f"{base}/{name}",
            digest,
            size if isinstance(size, int) else None,
            blob if is_blob else None,
        )
    return files


def _single(reference: str) -> Wanted:
    url, _, fragment = reference.partition("#")
    parts = urllib.parse.urlsplit(url)
    name = check_name(urllib.parse.unquote(Path(parts.path).name) or "?")
    digest = None
    if fragment:
        key, _, value = fragment.partition("=")
        if key != "sha256":
            raise InvalidListing(f"#{fragment} is not known: write #sha256=…")
        digest = check_digest(value, name)
    return Wanted(_own_name(parts.hostname or "web", name), "", {name: WantedFile(url, digest)})


def _own_name(owner: str, name: str) -> str:
    def plain(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("._-") or "weights"

    return f"{plain(owner)}/{plain(name.partition('.')[0])}"


def _local_path(reference: str) -> Path:
    """Return the path of a `file:` address, or of what is a path already."""
    if not reference.startswith("file:"):
        return Path(reference).expanduser()
    parts = urllib.parse.urlsplit(reference)
    if parts.netloc not in ("", "localhost"):
        raise InvalidListing(f"{reference}: a file on another host; write file:///path")
    return Path(urllib.parse.unquote(parts.path))


def _local(path: Path, reference: str) -> Wanted:
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.is_file())
        names = {each.relative_to(path).as_posix(): each for each in found}
        files = {
            check_name(name): WantedFile(str(each), None, each.stat().st_size)
            for name, each in names.items()
            if is_allowed(name)
        }
        _check_links(path, [names[name] for name in files])
        return Wanted(_own_name("local", path.resolve().name), "", files)
    name = check_name(path.name)
    if not path.is_file():
        raise InvalidListing(
            f"{reference!r} is neither a file, a folder, https://…, nor hf://owner/name@branch"
        )
    files = {name: WantedFile(str(path), None, path.stat().st_size)}
    return Wanted(_own_name("local", name), "", files)


def _check_links(folder: Path, files: Sequence[Path]) -> None:
    """Check that no link in a folder leads out of it: a folder of strangers may name any file.

    Source: the hub's own cache keeps `snapshots/COMMIT/NAME` as links to `blobs/` beside them.
    """
    home = folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    for file in files:
        found = file.resolve()
        if not any(found.is_relative_to(each) for each in homes):
            raise InvalidListing(
                f"{file.relative_to(folder)} in {folder} is a link that leads out of the folder: "
                "put the file itself there, or pull it by its own path"
            )


# --- fetching ------------------------------------------------------------------------------------


class _Meter:
    """Adds up what has come."""

    def __init__(
        self, files: Mapping[str, WantedFile], tell: Callable[[Progress], None] | None
    ) -> None:
        self._tell = tell
        self._sizes = {name: file.size_bytes for name, file in files.items()}
        self._have = dict.fromkeys(files, 0)
        self._whole: set[str] = set()

    def expect(self, name: str, size_bytes: int) -> None:
        self._sizes[name] = size_bytes

    def have(self, name: str, size_bytes: int, *, is_whole: bool = False) -> None:
        self._have[name] = size_bytes
        if is_whole:
            self._whole.add(name)
            self._sizes[name] = size_bytes
        if self._tell is None:
            return
        known = [size for size in self._sizes.values() if size is not None]
        total = sum(known) if len(known) == len(self._sizes) else None
        done = sum(self._have.values())
        self._tell(Progress(name, size_bytes, done, total, len(self._whole), len(self._sizes)))


class _Fetch:
    """Brings files into the cache, several at a time."""

    def __init__(self, cache: WeightCache, source: _Source, clock: Clock, meter: _Meter) -> None:
        self._cache = cache
        self._source = source
        self._clock = clock
        self._meter = meter
        self._slots = asyncio.Semaphore(FETCHES)
        #: Keys and digests of what is to come: it makes no room for the rest.
        self._sparing: set[str] = set()

    async def all(
        self, files: Mapping[str, WantedFile], held: contextlib.ExitStack
    ) -> dict[str, Entry]:
        # What is here or has come is held, so that room for one file is not taken from another.
        await _whole(asyncio.to_thread(self._make_room, files, held))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    name: group.create_task(self._one(name, file, held))
                    for name, file in files.items()
                }
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
        return {name: task.result() for name, task in tasks.items()}

    def _make_room(self, files: Mapping[str, WantedFile], held: contextlib.ExitStack) -> None:
        """Fail now rather than after an hour where it can be told that there is no room."""
        needed: dict[str, int] = {}
        self._sparing = {self._key(file) for file in files.values()}
        for name, file in files.items():
            known = self._known(file.sha256, file.size_bytes) if file.sha256 else None
            if known is not None:
                self._hold(name, known, held)
            elif file.size_bytes is not None:
                # What has come of it counts already.
                begun = self._cache.begun_bytes(self._key(file))
                needed[file.sha256 or name] = max(0, file.size_bytes - begun)
        if needed:
            self._cache.make_room(sum(needed.values()), self._sparing)

    def _key(self, file: WantedFile) -> str:
        """Return under which key a file grows."""
        if file.sha256 is not None:
            return file.sha256
        is_web = "://" in file.source and not file.source.startswith("file:")
        address = self._source.address(file.source) if is_web else file.source
        return hashlib.sha256(address.encode()).hexdigest()

    def _hold(self, name: str, entry: Entry, held: contextlib.ExitStack) -> None:
        held.enter_context(self._cache.use(Listing("pulled/file", "now", {name: entry})))
        if self._cache.budget_bytes is not None:
            # Files that come side by side do not see each other's need.
            self._cache.evict(self._cache.budget_bytes, self._sparing)

    async def _one(self, name: str, file: WantedFile, held: contextlib.ExitStack) -> Entry:
        async with self._slots:
            if "://" in file.source and not file.source.startswith("file:"):
                entry = await self._from_web(name, file)
            else:
                path = _local_path(file.source)
                if not path.is_file():
                    raise PullFailed(f"{name}: there is no file {path}")
                entry = await asyncio.to_thread(self._cache.add, path, name, file.sha256)
            if file.size_bytes is not None and entry.size_bytes != file.size_bytes:
                raise PullFailed(
                    f"{name} has {entry.size_bytes} bytes, and {file.size_bytes} were announced"
                )
            if file.git_blob is not None:
                await asyncio.to_thread(self._check_blob, name, entry, file.git_blob)
        await _whole(asyncio.to_thread(self._hold, name, entry, held))
        self._meter.have(name, entry.size_bytes, is_whole=True)
        return entry

    def _check_blob(self, name: str, entry: Entry, blob: str) -> None:
        """Check that a text is the one that git knows by this name."""
        content = self._cache.path(entry.sha256).read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        if found.hexdigest() != blob:
            raise DigestMismatch(
                f"{name}: git calls its content {found.hexdigest()}, and {blob} was asked for: it "
                "was changed on the way"
            )

    async def _from_web(self, name: str, file: WantedFile) -> Entry:
        url = self._source.address(file.source)
        key = self._key(file)
        async with self._locked(key):
            known = self._known(file.sha256, file.size_bytes) if file.sha256 else None
            return known or await self._download(name, url, key, file)

    @contextlib.asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Hold a file's lock; ask for it again and again, so that waiting can be given up."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._cache.locked(key, wait=False))
                    break
                except BlockingIOError:
                    await self._clock.sleep(LOCK_EVERY_S)
            yield

    def _known(self, sha256: str, size_bytes: int | None) -> Entry | None:
        path = self._cache.path(sha256)
        if not path.exists():
            return None
        entry = Entry(sha256, path.stat().st_size)
        return entry if size_bytes in (None, entry.size_bytes) else None

    async def _download(self, name: str, url: str, key: str, file: WantedFile) -> Entry:
        partial = await self._partial(key)
        mark = _Mark(partial)
        try:
            failed = 0
            while True:
                before = partial.size_bytes
                try:
                    await self._read(name, url, partial, mark)
                    break
                except (aiohttp.ClientError, TimeoutError) as error:
                    failed = 1 if partial.size_bytes > before else failed + 1
                    if failed >= TRIES:
                        raise PullFailed(
                            f"{name}: {_cause(error)} ({failed} tries). Run the same command "
                            "again: what has come so far is kept"
                        ) from error
                    await self._clock.sleep(WAIT_S * 2.0 ** (failed - 1))
            entry = await asyncio.to_thread(self._cache.keep, partial, name, file.sha256)
            mark.forget()
        finally:
            partial.close()
        return entry

    async def _partial(self, key: str) -> Partial:
        """Open what has come so far, which is read whole; close it if nobody wants it any more."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._cache.partial, key))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            (await opening).close()
            raise

    async def _read(self, name: str, url: str, partial: Partial, mark: "_Mark") -> None:
        headers = mark.headers()
        async with self._source.open(url, headers) as response:
            if response.status == 416 and partial.size_bytes:
                # It has all come already, or the file is another one now: the digest will tell.
                if response.headers.get("Content-Range") == f"bytes */{partial.size_bytes}":
                    return
                partial.restart()
                raise aiohttp.ClientPayloadError("the file has changed; starting anew")
            self._source.check(response, name)
            unpack = _unpacker(response, name)
            whole: int | None = None
            if response.status == 206:
                begins, whole = _part(response)
                if unpack or begins != partial.size_bytes:
                    partial.restart()
                    raise aiohttp.ClientPayloadError("another part came than was asked for")
            else:
                partial.restart()
            if not partial.size_bytes:
                mark.note(response)
            if whole is None and not unpack and response.content_length is not None:
                whole = partial.size_bytes + response.content_length
            if whole is not None:
                self._meter.expect(name, whole)
                missing = max(0, whole - partial.size_bytes)
                await asyncio.to_thread(self._cache.make_room, missing, self._sparing)
            await self._drain(name, response, partial, unpack)
            if whole is not None and partial.size_bytes != whole:
                # A server may also send less than was asked for; it is asked for the rest.
                raise aiohttp.ClientPayloadError("it ended before its time")

    async def _drain(
        self,
        name: str,
        response: aiohttp.ClientResponse,
        partial: Partial,
        unpack: "zlib._Decompress | None",
    ) -> None:
        block = bytearray()
        try:
            async for chunk in response.content.iter_any():
                block += chunk if unpack is None else unpack.decompress(chunk, MAX_TEXT_BYTES)
                if unpack is not None and partial.size_bytes + len(block) >= MAX_TEXT_BYTES:
                    raise PullFailed(f"{name} comes packed, and is too large for a text")
                if len(block) >= BLOCK_BYTES:
                    full, block = block, bytearray()
                    await asyncio.to_thread(partial.write, full)
                    self._meter.have(name, partial.size_bytes)
            if unpack is not None and not unpack.eof:
                raise aiohttp.ClientPayloadError("it ended before its time")
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"it cannot be unpacked: {error}") from None
        finally:
            if block:
                await asyncio.to_thread(partial.write, block)
                self._meter.have(name, partial.size_bytes)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread, also where nobody wants its work any more: it holds what others close."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


class _Mark:
    """What tells whether a file is still the one that has come in part: its strong ETag."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._path = partial.path.with_suffix(".etag")

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest; nothing where that could mix two files."""
        if not self._partial.size_bytes:
            return {}
        try:
            etag = self._path.read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            self._partial.restart()
            return {}
        return {"Range": f"bytes={self._partial.size_bytes}-", "If-Range": etag}

    def note(self, response: aiohttp.ClientResponse) -> None:
        etag = "" if _encoding(response) else response.headers.get("ETag", "")
        if etag.startswith('"') and etag.isascii():
            self._path.write_text(etag, encoding="ascii")
        else:
            self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def _part(response: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """Return where the part of a file that comes begins, and of how many bytes the whole file is.

    Source:
        RFC 9110, section 14.4: a server that does not know how many says `*`.
    """
    told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if told is None:
        return None, None
    return int(told[1]), None if told[2] == "*" else int(told[2])


def _encoding(response: aiohttp.ClientResponse) -> str:
    """Return how a body is packed; empty if it is not."""
    told = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if told == "identity" else told


def _unpacker(response: aiohttp.ClientResponse, name: str) -> "zlib._Decompress | None":
    """Return what unpacks a body that came packed though nobody asked for that."""
    told = _encoding(response)
    if not told:
        return None
    if told not in ("gzip", "x-gzip"):
        raise PullFailed(f"{name}: {response.url.host} sends it packed as {told[:20]}")
    return zlib.decompressobj(wbits=31)


#: What to do about a status; about what a hub calls it, where it says so.
_ADVICE: Final[Mapping[int | str, str]] = {
    401: "a token is needed, or this one is not accepted",
    403: "this token may not read it; accept the model's licence at the hub if it asks",
    404: "there is no such file, branch or commit",
    "RepoNotFound": "there is no such repository, or it is private and needs a token that may read "
    "it (HF_TOKEN, or worker.hub_token)",
    "RevisionNotFound": "there is no such branch, tag or commit",
    "EntryNotFound": "there is no such file at this commit",
    "GatedRepo": "accept its licence at the hub with your account, and give that account's token "
    "(HF_TOKEN, or worker.hub_token)",
}


def _check_status(response: aiohttp.ClientResponse, told: str, hub: str = "") -> None:
    """Raise unless there is what was asked for.

    Args:
        response: Of a hub or of any other host.
        told: What was asked for.
        hub: Address of the hub that was asked; empty for any other host.

    Raises:
        ClientPayloadError: It may be there at another try.
        PullFailed: It will not; the text says what to do.
    """
    status, host = response.status, response.url.host
    if status < 300:
        return
    # A store that a hub leads to has nothing to say of tokens: its address has run out, and the
    # hub will sign another one.
    is_store = bool(hub) and not str(response.url).startswith(hub + "/")
    if status >= 500 or status in (408, 429) or (is_store and status in (400, 401, 403)):
        raise aiohttp.ClientPayloadError(f"{host} answered {status}")
    code = response.headers.get("X-Error-Code", "") if hub and not is_store else ""
    said = _plain(response.headers.get("X-Error-Message", "")) if code else ""
    advice = _ADVICE.get(code) or _ADVICE.get(status, "not expected")
    raise PullFailed(f"{told}: {host} answered {status}{said}: {advice}")


def _plain(text: str) -> str:
    """Return what a hub said as part of a sentence."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
    return f" ({words.rstrip('.')})" if words else ""


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing was heard for {SILENCE_S:.0f} s"
    return str(error) or type(error).__name__


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to tell of many: one of Swell's own if there is one."""
    plain: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            plain.append(error)
    return next((error for error in plain if isinstance(error, SwellError)), plain[0])
