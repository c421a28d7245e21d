"""A server in this process, and workers as processes of their own that reach it over HTTP."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from worker_harness import PATIENCE_S

from sqlite_rig import SqliteRig
from swell.core.clock import SystemClock
from swell.core.records import Scope
from swell.core.retry import RetryPolicy
from swell.core.task import TaskState
from swell.objects.folder import TemporaryObjects
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import create_app
from swell.server.auth import create_key
from swell.server.dependencies import ApiSettings, Backend

__all__ = ["Site", "Talk", "a_worker", "site"]


@dataclass
class Site:
    """A backend that listens, and a client of it."""

    url: str
    backend: Backend
    worker_key: str
    client: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with self.client.request(method, self.url + path, json=body) as answer:
            told = await answer.json()
            assert answer.status < 300, told
            return told

    async def submit(self, model: str, **fields: Any) -> str:
        task = await self.call("POST", "/v1/tasks", {"model": model, **fields})
        return str(task["id"])

    async def ended(self, task_id: str) -> Any:
        await self._until(task_id, lambda state: state.is_terminal)
        return await self.call("GET", f"/v1/tasks/{task_id}")

    async def running(self, task_id: str) -> None:
        await self._until(task_id, lambda state: state is TaskState.RUNNING)

    async def _until(self, task_id: str, is_it: Callable[[TaskState], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                [task] = await self.backend.store.get([task_id])
                assert task is not None
                if is_it(task.state):
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    clock = SystemClock()
    rig = SqliteRig(clock, RetryPolicy(base_s=0.05))
    registry = rig.registry
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    backend = Backend(
        store=rig.store,
        broker=rig.broker,
        outbox=rig.outbox,
        bus=MemoryBus(clock),
        objects=TemporaryObjects(clock, await registry.secret("objects")),
        registry=registry,
        clock=clock,
        settings=ApiSettings(),
        launchable=lambda: ["demo/noop", "demo/upper", "demo/echo-picture", "demo/crash"],
    )
    worker_key = (await create_key(registry, clock, "w", frozenset({Scope.WORKER}))).secret
    client_key = (await create_key(registry, clock, "c", frozenset({Scope.ADMIN}))).secret
    config = uvicorn.Config(
        create_app(backend),
        log_level="critical",
        lifespan="on",
        # The long poll of a worker that was killed would keep the server up.
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {client_key}"}) as client:
        while not server.started:
            await asyncio.sleep(0.01)
        yield Site(url, backend, worker_key, client)
        server.should_exit = True
        await serving


class Talk:
    """What a worker has written to stderr so far."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        self._stream = stream
        self._text = b""
        self._news = asyncio.Condition()
        self._is_over = False

    async def read(self) -> None:
        while True:
            line = await self._stream.readline()
            async with self._news:
                self._text += line
                self._is_over = not line
                self._news.notify_all()
            if not line:
                return

    async def has(self, word: bytes) -> None:
        """Wait until it said `word`."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: word in self._text or self._is_over)
        assert word in self._text, self._text.decode()


@asynccontextmanager
async def a_worker(
    site: Site, tmp_path: Path, *options: str, ready: bytes = b"registered"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Talk]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SWELL_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swell", "worker", "--url", site.url, "--token", site.worker_key),
        *("-m", "demo/*", *options),
        cwd=tmp_path,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    talk = Talk(process.stderr)
    reading = asyncio.create_task(talk.read())
    await talk.has(ready)
    try:
        yield process, talk
    finally:
        # Twice: the first drains, the second hands back what a failed test may have left.
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await talk.has(b"draining")
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await reading
