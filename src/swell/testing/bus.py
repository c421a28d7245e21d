"""What every bus must do. Subclass in a test and give a `bus` fixture."""

import asyncio

from swell.bus import Bus
from swell.events import ATTEMPT_STRIDE, TERMINAL_ID, Event, EventKind

__all__ = ["BusConformance", "progress", "terminal"]

#: Longest wait for something that must come, in seconds.
PATIENCE_S = 5.0


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
    """The guarantees of `swell.bus`, as tests over a `bus` fixture."""

    async def test_a_listener_gets_what_is_published_after_it_came(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        await bus.publish([progress(1), progress(2)])
        assert await listener.next(PATIENCE_S) == progress(1)
        assert await listener.next(PATIENCE_S) == progress(2)

    async def test_a_waiting_listener_is_woken(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = asyncio.ensure_future(listener.next())
        await asyncio.sleep(0)
        await bus.publish([progress(1)])
        assert await asyncio.wait_for(waiting, PATIENCE_S) == progress(1)

    async def test_a_listener_gets_nothing_of_other_tasks(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        await bus.publish([progress(1, task_id="t2"), progress(2)])
        assert await listener.next(PATIENCE_S) == progress(2)

    async def test_every_listener_of_a_task_gets_each_event(self, bus: Bus) -> None:
        listeners = [bus.subscribe("t1") for _ in range(50)]
        await bus.publish([progress(1)])
        events = [await listener.next(PATIENCE_S) for listener in listeners]
        assert events == [progress(1)] * 50

    async def test_a_late_listener_gets_what_is_remembered(self, bus: Bus) -> None:
        await bus.publish([progress(1), terminal()])
        listener = bus.subscribe("t1")
        assert await listener.next(PATIENCE_S) == progress(1)
        assert await listener.next(PATIENCE_S) == terminal()

    async def test_a_returning_listener_gets_only_what_came_after(self, bus: Bus) -> None:
        await bus.publish([progress(1), progress(2), progress(3)])
        listener = bus.subscribe("t1", after=progress(2).id)
        assert await listener.next(PATIENCE_S) == progress(3)
        assert await listener.next(0) is None

    async def test_an_event_that_is_not_newer_is_not_told(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        await bus.publish([progress(1, attempt=2), progress(5, attempt=1), progress(1, attempt=2)])
        assert await listener.next(PATIENCE_S) == progress(1, attempt=2)
        assert await listener.next(0) is None

    async def test_without_an_event_the_wait_ends_with_none(self, bus: Bus) -> None:
        assert await bus.subscribe("t1").next(0.01) is None

    async def test_a_wait_that_was_given_up_loses_nothing(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        waiting = asyncio.ensure_future(listener.next())
        await asyncio.sleep(0)
        await bus.publish([progress(1)])
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
            await bus.publish([progress(place)])
        await bus.publish([terminal()])
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
        await bus.publish([terminal()])
        await bus.publish([progress(7)])
        assert await listener.next(PATIENCE_S) == terminal()
        assert await listener.next(0.01) is None

    async def test_a_closed_listener_gets_nothing(self, bus: Bus) -> None:
        listener = bus.subscribe("t1")
        listener.close()
        listener.close()
        await bus.publish([progress(1)])
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
