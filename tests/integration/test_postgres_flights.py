"""A group is one transaction: what fails in it fails alone, and other backends do not interfere."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
import pytest

from conformance.delivery import Delivery
from conformance.factories import a_failure, a_lease_request, a_new_task, a_settlement, hold_of
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.core.errors import InvalidRequest, NotFound, Unavailable
from swell.core.store_types import Accepted, HoldState
from swell.core.task import Released, Task, TaskState
from swell.db.group_commit import TRIES
from swell.db.postgres import PostgresDatabase
from swell.db.postgres.postgres_transaction import PostgresSession
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

R = TypeVar("R")

PATIENCE_S = 30.0

#: Held by somebody else, a task's row keeps the group that writes it on its way.
_HOLD = "SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE"

_LEASE_ELSEWHERE = (
    "UPDATE tasks SET attempt = 2, lease_token = 'another', worker_id = 'another' WHERE id = $1"
)

#: Has the server refuse to change a task, so many times, as it does where two write at once.
_RACE = """
CREATE SEQUENCE races;
CREATE FUNCTION race() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('races') <= %d THEN
        RAISE EXCEPTION 'another was there before' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER race BEFORE UPDATE ON tasks FOR EACH ROW WHEN (OLD.id = '%s')
EXECUTE FUNCTION race();
"""

_HOW_IT_IS_HELD = "SELECT state, attempt, lease_token FROM tasks WHERE id = $1"


class World:
    """A backend, and somebody else who may hold rows of its database."""

    def __init__(
        self, database: PostgresDatabase, clock: ManualClock, other: Any, url: str
    ) -> None:
        self.url = url
        self.database = database
        self.store = Store(database)
        self.broker = Broker(database)
        self.delivery = Delivery(clock, self.store, self.broker)
        self.other = other

    async def on_its_way(self, task: Task, call: Callable[[], Awaitable[R]]) -> "asyncio.Future[R]":
        """Begin to write a task that somebody else holds; return once the server waits for him."""
        await self.other.execute("BEGIN")
        await self.other.execute(_HOLD, task.id)
        writing = asyncio.ensure_future(call())
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(PATIENCE_S):
            while not await self.other.fetchval(waiting):
                await asyncio.sleep(0)
        return writing

    async def let_go(self, changed: Task | None = None) -> None:
        """Let go of what is held; of a task whose lease another has taken over meanwhile."""
        if changed is not None:
            await self.other.execute(_LEASE_ELSEWHERE, changed.id)
        await self.other.execute("COMMIT")

    def ready(self) -> int:
        """How many tasks are ready, as far as the backend remembers."""
        bands = [each for of in self.database.state.lines.values() for each in of.values()]
        return sum(line.n for lines in bands for line in lines.values())


@pytest.fixture
async def world(postgres_databases: PostgresDatabases) -> AsyncIterator[World]:
    url = await postgres_databases.new()
    clock = ManualClock()
    database = await PostgresDatabase.open(url, clock)
    other = await asyncpg.connect(url)
    yield World(database, clock, other, url)
    await other.close()
    await database.close()


@pytest.fixture
async def later(world: World) -> AsyncIterator[Store]:
    """Another backend of the same database, for which every lease has run out."""
    clock = ManualClock()
    clock.advance(3600)
    store = Store(await PostgresDatabase.open(world.url, clock))
    yield store
    await store.close()


def pid_of(database: PostgresDatabase) -> int:
    """Return which process of the server writes for a backend."""
    pid: int = database._writer_connection.get_server_pid()
    return pid


async def patient(call: Awaitable[R]) -> R:
    async with asyncio.timeout(PATIENCE_S):
        return await call


async def test_a_task_that_is_being_written_waits_before_it_is_written_again(world: World) -> None:
    await world.delivery.submit(a_new_task())
    (held,) = await world.delivery.lease()
    given_back = a_settlement(held, Released())
    releasing = await world.on_its_way(held, lambda: world.store.settle([given_back]))
    leasing = asyncio.ensure_future(world.broker.lease(a_lease_request(5)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not leasing.done()
    await world.let_go()
    await patient(releasing)
    (again,) = await patient(leasing)
    assert (again.id, again.attempt) == (held.id, 2)


async def test_who_asks_of_a_task_that_is_being_written_is_told_how_that_ended(
    world: World,
) -> None:
    await world.delivery.submit(a_new_task())
    (held,) = await world.delivery.lease()
    settling = await world.on_its_way(held, lambda: world.store.settle([a_settlement(held)]))
    canceling = asyncio.ensure_future(world.store.cancel([held.id]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not canceling.done()
    await world.let_go()
    await patient(settling)
    (found,) = await patient(canceling)
    assert found is not None
    assert found.state is TaskState.SUCCEEDED


async def test_a_group_that_loses_a_race_is_undone_and_written_again(world: World) -> None:
    await world.delivery.submit(a_new_task(user="ann"))
    (held,) = await world.delivery.lease()
    clock = world.database.state.clocks["demo/upper", "key-1", 1]
    tag = clock.peek("ann")
    await world.other.execute(_RACE % (TRIES - 1, held.id))
    (released,), accepted = await patient(
        asyncio.gather(
            world.store.settle([a_settlement(held, Released())]),
            world.store.accept([a_new_task(user="ann")] * 3),
        )
    )
    assert released is not None
    assert released.state is TaskState.QUEUED
    assert world.ready() == 4
    assert clock.peek("ann") == tag + 3
    found = await world.delivery.lease(10)
    ids = {each.task.id for each in accepted if isinstance(each, Accepted)}
    assert {task.id for task in found} == {held.id, *ids}
    assert world.ready() == 0


@pytest.mark.parametrize("races", [TRIES + 3, 1_000_000])
async def test_a_group_that_loses_many_races_fails_only_what_collides_and_keeps_its_connection(
    world: World, races: int
) -> None:
    database = world.database
    await world.delivery.submit(*(a_new_task() for _ in range(3)))
    raced, other, _ = await world.delivery.lease(3)
    pid = pid_of(database)
    await world.other.execute(_RACE % (races, raced.id))
    lost, settled, accepted = await patient(
        asyncio.gather(
            world.store.settle([a_settlement(raced)]),
            world.store.settle([a_settlement(other)]),
            world.store.accept([a_new_task()]),
            return_exceptions=True,
        )
    )
    assert isinstance(lost, Unavailable) is (races > 3 * TRIES)
    assert not isinstance(settled, BaseException)
    assert [task.state for task in settled if task] == [TaskState.SUCCEEDED]
    assert not isinstance(accepted, BaseException)
    assert pid_of(database) == pid
    assert not database._was_refused
    await world.other.execute("DROP TRIGGER race ON tasks")
    (ended,) = await patient(world.store.settle([a_settlement(raced)]))
    assert ended is not None
    assert ended.state is TaskState.SUCCEEDED


@pytest.mark.slow
async def test_a_row_that_another_session_locks_fails_only_what_needs_it(world: World) -> None:
    await world.delivery.submit(a_new_task(), a_new_task())
    locked, other = await world.delivery.lease(2)
    pid = pid_of(world.database)
    await world.other.execute("BEGIN")
    await world.other.execute(_HOLD, locked.id)
    lost, extended, accepted = await patient(
        asyncio.gather(
            world.store.extend([hold_of(locked)], lease_s=30),
            world.store.extend([hold_of(other)], lease_s=30),
            world.store.accept([a_new_task()]),
            return_exceptions=True,
        )
    )
    assert isinstance(lost, Unavailable)
    assert extended == [HoldState(is_held=True)]
    assert not isinstance(accepted, BaseException)
    assert pid_of(world.database) == pid
    await world.let_go()
    assert await world.store.extend([hold_of(locked)], lease_s=30) == [HoldState(is_held=True)]


async def test_what_another_has_written_meanwhile_counts(world: World) -> None:
    await world.delivery.submit(a_new_task())
    (held,) = await world.delivery.lease()
    extending = await world.on_its_way(
        held, lambda: world.store.extend([hold_of(held)], lease_s=30)
    )
    settling = asyncio.ensure_future(world.store.settle([a_settlement(held)]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not settling.done()
    await world.let_go(changed=held)
    assert await patient(extending) == [HoldState(is_held=False)]
    assert await patient(settling) == [None]
    row = await world.other.fetchrow(_HOW_IT_IS_HELD, held.id)
    assert tuple(row) == ("running", 2, "another")


async def test_a_task_that_two_backends_would_end_at_once_ends_once(
    world: World, later: Store
) -> None:
    store, broker, rng = world.store, world.broker, random.Random(3)

    async def a_while(most_turns: int) -> None:
        for _ in range(rng.randrange(most_turns)):
            await asyncio.sleep(0)

    async def extend_and_settle(held: Task) -> Task | None:
        await a_while(150)
        extending = asyncio.ensure_future(store.extend([hold_of(held)], lease_s=30))
        await a_while(50)
        (settled,) = await store.settle([a_settlement(held)])
        await extending
        return settled

    async def sweep() -> list[Task]:
        await a_while(150)
        return await later.sweep()

    async with asyncio.timeout(PATIENCE_S):
        for _ in range(300):
            await store.accept([a_new_task(max_attempts=1)])
            (held,) = await broker.lease(a_lease_request(1))
            swept, settled = await asyncio.gather(sweep(), extend_and_settle(held))
            # Each has told its own what became of it.
            assert [task.id for task in swept] == ([] if settled is not None else [held.id])


async def test_a_worker_whose_row_the_database_refuses_takes_nobody_along(world: World) -> None:
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bad = a_lease_request(1, worker_id="no text of \0 is kept")
    waiting = asyncio.ensure_future(world.broker.lease(bad, until=until))
    for _ in range(5):
        await asyncio.sleep(0)
    # It comes alone, and what was accepted is what the worker would get.
    (accepted,) = await patient(world.store.accept([a_new_task()]))
    assert isinstance(accepted, Accepted)
    with pytest.raises(InvalidRequest):
        await patient(waiting)
    (got,) = await patient(world.delivery.lease())
    assert got.id == accepted.task.id


async def test_who_waits_and_cannot_be_served_takes_nobody_along(world: World) -> None:
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def refuse(session: PostgresSession) -> bool:
        if "demo/upper" in session.state.lines:
            raise NotFound("there is nothing of that name")
        return False

    waiting = asyncio.ensure_future(world.database.write_when(refuse, until, queues=["demo/upper"]))
    for _ in range(5):
        await asyncio.sleep(0)
    (accepted,) = await patient(world.store.accept([a_new_task()]))
    assert isinstance(accepted, Accepted)
    with pytest.raises(NotFound):
        await patient(waiting)
    # It is told once, and gone.
    await patient(world.store.accept([a_new_task()]))
    assert len(await patient(world.delivery.lease(5))) == 2


async def test_closing_waits_for_what_is_being_written(world: World) -> None:
    await world.delivery.submit(a_new_task())
    (held,) = await world.delivery.lease()
    settling = await world.on_its_way(held, lambda: world.store.settle([a_settlement(held)]))
    closing = asyncio.ensure_future(world.database.close())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    await world.let_go()
    await patient(closing)
    assert settling.done()


async def test_many_tasks_at_once_end_once_each_and_none_is_counted_afterwards(
    world: World,
) -> None:
    rng = random.Random(7)
    store, broker = world.store, world.broker

    async def submit() -> None:
        user = rng.choice(["ann", "bob", None])
        for _ in range(20):
            await store.accept([a_new_task(user=user, key_id=rng.choice("kl"), max_attempts=50)])

    over: set[str] = set()

    async def work() -> None:
        while len(over) < 200:
            tasks = await broker.lease(a_lease_request(rng.randint(1, 5)))
            if not tasks:
                await asyncio.sleep(0)
            for task in tasks:
                await store.extend([hold_of(task)], lease_s=30)
                outcome = rng.choice([None, None, Released(), a_failure(retryable=False)])
                told = a_settlement(task) if outcome is None else a_settlement(task, outcome)
                (settled,) = await store.settle([told])
                assert settled is not None
                if settled.state.is_terminal:
                    assert task.id not in over
                    over.add(task.id)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(submit() for _ in range(10)), *(work() for _ in range(4)))
    state = world.database.state
    assert state.lines == {}
    states = await world.other.fetch("SELECT count(*) FROM tasks WHERE finished_at IS NOT NULL")
    assert states[0][0] == 200


async def test_what_rows_of_a_group_have_alike_and_what_not_comes_back_as_it_was(
    world: World,
) -> None:
    asked = [
        a_new_task(seed=seed, user=user, count=count, metadata=None)
        for seed, user, count in ((None, "ann", 1), (1, "ann", 2), (None, "ann", 1))
    ]
    accepted = await world.store.accept(asked)
    tasks = [each.task for each in accepted if isinstance(each, Accepted)]
    assert await world.store.get([task.id for task in tasks]) == tasks
    held = await world.broker.lease(a_lease_request(3))
    told = [a_settlement(held[0]), a_settlement(held[1], a_failure()), a_settlement(held[2])]
    settled = await world.store.settle(told)
    assert await world.store.get([task.id for task in settled if task]) == settled
