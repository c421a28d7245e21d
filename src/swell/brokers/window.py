"""Which task ids lie in one lane, as far as this process put them there. Pure.

A lane has no order of its own that would be fair, so it holds only so many ids at a time; the rest
wait in the store, in fair order, for room. Who comes late waits for what is in the window, and then
for his turn.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from swell.broker import Offered
from swell.task import Task

#: So many times the wait for an id that was sent again is doubled.
_MOST_DOUBLED: Final = 3


class Place(msgspec.Struct):
    """One id in a window."""

    offered: Offered
    attempt: int
    #: When it was sent last, on a clock that never goes back.
    sent_s: float
    #: How often it was sent again.
    again: int = 0

    def is_late(self, now_s: float, reoffer_s: float) -> bool:
        """Whether to send it again: each time after twice as long, up to eight times as long.

        A queue that is slow would else fill up with copies.
        """
        return self.sent_s + reoffer_s * (1 << min(self.again, _MOST_DOUBLED)) <= now_s


class Window:
    """The ids of one lane.

    Args:
        size: At most so many.
        flow_size: At most so many of one user of one key.
    """

    def __init__(self, size: int, flow_size: int) -> None:
        self._size = size
        self._flow_size = flow_size
        self._places: dict[str, Place] = {}
        self._flows: Counter[tuple[str, str | None]] = Counter()
        #: Ids that lie in the lane though their tasks were started → when that was.
        self._passed: dict[str, float] = {}
        self._level = 0
        #: How many ids were ever put here.
        self.sent = 0
        #: Whether more may be ready in the store than lies here.
        self.is_behind = False

    def __len__(self) -> int:
        return len(self._places)

    @property
    def room(self) -> int:
        """How many more it takes."""
        return self._size - len(self._places) - len(self._passed)

    @property
    def is_low(self) -> bool:
        """Whether it is worth filling: half of what it was filled to, and there may be more."""
        return self.is_behind and 2 * len(self._places) <= self._level

    def note_filled(self) -> None:
        """Note that it holds now what it can."""
        self._level = len(self._places)

    def has_room_for(self, task: Task) -> bool:
        """Whether a task could be taken in."""
        return self.room > 0 and self._flows[task.key_id, task.user] < self._flow_size

    @property
    def offered(self) -> list[Offered]:
        """What lies here, in the order in which it came."""
        return [place.offered for place in self._places.values()]

    def knows(self, task: Task) -> bool:
        """Whether this offer of a task lies here already."""
        place = self._places.get(task.id)
        return place is not None and place.attempt == task.attempt

    def add(self, tasks: Iterable[Task], now_s: float) -> list[Task]:
        """Take in tasks in this order as far as there is room; return those."""
        added = []
        for task in tasks:
            if self.knows(task):
                continue
            self.remove([task.id])
            if not self.has_room_for(task):
                self.is_behind = True
                self._level = len(self._places)
                continue
            self._flows[task.key_id, task.user] += 1
            offered = Offered(
                task_id=task.id,
                key_id=task.key_id,
                user=task.user,
                priority=task.priority,
                cost=task.count,
            )
            self._places[task.id] = Place(offered, task.attempt, now_s)
            self.sent += 1
            added.append(task)
        return added

    def remove(self, task_ids: Iterable[str]) -> None:
        """Let go of ids that were started, have ended, or could not be sent. Unknown ones too."""
        for task_id in task_ids:
            place = self._places.pop(task_id, None)
            if place is None:
                continue
            flow = (place.offered.key_id, place.offered.user)
            self._flows[flow] -= 1
            if self._flows[flow] <= 0:
                del self._flows[flow]

    def passed(self, task_ids: Iterable[str], now_s: float) -> None:
        """Note that tasks were started without what lies in the lane for them.

        That takes up room until it has come out, so that a lane nobody reads does not fill up.
        """
        for task_id in task_ids:
            if task_id in self._places:
                self.remove([task_id])
                self._passed[task_id] = now_s

    def came(self, task_ids: Iterable[str | None]) -> None:
        """Note that ids have come out of the lane."""
        for task_id in task_ids:
            self._passed.pop(task_id or "", None)

    @property
    def holds_passed(self) -> bool:
        """Whether ids lie in the lane that are of no use any more, as far as is known."""
        return bool(self._passed)

    def forget_passed(self, before_s: float) -> None:
        """Believe of ids that were passed before a moment that others have taken them out."""
        while self._passed:
            task_id, passed_s = next(iter(self._passed.items()))
            if passed_s > before_s:
                return
            del self._passed[task_id]

    def sent_before(self, moment_s: float) -> list[tuple[str, Place]]:
        """Return the ids that were last sent before a moment."""
        return [(key, place) for key, place in self._places.items() if place.sent_s <= moment_s]
