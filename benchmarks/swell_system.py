"""Swell as the benchmarks run it: `swell up`, or `swell serve` and `swell worker` apart."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import processes
from load import Target
from machine import ROOT, folder
from systems import TEXT

MODEL = "demo/noop"
READY_S = 60.0


@dataclass(frozen=True)
class Swell:
    """A running Swell."""

    port: int
    key: str
    pid: int
    data: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "authorization": f"Bearer {self.key}"}

    def target(self, wait_s: int | None = 30) -> Target:
        """One no-op task that is waited for, or only accepted where `wait_s` is None."""
        prefer = {} if wait_s is None else {"prefer": f"wait={wait_s}"}

        def answer(status: int, said: Any) -> bool:
            if wait_s is None:
                return status in (201, 202)
            return status == 201 and said["state"] == "succeeded" and TEXT in str(said["output"])

        return Target(
            port=self.port,
            path="/v1/tasks",
            body=task(),
            answer=answer,
            headers={**self.headers, **prefer},
            states=self.states,
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the API.

        Raises:
          RuntimeError: with the answer, when it is not a 2xx.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, self.headers)
            response = connection.getresponse()
            said = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {said[:1000]!r}")
        return json.loads(said) if said else None

    def knows_model(self) -> bool:
        try:
            return bool(self.ask("GET", f"/v1/models/{MODEL}"))
        except RuntimeError:
            return False

    def store(self) -> Path:
        """The store's SQLite file: the one that holds a table of tasks."""
        for path in sorted(self.data.rglob("*.db")) + sorted(self.data.rglob("*.sqlite*")):
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
                if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone():
                    return path
        raise FileNotFoundError(f"no store under {self.data.name}")

    def states(self) -> dict[str, int]:
        """How many tasks the store holds in each state."""
        with reading(self.store()) as rows:
            return dict(rows.execute("SELECT state, count(*) FROM tasks GROUP BY state"))


def task(text: str = TEXT) -> Mapping[str, Any]:
    return {"model": MODEL, "input": {"text": text}}


@contextlib.contextmanager
def up(model: str = MODEL) -> Iterator[Swell]:
    """`swell up` with one worker process, in a fresh folder."""
    with (
        folder("swell") as data,
        started("up", data, "--workers", "1", "--models", model) as running,
    ):
        yield running


@contextlib.contextmanager
def serve() -> Iterator[Swell]:
    """`swell serve`: a backend with no worker, in a fresh folder."""
    with (
        folder("swell") as data,
        started("serve", data) as running,
        without_worker(running),
    ):
        yield running


@contextlib.contextmanager
def without_worker(server: Swell) -> Iterator[None]:
    """A backend that knows the model and its schema, and has nobody to run it.

    A worker was there and has gone. Another one is registered and lives, but does not ask for work:
    without any, tasks would be refused.
    """
    with worker(server):
        processes.until(server.knows_model, READY_S, MODEL, server.data.parent / "worker.log")
    with idle_worker(server):
        yield


@contextlib.contextmanager
def started(
    command: str, data: Path, *options: str, settings: Mapping[str, str] | None = None
) -> Iterator[Swell]:
    """A Swell server on a free port, once it says that it is ready.

    `settings` are variables of its environment.
    """
    port = processes.free_port()
    log, said = data / "swell.log", data / "ready.json"
    place = ["--port", str(port), "--data", str(data / "data"), "--json"]
    environment = {"SWELL_WORKER__MODELS": MODEL, **(settings or {})}
    words: list[str | Path] = [program(), command, *place, *options]
    with (
        said.open("wb") as stdout,
        processes.running(words, log, environment, stdout=stdout, cwd=ROOT) as process,
    ):
        processes.until(
            lambda: bool(ready(said)) or process.poll() is not None, READY_S, command, log
        )
        if process.poll() is not None:
            raise RuntimeError(f"swell {command} ended: {log.read_text()[-2000:]}")
        yield Swell(port=port, key=ready(said)["key"], pid=process.pid, data=data / "data")


def worker_key(server: Swell) -> str:
    """Makes a key with which a worker may come from elsewhere."""
    made = server.ask("POST", "/v1/keys", {"name": "worker", "scopes": ["worker"]})
    return str(made["key"])


@contextlib.contextmanager
def worker(server: Swell) -> Iterator[int]:
    """One `swell worker` process for a server that has none; gives its id."""
    place = ["--url", f"http://127.0.0.1:{server.port}", "--models", MODEL]
    environment = {"SWELL_WORKER__TOKEN": worker_key(server)}
    log = server.data.parent / "worker.log"
    command: list[str | Path] = [program(), "worker", *place]
    with processes.running(command, log, environment, cwd=ROOT) as process:
        yield process.pid


@contextlib.contextmanager
def idle_worker(server: Swell, model: str = MODEL) -> Iterator[None]:
    """A worker that lives, in a thread of this process, and takes nothing."""
    as_worker = replace(server, key=worker_key(server))
    card = server.ask("GET", f"/v1/models/{model}")
    known = {"name": model, "version": card["version"]}
    body = {"name": "idle", "models": [known]}
    welcome = as_worker.ask("POST", "/worker/v1/register", body)
    told = {"worker_id": welcome["worker_id"]}
    over = threading.Event()

    def live() -> None:
        while not over.wait(10):
            as_worker.ask("POST", "/worker/v1/report", told)

    beating = threading.Thread(target=live, daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


@contextlib.contextmanager
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to the store: it sees what was committed, and nothing else."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as rows:
        yield rows


def ready(said: Path) -> dict[str, Any]:
    """The line that says the server is ready, or nothing yet."""
    for line in said.read_text().splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("ready"):
                return found
    return {}


def submit(server: Swell, count: int, size: int = 1000) -> list[str]:
    """Submits no-op tasks in batches, each durable when it is answered; gives their ids."""
    batch: Sequence[Mapping[str, Any]] = [task() for _ in range(size)]
    ids: list[str] = []
    for start in range(0, count, size):
        said = server.ask("POST", "/v1/tasks/batch", {"tasks": batch[: count - start]})
        ids += [accepted["id"] for accepted in said["tasks"]]
    return ids


def program() -> Path:
    """The `swell` of the Python that runs this, or of the path."""
    beside = Path(sys.executable).parent / "swell"
    found = beside if beside.exists() else shutil.which("swell")
    if found is None:
        raise FileNotFoundError("no swell: pip install -e . in the Python that runs this")
    return Path(found)
