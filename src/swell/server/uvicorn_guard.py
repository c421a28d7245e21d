"""Limits, timeouts and problem documents around uvicorn's HTTP protocol (docs/decisions/0085).

uvicorn accepts a head of any size and waits for a request without limit. `GuardedProtocol` counts
and times what httptools parses, and refuses what goes beyond; uvicorn does the rest.
"""

import asyncio
import re
from collections.abc import MutableMapping
from itertools import chain
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from swell.core.errors import HeadTooLarge, InvalidRequest, RequestTimeout, SwellError, UrlTooLong
from swell.server.problem_details import problem_reply
from swell.server.request import Call, poll

#: Largest headers of a request, in bytes; trailers and chunk extensions count as well.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Most headers of a request, its trailers included.
MAX_HEADERS: Final = 200
MAX_URL_BYTES: Final = 8 * 1024

#: Seconds from a refusal to the end of the connection. Closing at once, with unread bytes, would
#: reset it, and the client could lose the answer.
_LINGER_S: Final = 2.0

#: Seconds that a new connection has for its first request when the server stops. With several
#: processes on a port, the client cannot know that this one is stopping.
_NEW_S: Final = 0.5

#: The connection waits for its first byte, the end of a head, the end of a body, or nothing.
_NEW, _HEAD, _BODY, _IDLE = range(4)

_STATUS: Final = b"HTTP/1.1 "
_CONTINUE: Final = b"HTTP/1.1 100"


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits and timeouts."""

    #: Longest time from the first byte of a request to the end of its head.
    head_timeout_s = 20.0
    #: Longest pause within a body.
    body_timeout_s = 30.0

    # More attributes than a key-sharing dictionary holds would cost each connection a kilobyte.
    __slots__ = (
        "_budget",
        "_is_stopping",
        "_joining",
        "_refusal",
        "_since_s",
        "_stage",
        "_timer",
    )

    url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        self._joining = _JoiningTransport(transport)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        self._refusal: SwellError | None = None
        self._is_stopping = False
        self._begin(_NEW)
        self._timer: asyncio.TimerHandle
        #: Since when the head or the next byte of the body is awaited; None if not noted yet.
        self._since_s: float | None = self.loop.time()
        self._check_in(min(self.head_timeout_s, self.body_timeout_s))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close after the current request, or after the first one of a new connection."""
        self._is_stopping = True
        if self._stage == _NEW:
            self.loop.call_later(_NEW_S, self._close_new)
        elif self._stage != _HEAD:
            super().shutdown()

    def _close_new(self) -> None:
        if self._stage == _NEW:
            self.transport.close()

    # Callbacks of httptools

    def data_received(self, data: bytes) -> None:
        """Parse data; it counts until the head ends, or until the next byte of a body."""
        if self._refusal is not None:
            return
        self._budget -= len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # There is no other protocol: the request is answered as plain HTTP.
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
            return
        if self._stage != _IDLE:
            if self._budget < 0 or len(self.headers or ()) > MAX_HEADERS:
                self._refuse(_head_too_large())
            elif self._since_s is None:
                self._since_s = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin a request with its own limits."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._begin(_HEAD)

    def _begin(self, stage: int) -> None:
        self._stage = stage
        self._since_s = None
        self._budget = MAX_HEAD_BYTES

    def on_url(self, url: bytes) -> None:
        """Check the length of the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise UrlTooLong(
                f"the URL has more than {MAX_URL_BYTES:,} bytes: put long values into the body"
            )

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        headers = self.headers
        n_bytes = sum(map(len, chain.from_iterable(headers)), 4 * len(headers))
        if len(headers) > MAX_HEADERS or n_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()
        _check_head(self.parser.get_http_version(), self.url, headers)
        super().on_headers_complete()
        # Trailers are dropped (RFC 9110, 6.5.1).
        self.headers = []
        self._stage, self._since_s = _BODY, None
        if self._is_stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Restart the timer of the body."""
        self._budget, self._since_s = MAX_HEAD_BYTES, None
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timer until the next request."""
        self._stage, self._since_s = _IDLE, None
        super().on_message_complete()

    # Refusals

    def _refuse(self, error: SwellError) -> None:
        """Read nothing more, answer earlier requests, then send the problem and close."""
        self._refusal = error
        stage, self._stage, self._since_s = self._stage, _IDLE, None
        cycle = self.cycle
        if stage == _BODY:
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        elif cycle is not None and not cycle.response_complete:
            return
        self._send_refusal(error)

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or send the refusal that follows the last one."""
        # An answer to HEAD has no body.
        self._joining.flush()
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._refusal is not None:
            self._send_refusal(self._refusal)

    def _send_refusal(self, error: SwellError) -> None:
        if self.transport.is_closing():
            return
        path = self.url.partition(b"?")[0][:200].decode("ascii", "replace")
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        call = Call({"path": path, "method": "GET"}, _nothing, send)
        reply = problem_reply(error, path=path, request_id=call.request_id)
        poll(reply.send(call))
        headers = [*self.server_state.default_headers, *sent[0]["headers"]]
        lines = b"".join(b"%b: %b\r\n" % each for each in headers)
        head = b"%b%bconnection: close\r\n\r\n" % (STATUS_LINE[reply.status], lines)
        self.transport.write(head + reply.body)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self._timer.cancel()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    # The timer

    def _check_in(self, after_s: float) -> None:
        self._timer = self.loop.call_later(after_s, self._check)

    def _check(self) -> None:
        """Refuse a late request. The timer belongs to the connection, and is rarely set."""
        limit_s = self.body_timeout_s if self._stage == _BODY else self.head_timeout_s
        wait_s = min(self.head_timeout_s, self.body_timeout_s)
        if self.flow.read_paused:
            self._since_s = None
        elif self._stage != _IDLE:
            now_s = self.loop.time()
            if self._since_s is None:
                self._since_s = now_s
            left_s = self._since_s + limit_s - now_s
            if left_s <= 0 and self._stage == _NEW:
                self.transport.close()
                return
            if left_s <= 0:
                late = (
                    "the body paused for" if self._stage == _BODY else "the headers took more than"
                )
                self._refuse(RequestTimeout(f"{late} {limit_s:g} s: send the request in one go"))
                return
            wait_s = min(wait_s, left_s)
        self._check_in(wait_s)


