"""A real `swell up` with a real worker that is attacked, and what attackers have at hand."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATIENCE_S = 60.0

#: What only whoever got in could know: it is planted where the service reads it.
CANARY = b"canary-5e0c-nobody-may-read-this"
HUB_TOKEN = "hf_canaryHubTokenThatNobodyMaySee0123456789"


@dataclass(frozen=True)
class Answer:
    """What came back: all of it, and its parts."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    def json(self) -> Any:
        """Return the body as JSON; an empty object if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status < 300


class Refused(RuntimeError):
    """An upload was not taken."""


@dataclass
class Target:
    """A service under attack, with keys of several people."""

    port: int
    admin: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    canary: "Canary"
    front: "Front"
    #: Name → secret: two clients, and two workers.
    keys: dict[str, str] = field(default_factory=dict)
    #: Where a secret was seen that nobody may see.
    leaks: list[str] = field(default_factory=list)
    #: Answers of 5xx, which none of these requests may get; 503 is one that says what to do.
    faults: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request exactly as it is written."""
        lines = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if key is not None:
            lines["authorization"] = f"Bearer {self.keys.get(key, key)}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines |= {"content-type": "application/json", "content-length": str(len(data))}
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)

    def send(self, data: bytes, *, wait_s: float = 30.0, is_all: bool = False) -> Answer:
        """Send bytes; return the first answer, and all that came until the connection closed.

        Args:
            data: What is sent.
            wait_s: Longest silence.
            is_all: Say that nothing follows, so that nobody waits for more.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as connection:
            got = b""
            with contextlib.suppress(OSError):
                connection.sendall(data)
                if is_all:
                    connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while piece := connection.recv(1 << 16):
                    got += piece
        self._look(data[:200], got)
        head, _, body = got.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        words = lines[0].split()
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        if status >= 500 and status != 503:
            self.faults.append(f"{status} for {data[:200]!r}")
        return Answer(status, headers, body, got)

    def run(self, model: str, given: Any, *, key: str = "ada", **more: Any) -> dict[str, Any]:
        """Have a task run; return it once it has ended, or what refused it."""
        wish = {"model": model, "input": given, "max_attempts": 1, **more}
        answer = self.call("POST", "/v1/tasks", wish, key=key, headers={"prefer": "wait=50"})
        task: dict[str, Any] = answer.json()
        ends = time.monotonic() + PATIENCE_S
        while task.get("state") in ("queued", "running") and time.monotonic() < ends:
            time.sleep(0.05)
            task = self.call("GET", f"/v1/tasks/{task['id']}", key=key).json()
        return task

    def upload(self, data: bytes, name: str = "a.bin", key: str = "ada") -> str:
        """Upload a file; return its URL."""
        kind = {"content-type": "application/octet-stream"}
        answer = self.call("POST", f"/v1/uploads?filename={name}", data, key=key, headers=kind)
        if not answer.is_taken:
            raise Refused(f"an upload was answered with {answer.status} {answer.body[:200]!r}")
        return str(answer.json()["url"])

    def is_well(self) -> bool:
        """Whether the service answers as if nothing had happened."""
        if self.process.poll() is not None:
            return False
        return self.call("GET", "/health/ready").status == 200

    def works(self) -> bool:
        """Whether a task still goes all the way."""
        return self.run("hostile/echo", {"text": "well"}).get("output") == "well 0"

    def secrets(self) -> dict[str, bytes]:
        """Return what nobody may see, by name."""
        found = {name: secret.encode() for name, secret in self.keys.items()}
        return found | {"canary": CANARY, "hub token": HUB_TOKEN.encode()}

    def look_at_logs(self) -> None:
        """Look for secrets in what the service and its workers have written down."""
        logs = [self.folder / "err.log", *self.folder.glob("data/logs/*")]
        for path in logs:
            self._look(path.name.encode(), path.read_bytes())

    def _look(self, asked: bytes, got: bytes) -> None:
        for name, secret in self.secrets().items():
            # A new key is shown once to whoever made it; that is the answer to a POST.
            if secret in got and not asked.startswith((b"POST /v1/keys", b"LEGIT")):
                self.leaks.append(f"{name} in the answer to {asked[:120]!r}")


class Canary:
    """A private server on this machine: whoever comes has got where nobody should."""

    def __init__(self) -> None:
        self.came: list[str] = []
        outer = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                outer.came.append(self.path)
                self.answer(200, CANARY)

            do_POST = do_PUT = do_GET  # noqa: N815 - the library's names

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Front:
    """A server that the worker may read, and that answers as an attacker's would."""

    def __init__(self) -> None:
        #: Path → status, headers, body.
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        outer = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                if self.path.startswith("/endless"):
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while True:
                            self.wfile.write(bytes(1 << 16))
                    return
                page = outer.pages.get(self.path.partition("?")[0], (404, {}, b"no"))
                self.answer(page[0], page[2], page[1])

            def do_POST(self) -> None:
                """Answer as an API of predictions whose model repeats its prompt."""
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                said = {"id": "p", "status": "succeeded", "output": asked["input"]["text"]}
                self.answer(201, json.dumps(said).encode())

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def page(self, path: str, status: int = 200, body: bytes = b"", **headers: str) -> str:
        """Answer a path so; return its URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, named, body)
        return f"http://{self.host}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(http.server.BaseHTTPRequestHandler):
    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@contextlib.contextmanager
def a_target(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Target]:
    """Run `swell up` with one worker and models that take files, while the block runs."""
    canary, front = Canary(), Front()
    words = [sys.executable, "-m", "swell", "up", "--port", "0", "--json", "--workers", "1"]
    words += ["--models", str(HERE / "hostile_models.py"), "--data", str(folder / "data")]
    given = {
        # The port must not be what saves us.
        "SWELL_WORKER__URL_PORTS": "any",
        "SWELL_WORKER__ALLOW_PRIVATE_URLS": front.host,
        "SWELL_WORKER__HUB_TOKEN": HUB_TOKEN,
        "HOSTILE_API": f"http://{front.host}",
        "SWELL_SERVER__BODY_TIMEOUT_S": "2",
        "SWELL_SERVER__HEAD_TIMEOUT_S": "2",
        **(settings or {}),
    }
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SWELL_")}
    with (folder / "err.log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=clean | given
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "err.log").read_text()
        said = json.loads(line)
        port = int(said["url"].rpartition(":")[2])
        target = Target(port, said["key"], process, folder, canary, front)
        _make_keys(target)
        yield target
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        canary.close()
        front.close()


def _make_keys(target: Target) -> None:
    people = {"ada": "client", "bob": "client", "worker-1": "worker", "worker-2": "worker"}
    for name, scope in people.items():
        wish = {"name": name, "scopes": [scope]}
        answer = target.call("POST", "/v1/keys", wish, key=target.admin)
        assert answer.status == 201, answer.body
        target.keys[name] = answer.json()["key"]
    target.keys["admin"] = target.admin
    ends = time.monotonic() + PATIENCE_S
    while not target.works():
        assert time.monotonic() < ends, "no worker came in a minute"
        time.sleep(0.1)
