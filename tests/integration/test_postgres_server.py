"""What becomes of tasks when PostgreSQL, or the way to it, is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from conformance.delivery import Delivery
from conformance.factories import a_failure, a_lease_request, a_new_task, a_settlement
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from servers import PostgresServer
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.store_types import Accepted
from swell.core.task import TaskState
from swell.db.postgres import PostgresDatabase
from swell.db.registry import Registry
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

R = TypeVar("R")

PATIENCE_S = 30.0


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop()


async def patiently(call: Callable[[], Awaitable[R]]) -> R:
    """Repeat a call while it is told that the store is away."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0)


async def test_nothing_is_lost_when_the_server_is_killed_and_backends_find_it_again(
    own_server: PostgresServer,
) -> None:
    clock = ManualClock()
    database = await PostgresDatabase.open(own_server.url, clock)
    store, broker = Store(database), Broker(database)
    delivery = Delivery(clock, store, broker)
    tasks = await delivery.submit(*(a_new_task(seed=seed) for seed in range(50)))
    (held,) = await delivery.lease()
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    other = a_lease_request(models={"demo/other": "v1"})
    waiting = asyncio.ensure_future(broker.lease(other, until=until))

    own_server.kill()
    for call in (
        lambda: store.accept([a_new_task()]),
        lambda: store.get([held.id]),
        lambda: store.settle([a_settlement(held)]),
        lambda: broker.lease(a_lease_request()),
        lambda: Registry(database).workers(),
        store.check_writable,
    ):
        with pytest.raises(Unavailable) as refused:
            await call()
        assert (refused.value.status, refused.value.retryable) == (503, True)
    assert not waiting.done()

    own_server.start()
    await patiently(store.check_writable)
    found = await patiently(lambda: store.get([task.id for task in tasks]))
    assert [task.seed for task in found if task] == list(range(50))
    (ended,) = await delivery.settle(held)
    assert ended is not None
    assert len(await delivery.lease(100)) == 49
    (task,) = await delivery.submit(a_new_task("demo/other"))
    (got,) = await asyncio.wait_for(waiting, PATIENCE_S)
    assert got.id == task.id
    await store.close()


async def test_a_server_that_falls_silent_is_told_and_found_again(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "connection_pool.CONNECT_S",
        "postgres_database.WRITE_S",
        "connection_pool.READ_S",
    ):
        monkeypatch.setattr(f"swell.db.postgres.{name}", 0.5)
    database = await PostgresDatabase.open(own_server.url, ManualClock())
    store = Store(database)
    await store.accept([a_new_task()])
    assert own_server.process is not None
    server = psutil.Process(own_server.process.pid)
    frozen = [server, *server.children()]
    for each in frozen:
        each.suspend()
    try:
        async with asyncio.timeout(20):
            for call in (
                lambda: store.accept([a_new_task()]),
                lambda: Registry(database).workers(),
            ):
                with pytest.raises(Unavailable):
                    await call()
    finally:
        for each in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
    await patiently(lambda: store.accept([a_new_task()]))
    await database.close()


async def test_a_server_that_is_not_there_is_told_when_a_backend_starts(
    own_server: PostgresServer,
) -> None:
    own_server.kill()
    with pytest.raises(Unavailable, match="cannot be used"):
        await PostgresDatabase.open(own_server.url, ManualClock())


