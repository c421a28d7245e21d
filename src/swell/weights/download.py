"""Fetch weights into the cache: from a listing, an address, a folder, or a repository of a hub.

    listing = await pull("models/weights.toml", cache, progress=show)
    with cache.use(listing) as held:
        weights = load(held.paths["unet/model.safetensors"])

Cached files are not fetched again. A broken download resumes where it stopped. Each file is hashed
while it arrives, and enters the cache only with the expected digest. `swell.weights.hf_download`
speaks to hubs.

Source:
    RFC 9110, sections 13.1.5 and 14: ranges and their conditions.
"""

import asyncio
import contextlib
import fnmatch
import hashlib
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp

from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, SwellError
from swell.weights.cache import DigestMismatch, PartialFile, PullFailed, WeightCache
from swell.weights.detached_threads import aside, to_the_end
from swell.weights.formats import check_name, is_allowed
from swell.weights.weight_index import (
    Entry,
    InvalidListing,
    Listing,
    Wanted,
    WantedFile,
    check_digest,
    read_listing,
)

if TYPE_CHECKING:
    from swell.weights.hf_download import HubClient

__all__ = ["HUB", "Hub", "Progress", "PullFailed", "pull"]

#: Files fetched side by side.
FETCHES: Final = 4

#: Tries of one file without a single new byte.
TRIES: Final = 5

#: Wait before the second try, doubled for each further one, in seconds.
WAIT_S: Final = 0.5

#: A server that sends nothing for so long counts as broken off, in seconds.
SILENCE_S: Final = 60.0

#: Bytes gathered before a thread hashes and writes them.
BLOCK_BYTES: Final = 4 << 20

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

#: Errors after which another try may succeed.
_TRANSIENT: Final = (aiohttp.ClientError, TimeoutError, ConnectionError)

#: What to do about a status of an address.
_ADVICE: Final[Mapping[int, str]] = {
    401: "a token is needed, which only hf: sends",
    403: "this address may not be read: check its signature, its date, or the site's licence terms",
    404: "there is no such file",
}

