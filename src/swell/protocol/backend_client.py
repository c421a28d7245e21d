"""The worker's HTTP client for the backend: `/worker/v1/…` and files.

It makes outbound connections only and keeps them alive. Repeated calls go through
`http1_client.py`, files through aiohttp. This module turns errors of the clients and statuses of
the backend into Swell's errors.
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

from swell.core.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    SwellError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.net.safe_http import Outbound
from swell.net.url_policy import UrlPolicy, bare_url
from swell.protocol.http1_client import Http1Client
from swell.protocol.worker_messages import (
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

AnswerT = TypeVar("AnswerT")

#: A call fails after its wait and this time, in seconds.
PATIENCE_S: Final = 30.0

#: The largest input file from elsewhere than the backend.
_FOREIGN_LIMIT_BYTES: Final = 64 * 1024**2

#: The timeout for a file, in seconds.
UPLOAD_S: Final = 300.0

#: Azure's error for a file that exists.
_EXISTS: Final = b"BlobAlreadyExists"

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)

#: The backend's path for files. Its other pages are never inputs.
_ARTIFACTS: Final = "/v1/artifacts/"

#: The most URLs of files outside the backend that came with leases; the oldest are forgotten.
_MOST_FILE_URLS: Final = 4096

#: The longest media type that is passed on.
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
    """The needed part of an RFC 9457 document."""

    detail: str = ""
    title: str = ""


class _Uploads(msgspec.Struct):
    uploads: list[Upload]


class RemoteDispatch:
    """See `Dispatch`.

    Args:
        url: Address of the backend, such as `http://127.0.0.1:8000`.
        token: A key with the scope `worker`.
        own_limit_bytes: Largest input file from the backend, which checked its size at the upload.
        policy: Allowed URLs of users, so that a worker does not read its own network for them. It
            does not apply to files of the backend, wherever they are.
        tls: For `https` to the backend; None trusts the system's certificates.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        own_limit_bytes: int = 100 * 1024**2,
        policy: UrlPolicy | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._client = Http1Client(self._url, headers, tls)
        self._own_limit_bytes = own_limit_bytes
        self._session: aiohttp.ClientSession | None = None
        self._outside = Outbound(policy or UrlPolicy(), UPLOAD_S)
        #: URLs of the backend's files in its object store.
        self._file_urls: OrderedDict[str, None] = OrderedDict()

    async def starting(self, startup: Startup) -> StartingAnswer:
        return await self._post("starting", startup, StartingAnswer)

    async def register(self, registration: Registration) -> Welcome:
        return await self._post("register", registration, Welcome)

    async def lease(self, ask: Ask) -> Grant:
        grant = await self._post("lease", ask, Grant, wait_s=ask.wait_s)
        self._remember_urls(grant.tasks)
        return grant

    async def report(self, report: Report) -> ReportAnswer:
        answer = await self._post("report", report, ReportAnswer)
        self._remember_urls(answer.tasks)
        return answer

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        request = {"worker_id": worker_id, "hold": hold, "keys": list(keys)}
        return (await self._post("uploads", request, _Uploads)).uploads

    async def _post(
        self, name: str, message: Any, kind: type[AnswerT], *, wait_s: float = 0.0
    ) -> AnswerT:
        path, body = f"/worker/v1/{name}", msgspec.json.encode(message)
        try:
            answer = await self._client.post(
                path, body, timeout_s=wait_s + PATIENCE_S, is_poll=wait_s > 0
            )
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"the backend at {self._url} cannot be reached: {_why(error)}"
            ) from error
        if answer.status >= 300:
            raise _error(answer.status, answer.body, path)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.MsgspecError as error:
            raise Unavailable(
                f"{self._url}{path} answered something else: is it a Swell backend of "
                f"this version? ({error})"
            ) from error

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        # `encoded`: a signature covers the exact URL.
        url = URL(self._absolute(upload.url), encoded=True)
        headers = {"content-type": content_type} | upload.headers
        is_bucket = not upload.url.startswith("/")
        if is_bucket:
            # The bucket rejects corrupted data.
            headers["content-md5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        try:
            async with self._http().put(url, data=data, headers=headers, timeout=timeout) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{upload.key} could not be stored: {_why(error)}") from error
        if is_bucket and (answer.status == 412 or _EXISTS in body):
            # An earlier try succeeded without an answer. The backend checks the file anyway.
            return
        if is_bucket and answer.status in (400, 409):
            raise Unavailable(f"the bucket refused {upload.key} (HTTP {answer.status})")
        if answer.status >= 300:
            raise _error(answer.status, body, f"storing {upload.key}")

    async def fetch(self, url: str) -> tuple[bytes, str]:
        """See `Dispatch.fetch`.

        Raises:
            InvalidRequest: The URL is not http(s), or is on a private network.
            NotFound, Forbidden, TooLarge, Unavailable: It cannot be read.
        """
        async with self._opened(url) as (answer, is_own):
            limit_bytes = self._own_limit_bytes if is_own else _FOREIGN_LIMIT_BYTES
            data = bytearray()
            async for part in _parts(answer, url):
                data += part
                if len(data) > limit_bytes:
                    raise TooLarge(
                        f"the input file {bare_url(url)} is larger than {limit_bytes:,} bytes"
                    )
            return bytes(data), answer.content_type[:_MAX_TYPE_CHARS]

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Incoming]:
        """See `Dispatch.open`.

        Raises:
            InvalidRequest: The URL is not http(s), or is on a private network.
            NotFound, Forbidden, Unavailable: It cannot be read.
        """
        async with self._opened(url) as (answer, _):
            yield Incoming(answer.content_length, _parts(answer, url))

    @contextlib.asynccontextmanager
    async def _opened(self, url: str) -> AsyncIterator[tuple[aiohttp.ClientResponse, bool]]:
        """Follow redirects, with a check of each URL; yield the answer, and whether it is ours."""
        target = self._absolute(url)
        is_trusted = target in self._file_urls
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S)
        for _ in range(MAX_REDIRECTS + 1):
            is_own = is_trusted or self._is_backend_file(target)
            async with contextlib.AsyncExitStack() as stack:
                with _unavailable(url):
                    answer = await stack.enter_async_context(
                        self._http().get(target, allow_redirects=False, timeout=timeout)
                        if is_own
                        else self._outside.get(target)
                    )
                if answer.status not in _REDIRECTS:
                    if answer.status >= 300:
                        raise _error(answer.status, b"", f"reading {bare_url(url)}")
                    yield answer, is_own
                    return
                # Only the backend itself may redirect to its object store.
                is_trusted = is_own and not is_trusted
                target = urljoin(target, answer.headers.get("location", ""))
        raise InvalidRequest(f"{bare_url(url)} redirects more than {MAX_REDIRECTS} times")

    def _absolute(self, url: str) -> str:
        if url.startswith("/"):
            return self._url + url
        # Not `urljoin`: it drops characters that the URL policy must see, such as line ends.
        return url if ":" in url.partition("/")[0] else f"{self._url}/{url}"

    def _is_backend_file(self, url: str) -> bool:
        """Whether a URL is a file of the backend, and not another of its pages."""
        if not url.startswith(f"{self._url}{_ARTIFACTS}") or not url.isprintable():
            return False
        key = unquote(url.removeprefix(f"{self._url}{_ARTIFACTS}").partition("?")[0])
        return "\\" not in key and not any(part in ("", ".", "..") for part in key.split("/"))

    def _remember_urls(self, tasks: Iterable[LeasedTask]) -> None:
        """Remember the URLs at which the backend says that files of these tasks are."""
        for task in tasks:
            for url in (*task.own_files.values(), task.checkpoint or ""):
                if urlsplit(url).scheme in ("http", "https"):
                    self._file_urls[url] = None
                    self._file_urls.move_to_end(url)
        while len(self._file_urls) > _MOST_FILE_URLS:
            self._file_urls.popitem(last=False)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=32, keepalive_timeout=75, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
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
    """Raise the client's errors as `Unavailable`."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"{bare_url(url)} cannot be read: {_why(error)}") from error


async def _parts(answer: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    with _unavailable(url):
        async for part in answer.content.iter_chunked(1 << 18):
            yield part


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.InvalidURL):
        return "this is not a URL"  # its own text shows the whole URL
    return str(error) or type(error).__name__


def _error(status: int, body: bytes, what: str) -> SwellError:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    detail = problem.detail or problem.title or f"{what} was answered with HTTP {status}"
    if status in (408, 425, 429) or status >= 500:
        # Without a title it is the error page of a proxy.
        return BackendUnavailable(detail) if problem.title else Unavailable(detail)
    return _BY_STATUS.get(status, InvalidRequest)(detail)
