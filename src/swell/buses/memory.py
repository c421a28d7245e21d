"""A bus within one process.

A listener is one small object with a future only while somebody waits on it, so that ten thousand
open event streams cost little; publishing is a loop over the listeners and never waits. Recent
events are remembered for readers that come late or come back: a bounded number per task and in all,
and an ended task's only for some seconds.
"""

import asyncio
import bisect
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Final

from swell.bus import News
from swell.buses.patience import Patience
from swell.clock import Clock
from swell.events import TERMINAL_ID, Event, EventKind, Lives

#: What a slow reader loses first: the newest of these tells all that the older ones told.
_FADING: Final = frozenset({EventKind.PROGRESS, EventKind.PREVIEW})

#: So many files of one task are remembered, and kept for a slow reader.
_MOST_FILES: Final = 1000


class MemorySubscription:
    """One listener. Only one call of `next` may wait at a time."""

    __slots__ = ("_bus", "_is_closed", "_last_id", "_limit", "_pending", "_task_id", "_waiter")

    def __init__(self, bus: "MemoryBus", task_id: str, after: int, limit: int) -> None:
        self._bus = bus
        self._task_id = task_id
        self._limit = limit
        #: The largest id that was offered, whether or not it was read already.
        self._last_id = after
        # No list while there is nothing in it: most listeners wait most of the time.
        self._pending: list[Event] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._is_closed = False

    @property
    def wants_progress(self) -> bool:
        """Whether anything but the terminal event would be taken."""
        return self._last_id < TERMINAL_ID - 1

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None after `timeout_s` seconds without one.

        After the terminal event and after `close` it returns None at once. The timeout is the event
        loop's, since a wait per reader on an injected clock would cost a task each; it may be a
        twentieth of a second late.
        """
        event = self._take()
        if event is not None or self._is_closed or self._last_id == TERMINAL_ID:
            return event
        if timeout_s is not None and timeout_s <= 0:
            return None
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        patience = self._bus.patience
        tick = None if timeout_s is None else patience.begin(loop, waiter, timeout_s)
        try:
            await waiter
        finally:
            self._waiter = None
            if tick is not None:
                patience.end(tick, waiter)
        return self._take()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if not self._is_closed:
            self._bus.forget_listener(self._task_id, self)
            self.end()

    def end(self) -> None:
        """Be closed by the bus: nothing more comes, and whoever waits is woken."""
        self._is_closed = True
        self._pending = None
        _wake(self._waiter)

    def offer(self, event: Event) -> None:
        """Keep an event for the reader, unless it is older than what was offered before."""
        if event.id <= self._last_id:
            return
        self._last_id = event.id
        if self._pending is None:
            self._pending = [event]
        else:
            self._pending.append(event)
            if len(self._pending) > self._limit:
                _drop_one(self._pending)
        if self._waiter is not None:
            _wake(self._waiter)

    def _take(self) -> Event | None:
        if self._pending is None:
            return None
        event = self._pending.pop(0)
        if not self._pending:
            self._pending = None
        return event


class MemoryBus:
    """Listeners and recent events in dictionaries.

    Args:
        clock: Says when an ended task's events are forgotten.
        pending: How many events wait for one slow reader, beside files.
        remembered_per_task: How many recent events of one task are kept, beside files.
        remembered_tasks: Of how many tasks events are kept; the longest known goes first.
        forget_after_s: How long an ended task's events are kept, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        pending: int = 64,
        remembered_per_task: int = 16,
        remembered_tasks: int = 8192,
        forget_after_s: float = 10.0,
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._remembered_per_task = remembered_per_task
        self._remembered_tasks = remembered_tasks
        self._forget_after_s = forget_after_s
        # A dictionary as an ordered set: closing one of many listeners must not search for it.
        self._listeners: dict[str, dict[MemorySubscription, None]] = {}
        self._history: OrderedDict[str, list[Event]] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque()
        #: Ends of which nothing else is remembered, task → kind, and which are forgotten when.
        self._over: dict[str, EventKind] = {}
        self._over_until: deque[tuple[float, list[str]]] = deque()
        self._ended_all = asyncio.Event()
        #: Ends the waits of listeners.
        self.patience = Patience()

    async def publish(self, events: Sequence[Event]) -> None:
        """Tell everybody who listens. Never waits for a reader."""
        self.correct(events)

    def correct(self, events: Sequence[Event]) -> None:
        """Tell everybody who listens, without a loop's turn in between."""
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        for event in events:
            self._remember(event, now_s)
            listeners = self._listeners.get(event.task_id)
            if listeners is not None:
                for listener in listeners:
                    listener.offer(event)

    def tell_ends(self, lives: Lives) -> None:
        """Tell everybody who listens of ends that are told together; of most nobody does."""
        now_s, kind = self._clock.monotonic_s(), lives.kind
        self._forget(now_s)
        listeners, history = self._listeners, self._history
        for task_id in lives.ids:
            if task_id in listeners or task_id in history:
                self.correct([Event(task_id=task_id, id=TERMINAL_ID, kind=kind)])
        self._over |= dict.fromkeys(lives.ids, kind)
        self._over_until.append((now_s + self._forget_after_s, lives.ids))
        while len(self._over) > self._remembered_tasks and len(self._over_until) > 1:
            self._forget_ends()

    def subscribe(self, task_id: str, *, after: int = -1) -> MemorySubscription:
        """Listen to a task, from the first event remembered whose id is larger than `after`."""
        subscription = MemorySubscription(self, task_id, after, self._pending)
        if task_id in self._history or task_id in self._over:
            self._forget(self._clock.monotonic_s())
            for event in self.remembered(task_id, after=after):
                subscription.offer(event)
        if self._ended_all.is_set():
            subscription.end()
            return subscription
        listeners = self._listeners.get(task_id)
        if listeners is None:
            self._listeners[task_id] = {subscription: None}
        else:
            listeners[subscription] = None
        return subscription

    def remembered(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return what of a task's events whose id is larger than `after` is remembered."""
        events = self._history.get(task_id, ())
        if not events and task_id in self._over:
            events = [Event(task_id=task_id, id=TERMINAL_ID, kind=self._over[task_id])]
        return [event for event in events if event.id > after]

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks whose progress somebody listens to."""
        return [
            task_id
            for task_id in task_ids
            if any(listener.wants_progress for listener in self._listeners.get(task_id, ()))
        ]

    def is_listened(self, task_id: str) -> bool:
        """Whether somebody listens to a task, if only for its end."""
        return task_id in self._listeners

    def listened(self) -> list[str]:
        """Return the tasks that somebody listens to."""
        return list(self._listeners)

    async def tell(self, news: Sequence[News]) -> None:
        """Do nothing: there is no other process."""

    async def news(self) -> list[News]:
        """Wait for the end, since nobody else tells anything."""
        await self._ended_all.wait()
        return []

    def forget_listener(self, task_id: str, subscription: MemorySubscription) -> None:
        """Take a listener off the list."""
        listeners = self._listeners.get(task_id)
        if listeners is not None:
            listeners.pop(subscription, None)
            if not listeners:
                del self._listeners[task_id]

    def listener_count(self) -> int:
        """Return how many subscriptions are open."""
        return sum(map(len, self._listeners.values()))

    def end(self) -> None:
        """End all subscriptions, and those to come; their `next` returns None."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()
        self._listeners.clear()
        self._history.clear()
        self._ended.clear()
        self._over.clear()
        self._over_until.clear()
        self._ended_all.set()

    async def close(self) -> None:
        """End all subscriptions."""
        self.end()

    def _remember(self, event: Event, now_s: float) -> None:
        history = self._history.get(event.task_id)
        if history is None:
            self._history[event.task_id] = [event]
            if len(self._history) > self._remembered_tasks:
                self._history.popitem(last=False)
        elif event.id > history[-1].id:
            history.append(event)
            if len(history) > self._remembered_per_task:
                _drop_one(history)
        else:
            if event.kind is EventKind.ARTIFACT and history[-1].id < TERMINAL_ID:
                _put_in_its_place(history, event)
            return
        if event.id == TERMINAL_ID:
            self._ended.append((now_s + self._forget_after_s, event.task_id))

    def _forget(self, now_s: float) -> None:
        ended = self._ended
        while ended and ended[0][0] <= now_s:
            self._history.pop(ended.popleft()[1], None)
        over = self._over_until
        while over and over[0][0] <= now_s:
            self._forget_ends()

    def _forget_ends(self) -> None:
        for task_id in self._over_until.popleft()[1]:
            self._over.pop(task_id, None)


def _drop_one(events: list[Event]) -> None:
    """Drop the oldest progress or preview, else the oldest event that is no file and not the last.

    Files are told once, so they stay, up to a limit.
    """
    for place, event in enumerate(events):
        if event.kind in _FADING:
            del events[place]
            return
    if len(events) > _MOST_FILES or events[0].kind is not EventKind.ARTIFACT:
        del events[0]


def _put_in_its_place(events: list[Event], event: Event) -> None:
    """Add a file that is told late, unless it is there or there are too many."""
    place = bisect.bisect_left(events, event.id, key=lambda each: each.id)
    if events[place].id != event.id and len(events) <= _MOST_FILES:
        events.insert(place, event)


def _wake(waiter: "asyncio.Future[bool] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(True)
