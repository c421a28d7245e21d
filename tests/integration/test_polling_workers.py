"""A worker polls the queue service itself: backend, worker and service as processes."""

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from site_harness import BackendAndWorkers, kill

from commandline import PATIENCE_S, Swell
from conformance.external import a_ready_task
from servers import MotoServer, NatsServer, Server
from swell.core.errors import Unavailable
from swell.core.records import ModelCard
from swell.protocol.backend_client import RemoteDispatch
from swell.protocol.worker_messages import Ask, Grant, LeasedTask, Registration, Welcome
from swell.queues.external_queue import QueueId
from swell.queues.nats_queue import NatsQueues
from swell.queues.queue_consumer import PollingDispatch

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


CHAIN = """
[pipelines."demo/chain"]
input = { text = { type = "string" } }

[[pipelines."demo/chain".stages]]
name = "first"
model = "demo/upper"
take = { text = "input.text" }

[[pipelines."demo/chain".stages]]
name = "second"
model = "demo/crash"
fixed = { how = "sleep", sleep_s = 0.1 }

[[pipelines."demo/chain".stages]]
name = "third"
model = "demo/upper"
take = { text = "stages.first.output" }
"""


class Site(BackendAndWorkers):
    """`swell serve` with a queue service, and workers that poll it."""

    def __init__(self, swell: Swell, queues_url: str) -> None:
        self.queues_url = queues_url
        (swell.folder / "chain.toml").write_text(CHAIN)
        (swell.folder / "swell.toml").write_text(
            '[server]\npipelines = ["chain.toml"]\n'
            f'[broker]\nurl = "{queues_url}"\nrepair_s = 2\n'
            "[delivery]\nlease_s = 4\nheartbeat_s = 1\nbackoff_base_s = 0.1\n"
        )
        super().__init__(swell)

    def work(self, model: str, *more: str) -> subprocess.Popen[str]:
        return self.join("-m", model, "--broker", self.queues_url, *more)

    def submit(self, model: str, **values: Any) -> str:
        return str(self.call("/v1/tasks", {"model": model, "input": values})["id"])


