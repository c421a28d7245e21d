"""The backend in this process, asked twice to stop while requests are open."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swell.cli.service import Service, open_service
from swell.core.clock import SystemClock
from swell.core.records import Scope
from swell.server.app import App
from swell.server.auth import create_key
from swell.settings.load import load

CARD = {"name": "demo/upper", "version": "1", "input_schema": {"type": "object"}}

TASK = {"model": "demo/upper", "input": {}}


@pytest.fixture(autouse=True)
def the_collector() -> Iterator[None]:
    """Undo what a service does to the garbage collector of its process."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


async def _session(service: Service) -> aiohttp.ClientSession:
    made = await create_key(
        service.backend.registry, SystemClock(), "k", frozenset({Scope.CLIENT, Scope.WORKER})
    )
    headers = {"Authorization": f"Bearer {made.secret}"}
    return aiohttp.ClientSession(service.url, headers=headers)


async def _post(session: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> Any:
    async with session.post(path, json=body, headers=headers) as answer:
        return await answer.json()


async def _follow(session: aiohttp.ClientSession, task_id: str, begun: asyncio.Event) -> None:
    async with session.get(f"/v1/tasks/{task_id}/events") as answer:
        begun.set()
        await answer.read()


@pytest.mark.alone
async def test_who_asks_twice_ends_open_requests_and_the_application_stops_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"data_dir": tmp_path, "server.port": 0}
    settings = load(flags, environment={}, folder=tmp_path).settings
    hurry, begun = asyncio.Event(), asyncio.Event()
    caplog.set_level(logging.WARNING)
    loop = asyncio.get_running_loop()
    async with open_service(settings, SystemClock(), hurry=hurry) as service:
        app = service._server.config.app
        assert isinstance(app, App)
        session = await _session(service)
        worker = {"name": "w", "models": [CARD], "slots": 1}
        worker_id = (await _post(session, "/worker/v1/register", worker))["worker_id"]
        made = await _post(session, "/v1/tasks", TASK)
        opened = [
            asyncio.create_task(_follow(session, made["id"], begun)),
            asyncio.create_task(_post(session, "/v1/tasks", TASK, Prefer="wait=50")),
            asyncio.create_task(
                _post(session, "/worker/v1/lease", {"worker_id": worker_id, "n": 0, "wait_s": 20})
            ),
            # A body that never ends.
            asyncio.create_task(_upload(session)),
        ]
        await begun.wait()
        while len(service._server.server_state.connections) < len(opened):
            await asyncio.sleep(0)
        hurry.set()
        begun_s = loop.time()
    assert loop.time() - begun_s < 4
    assert not app.service.is_ready
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    await asyncio.gather(*opened, return_exceptions=True)
    await session.close()


async def _upload(session: aiohttp.ClientSession) -> None:
    async def endless() -> Any:
        yield b"x"
        await asyncio.Event().wait()

    with contextlib.suppress(aiohttp.ClientError):
        async with session.post("/v1/uploads", data=endless()) as answer:
            await answer.read()
