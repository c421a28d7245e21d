"""Two backends on PostgreSQL hand out what each has accepted, and nobody waits for long by that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import msgspec
import pytest

from conformance.factories import a_lease_request, a_new_task, a_settlement
from postgres_databases import PostgresDatabases
from swell.brokers.postgres import PostgresBroker
from swell.clock import ManualClock
from swell.store import Accepted
from swell.stores.postgres import PostgresDatabase, PostgresStore, company, database
from swell.stores.postgres.company import Company
from swell.stores.postgres.others import OVERLOOKED_S, PATIENCE_S
from swell.stores.postgres.state import MAX_LIVE_INPUT_BYTES
from swell.stores.postgres.view import is_ready
from swell.task import Released, Task, TaskState

PATIENT_S = 30.0

LARGE = msgspec.Raw(msgspec.json.encode({"text": "a" * 2 * MAX_LIVE_INPUT_BYTES}))


@dataclass
class Backend:
    """One of two."""

    database: PostgresDatabase

    def __post_init__(self) -> None:
        self.store = PostgresStore(self.database)
        self.broker = PostgresBroker(self.database)

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
    async with asyncio.timeout(PATIENT_S):
        while not all(each.database.company.is_there for each in both):
            await asyncio.sleep(0.01)
    try:
        yield Pair(url, here, *both)
    finally:
        for each in both:
            await each.database.close()


async def test_a_backend_goes_on_with_its_own_until_what_another_accepted_has_waited(
    pair: Pair,
) -> None:
    await pair.here.accepts(4, "busy")
    assert [task.key_id for task in await pair.here.leases()] == ["busy"]
    await pair.there.accepts(1, "patient")
    pair.clock.advance(0.5 * OVERLOOKED_S)
    assert [task.key_id for task in await pair.here.leases()] == ["busy"]
    pair.clock.advance(0.6 * OVERLOOKED_S)
    # Its turn has come: its key was served less.
    assert [task.key_id for task in await pair.here.leases()] == ["patient"]
    assert [task.key_id for task in await pair.here.leases(9)] == ["busy"] * 2


async def test_a_flood_that_one_backend_has_accepted_does_not_hold_up_what_others_did(
    pair: Pair,
) -> None:
    await pair.here.accepts(40, "flood")
    await pair.there.accepts(10, "others")
    served: list[str] = []
    for _ in range(20):
        pair.clock.advance(1.1 * OVERLOOKED_S)
        served += [task.key_id for task in await pair.here.leases()]
    # Turn about, although no worker has asked where they were accepted.
    assert served.count("others") == 10


@pytest.mark.parametrize("ahead_s", [0.09, 0.5, 3600.0])
async def test_what_a_backend_accepted_whose_clock_is_ahead_waits_no_longer_for_that(
    postgres_databases: PostgresDatabases, ahead_s: float
) -> None:
    url, clock = await postgres_databases.new(), ManualClock()
    ahead = ManualClock(clock.now() + timedelta(seconds=ahead_s))
    async with _pair(url, clock, ahead) as pair:
        await pair.here.accepts(9, "busy")
        await pair.there.accepts(1, "patient")
        served: list[str] = []
        for _ in range(4):
            served += [task.key_id for task in await pair.here.leases()]
            clock.advance(0.6 * OVERLOOKED_S)
            ahead.advance(0.6 * OVERLOOKED_S)
        served += [task.key_id for task in await pair.here.leases()]
        assert "patient" in served


async def test_a_look_that_falls_on_another_models_turn_is_made_again(pair: Pair) -> None:
    models = ["demo/one", "demo/two"]
    request = a_lease_request(1, models=dict.fromkeys(models, "1"))

    async def accepts(backend: Backend, model: str, key_id: str, n: int = 1) -> None:
        await backend.store.accept([a_new_task(model=model, key_id=key_id) for _ in range(n)])

    for model in models:
        await accepts(pair.here, model, "own", 3)
        await accepts(pair.there, model, "others")
    served: list[str] = []
    # As tasks of such a length come one after the other, every second lease would look, and each of
    # these would be for the same model.
    for _ in range(8):
        pair.clock.advance(0.6 * OVERLOOKED_S)
        (task,) = tasks = await pair.here.broker.lease(request)
        served.append(f"{task.key_id} {task.model}")
        await pair.here.ends(tasks)
        await accepts(pair.here, task.model, "own")
    assert {f"others {model}" for model in models} <= set(served)


async def test_an_idle_backend_hands_out_at_once_what_another_has_accepted(pair: Pair) -> None:
    await pair.there.accepts(1, "a")
    assert [task.key_id for task in await pair.here.leases()] == ["a"]


async def _waits(backend: Backend) -> "asyncio.Task[list[Task]]":
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(backend.broker.lease(a_lease_request(1), until=until))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENT_S):
        # What it was told of it has looked for in vain.
        while backend.database.state.told:
            await asyncio.sleep(0.01)
    assert not waiting.done()
    return waiting


async def _is_busy(backend: Backend) -> None:
    """Have a worker of a backend get something of its own."""
    await backend.accepts(1, "own")
    await backend.ends(await backend.leases())


@pytest.fixture
def nobody_looks_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Company, "_keep_polling", _never)
    monkeypatch.setattr(database, "REFRESH_S", 3600.0)


async def _never(company: Company) -> None:
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


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_waits_gets_what_has_waited_at_another_whose_workers_get_something(
    pair: Pair,
) -> None:
    await _is_busy(pair.there)
    waiting = await _waits(pair.here)
    # Its own workers would take it, most probably, before anybody else could.
    await pair.there.accepts(1, "there")
    await asyncio.sleep(3 * PATIENCE_S)
    assert not waiting.done()
    pair.clock.advance(1.1 * PATIENCE_S)
    assert await _is_served(waiting, "there")


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_waits_gets_what_is_too_large_to_be_remembered_at_another(pair: Pair) -> None:
    await _is_busy(pair.there)
    waiting = await _waits(pair.here)
    await pair.there.store.accept([a_new_task(key_id="large", input=LARGE)])
    assert await _is_served(waiting, "large")


async def test_who_has_had_something_just_now_asks_for_others_work_when_that_is_a_while_ago(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _is_busy(pair.here)
    assert await pair.here.leases() == []
    # A word of it was lost.
    monkeypatch.setattr(pair.there.database.company, "tell", lambda queues: None)
    await pair.there.accepts(1, "there")
    assert await pair.here.leases() == []
    pair.clock.advance(0.1)
    assert [task.key_id for task in await pair.here.leases()] == ["there"]


async def test_own_work_that_is_too_large_to_be_remembered_is_found_at_once(pair: Pair) -> None:
    await _is_busy(pair.here)
    await pair.here.store.accept([a_new_task(key_id="large", input=LARGE)])
    assert [task.key_id for task in await pair.here.leases()] == ["large"]


async def test_what_another_has_started_is_no_reason_to_look_when_it_is_told_to_have_ended(
    pair: Pair,
) -> None:
    await pair.here.accepts(1, "here")
    tasks = await pair.there.leases()
    assert "demo/upper" not in pair.here.database.state.unremembered
    await pair.here.ends(tasks)
    assert "demo/upper" not in pair.here.database.state.unremembered


async def test_what_somebody_says_to_hold_who_lost_it_is_found_at_once(pair: Pair) -> None:
    await pair.here.accepts(1, "here")
    (lost,) = await pair.here.leases()
    for _ in range(2):
        pair.clock.advance(3600.0)
        (swept,) = await pair.here.store.sweep()
    assert is_ready(swept)
    assert await pair.here.store.settle([a_settlement(lost)]) == [None]
    state = pair.here.database.state
    state.others.handed_out(swept.queue, pair.clock.monotonic_s())
    state.told.clear()
    assert [task.id for task in await pair.here.leases()] == [lost.id]


async def test_who_remembers_what_another_has_ended_looks_for_others_work_as_an_idle_one(
    pair: Pair,
) -> None:
    await pair.here.store.accept([a_new_task(start_by_s=5.0)])
    pair.clock.advance(6.0)
    (expired,) = await pair.there.store.sweep()
    assert expired.state is TaskState.EXPIRED
    assert await pair.here.leases() == []
    await pair.there.accepts(1, "there")
    # It would have been passed over, as if there was something else to hand out.
    assert [task.key_id for task in await pair.here.leases()] == ["there"]


async def test_who_asks_for_little_waits_for_nobody_where_much_of_ones_own_is_ready(
    pair: Pair,
) -> None:
    await pair.here.accepts(20, "here")
    assert len(await pair.here.leases(8)) == 8
    # Of what is left more is remembered than such a lease goes through.
    assert len(await pair.here.leases(1)) == 1


async def test_who_gets_nothing_of_what_comes_here_gets_what_another_has_told_of_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    request = a_lease_request(1)
    waiting = [
        asyncio.ensure_future(pair.here.broker.lease(request, until=until)) for _ in range(2)
    ]
    await asyncio.sleep(0.05)
    # The word of it comes together with work of one's own, and nobody looks by and by.
    monkeypatch.setattr(pair.there.database.company, "tell", lambda queues: None)
    monkeypatch.setattr(pair.here.database.company, "_poll", lambda: None)
    await pair.there.accepts(1, "there")
    accepting = asyncio.ensure_future(pair.here.accepts(1, "here"))
    await asyncio.sleep(0)
    pair.here.database._told(["demo/upper"])
    await accepting
    pair.clock.advance(1.1 * OVERLOOKED_S)
    async with asyncio.timeout(5):
        served = [task.key_id for tasks in await asyncio.gather(*waiting) for task in tasks]
    assert sorted(served) == ["here", "there"]


async def _are_busy(pair: Pair) -> None:
    """Have workers of both get something of their own just now, and neither know of more."""
    for each in (pair.there, pair.here):
        await _is_busy(each)
    async with asyncio.timeout(PATIENT_S):
        while "demo/upper" not in pair.here.database.state.told:
            await asyncio.sleep(0)
    for each in (pair.there, pair.here):
        assert await each.leases() == []
        assert not each.database.state.told


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
async def test_who_gets_nothing_of_what_is_remembered_here_gets_what_is_not(pair: Pair) -> None:
    await _are_busy(pair)
    await pair.here.store.accept([a_new_task(key_id="large", input=LARGE)])
    await pair.here.accepts(1, "small")
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    request = a_lease_request(1)
    both = [pair.here.broker.lease(request, until=until) for _ in range(2)]
    async with asyncio.timeout(PATIENT_S):
        served = [task.key_id for tasks in await asyncio.gather(*both) for task in tasks]
    assert sorted(served) == ["large", "small"]


@contextlib.asynccontextmanager
async def _a_lease_that_is_given_up_and_not_written(pair: Pair) -> AsyncIterator[None]:
    """Have a worker hang up whose lease is on its way with what another backend has changed.

    The body runs while it is on its way.
    """
    assert pair.here.database.company.is_there
    (held,) = await pair.here.leases()
    await pair.here.accepts(1, "own")
    other = await asyncpg.connect(pair.url)
    await other.execute("BEGIN")
    await other.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", held.id)
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    settling = asyncio.ensure_future(pair.here.store.settle([a_settlement(held)]))
    leasing = asyncio.ensure_future(pair.here.broker.lease(a_lease_request(1), until=until))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(PATIENT_S):
        while not await other.fetchval(waiting):
            await asyncio.sleep(0)
    until.set_result(None)
    yield
    await other.execute("UPDATE tasks SET edition = edition + 1 WHERE id = $1", held.id)
    await other.execute("COMMIT")
    await other.close()
    await settling
    assert await leasing == []


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_what_a_lease_has_taken_that_was_not_written_is_found_at_once(pair: Pair) -> None:
    await _are_busy(pair)
    await pair.here.accepts(1, "held")
    async with _a_lease_that_is_given_up_and_not_written(pair):
        pass
    assert [task.key_id for task in await pair.here.leases()] == ["own"]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_who_waits_gets_what_another_has_taken_in_a_lease_that_was_not_written(
    pair: Pair,
) -> None:
    await _are_busy(pair)
    await pair.here.accepts(1, "held")
    waiting = await _waits(pair.there)
    async with _a_lease_that_is_given_up_and_not_written(pair):
        # Until then nothing seems to be left here of which to tell.
        await asyncio.sleep(3 * PATIENCE_S)
    async with asyncio.timeout(PATIENT_S):
        assert [task.key_id for task in await waiting] == ["own"]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_what_comes_from_a_clock_that_is_ahead_is_told_of_although_it_is_young_forever(
    postgres_databases: PostgresDatabases,
) -> None:
    clock = ManualClock()
    ahead = ManualClock(clock.now() + timedelta(hours=1))
    async with _pair(await postgres_databases.new(), clock, ahead) as pair:
        await pair.there.accepts(1, "ahead")
        (task,) = await pair.here.leases()
        waiting = await _waits(pair.there)
        await pair.here.store.settle([a_settlement(task, Released())])
        async with asyncio.timeout(PATIENT_S):
            assert [task.key_id for task in await waiting] == ["ahead"]


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_what_is_too_large_to_be_remembered_is_told_of_beside_what_is_young(
    pair: Pair,
) -> None:
    await _are_busy(pair)
    waiting = await _waits(pair.there)
    await pair.here.store.accept([a_new_task(key_id="own", input=LARGE, priority=2)])
    await pair.here.accepts(1, "own")
    async with asyncio.timeout(PATIENT_S):
        # There is always something that is remembered, and it is young.
        while not waiting.done():
            await pair.here.accepts(1, "own")
            pair.clock.advance(0.4 * PATIENCE_S)
            await pair.here.ends(await pair.here.leases())
            await asyncio.wait([waiting], timeout=0.4 * PATIENCE_S)
        assert len(await waiting) == 1


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_what_is_young_is_seen_to_in_time_beside_what_was_told_of(pair: Pair) -> None:
    here, models = pair.here.database, ["demo/large", "demo/young"]
    for each in models:
        here.state.others.handed_out(each, pair.clock.monotonic_s())
    large, young = a_new_task(model=models[0], input=LARGE), a_new_task(model=models[1])
    await pair.here.store.accept([large, young])
    async with asyncio.timeout(PATIENT_S):
        while "demo/large" not in pair.there.database.state.told:
            await asyncio.sleep(0)
    assert here._telling is not None
    assert here._telling.when() - asyncio.get_running_loop().time() <= PATIENCE_S


@pytest.mark.usefixtures("nobody_looks_by_and_by")
async def test_however_many_queues_there_are_each_is_told_of(pair: Pair) -> None:
    queues = {f"demo/one-of-many-models-{n}" for n in range(900)}
    # One is too long for any message, and nobody waits for it.
    pair.there.database.company.tell({*queues, "demo/" + "long" * 5_000})
    async with asyncio.timeout(PATIENT_S):
        while not queues <= pair.here.database.state.told.keys():
            await asyncio.sleep(0.01)


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
    monkeypatch.setattr(company, "_FORGET_S", 0.1)
    monkeypatch.setattr(pair.there.database.company, "tell", lambda queues: None)
    await _is_busy(pair.here)
    assert await pair.here.leases() == []
    await pair.there.accepts(1, "there")
    await pair.there.database.close()
    async with asyncio.timeout(PATIENT_S):
        while pair.here.database.company.is_there:
            await asyncio.sleep(0.01)
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
