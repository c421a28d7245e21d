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

from swell.core.clock import Clock
from swell.core.event_bus import PeerMessage
from swell.core.events import TERMINAL_ID, Event, EventKind

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
        self._unread: list[Event] = []
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
        is_over = self._is_closed or self._last_id == TERMINAL_ID
        if not self._unread and not is_over and (timeout_s is None or timeout_s > 0):
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return self._unread.pop(0) if self._unread else None

    def close(self) -> None:
        """Stop listening: drop unread events, and end `next`. Idempotent."""
        if not self._is_closed:
            listeners = self._bus.listeners.get(self._task_id, {})
            listeners.pop(self, None)
            if not listeners:
                self._bus.listeners.pop(self._task_id, None)
            self._is_closed = True
            self._unread.clear()
            if self._waiter is not None:
                self._wake()

    def offer(self, event: Event) -> None:
        """Keep an event for the reader, unless a newer one was offered before."""
        if event.id <= self._last_id:
            return
        self._last_id = event.id
        self._unread.append(event)
        if len(self._unread) > _MOST_UNREAD:
            _drop_one(self._unread)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


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
        #: Task → its listeners, an ordered set: one of many is removed without a search.
        self.listeners: dict[str, dict[MemorySubscription, None]] = {}
        self._history: OrderedDict[str, list[Event]] = OrderedDict()
        #: (when the history drops it, task id).
        self._expiries: deque[tuple[float, str]] = deque()
        self._ended = asyncio.Event()

    def publish(self, events: Sequence[Event]) -> None:
        """Send events to all listeners. Never waits."""
        for event in events:
            history = self._history.setdefault(event.task_id, [])
            if not history or event.id > history[-1].id:
                history.append(event)
                if len(history) > self._events_per_task:
                    _drop_one(history)
                if event.id == TERMINAL_ID:
                    ends_at_s = self._clock.monotonic_s() + _KEEP_ENDED_S
                    self._expiries.append((ends_at_s, event.task_id))
            elif event.kind is EventKind.ARTIFACT and history[-1].id < TERMINAL_ID:
                _insert(history, event)
            for listener in self.listeners.get(event.task_id, ()):
                listener.offer(event)
        while len(self._history) > self._most_tasks:
            self._history.popitem(last=False)
        if len(self._expiries) > self._most_tasks:
            self._expire()

    #: Sends events to the listeners of this process.
    publish_local = publish

    def subscribe(self, task_id: str, *, after: int = -1) -> MemorySubscription:
        """Listen to a task, from the first event in the history with an id above `after`."""
        subscription = MemorySubscription(self, task_id, after)
        if self._ended.is_set():
            subscription.close()
            return subscription
        self._expire()
        for event in self._history.get(task_id, ()):
            if event.id > after:
                subscription.offer(event)
        self.listeners.setdefault(task_id, {})[subscription] = None
        return subscription

    def history(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return the recent events of a task with ids above `after`."""
        return [event for event in self._history.get(task_id, ()) if event.id > after]

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks with a listener for progress."""
        return [
            task_id
            for task_id in task_ids
            if any(listener.wants_progress for listener in self.listeners.get(task_id, ()))
        ]

    def subscribed(self) -> list[str]:
        """Return the tasks with a listener."""
        return list(self.listeners)

    def listener_count(self) -> int:
        """Return how many subscriptions are open."""
        return sum(map(len, self.listeners.values()))

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
        for listener in [each for of_task in self.listeners.values() for each in of_task]:
            listener.close()
        self._ended.set()

    async def close(self) -> None:
        """End all subscriptions."""
        self.end()

    def _expire(self) -> None:
        """Drop the history of tasks that ended a while ago."""
        now_s = self._clock.monotonic_s()
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