def guarded_protocol(head_timeout_s: float, body_timeout_s: float) -> type[GuardedProtocol]:
    """Return the protocol class with these timeouts, in seconds."""
    timeouts = {"head_timeout_s": head_timeout_s, "body_timeout_s": body_timeout_s}
    return type("GuardedProtocol", (GuardedProtocol,), timeouts)


def _reason(error: httptools.HttpParserError) -> SwellError:
    cause = error.__context__
    if isinstance(cause, SwellError):
        return cause
    return InvalidRequest(
        f"this is not a request of HTTP/1.1 ({f'{cause or error}'[:200]}): check its method, its "
        "headers' line ends and Content-Length, and that https:// is not spoken to a port of "
        "http://"
    )


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the request has more than {MAX_HEADERS} headers, or {MAX_HEAD_BYTES:,} bytes of them: "
        "send fewer and shorter headers"
    )


def _check_head(version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a head that two programs may read differently.

    Source: RFC 9112, sections 3.2, 3.2.2 and 6.1.
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (hosts == 0 and version != "1.0"):
        raise InvalidRequest(f"the request has {hosts} Host headers: send exactly one")
    if names.count(b"authorization") > 1:
        raise InvalidRequest("the request has more than one Authorization header: send one")
    if version == "1.0" and b"transfer-encoding" in names:
        raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding: send Content-Length, or HTTP/1.1")
    if url.startswith(b"/"):
        return
    if httptools.parse_url(url).path is None:
        raise InvalidRequest("the URL has no path: write at least / after the host")
    if hosts and b"://" in url:
        # A request for a proxy: the URL names a host as well.
        host = headers[names.index(b"host")][1]
        named = re.split(rb"[/?#]", url.partition(b"://")[2], maxsplit=1)[0]
        if _authority(named) != _authority(host):
            raise InvalidRequest("the host in the URL is not the Host header: send the same")


def _authority(host: bytes) -> bytes:
    """Return a host with its port, without the default port of its scheme."""
    return re.sub(rb"\.?(:80|:443)?$", b"", host.strip().lower(), count=1)


async def _nothing() -> Any:
    raise RuntimeError("a refused request has no body to receive")


class _JoiningTransport:
    """A transport that writes the head of a response with the first bytes of its body."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(_STATUS) and not data.startswith(_CONTINUE):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
