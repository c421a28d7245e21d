"""A server of chunks that does what goes wrong on the way, and says what was asked of it."""

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from swell.weights.chunks import Manifest
from swell.weights.gather import Place

#: What to do with a request, of how many of this chunk; returns whether all was done.
Trick = Callable[[BaseHTTPRequestHandler, bytes, int], bool]


@dataclass
class ChunkServer:
    """Chunks by their digests, and the tricks that are played on who asks for them."""

    chunks: dict[str, bytes] = field(default_factory=dict)
    #: By digest, or for all under "".
    tricks: dict[str, Trick] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    url: str = ""
    #: Set to let those go on that keep still.
    over: threading.Event = field(default_factory=threading.Event)
    #: Set when somebody is being kept waiting.
    stuck: threading.Event = field(default_factory=threading.Event)
    manifests: dict[tuple[str, str], Manifest] = field(default_factory=dict)

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        """As a `Source` does."""
        return self.manifests[model, version]

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        """As a `Source` does."""
        self.told.update(digests)
        return [
            Place(f"{self.url}/{digest}?time={self.told[digest]}", {"X-Sign": "1"})
            for digest in digests
        ]


@contextmanager
def chunk_server(tls: ssl.SSLContext | None = None) -> Iterator[ChunkServer]:
    """Run one, over TLS where it is told how."""
    made = ChunkServer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            digest = self.path.strip("/").partition("?")[0]
            with lock:
                made.asked[digest] += 1
                number = made.asked[digest]
            data = made.chunks.get(digest)
            if data is None:
                answer(self, b"", status=404)
                return
            trick = made.tricks.get(digest) or made.tricks.get("")
            if trick is None or not trick(self, data, number):
                answer(self, data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """Let those go who have gone."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        made.url = made.url.replace("http", "https")
        # The thread of each connection shakes hands, so that nobody keeps the others waiting.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(
    asked: BaseHTTPRequestHandler, data: bytes, *, status: int = 200, length: int | None = None
) -> None:
    """Answer a request."""
    asked.send_response(status)
    asked.send_header("Content-Length", str(len(data) if length is None else length))
    asked.end_headers()
    asked.wfile.write(data)


def cut_off(asked: BaseHTTPRequestHandler) -> None:
    """End a connection in the middle."""
    asked.wfile.flush()
    asked.close_connection = True
    asked.connection.shutdown(socket.SHUT_RDWR)


def keep_still(server: ChunkServer, only_first: bool = True) -> Trick:
    """Return what sends a little of a chunk, and then nothing until `server.over`."""

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number > 1 and only_first:
            return False
        asked.send_response(200)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data[:100])
        asked.wfile.flush()
        server.stuck.set()
        server.over.wait(30)
        cut_off(asked)
        return True

    return play
