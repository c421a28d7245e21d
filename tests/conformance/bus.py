"""What every bus must do. Subclass in a test and give the fixtures that a suite names."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial

from swell.core.errors import Unavailable
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import ATTEMPT_STRIDE, TERMINAL_ID, Event, EventKind, TaskSummary
from swell.pubsub.local_bus import MemoryBus as Bus
from swell.pubsub.local_bus import MemorySubscription as Subscription

#: Longest wait for something that must come, in seconds.
PATIENCE_S = 30.0

_probes = itertools.count()


def progress(place: int, *, task_id: str = "t1", attempt: int = 1) -> Event:
    """Return the progress event number `place` of an attempt."""
    return Event(
        task_id=task_id,
        id=attempt * ATTEMPT_STRIDE + place,
        kind=EventKind.PROGRESS,
        data={"step": place},
    )


def terminal(*, task_id: str = "t1") -> Event:
    """Return the last event of a task."""
    return Event(task_id=task_id, id=TERMINAL_ID, kind=EventKind.SUCCEEDED)


class BusConformance:
    """The guarantees of `swell.core.event_bus`, as tests over a `bus` fixture."""

    async def test_a_listener_gets_what_is_published_after_it_came(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        bus.publish([progress(1), progress(2)])
        assert await listener.next(PATIENCE_S) == progress(1)
        assert await listener.next(PATIENCE_S) == progress(2)

    async def test_a_waiting_listener_is_woken(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = asyncio.ensure_future(listener.next())
        await asyncio.sleep(0)
        bus.publish([progress(1)])
        assert await asyncio.wait_for(waiting, PATIENCE_S) == progress(1)

    async def test_a_listener_gets_nothing_of_other_tasks(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        bus.publish([progress(1, task_id="t2"), progress(2)])
        assert await listener.next(PATIENCE_S) == progress(2)

    async def test_every_listener_of_a_task_gets_each_event(self, bus: Bus) -> None:
        listeners = [bus.subscribe("t1") for _ in range(50)]
        bus.publish([progress(1)])
        events = [await listener.next(PATIENCE_S) for listener in listeners]
        assert events == [progress(1)] * 50

    async def test_a_late_listener_gets_what_is_remembered(self, bus: Bus) -> None:
        bus.publish([progress(1), terminal()])
        listener = bus.subscribe("t1")
        assert await listener.next(PATIENCE_S) == progress(1)
        assert await listener.next(PATIENCE_S) == terminal()

    async def test_a_returning_listener_gets_only_what_came_after(self, bus: Bus) -> None:
        bus.publish([progress(1), progress(2), progress(3)])
        listener = bus.subscribe("t1", after=progress(2).id)
        assert await listener.next(PATIENCE_S) == progress(3)
        assert await listener.next(0) is None

    async def test_an_event_that_is_not_newer_is_not_told(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        bus.publish([progress(1, attempt=2), progress(5, attempt=1), progress(1, attempt=2)])
        assert await listener.next(PATIENCE_S) == progress(1, attempt=2)
        assert await listener.next(0) is None

    async def test_without_an_event_the_wait_ends_with_none(self, bus: Bus) -> None:
        assert await bus.subscribe("t1").next(0.01) is None

    async def test_a_wait_that_was_given_up_loses_nothing(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = asyncio.ensure_future(listener.next())
        await asyncio.sleep(0)
        bus.publish([progress(1)])
        waiting.cancel()
        await asyncio.wait([waiting])
        if waiting.cancelled():
            assert await listener.next(PATIENCE_S) == progress(1)
        else:
            assert waiting.result() == progress(1)

    async def test_a_slow_reader_loses_old_progress_but_never_the_end(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        places = range(1, 2001)
        for place in places:
            bus.publish([progress(place)])
        bus.publish([terminal()])
        got: list[Event] = []
        while not got or not got[-1].is_terminal:
            event = await listener.next(PATIENCE_S)
            assert event is not None
            got.append(event)
        ids = [event.id for event in got]
        assert ids == sorted(set(ids))
        assert progress(places[-1]).id in ids, "the newest progress is the one to keep"

    async def test_nothing_follows_the_end(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        bus.publish([terminal()])
        bus.publish([progress(7)])
        assert await listener.next(PATIENCE_S) == terminal()
        assert await listener.next(0.01) is None

    async def test_a_closed_listener_gets_nothing(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        listener.close()
        listener.close()
        bus.publish([progress(1)])
        assert await listener.next(0) is None

    async def test_closing_the_bus_ends_every_wait(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = asyncio.ensure_future(listener.next())
        await asyncio.sleep(0)
        await bus.close()
        assert await asyncio.wait_for(waiting, PATIENCE_S) is None

    async def test_a_task_is_watched_while_somebody_listens_to_its_progress(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = bus.subscribe("t2", after=TERMINAL_ID - 1)
        assert "t1" in bus.watched(["t1", "t2", "t3"])
        listener.close()
        # Whoever waits for the end alone, or does not listen, need not be told; a bus may not know.
        assert bus.watched([]) == []
        waiting.close()

    async def test_after_the_end_nobody_is_kept_waiting(self, bus: Bus) -> None:
        bus.end()
        bus.end()
        assert await asyncio.wait_for(bus.subscribe("t1").next(), PATIENCE_S) is None
        assert await asyncio.wait_for(bus.receive(), PATIENCE_S) == []

    async def test_what_is_listened_to_is_known_and_can_be_corrected(self, bus: Bus) -> None:
        listener, waiting = bus.subscribe("t1"), bus.subscribe("t2", after=TERMINAL_ID - 1)
        assert sorted(bus.subscribed()) == ["t1", "t2"]
        bus.publish_local([progress(1), terminal(task_id="t2")])
        assert await listener.next(PATIENCE_S) == progress(1)
        assert await waiting.next(PATIENCE_S) == terminal(task_id="t2")
        listener.close()
        waiting.close()
        assert bus.subscribed() == []


class BusPairConformance:
    """What two processes on one server can rely on.

    Fixtures: `pair`, two open buses; `lose`, which takes the connections of both away and lets them
    come back.
    """

    async def test_what_one_publishes_reaches_listeners_of_the_other_in_order(
        self, pair: tuple[Bus, Bus]
    ) -> None:
        here, there = pair
        await meet(here, there)
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        sent = [started(), *(progress(place) for place in range(1, 30)), terminal()]
        for event in sent:
            here.publish([event])
        assert [plain(each) for each in await read_to_end(listener)] == sent

    async def test_both_ways_at_once(self, pair: tuple[Bus, Bus]) -> None:
        await meet(*pair)
        listeners = {}
        for n, bus in enumerate(pair):
            for k in range(200):
                listeners[n, k] = bus.subscribe(f"{n}-{k}", after=TERMINAL_ID - 1)
        for k in range(200):
            pair[0].publish([terminal(task_id=f"1-{k}")])
            pair[1].publish([terminal(task_id=f"0-{k}")])
        for (n, k), listener in listeners.items():
            event = await listener.next(PATIENCE_S)
            assert event is not None
            assert event.task_id == f"{n}-{k}"
            assert event.is_terminal

    async def test_a_large_preview_arrives_whole(self, pair: tuple[Bus, Bus]) -> None:
        here, there = pair
        await meet(here, there)
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        image = "data:image/webp;base64," + "größer→" * 20_000
        preview = Event(
            task_id="t1", id=ATTEMPT_STRIDE + 1, kind=EventKind.PREVIEW, data={"image": image}
        )
        here.publish([preview, terminal()])
        assert [plain(each) for each in await read_to_end(listener)] == [preview, terminal()]

    async def test_files_are_remembered_in_every_process(self, pair: tuple[Bus, Bus]) -> None:
        here, there = pair
        await meet(here, there)
        told = [
            Event(task_id="t1", id=ATTEMPT_STRIDE + n, kind=EventKind.ARTIFACT, data={"index": n})
            for n in range(1, 101)
        ]
        here.publish([*told, progress(101)])
        for bus in pair:
            await until(partial(_has_all, bus))
            found = [each for each in bus.history("t1") if each.kind is EventKind.ARTIFACT]
            assert [plain(each) for each in found] == told
        late = list(there.history("t1", after=ATTEMPT_STRIDE + 98))
        assert [each.id - ATTEMPT_STRIDE for each in late if each.kind is EventKind.ARTIFACT] == [
            *(99, 100)
        ]

    async def test_a_file_told_again_is_remembered_once_in_its_place_everywhere(
        self, pair: tuple[Bus, Bus]
    ) -> None:
        here, there = pair
        await meet(here, there)
        files = [
            Event(task_id="t1", id=ATTEMPT_STRIDE + n, kind=EventKind.ARTIFACT, data={"index": n})
            for n in range(4)
        ]
        here.publish_local(files[:2])
        here.publish([files[3]])
        listener = there.subscribe("t1", after=files[0].id)
        await until(lambda: here.watched(["t1"]) == ["t1"])
        here.publish([*files, progress(101)])
        for bus in pair:
            await until(partial(_has_more, bus, files[-1].id))
            found = [each for each in bus.history("t1") if each.kind is EventKind.ARTIFACT]
            assert [plain(each) for each in found] == files
        heard = [await listener.next(PATIENCE_S) for _ in range(2)]
        assert [each and each.id for each in heard] == [files[3].id, ATTEMPT_STRIDE + 101]
        here.publish([terminal()])
        await until(lambda: there.history("t1")[-1].is_terminal)
        there.publish_local([files[2], *files])
        assert there.history("t1")[-1].is_terminal

    async def test_progress_is_wanted_only_while_somebody_listens_anywhere(
        self, pair: tuple[Bus, Bus]
    ) -> None:
        here, there = pair
        await meet(here, there)
        listener = there.subscribe("t1")
        waiting = there.subscribe("t2", after=TERMINAL_ID - 1)
        await until(lambda: here.watched(["t1", "t2"]) == ["t1"])
        listener.close()
        await until(lambda: here.watched(["t1", "t2"]) == [])
        waiting.close()

    async def test_who_listened_before_the_other_came_is_known(self, pair: tuple[Bus, Bus]) -> None:
        here, there = pair
        listener = there.subscribe("t1")
        await until(lambda: here.watched(["t1"]) == ["t1"])
        listener.close()

    async def test_changes_of_tasks_and_other_news_reach_the_other(
        self, pair: tuple[Bus, Bus]
    ) -> None:
        here, there = pair
        await meet(here, there)
        brief = TaskSummary("demo/upper", 2, "w1", 3, 0.5, 0.75)
        event = Event(task_id="t1", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=brief)
        stop = PeerMessage(kind=MessageKind.STOP, ids=("t2",))
        here.publish([event])
        await here.broadcast([stop])
        got = await news_until(there, lambda news: stop in news)
        assert PeerMessage(kind=MessageKind.TASKS, events=(event,)) in got
        assert stop in got

    async def test_after_a_lost_connection_both_are_told_and_go_on(
        self, pair: tuple[Bus, Bus], lose: Callable[[], Awaitable[None]]
    ) -> None:
        here, there = pair
        await meet(here, there)
        local, remote = here.subscribe("t1"), there.subscribe("t2")
        await lose()
        here.publish([progress(1)])
        assert await local.next(PATIENCE_S) == progress(1), "local delivery needs no server"
        for bus in pair:
            await news_until(bus, lambda news: PeerMessage(kind=MessageKind.MISSED) in news)
        await meet(here, there)
        here.publish([terminal(task_id="t2")])
        assert [plain(e) for e in await read_to_end(remote)] == [terminal(task_id="t2")]

    async def test_what_is_published_after_the_end_still_reaches_the_other(
        self, pair: tuple[Bus, Bus]
    ) -> None:
        here, there = pair
        await meet(here, there)
        listener = there.subscribe("t1", after=TERMINAL_ID - 1)
        here.end()
        here.publish([terminal()])
        await here.close()
        event = await listener.next(PATIENCE_S)
        assert event is not None
        assert plain(event) == terminal()


def started(*, task_id: str = "t1", attempt: int = 1) -> Event:
    """Return the first event of an attempt."""
    return Event(task_id=task_id, id=attempt * ATTEMPT_STRIDE, kind=EventKind.STARTED)


def plain(event: Event) -> Event:
    """Return an event without what only other backends need."""
    return Event(task_id=event.task_id, id=event.id, kind=event.kind, data=event.data)


async def read_to_end(listener: Subscription) -> list[Event]:
    """Return all events up to the terminal one."""
    got: list[Event] = []
    while not got or not got[-1].is_terminal:
        event = await listener.next(PATIENCE_S)
        assert event is not None, f"the end did not come after {got}"
        got.append(event)
    return got


def _has_all(bus: Bus) -> bool:
    return len(bus.history("t1", after=ATTEMPT_STRIDE)) >= 100


def _has_more(bus: Bus, after: int) -> bool:
    return bool(bus.history("t1", after=after))


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def meet(*buses: Bus) -> None:
    """Wait until each of these buses knows what is listened to at all others."""
    # Of names that were never used, for what is listened to no longer is told only with a beat.
    names = [f"probe-{next(_probes)}" for _ in buses]
    probes = [bus.subscribe(name) for bus, name in zip(buses, names, strict=True)]
    for bus in buses:
        await until(lambda bus=bus: bus.watched(names) == names)  # type: ignore[misc]
    for probe in probes:
        probe.close()


async def news_until(bus: Bus, holds: Callable[[list[PeerMessage]], bool]) -> list[PeerMessage]:
    """Return all news up to those that were waited for."""
    got: list[PeerMessage] = []
    async with asyncio.timeout(PATIENCE_S):
        while not holds(got):
            got += await bus.receive()
    return got


async def drain(bus: Bus, other: Bus) -> list[PeerMessage]:
    """Read all that a bus has got, up to a message that the other sends now."""
    marker = PeerMessage(kind=MessageKind.STOP, ids=(f"marker-{next(_probes)}",))
    await other.broadcast([marker])
    return await news_until(bus, lambda news: marker in news)


class Bench:
    """A server between wires, in memory: for tests of what needs several processes."""

    def __init__(self) -> None:
        self._wires: list[BenchWire] = []
        self.is_up = True

    def wire(self) -> "BenchWire":
        """Return a new wire to it."""
        return BenchWire(self)

    def join(self, wire: "BenchWire") -> None:
        """Connect a wire."""
        self._wires.append(wire)

    def leave(self, wire: "BenchWire") -> None:
        """Disconnect a wire."""
        if wire in self._wires:
            self._wires.remove(wire)

    def carry(self, sender: "BenchWire", data: bytes) -> None:
        """Bring a message to all other wires.

        Raises:
            Unavailable: It is down, or the sender has left.
        """
        if not self.is_up or sender not in self._wires:
            raise Unavailable("there is no connection to the bench")
        for wire in self._wires:
            if wire is not sender:
                wire.receive(data)

    def come_back(self) -> None:
        """Be up again, and inform all wires."""
        self.is_up = True
        for wire in self._wires:
            wire.reconnected()


class BenchWire:
    """A wire to a bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.receive: Callable[[bytes], None] = lambda data: None
        self.reconnected: Callable[[], None] = lambda: None

    async def open(self, receive: Callable[[bytes], None], reconnected: Callable[[], None]) -> None:
        """Connect."""
        self.receive, self.reconnected = receive, reconnected
        self._bench.join(self)

    async def send(self, data: bytes) -> None:
        """Send, one turn of the loop later, as a server would."""
        await asyncio.sleep(0)
        self._bench.carry(self, data)

    async def close(self) -> None:
        """Disconnect."""
        self._bench.leave(self)
