"""A Swell over TLS, and the clients of others pointed at it.

Every client comes unmodified from where its users get it, in the newest version; `.ci/services`
installs them. Where one is missing its tests skip, except in CI.
"""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_harness import Receiver, Served
from programs import NODE, VENVS, Program

from commandline import Swell, clean_environment, ready_line, stop

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A Swell with built-in models, some that clients need, and a certificate for trials."""
    folder = tmp_path_factory.mktemp("clients")
    settings = {
        "SWELL_SERVER__TLS": "self-signed",
        # The receivers of these tests are on this machine.
        "SWELL_WEBHOOKS__ALLOW_PRIVATE_URLS": "127.0.0.1",
        "SWELL_SERVER__MODEL_ALIASES": '{"gpt-image-1": "demo/echo-picture"}',
    }
    models = ("demo/*", "swell/icons", "swell/translate", str(HERE / "client_models.py"))
    words = [word for each in models for word in ("-m", each)]
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "swell", "up", "--json", "--port", "0", *words],
            cwd=folder,
            env=clean_environment() | settings,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        ready = ready_line(process, folder)
        cert = folder / ".swell" / "tls" / "cert.pem"
        yield Served(Swell(folder), ready["url"], ready["key"], cert)
    finally:
        assert stop(process) == 0, (folder / "stderr.txt").read_text()


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Program]:
    """Return what makes a Program in Python, with the packages of requirements/NAME.txt."""

    def made(name: str, served: Served, **variables: str) -> Program:
        _need((VENVS / name / "bin" / "python").exists(), f"the clients of {name}.txt")
        folder = tmp_path_factory.mktemp("programs")
        return Program.python(name, folder, **served.trusted, **variables)

    return made


@pytest.fixture(scope="session")
def javascript() -> Callable[..., Program]:
    """Return what makes a Program in JavaScript, with the packages of node/package.json."""

    def made(served: Served, **variables: str) -> Program:
        there = shutil.which("node") is not None and (NODE / "node_modules").exists()
        _need(there, "node, or the clients of node/package.json")
        return Program.javascript(**served.trusted, **variables)

    return made


def _need(is_there: bool, what: str) -> None:
    if not is_there:
        if os.environ.get("CI"):
            pytest.fail(f"{what} must be there in CI: .ci/services installs them")
        pytest.skip(f"{what} are not there: .ci/services installs them")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes webhooks, on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver.changed:
                receiver.came.append((headers, body))
                receiver.changed.notify_all()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()
