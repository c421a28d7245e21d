"""Redis and PostgreSQL for the peers that need one: from Debian's packages, on free ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import processes
from machine import say

PACKAGES = {"redis-server": "redis-server", "wrk": "wrk", "postgres": "postgresql"}


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
    server = need("postgres")
    port = processes.free_port()
    data, log = folder / "postgres", folder / "postgres.log"
    data.mkdir()
    log.touch()
    as_owner = _as_postgres(folder, data)
    initialise: list[str | Path] = [server.parent / "initdb", "-D", data, "-A", "trust"]
    initialise += ["-U", "postgres"]
    subprocess.run([*as_owner, *initialise], cwd=data, stdout=subprocess.DEVNULL, check=True)
    listen = ["-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    listen += ["-c", f"unix_socket_directories={data}"]
    command: list[str | Path] = [*as_owner, server, "-D", data, *listen]
    with processes.running(command, log, stop=signal.SIGINT, cwd=data):
        processes.until(lambda: processes.listens(port), 30, "postgres", log)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


def _as_postgres(*owned: Path) -> list[str]:
    """PostgreSQL refuses to run as root: its package's own user runs it then."""
    if os.geteuid() != 0:
        return []
    for path in owned:
        shutil.chown(path, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _find(program: str) -> Path | None:
    if (on_path := shutil.which(program)) is not None:
        return Path(on_path)
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return installed[-1] if installed else None
