"""A small HTTP/1.1 client for the calls that a worker repeats all the time.

It posts to one origin over kept connections, one call per connection at a time, and reads answers
with a known length. It costs a fraction of a general client; docs/decisions/0002 has the figures.
Other requests, such as those for users' files, go through aiohttp.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes


class Http1Client:
    """Posts to one origin.

    Args:
        origin: `http://HOST[:PORT]` or `https://…`, with a prefix for all paths.
        headers: Sent with every call.
        tls: For `https`; None trusts the system's certificates.
    """

    def __init__(
        self, origin: str, headers: Mapping[str, str], tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(origin)
        is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_tls else 80)
        self._prefix = parts.path.rstrip("/")
        sent = {"host": parts.netloc.rpartition("@")[2], **headers}
        for name, value in sent.items():
            if any(mark in f"{name}{value}" for mark in "\r\n\0"):
                raise ValueError(f"the header {name!r} holds a line break")
        self._head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._idle: list[_Connection] = []
        self._tls = (tls or ssl.create_default_context()) if is_tls else None
        self._is_closed = False

    async def post(
        self, path: str, body: bytes, *, timeout_s: float, is_poll: bool = False
    ) -> Answer:
        """Send `body` and return the answer.

        A call uses the connection that was used last, and a poll the one that was idle for longest.
        So if several processes listen, the result of a poll is reported to the process that
        granted it.

        Raises:
            OSError: The connection could not be made or was lost. The backend may have received the
                call.
            TimeoutError: No answer within `timeout_s` seconds.
        """
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n"
        ).encode("latin-1")
        loop = asyncio.get_running_loop()
        connection = await self._take(timeout_s, 0 if is_poll else -1)
        timer = loop.call_later(timeout_s, connection.expire)
        try:
            answer = await connection.call(head + body)
        except BaseException:
            # Also after a cancellation: a late answer has no reader.
            connection.abort()
            raise
        finally:
            timer.cancel()
        if connection.is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    async def _take(self, timeout_s: float, index: int) -> "_Connection":
        while self._idle:
            connection = self._idle.pop(index)
            if connection.is_reusable:
                return connection
        async with asyncio.timeout(timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, self._host, self._port, ssl=self._tls
            )
        return connection

    def close(self) -> None:
        """Close all idle connections."""
        self._is_closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection; `httptools` (llhttp) parses the answers."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._answer: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self.is_reusable = False

    async def call(self, request: bytes) -> Answer:
        if self._transport is None or not self.is_reusable:
            raise ConnectionResetError("the connection was closed")
        self.is_reusable = False
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def expire(self) -> None:
        self._fail(TimeoutError("no answer in time"))

    def abort(self) -> None:
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.is_reusable = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # Without a call, it would be mistaken for the next answer.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionResetError(f"the answer is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        self._fail(ConnectionResetError(str(error) if error else "the connection was closed"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # ---- callbacks of httptools

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # informational, such as `100 Continue`
            self._body = []
            return
        self.is_reusable = self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, b"".join(self._body)))
