"""uvicorn's HTTP connection, with a short way for the busiest requests and a bound on all of them.

A request on one of the busy paths (`App.endpoint` knows them) is run once its body is there,
without ASGI messages in between, and answered in one write (docs/decisions/0012). Everything else
(streams, uploads, pipelined requests, `Expect`, long bodies) takes uvicorn's own way, where the
head and the body of a response are joined into one write (docs/decisions/0010).

What cannot be read is answered with a problem document and a closed connection: a head without
end, one that does not come, a body that stops, bytes that are not HTTP. A request that comes whole
pays for this with a few integer operations: bytes are counted piece by piece and not header by
header, and the clock is read only where a piece ends within a request.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from swell.api.app import App, Endpoint
from swell.api.call import JSON, Call, Reply, Scope, too_large
from swell.api.headers import GUARD_LINES, POLICY, SAFE_LINES
from swell.api.problems import problem_reply
from swell.errors import (
    HeadTooLarge,
    Internal,
    InvalidRequest,
    RequestTimeout,
    SwellError,
    UrlTooLong,
)

_HEAD: Final = b"HTTP/1.1 "
_CONTINUE: Final = b"HTTP/1.1 100"
_CLOSE: Final = (b"connection", b"close")

#: Largest request line and headers together; trailers and chunk extensions count as well.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Most headers of a request, its trailers included.
MAX_HEADERS: Final = 200
MAX_URL_BYTES: Final = 8 * 1024

#: Who is refused may go on sending for so long; to close at once would take the answer away too.
_LINGER_S: Final = 2.0

#: As the server stops, a connection that was just made has so long for its request, in seconds.
_NEWCOMER_S: Final = 0.5

#: What is on its way in, and how long it is waited for: see `_waits_s`.
_NOTHING, _IN_HEAD, _IN_BODY = range(3)

#: Paths of workers, which never close one direction only: for them an end is an end, and nothing
#: may be leased to them any more.
_WORKERS: Final = b"/worker/"


class HttpConnection(HttpToolsProtocol):
    """A connection that answers busy paths the short way.

    One timer per connection looks now and then whether it has been idle, or a request on its way,
    for too long; rather than one that is set and taken back for each request.
    """

    #: The head of a request must be there so soon after its first byte, in seconds.
    head_timeout_s = 20.0
    #: A body may stop for so long, in seconds.
    body_timeout_s = 30.0
    #: A client that has closed its direction is waited with for so long before its answer begins,
    #: in seconds. One that has hung up altogether looks no different until it is written to, and
    #: meanwhile takes a connection. Event streams write: they find out by themselves.
    half_closed_s = 5.0
    #: Called when a connection is lost, by whoever counts them.
    when_lost: Callable[[], None] = staticmethod(lambda: None)

    # With uvicorn's own there would be more attributes than a compact dictionary holds, which would
    # cost each of ten thousand open streams a kilobyte.
    __slots__ = (
        "_budget",
        "_coming",
        "_direct",
        "_endpoint_of",
        "_half_closed",
        "_is_ending",
        "_lines",
        "_refusal",
        "_since_s",
        "_stage",
        "_waits_s",
    )

    url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        #: A request on its way in that will go the short way.
        self._coming: _Exchange | None = None
        #: What is on its way in.
        self._stage = _NOTHING
        #: Since when it has stopped, or the connection has been idle; None while neither is so.
        self._since_s: float | None = None
        #: So many more bytes may come before the head ends, or the next byte of the body.
        self._budget = MAX_HEAD_BYTES
        #: Headers and trailers of the request so far.
        self._lines = 0
        #: Why nothing more is read.
        self._refusal: SwellError | None = None
        #: Whether the server stops, so that one more answer is the last.
        self._is_ending = False
        #: Looks after a connection whose client has closed its direction; None before that.
        self._half_closed: asyncio.TimerHandle | None = None
        self._direct = transport
        assert isinstance(self.config.app, App)
        self._endpoint_of = self.config.app.endpoint
        super().connection_made(_JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._waits_s = (self.timeout_keep_alive, self.head_timeout_s, self.body_timeout_s)
        self._since_s = self.loop.time()
        self._look_again(min(self._waits_s))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self.when_lost()
        self._cancel_look()
        if self._half_closed is not None:
            self._half_closed.cancel()
        task = getattr(self.cycle, "task", None)
        if task is not None and not task.done():
            # Nobody waits for its answer; the server, when it stops, still waits for its end.
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def shutdown(self) -> None:
        """Close after what is on its way: called as the server stops.

        Who has just connected is about to ask, and is answered: with several processes on a port it
        cannot know that this one is leaving.
        """
        self._is_ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._stage == _NOTHING:
            is_new = self.headers is None
            self.loop.call_later(_NEWCOMER_S if is_new else 0.0, self._close_idle)

    def _close_idle(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._stage == _NOTHING:
            self._direct.close()

    # bytes

    def data_received(self, data: bytes) -> None:
        """Take what came, in pieces that no head within the limit is larger than."""
        n = len(data)
        if n > MAX_HEAD_BYTES:
            for at in range(0, n, MAX_HEAD_BYTES):
                self.data_received(data[at : at + MAX_HEAD_BYTES])
            return
        if self._refusal is not None:
            return
        # Whoever begins a request or goes on with a body in this piece has more again.
        self._budget -= n
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing here can be upgraded to: the request is answered as if it had not asked.
            pass
        except httptools.HttpParserError as error:
            self._refuse(self._explain(error))
            return
        if self._stage != _NOTHING:
            if self._budget < 0:
                self._refuse(_head_too_large())
            elif self._since_s is None:
                self._since_s = self.loop.time()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what was asked before the client closed its direction, then close ours.

        Whether it has gone altogether shows when the next word is written to it, at the latest
        after `half_closed_s`.
        """
        if self.url.startswith(_WORKERS) or not self._direct.can_write_eof():
            # Of TLS both directions end together: nobody is there to be answered.
            return False
        self._half_closed = self.loop.call_later(self.half_closed_s, self._end_half_closed)
        if self._stage != _NOTHING:
            self._refuse(InvalidRequest("the request was not complete: send it to its end"))
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return False
        if self._refusal is None:
            cycle.keep_alive = False
        return True

    def _end_half_closed(self) -> None:
        """Wait no longer for an answer that has not begun."""
        cycle: Any = self.cycle  # an `_Exchange`, or uvicorn's
        if cycle is None or cycle.response_complete or self._direct.is_closing():
            return
        if not isinstance(cycle, _Exchange):
            if cycle.response_started:
                self._half_closed = self.loop.call_later(self.half_closed_s, self._end_half_closed)
                return
            cycle.message_event.set()
        cycle.disconnected = True
        self._say_why(
            RequestTimeout(
                f"there was no answer {self.half_closed_s:g} s after the client closed its "
                "direction: keep the connection open while you wait; what was asked goes on"
            )
        )

    # requests

    def on_message_begin(self) -> None:
        """Begin a request; what ASGI wants of it is made when it is known to go over ASGI."""
        self.url = b""
        self.headers = []
        self._lines = 0
        self.expect_100_continue = False
        self._stage = _IN_HEAD
        self._since_s = None
        self._budget = MAX_HEAD_BYTES

    def on_url(self, url: bytes) -> None:
        """Keep a piece of the URL."""
        self.url += url
        if len(self.url) > MAX_URL_BYTES:
            raise UrlTooLong(
                f"the URL has more than {MAX_URL_BYTES:,} bytes: put long values into the body"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; count a trailer and drop it (RFC 9110, 6.5.1: it is no header)."""
        self._lines += 1
        if self._lines > MAX_HEADERS:
            raise HeadTooLarge(f"the request has more than {MAX_HEADERS} headers: send fewer")
        if self._stage == _IN_BODY:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Choose the way."""
        if self._budget < MAX_HEAD_BYTES and _size(self.url, self.headers) > MAX_HEAD_BYTES:
            # It came in several pieces, of which the first was not counted.
            raise _head_too_large()
        _check_head(self.parser.get_http_version(), self.url, self.headers)
        parser, earlier = self.parser, self.cycle
        endpoint = self._endpoint_of(parser.get_method(), self.url)
        if (
            endpoint is None
            or self.expect_100_continue
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
            or not (earlier is None or earlier.response_complete)
        ):
            self._take_the_long_way()
            self._stage, self._since_s = _IN_BODY, None
            return
        scope = {
            "type": "http",
            "method": "POST",
            "path": self.url.decode("ascii"),
            "query_string": b"",
            "headers": self.headers,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "client": self.client,
        }
        stays = parser.should_keep_alive() and not self._is_ending
        self._coming = _Exchange(scope, endpoint, stays)
        self.cycle = self._coming  # type: ignore[assignment]
        self._stage, self._since_s = _IN_BODY, None

    def _take_the_long_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        if not url.startswith(b"/") and httptools.parse_url(url).path is None:
            # As proxies are asked; uvicorn would trip over it.
            raise InvalidRequest("the URL has no path: write at least / behind the host")
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if self._is_ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._budget = MAX_HEAD_BYTES
        self._since_s = None
        coming = self._coming
        if coming is None:
            super().on_body(body)
            return
        coming.data = coming.data + body if coming.data else body
        if len(coming.data) > HIGH_WATER_LIMIT:
            # Too long to be waited for: it is read piece by piece, and refused where it must be.
            self._coming = self.cycle = None  # type: ignore[assignment]
            self._take_the_long_way()
            super().on_body(coming.data)

    def on_message_complete(self) -> None:
        """Run a request that is all there."""
        self._stage = _NOTHING
        self._since_s = None
        coming, self._coming = self._coming, None
        if coming is None:
            super().on_message_complete()
            if self.cycle.response_complete:
                # It was answered before it was all there.
                self._since_s = self.loop.time()
        else:
            coming.task = self.loop.create_task(self._run(coming))

    async def _run(self, exchange: "_Exchange") -> None:
        endpoint = exchange.endpoint
        try:
            reply = await endpoint.answer(exchange)
            assert reply is not None, "busy paths leave the writing to their connection"
            if self.flow.write_paused and not exchange.disconnected:
                await self.flow.drain()
            if not exchange.disconnected:
                self._write(exchange, reply)
            elif reply.lost is not None:
                await reply.lost()
        except Exception:
            self.logger.exception("a request could not be answered")
            self._direct.close()
            return
        exchange.status = reply.status
        endpoint.count(exchange)

    def _write(self, exchange: "_Exchange", reply: Reply) -> None:
        """Write a whole response."""
        if reply.headers and _CLOSE in reply.headers:
            exchange.keep_alive = False
        data = self._response(exchange, reply, exchange.keep_alive)
        exchange.response_complete = True
        self._direct.write(data)
        if not exchange.keep_alive:
            self._direct.close()
        self.on_response_complete()

    def _response(self, call: Call, reply: Reply, keep_alive: bool) -> bytes:
        """Return the whole response; its lines are those of `Reply.all_headers`."""
        lines = [_head(reply.status, self.server_state.default_headers)]
        guards = SAFE_LINES
        for name, value in (*call.told, *(reply.headers or ())):
            _check_line(name, value)
            if name == POLICY:
                guards = GUARD_LINES
            if name != b"connection":
                lines += (name, b": ", value, b"\r\n")
        if reply.status not in (204, 304):
            if reply.content_type is not JSON:
                _check_line(b"content-type", reply.content_type)
            told = (reply.content_type, reply.length)
            lines.append(b"content-type: %b\r\ncontent-length: %d\r\n" % told)
        lines += (guards, b"x-request-id: ", call.request_id.encode())
        lines.append(b"\r\n\r\n" if keep_alive else b"\r\nconnection: close\r\n\r\n")
        lines.append(reply.body)
        return b"".join(lines)

    # refusals

    def _explain(self, error: httptools.HttpParserError) -> SwellError:
        cause = error.__context__
        if isinstance(cause, SwellError):
            return cause
        if isinstance(cause, Exception) and not isinstance(
            cause, httptools.HttpParserError | UnicodeError
        ):
            self.logger.error("a request could not be read", exc_info=cause)
            return Internal()
        said = f"{cause or error}"[:200]
        return InvalidRequest(
            f"this is not a request of HTTP/1.1 ({said}): check its method, its headers' line ends "
            "and Content-Length, and that https:// is not spoken to a port of http://"
        )

    def _refuse(self, error: SwellError) -> None:
        """Read nothing more, answer what was asked before, then say why, and close."""
        self._refusal = error
        cycle: Any = self.cycle  # an `_Exchange`, or uvicorn's
        stage = self._stage
        self._stage, self._since_s, self._coming = _NOTHING, None, None
        if stage == _IN_BODY:
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
                return
            cycle.disconnected = True
            if not isinstance(cycle, _Exchange):
                cycle.message_event.set()
                if cycle.response_started:
                    # It has been answered, or is half answered: there is no place for another word.
                    self._direct.close()
                    return
        elif cycle is not None and not cycle.response_complete:
            return
        self._say_why(error)

    def _say_why(self, error: SwellError) -> None:
        """Answer with a problem; then wait a little until the client has heard it."""
        if self._direct.is_closing():
            return
        assert isinstance(self.config.app, App)
        path = self.url.partition(b"?")[0][:200].decode("ascii", "replace")
        call = Call({"path": path}, _nothing, _nothing, self.config.app.service.new_request_id())
        reply = problem_reply(error, path=path, request_id=call.request_id)
        self._direct.write(self._response(call, reply, False))
        if self._half_closed is not None or not self._direct.can_write_eof():
            self._direct.close()
            return
        self._direct.write_eof()
        self._cancel_look()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_S, self._direct.close)

    # the timer

    def _unset_keepalive_if_required(self) -> None:
        """Leave the timer: it looks by itself whether the connection is idle."""

    def on_response_complete(self) -> None:
        """Start a pipelined request, say why nothing more is read, or be idle from now on."""
        self.server_state.total_requests += 1
        if self._direct.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._say_why(self._refusal)
        elif self._stage == _NOTHING:
            self._since_s = self.loop.time()

    def _look_again(self, after_s: float) -> None:
        handler = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(after_s, handler)

    def _cancel_look(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle, or has stopped within a request, for long."""
        self.timeout_keep_alive_task = None
        now_s, every_s = self.loop.time(), min(self._waits_s)
        if self.flow.read_paused:
            # It is we who do not read.
            self._since_s = None
        elif self._since_s is None and self._stage != _NOTHING:
            self._since_s = now_s
        if self._since_s is not None:
            is_new = self.headers is None
            wait_s = self.head_timeout_s if is_new else self._waits_s[self._stage]
            left_s = wait_s - (now_s - self._since_s)
            if left_s <= 0:
                self._give_up(wait_s)
                return
            every_s = min(every_s, left_s)
        self._look_again(every_s)

    def _give_up(self, waited_s: float) -> None:
        if self._stage == _NOTHING:
            self._direct.close()
        elif self._stage == _IN_HEAD:
            self._refuse(
                RequestTimeout(f"the headers were not all there after {waited_s:g} s: send them")
            )
        else:
            self._refuse(
                RequestTimeout(f"nothing more of the body came for {waited_s:g} s: send it whole")
            )


def with_timeouts(head_timeout_s: float, body_timeout_s: float) -> type[HttpConnection]:
    """Return the class of connections that wait so long, in seconds."""
    waits = {"head_timeout_s": head_timeout_s, "body_timeout_s": body_timeout_s}
    return type("HttpConnection", (HttpConnection,), waits)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the request's line and headers have more than {MAX_HEAD_BYTES:,} bytes: send fewer and "
        "shorter headers"
    )


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


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
    if hosts and not url.startswith(b"/") and b"://" in url:
        # What a proxy is asked for: the URL names a host as well.
        host = headers[names.index(b"host")][1]
        named = re.split(rb"[/?#]", url.partition(b"://")[2], maxsplit=1)[0]
        if _authority(named) != _authority(host):
            raise InvalidRequest("the host in the URL is not the Host header: send the same")


def _authority(host: bytes) -> bytes:
    """Return a host with its port, without a port that is the scheme's own."""
    return re.sub(rb"\.?(:80|:443)?$", b"", host.strip().lower(), count=1)


class _Exchange(Call):
    """A request that goes the short way; with what uvicorn asks of a request under way."""

    __slots__ = ("data", "disconnected", "endpoint", "keep_alive", "response_complete", "task")

    #: uvicorn sets it where a request over ASGI would wait for more of its body.
    message_event = asyncio.Event()

    def __init__(self, scope: Scope, endpoint: Endpoint, keep_alive: bool) -> None:
        super().__init__(scope, _nothing, _nothing, endpoint.new_request_id())
        self.endpoint = endpoint
        self.data = b""
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None

    async def body(self, limit_bytes: int) -> bytes:
        if len(self.data) > limit_bytes:
            raise too_large(limit_bytes)
        return self.data

    def is_gone(self) -> bool:
        return self.disconnected


async def _nothing(*message: Any) -> Any:
    raise RuntimeError("a request that goes the short way has no ASGI messages")


#: Status → the server's own headers, and the head of a response that begins with them.
_heads: Final[dict[int, tuple[object, bytes]]] = {}


def _head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a response's first lines; the server makes new headers once a second, for the date."""
    known = _heads.get(status)
    if known is None or known[0] is not headers:
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        known = _heads[status] = (headers, b"".join(lines))
    return known[1]


def _check_line(name: bytes, value: bytes) -> None:
    if b"\r" in value or b"\n" in value:
        raise ValueError(f"a line break in the value of header {name!r}")


class _JoiningTransport:
    """Stands for a transport, and joins the first two writes of a response."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(_HEAD) and not data.startswith(_CONTINUE):
            self._head = data
            # An event stream has a head and, for now, nothing more.
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
