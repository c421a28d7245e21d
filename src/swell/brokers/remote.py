"""Dispatch over HTTP: what a worker says to `/worker/v1/…`.

Only outbound connections, one per open call, kept alive. The calls of the steady state go through
`http1.py`, files through aiohttp. Errors of clients and statuses of the backend become Swell's own
errors here and nowhere else.
"""

import base64
import contextlib
import hashlib
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from swell.addresses.outbound import Outbound
from swell.addresses.urls import UrlPolicy
from swell.addresses.urls import bare_url as _named
from swell.brokers.http1 import Http1Client
from swell.dispatch import (
    Ask,
    BackendUnavailable,
    Grant,
    Incoming,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
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
from swell.phases import Startup
from swell.store import Hold

AnswerT = TypeVar("AnswerT")

#: A call that takes longer than its wait and this, in seconds, is as good as lost.
PATIENCE_S: Final = 30.0

#: Storing a file may take so long.
UPLOAD_S: Final = 300.0

#: What Azure says of a file that is there already.
_EXISTS: Final = b"BlobAlreadyExists"

MAX_REDIRECTS: Final = 3

#: Where the backend keeps files. Of its other pages none is an input.
_HOME: Final = "/v1/artifacts/"

#: URLs that the backend gave with leases and that lie elsewhere; the oldest are forgotten.
_MOST_GIVEN: Final = 4096

#: How long a media type may be that is passed on.
_MAX_TYPE_CHARS: Final = 127

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
        policy: Which URLs of users are read. Inputs are named by users: a worker must not read
            its own network for them. Files of the backend, and what it says with a lease to be
            one, are read wherever they lie.
        tls: What `https` is spoken with to the backend; None trusts what the system does.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        own_limit_bytes: int = 100 * 1024**2,
        foreign_limit_bytes: int = 64 * 1024**2,
        policy: UrlPolicy | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._client = Http1Client(self._url, headers, tls)
        self._own_limit_bytes = own_limit_bytes
        self._foreign_limit_bytes = foreign_limit_bytes
        self._encoder = msgspec.json.Encoder()
        self._session: aiohttp.ClientSession | None = None
        self._outside = Outbound(policy or UrlPolicy(), UPLOAD_S)
        #: Where the backend said that files lie, if elsewhere: in its object store.
        self._given: OrderedDict[str, None] = OrderedDict()

    async def starting(self, startup: Startup) -> StartingAnswer:
        return await self._post("starting", startup, StartingAnswer)

    async def register(self, registration: Registration) -> Welcome:
        return await self._post("register", registration, Welcome)

    async def lease(self, ask: Ask) -> Grant:
        grant = await self._post("lease", ask, Grant, wait_s=ask.wait_s)
        self._learn(grant.tasks)
        return grant

    async def report(self, report: Report) -> ReportAnswer:
        answer = await self._post("report", report, ReportAnswer)
        self._learn(answer.tasks)
        return answer

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        ask = _UploadsAsk(worker_id=worker_id, hold=hold, keys=list(keys))
        return (await self._post("uploads", ask, _Uploads)).uploads

    async def _post(
        self, name: str, message: Any, kind: type[AnswerT], *, wait_s: float = 0.0
    ) -> AnswerT:
        body = self._encoder.encode(message)
        try:
            answer = await self._client.post(
                f"/worker/v1/{name}",
                body,
                timeout_s=wait_s + PATIENCE_S,
                is_poll=wait_s > 0,
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
        # As it was signed, to the letter.
        url = URL(self._absolute(upload.url), encoded=True)
        headers = {"content-type": content_type} | upload.headers
        is_direct = not upload.url.startswith("/")
        if is_direct:
            # A cloud refuses what arrives otherwise.
            headers["content-md5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        try:
            async with self._here().put(url, data=data, headers=headers, timeout=timeout) as answer:
                told = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{upload.key} could not be stored: {_why(error)}") from error
        if is_direct and (answer.status == 412 or _EXISTS in told):
            # An earlier try had got there, and its answer was lost. The report tells if not.
            return
        if is_direct and answer.status in (400, 409):
            raise Unavailable(f"the bucket refused {upload.key} (HTTP {answer.status})")
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
            return b"".join(parts), answer.content_type[:_MAX_TYPE_CHARS]

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
        is_given = target in self._given
        for _ in range(MAX_REDIRECTS + 1):
            is_ours = is_given or self._is_ours(target)
            with _unavailable(url):
                opened = self._ask(target) if is_ours else self._outside.get(target)
                answer = await opened.__aenter__()
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_exit(opened)
                if answer.status not in (301, 302, 303, 307, 308):
                    if answer.status >= 300:
                        raise _error(answer.status, b"", f"reading {_named(url)}")
                    yield answer, is_ours
                    return
                # Only the backend itself may send us to where else it keeps a file.
                is_given = not is_given and is_ours
                target = urljoin(target, answer.headers.get("location", ""))
        raise InvalidRequest(f"{_named(url)} redirects more than {MAX_REDIRECTS} times")

    @contextlib.asynccontextmanager
    async def _ask(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        async with self._here().get(url, allow_redirects=False, timeout=timeout) as answer:
            yield answer

    def _absolute(self, url: str) -> str:
        """Return a URL as it is, or one of the backend's under the name that we know it by."""
        if url.startswith("/"):
            return self._url + url
        # Not `urljoin`: it drops what a check has to see, such as line ends.
        return url if ":" in url.partition("/")[0] else f"{self._url}/{url}"

    def _is_ours(self, url: str) -> bool:
        """Whether a URL is that of a file of the backend, and of nothing else that it answers."""
        if not url.startswith(f"{self._url}{_HOME}") or not url.isprintable():
            return False
        key = unquote(url.removeprefix(f"{self._url}{_HOME}").partition("?")[0])
        return "\\" not in key and not any(part in ("", ".", "..") for part in key.split("/"))

    def _learn(self, tasks: Iterable[LeasedTask]) -> None:
        """Remember where the backend says that files of these tasks lie."""
        for task in tasks:
            for url in (*task.own_files.values(), task.checkpoint or ""):
                if urlsplit(url).scheme in ("http", "https"):
                    self._given[url] = None
                    self._given.move_to_end(url)
        while len(self._given) > _MOST_GIVEN:
            self._given.popitem(last=False)

    def _here(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=32, keepalive_timeout=75, ssl=self._tls or True
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        self._client.close()
        await self._outside.close()
        if self._session is not None:
            await self._session.close()
        self._session = None


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
        # The error page of a proxy is no answer of the backend.
        return BackendUnavailable(detail) if problem.title else Unavailable(detail)
    return _BY_STATUS.get(status, InvalidRequest)(detail)
