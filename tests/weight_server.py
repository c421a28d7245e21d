"""A server of pushed weights that fails as a test tells it to, and counts its requests."""

import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from swell.weights.store_reader import BackendSource, Place
from swell.weights.weight_index import Listing

#: Handles a request for these bytes, the n-th one for them; returns whether it answered.
Trick = Callable[[BaseHTTPRequestHandler, bytes, int], bool]

#: The digest of a file, and the first byte that was asked for.
Range = tuple[str, int]


@dataclass
class WeightServer:
    """Files by their digests, which is a source of weights too."""

    files: dict[str, bytes] = field(default_factory=dict)
    #: By first byte; None for all.
    tricks: dict[int | None, Trick] = field(default_factory=dict)
    asked: Counter[Range] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    url: str = ""
    #: Certificates that clients trust.
    trust: ssl.SSLContext | None = None
    #: Set to let requests go on that are held.
    over: threading.Event = field(default_factory=threading.Event)
    #: Set when a request is held.
    stuck: threading.Event = field(default_factory=threading.Event)
    manifests: dict[tuple[str, str], Listing] = field(default_factory=dict)
    _client: BackendSource | None = None

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        return self.manifests[model, version]

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        self.told.update(digests)
        return [
            Place(digest, f"{self.url}/{digest}?time={self.told[digest]}", (("X-Sign", "1"),))
            for digest in digests
        ]

    async def read(self, place: Place, start: int, end: int) -> bytearray:
        if self._client is None:
            self._client = BackendSource(self.url, "key", self.trust)
        return await self._client.read(place, start, end)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


@contextmanager
def weight_server(tls: ssl.SSLContext | None = None) -> Iterator[WeightServer]:
    """Run one, over TLS with a certificate."""
    made = WeightServer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            digest = self.path.strip("/").partition("?")[0]
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            assert span is not None
            start, end = int(span[1]), int(span[2]) + 1
            with lock:
                made.asked[digest, start] += 1
                number = made.asked[digest, start]
            whole = made.files.get(digest)
            if whole is None:
                answer(self, b"", status=404)
                return
            data = whole[start:end]
            trick = made.tricks.get(start) or made.tricks.get(None)
            if trick is None or not trick(self, data, number):
                answer(self, data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore clients that hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        made.url = made.url.replace("http", "https")
        # Each connection shakes hands in its own thread.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.close()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(
    asked: BaseHTTPRequestHandler, data: bytes, *, status: int = 206, length: int | None = None
) -> None:
    """Answer a request."""
    asked.send_response(status)
    asked.send_header("Content-Length", str(len(data) if length is None else length))
    asked.end_headers()
    asked.wfile.write(data)


def cut_off(asked: BaseHTTPRequestHandler) -> None:
    """End a connection."""
    asked.wfile.flush()
    asked.close_connection = True
    asked.connection.shutdown(socket.SHUT_RDWR)


def hold(server: WeightServer, only_first: bool = True) -> Trick:
    """Return a trick that sends a few bytes, and nothing more until `server.over`."""

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number > 1 and only_first:
            return False
        asked.send_response(206)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data[:100])
        asked.wfile.flush()
        server.stuck.set()
        server.over.wait(30)
        cut_off(asked)
        return True

    return play
