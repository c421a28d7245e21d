"""Two backends on PostgreSQL, of which one has a wrong clock."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conformance.factories import a_settlement, hold_of
from postgres_databases import PostgresDatabases
from swell.cli.parts import examine
from swell.cli.service import Service, open_service
from swell.core.clock import SystemClock
from swell.core.errors import Unavailable
from swell.core.records import ModelCard, Scope
from swell.core.task import Task, TaskState
from swell.protocol.worker_messages import Ask, Registration, Report
from swell.server.auth import create_key
from swell.server.clock_skew import MOST_SKEW_S
from swell.server.workers.worker_leases import lease_tasks
from swell.server.workers.worker_registration import register_worker
from swell.server.workers.worker_reports import take_report
from swell.server.workers.worker_tracker import Worker
from swell.settings.load import Settings, load

PATIENCE_S = 30.0


class SetClock(SystemClock):
    """The machine's clock, set wrong by some seconds."""

    wrong_by_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.wrong_by_s)


@dataclass
class Backend:
    service: Service
    clock: SetClock
    session: aiohttp.ClientSession
    settings: Settings
    worker_id: str = ""

    async def asks(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, path, json=body) as answer:
            return answer.status, await answer.json()

    async def ready(self) -> tuple[int, str]:
        status, body = await self.asks("GET", "/health/ready")
        return status, body.get("detail", "")

    async def submit(self, **fields: Any) -> tuple[int, Any]:
        return await self.asks("POST", "/v1/tasks", {"model": "demo/a", "input": {}, **fields})

    async def lease(self, wait_s: float = 0.0) -> list[str]:
        ask = Ask(worker_id=self.worker_id, n=10, wait_s=wait_s)
        granted = await lease_tasks(self.service.app.service, await self.worker(), ask)
        return [task.task_id for task in granted.tasks]

    async def worker(self, worker_id: str = "") -> Worker:
        worker = await self.service.app.service.fleet.find(worker_id or self.worker_id)
        assert worker is not None
        worker.seen_s = self.clock.monotonic_s()
        return worker

    async def task(self, task_id: str) -> Task:
        (task,) = await self.service.backend.store.get([task_id])
        assert task is not None
        return task

    async def sweeps(self) -> bool:
        return await self.service.app.service.leadership.leads("sweeper")


Pair = tuple[Backend, Backend]


