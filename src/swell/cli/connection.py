"""uvicorn's HTTP connection, with a short way for the busiest requests.

A request on one of the busy paths (`App.endpoint` knows them) is run once its body is there,
without ASGI messages in between, and answered in one write (docs/decisions/0012). Everything else
(streams, uploads, pipelined requests, `Expect`, long bodies) takes uvicorn's own way, where the
head and the body of a response are joined into one write (docs/decisions/0010).
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from swell.api.app import App, Endpoint
from swell.api.call import Call, Reply, Scope, too_large

__all__ = ["HttpConnection"]

_HEAD: Final = b"HTTP/1.1 "
_CONTINUE: Final = b"HTTP/1.1 100"


class HttpConnection(HttpToolsProtocol):
    """A connection that answers busy paths the short way.

    Idle connections are closed by one timer that looks now and then, rather than by one that is set
    and taken back for each request.
    """

    #: A request on its way in that will go the short way.
    _coming: "_Exchange | None" = None
    _idle_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        self._direct = transport
        assert isinstance(self.config.app, App)
        self._endpoint_of = self.config.app.endpoint
        super().connection_made(_JoiningTransport(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        task = getattr(self.cycle, "task", None)
        if task is not None and not task.done():
            # Nobody waits for its answer; the server, when it stops, still waits for its end.
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    # requests

    def on_message_begin(self) -> None:
        """Begin a request; what ASGI wants of it is made when it is known to go over ASGI."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose the way."""
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
            return
        scope = {
            "type": "http",
            "method": "POST",
            "path": self.url.decode("ascii"),
            "query_string": b"",
            "headers": self.headers,
            "scheme": self.scheme,
            "root_path": self.root_path,
        }
        self._coming = _Exchange(scope, endpoint, parser.should_keep_alive())
        self.cycle = self._coming  # type: ignore[assignment]

    def _take_the_long_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
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
        coming, self._coming = self._coming, None
        if coming is None:
            super().on_message_complete()
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
        except Exception:
            self.logger.exception("a request could not be answered")
            self._direct.close()
            return
        exchange.status = reply.status
        endpoint.count(exchange)

    def _write(self, exchange: "_Exchange", reply: Reply) -> None:
        """Write a whole response."""
        lines = [_head(reply.status, self.server_state.default_headers)]
        for name, value in reply.all_headers(exchange):
            if b"\r" in value or b"\n" in value:
                raise ValueError(f"a line break in the value of header {name!r}")
            lines += (name, b": ", value, b"\r\n")
            if name == b"connection" and value == b"close":
                exchange.keep_alive = False
        if not exchange.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", reply.body)
        exchange.response_complete = True
        self._direct.write(b"".join(lines))
        if not exchange.keep_alive:
            self._direct.close()
        self.on_response_complete()

    # idle connections

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def on_response_complete(self) -> None:
        """Start a pipelined request, or be idle from now on."""
        self.server_state.total_requests += 1
        if self._direct.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def _look_again(self, after_s: float) -> None:
        handler = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(after_s, handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            # Busy; whatever it does now ends with an answer, and that sets the timer again.
            return
        left_s = self.timeout_keep_alive - (self.loop.time() - self._idle_since_s)
        if left_s > 0:
            self._look_again(left_s)
        else:
            super().timeout_keep_alive_handler()


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
