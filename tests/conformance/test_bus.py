import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import msgspec
import pytest

from conformance.bus import (
    PATIENCE_S,
    Bench,
    BenchWire,
    BusConformance,
    BusPairConformance,
    drain,
    meet,
    news_until,
    progress,
    terminal,
    until,
)
from manual_clock import ManualClock
from servers import NatsServer, PostgresServer
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import TERMINAL_ID, Event, EventKind, TaskSummary, event_of
from swell.core.task import Task, TaskState, Timings
from swell.db.postgres.listen_notify import NotifyChannel
from swell.net import nats_connection
from swell.pubsub.cluster_bus import HEARTBEAT_S, LOST_S, PAUSE_S, WiredBus
from swell.pubsub.local_bus import MemoryBus
from swell.pubsub.nats_wire import NatsWire


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(clock: ManualClock) -> MemoryBus:
    return MemoryBus(clock)


class TestMemoryBus(BusConformance):
    async def test_an_ended_task_is_forgotten_after_some_seconds(
        self, bus: MemoryBus, clock: ManualClock
    ) -> None:
        bus.publish([progress(1), terminal()])
        clock.advance(9)
        assert await bus.subscribe("t1").next(0) == progress(1)
        clock.advance(2)
        assert await bus.subscribe("t1").next(0) is None

    async def test_memory_of_tasks_that_never_end_is_bounded(self, clock: ManualClock) -> None:
        bus = MemoryBus(clock, tasks=10)
        for number in range(100):
            bus.publish([progress(1, task_id=str(number))])
        kept = [n for n in range(100) if await bus.subscribe(str(n)).next(0) is not None]
        assert kept == list(range(90, 100))

    async def test_memory_of_one_task_keeps_state_changes_over_progress(
        self, clock: ManualClock
    ) -> None:
        bus = MemoryBus(clock, events_per_task=3)
        started = Event(task_id="t1", id=1_000_000, kind=EventKind.STARTED)
        bus.publish([started, *(progress(place) for place in range(1, 50))])
        listener = bus.subscribe("t1")
        assert [await listener.next(0) for _ in range(3)] == [started, progress(48), progress(49)]

    async def test_closed_listeners_leave_nothing_behind(self, bus: MemoryBus) -> None:
        listeners = [bus.subscribe(f"t{number % 7}") for number in range(1000)]
        assert bus.listener_count() == 1000
        for listener in listeners:
            listener.close()
        assert bus.listener_count() == 0

    def test_a_listener_is_small(self, bus: MemoryBus) -> None:
        listener = bus.subscribe("t1")
        assert sys.getsizeof(listener) <= 128
        assert not hasattr(listener, "__dict__")

    async def test_who_waits_for_the_end_alone_watches_nothing(self, bus: MemoryBus) -> None:
        bus.subscribe("t1", after=TERMINAL_ID - 1)
        listeners = [bus.subscribe("t2") for _ in range(2)]
        assert bus.watched(["t1", "t2", "t3"]) == ["t2"]
        listeners[0].close()
        assert bus.watched(["t2"]) == ["t2"]
        listeners[1].close()
        assert bus.watched(["t2"]) == []


# ---- two processes


@contextlib.asynccontextmanager
async def closing(*buses: WiredBus) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for bus in buses:
            await bus.close()


@contextlib.asynccontextmanager
async def two_on(
    bench: Bench, clock: Clock, clock_there: Clock | None = None
) -> AsyncIterator[tuple[WiredBus, WiredBus]]:
    here, there = WiredBus(bench.wire(), clock), WiredBus(bench.wire(), clock_there or clock)
    async with closing(here, there):
        await here.open()
        await there.open()
        yield here, there


class TestWiredBus(BusConformance):
    @pytest.fixture
    async def bus(self) -> AsyncIterator[MemoryBus]:
        bus = WiredBus(Bench().wire(), SystemClock())
        await bus.open()
        async with closing(bus):
            yield bus


