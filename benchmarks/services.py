"""Redis, PostgreSQL and NATS, for peers and for Swell: from Debian's packages, on free ports."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import processes
from machine import say

PACKAGES = {
    "redis-server": "redis-server",
    "wrk": "wrk",
    "postgres": "postgresql",
    "nats-server": "nats-server",
    "nginx": "nginx-light",
}


@dataclass(frozen=True)
class Server:
    """A service that runs: where it is, and which process it is."""

    url: str
    pid: int


def need(program: str) -> Path:
    """Finds a program, installing its Debian package where this user may.

    Raises:
      FileNotFoundError: with the command that would install it.
    """
    found = _find(program)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {PACKAGES[program]}")
        command = ["apt-get", "install", "-y", "-q", PACKAGES[program]]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
        found = _find(program)
    if found is None:
        raise FileNotFoundError(f"{program} is missing: apt-get install {PACKAGES[program]}")
    return found


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis with an append-only file synced each second; gives its URL."""
    port = processes.free_port()
    log = folder / "redis.log"
    durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command: list[str | Path] = [need("redis-server"), *place, *durable]
    with processes.running(command, log):
        processes.until(lambda: processes.listens(port), 15, "redis", log)
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL with its own defaults, fsync included; gives its URL."""
    with postgres_server(folder) as server:
        yield server.url


@contextlib.contextmanager
def postgres_server(folder: Path, settings: Sequence[str] = ()) -> Iterator[Server]:
    """A PostgreSQL with its own defaults, fsync included, and `settings` (`name=value`) besides."""
    program = need("postgres")
    port = processes.free_port()
    data, log = folder / "postgres", folder / "postgres.log"
    data.mkdir()
    log.touch()
    as_owner = _as_postgres(folder, data)
    initialise: list[str | Path] = [program.parent / "initdb", "-D", data, "-A", "trust"]
    initialise += ["-U", "postgres"]
    subprocess.run([*as_owner, *initialise], cwd=data, stdout=subprocess.DEVNULL, check=True)
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    options += ["-c", f"unix_socket_directories={data}"]
    for setting in settings:
        options += ["-c", setting]
    command: list[str | Path] = [*as_owner, program, "-D", data, *options]
    with processes.running(command, log, stop=signal.SIGINT, cwd=data) as process:
        # It listens a moment before it takes anybody.
        is_ready = "ready to accept connections"
        processes.until(lambda: is_ready in log.read_text(), 30, "postgres", log)
        yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", process.pid)


@contextlib.contextmanager
def nats_server(folder: Path) -> Iterator[Server]:
    """A NATS with JetStream in files, synced as it does by itself (each two minutes)."""
    port = processes.free_port()
    config, log = folder / "nats.conf", folder / "nats.log"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder / "jetstream"}" }}\n'
    )
    command: list[str | Path] = [need("nats-server"), "-c", config]
    with processes.running(command, log) as process:
        processes.until(lambda: processes.listens(port), 15, "nats", log)
        yield Server(f"nats://127.0.0.1:{port}", process.pid)


def _as_postgres(*owned: Path) -> list[str]:
    """PostgreSQL refuses to run as root: its package's own user runs it then."""
    if os.geteuid() != 0:
        return []
    for path in owned:
        shutil.chown(path, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def versions() -> dict[str, str]:
    """What the servers here say that they are, of those that are here."""
    asked = {"Redis": "redis-server", "PostgreSQL": "postgres", "NATS": "nats-server"}
    found = {name: _find(program) for name, program in asked.items()}
    return {name: version_of(program) for name, program in found.items() if program is not None}


def version_of(program: Path, flag: str = "--version") -> str:
    """What a program says that it is."""
    said = subprocess.run([program, flag], capture_output=True, text=True, check=True)
    number = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    if number is None:
        raise RuntimeError(f"{program} {flag} says no version: {said.stdout}")
    return number[0]


def _find(program: str) -> Path | None:
    if (on_path := shutil.which(program)) is not None:
        return Path(on_path)
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return installed[-1] if installed else None
