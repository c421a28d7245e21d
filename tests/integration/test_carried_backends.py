"""Several backends whose ids lie in the same queues, on one PostgreSQL."""

import asyncio
import json
import secrets
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from site_harness import kill

from commandline import PATIENCE_S, Swell, ready_line
from conformance.delivery import Delivery
from conformance.factories import a_lease_request, a_new_task, hold_of
from postgres_databases import PostgresDatabases
from servers import MotoServer, NatsServer
from swell.broker import LeaseRequest
from swell.brokers.carried import CarriedBroker, CarriedSettings
from swell.brokers.lanes import Queues
from swell.brokers.nats import NatsQueues
from swell.brokers.postgres import PostgresBroker
from swell.brokers.sqs import SqsQueues
from swell.clock import SystemClock
from swell.stores.postgres import PostgresDatabase, PostgresStore
from swell.task import Task, TaskState

pytestmark = pytest.mark.timeout(240)

WINDOW = 8
HOLD_S = 2.0


class OnlyByMessages(PostgresBroker):
    """Hands nothing out itself, so that all comes through the queues."""

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        if until is not None:
            ended = asyncio.Event()
            until.add_done_callback(lambda _: ended.set())
            await ended.wait()
        return []


@dataclass(frozen=True)
class Place:
    """A database, and where the ids lie."""

    store_url: str
    queues_url: str

    def queues(self) -> Queues:
        if self.queues_url.startswith("sqs"):
            return SqsQueues(self.queues_url, hold_s=HOLD_S)
        return NatsQueues(self.queues_url, hold_s=HOLD_S)

    @asynccontextmanager
    async def backend(
        self, order: type[PostgresBroker] = PostgresBroker
    ) -> AsyncIterator[Delivery]:
        """Yield a store and a broker, as one backend process has them."""
        clock = SystemClock()
        database = await PostgresDatabase.open(self.store_url, clock)
        store = PostgresStore(database)
        settings = CarriedSettings(window=WINDOW, flow_window=WINDOW, wait_s=1.0)
        broker = CarriedBroker(store, order(database), self.queues(), clock, settings)
        try:
            # The clock of deliveries is for tests that move it.
            yield Delivery(clock, store, broker, WINDOW)  # type: ignore[arg-type]
        finally:
            await broker.close()
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


async def listened(delivery: Delivery, n: int = 1, wait_s: float = 10.0) -> list[Task]:
    """Lease as a worker does that waits."""
    loop = asyncio.get_running_loop()
    until: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(wait_s, until.set_result, None)
    try:
        return await delivery.broker.lease(a_lease_request(n), until=until)
    finally:
        timer.cancel()


@pytest.mark.parametrize("order", [PostgresBroker, OnlyByMessages])
async def test_two_backends_hand_out_every_task_once(
    place: Place, order: type[PostgresBroker]
) -> None:
    served: Counter[str] = Counter()
    n = 60

    async def work(delivery: Delivery, is_leader: bool) -> None:
        while len(served) < n:
            await delivery.broker.feed(is_leader=is_leader)
            tasks = await listened(delivery, 5, 0.5)
            served.update(task.id for task in tasks)
            if tasks:
                assert None not in await delivery.settle(*tasks)

    async with place.backend(order) as first, place.backend(order) as second:
        tasks = []
        for k in range(n):
            tasks += await (first, second)[k % 2].submit(a_new_task())
        async with asyncio.timeout(60):
            await asyncio.gather(work(first, True), work(second, False))
        assert served == Counter(task.id for task in tasks)
        found = await first.store.get([task.id for task in tasks])
        assert {each.state for each in found if each} == {TaskState.SUCCEEDED}


async def test_a_heartbeat_at_another_backend_costs_no_attempt(place: Place) -> None:
    async with place.backend(OnlyByMessages) as first, place.backend(OnlyByMessages) as second:
        (task,) = await first.submit(a_new_task())
        (held,) = await listened(first)
        # The message comes back, since the second backend does not hold it.
        for _ in range(6):
            (state,) = await second.store.extend([hold_of(held)], lease_s=30)
            assert state.is_held
            await second.broker.extend([hold_of(held)], lease_s=30)
            assert await listened(second, 1, HOLD_S / 2) == []
        now = await second.get(task)
        assert (now.state, now.attempt) == (TaskState.RUNNING, 1)
        (ended,) = await second.settle(held)
        assert ended is not None
        assert (ended.state, ended.attempt) == (TaskState.SUCCEEDED, 1)


async def test_each_backend_has_one_window_in_a_lane_at_most(
    postgres_databases: PostgresDatabases, nats_server: NatsServer
) -> None:
    name = f"b{secrets.token_hex(4)}"
    place = Place(await postgres_databases.new(), f"{nats_server.url}/{name}")
    async with place.backend() as first, place.backend() as second:
        for _ in range(10):
            await first.submit(*(a_new_task() for _ in range(WINDOW)))
            await second.submit(*(a_new_task() for _ in range(WINDOW)))
            await first.broker.feed(is_leader=True)
            await second.broker.feed(is_leader=False)
        assert 0 < await messages(nats_server, name) <= 2 * WINDOW
        # Nor does a lane fill up that nobody reads, while tasks go on without it.
        for _ in range(10):
            assert await second.lease(WINDOW)
            await first.broker.feed(is_leader=True)
        assert await messages(nats_server, name) <= 2 * WINDOW


async def messages(server: NatsServer, stream: str) -> int:
    """Return how many messages a stream holds."""
    client = await nats.connect(server.url)
    try:
        answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
        return int(json.loads(answer.data)["state"]["messages"])
    finally:
        await client.close()


async def test_another_backend_fills_the_queues_when_the_one_that_did_is_killed(
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
            body = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * (20 * WINDOW)}
            async with session.post("/v1/tasks/batch", json=body) as answer:
                assert answer.status == 202, await answer.text()
                tasks = (await answer.json())["tasks"]
            # The worker waits at the queues alone, and only who fills them sends what had no room.
            for task in tasks:
                assert await ended(session, task["id"]) == ("succeeded", 1)
    finally:
        for process in reversed(started):
            kill(process)


def serve(
    folder: Path, place: Place, started: "list[subprocess.Popen[str]]"
) -> tuple[Swell, dict[str, Any]]:
    """Start a backend, and wait until it is ready."""
    folder.mkdir()
    (folder / "swell.toml").write_text(
        f'[store]\nurl = "{place.store_url}"\n'
        f'[broker]\nurl = "{place.queues_url}"\nwindow = {WINDOW}\nreoffer_s = 5\npoll_s = 2\n'
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
