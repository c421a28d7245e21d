import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from conformance.bus import (
    Bench,
    BenchWire,
    BusConformance,
    BusPairConformance,
    meet,
    news_until,
    progress,
    terminal,
    until,
)
from servers import NatsServer, PostgresServer
from swell.bus import Bus, News, NewsKind
from swell.buses import nats
from swell.buses.memory import MemoryBus
from swell.buses.nats import NatsBus
from swell.buses.postgres import PostgresBus, PostgresWire
from swell.buses.wired import BEAT_S, LATER_S, LOST_S, PAUSE_S, WiredBus
from swell.clock import Clock, ManualClock, SystemClock
from swell.errors import InvalidRequest, Unavailable
from swell.events import TERMINAL_ID, Event, EventKind, Lives, event_of
from swell.task import Task, TaskState, Timings


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
        await bus.publish([progress(1), terminal()])
        clock.advance(9)
        assert await bus.subscribe("t1").next(0) == progress(1)
        clock.advance(2)
        assert await bus.subscribe("t1").next(0) is None

    async def test_memory_of_tasks_that_never_end_is_bounded(self, clock: ManualClock) -> None:
        bus = MemoryBus(clock, remembered_tasks=10)
        for number in range(100):
            await bus.publish([progress(1, task_id=str(number))])
        kept = [n for n in range(100) if await bus.subscribe(str(n)).next(0) is not None]
        assert kept == list(range(90, 100))

    async def test_memory_of_one_task_keeps_state_changes_over_progress(
        self, clock: ManualClock
    ) -> None:
        bus = MemoryBus(clock, remembered_per_task=3)
        started = Event(task_id="t1", id=1_000_000, kind=EventKind.STARTED)
        await bus.publish([started, *(progress(place) for place in range(1, 50))])
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
    async def bus(self) -> AsyncIterator[Bus]:
        bus = WiredBus(Bench().wire(), SystemClock())
        await bus.open()
        async with closing(bus):
            yield bus


