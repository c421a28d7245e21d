"""A whole Swell on this machine, in processes of its own, that can be killed and started again."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

__all__ = ["System", "ask_to_stop", "free_port", "running"]

MODELS = Path(__file__).resolve().parent / "models.py"

#: How long a process may take to be there, or to end when asked.
PATIENCE_S = 60.0


class System:
    """One backend and some workers on one data folder and one port.

    Args:
        folder: Where everything is kept.
        settings: Settings by their dotted keys, over those of the test.
    """

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self.token = ""
        self.backend: subprocess.Popen[bytes] | None = None
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self._settings = {
            "data_dir": str(self.data),
            "server.port": str(self.port),
            "delivery.lease_s": "2",
            "delivery.heartbeat_s": "0.6",
            "delivery.worker_wait_s": "5",
            "delivery.backoff_base_s": "0.1",
            "delivery.backoff_cap_s": "1",
            "worker.url": self.url,
            "worker.models": str(MODELS),
        } | (settings or {})

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.data / "swell.db"

    # --- backend ---------------------------------------------------------------------------------

    def spawn_backend(self) -> subprocess.Popen[bytes]:
        """Start a backend process; it need not be the only one."""
        return self._spawn("backend", "serve", {})

    async def start_backend(self) -> None:
        """Start the backend and wait until it is ready."""
        self.backend = self.spawn_backend()
        await self.backend_ready()

    async def backend_ready(self) -> None:
        """Wait until the backend answers.

        Raises:
            RuntimeError: It ended, or took too long; with the end of its log.
        """
        ends_s = time.monotonic() + PATIENCE_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < ends_s:
                assert self.backend is not None
                if self.backend.poll() is not None:
                    raise RuntimeError(f"the backend ended:\n{self.log('backend')}")
                if await _answers(session, f"{self.url}/health/ready") and self._read_access():
                    break
                await asyncio.sleep(0.02)
            else:
                raise RuntimeError(f"the backend is not ready:\n{self.log('backend')}")
        if not self.token:
            # Of their own, so that it outlives the backend: workers go on when it is back.
            async with (
                self.session() as session,
                session.post("/v1/keys", json={"name": "chaos", "scopes": ["worker"]}) as answer,
            ):
                self.token = (await answer.json())["key"]

    def kill_backend(self) -> None:
        """SIGKILL the backend, and wait until the kernel has let go of it."""
        assert self.backend is not None
        self.backend.kill()
        self.backend.wait(PATIENCE_S)

    def _read_access(self) -> bool:
        try:
            access = msgspec.json.decode((self.data / "access.json").read_bytes())
        except (OSError, msgspec.MsgspecError):
            return False
        self.key = access["local_key"]
        return True

    # --- workers ---------------------------------------------------------------------------------

    def start_worker(self, index: int) -> None:
        """Start a worker; it registers by itself."""
        own = {
            "worker.name": f"worker-{index}",
            "worker.token": self.token,
            # Of its own, so that its model processes are below it, whatever they were forked from.
            "data_dir": str(self.data / f"worker-{index}"),
        }
        self.workers[index] = self._spawn(f"worker-{index}", "worker", own)

    async def wait_workers(self, n: int) -> None:
        """Wait until `n` workers are registered and live.

        Raises:
            RuntimeError: It took too long; with the end of a log.
        """
        ends_s = time.monotonic() + PATIENCE_S
        async with self.session() as session:
            while time.monotonic() < ends_s:
                for index, process in self.workers.items():
                    if process.poll() is not None:
                        raise RuntimeError(f"a worker ended:\n{self.log(f'worker-{index}')}")
                async with session.get("/v1/workers") as answer:
                    listed = (await answer.json()).get("workers", [])
                if sum(each["state"] in ("idle", "busy") for each in listed) >= n:
                    return
                await asyncio.sleep(0.05)
        raise RuntimeError(f"the workers are not there:\n{self.log('worker-0')}")

    def kill_worker(self, index: int) -> None:
        """SIGKILL a worker, and wait until the kernel has let go of it."""
        self.workers[index].kill()
        self.workers[index].wait(PATIENCE_S)

    def model_process(self, index: int) -> psutil.Process | None:
        """Return the model process of a worker, if it has one now."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.workers[index].pid).children(recursive=True):
                if child.name() == "swell-model" or "swell.worker.child" in child.cmdline():
                    return child
        return None

    def kill_model(self, index: int) -> bool:
        """SIGKILL the model process of a worker; False if it has none now."""
        child = self.model_process(index)
        if child is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
            return True
        return False

    # --- all of it -------------------------------------------------------------------------------

    def session(self, **options: Any) -> aiohttp.ClientSession:
        """Return a client of the API with the admin's key."""
        options.setdefault("timeout", aiohttp.ClientTimeout(total=20))
        return aiohttp.ClientSession(
            self.url, headers={"authorization": f"Bearer {self.key}"}, **options
        )

    def log(self, name: str) -> str:
        """Return the end of a process's output."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def end(self) -> None:
        """Kill everything that was started, with the model processes."""
        processes = [*self.workers.values(), *([self.backend] if self.backend else [])]
        children: list[psutil.Process] = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                children += psutil.Process(process.pid).children(recursive=True)
        for process in processes:
            process.kill()
            process.wait(PATIENCE_S)
        for child in children:
            # psutil compares the time of its start, so that no reused id is hit.
            with contextlib.suppress(psutil.Error):
                child.kill()

    def _spawn(self, name: str, command: str, own: dict[str, str]) -> subprocess.Popen[bytes]:
        settings = self._settings | own
        if command == "worker":
            settings = {k: v for k, v in settings.items() if not k.startswith("server.")}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SWELL_")} | {
            f"SWELL_{key.upper().replace('.', '__')}": value for key, value in settings.items()
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "swell", command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, workers: int, settings: dict[str, str] | None = None
) -> AsyncIterator[System]:
    """A system with so many workers, ready; everything is killed at the end of the block."""
    system = System(folder, settings)
    try:
        await system.start_backend()
        for index in range(workers):
            system.start_worker(index)
        await system.wait_workers(workers)
        yield system
    finally:
        system.end()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now.

    Below the range from which the kernel takes ports for outgoing connections: while the backend is
    dead, a client that connects must not be given the backend's own port and talk to itself.

    Raises:
        RuntimeError: None was found.
    """
    for _ in range(200):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM."""
    process.send_signal(signal.SIGTERM)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
