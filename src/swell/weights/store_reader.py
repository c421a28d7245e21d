"""Where a worker reads pushed weights from: the backend, or the store itself."""

import asyncio
import contextlib
import http.client
import random
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from swell.core.clock import Clock
from swell.core.errors import NotFound, Unavailable
from swell.core.retry import RetryPolicy
from swell.weights.cache import PullFailed
from swell.weights.detached_threads import aside
from swell.weights.manifest import read_manifest
from swell.weights.store import FileUrl, WeightStore
from swell.weights.weight_index import Listing

#: The most files of one request for URLs.
MOST_URLS: Final = 1000

_PATH: Final = "/worker/v1/weights"

#: A request fails after this long without a byte, or in total, in seconds.
STALL_S = 15.0
RANGE_S = 300.0

_REDIRECTS: Final = 3
_EXPIRED: Final = (400, 401, 403, 410)
_TRANSIENT: Final = (408, 425, 429)

_AGAIN: Final = RetryPolicy(base_s=0.5, cap_s=10.0, floor_s=0.1)

_T = TypeVar("_T")


class WeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for pushed weights."""

    #: `owner/name`.
    model: str
    version: str
    #: SHA-256 of the files to return URLs of; none for the manifest.
    files: list[str] = []


class WeightsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest as text, or the URLs of the files, in the order of the request."""

    manifest: str = ""
    urls: list[FileUrl] = []


class Expired(Exception):
    """A signed URL is no longer accepted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source has a file: its digest, or a URL."""

    sha256: str
    url: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """Where pushed weights are read."""

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        """Return the files of a version.

        Args:
            model: `owner/name`.
            version: One of its versions.
            digest: The expected SHA-256 of its manifest; None to trust the source.

        Raises:
            NotFound: The version was not pushed.
            InvalidListing: The manifest is damaged, or another one than expected.
            PullFailed: The source refuses.
            Unavailable: The source does not answer; try again.
        """
        ...

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        """Return where files of a version are.

        Raises:
            PullFailed: The source refuses.
            Unavailable: The source does not answer; try again.
        """
        ...

    async def read(self, place: Place, start: int, end: int) -> bytes | bytearray | memoryview:
        """Return the bytes [start, end) of a file, or fewer if it is shorter.

        Raises:
            PullFailed: The file is not there.
            Expired: The place is no longer valid.
            Unavailable: The request failed; try again.
        """
        ...

    def close(self) -> None:
        """Close idle connections."""
        ...


async def until_answered(
    ask: Callable[[], Awaitable[_T]], clock: Clock, tell: Callable[..., None]
) -> _T:
    """Repeat a request while the source does not answer: a backend may start after its workers."""
    rng, failed = random.Random(), 0
    while True:
        try:
            return await ask()
        except Unavailable as error:
            failed += 1
            if failed == 1:
                tell("weights cannot be asked for now", detail=error.detail)
        await clock.sleep(_AGAIN.delay_s(failed, rng))


class StoreSource:
    """Reads the store itself.

    Args:
        store: The store.
    """

    def __init__(self, store: WeightStore) -> None:
        self._store = store

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        return await self._store.manifest(model, version, digest)

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        return [Place(digest) for digest in digests]

    async def read(self, place: Place, start: int, end: int) -> bytes | bytearray | memoryview:
        try:
            return await self._store.read(place.sha256, start, end)
        except NotFound:
            raise PullFailed(_not_pushed("the store", place.sha256)) from None

    def close(self) -> None:
        """Do nothing: the store keeps its connections."""


