"""The systems that are compared: Swell and its peers, each started fresh and ended after use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import processes
import services
from load import Target
from machine import BENCH, folder, say

PEERS = Path(__file__).resolve().parent / "peers"
TEXT = "a lighthouse at dusk, in the style of an old postcard"

Service = Callable[[Path], AbstractContextManager[str]]


@dataclass(frozen=True)
class Peer:
    """One peer: its file, the service it stands on, and what of its work survives a restart."""

    file: str
    durable: str
    service: Service | None = None
    worker: bool = True
    prepare: bool = False


PEER = {
    "huey": Peer("huey_sqlite.py", "SQLite, synchronous=FULL"),
    "dramatiq": Peer("dramatiq_redis.py", "Redis, append-only file each second", services.redis),
    "celery": Peer("celery_redis.py", "Redis, append-only file each second", services.redis),
    "procrastinate": Peer(
        "procrastinate_postgres.py", "PostgreSQL, fsync", services.postgres, prepare=True
    ),
    "taskiq": Peer(
        "taskiq_streams.py",
        "Redis, append-only file each second",
        services.redis,
        prepare=True,
    ),
    "litserve": Peer("litserve_zmq.py", "nothing", worker=False),
}


@contextlib.contextmanager
def peer(name: str) -> Iterator[Target]:
    """A peer's front and one worker process, ready to answer."""
    about = PEER[name]
    with peer_place(name) as (environment, log):
        port = processes.free_port()
        with contextlib.ExitStack() as started:
            if about.worker:
                started.enter_context(part(name, "work", environment, log))
            started.enter_context(part(name, "front", environment, log, "--port", str(port)))
            processes.until(lambda: processes.listens(port), 30, name, log)
            yield Target(
                port=port,
                path="/",
                body={"text": TEXT},
                answer=lambda status, said: status == 200 and said == {"output": TEXT},
            )


@contextlib.contextmanager
def peer_place(name: str) -> Iterator[tuple[dict[str, str], Path]]:
    """A peer's folder and service, prepared; gives the environment of its parts and their log."""
    about = PEER[name]
    with folder(name) as place, contextlib.ExitStack() as started:
        environment = {
            "PEER_DATA": str(place),
            "PYTHONPATH": str(PEERS),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if about.service is not None:
            within = place / "service"
            within.mkdir()
            place.chmod(0o755)
            environment["PEER_URL"] = started.enter_context(about.service(within))
        if about.prepare:
            peer_part(name, "prepare", environment)
        yield environment, place / "peer.log"


def part(
    name: str, what: str, environment: dict[str, str], log: Path, *more: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """One long-running part of a peer."""
    command: list[str | Path] = [peers_python(), PEERS / PEER[name].file, what, *more]
    return processes.running(command, log, environment, cwd=PEERS)


def peer_part(name: str, what: str, environment: dict[str, str], *more: str) -> str:
    """One part of a peer that ends by itself; gives what it printed."""
    ran = subprocess.run(
        [str(peers_python()), str(PEERS / PEER[name].file), what, *more],
        env={**os.environ, **environment},
        cwd=PEERS,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{name} {what} failed: {ran.stderr[-2000:]}")
    return ran.stdout


def peers_python() -> Path:
    """The Python of the peers' own environment: the same version as ours."""
    return own_python("peers-venv", PEERS / "requirements.txt")


def own_python(name: str, wanted: Path, *more: str) -> Path:
    """The Python of an environment with what a list names, and `more` that pip is told.

    It is made on first use, and when its list or the version changes.
    """
    place = BENCH / name
    python = place / "bin" / "python"
    mark = place / "installed"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return python
    say(f"making the peers' environment, {name}")
    BENCH.mkdir(exist_ok=True)
    venv.create(place, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-q", "-r", str(wanted), *more]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    mark.write_text(digest)
    return python


def peer_versions() -> dict[str, str]:
    """What the peers' environment holds, of the packages that it asks for, and the servers."""
    packages = [*PEER, "taskiq-redis", "psycopg", "uvicorn"]
    return versions(peers_python(), packages) | services.versions()


def peer_settings(names: Iterable[str]) -> dict[str, str]:
    """What of a peer's work survives a restart, as it is set here."""
    return {name: f"kept by {PEER[name].durable}" for name in names}


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """What an environment holds, of these packages."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}
    return {name: found[name] for name in names if name in found}
