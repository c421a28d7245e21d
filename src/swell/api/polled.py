"""What is heard of tasks whose clients poll instead of listening.

Progress is told to those who listen, and kept nowhere. Who polls is listened for here, from one
question to the next, so that the answer can say how far the task has come, and so that its worker
tells it soon. What this process has not heard is not in it: before the first question a few recent
events are remembered, and after the end all is forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

from swell.api.call import poll
from swell.bus import Bus, Subscription
from swell.clock import Clock
from swell.events import Event, EventKind
from swell.task import Task, TaskState

#: For how long a task is listened to that nobody asks about any more, in seconds.
_QUIET_S: Final = 15.0

#: Tasks listened to, and the newest events kept of one.
_MAX_TASKS: Final = 2000
_MAX_EVENTS: Final = 1000


class _Heard:
    """One task."""

    __slots__ = ("events", "subscription", "until_s")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self.until_s = 0.0

    def catch_up(self) -> None:
        """Take what has come since the last time, without waiting."""
        while (event := poll(self.subscription.next())) is not None:
            if event.kind is EventKind.STARTED:
                # A new attempt begins from nothing.
                self.events.clear()
            elif event.kind is EventKind.PROGRESS:
                self.events.append(event)


class Polled:
    """Tasks that somebody polls."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        #: Task id → what was heard; those that were asked for longest ago come first.
        self._heard: OrderedDict[str, _Heard] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def progress(self, task: Task) -> list[dict[str, Any]]:
        """Return what its worker has told of a task's current attempt, oldest first.

        Where that is very much, the newest of it.
        From the first call on it is listened to, as long as the next call comes within 15 s.
        """
        return [event.data for event in self._events(task)]

    def _events(self, task: Task) -> Iterable[Event]:
        self._forget()
        heard = self._heard.pop(task.id, None)
        if heard is None:
            if task.state is TaskState.QUEUED:
                # Nothing to hear yet, and most clients ask again when there is.
                return []
            heard = _Heard(self._bus.subscribe(task.id))
        heard.catch_up()
        if task.state.is_terminal:
            heard.subscription.close()
        else:
            heard.until_s = self._clock.monotonic_s() + _QUIET_S
            self._heard[task.id] = heard
        return heard.events

    def _forget(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._heard:
            task_id, heard = next(iter(self._heard.items()))
            if heard.until_s > now_s and len(self._heard) < _MAX_TASKS:
                return
            heard.subscription.close()
            del self._heard[task_id]
