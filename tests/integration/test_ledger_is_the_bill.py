"""The ledger of a real system is its bill: workers that boot, run, fail, are killed and go."""

import asyncio
import collections
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from postgres_databases import PostgresDatabases
from swell.bootstrap.local_workers import Fleet, build_fleet
from swell.cli.service import Service, open_service
from swell.core.billing.ledger import EntryKind, LedgerEntry
from swell.core.clock import SystemClock
from swell.core.provider import Instance, InstanceState
from swell.core.records import Scope
from swell.server.auth import create_key
from swell.server.billing.cost_routes import instance_ended, settle, spent
from swell.settings.load import load

MODEL = '''
import os, time
from typing import Literal
from pydantic import BaseModel
import swell

class Work(swell.Model):
    """Takes its time, fails, or dies."""

    name = "own/work"
    Output = str
    batch = swell.Batch(max=4)
    price_micros = 40_000

    class Input(BaseModel):
        how: Literal["well", "badly", "never"] = "well"
        took_s: float = 0.05
        pays: bool = False

    def run(self, items):
        for item in items:
            if item.input.pays:
                with open(__file__ + ".paid", "a") as file:
                    file.write("x")
                item.paid(self.price_micros)
        time.sleep(max(item.input.took_s for item in items))
        if any(item.input.how == "never" for item in items):
            os._exit(3)
        return [
            ValueError("it broke") if item.input.how == "badly" else "done" for item in items
        ]
'''

