"""Every outbox satisfies its contract."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.delivery import Delivery
from conformance.outbox import OutboxConformance, PostOffice, a_hooked_task
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.db.webhook_deliveries import Outbox
from swell.queues.table_broker import Broker


class TestSqlite(OutboxConformance):
    @pytest.fixture
    async def post(self, tmp_path: Path) -> AsyncIterator[PostOffice]:
        post = _sqlite(tmp_path / "swell.db", ManualClock())
        yield post
        await post.rig.store.close()


class TestPostgres(OutboxConformance):
    @pytest.fixture
    async def post(self, postgres_databases: PostgresDatabases) -> AsyncIterator[PostOffice]:
        post = await _postgres(await postgres_databases.new(), ManualClock())
        yield post
        await post.rig.store.close()


def _sqlite(path: Path, clock: ManualClock) -> PostOffice:
    database = SqliteDatabase.open(path, clock)
    store = Store(database, rng=random.Random(1))
    return PostOffice(Delivery(clock, store, Broker(database)), Outbox(database))


async def _postgres(url: str, clock: ManualClock) -> PostOffice:
    database = await PostgresDatabase.open(url, clock)
    store = Store(database, rng=random.Random(1))
    return PostOffice(Delivery(clock, store, Broker(database)), Outbox(database))


async def test_what_is_due_outlives_the_process(tmp_path: Path) -> None:
    clock = ManualClock()
    post = _sqlite(tmp_path / "swell.db", clock)
    await post.ended(a_hooked_task())
    (delivery,) = await post.due()
    await post.told(delivery, again_s=5)
    before = await post.all()
    await post.rig.store.close()
    clock.advance(5)
    again = _sqlite(tmp_path / "swell.db", clock)
    assert await again.due() == before
    await again.rig.store.close()


async def test_backends_write_into_one_outbox(postgres_databases: PostgresDatabases) -> None:
    url, clock = await postgres_databases.new(), ManualClock()
    one, two = await _postgres(url, clock), await _postgres(url, clock)
    task = await one.running(a_hooked_task("started", "succeeded"))
    await two.rig.settle(task)
    started, ended = await one.all()
    assert [each.event for each in (started, ended)] == ["started", "succeeded"]
    assert await two.due() == [started]
    await two.told(started)
    assert await one.due() == [ended]
    for each in (one, two):
        await each.rig.store.close()
