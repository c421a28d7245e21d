"""An HTTP client for URLs from users, safe against SSRF and DNS rebinding.

It checks a URL (`url_policy.py`), resolves its host, checks each address, and connects to one of
these. There is no second lookup that could answer differently, and the address is checked again
when the socket is made. It does not follow redirects: the caller checks each target.
"""

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from swell.core.errors import InvalidRequest
from swell.net.url_policy import RefusedUrl, UrlPolicy, bare_url

#: The longest silence of a server, and the time to connect to it, in seconds.
SILENCE_S: Final = 30.0
CONNECT_S: Final = 10.0

#: Media types of streams that never end, and of forms.
_NO_FILES: Final = ("text/event-stream", "multipart/")


class Outbound:
    """A client for URLs of users.

    Args:
        policy: The allowed URLs.
        total_s: Limit of the whole request, in seconds.
        connections: Limit of concurrent connections; 0 for any number.
    """

    def __init__(self, policy: UrlPolicy, total_s: float, *, connections: int = 32) -> None:
        self._policy = policy
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=total_s, sock_connect=CONNECT_S, sock_read=SILENCE_S
        )
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Get a file; yield the response, which may be a redirect.

        Raises:
            RefusedUrl: The policy does not allow it.
            InvalidRequest: The response is not a file.
            aiohttp.ClientError, TimeoutError, OSError: It cannot be read.
        """
        async with self._request("GET", url) as answer:
            _check_kind(answer, url)
            yield answer

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Post a body; yield the response, unread, which may be a redirect.

        Raises:
            RefusedUrl: The policy does not allow it.
            aiohttp.ClientError, TimeoutError, OSError: It cannot be reached.
        """
        return self._request("POST", url, data=body, headers=headers)

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, url: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        checked = self._policy.check(url)
        async with self._opened().request(
            method, checked.url, allow_redirects=False, timeout=self._timeout, **options
        ) as answer:
            yield answer

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            guard = _Guard(self._policy)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, resolver=guard, socket_factory=guard.socket
                ),
                # A small answer could unpack to any size, so it is not unpacked.
                headers={"accept-encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


class _Guard(ThreadedResolver):
    """Resolves names to allowed addresses, and opens sockets to no others."""

    def __init__(self, policy: UrlPolicy) -> None:
        super().__init__()
        self._policy = policy
        #: Addresses of hosts that are trusted by name.
        self._granted: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host; all of them are allowed."""
        results = await super().resolve(host, port, family)
        addresses = [each["host"] for each in results]
        if self._policy.trusts_name(host, port):
            self._granted.update(addresses)
        else:
            for address in addresses:
                self._policy.check_address(ipaddress.ip_address(address), port, host)
        return results

    def socket(self, address_info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Check an address, then make the socket that will connect to it."""
        family, kind, proto, _, place = address_info
        address, port = str(place[0]), int(place[1])
        if address not in self._granted:
            try:
                self._policy.check_address(ipaddress.ip_address(address), port, address)
            except (RefusedUrl, ValueError) as error:
                raise PermissionError(f"{address} is not connected to") from error
        return socket.socket(family=family, type=kind, proto=proto)


def _check_kind(answer: aiohttp.ClientResponse, url: str) -> None:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidRequest(
            f"{bare_url(url)} comes compressed ({encoding[:20]!r}), which was not asked for: "
            "give the URL of the file as it is"
        )
    if answer.content_type.startswith(_NO_FILES):
        raise InvalidRequest(
            f"{bare_url(url)} is no file, but {answer.content_type[:60]!r}: give the URL of a file"
        )