class TestPairOnABench(BusPairConformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return Bench()

    @pytest.fixture
    async def pair(self, bench: Bench) -> AsyncIterator[tuple[Bus, Bus]]:
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

    async def send(self, messages: list[bytes]) -> None:  # type: ignore[override]
        if self.losses:
            self.losses -= 1
            return
        await super().send(messages)


async def test_one_lost_message_shows_with_the_next() -> None:
    bench, clock = Bench(), SystemClock()
    wire = Lossy(bench)
    here, there = WiredBus(wire, clock), WiredBus(bench.wire(), clock)
    await here.open()
    await there.open()
    async with closing(here, there):
        await meet(here, there)
        await drained(there)
        wire.losses = 1
        await here.publish([terminal()])
        await until(lambda: wire.losses == 0)
        listener = there.subscribe("t2", after=TERMINAL_ID - 1)
        await here.publish([terminal(task_id="t2")])
        await news_until(there, lambda news: News(kind=NewsKind.MISSED) in news)
        assert await listener.next(5) is not None


async def test_one_lost_message_shows_with_the_farewell() -> None:
    bench, clock = Bench(), SystemClock()
    wire = Lossy(bench)
    here, there = WiredBus(wire, clock), WiredBus(bench.wire(), clock)
    await here.open()
    await there.open()
    async with closing(here, there):
        await meet(here, there)
        await drained(there)
        wire.losses = 1
        await here.publish([terminal()])
        await until(lambda: wire.losses == 0)
        await here.close()
        await news_until(there, lambda news: News(kind=NewsKind.MISSED) in news)


async def test_a_process_that_falls_silent_counts_as_something_missed() -> None:
    bench, clock = Bench(), ManualClock()
    async with two_on(bench, clock) as (here, there):
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        await drained(here)
        # Like SIGKILL: no further message, not even a farewell.
        for wire in list(bench._wires):
            if wire is there._wire:
                bench.leave(wire)
        waiting = asyncio.ensure_future(here.news())
        for _ in range(int(LOST_S / BEAT_S) + 2):
            clock.advance(BEAT_S)
            for _ in range(5):
                await asyncio.sleep(0)
        assert News(kind=NewsKind.MISSED) in await asyncio.wait_for(waiting, 5)
        assert here.watched(["t1"]) == []
        listener.close()


async def test_alone_nothing_but_the_beat_is_sent() -> None:
    sent: list[bytes] = []

    class Heard(BenchWire):
        async def send(self, messages: list[bytes]) -> None:  # type: ignore[override]
            sent.extend(messages)

    bus = WiredBus(Heard(Bench()), SystemClock())
    await bus.open()
    async with closing(bus):
        await until(lambda: len(sent) == 1)
        for place in range(1, 100):
            await bus.publish([progress(place)])
        await bus.publish([terminal()])
        await bus.tell([News(kind=NewsKind.KEYS)])
        await asyncio.sleep(0)
        assert len(sent) == 1


async def test_what_comes_while_much_is_told_goes_together() -> None:
    clock = SystemClock()
    async with two_on(Bench(), clock) as (here, there):
        await meet(here, there)
        await asyncio.sleep(2 * PAUSE_S)
        before = here._number
        listener = there.subscribe("t0", after=TERMINAL_ID - 1)
        began_s = clock.monotonic_s()
        for number in range(300):
            await here.publish([terminal(task_id=f"t{number}")])
            await asyncio.sleep(0)
        took_s = clock.monotonic_s() - began_s
        assert await listener.next(5) is not None
        last = there.subscribe("t299", after=TERMINAL_ID - 1)
        assert await last.next(5) is not None
        # The beat is one more message.
        assert here._number - before <= took_s / PAUSE_S + 4


async def test_however_much_is_told_others_hear_what_is_watched_no_longer() -> None:
    clock = ManualClock()
    async with two_on(Bench(), clock) as (here, there):
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        listener.close()
        # A message is always waiting when the beat comes.
        await there.publish([terminal(task_id="t2")])
        assert there._sender is not None
        clock.advance(BEAT_S)
        async with asyncio.timeout(5):
            while here.watched(["t1"]):
                await there.publish([terminal(task_id="t2")])
                await asyncio.sleep(0)


async def test_who_listens_and_goes_before_others_heard_of_it_watches_nothing() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        there.subscribe("t1").close()
        there._note_unwatched()
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        listener.close()
        there._note_unwatched()
        there._send_soon()
        await until(lambda: here.watched(["t1"]) == [])


async def test_what_is_waited_for_here_is_told_others_later_and_together() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await asyncio.sleep(2 * PAUSE_S)
        waiting = here.subscribe("t1", after=TERMINAL_ID - 1)
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        await here.publish([terminal()])
        assert await waiting.next(0) is not None
        assert here._later is not None
        assert await elsewhere.next(0) is None
        assert await elsewhere.next(5) is not None


async def test_what_is_waited_for_here_is_told_at_once_where_it_is_watched_elsewhere() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await asyncio.sleep(2 * PAUSE_S)
        waiting = here.subscribe("t1", after=TERMINAL_ID - 1)
        await here.publish([terminal()])
        assert here._later is not None, "nobody else was known to listen"
        # Cancelled, so the deferred message cannot be the cause of the next one.
        here._later.cancel()
        watching = there.subscribe("t1")
        assert await watching.next(5) is not None
        waiting.close()
        watching.close()


async def test_what_was_to_be_told_later_is_told_before_the_farewell() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        here.subscribe("t1", after=TERMINAL_ID - 1)
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        await here.publish([terminal()])
        await here.close()
        assert await elsewhere.next(5) is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                assert News(kind=NewsKind.MISSED) not in await there.news()


def life(task_id: str, *, run_s: float = 0.25, attempt: int = 1) -> tuple[Event, Event]:
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
        attempt=attempt,
        worker_id="w1",
        started_at=now,
    )
    ended = msgspec.structs.replace(
        begun, state=TaskState.SUCCEEDED, finished_at=now, timings=Timings(run_s=run_s)
    )
    return event_of(begun), event_of(ended)


async def changes(bus: Bus, are_there: Callable[[list[Event], list[Lives]], bool]) -> Any:
    """Read news until it contains these task changes; return all of it."""
    events: list[Event] = []
    lives: list[Lives] = []
    async with asyncio.timeout(5):
        while not are_there(events, lives):
            for each in await bus.news():
                events += each.events
                lives += each.lives
    return events, lives


async def test_what_begins_and_ends_between_two_messages_is_told_together() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        lives = [life(f"t{number}", run_s=(number + 1) / 8) for number in range(3)]
        waiting = [here.subscribe(f"t{n}", after=TERMINAL_ID - 1) for n in range(3)]
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        await here.publish([begun for begun, _ in lives])
        await here.publish([ended for _, ended in lives])
        assert [await each.next(0) for each in waiting] == [ended for _, ended in lives]
        heard = await elsewhere.next(5)
        assert heard is not None
        assert (heard.kind, heard.task_id) == (EventKind.SUCCEEDED, "t1")
        events, told = await changes(there, lambda _, lives: bool(lives))
        assert events == []
        assert told == [
            Lives(
                EventKind.SUCCEEDED,
                "demo/upper",
                "v",
                "w1",
                1,
                ["t0", "t1", "t2"],
                [0.125, 0.25, 0.375],
                [0.125, 0.25, 0.375],
            )
        ]


