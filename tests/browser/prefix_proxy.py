"""A reverse proxy that serves a Swell under a prefix, which it takes away, as nginx would."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

__all__ = ["under_prefix"]

#: Headers that are about one connection and not about what goes through it.
_OWN: Final = frozenset({"connection", "transfer-encoding", "keep-alive", "date", "server"})


class _Handler(BaseHTTPRequestHandler):
    #: Host and port of the server, and what is taken away of each path.
    target = ""
    prefix = ""

    def do_GET(self) -> None:
        if self.path.startswith(self.prefix + "/"):
            self._pass_on(self.path.removeprefix(self.prefix))
        else:
            self.send_error(404, "outside of the prefix")

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _pass_on(self, path: str) -> None:
        connection = http.client.HTTPConnection(self.target, timeout=60)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        connection.request(self.command, path, body or None, dict(self.headers))
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while chunk := answer.read1(65536):
                self.wfile.write(chunk)
        except OSError:
            pass  # The browser has gone.
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def under_prefix(url: str, prefix: str) -> Iterator[str]:
    """Serve what is at `url` under a prefix such as `/deep/prefix`; yield the new address."""
    about = {"target": urlsplit(url).netloc, "prefix": prefix}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), about))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
