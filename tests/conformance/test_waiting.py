"""A write wakes only the workers that wait for tasks it made ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.delivery import Delivery
from conformance.factories import a_lease_request, a_new_task, a_settlement, hold_of
from conformance.pipelines import A, B, a_new_run
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.core.task import Task
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

#: Waiting workers of each kind.
CROWD = 100

MODELS = [f"demo/model-{number}" for number in range(7)]


class CountedSqlite(SqliteDatabase):
    """Counts the runs of waiting actions."""

    ran = 0

    async def write_when(
        self,
        action: Callable[[Any], Awaitable[Any]],
        until: "asyncio.Future[None]",
        **fields: Any,
    ) -> Any:
        async def counted(session: Any) -> Any:
            self.ran += 1
            return await action(session)

        return await super().write_when(counted, until, **fields)


class CountedPostgres(PostgresDatabase):
    """Counts the runs of waiting actions."""

    ran = 0

    async def write_when(
        self,
        action: Callable[[Any], Awaitable[Any]],
        until: "asyncio.Future[None]",
        **fields: Any,
    ) -> Any:
        async def counted(session: Any) -> Any:
            self.ran += 1
            return await action(session)

        return await super().write_when(counted, until, **fields)


class Site:
    """A database and waiting workers."""

    def __init__(
        self, database: CountedSqlite | CountedPostgres, delivery: Delivery, nothing: Any
    ) -> None:
        self.database = database
        self.delivery = delivery
        self.nothing = nothing
        self.until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting: list[asyncio.Future[list[Task]]] = []

    async def wait(self, n: int, *models: str) -> "list[asyncio.Future[list[Task]]]":
        """Start this number of waiting workers for these models."""
        asked = a_lease_request(models=dict.fromkeys(models, "v1"))
        broker = self.delivery.broker
        new = [asyncio.ensure_future(broker.lease(asked, until=self.until)) for _ in range(n)]
        self.waiting += new
        await asyncio.sleep(0)
        await self.write_nothing()
        return new

    async def write_nothing(self) -> None:
        """Run a transaction that changes nothing."""
        await self.database.write(self.nothing)


async def _nothing(session: object) -> None:
    """Do nothing."""


@pytest.fixture(params=["sqlite", "postgres"])
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    clock = ManualClock()
    if request.param == "sqlite":
        sqlite = CountedSqlite.open(tmp_path / "swell.db", clock)
        assert isinstance(sqlite, CountedSqlite)
        delivery = Delivery(clock, Store(sqlite), Broker(sqlite))
        site = Site(sqlite, delivery, _nothing)
    else:
        # It checks once a second for tasks that other backends left.
        monkeypatch.setattr(PostgresDatabase, "_poll", lambda self: asyncio.sleep(0))
        databases: PostgresDatabases = request.getfixturevalue("postgres_databases")
        postgres = await CountedPostgres.open(await databases.new(), clock)
        assert isinstance(postgres, CountedPostgres)
        delivery = Delivery(clock, Store(postgres), Broker(postgres))
        site = Site(postgres, delivery, _nothing)
    yield site
    site.until.set_result(None)
    await asyncio.gather(*site.waiting)
    await site.delivery.store.close()


async def test_a_write_that_makes_nothing_ready_for_them_runs_no_lease_of_those_who_wait(
    site: Site,
) -> None:
    delivery = site.delivery
    await delivery.submit(*(a_new_task() for _ in range(3)))
    held = await delivery.lease(2)
    await site.wait(CROWD, *MODELS)
    await site.write_nothing()
    await delivery.store.extend([hold_of(held[0])], lease_s=30)
    await delivery.submit(a_new_task(), a_new_task(queue=f"{MODELS[0]}:v2"))
    await delivery.settle(held[0])
    await delivery.store.cancel([held[1].id])
    await delivery.lease(5)
    delivery.clock.advance(31)
    assert await delivery.sweep()
    assert site.database.ran == 0


async def test_each_task_runs_the_lease_of_one_worker_of_a_crowd(site: Site) -> None:
    crowd = await site.wait(CROWD, *MODELS)
    await site.delivery.submit(a_new_task(MODELS[3]))
    await site.write_nothing()
    assert site.database.ran == 1
    await site.delivery.submit(*(a_new_task(model) for model in MODELS[:3]))
    await site.write_nothing()
    assert site.database.ran == 4
    got = [each.result()[0].model for each in crowd if each.done()]
    assert sorted(got) == MODELS[:4]


async def test_those_who_have_waited_longest_for_a_queue_are_served_first(site: Site) -> None:
    first = await site.wait(3, *MODELS)
    later = await site.wait(CROWD, MODELS[0])
    await site.delivery.submit(*(a_new_task(MODELS[0]) for _ in range(3)))
    await site.write_nothing()
    assert all(each.done() for each in first)
    assert not any(each.done() for each in later)


async def test_a_stage_of_a_pipeline_runs_the_lease_of_a_worker_of_the_next(site: Site) -> None:
    await site.delivery.submit(a_new_run())
    (held,) = await site.delivery.lease(models=A)
    await site.wait(CROWD, *A)
    (found, *_) = await site.wait(CROWD, *B)
    site.database.ran = 0
    await site.delivery.store.settle([a_settlement(held)])
    (going_on,) = await asyncio.wait_for(found, 20)
    assert (going_on.id, going_on.stage_model) == (held.id, "demo/b")
    assert site.database.ran == 1


async def test_who_waits_is_woken_where_another_of_the_same_group_took_the_first(
    site: Site,
) -> None:
    (found,) = await site.wait(1, MODELS[0])
    delivery = site.delivery
    _, taken = await asyncio.gather(
        delivery.store.accept([a_new_task(MODELS[0]), a_new_task(MODELS[0])]),
        delivery.lease(models={MODELS[0]: "v1"}),
    )
    await asyncio.wait_for(found, 20)
    assert len({task.id for task in [*taken, *found.result()]}) == 2
