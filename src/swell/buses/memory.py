"""The event bus within one process.

A listener is one small object, with a future only while a reader waits, so that ten thousand open
event streams cost little. Recent events stay in a history for readers that come late or come back:
a bounded number per task and in total, and for some seconds after the end of a task.
"""

import asyncio
import bisect
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Final

from swell.bus import PeerMessage
from swell.clock import Clock
from swell.events import TERMINAL_ID, Event, EventKind

#: A slow reader loses these first: the newest one replaces the older ones.
TRANSIENT: Final = frozenset({EventKind.PROGRESS, EventKind.PREVIEW})

#: Unread events of a slow reader, without files.
_MOST_UNREAD: Final = 64

#: File events of one task in the history, and of one slow reader.
_MOST_FILES: Final = 1000

#: The history keeps events of an ended task for this long, in seconds.
_KEEP_ENDED_S: Final = 10.0


class MemorySubscription:
    """One listener. Only one call of `next` may wait at a time."""

    __slots__ = ("_bus", "_is_closed", "_last_id", "_task_id", "_unread", "_waiter")

    def __init__(self, bus: "MemoryBus", task_id: str, after: int) -> None:
        self._bus = bus
        self._task_id = task_id
        #: The largest id so far, read or unread.
        self._last_id = after
        # No list while it would be empty: most listeners wait most of the time.
        self._unread: list[Event] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def wants_progress(self) -> bool:
        """Whether the listener accepts other events than the terminal one."""
        return self._last_id < TERMINAL_ID - 1

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None after `timeout_s` seconds without one.

        After the terminal event and after `close` it returns None at once. The event loop times
        the wait: a wait per reader on an injected clock would cost an asyncio task each.
        """
        event = self._pop()
        if event is not None or self._is_closed or self._last_id == TERMINAL_ID:
            return event
        if timeout_s is not None and timeout_s <= 0:
            return None
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self._pop()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if not self._is_closed:
            self._bus.unsubscribe(self._task_id, self)
            self.end()

    def end(self) -> None:
        """Drop unread events and wake the reader: no more events follow."""
        self._is_closed = True
        self._unread = None
        _wake(self._waiter)

    def offer(self, event: Event) -> None:
        """Keep an event for the reader, unless a newer one was offered before."""
        if event.id <= self._last_id:
            return
        self._last_id = event.id
        if self._unread is None:
            self._unread = [event]
        else:
            self._unread.append(event)
            if len(self._unread) > _MOST_UNREAD:
                _drop_one(self._unread)
        _wake(self._waiter)

    def _pop(self) -> Event | None:
        if self._unread is None:
            return None
        event = self._unread.pop(0)
        self._unread = self._unread or None
        return event


class MemoryBus:
    """Listeners and recent events in dictionaries.

    Args:
        clock: Times the removal of ended tasks from the history.
        events_per_task: Recent events of one task in the history, without files.
        tasks: Tasks in the history; the oldest one is removed first.
    """

    def __init__(self, clock: Clock, *, events_per_task: int = 16, tasks: int = 8192) -> None:
        self._clock = clock
        self._events_per_task = events_per_task
        self._most_tasks = tasks
        # Dictionaries as ordered sets: one of many listeners is removed without a search.
        self._listeners: dict[str, dict[MemorySubscription, None]] = {}
        self._history: OrderedDict[str, list[Event]] = OrderedDict()
        #: (when the history drops it, task id).
        self._expiries: deque[tuple[float, str]] = deque()
        self._ended = asyncio.Event()

    async def publish(self, events: Sequence[Event]) -> None:
        """Send events to all listeners."""
        self.publish_local(events)

    def publish_local(self, events: Sequence[Event]) -> None:
        """Send events to the listeners of this process."""
        now_s = self._clock.monotonic_s()
        self._expire(now_s)
        for event in events:
            self._remember(event, now_s)
            for listener in self._listeners.get(event.task_id, ()):
                listener.offer(event)

    def subscribe(self, task_id: str, *, after: int = -1) -> MemorySubscription:
        """Listen to a task, from the first event in the history with an id above `after`."""
        subscription = MemorySubscription(self, task_id, after)
        if self._ended.is_set():
            subscription.end()
            return subscription
        if task_id in self._history:
            self._expire(self._clock.monotonic_s())
            for event in self._history.get(task_id, ()):
                subscription.offer(event)
        self._listeners.setdefault(task_id, {})[subscription] = None
        return subscription

    def unsubscribe(self, task_id: str, subscription: MemorySubscription) -> None:
        """Remove a listener."""
        listeners = self._listeners.get(task_id)
        if listeners is not None:
            listeners.pop(subscription, None)
            if not listeners:
                del self._listeners[task_id]

    def history(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return the recent events of a task with ids above `after`."""
        return [event for event in self._history.get(task_id, ()) if event.id > after]

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks with a listener for progress."""
        return [
            task_id
            for task_id in task_ids
            if any(listener.wants_progress for listener in self._listeners.get(task_id, ()))
        ]

    def subscribed(self) -> list[str]:
        """Return the tasks with a listener."""
        return list(self._listeners)

    def listener_count(self) -> int:
        """Return how many subscriptions are open."""
        return sum(map(len, self._listeners.values()))

    async def broadcast(self, messages: Sequence[PeerMessage]) -> None:
        """Do nothing: there is no other process."""

    async def receive(self) -> list[PeerMessage]:
        """Wait until the bus ends: there is no other process."""
        await self._ended.wait()
        return []

    async def ended(self) -> None:
        """Wait until `end` is called."""
        await self._ended.wait()

    def end(self) -> None:
        """End all subscriptions, including later ones; their `next` returns None."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()
        self._listeners.clear()
        self._ended.set()

    async def close(self) -> None:
        """End all subscriptions."""
        self.end()

    def _remember(self, event: Event, now_s: float) -> None:
        history = self._history.get(event.task_id)
        if history is None:
            self._history[event.task_id] = [event]
            if len(self._history) > self._most_tasks:
                self._history.popitem(last=False)
        elif event.id > history[-1].id:
            history.append(event)
            if len(history) > self._events_per_task:
                _drop_one(history)
        else:
            if event.kind is EventKind.ARTIFACT and history[-1].id < TERMINAL_ID:
                _insert(history, event)
            return
        if event.id == TERMINAL_ID:
            self._expiries.append((now_s + _KEEP_ENDED_S, event.task_id))

    def _expire(self, now_s: float) -> None:
        while self._expiries and self._expiries[0][0] <= now_s:
            self._history.pop(self._expiries.popleft()[1], None)


def _drop_one(events: list[Event]) -> None:
    """Drop the oldest transient event, else the oldest event that is not a file.

    Each file has only one event, so files stay, up to a limit.
    """
    for index, event in enumerate(events):
        if event.kind in TRANSIENT:
            del events[index]
            return
    if len(events) > _MOST_FILES or events[0].kind is not EventKind.ARTIFACT:
        del events[0]


def _insert(events: list[Event], event: Event) -> None:
    """Insert a late file event by its id, unless it is known or there are too many."""
    index = bisect.bisect_left(events, event.id, key=lambda each: each.id)
    if events[index].id != event.id and len(events) <= _MOST_FILES:
        events.insert(index, event)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
