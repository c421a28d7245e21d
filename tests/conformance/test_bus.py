import sys

import pytest

from swell.buses.memory import MemoryBus
from swell.clock import ManualClock
from swell.events import TERMINAL_ID, Event, EventKind
from swell.testing.bus import BusConformance, progress, terminal


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
