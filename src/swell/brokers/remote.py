"""Dispatch over HTTP: what a worker says to `/worker/v1/…`.

Only outbound connections, one per open call, kept alive. The calls of the steady state go through
`http1.py`, files through aiohttp. Errors of clients and statuses of the backend become Swell's own
errors here and nowhere else.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from swell.brokers.http1 import Http1Client
from swell.dispatch import (
    Ask,
    Grant,
    Incoming,
    Registration,
    Report,
    ReportAnswer,
    Upload,
    Welcome,
)
from swell.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SwellError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from swell.store import Hold

__all__ = ["RemoteDispatch"]

AnswerT = TypeVar("AnswerT")

#: A call that takes longer than its wait and this, in seconds, is as good as lost.
PATIENCE_S: Final = 30.0

#: Storing a file may take so long.
UPLOAD_S: Final = 300.0

MAX_REDIRECTS: Final = 3

_BY_STATUS: Final[dict[int, type[SwellError]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    413: TooLarge,
}


class _Problem(msgspec.Struct):
    """As much of an RFC 9457 document as is needed here."""

    detail: str = ""
    title: str = ""


class _UploadsAsk(msgspec.Struct):
    worker_id: str
    hold: Hold
    keys: list[str]


class _Uploads(msgspec.Struct):
    uploads: list[Upload]


class RemoteDispatch:
    """See `Dispatch`.

    Args:
        url: Address of the backend, such as `http://127.0.0.1:8000`.
        token: A key with the scope `worker`.
        own_limit_bytes: Largest input file that is read from the backend, which has checked its
            size when it was uploaded.
        foreign_limit_bytes: Largest one from elsewhere.
        allow_private: Whether input files may lie on private addresses other than the backend's.
            Inputs are named by users: a worker must not read its own network for them.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        own_limit_bytes: int = 100 * 1024**2,
        foreign_limit_bytes: int = 64 * 1024**2,
        allow_private: bool = False,
    ) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._client = Http1Client(self._url, headers)
        self._own_limit_bytes = own_limit_bytes
        self._foreign_limit_bytes = foreign_limit_bytes
        self._allow_private = allow_private
        self._encoder = msgspec.json.Encoder()
        self._session: aiohttp.ClientSession | None = None
        self._outside: aiohttp.ClientSession | None = None

    async def register(self, registration: Registration) -> Welcome:
        """See `Dispatch.register`."""
        return await self._post("register", registration, Welcome)

    async def lease(self, ask: Ask) -> Grant:
        """See `Dispatch.lease`."""
        return await self._post("lease", ask, Grant, wait_s=ask.wait_s)

    async def report(self, report: Report) -> ReportAnswer:
        """See `Dispatch.report`."""
        return await self._post("report", report, ReportAnswer)

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        """See `Dispatch.uploads`."""
        ask = _UploadsAsk(worker_id=worker_id, hold=hold, keys=list(keys))
        return (await self._post("uploads", ask, _Uploads)).uploads

    async def _post(
        self, name: str, message: Any, kind: type[AnswerT], *, wait_s: float = 0.0
    ) -> AnswerT:
        body = self._encoder.encode(message)
        try:
            answer = await self._client.post(
                f"/worker/v1/{name}", body, timeout_s=wait_s + PATIENCE_S
            )
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"the backend at {self._url} cannot be reached: {_why(error)}"
            ) from error
        if answer.status >= 300:
            raise _error(answer.status, answer.body, f"/worker/v1/{name}")
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.MsgspecError as error:
            raise Unavailable(
                f"{self._url}/worker/v1/{name} answered something else: is it a Swell backend of "
                f"this version? ({error})"
            ) from error

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        """See `Dispatch.put`."""
        url = self._absolute(upload.url)
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        try:
            async with self._here().put(
                url, data=data, headers={"content-type": content_type}, timeout=timeout
            ) as answer:
                told = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{upload.key} could not be stored: {_why(error)}") from error
        if answer.status >= 300:
            raise _error(answer.status, told, f"storing {upload.key}")

    async def fetch(self, url: str) -> tuple[bytes, str]:
        """See `Dispatch.fetch`.

        Raises:
            InvalidRequest: The URL is not http(s), or lies on a private network.
            NotFound, Forbidden, TooLarge, Unavailable: It cannot be read.
        """
        async with self._opened(url) as (answer, is_ours):
            limit_bytes = self._own_limit_bytes if is_ours else self._foreign_limit_bytes
            parts, total = [], 0
            async for part in _parts(answer, url):
                total += len(part)
                if total > limit_bytes:
                    raise TooLarge(
                        f"the input file {_named(url)} is larger than {limit_bytes:,} bytes"
                    )
                parts.append(part)
            return b"".join(parts), answer.content_type

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Incoming]:
        """See `Dispatch.open`.

        Raises:
            InvalidRequest: The URL is not http(s), or lies on a private network.
            NotFound, Forbidden, Unavailable: It cannot be read.
        """
        async with self._opened(url) as (answer, _):
            yield Incoming(answer.content_length, _parts(answer, url))

    @contextlib.asynccontextmanager
    async def _opened(self, url: str) -> AsyncIterator[tuple[aiohttp.ClientResponse, bool]]:
        """Follow redirects, looking at each address; yield the answer, and whether it is ours."""
        target = self._absolute(url)
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        for _ in range(MAX_REDIRECTS + 1):
            is_ours = _origin(target) == _origin(self._url)
            if not is_ours:
                self._check_outside(target)
            session = self._here() if is_ours else self._beyond()
            with _unavailable(url):
                answer = await session.get(target, allow_redirects=False, timeout=timeout)
            async with answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    if answer.status >= 300:
                        raise _error(answer.status, b"", f"reading {_named(url)}")
                    yield answer, is_ours
                    return
                target = urljoin(target, answer.headers.get("location", ""))
        raise InvalidRequest(f"{_named(url)} redirects more than {MAX_REDIRECTS} times")

    def _absolute(self, url: str) -> str:
        """Return a URL as it is, or one of the backend's under the name that we know it by."""
        return self._url + url if url.startswith("/") else urljoin(f"{self._url}/", url)

    def _check_outside(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{_named(url)} cannot be fetched: give an http or https URL")
        if self._allow_private:
            return
        try:
            address = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return  # a name: the resolver looks at what it stands for
        if not address.is_global:
            raise InvalidRequest(f"{_named(url)} lies on a private network and is not fetched")

    def _here(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=75),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _beyond(self) -> aiohttp.ClientSession:
        if self._outside is None:
            resolver = None if self._allow_private else _PublicResolver()
            self._outside = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._outside

    async def close(self) -> None:
        """See `Dispatch.close`."""
        self._client.close()
        for session in (self._session, self._outside):
            if session is not None:
                await session.close()
        self._session = self._outside = None


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, at the moment of the connection."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, proto, _, address in found:
            if not ipaddress.ip_address(address[0]).is_global:
                raise InvalidRequest(f"{host} lies on a private network and is not fetched")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=kind,
                    proto=proto,
                    flags=int(socket.AI_NUMERICHOST),
                )
            )
        return results

    async def close(self) -> None:
        pass


@contextlib.contextmanager
def _unavailable(url: str) -> Iterator[None]:
    """Say of whatever goes wrong on the way that the file cannot be read."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"{_named(url)} cannot be read: {_why(error)}") from error


async def _parts(answer: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    with _unavailable(url):
        async for part in answer.content.iter_chunked(1 << 18):
            yield part


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _named(url: str) -> str:
    """Return a URL as errors show it: whoever reads them must not be able to use it."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"//[^/]*@", "//", bare)[:200]


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.InvalidURL):
        return "this is not a URL"  # its own text shows it whole
    return str(error) or type(error).__name__


def _error(status: int, body: bytes, what: str) -> SwellError:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    detail = problem.detail or problem.title or f"{what} was answered with HTTP {status}"
    if status in (408, 425, 429) or status >= 500:
        return Unavailable(detail)
    return _BY_STATUS.get(status, InvalidRequest)(detail)
