"""Leases from a long backlog: which tasks are found, and how few are read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conformance.delivery import Delivery
from conformance.factories import a_new_task
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.db.transaction import Session
from swell.queues.table_broker import Broker

KEYS = [f"key-{n:02}" for n in range(40)]


@pytest.fixture(params=["sqlite", "postgres"])
async def delivery(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Delivery]:
    clock = ManualClock()
    if request.param == "sqlite":
        sqlite = SqliteDatabase.open(tmp_path / "swell.db", clock)
        yield Delivery(clock, Store(sqlite), Broker(sqlite))
        await sqlite.close()
    else:
        databases: PostgresDatabases = request.getfixturevalue("postgres_databases")
        postgres = await PostgresDatabase.open(await databases.new(), clock)
        yield Delivery(clock, Store(postgres), Broker(postgres))
        await postgres.close()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each read asks for."""
    found: list[int] = []
    reads = Session.reads

    def counted(self: Session, wanted: Any, n: int) -> Any:
        asked = reads(self, wanted, n)
        found.append(sum(each[-1] for each in asked))
        return asked

    monkeypatch.setattr(Session, "reads", counted)
    return found


async def test_a_lease_reads_only_keys_whose_turn_it_is(
    delivery: Delivery, limits: list[int]
) -> None:
    await delivery.submit(*(a_new_task(key_id=key_id) for key_id in KEYS for _ in range(3)))
    served = [task.key_id for _ in range(12) for task in await delivery.lease(10)]
    assert served == 3 * KEYS
    assert max(limits) <= 10


async def test_keys_whose_tasks_have_expired_are_passed(
    delivery: Delivery, limits: list[int]
) -> None:
    for key_id in KEYS[:-1]:
        await delivery.submit(a_new_task(key_id=key_id, start_by_s=5.0))
    await delivery.submit(*(a_new_task(key_id=KEYS[-1]) for _ in range(3)))
    delivery.clock.advance(6.0)
    assert [task.key_id for task in await delivery.lease(2)] == [KEYS[-1]] * 2
    assert len(limits) < 8


async def test_expired_tasks_at_the_head_of_a_key_are_not_read(
    delivery: Delivery, limits: list[int]
) -> None:
    await delivery.submit(*(a_new_task(start_by_s=5.0) for _ in range(50)))
    last = await delivery.submit(a_new_task())
    delivery.clock.advance(6.0)
    assert [task.id for task in await delivery.lease(2)] == [task.id for task in last]
    assert sum(limits) <= 4


async def test_a_less_urgent_task_is_found_behind_a_long_line_of_its_key(
    delivery: Delivery, limits: list[int]
) -> None:
    await delivery.submit(*(a_new_task() for _ in range(100)), a_new_task(priority=3))
    served = [task.priority for _ in range(4) for task in await delivery.lease(10)]
    assert served.count(3) == 1
    assert sum(limits) <= 80


async def test_two_queues_of_a_model_are_merged_in_order(delivery: Delivery) -> None:
    queues = ["demo/upper", "demo/upper:v1"]
    tasks = await delivery.submit(*(a_new_task(queue=queues[n % 2]) for n in range(30)))
    served = [task.id for _ in range(6) for task in await delivery.lease(5)]
    assert served == [task.id for task in tasks]