class Proxy:
    """Stands between a backend and the server, and can lose the answer to a commit."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._place = (place.hostname, place.port)
        self._name = place.path
        self._loses = self._is_lost = False
        self._doing: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Return the URL that leads through it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}{self._name}"

    def lose_the_answer_to_a_commit(self) -> None:
        self._loses = True

    async def stop(self) -> None:
        self._server.close()
        for each in self._doing:
            each.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._doing.add(task)
        to_server, from_server = (None, None)
        try:
            from_server, to_server = await asyncio.open_connection(*self._place)
            asking = asyncio.create_task(self._pass_on(reader, to_server))
            while data := await from_server.read(65536):
                if self._is_lost:
                    self._is_lost = False
                    break
                writer.write(data)
            asking.cancel()
        finally:
            for each in (writer, to_server):
                if each is not None:
                    each.close()
            self._doing.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._loses and b"COMMIT" in data:
                self._loses, self._is_lost = False, True
            writer.write(data)
        writer.close()


@pytest.fixture
async def behind_proxy(
    postgres_databases: PostgresDatabases,
) -> AsyncIterator[tuple[Proxy, PostgresDatabase, Delivery]]:
    """A backend whose every statement was prepared."""
    proxy, clock = Proxy(await postgres_databases.new()), ManualClock()
    database = await PostgresDatabase.open(await proxy.start(), clock)
    store = Store(database)
    delivery = Delivery(clock, store, Broker(database))
    await delivery.submit(a_new_task())
    await delivery.settle(*await delivery.lease())
    yield proxy, database, delivery
    await store.close()
    await proxy.stop()


async def test_a_task_whose_acceptance_was_written_and_not_told_is_found_by_its_key(
    behind_proxy: tuple[Proxy, PostgresDatabase, Delivery],
) -> None:
    proxy, _, delivery = behind_proxy
    new = a_new_task(idempotency_key="k", fingerprint=b"a")
    proxy.lose_the_answer_to_a_commit()
    with pytest.raises(Unavailable):
        await delivery.store.accept([new])
    (again,) = await delivery.store.accept([new])
    assert isinstance(again, Accepted)
    assert not again.is_new
    assert [task.id for task in await delivery.lease(5)] == [again.task.id]


async def test_a_settlement_that_was_written_and_not_told_is_taken_as_said_the_next_time(
    behind_proxy: tuple[Proxy, PostgresDatabase, Delivery],
) -> None:
    proxy, _, delivery = behind_proxy
    await delivery.submit(a_new_task())
    (held,) = await delivery.lease()
    proxy.lose_the_answer_to_a_commit()
    with pytest.raises(Unavailable):
        await delivery.settle(held)
    assert (await delivery.get(held)).state is TaskState.SUCCEEDED
    (told,) = await delivery.settle(held, outcome=a_failure())
    assert told is not None
    assert told.state is TaskState.SUCCEEDED


async def test_a_lease_that_was_written_and_not_told_runs_out(
    behind_proxy: tuple[Proxy, PostgresDatabase, Delivery],
) -> None:
    proxy, _, delivery = behind_proxy
    (task,) = await delivery.submit(a_new_task())
    proxy.lose_the_answer_to_a_commit()
    with pytest.raises(Unavailable):
        await delivery.lease()
    assert (await delivery.get(task)).state in (TaskState.RUNNING, TaskState.QUEUED)
    for _ in range(2):
        delivery.clock.advance(61)
        await delivery.sweep()
    (held,) = await delivery.lease()
    assert held.id == task.id


async def test_a_text_that_the_database_cannot_keep_is_refused_alone(
    postgres_databases: PostgresDatabases,
) -> None:
    database = await PostgresDatabase.open(await postgres_databases.new(), ManualClock())
    store = Store(database)
    users = ["ann", "b\0b", "c\ud800c", "dan"]
    results = await asyncio.gather(
        *(store.accept([a_new_task(user=user)]) for user in users), return_exceptions=True
    )
    assert [isinstance(result, InvalidRequest) for result in results] == [False, True, True, False]
    await store.check_writable()
    assert not any(isinstance(result, Unavailable) for result in results)
    await store.close()


async def test_what_others_accept_is_found_without_any_word_of_it(
    postgres_databases: PostgresDatabases,
) -> None:
    url, clock = await postgres_databases.new(), ManualClock()
    one, two = [await PostgresDatabase.open(url, clock) for _ in range(2)]
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(Broker(two).lease(a_lease_request(), until=until))
    for _ in range(5):
        await asyncio.sleep(0)
    (accepted,) = await Store(one).accept([a_new_task()])
    assert isinstance(accepted, Accepted)
    (held,) = await asyncio.wait_for(waiting, PATIENCE_S)
    assert held.id == accepted.task.id
    await one.close()
    await two.close()


async def test_tasks_are_found_by_their_index_though_the_table_was_empty_when_that_was_planned(
    postgres_databases: PostgresDatabases,
) -> None:
    url = await postgres_databases.new()
    database = await PostgresDatabase.open(url, ManualClock(), connections=1)
    store = Store(database)
    # So often that the server keeps one plan for all.
    for _ in range(10):
        assert await store.get(["nobody"]) == [None]
    accepted = await store.accept([a_new_task() for _ in range(500)])
    task_ids = [each.task.id for each in accepted if isinstance(each, Accepted)]
    scans = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'tasks'"
    connection = await asyncpg.connect(url)
    before = await connection.fetchrow(scans)
    for task_id in task_ids:
        await store.get([task_id])
    await database.close()  # Whoever ends tells what it has read.
    async with asyncio.timeout(PATIENCE_S):
        while (after := await connection.fetchrow(scans))["idx_scan"] - before["idx_scan"] < 500:
            await asyncio.sleep(0)
    await connection.close()
    assert after["seq_scan"] == before["seq_scan"]


async def test_what_another_backend_has_started_is_settled_without_being_told_of_it(
    postgres_databases: PostgresDatabases,
) -> None:
    url, clock = await postgres_databases.new(), ManualClock()
    one, two = [await PostgresDatabase.open(url, clock) for _ in range(2)]
    (accepted,) = await Store(one).accept([a_new_task()])
    assert isinstance(accepted, Accepted)
    (held,) = await Broker(two).lease(a_lease_request())
    # This one remembers that the task waits.
    (settled,) = await Store(one).settle([a_settlement(held)])
    assert settled is not None
    assert settled.state is TaskState.SUCCEEDED
    await one.close()
    await two.close()