T = TypeVar("T")


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
    """How far a pull is.

    Args:
        name: The file that has grown, or is complete.
        file_bytes: Bytes of it so far.
        done_bytes: Bytes of all files so far, cached ones included.
        total_bytes: Size of all files; None while one of them is not known.
        files_done: How many files are complete.
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

            - a listing, `weights.toml` or `weights.json` (see `swell.weights.weight_index`)
            - a folder or a file, as a path or `file:` address
            - `https://host/path/model.safetensors#sha256=…`; plain `http` on this machine only
            - `hf://owner/name@branch` for the files of a repository, `hf://owner/name@branch/path`
              for one of them; a commit or a tag will do, `main` if left out. The same without //

        cache: Where to.
        progress: Called on the way, for each block that was written.
        include: Patterns such as `unet/*.safetensors`; only names that match one are fetched.
        hub: Where `hf:` leads.
        clock: For waiting between tries.
        held: Holds the pulled files until it is closed, and replaces the note in the cache. For
            files that get names elsewhere.

    Returns:
        The listing: model, version, and digest and size of each file.

    Raises:
        InvalidListing: The reference cannot be understood, or names no file.
        RefusedFormat: A file is of a format that is not opened, a pickle above all.
        DigestMismatch, BrokenWeights: A content differs from its digest, or from its format.
        PullFailed: The other side cannot be reached, or has no such file.
        CacheFull: There is no room.
        InvalidRequest: `hf:` needs a package that is not installed.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        fetch = _Fetch(cache, session, hub, clock or SystemClock())
        wanted = await fetch.resolve(str(reference))
        files = {name: file for name, file in wanted.files.items() if _matches(name, include)}
        if not files:
            patterns = f" that match {' or '.join(include)}" if include else ""
            raise InvalidListing(f"{reference} has no weights{patterns}")
        # Files without a listing are held, or they could be evicted before it is noted.
        with contextlib.ExitStack() as own:
            meter = _Meter(files, progress)
            entries = await fetch.all(files, meter, own if held is None else held)
            version = wanted.version or _version_of(entries)
            listing = Listing(wanted.model, version, entries, str(reference))
            if held is None:
                await asyncio.to_thread(_note, cache, listing)
    return listing


def _note(cache: WeightCache, listing: Listing) -> None:
    # The first files of a long pull look unused by now.
    cache.use(listing).close()
    cache.listings.write(listing)


def _matches(name: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatch.fnmatchcase(name, pattern) for pattern in include)


def _version_of(entries: Mapping[str, Entry]) -> str:
    """Return a version made from the content, for sources that have none."""
    text = "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(entries.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- what a reference means ----------------------------------------------------------------------


def _check_https(url: str) -> None:
    host = urllib.parse.urlsplit(url).hostname
    if url.startswith("http://") and host not in _LOOPBACK:
        raise InvalidListing(f"{url}: fetch weights by https")


def _is_remote(source: str) -> bool:
    return "://" in source and not source.startswith("file:")


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
    """Return the path that a `file:` address or a path names."""
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

    Source: the hub's own cache keeps `snapshots/COMMIT/NAME` as links to `../../blobs/`.
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
    """Adds up the bytes that have arrived."""

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

    def __init__(
        self, cache: WeightCache, session: aiohttp.ClientSession, hub: Hub, clock: Clock
    ) -> None:
        self._cache = cache
        self._session = session
        self._hub = hub
        self._clock = clock
        self._meter = _Meter({}, None)
        self._slots = asyncio.Semaphore(FETCHES)
        #: Keys and digests of the files of this pull: one does not make room for another.
        self._sparing: set[str] = set()

    @cached_property
    def _client(self) -> "HubClient":
        _check_https(self._hub.endpoint)
        try:
            from swell.weights.hf_download import HubClient  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise InvalidRequest(
                f"hf: needs huggingface_hub ({error}): pip install 'swell[hub]'"
            ) from error
        return HubClient(self._hub.endpoint, self._hub.token)

    async def resolve(self, reference: str) -> Wanted:
        """Return the files that a reference names."""
        if reference.startswith("hf:"):
            listed = partial(self._client.files, reference)
            return await self._tried(reference, lambda: aside(listed))
        if reference.startswith(("https://", "http://")):
            return _single(reference)
        path = _local_path(reference)
        if path.suffix in (".toml", ".json") and path.is_file():
            return await asyncio.to_thread(read_listing, path)
        return await asyncio.to_thread(_local, path, reference)

    async def all(
        self, files: Mapping[str, WantedFile], meter: _Meter, held: contextlib.ExitStack
    ) -> dict[str, Entry]:
        """Return the content of all files, which are in the cache and held."""
        self._meter = meter
        self._sparing = {_key(file) for file in files.values()}
        # Cached and completed files are held, so that room for one is not taken from another.
        await to_the_end(partial(self._make_room, files, held))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    name: group.create_task(self._one(name, file, held))
                    for name, file in files.items()
                }
        except BaseExceptionGroup as group_error:
            errors = group_error.exceptions
            raise next((e for e in errors if isinstance(e, SwellError)), errors[0]) from group_error
        return {name: task.result() for name, task in tasks.items()}

    def _make_room(self, files: Mapping[str, WantedFile], held: contextlib.ExitStack) -> None:
        """Fail now rather than after an hour where sizes tell that there is no room."""
        needed: dict[str, int] = {}
        for name, file in files.items():
            known = self._known(file)
            if known is not None:
                self._hold(name, known, held)
            elif file.size_bytes is not None:
                # The cache counts the part that has come already.
                begun = self._cache.partials.size_bytes(_key(file))
                needed[file.sha256 or name] = max(0, file.size_bytes - begun)
        if needed:
            self._cache.make_room(sum(needed.values()), self._sparing)

    def _hold(self, name: str, entry: Entry, held: contextlib.ExitStack) -> None:
        held.enter_context(self._cache.use(Listing("pulled/file", "now", {name: entry})))
        if self._cache.budget_bytes is not None:
            # Files that come side by side do not see each other's need.
            self._cache.evict(self._cache.budget_bytes, self._sparing)

    def _known(self, file: WantedFile) -> Entry | None:
        entry = self._cache.entry(file.sha256) if file.sha256 else None
        return entry if entry and file.size_bytes in (None, entry.size_bytes) else None

    async def _one(self, name: str, file: WantedFile, held: contextlib.ExitStack) -> Entry:
        async with self._slots:
            if _is_remote(file.source):
                async with self._cache.partials.await_lock(_key(file), self._clock):
                    entry = self._known(file) or await self._download(name, file)
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
        await to_the_end(partial(self._hold, name, entry, held))
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

    async def _download(self, name: str, file: WantedFile) -> Entry:
        with contextlib.ExitStack() as stack:
            # A part is read whole when it is opened.
            opened = partial(self._cache.partials.open, _key(file))
            growing = await to_the_end(lambda: stack.enter_context(contextlib.closing(opened())))
            if growing.sha256 != file.sha256:
                read = partial(self._read, name, file, growing)
                await self._tried(name, read, lambda: growing.size_bytes)
            entry = await asyncio.to_thread(self._cache.keep, growing, name, file.sha256)
            _tag_path(growing).unlink(missing_ok=True)
            return entry

    async def _tried(
        self, what: str, attempt: Callable[[], Awaitable[T]], seen: Callable[[], int] = lambda: 0
    ) -> T:
        """Try until it succeeds, or fails several times without a new byte.

        Raises:
            PullFailed: It failed.
        """
        failed = 0
        while True:
            before = seen()
            try:
                return await attempt()
            except _TRANSIENT as error:
                failed = 1 if seen() > before else failed + 1
                if failed >= TRIES:
                    reason = str(error) or type(error).__name__
                    raise PullFailed(
                        f"{what}: {reason} ({failed} tries). Run the same command again: "
                        "received bytes are kept"
                    ) from error
            await self._clock.sleep(WAIT_S * 2.0 ** (failed - 1))

    async def _read(self, name: str, file: WantedFile, growing: PartialFile) -> None:
        """Read a file of a hub or an address, from where it stopped."""
        if not file.source.startswith("hf:"):
            await self._read_http(name, file, growing, file.source, {})
            return
        client = self._client
        location = await aside(partial(client.locate, file.source))
        if not location.xet_hash:
            await self._read_http(name, file, growing, location.url, location.headers)
            return
        await self._expect(name, growing, location.size_bytes)
        connection = await aside(partial(client.open_xet, location))
        read = partial(client.read_xet, connection, location, growing.size_bytes)
        loop = asyncio.get_running_loop()

        def write(block: bytes) -> None:
            growing.write(block)
            loop.call_soon_threadsafe(self._meter.have, name, growing.size_bytes)

        await to_the_end(partial(read, write), connection.abort)
        _check_whole(growing, location.size_bytes)

    async def _read_http(
        self,
        name: str,
        file: WantedFile,
        growing: PartialFile,
        url: str,
        headers: Mapping[str, str],
    ) -> None:
        _check_https(url)
        asked = {"Accept-Encoding": "identity", **headers, **_rest(growing)}
        async with self._session.get(url, headers=asked) as response:
            if response.status in (200, 416):
                growing.restart()
            _check_status(response, name, file)
            whole = _whole_bytes(response, name, file, growing)
            if not growing.size_bytes:
                _tag_path(growing).write_text(_strong_tag(response), encoding="ascii")
            await self._expect(name, growing, whole)
            block = bytearray()
            try:
                async for chunk in response.content.iter_any():
                    block += chunk
                    if len(block) >= BLOCK_BYTES:
                        full, block = block, bytearray()
                        await self._write(name, growing, full, whole)
            finally:
                # The last bytes of what breaks off or is cancelled are kept too.
                await self._write(name, growing, block, whole)
        _check_whole(growing, whole)

    async def _write(
        self, name: str, growing: PartialFile, block: bytearray, whole: int | None
    ) -> None:
        if whole is not None and growing.size_bytes + len(block) > whole:
            growing.restart()
            raise PullFailed(f"{name} has more than the {whole:,} bytes that were announced")
        await asyncio.to_thread(growing.write, block)
        self._meter.have(name, growing.size_bytes)

    async def _expect(self, name: str, growing: PartialFile, whole_bytes: int | None) -> None:
        if whole_bytes is not None:
            self._meter.expect(name, whole_bytes)
            missing = max(0, whole_bytes - growing.size_bytes)
            await asyncio.to_thread(self._cache.make_room, missing, self._sparing)


def _key(file: WantedFile) -> str:
    """Return under which key a file grows."""
    return file.sha256 or hashlib.sha256(file.source.encode()).hexdigest()


def _check_status(response: aiohttp.ClientResponse, name: str, file: WantedFile) -> None:
    status, host = response.status, response.url.host
    if status < 300:
        return
    # The signed URL of a hub's file has expired; the next try gets another one.
    is_signed = file.source.startswith("hf:") and status in (400, 401, 403)
    if status >= 500 or status in (408, 416, 429) or is_signed:
        raise aiohttp.ClientPayloadError(f"{host} answered {status}")
    advice = _ADVICE.get(status, "not expected")
    raise PullFailed(f"{name}: {host} answered {status}: {advice}")


def _tag_path(growing: PartialFile) -> Path:
    """Return where the strong ETag of a file is noted that has come in part."""
    return growing.path.with_suffix(".etag")


def _rest(growing: PartialFile) -> dict[str, str]:
    """Return headers that ask for the rest of a file; none where that could mix two contents."""
    try:
        etag = _tag_path(growing).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        etag = ""
    if not etag:
        growing.restart()
    if not growing.size_bytes:
        return {}
    return {"Range": f"bytes={growing.size_bytes}-", "If-Range": etag}


def _whole_bytes(
    response: aiohttp.ClientResponse, name: str, file: WantedFile, growing: PartialFile
) -> int | None:
    """Return the size of the whole file; None if it is not known.

    Raises:
        ClientPayloadError: The server sends another part than the missing one.
        PullFailed: It sends the file packed, and the size unpacked is not known.

    Source:
        RFC 9110, section 14.4.
    """
    size = response.headers.get("Content-Length", "")
    if response.status == 206:
        size = response.headers.get("Content-Range", "")
        if not size.startswith(f"bytes {growing.size_bytes}-"):
            growing.restart()
            raise aiohttp.ClientPayloadError("another part came than was asked for")
        size = size.rpartition("/")[2]
    elif _is_packed(response):
        size = ""
        if file.size_bytes is None:
            raise PullFailed(f"{name}: {response.url.host} sends it packed: name another address")
    return int(size) if size.isdecimal() else file.size_bytes


def _is_packed(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() != "identity"


def _check_whole(growing: PartialFile, whole_bytes: int | None) -> None:
    # A server may also send less than was asked for; it is asked for the rest.
    if whole_bytes is not None and growing.size_bytes != whole_bytes:
        raise aiohttp.ClientPayloadError("it ended before its time")


def _strong_tag(response: aiohttp.ClientResponse) -> str:
    """Return the tag that names exactly this content; empty if there is none."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') and etag.isascii() and not _is_packed(response) else ""