#: A dollar a second, so that a microsecond is a millionth.
HOUR_MICROS = 3_600_000_000
PATIENCE_S = 60.0
CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def the_collector() -> Iterator[None]:
    """Undo what a service does to the garbage collector of its process."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


class System:
    """A backend in this process, and workers in other processes."""

    def __init__(self, service: Service, fleet: Fleet, session: aiohttp.ClientSession) -> None:
        self.service = service
        self.fleet = fleet
        self.session = session
        self.tasks: list[str] = []

    async def submit(self, n: int, **fields: Any) -> list[str]:
        ids = []
        for _ in range(n):
            body = {"model": "own/work", "input": fields, "max_attempts": 2}
            async with self.session.post("/v1/tasks", json=body) as answer:
                assert answer.status == 202, await answer.text()
                ids.append((await answer.json())["id"])
        return ids

    async def get(self, task_id: str) -> Any:
        async with self.session.get(f"/v1/tasks/{task_id}") as answer:
            return await answer.json()

    async def ended(self, ids: list[str]) -> list[Any]:
        """Wait until tasks have ended, and return them."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [await self.get(each) for each in ids]
                if all(each["finished_at"] for each in found):
                    return found
                await asyncio.sleep(0.05)

    async def registered(self, n: int) -> list[Any]:
        """Wait until so many workers live, and return them."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                workers = await self.service.backend.registry.workers()
                living = [each for each in workers if each.gone_at is None]
                if len(living) >= n:
                    return living
                await asyncio.sleep(0.05)

    async def take_ends(self) -> list[Instance]:
        """Tell the backend of the instances that have ended, and return them."""
        provider = self.fleet.provider
        ends = [
            each
            for each in await provider.instances()
            if each.state is InstanceState.ENDED and each.ended_at is not None
        ]
        for each in ends:
            await instance_ended(self.service.app.service, each)
        return ends

    async def ledger(self) -> list[LedgerEntry]:
        page = await self.service.backend.registry.ledger(limit=10_000)
        return page.entries


@contextlib.asynccontextmanager
async def a_system(folder: Path, **flags: Any) -> AsyncIterator[System]:
    (folder / "work.py").write_text(MODEL)
    values = {
        "data_dir": folder / "data",
        "server.port": 0,
        "worker.models": (str(folder / "work.py"),),
        "worker.drain_s": 5.0,
        "pool.workers": 2,
        "pool.hour_micros": HOUR_MICROS,
        "delivery.lease_s": 3.0,
        "delivery.heartbeat_s": 0.4,
        "delivery.backoff_base_s": 0.0,
    }
    settings = load(values | flags, environment={}, folder=folder).settings
    async with open_service(settings, CLOCK, hurry=asyncio.Event()) as service:
        registry = service.backend.registry
        scopes = frozenset({Scope.CLIENT, Scope.WORKER, Scope.ADMIN})
        made = await create_key(registry, CLOCK, "k", scopes)
        fleet = build_fleet(
            settings, CLOCK, url=service.url, token=made.secret, on_end=lambda instance: None
        )
        keeping = asyncio.create_task(fleet.run())
        headers = {"Authorization": f"Bearer {made.secret}"}
        try:
            async with aiohttp.ClientSession(service.url, headers=headers) as session:
                yield System(service, fleet, session)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await fleet.provider.close()


async def live(system: System) -> list[Any]:
    """Let the system do all that it may; return the tasks."""
    await system.registered(2)
    ids = await system.submit(12)
    ids += await system.submit(2, how="badly")
    ids += await system.submit(1, how="never")
    ids += await system.submit(3, pays=True)
    ids += await system.submit(1, pays=True, how="badly")
    ids += await system.submit(1, pays=True, how="never")
    told = await system.ended(ids)
    # One worker dies with its task, and is replaced.
    long = await system.submit(1, took_s=1.0)
    async with asyncio.timeout(PATIENCE_S):
        while (found := await system.get(long[0]))["started_at"] is None:
            await asyncio.sleep(0.02)
    workers = {each.id: each for each in await system.service.backend.registry.workers()}
    [task] = await system.service.backend.store.get([found["id"]])
    assert task is not None
    os.kill(workers[task.worker_id or ""].pid, signal.SIGKILL)
    told += await system.ended(long)
    await system.take_ends()
    await system.registered(2)
    # Less is charged than spent, since both workers live.
    service = system.service.app.service
    await settle(service)
    whole = sum(each.micros or 0 for each in await system.ledger())
    assert (await spent(service)).day_micros >= whole > 0
    return told


async def go(system: System) -> list[Instance]:
    """Have all workers go, and return all instances that there were."""
    ids = await system.fleet.drain(10.0)
    async with asyncio.timeout(PATIENCE_S):
        await system.fleet.provider.wait_ended(ids)
    return await system.take_ends()


def check(
    entries: list[LedgerEntry], instances: list[Instance], tasks: list[Any], paid_micros: int
) -> None:
    lives_s = [
        (each.ended_at - each.launched_at).total_seconds() for each in instances if each.ended_at
    ]
    assert len(lives_s) == 3
    assert sum(each.seconds for each in entries) == pytest.approx(sum(lives_s), abs=1e-4)
    bill = sum(round(lived_s * HOUR_MICROS / 3600) for lived_s in lives_s)
    elsewhere = [each for each in entries if each.account == "paid:own/work"]
    assert sum(each.micros or 0 for each in elsewhere) == paid_micros > 0
    assert sum(each.micros or 0 for each in entries) == bill + paid_micros
    # Each attempt is charged for it: also those that failed, and those that killed its process.
    by_task = collections.Counter((each.ref, each.kind) for each in elsewhere)
    assert by_task == {
        (task["id"], "attempt" if task["state"] == "succeeded" else "failed"): task["attempt"]
        for task in tasks
        if task["input"].get("pays")
    }
    assert len(by_task) == 5
    # Of the one that was killed, more may have been charged than it has lived.
    assert len({each.account for each in entries if each.outcome == "correction"}) <= 1
    kinds: dict[EntryKind, float] = {}
    for each in entries:
        kinds[each.kind] = kinds.get(each.kind, 0.0) + each.seconds
    assert set(kinds) == set(EntryKind)
    assert all(seconds > 0 for seconds in kinds.values()), kinds
    assert kinds[EntryKind.COLD_START] > 0.1
    # Batches of four share their time: 13 tasks that succeeded ran for 0.05 s or 1 s together.
    assert kinds[EntryKind.ATTEMPT] >= 0.05 * 3
    paid = {each.id: each.micros or 0 for each in entries}
    for task in tasks:
        if task["state"] == "succeeded":
            name = f"{task['id']}-{task['attempt']}"
            assert task["cost_micros"] == paid[name] + paid.get(f"{name}-paid", 0) > 0


async def test_the_ledger_is_the_bill(tmp_path: Path) -> None:
    async with a_system(tmp_path) as system:
        await check_all(system, tmp_path)


async def test_the_ledger_is_the_bill_on_postgresql(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    async with a_system(tmp_path, **{"store.url": await postgres_databases.new()}) as system:
        await check_all(system, tmp_path)


async def check_all(system: System, folder: Path) -> None:
    tasks = await live(system)
    instances = await go(system)
    service = system.service.app.service
    await settle(service, others_s=0.0)
    entries = await system.ledger()
    check(entries, instances, tasks, 40_000 * (folder / "work.py.paid").stat().st_size)
    bill = sum(each.micros or 0 for each in entries)
    async with system.session.get("/v1/costs?by=pool") as answer:
        told = (await answer.json())["total"]
    assert (told["micros"]["total"], told["images"]) == (bill, 16)
    # Repeating it charges nothing more.
    await system.take_ends()
    assert await settle(service, others_s=0.0) == 0
