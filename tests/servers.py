"""Real servers for tests: on free ports of this machine, with folders of their own.

Each can be killed and started again on its data. A program that is missing skips its tests, except
where `CI` is set in the environment: there it fails them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest

from ports import free_port

__all__ = [
    "AzuriteServer",
    "GcsServer",
    "MotoServer",
    "NatsServer",
    "PostgresServer",
    "Server",
    "free_port",
]

ROOT: Final = Path(__file__).resolve().parents[1]

#: How long a server may take to listen, or to end when asked.
PATIENCE_S: Final = 60.0


class Server:
    """One server process with its folder and port.

    Args:
        folder: Everything that it writes; kept over `kill` and `start`.
    """

    #: Sent by `stop`.
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where it is, in the words of the settings."""
        raise NotImplementedError

    def command(self) -> Sequence[str | Path]:
        """Return what runs it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, on what it wrote before if it ran already, and wait until it listens.

        Raises:
            RuntimeError: It ended, or took too long; with the end of its log.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )
        ends_s = time.monotonic() + PATIENCE_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > ends_s:
                self.kill()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
                raise RuntimeError(f"{type(self).__name__} does not start:\n{tail}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL it, and wait until the kernel has let go of it. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        """End it as an operator would. Idempotent."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def answers(self) -> bool:
        """Whether somebody listens on its port."""
        with socket.socket() as caller:
            caller.settimeout(1.0)
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "server.log"


class PostgresServer(Server):
    """PostgreSQL with its own defaults, `fsync` included."""

    # "Fast": connections are ended, nothing is lost.
    stop_signal = signal.SIGINT

    def __init__(self) -> None:
        # Not a folder of pytest: each run closes those of all runs to other users.
        super().__init__(Path(tempfile.mkdtemp(prefix="swell-postgres-")))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._program = _need("postgres", "postgresql")
        self._data = self.folder / "data"

    @property
    def url(self) -> str:
        """Of the database that every cluster has."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of one database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def command(self) -> Sequence[str | Path]:
        """Return what runs it, after the first call made its folder."""
        owner = _as_owner("postgres", self.folder)
        if not (self._data / "PG_VERSION").exists():
            initialise: list[str | Path] = [
                self._program.parent / "initdb",
                "-A",
                "trust",
                "-U",
                "postgres",
            ]
            subprocess.run(
                [*owner, *initialise, "-D", self._data],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        # A killed server leaves its id here, which another process may have by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        return [
            *owner,
            *(self._program, "-D", self._data, "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._data}"),
            *("-c", "max_connections=200"),
        ]

    def kill(self) -> None:
        """SIGKILL the server and the processes of its connections, as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            import psutil  # noqa: PLC0415 - only where something is killed

            family = psutil.Process(self.process.pid).children(recursive=True)
            super().kill()
            for each in family:
                try:
                    each.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(family, timeout=PATIENCE_S)

    def answers(self) -> bool:
        """Whether it takes connections; while it recovers it listens already, and refuses them."""
        ready = str(self._program.parent / "pg_isready")
        asked = [ready, "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0


class NatsServer(Server):
    """NATS with JetStream kept in files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = _need("nats-server", "nats-server")

    @property
    def url(self) -> str:
        """Without a name or password."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        """Return what runs it."""
        # Each acknowledged message has reached the disk: a power cut loses none.
        settings = (
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder / "jetstream"}", sync_interval: always }}\n'
        )
        config = self.folder / "nats.conf"
        config.write_text(settings)
        return [self._program, "-c", config]


class MotoServer(Server):
    """Amazon SQS and S3, imitated in memory: what it holds is lost with the process."""

    @property
    def url(self) -> str:
        """The endpoint of every service."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        """Return what runs it."""
        program: list[str | Path] = [sys.executable, Path(__file__).with_name("moto_emulator.py")]
        return [*program, "-H", "127.0.0.1", "-p", str(self.port)]


class GcsServer(Server):
    """Google Cloud Storage, imitated in a folder."""

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        """Return what runs it."""
        program: list[str | Path] = [sys.executable, Path(__file__).with_name("gcs_emulator.py")]
        place = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [*program, "-d", self.folder / "data", "start", *place]


class AzuriteServer(Server):
    """Azure Blob Storage, imitated by Azure's own emulator in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = ROOT / ".venv/azurite/node_modules/.bin/azurite-blob"
        if not self._program.exists():
            _lacks("azurite-blob is missing: .ci/services installs it")

    @property
    def url(self) -> str:
        """The endpoint of its one account."""
        return f"http://127.0.0.1:{self.port}/devstoreaccount1"

    def command(self) -> Sequence[str | Path]:
        """Return what runs it."""
        place: list[str | Path] = [
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            str(self.port),
            "-l",
            self.folder,
        ]
        return [self._program, *place, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]


def _need(program: str, package: str) -> Path:
    """Return where a program of a Debian package is, or skip the test."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: path.parts[-3]
    )
    if installed:
        return installed[-1]
    found = shutil.which(program)
    if found is None:
        _lacks(f"{program} is missing: apt-get install {package}")
    return Path(found)


def _lacks(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _as_owner(user: str, folder: Path) -> list[str]:
    """Return what runs a program as its package's own user, since it refuses to run as root."""
    if os.geteuid() != 0:
        return []
    shutil.chown(folder, user, user)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
