"""A lease that is written, and whose answer does not reach its worker, costs no attempt."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swell.cli.service import Service, open_service
from swell.core.clock import SystemClock
from swell.core.records import Scope
from swell.server.auth import create_key
from swell.server.workers import worker_reports
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


class Gate:
    """Stops a backend where a lease is written and its answer is not."""

    def __init__(self) -> None:
        self.is_written = False
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def wait(self) -> None:
        if self.is_written:
            self.reached.set()
            await self.opened.wait()

    def put_into(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wait where a lease looks at its key again, and where a report is published."""
        broker, keys = service.app.service.broker, service.app.service.keys
        lease, find, publish = broker.lease, keys.find, worker_reports._publish

        async def lease_noted(*args: Any, **options: Any) -> Any:
            tasks = await lease(*args, **options)
            self.is_written = self.is_written or bool(tasks)
            return tasks

        async def find_late(*args: Any) -> Any:
            await self.wait()
            return await find(*args)

        async def publish_late(*args: Any) -> Any:
            await self.wait()
            return await publish(*args)

        monkeypatch.setattr(broker, "lease", lease_noted)
        monkeypatch.setattr(keys, "find", find_late)
        monkeypatch.setattr(worker_reports, "_publish", publish_late)


@asynccontextmanager
async def serving(
    folder: Path, hurry: asyncio.Event
) -> AsyncIterator[tuple[Service, aiohttp.ClientSession, str]]:
    """Yield a service, a session of a client that may do all, and the id of a worker."""
    flags = {"data_dir": folder, "server.port": 0, "server.drain_s": 1, "delivery.lease_s": 60}
    settings = load(flags, environment={}, folder=folder).settings
    async with open_service(settings, SystemClock(), hurry=hurry) as service:
        scopes = frozenset({Scope.CLIENT, Scope.WORKER})
        made = await create_key(service.backend.registry, SystemClock(), "k", scopes)
        headers = {"Authorization": f"Bearer {made.secret}"}
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            service.url, headers=headers, connector=connector
        ) as session:
            worker = {"name": "w", "models": [CARD], "slots": 4}
            worker_id = (await post(session, "/worker/v1/register", worker))["worker_id"]
            yield service, session, worker_id


async def post(session: aiohttp.ClientSession, path: str, body: Any) -> Any:
    async with session.post(path, json=body) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


def asking(path: str, worker_id: str) -> dict[str, Any]:
    if path == "report":
        return {"worker_id": worker_id, "ask": 1}
    return {"worker_id": worker_id, "n": 1, "wait_s": 5}


async def attempts_that_counted(
    service: Service, session: aiohttp.ClientSession, worker_id: str, lease: Any
) -> int:
    """End a task, and return how many attempts of it counted."""
    told = {name: lease[name] for name in ("task_id", "attempt", "token")}
    settlement = {**told, "outcome": {"type": "succeeded", "output": None}}
    report = {"worker_id": worker_id, "settlements": [settlement]}
    assert "stale" not in await post(session, "/worker/v1/report", report)
    [task] = await service.backend.store.get([lease["task_id"]])
    assert task is not None
    return task.attempt - task.handed_back


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["lease", "report"])
async def test_a_worker_that_hangs_up_before_the_answer(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with serving(tmp_path, asyncio.Event()) as (service, session, worker_id):
        gate.put_into(service, monkeypatch)
        task = await post(session, "/v1/tasks", TASK)
        call = asyncio.create_task(post(session, f"/worker/v1/{path}", asking(path, worker_id)))
        await asyncio.wait_for(gate.reached.wait(), 30)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        connections = service._server.server_state.connections
        await until(lambda: not connections)
        gate.opened.set()
        lease = {"worker_id": worker_id, "n": 1, "wait_s": 20}
        [again] = (await post(session, "/worker/v1/lease", lease))["tasks"]
        assert again["task_id"] == task["id"]
        assert await attempts_that_counted(service, session, worker_id, again) == 1


@pytest.mark.parametrize("path", ["lease", "report"])
async def test_a_backend_that_stops_before_the_answer(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, hurry = Gate(), asyncio.Event()
    async with serving(tmp_path, hurry) as (service, session, worker_id):
        gate.put_into(service, monkeypatch)
        task = await post(session, "/v1/tasks", TASK)
        call = asyncio.create_task(post(session, f"/worker/v1/{path}", asking(path, worker_id)))
        await asyncio.wait_for(gate.reached.wait(), 30)
        hurry.set()
    [lost] = await asyncio.gather(call, return_exceptions=True)
    gate.opened.set()
    assert isinstance(lost, aiohttp.ClientError), "the worker never heard of it"
    async with serving(tmp_path, asyncio.Event()) as (service, session, worker_id):
        lease = {"worker_id": worker_id, "n": 1}
        [again] = (await post(session, "/worker/v1/lease", lease))["tasks"]
        assert again["task_id"] == task["id"]
        assert await attempts_that_counted(service, session, worker_id, again) == 1
