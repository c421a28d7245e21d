"""Several backends and one queue service on one PostgreSQL."""

import asyncio
import secrets
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from site_harness import kill

from commandline import PATIENCE_S, Swell, ready_line
from conformance.delivery import Delivery
from conformance.factories import a_new_task
from conformance.polled import PolledDelivery
from postgres_databases import PostgresDatabases
from servers import MotoServer, NatsServer
from swell.core.clock import SystemClock
from swell.core.task import TaskState
from swell.db.postgres import PostgresDatabase
from swell.db.task_store import Store
from swell.queues.external_queue import ExternalQueues
from swell.queues.nats_queue import NatsQueues
from swell.queues.sqs_queue import SqsQueues
from swell.queues.table_broker import Broker

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Place:
    """A database and a queue service."""

    store_url: str
    queues_url: str

    def queues(self) -> ExternalQueues:
        is_sqs = self.queues_url.startswith("sqs")
        return SqsQueues(self.queues_url) if is_sqs else NatsQueues(self.queues_url)

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[PolledDelivery]:
        """Yield a store, a broker and a publisher, as one backend has them, and a worker."""
        clock = SystemClock()
        database = await PostgresDatabase.open(self.store_url, clock)
        store = Store(database)
        # The clock of deliveries is for tests that move it.
        own = Delivery(clock, store, Broker(database))  # type: ignore[arg-type]
        delivery = PolledDelivery.over(own, self.queues(), self.queues())
        try:
            yield delivery
        finally:
            await delivery.close()
            await store.close()


@pytest.fixture(params=["nats", "sqs"])
async def place(
    request: pytest.FixtureRequest,
    postgres_databases: PostgresDatabases,
    nats_server: NatsServer,
    moto_server: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    name = f"b{secrets.token_hex(4)}"
    url = f"{nats_server.url}/{name}"
    if request.param == "sqs":
        url = f"sqs://us-east-1/{name}?endpoint={moto_server.url}"
    return Place(await postgres_databases.new(), url)


@pytest.mark.parametrize("is_mixed", [False, True])
async def test_two_backends_hand_out_every_task_once(place: Place, is_mixed: bool) -> None:
    served: Counter[str] = Counter()
    n = 60

    async def work(delivery: PolledDelivery, is_polling: bool) -> None:
        while len(served) < n:
            leases = delivery.lease(5) if is_polling else Delivery.lease(delivery, 5)
            tasks = await leases
            served.update(task.id for task in tasks)
            if tasks:
                assert None not in await delivery.settle(*tasks)
            else:
                await delivery.publisher.repair()

    async with place.backend() as first, place.backend() as second:
        tasks = []
        for k in range(n):
            tasks += await (first, second)[k % 2].submit(a_new_task())
        async with asyncio.timeout(60):
            await asyncio.gather(work(first, True), work(second, not is_mixed))
        assert served == Counter(task.id for task in tasks)
        found = await first.store.get([task.id for task in tasks])
        assert {each.state for each in found if each} == {TaskState.SUCCEEDED}


async def test_another_backend_repairs_the_queues_when_the_one_that_did_is_killed(
    tmp_path: Path, postgres_databases: PostgresDatabases, nats_server: NatsServer
) -> None:
    queues_url = f"{nats_server.url}/b{secrets.token_hex(4)}"
    place = Place(await postgres_databases.new(), queues_url)
    started: list[subprocess.Popen[str]] = []
    try:
        serve(tmp_path / "a", place, started)
        second, ready = serve(tmp_path / "b", place, started)
        headers = {"Authorization": f"Bearer {ready['key']}"}
        async with aiohttp.ClientSession(ready["url"], headers=headers) as session:
            made = second.json("keys", "create", "w", "--scope", "worker")
            words = ("worker", "--url", ready["url"], "--token", made["key"], "-m", "demo/upper")
            with (tmp_path / "worker.txt").open("w") as log:
                started.append(second.spawn((*words, "--broker", queues_url), log))
            await until_known(session)
            kill(started[0])
            async with place.backend() as dying:
                # A backend that dies between its commit and its message.
                [lost] = await Delivery.submit(_silent(dying), a_new_task("demo/upper"))
            body = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 40}
            async with session.post("/v1/tasks/batch", json=body) as answer:
                assert answer.status == 202, await answer.text()
                tasks = (await answer.json())["tasks"]
            for task in tasks:
                assert await ended(session, task["id"]) == ("succeeded", 1)
            async with place.backend() as looking:
                async with asyncio.timeout(PATIENCE_S):
                    while not (await looking.get(lost)).state.is_terminal:
                        await asyncio.sleep(0.1)
                assert (await looking.get(lost)).attempt == 1
    finally:
        for process in reversed(started):
            kill(process)


def _silent(delivery: PolledDelivery) -> Delivery:
    return Delivery(delivery.clock, delivery.store, delivery.broker)


def serve(
    folder: Path, place: Place, started: "list[subprocess.Popen[str]]"
) -> tuple[Swell, dict[str, Any]]:
    """Start a backend, and wait until it is ready."""
    folder.mkdir()
    (folder / "swell.toml").write_text(
        f'[store]\nurl = "{place.store_url}"\n[broker]\nurl = "{place.queues_url}"\nrepair_s = 1\n'
    )
    swell = Swell(folder)
    started.append(swell.start("serve", "--json", "--port", "0"))
    return swell, ready_line(started[-1], folder)


async def until_known(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get("/v1/workers") as answer:
                if (await answer.json())["workers"]:
                    return
            await asyncio.sleep(0.1)


async def ended(session: aiohttp.ClientSession, task_id: str) -> tuple[str, int]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(f"/v1/tasks/{task_id}") as answer:
                task = await answer.json()
            if task["state"] not in ("queued", "running"):
                return task["state"], task["attempt"]
            await asyncio.sleep(0.1)