class BackendSource:
    """Asks the backend with the worker's own key, and reads the signed URLs that it returns.

    Args:
        url: The URL of the backend.
        token: A key with the scope `worker`.
        trust: Certificates for `https`; None for those of the system.
    """

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._trust = trust
        #: Idle connections, with their scheme and host.
        self._idle: list[tuple[tuple[str, str], http.client.HTTPConnection]] = []

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        answer = await self._ask(WeightsRequest(model=model, version=version))
        return read_manifest(answer.manifest.encode(), digest)

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        found: list[Place] = []
        for at in range(0, len(digests), MOST_URLS):
            asked = list(digests[at : at + MOST_URLS])
            answer = await self._ask(
                WeightsRequest(model=listing.model, version=listing.version, files=asked)
            )
            found += [self._place(*each) for each in zip(asked, answer.urls, strict=True)]
        return found

    def _place(self, sha256: str, signed: FileUrl) -> Place:
        url = self._url + signed.url if signed.url.startswith("/") else signed.url
        return Place(sha256, url, tuple(signed.headers.items()))

    async def _ask(self, asked: WeightsRequest) -> WeightsAnswer:
        label = f"{asked.model}@{asked.version} from {self._url}"
        body = msgspec.json.encode(asked)
        try:
            status, text = await aside(lambda: self._post(body))
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{label}: {_brief(error)}") from error
        detail = _detail(text)
        if status == 404:
            raise NotFound(detail or f"{asked.model}@{asked.version} was not pushed")
        if status >= 500 or status in _TRANSIENT:
            raise Unavailable(f"{label}: it answered {status} {detail}")
        if status >= 300:
            raise PullFailed(f"{label}: it answered {status} {detail}")
        try:
            return msgspec.json.decode(text, type=WeightsAnswer)
        except msgspec.MsgspecError:
            raise PullFailed(
                f"{self._url} does not answer like a backend of Swell: check worker.url, and any "
                "proxy before it"
            ) from None

    def _post(self, body: bytes) -> tuple[int, bytes]:
        parts = urllib.parse.urlsplit(self._url)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with contextlib.closing(self._connection(parts)) as connection:
            connection.request("POST", parts.path + _PATH, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    async def read(self, place: Place, start: int, end: int) -> bytearray:
        try:
            # A thread for each request: sockets, TLS and copies run without the interpreter's lock.
            async with asyncio.timeout(RANGE_S):
                return await aside(lambda: self._read(place, start, end))
        except (OSError, http.client.HTTPException) as error:
            # The server has closed idle connections, probably all of them.
            self.close()
            raise Unavailable(_brief(error)) from error

    def _read(self, place: Place, start: int, end: int) -> bytearray:
        url = place.url
        headers = {
            "Accept-Encoding": "identity",
            "Range": f"bytes={start}-{end - 1}",
            **dict(place.headers),
        }
        for _ in range(_REDIRECTS + 1):
            parts = urllib.parse.urlsplit(url)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            with contextlib.ExitStack() as unusable:
                connection = self._take(parts)
                unusable.callback(connection.close)
                connection.request("GET", target, headers=headers)
                response = unusable.enter_context(connection.getresponse())
                if response.status not in (301, 302, 303, 307, 308):
                    data = _body(response, parts.hostname or "", place, start, end)
                    if len(data) == end - start and response.isclosed() and not response.will_close:
                        unusable.pop_all()
                        self._idle.append(((parts.scheme, parts.netloc), connection))
                    return data
                url = urllib.parse.urljoin(url, response.headers.get("Location", ""))
        raise PullFailed(f"{parts.hostname} redirects more than {_REDIRECTS} times")

    def _take(self, parts: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        with contextlib.suppress(IndexError):
            host, connection = self._idle.pop()
            if host == (parts.scheme, parts.netloc):
                return connection
            connection.close()
        return self._connection(parts)

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop()[1].close()

    def _connection(self, parts: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=STALL_S, context=self._trust
            )
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=STALL_S)


def _body(
    response: http.client.HTTPResponse, host: str, place: Place, start: int, end: int
) -> bytearray:
    status = response.status
    if status == 404:
        raise PullFailed(_not_pushed(host, place.sha256))
    if status in _EXPIRED:
        raise Expired(f"{host} answered {status}")
    if status >= 500 or status in _TRANSIENT:
        raise Unavailable(f"{host} answered {status}")
    if status == 416:
        return bytearray()
    if status != 206:
        raise PullFailed(f"{host} answered {status} to a request for a range of a file")
    data = bytearray(end - start)
    view, at = memoryview(data), 0
    while at < len(data):
        got = response.readinto(view[at:])
        if not got:
            break
        at += got
    view.release()
    del data[at:]
    return data


def _not_pushed(where: str, sha256: str) -> str:
    return (
        f"{where} has no file {sha256}: the model was not pushed whole, or was removed there; push "
        "it again"
    )


def _brief(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def _detail(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=_Problem).detail
    except msgspec.MsgspecError:
        return ""
