"""A backend and its workers as processes, for tests that ask one and kill the other."""

import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

from commandline import PATIENCE_S, Swell, ready_line, stop

__all__ = ["BackendAndWorkers", "kill"]


class BackendAndWorkers:
    """`swell serve` with the settings of a folder, and workers that join it."""

    def __init__(self, swell: Swell) -> None:
        self.swell = swell
        self.workers: list[subprocess.Popen[str]] = []
        self.port = 0
        self.serve()
        self.key = str(self.ready["key"])
        self.token = swell.json("keys", "create", "w", "--scope", "worker")["key"]

    def serve(self) -> None:
        """Start the backend; once more at the same address, if it ran already."""
        self.backend = self.swell.start("serve", "--json", "--port", str(self.port))
        self.ready = ready_line(self.backend, self.swell.folder)
        self.url = str(self.ready["url"])
        self.port = int(self.url.rpartition(":")[2])

    def join(self, *more: str) -> "subprocess.Popen[str]":
        """Start a worker, and wait until it is known."""
        known = {worker["id"] for worker in self.known()}
        words = ("worker", "--url", self.url, "--token", self.token, *more)
        log = self.swell.folder / f"worker-{len(self.workers)}.txt"
        with log.open("w") as stderr:
            self.workers.append(self.swell.spawn(words, stderr))
        self.until(lambda: any(worker["id"] not in known for worker in self.known()))
        return self.workers[-1]

    def known(self) -> list[dict[str, Any]]:
        """Return the workers that the backend knows."""
        found: list[dict[str, Any]] = self.call("/v1/workers")["workers"]
        return found

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a GET, or with a body to a POST."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task as it is now."""
        task: dict[str, Any] = self.call(f"/v1/tasks/{task_id}")
        return task

    def until(self, holds: Callable[[], bool]) -> None:
        """Look again and again until something holds; fails with all logs where it never does."""
        ends_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < ends_s, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the ends of what backend and workers said."""
        return "\n".join(
            path.read_text(errors="replace")[-4000:] for path in self.swell.folder.glob("*.txt")
        )

    def end(self) -> None:
        """Kill the workers, and stop the backend as an operator would."""
        for worker in self.workers:
            kill(worker)
        stop(self.backend)


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL a process and all that it has started, as when the machine is gone. Idempotent."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    stop(process, signal.SIGKILL)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
