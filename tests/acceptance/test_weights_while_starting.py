"""Workers that start while their weights come: before their backend, and told to go meanwhile."""

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from summed import MODEL, push, serving, worker_elsewhere, write_weights

from commandline import PATIENCE_S, Swell
from servers import free_port
from swell.weights.store_reader import STALL_S

#: Of two ranges.
SIZE = 20_000_000


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    write_weights(tmp_path / "source", bytes(range(250)) * (SIZE // 250))
    (tmp_path / "sum.py").write_text(MODEL)
    made = Swell(tmp_path)
    push(made)
    return made


@pytest.fixture
def key(swell: Swell) -> str:
    with serving(swell):
        return str(swell.json("keys", "create", "worker", "--scope", "worker")["key"])


def begin(swell: Swell, url: str, key: str) -> "subprocess.Popen[bytes]":
    """Start a worker from elsewhere."""
    told = {"SWELL_WORKER__URL": url, "SWELL_WORKER__TOKEN": key}
    return worker_elsewhere(swell, told, "elsewhere")


def until(is_so: Callable[[], Any], swell: Swell) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, said(swell)
        time.sleep(0.05)


def said(swell: Swell) -> str:
    return (swell.folder / "elsewhere.txt").read_text()


def test_a_worker_that_starts_before_its_backend_waits_for_it_and_says_so_once(
    swell: Swell, key: str
) -> None:
    port = free_port()
    process = begin(swell, f"http://127.0.0.1:{port}", key)
    try:
        until(lambda: "cannot be asked for now" in said(swell), swell)
        # It is asked several times until it is there.
        with serving(swell, port):
            until(lambda: swell.json("workers"), swell)
            done = swell.run("tasks", "submit", "tests/sum", "--watch")
            assert str(sum(range(250)) * (SIZE // 250)) in done.stdout, done.stderr
        # The model may answer before the worker has told that all came.
        until(lambda: "weights fetched" in said(swell), swell)
        assert said(swell).count("cannot be asked for now") == 1
        assert said(swell).count("weights fetched") == 1
    finally:
        process.kill()
        process.wait(PATIENCE_S)


class Between:
    """Stands between worker and backend, and holds back all that comes after some bytes.

    Args:
        port: Of the backend; None for one that never says anything.
        most_bytes: Of answers, on each connection.
    """

    def __init__(self, port: int | None, most_bytes: int) -> None:
        self._port = port
        self._most_bytes = most_bytes
        self.is_holding = threading.Event()

    def serve(self, listener: socket.socket) -> None:
        open_sockets = []
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:
                break
            open_sockets.append(ours)
            if self._port is None:
                self.is_holding.set()
                continue
            theirs = socket.create_connection(("127.0.0.1", self._port))
            open_sockets.append(theirs)
            for source, target, most in ((ours, theirs, None), (theirs, ours, self._most_bytes)):
                threading.Thread(
                    target=self._carry, args=(source, target, most), daemon=True
                ).start()
        for each in open_sockets:
            each.close()

    def _carry(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        try:
            while data := source.recv(65_536):
                if most is not None:
                    data, most = data[:most], most - len(data[:most])
                    if not most:
                        self.is_holding.set()
                target.sendall(data)
        except OSError:
            pass


@contextmanager
def between(port: int | None, most_bytes: int = 0) -> Iterator[tuple[Between, str]]:
    made = Between(port, most_bytes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        yield made, f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def goes_at_once(process: "subprocess.Popen[bytes]", held: Between, swell: Swell) -> None:
    """Tell a worker to go as soon as it heeds that, while an answer is held back from it."""
    assert held.is_holding.wait(PATIENCE_S)
    held_s = time.monotonic()
    until(lambda: heeds_sigterm(process.pid), swell)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0, said(swell)
    assert time.monotonic() - held_s < STALL_S, "it has waited for the answer"


def heeds_sigterm(pid: int) -> bool:
    [caught] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


def test_a_worker_is_gone_at_once_while_its_backend_keeps_still(swell: Swell) -> None:
    with between(None) as (still, url):
        process = begin(swell, url, "key")
        try:
            goes_at_once(process, still, swell)
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def test_a_worker_is_gone_at_once_while_weights_come_and_the_next_one_goes_on(
    swell: Swell, key: str
) -> None:
    partial = swell.folder / "elsewhere" / "weights" / "partial"
    with serving(swell) as url:
        # The first range is larger than this.
        with between(int(url.rpartition(":")[2]), 10_000_000) as (slow, slow_url):
            process = begin(swell, slow_url, key)
            try:
                goes_at_once(process, slow, swell)
                assert list(partial.glob("*.part"))
            finally:
                process.kill()
                process.wait(PATIENCE_S)
        process = begin(swell, url, key)
        try:
            until(lambda: "weights fetched" in said(swell), swell)
            assert not list(partial.iterdir())
        finally:
            process.kill()
            process.wait(PATIENCE_S)