@pytest.fixture(autouse=True)
def the_collector() -> Iterator[None]:
    """Undo what a service does to the garbage collector of its process."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.fixture
async def pair(postgres_databases: PostgresDatabases, tmp_path: Path) -> AsyncIterator[Pair]:
    """Two backends; the first sweeps."""
    url = await postgres_databases.new()
    async with contextlib.AsyncExitStack() as stack:
        backends = []
        for name in ("one", "two"):
            clock = SetClock()
            flags = {
                "data_dir": tmp_path / name,
                "server.port": 0,
                "store.url": url,
                "objects.url": f"file:{tmp_path / 'objects'}",
            }
            settings = load(flags, environment={}, folder=tmp_path).settings
            service = await stack.enter_async_context(
                open_service(settings, clock, hurry=asyncio.Event())
            )
            registry = service.backend.registry
            key = await create_key(registry, clock, name, frozenset({Scope.CLIENT}))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    service.local_url, headers={"Authorization": f"Bearer {key.secret}"}
                )
            )
            backend = Backend(service, clock, session, settings)
            backends.append(backend)
            await until(backends[0].sweeps)
            card = ModelCard(name="demo/a", version="1", input_schema={})
            registration = Registration(name="w", models=[card])
            welcome = await register_worker(service.app.service, registration)
            backend.worker_id = welcome.worker_id
        yield backends[0], backends[1]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("wrong_by_s", [300.0, -300.0])
async def test_a_backend_whose_clock_is_wrong_is_not_ready_and_leaves_tasks_to_others(
    pair: Pair, wrong_by_s: float
) -> None:
    wrong, right = pair
    _, running = await right.submit()
    assert await right.lease() == [running["id"]]
    wrong.clock.wrong_by_s = wrong_by_s
    # It gives up what it does for all, before it does harm.
    assert not await wrong.sweeps()
    await until(right.sweeps)
    _, waiting = await right.submit(finish_by_s=60)
    assert await wrong.lease() == []
    status, detail = await wrong.ready()
    assert status == 503
    where = "ahead of" if wrong_by_s > 0 else "behind"
    assert f"this backend's clock is 300.0 s {where} the database's" in detail
    assert "NTP" in detail
    assert (await right.ready())[0] == 200
    assert await right.lease() == [waiting["id"]]
    for each in (running, waiting):
        task = await right.task(each["id"])
        assert (task.state, task.attempt) == (TaskState.RUNNING, 1)


@pytest.mark.slow
@pytest.mark.parametrize("wrong_by_s", [300.0, -300.0])
async def test_what_a_worker_reports_to_a_backend_whose_clock_is_wrong_holds(
    pair: Pair, wrong_by_s: float
) -> None:
    # The one that sweeps is right: a step of the clock within a sweep would end leases.
    right, wrong = pair
    for backend in pair:
        await backend.submit()
    ids = await right.lease()
    tasks = [await right.task(each) for each in ids]
    wrong.clock.wrong_by_s = wrong_by_s
    holds = [hold_of(task) for task in tasks]
    told = Report(worker_id=right.worker_id, holds=holds, ask=5)
    worker = await wrong.worker(right.worker_id)
    await take_report(wrong.service.app.service, worker, told)
    lease_s = right.settings.delivery.lease_s
    for task in [await right.task(each) for each in ids]:
        assert task.state is TaskState.RUNNING
        assert task.lease_expires_at is not None
        left_s = (task.lease_expires_at - datetime.now(UTC)).total_seconds()
        assert 0 < left_s <= lease_s + MOST_SKEW_S
    done = [a_settlement(task) for task in tasks]
    await take_report(
        wrong.service.app.service,
        await wrong.worker(right.worker_id),
        Report(worker_id=right.worker_id, settlements=done),
    )
    assert {(await right.task(each)).state for each in ids} == {TaskState.SUCCEEDED}


@pytest.mark.slow
async def test_a_deadline_is_not_taken_by_a_wrong_clock_and_nothing_else_is_refused(
    pair: Pair,
) -> None:
    wrong, _ = pair
    wrong.clock.wrong_by_s = -300.0
    status, problem = await wrong.submit(finish_by_s=60)
    assert (status, problem["code"]) == (503, "unavailable")
    assert "300.0 s behind" in problem["detail"]
    assert (await wrong.submit())[0] == 202


@pytest.mark.slow
async def test_a_worker_that_waits_at_a_backend_gets_nothing_once_its_clock_is_wrong(
    pair: Pair,
) -> None:
    wrong, right = pair
    waiting = asyncio.ensure_future(wrong.lease(wait_s=PATIENCE_S))
    worker = wrong.service.app.service.fleet.workers.get(wrong.worker_id)
    assert worker is not None

    async def waits() -> bool:
        return bool(worker.polls)

    await until(waits)
    wrong.clock.wrong_by_s = -300.0
    _, task = await wrong.submit()
    assert (await wrong.ready())[0] == 503
    assert await waiting == []
    assert (await right.task(task["id"])).state is TaskState.QUEUED
    await until(right.sweeps)
    assert await right.lease() == [task["id"]]


@pytest.mark.slow
async def test_a_worker_that_waits_has_a_task_as_soon_as_the_clock_is_right(pair: Pair) -> None:
    wrong, _ = pair
    wrong.clock.wrong_by_s = 300.0
    assert (await wrong.ready())[0] == 503
    waiting = asyncio.ensure_future(wrong.lease(wait_s=2 * PATIENCE_S))
    worker = wrong.service.app.service.fleet.workers.get(wrong.worker_id)
    assert worker is not None

    async def waits() -> bool:
        return bool(worker.polls)

    await until(waits)
    wrong.clock.wrong_by_s = 0.0
    async with asyncio.timeout(PATIENCE_S):
        # The worker asks again.
        assert await waiting == []


@pytest.mark.slow
async def test_ids_of_a_queue_stay_with_the_worker_while_the_clock_is_wrong(pair: Pair) -> None:
    wrong, _ = pair
    _, task = await wrong.submit()
    wrong.clock.wrong_by_s = 300.0
    ask = Ask(worker_id=wrong.worker_id, n=1, offered=[task["id"]])
    with pytest.raises(Unavailable, match="s ahead of the database"):
        await lease_tasks(wrong.service.app.service, await wrong.worker(), ask)


@pytest.mark.slow
async def test_a_backend_whose_clock_is_right_again_goes_on(pair: Pair) -> None:
    wrong, _ = pair
    wrong.clock.wrong_by_s = 300.0
    assert (await wrong.ready())[0] == 503
    async with wrong.session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (ahead,) = [line for line in lines if line.startswith("swell_clock_ahead_seconds ")]
    assert 299 < float(ahead.split()[1]) < 301
    [store] = [each for each in await examine(wrong.settings, wrong.clock) if each.name == "store"]
    assert store.grade == "fail"
    assert "clock" in store.detail
    wrong.clock.wrong_by_s = 0.0
    assert await wrong.ready() == (200, "")
    _, task = await wrong.submit(finish_by_s=60)
    assert await wrong.lease() == [task["id"]]