@pytest.fixture(params=["nats", "sqs"])
def site(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    nats_server: NatsServer,
    moto_server: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    site = Site(Swell(tmp_path), address(request.param, nats_server, moto_server))
    try:
        yield site
    finally:
        site.end()


def address(kind: str, nats_server: Server, moto_server: Server) -> str:
    name = f"d{secrets.token_hex(4)}"
    if kind == "nats":
        return f"{nats_server.url}/{name}"
    return f"sqs://us-east-1/{name}?endpoint={moto_server.url}"


def test_a_worker_takes_ids_itself_and_every_task_ends_once(site: Site) -> None:
    site.work("demo/upper")
    texts = [f"text {n}" for n in range(20)]
    ids = [site.submit("demo/upper", text=text) for text in texts]
    site.until(lambda: all(site.task(each)["state"] == "succeeded" for each in ids))
    for text, task_id in zip(texts, ids, strict=True):
        task = site.task(task_id)
        assert task["output"] == text.upper()
        assert task["attempt"] == 1


def test_what_a_killed_worker_held_ends_once_with_another(site: Site) -> None:
    first = site.work("demo/crash")
    task_id = site.submit("demo/crash", how="sleep", sleep_s=5)
    site.until(lambda: site.task(task_id)["state"] == "running")
    kill(first)
    site.work("demo/crash")
    site.until(lambda: site.task(task_id)["state"] == "succeeded")
    assert site.task(task_id)["attempt"] == 2


@pytest.mark.parametrize("workers", [("demo/upper", "demo/crash"), ("demo/upper,demo/crash",)])
def test_stages_go_through_the_queues_or_on_at_once(site: Site, workers: tuple[str, ...]) -> None:
    for models in workers:
        first, *more = models.split(",")
        site.work(first, *(word for each in more for word in ("-m", each)))
    ids = [site.submit("demo/chain", text=f"text {n}") for n in range(4)]
    site.until(lambda: all(site.task(each)["state"] == "succeeded" for each in ids))
    for n, task_id in enumerate(ids):
        task = site.task(task_id)
        assert task["output"] == f"TEXT {n}"
        assert [stage["attempts"] for stage in task["stages"]] == [1, 1, 1]
        assert len({stage["worker"] for stage in task["stages"]}) == len(workers)


class Backend(RemoteDispatch):
    """A backend that starts all it is offered, and tells the oldest call that listens."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "token")
        self.listening: list[asyncio.Future[Grant]] = []

    async def register(self, registration: Registration) -> Welcome:
        return Welcome(worker_id="w", lease_s=30.0, heartbeat_s=10.0, max_wait_s=20.0)

    async def lease(self, ask: Ask) -> Grant:
        if ask.offered:
            return Grant(tasks=[a_lease(task_id) for task_id in ask.offered])
        if ask.wait_s <= 0:
            return Grant()
        told: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.listening.append(told)
        return await told


def a_lease(task_id: str) -> LeasedTask:
    return LeasedTask(
        task_id=task_id, attempt=1, token="t", model="a/b", version="1", input=msgspec.Raw(b"{}")
    )


async def test_a_worker_that_got_an_id_hears_what_is_told_to_the_call_that_is_open(
    nats_server: NatsServer,
) -> None:
    backend, queues = Backend(), NatsQueues(address("nats", nats_server, nats_server))
    dispatch = PollingDispatch(backend, queues)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await dispatch.register(
                Registration(name="w", models=[ModelCard(name="a/b", version="1")])
            )
            asked = asyncio.create_task(dispatch.lease(Ask(worker_id="w", n=1, wait_s=20.0)))
            while not backend.listening:
                await asyncio.sleep(0)
            task = a_ready_task()
            await queues.send(QueueId("a/b", is_default=True), [task])
            assert [each.task_id for each in (await asked).tasks] == [task.id]
            heard = asyncio.create_task(dispatch.lease(Ask(worker_id="w", n=0, wait_s=20.0)))
            await asyncio.sleep(0)
            backend.listening[0].set_result(Grant(cancels=[task.id]))
            assert (await heard).cancels == [task.id]
            assert len(backend.listening) == 1
            # Who registers anew is known by another name: what listens for the old one ends.
            heard = asyncio.create_task(dispatch.lease(Ask(worker_id="w", n=0, wait_s=20.0)))
            while len(backend.listening) < 2:
                await asyncio.sleep(0)
            await dispatch.register(Registration(name="w", models=[]))
            assert await heard == Grant()
    finally:
        await dispatch.close()


def test_a_worker_without_the_package_for_the_queues_says_what_to_install(tmp_path: Path) -> None:
    swell = Swell(tmp_path)
    words = ("worker", "-m", "demo/upper", "--token", "x", "--broker", "amqp://127.0.0.1")
    done = swell.run(*words)
    assert done.returncode != 0
    assert "worker.broker 'amqp': use nats://" in done.stderr


class StagedBackend(Backend):
    """A backend that says which queues are the worker's."""

    staged: dict[str, tuple[str, ...]] = {}

    async def register(self, registration: Registration) -> Welcome:
        welcome = await super().register(registration)
        return msgspec.structs.replace(welcome, staged=self.staged)

    async def lease(self, ask: Ask) -> Grant:
        return msgspec.structs.replace(await super().lease(ask), staged=self.staged)


async def test_a_worker_takes_ids_from_the_queues_that_its_version_serves_now(
    nats_server: NatsServer,
) -> None:
    backend, queues = StagedBackend(), NatsQueues(address("nats", nats_server, nats_server))
    dispatch = PollingDispatch(backend, queues)
    backend.staged = {"a/b": ("a/b:1",)}
    model, canary = a_ready_task(), a_ready_task()
    try:
        async with asyncio.timeout(PATIENCE_S):
            card = ModelCard(name="a/b", version="1")
            await dispatch.register(Registration(name="w", models=[card]))
            await queues.send(QueueId("a/b", is_default=True), [model])
            await queues.send(QueueId("a/b:~canary", is_default=True), [canary])
            now = Ask(worker_id="w", n=2, wait_s=0.0)
            assert (await dispatch.lease(now)).tasks == []
            # It hears of it by the call that listens while it waits.
            asked = asyncio.create_task(dispatch.lease(Ask(worker_id="w", n=2, wait_s=20.0)))
            while not backend.listening:
                await asyncio.sleep(0)
            backend.staged = {"a/b": ("a/b:1", "a/b:~canary")}
            backend.listening[0].set_result(Grant())
            assert await asked == Grant(staged=backend.staged)
            assert [each.task_id for each in (await dispatch.lease(now)).tasks] == [canary.id]
            asked = asyncio.create_task(dispatch.lease(Ask(worker_id="w", n=2, wait_s=20.0)))
            while len(backend.listening) < 2:
                await asyncio.sleep(0)
            backend.staged = {}
            backend.listening[1].set_result(Grant())
            assert await asked == Grant()
            assert [each.task_id for each in (await dispatch.lease(now)).tasks] == [model.id]
    finally:
        await dispatch.close()


class FullBackend(Backend):
    """A backend that hands out nothing as long as it cannot store files."""

    is_full = True
    offers = 0

    async def lease(self, ask: Ask) -> Grant:
        self.offers += bool(ask.offered)
        if ask.offered and self.is_full:
            raise Unavailable("no tasks are handed out")
        return await super().lease(ask)


async def test_a_worker_keeps_the_ids_that_a_backend_does_not_start_now(
    nats_server: NatsServer,
) -> None:
    backend, queues = FullBackend(), NatsQueues(address("nats", nats_server, nats_server))
    dispatch = PollingDispatch(backend, queues)
    task = a_ready_task()
    now = Ask(worker_id="w", n=1, wait_s=0.0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            card = ModelCard(name="a/b", version="1")
            await dispatch.register(Registration(name="w", models=[card]))
            await queues.send(QueueId("a/b", is_default=True), [task])
            for offers in (1, 2):
                while backend.offers < offers:
                    with contextlib.suppress(Unavailable):
                        assert (await dispatch.lease(now)).tasks == []
            backend.is_full = False
            assert [each.task_id for each in (await dispatch.lease(now)).tasks] == [task.id]
    finally:
        await dispatch.close()