async def test_who_listens_just_after_an_end_was_told_hears_of_it_and_not_much_later() -> None:
    clock = ManualClock()
    async with two_on(Bench(), SystemClock(), clock) as (here, there):
        await meet(here, there)
        await drained(there)
        lives = [life(f"t{number}") for number in range(2)]
        waiting = [here.subscribe(f"t{n}", after=TERMINAL_ID - 1) for n in range(2)]
        await here.publish([begun for begun, _ in lives])
        await here.publish([ended for _, ended in lives])
        assert [await each.next(0) for each in waiting] == [ended for _, ended in lives]
        await changes(there, lambda _, lives: bool(lives))
        heard = await there.subscribe("t0", after=TERMINAL_ID - 1).next(0)
        assert heard is not None
        assert (heard.kind, heard.is_terminal) == (EventKind.SUCCEEDED, True)
        assert [each.kind for each in there.remembered("t0")] == [EventKind.SUCCEEDED]
        assert there.remembered("t0", after=TERMINAL_ID) == []
        clock.advance(60)
        assert await there.subscribe("t1", after=TERMINAL_ID - 1).next(0) is None
        await there.publish([life("t2")[1]])
        assert there.remembered("t1") == []


async def test_what_takes_longer_is_told_when_it_begins_and_when_it_ends() -> None:
    clock = SystemClock()
    async with two_on(Bench(), clock) as (here, there):
        await meet(here, there)
        await drained(there)
        begun, ended = life("t1")
        began_s = clock.monotonic_s()
        await here.publish([begun])
        events, _ = await changes(there, lambda events, _: bool(events))
        assert (events[0].kind, events[0].brief.worker_id) == (EventKind.STARTED, "w1")
        assert clock.monotonic_s() - began_s >= LATER_S / 2
        await here.publish([ended])
        events, lives = await changes(there, lambda events, _: bool(events))
        assert ([each.kind for each in events], lives) == ([EventKind.SUCCEEDED], [])


async def test_what_somebody_elsewhere_follows_is_told_one_by_one() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        early, late = life("t1"), life("t2")
        following = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        await here.publish([early[0], late[0]])
        # A task that is followed only now gets its start event too.
        joining = there.subscribe("t2")
        await until(lambda: here.watched(["t2"]) == ["t2"])
        await here.publish([early[1], late[1]])
        for listener in (following, joining):
            heard = [await listener.next(5), await listener.next(5)]
            assert [each and each.kind for each in heard] == ["started", "succeeded"]


async def test_a_file_between_start_and_end_keeps_their_order() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        begun, ended = life("t1")
        file = Event(task_id="t1", id=begun.id + 1, kind=EventKind.ARTIFACT, data={"index": 0})
        await here.publish([begun])
        await here.publish([file, ended])
        await changes(there, lambda events, _: len(events) == 2)
        kinds = [each.kind for each in there.remembered("t1")]
        assert kinds == [EventKind.STARTED, EventKind.ARTIFACT, EventKind.SUCCEEDED]


async def test_another_attempt_is_no_part_of_the_one_that_began() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        await here.publish([life("t1")[0], life("t1", attempt=2)[1]])
        events, lives = await changes(there, lambda events, _: len(events) == 2)
        assert [each.brief.attempt for each in events] == [1, 2]
        assert lives == []


async def test_a_start_is_not_told_once_another_has_told_the_end() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        elsewhere = here.subscribe("t1", after=TERMINAL_ID - 1)
        first, second = life("t1"), life("t2")
        await here.publish([first[0]])
        # Independent of how long the other one takes.
        assert here._later is not None
        here._later.cancel()
        await there.publish([first[1]])
        assert await elsewhere.next(5) is not None
        await here.publish([second[0]])
        await here.close()
        events, _ = await changes(there, lambda events, _: bool(events))
        assert [each.task_id for each in events] == ["t2"]


