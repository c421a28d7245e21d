"""Progress of tasks for clients that poll.

Progress events are not stored. The first poll of a running task subscribes to them, so later polls
can say how far it is, and its worker reports progress soon. The first poll sees only the few events
that the bus remembers.
"""

from collections import OrderedDict, deque
from typing import Any, Final

from swell.core.clock import Clock
from swell.core.events import Event, EventKind
from swell.core.task import Task, TaskState
from swell.pubsub.local_bus import MemoryBus, MemorySubscription
from swell.server.request import poll

#: A subscription ends this long after the last poll, in seconds.
_IDLE_S: Final = 15.0

#: Most subscriptions, and most events of each.
_MAX_TASKS: Final = 2000
_MAX_EVENTS: Final = 1000


class _Follower:
    """The subscription to one task."""

    def __init__(self, subscription: MemorySubscription) -> None:
        self.subscription = subscription
        self.events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self.until_s = 0.0

    def catch_up(self) -> None:
        """Take new events, without waiting."""
        while (event := poll(self.subscription.next())) is not None:
            if event.kind is EventKind.STARTED:
                self.events.clear()  # a new attempt
            elif event.kind is EventKind.PROGRESS:
                self.events.append(event)


class Polled:
    """Subscriptions to tasks that clients poll."""

    def __init__(self, bus: MemoryBus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        #: Task id → subscription, the least recently polled first.
        self._followers: OrderedDict[str, _Follower] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def progress(self, task: Task) -> list[dict[str, Any]]:
        """Return the latest progress of a task's current attempt, oldest first."""
        self._end_idle()
        follower = self._followers.pop(task.id, None)
        if follower is None:
            if task.state is TaskState.QUEUED:
                return []
            follower = _Follower(self._bus.subscribe(task.id))
        follower.catch_up()
        if task.state.is_terminal:
            follower.subscription.close()
        else:
            follower.until_s = self._clock.monotonic_s() + _IDLE_S
            self._followers[task.id] = follower
        return [event.data for event in follower.events]

    def _end_idle(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._followers:
            task_id, follower = next(iter(self._followers.items()))
            if follower.until_s > now_s and len(self._followers) < _MAX_TASKS:
                return
            follower.subscription.close()
            del self._followers[task_id]
