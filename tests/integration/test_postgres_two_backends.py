"""Two backends on one PostgreSQL lease each other's tasks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from conformance.factories import a_lease_request, a_new_task, a_settlement
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.core.event_bus import PeerMessage
from swell.core.store_types import Accepted
from swell.core.task import Task
from swell.db.postgres import PostgresDatabase
from swell.db.postgres import postgres_database as database
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

PATIENT_S = 30.0


@dataclass
class Backend:
    """One of two."""

    database: PostgresDatabase

    def __post_init__(self) -> None:
        self.store = Store(self.database)
        self.broker = Broker(self.database)

    async def accepts(self, n: int, key_id: str) -> None:
        """Accept so many tasks of a key."""
        await self.store.accept([a_new_task(key_id=key_id) for _ in range(n)])

    async def leases(self, n: int = 1) -> list[Task]:
        """Lease up to n tasks, without waiting."""
        return await self.broker.lease(a_lease_request(n))

    async def ends(self, tasks: list[Task]) -> None:
        """End what was leased."""
        assert all(await self.store.settle([a_settlement(task) for task in tasks]))


@dataclass
class Pair:
    url: str
    clock: ManualClock
    here: Backend
    there: Backend


@pytest.fixture
async def pair(postgres_databases: PostgresDatabases) -> AsyncIterator[Pair]:
    clock = ManualClock()
    async with _pair(await postgres_databases.new(), clock, clock) as pair:
        yield pair


@contextlib.asynccontextmanager
async def _pair(url: str, here: ManualClock, there: ManualClock) -> AsyncIterator[Pair]:
    both = [Backend(await PostgresDatabase.open(url, clock)) for clock in (here, there)]
    for one, other in (both, both[::-1]):
        one.database.broadcast = _tells(other.database)
    try:
        yield Pair(url, here, *both)
    finally:
        for each in both:
            await each.database.close()


def _tells(other: PostgresDatabase) -> Callable[[Sequence[PeerMessage]], Awaitable[None]]:
    """Return what brings messages to the other backend at once, as the bus does soon."""

    async def broadcast(messages: Sequence[PeerMessage]) -> None:
        for each in messages:
            other.note_ready(each.ids)

    return broadcast


async def test_a_flood_that_one_backend_has_accepted_does_not_hold_up_what_others_did(
    pair: Pair,
) -> None:
    await pair.here.accepts(40, "flood")
    await pair.there.accepts(10, "others")
    served: list[str] = []
    for _ in range(20):
        served += [task.key_id for task in await pair.here.leases()]
    # Turn about, although no worker has asked where they were accepted.
    assert served.count("others") == 10


async def test_an_idle_backend_hands_out_at_once_what_another_has_accepted(pair: Pair) -> None:
    await pair.there.accepts(1, "a")
    assert [task.key_id for task in await pair.here.leases()] == ["a"]


async def _waits(backend: Backend) -> "asyncio.Task[list[Task]]":
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(backend.broker.lease(a_lease_request(1), until=until))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENT_S):
        # What it was told of it has looked for in vain.
        while backend.database.state.unsure:
            await asyncio.sleep(0.01)
    assert not waiting.done()
    return waiting


async def _is_busy(backend: Backend) -> None:
    """Have a worker of a backend get something of its own."""
    await backend.accepts(1, "own")
    await backend.ends(await backend.leases())


@pytest.fixture
def nobody_looks_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresDatabase, "_poll", _never)
    monkeypatch.setattr(database, "REFRESH_S", 3600.0)


async def _never(of: PostgresDatabase) -> None:
    await asyncio.get_running_loop().create_future()


async def _is_served(waiting: "asyncio.Task[list[Task]]", key_id: str) -> bool:
    async with asyncio.timeout(PATIENT_S):
        return [task.key_id for task in await waiting] == [key_id]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_waits_gets_what_another_accepts_that_gave_its_own_workers_nothing_lately(
    pair: Pair,
) -> None:
    await _is_busy(pair.here)
    waiting = await _waits(pair.here)
    await pair.there.accepts(1, "there")
    assert await _is_served(waiting, "there")


async def test_who_has_had_something_just_now_asks_for_others_work_when_that_is_a_while_ago(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _is_busy(pair.here)
    assert await pair.here.leases() == []
    # A word of it was lost.
    pair.there.database.broadcast = None
    await pair.there.accepts(1, "there")
    assert [task.key_id for task in await pair.here.leases()] == ["there"]


async def test_what_somebody_says_to_hold_who_lost_it_is_found_at_once(pair: Pair) -> None:
    await pair.here.accepts(1, "here")
    (lost,) = await pair.here.leases()
    for _ in range(2):
        pair.clock.advance(3600.0)
        (swept,) = await pair.here.store.sweep()
    assert swept.is_ready
    assert await pair.here.store.settle([a_settlement(lost)]) == [None]
    assert [task.id for task in await pair.here.leases()] == [lost.id]


async def _are_busy(pair: Pair) -> None:
    """Have workers of both get something of their own just now, and neither know of more."""
    for each in (pair.there, pair.here):
        await _is_busy(each)
    for each in (pair.there, pair.here):
        assert await each.leases() == []


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_has_handed_out_what_another_accepted_finds_the_last_of_his_own(
    pair: Pair,
) -> None:
    await _are_busy(pair)
    # So many that the table is read, as nobody told of what else is there.
    await pair.here.accepts(20, "busy")
    await pair.there.accepts(1, "patient")
    served = [task.key_id for _ in range(21) for task in await pair.here.leases()]
    assert sorted(served) == ["busy"] * 20 + ["patient"]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_has_canceled_what_another_accepted_finds_his_own(pair: Pair) -> None:
    await _are_busy(pair)
    await pair.here.accepts(1, "here")
    (there,) = await pair.there.store.accept([a_new_task(key_id="there")])
    assert isinstance(there, Accepted)
    await pair.here.store.cancel([there.task.id])
    assert [task.key_id for task in await pair.here.leases()] == ["here"]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_closes_tells_others_of_what_is_left(pair: Pair) -> None:
    await _are_busy(pair)
    waiting = await _waits(pair.here)
    await pair.there.accepts(1, "there")
    await pair.there.database.close()
    async with asyncio.timeout(PATIENT_S):
        assert [task.key_id for task in await waiting] == ["there"]


async def test_what_another_left_that_has_gone_without_a_word_is_found_by_whoever_never_waits(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.there.database.broadcast = None
    await _is_busy(pair.here)
    assert await pair.here.leases() == []
    await pair.there.accepts(1, "there")
    await pair.there.database.close()
    async with asyncio.timeout(PATIENT_S):
        served: list[Task] = []
        while not served:
            await pair.here.store.sweep()
            served = await pair.here.leases()
    assert [task.key_id for task in served] == ["there"]


async def test_each_task_is_handed_out_once_whoever_remembers_it(pair: Pair) -> None:
    served: list[str] = []

    async def serve(backend: Backend) -> None:
        while len(served) < 200:
            tasks = await backend.leases(3)
            served.extend(task.id for task in tasks)
            await backend.ends(tasks)
            pair.clock.advance(0.01)

    async def accept(backend: Backend) -> None:
        for _ in range(50):
            await backend.accepts(2, "key")

    async with asyncio.timeout(PATIENT_S):
        await asyncio.gather(
            *(f(each) for f in (accept, serve) for each in (pair.here, pair.there))
        )
    assert len(served) == len(set(served)) == 200
