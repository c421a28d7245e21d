"""A whole Swell on this machine, in processes of its own, that can be killed and started again."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from chaos.engines import Engine
from chaos.proxy import Link, Proxy, Rule
from ports import free_port

__all__ = ["WORKERS", "System", "ask_to_stop", "free_port", "running"]

MODELS = Path(__file__).resolve().parent / "models.py"

#: Name of the link that leads from workers to backends.
WORKERS = "workers"

#: How long a process may take to be there, or to end when asked.
PATIENCE_S = 60.0


class System:
    """Backends and workers, and whatever they stand on.

    Args:
        folder: Where everything is kept.
        settings: Settings by their dotted keys, over those of the test.
        engine: What they stand on; None for one backend on one data folder.
        is_tried: Whether workers talk to backends through a proxy, and everybody's clock can be
            set wrong.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str] | None = None,
        *,
        engine: Engine | None = None,
        is_tried: bool = False,
    ) -> None:
        self.folder = folder
        self.engine = engine or Engine(folder)
        self.ports = [free_port() for _ in range(self.engine.backends)]
        self.key = ""
        self.token = ""
        self.backends: dict[int, subprocess.Popen[bytes]] = {}
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.proxy = Proxy(folder / "proxy.log") if is_tried else None
        self._entrance = Link(name=WORKERS, port=free_port(), targets=tuple(self.ports))
        self._rules: dict[str, dict[str, Rule]] = {}
        self._settings = {
            "delivery.lease_s": "2",
            "delivery.heartbeat_s": "0.6",
            "delivery.worker_wait_s": "5",
            "delivery.backoff_base_s": "0.1",
            "delivery.backoff_cap_s": "1",
            "worker.url": f"http://127.0.0.1:{self._entrance.port}" if is_tried else self.url,
            "worker.models": str(MODELS),
        } | (settings or {})

    @property
    def data(self) -> Path:
        """The data folder of the first backend."""
        return self.data_of(0)

    def data_of(self, index: int) -> Path:
        """Return the data folder of a backend."""
        return self.folder / (f"data-{index}" if index else "data")

    @property
    def database(self) -> Path:
        """The embedded store's file."""
        return self.data / "swell.db"

    @property
    def url(self) -> str:
        """Address of the first backend."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Addresses of all backends."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    # --- backends --------------------------------------------------------------------------------

    def spawn_backend(self, index: int = 0) -> subprocess.Popen[bytes]:
        """Start a backend process; it need not be the only one."""
        own = self.engine.settings() | {
            "data_dir": str(self.data_of(index)),
            "server.port": str(self.ports[index]),
        }
        return self._spawn(f"backend-{index}", "serve", own)

    async def start_backend(self, index: int = 0) -> None:
        """Start a backend and wait until it is ready."""
        self.backends[index] = self.spawn_backend(index)
        await self.backend_ready(index)

    async def backend_ready(self, index: int = 0) -> None:
        """Wait until a backend answers.

        Raises:
            RuntimeError: It ended, or took too long; with the end of its log.
        """
        ends_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_s:
            if self.backends[index].poll() is not None:
                raise RuntimeError(f"the backend ended:\n{self.log(f'backend-{index}')}")
            if await self.is_ready(index) and (index or self._read_access()):
                break
            await asyncio.sleep(0.02)
        else:
            raise RuntimeError(f"the backend is not ready:\n{self.log(f'backend-{index}')}")
        if not self.token:
            # Of their own, so that it outlives the backend: workers go on when it is back.
            async with (
                self.session() as session,
                session.post("/v1/keys", json={"name": "chaos", "scopes": ["worker"]}) as answer,
            ):
                self.token = (await answer.json())["key"]

    async def is_ready(self, index: int) -> bool:
        """Whether a backend says that it is ready."""
        async with aiohttp.ClientSession() as session:
            return await _answers(session, f"{self.urls[index]}/health/ready")

    def kill_backend(self, index: int = 0) -> None:
        """SIGKILL a backend, and wait until the kernel has let go of it."""
        self.backends[index].kill()
        self.backends[index].wait(PATIENCE_S)

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
            "data_dir": str(self.data / f"worker-{index}"),
        }
        if index % 2 == 0 and (queues_url := self.engine.queues_url()):
            own["worker.broker"] = queues_url
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
        for child in self._below(index):
            with contextlib.suppress(psutil.Error):
                if "swell.runtime.model_process_main" in child.cmdline():
                    return child
        return None

    def _below(self, index: int) -> list[psutil.Process]:
        """Return the processes that a worker has started."""
        try:
            return psutil.Process(self.workers[index].pid).children(recursive=True)
        except psutil.Error:
            return []

    def kill_model(self, index: int) -> bool:
        """SIGKILL the model process of a worker; False if it has none now."""
        child = self.model_process(index)
        if child is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
            return True
        return False

    # --- between them ----------------------------------------------------------------------------

    async def start_proxy(self) -> None:
        """Start the proxy, if there is one."""
        if self.proxy is not None:
            await asyncio.to_thread(self.proxy.start, [self._entrance, *self.engine.links()])

    def treat(self, link: str, why: str, rule: Rule | None) -> None:
        """Put a link under a rule besides those of other reasons; None takes this one away."""
        assert self.proxy is not None
        rules = self._rules.setdefault(link, {})
        rules.pop(why, None)
        if rule is not None:
            rules[why] = rule
        self.proxy.set(link, _together(list(rules.values())))

    def set_clock(self, name: str, wrong_by_s: float) -> None:
        """Set the wall clock of `worker-N` or `backend-N` wrong."""
        whole = self.folder / f"clock-{name}.new"
        whole.write_text(str(wrong_by_s))
        whole.rename(self.folder / f"clock-{name}")

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
        processes = [*self.workers.values(), *self.backends.values()]
        children = [child for index in self.workers for child in self._below(index)]
        for process in self.backends.values():
            with contextlib.suppress(psutil.Error):
                children += psutil.Process(process.pid).children(recursive=True)
        for process in processes:
            process.kill()
            process.wait(PATIENCE_S)
        for child in children:
            # psutil compares the time of its start, so that no reused id is hit.
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=PATIENCE_S)
        if self.proxy is not None:
            self.proxy.end()

    def _spawn(self, name: str, command: str, own: dict[str, str]) -> subprocess.Popen[bytes]:
        settings = self._settings | own
        if command == "worker":
            settings = {k: v for k, v in settings.items() if not k.startswith("server.")}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SWELL_")} | {
            f"SWELL_{key.upper().replace('.', '__')}": value for key, value in settings.items()
        }
        environment |= self.engine.environment()
        module = "swell"
        if self.proxy is not None:
            module = "chaos.skewed"
            tests = str(Path(__file__).resolve().parents[1])
            environment |= {
                "CHAOS_CLOCK": str(self.folder / f"clock-{name}"),
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [tests, os.environ.get("PYTHONPATH", "")])
                ),
            }
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    workers: int,
    settings: dict[str, str] | None = None,
    engine: Engine | None = None,
    is_tried: bool = False,
) -> AsyncIterator[System]:
    """A system with so many workers, ready; everything is killed at the end of the block."""
    system = System(folder, settings, engine=engine, is_tried=is_tried)
    try:
        await asyncio.to_thread(system.engine.start)
        await system.start_proxy()
        for index in range(system.engine.backends):
            await system.start_backend(index)
        for index in range(workers):
            system.start_worker(index)
        await system.wait_workers(workers)
        yield system
    finally:
        system.end()
        system.engine.stop()


def _together(rules: list[Rule]) -> Rule:
    """Return the rule that does what each of several does."""
    return Rule(
        cut=any(rule.cut for rule in rules),
        stall=any(rule.stall for rule in rules),
        lose_requests=any(rule.lose_requests for rule in rules),
        lose_answers=any(rule.lose_answers for rule in rules),
        drop_answer=max((rule.drop_answer for rule in rules), default=0.0),
        twice=max((rule.twice for rule in rules), default=0.0),
        late_s=max((rule.late_s for rule in rules), default=0.0),
        delay_s=max((rule.delay_s for rule in rules), default=0.0),
        refuse=tuple({method for rule in rules for method in rule.refuse}),
    )


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM."""
    process.send_signal(signal.SIGTERM)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
