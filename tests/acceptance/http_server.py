"""A real `swell up` on a free port, for tests that speak HTTP to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

MODEL = "demo/upper"
PICTURE = "demo/echo-picture"

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running service and a key of all scopes."""

    url: str
    key: str
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        known = {**self.headers, **headers}
        return requests.post(self.url + path, json=body, headers=known, timeout=90)

    def get(self, path: str, **headers: str) -> requests.Response:
        known = {**self.headers, **headers}
        return requests.get(self.url + path, headers=known, timeout=90)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Ask again and again until it is so."""
        ends = time.monotonic() + _PATIENCE_S
        while not is_so():
            assert time.monotonic() < ends, "it was not so in a minute"
            time.sleep(0.05)


@contextlib.contextmanager
def a_server(folder: Path, settings: dict[str, str] | None = None) -> Iterator[Server]:
    """Run `swell up` with one worker while the block runs."""
    words = [sys.executable, "-m", "swell", "up", "--port", "0", "--json", "--workers", "1"]
    words += ["--models", MODEL, "--models", PICTURE, "--data", str(folder / "data")]
    with (folder / "err.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, **(settings or {})},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "err.log").read_text()
        said = json.loads(line)
        server = Server(said["url"], said["key"], process)
        server.wait_until(lambda: server.get(f"/v1/models/{MODEL}").status_code == 200)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
