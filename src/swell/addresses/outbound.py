"""An HTTP client for URLs from users, safe against SSRF and DNS rebinding.

A URL is checked (`urls.py`), its host is resolved here, each of its addresses is checked, and the
connection goes to one of these. There is no second lookup that could answer differently, and the
address is checked again when the socket is made. Redirects are not followed: the caller checks
each target.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from swell.addresses.urls import RefusedUrl, UrlPolicy, bare_url
from swell.errors import InvalidRequest

#: A server that is silent for so long is given up, in seconds.
SILENCE_S: Final = 30.0
CONNECT_S: Final = 10.0

#: Streams that never end, and forms: none of them is a file.
_NO_FILES: Final = ("text/event-stream", "multipart/")


class Outbound:
    """A client for URLs of users.

    Args:
        policy: Which of them are asked for.
        total_s: Limit of the whole request, in seconds.
        connections: How many there may be at once; 0 for any number.
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
        """Ask for a URL; yield the answer, which may be a redirect.

        Raises:
            RefusedUrl: It is not asked for.
            InvalidRequest: What came is no file.
            aiohttp.ClientError, TimeoutError, OSError: It cannot be read.
        """
        checked = self._policy.check(url)
        session = self._opened()
        async with session.get(checked.url, allow_redirects=False, timeout=self._timeout) as answer:
            _check_kind(answer, url)
            yield answer

    @contextlib.asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send something to a URL; yield the answer, which may be a redirect, unread.

        Raises:
            RefusedUrl: Nothing is sent there.
            aiohttp.ClientError, TimeoutError, OSError: It cannot be reached.
        """
        checked = self._policy.check(url)
        async with self._opened().post(
            checked.url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
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
                # Small answers may unpack to anything: they are taken as they come.
                headers={"accept-encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


class _Guard(AbstractResolver):
    """Resolves names to addresses that may be connected to, and opens sockets to no others."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy
        #: Addresses of hosts that are trusted by name.
        self._granted: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host; all of them are allowed."""
        is_trusted = self._policy.trusts_name(host, port)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, proto, _, place in found:
            address = str(place[0])
            if is_trusted:
                self._granted.add(address)
            else:
                self._policy.check_address(ipaddress.ip_address(address), port, host)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=kind,
                    proto=proto,
                    flags=int(socket.AI_NUMERICHOST),
                )
            )
        return results

    def socket(self, told: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Check an address, then make the socket that will connect to it."""
        family, kind, proto, _, place = told
        address, port = str(place[0]), int(place[1])
        if address not in self._granted:
            try:
                self._policy.check_address(ipaddress.ip_address(address), port, address)
            except (RefusedUrl, ValueError) as error:
                raise PermissionError(f"{address} is not connected to") from error
        return socket.socket(family=family, type=kind, proto=proto)

    async def close(self) -> None:
        """Do nothing."""


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