class TestPairOnABench(BusPairConformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return Bench()

    @pytest.fixture
    async def pair(self, bench: Bench) -> AsyncIterator[tuple[MemoryBus, MemoryBus]]:
        buses = WiredBus(bench.wire(), SystemClock()), WiredBus(bench.wire(), SystemClock())
        for bus in buses:
            await bus.open()
        async with closing(*buses):
            yield buses

    @pytest.fixture
    def lose(self, bench: Bench) -> Callable[[], Awaitable[None]]:
        async def lose() -> None:
            bench.is_up = False
            asyncio.get_running_loop().call_later(0.05, bench.come_back)

        return lose


class Lossy(BenchWire):
    """Drops messages on request."""

    losses = 0

    async def send(self, data: bytes) -> None:
        if self.losses:
            self.losses -= 1
            return
        await super().send(data)


async def test_one_lost_message_shows_with_the_next() -> None:
    bench, clock = Bench(), SystemClock()
    wire = Lossy(bench)
    here, there = WiredBus(wire, clock), WiredBus(bench.wire(), clock)
    await here.open()
    await there.open()
    async with closing(here, there):
        await meet(here, there)
        await drain(there, here)
        wire.losses = 1
        here.publish([terminal()])
        await until(lambda: wire.losses == 0)
        listener = there.subscribe("t2", after=TERMINAL_ID - 1)
        here.publish([terminal(task_id="t2")])
        await news_until(there, lambda news: PeerMessage(kind=MessageKind.MISSED) in news)
        assert await listener.next(PATIENCE_S) is not None


async def test_one_lost_message_shows_with_the_farewell() -> None:
    bench, clock = Bench(), SystemClock()
    wire = Lossy(bench)
    here, there = WiredBus(wire, clock), WiredBus(bench.wire(), clock)
    await here.open()
    await there.open()
    async with closing(here, there):
        await meet(here, there)
        await drain(there, here)
        wire.losses = 1
        here.publish([terminal()])
        await until(lambda: wire.losses == 0)
        await here.close()
        await news_until(there, lambda news: PeerMessage(kind=MessageKind.MISSED) in news)


async def test_a_process_that_falls_silent_counts_as_something_missed() -> None:
    bench, clock = Bench(), ManualClock()
    async with two_on(bench, clock) as (here, there):
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        await drain(here, there)
        # Like SIGKILL: no further message, not even a farewell.
        for wire in list(bench._wires):
            if wire is there._wire:
                bench.leave(wire)
        waiting = asyncio.ensure_future(here.receive())
        for _ in range(int(LOST_S / HEARTBEAT_S) + 2):
            clock.advance(HEARTBEAT_S)
            for _ in range(5):
                await asyncio.sleep(0)
        assert PeerMessage(kind=MessageKind.MISSED) in await asyncio.wait_for(waiting, PATIENCE_S)
        assert here.watched(["t1"]) == []
        listener.close()


async def test_alone_nothing_but_heartbeats_is_sent() -> None:
    sent: list[bytes] = []

    class Heard(BenchWire):
        async def send(self, data: bytes) -> None:
            sent.append(data)

    bus = WiredBus(Heard(Bench()), ManualClock())
    await bus.open()
    async with closing(bus):
        await until(lambda: len(sent) == 1)
        for place in range(1, 100):
            bus.publish([progress(place)])
        bus.publish([terminal()])
        await bus.broadcast([PeerMessage(kind=MessageKind.KEYS)])
        bus._send_heartbeat()
        await until(lambda: len(sent) == 2)
        assert msgspec.json.decode(sent[1]).keys() == {"sender", "number", "watched"}


async def test_events_of_one_pause_share_a_message() -> None:
    clock = SystemClock()
    async with two_on(Bench(), clock) as (here, there):
        await meet(here, there)
        await asyncio.sleep(2 * PAUSE_S)
        before = here._number
        listener = there.subscribe("t0", after=TERMINAL_ID - 1)
        began_s = clock.monotonic_s()
        for number in range(300):
            here.publish([terminal(task_id=f"t{number}")])
            await asyncio.sleep(0)
        took_s = clock.monotonic_s() - began_s
        assert await listener.next(PATIENCE_S) is not None
        last = there.subscribe("t299", after=TERMINAL_ID - 1)
        assert await last.next(PATIENCE_S) is not None
        # The heartbeat is one more message.
        assert here._number - before <= took_s / PAUSE_S + 4


async def test_a_listener_that_is_closed_before_others_know_it_watches_nothing() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        there.subscribe("t1").close()
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        listener.close()
        await until(lambda: here.watched(["t1"]) == [])


async def test_a_process_that_watches_very_many_tasks_gets_the_progress_of_all() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        listeners = [there.subscribe(f"t{number}") for number in range(1001)]
        there._send_heartbeat()
        await until(lambda: here.watched(["other"]) == ["other"])
        for listener in listeners:
            listener.close()
        await until(lambda: here.watched(["other"]) == [])


async def test_more_than_one_message_holds_is_sent_in_order() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        image = "x" * 300_000
        previews = [
            Event(task_id="t1", id=1_000_000 + n, kind=EventKind.PREVIEW, data={"image": image})
            for n in range(5)
        ]
        here.publish([*previews, terminal()])
        for each in [*previews, terminal()]:
            assert await listener.next(PATIENCE_S) == each


async def test_queued_events_are_sent_before_the_bus_closes() -> None:
    bench = Bench()
    third = WiredBus(bench.wire(), SystemClock())
    async with two_on(bench, SystemClock()) as (here, there), closing(third):
        await third.open()
        await meet(here, there, third)
        for other in (here, third):
            await drain(there, other)
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        here.publish([terminal()])
        await here.close()
        assert await elsewhere.next(PATIENCE_S) is not None
        assert PeerMessage(kind=MessageKind.MISSED) not in await drain(there, third)


def life(task_id: str, *, run_s: float = 0.25) -> tuple[Event, Event]:
    """Return the events of an attempt that starts and succeeds in this process."""
    now = SystemClock().now()
    begun = Task(
        id=task_id,
        model="demo/upper",
        queue="demo/upper",
        version="v",
        seed=1,
        state=TaskState.RUNNING,
        created_at=now,
        attempt=1,
        worker_id="w1",
        started_at=now,
    )
    ended = msgspec.structs.replace(
        begun, state=TaskState.SUCCEEDED, finished_at=now, timings=Timings(run_s=run_s)
    )
    return event_of(begun), event_of(ended)


async def test_others_learn_the_worker_and_the_duration_of_each_change() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drain(there, here)
        begun, ended = life("t1")
        file = Event(task_id="t1", id=begun.id + 1, kind=EventKind.ARTIFACT, data={"index": 0})
        here.publish([begun, file, ended])
        messages = await news_until(there, lambda got: any(each.events for each in got))
        (changes,) = [each.events for each in messages if each.events]
        assert [each.kind for each in changes] == [EventKind.STARTED, EventKind.SUCCEEDED]
        assert [each.task for each in changes] == [None, None]
        assert [each.summary for each in changes] == [
            TaskSummary("demo/upper", 1, "w1"),
            TaskSummary("demo/upper", 1, "w1", 1, 0.25, 0.25, "v"),
        ]
        kinds = [each.kind for each in there.history("t1")]
        assert kinds == [EventKind.STARTED, EventKind.ARTIFACT, EventKind.SUCCEEDED]


async def test_events_reach_others_after_the_end_of_the_bus() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        here.end()
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        here.publish([terminal()])
        assert await elsewhere.next(PATIENCE_S) is not None


async def test_a_process_that_was_silent_and_comes_back_has_missed_events() -> None:
    class Mute(BenchWire):
        is_mute = False

        async def send(self, data: bytes) -> None:
            if not self.is_mute:
                await super().send(data)

    bench, clock = Bench(), ManualClock()
    wire = Mute(bench)
    # Whose own clock stands still finds nobody silent.
    here, there = WiredBus(bench.wire(), clock), WiredBus(wire, ManualClock())
    async with closing(here, there):
        await here.open()
        await there.open()
        await until(lambda: bool(here._peers and there._peers))
        wire.is_mute = True
        await drain(there, here)
        for _ in range(int(LOST_S / HEARTBEAT_S) + 2):
            clock.advance(HEARTBEAT_S)
            for _ in range(5):
                await asyncio.sleep(0)
        assert not here._peers
        here.publish([terminal()])
        wire.is_mute = False
        there._send_heartbeat()
        await news_until(there, lambda got: PeerMessage(kind=MessageKind.MISSED) in got)


# ---- NATS


async def nats_bus(url: str) -> WiredBus:
    return await WiredBus(NatsWire(url), SystemClock()).open()


class TestNatsBus(BusConformance):
    @pytest.fixture
    async def bus(self, nats_server: NatsServer) -> AsyncIterator[MemoryBus]:
        bus = await nats_bus(f"{nats_server.url}/{uuid.uuid4().hex}")
        async with closing(bus):
            yield bus


class TestPairOverNats(BusPairConformance):
    @pytest.fixture
    async def pair(self, nats_server: NatsServer) -> AsyncIterator[tuple[MemoryBus, MemoryBus]]:
        url = f"{nats_server.url}/{uuid.uuid4().hex}"
        buses = await nats_bus(url), await nats_bus(url)
        async with closing(*buses):
            yield buses

    @pytest.fixture
    def lose(self, nats_server: NatsServer) -> Callable[[], Awaitable[None]]:
        async def lose() -> None:
            await asyncio.to_thread(nats_server.kill)
            await asyncio.to_thread(nats_server.start)

        return lose


@pytest.mark.server
async def test_without_nats_the_bus_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = NatsServer(tmp_path)
    monkeypatch.setattr(nats_connection, "CONNECT_S", 0.5)
    with pytest.raises(Unavailable, match=r"start it, or correct bus\.url"):
        await nats_bus(server.url)


@pytest.mark.server
async def test_a_bus_is_let_in_by_a_password_with_marks_and_told_of_a_wrong_one(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path / "nats")
    *command, option, config = server.command()
    given = Path(config)
    assert option == "-c"
    with given.open("a") as more:
        more.write('authorization { user: "u", password: "p@/%#" }\n')
    process = await asyncio.create_subprocess_exec(*command, option, config)
    try:
        async with asyncio.timeout(30):
            while not server.answers():
                await asyncio.sleep(0.02)
        place = server.url.removeprefix("nats://")
        bus = await nats_bus(f"nats://u:p%40%2F%25%23@{place}/x")
        await bus.close()
        with pytest.raises(Unavailable, match="Authorization Violation") as refused:
            await nats_bus(f"nats://u:hidden@{place}/x")
        assert "hidden" not in str(refused.value)
    finally:
        process.terminate()
        await process.wait()


# ---- PostgreSQL


async def postgres_bus(url: str) -> WiredBus:
    clock = SystemClock()
    return await WiredBus(NotifyChannel(url), clock).open()


@pytest.fixture
async def database(postgres_server: PostgresServer) -> str:
    name = f"bus_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_server.url_of(name)


class TestPostgresBus(BusConformance):
    @pytest.fixture
    async def bus(self, database: str) -> AsyncIterator[MemoryBus]:
        bus = await postgres_bus(database)
        async with closing(bus):
            yield bus


class TestPairOverPostgres(BusPairConformance):
    @pytest.fixture
    async def pair(self, database: str) -> AsyncIterator[tuple[MemoryBus, MemoryBus]]:
        buses = await postgres_bus(database), await postgres_bus(database)
        async with closing(*buses):
            yield buses

    @pytest.fixture
    def lose(self, database: str) -> Callable[[], Awaitable[None]]:
        async def lose() -> None:
            connection = await asyncpg.connect(database)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'swell bus'"
            )
            await connection.close()

        return lose


async def test_without_postgresql_the_bus_says_what_to_do() -> None:
    server = PostgresServer()
    with pytest.raises(Unavailable, match=r"start it, or correct bus\.url"):
        await postgres_bus(server.url)


def test_an_address_of_postgresql_that_cannot_be_read_is_not_told() -> None:
    with pytest.raises(InvalidRequest, match=r"bus\.url cannot be read") as refused:
        NotifyChannel("postgresql://odd:hidden#x@127.0.0.1/db")
    assert "hidden" not in str(refused.value)