async def test_one_that_ends_tells_what_happens_however_long_it_takes() -> None:
    clock = ManualClock()
    async with two_on(Bench(), clock) as (here, there):
        await until(lambda: bool(here._peers and there._peers))
        here.end()
        for _ in range(int(LOST_S / BEAT_S) + 2):
            clock.advance(BEAT_S)
            for _ in range(5):
                await asyncio.sleep(0)
        elsewhere = there.subscribe("t1", after=TERMINAL_ID - 1)
        await here.publish([terminal()])
        assert await elsewhere.next(5) is not None


async def test_who_was_silent_and_comes_back_has_missed_what_was_told_to_nobody() -> None:
    class Mute(BenchWire):
        is_mute = False

        async def send(self, messages: Sequence[bytes]) -> None:
            if not self.is_mute:
                await super().send(messages)

    bench, clock = Bench(), ManualClock()
    wire = Mute(bench)
    here, there = WiredBus(bench.wire(), clock), WiredBus(wire, SystemClock())
    async with closing(here, there):
        await here.open()
        await there.open()
        await until(lambda: bool(here._peers and there._peers))
        wire.is_mute = True
        await drained(there)
        for _ in range(int(LOST_S / BEAT_S) + 2):
            clock.advance(BEAT_S)
            for _ in range(5):
                await asyncio.sleep(0)
        assert not here._peers
        await here.publish([terminal()])
        wire.is_mute = False
        there._send_soon()
        # Before it would consider the other process, with a stopped clock, silent.
        async with asyncio.timeout(LOST_S / 2):
            await news_until(there, lambda news: News(kind=NewsKind.MISSED) in news)


async def test_starts_that_wait_are_told_before_the_farewell() -> None:
    async with two_on(Bench(), SystemClock()) as (here, there):
        await meet(here, there)
        await drained(there)
        begun, _ = life("t1")
        await here.publish([begun])
        await here.close()
        events, _ = await changes(there, lambda events, _: bool(events))
        assert [each.task_id for each in events] == ["t1"]


async def drained(bus: Bus) -> None:
    """Read the available news without waiting."""
    while True:
        try:
            async with asyncio.timeout(0.05):
                await bus.news()
        except TimeoutError:
            return


# ---- NATS


async def nats_bus(server: NatsServer, name: str) -> NatsBus:
    return await NatsBus.start(f"{server.url}/{name}", SystemClock())


class TestNatsBus(BusConformance):
    @pytest.fixture
    async def bus(self, nats_server: NatsServer) -> AsyncIterator[Bus]:
        bus = await nats_bus(nats_server, uuid.uuid4().hex)
        async with closing(bus):
            yield bus


class TestPairOverNats(BusPairConformance):
    @pytest.fixture
    async def pair(self, nats_server: NatsServer) -> AsyncIterator[tuple[Bus, Bus]]:
        name = uuid.uuid4().hex
        buses = await nats_bus(nats_server, name), await nats_bus(nats_server, name)
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
    monkeypatch.setattr(nats, "_CONNECT_S", 0.5)
    with pytest.raises(Unavailable, match=r"start it, or correct bus\.url"):
        await NatsBus.start(server.url, SystemClock())


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
        bus = await NatsBus.start(f"nats://u:p%40%2F%25%23@{place}/x", SystemClock())
        await bus.close()
        with pytest.raises(Unavailable, match="Authorization Violation") as refused:
            await NatsBus.start(f"nats://u:hidden@{place}/x", SystemClock())
        assert "hidden" not in str(refused.value)
    finally:
        process.terminate()
        await process.wait()


# ---- PostgreSQL


@pytest.fixture
async def database(postgres_server: PostgresServer) -> str:
    name = f"bus_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_server.url_of(name)


class TestPostgresBus(BusConformance):
    @pytest.fixture
    async def bus(self, database: str) -> AsyncIterator[Bus]:
        bus = await PostgresBus.start(database, SystemClock())
        async with closing(bus):
            yield bus


class TestPairOverPostgres(BusPairConformance):
    @pytest.fixture
    async def pair(self, database: str) -> AsyncIterator[tuple[Bus, Bus]]:
        clock: Clock = SystemClock()
        buses = await PostgresBus.start(database, clock), await PostgresBus.start(database, clock)
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


async def test_without_postgresql_the_bus_says_what_to_do(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path)
    with pytest.raises(Unavailable, match=r"start it, or correct bus\.url"):
        await PostgresBus.start(server.url, SystemClock())


def test_an_address_of_postgresql_that_cannot_be_read_is_not_told() -> None:
    with pytest.raises(InvalidRequest, match=r"bus\.url cannot be read") as refused:
        PostgresWire("postgresql://odd:hidden#x@127.0.0.1/db", SystemClock())
    assert "hidden" not in str(refused.value)
