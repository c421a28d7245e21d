"""Who may have how many attempts under way at once, so that nobody takes all places."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from swell.outbox import Delivery

__all__ = ["Room"]

#: Of a key, or of a host, an attempt starts only while more than so many times as many places are
#: free as it holds. Alone it so gets a quarter of all; the more others hold, the less.
_FREE_TIMES: Final = 3


class Room:
    """The places for attempts, and who holds them.

    A fixed share would be too much where several keys take theirs: two halves are all. So shares
    shrink with what is free, and whoever holds nothing yet finds a place.

    Args:
        at_once: Attempts under way in all.
        per_place: Of these at one place.
        flying: What is under way.
    """

    def __init__(self, at_once: int, per_place: int, flying: Iterable[Delivery]) -> None:
        self._free = at_once
        self._per_place = per_place
        self._lines: set[tuple[str, str]] = set()
        self._places: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        for each in flying:
            self._hold(each)

    @property
    def free(self) -> int:
        """How many places are free."""
        return self._free

    def take(self, delivery: Delivery) -> bool:
        """Hold a place for an attempt, if it may start now; return whether it may."""
        has_room = (
            self._free > 0
            and (delivery.task_id, delivery.endpoint) not in self._lines
            and self._places[delivery.place] < self._per_place
            and self._is_fair(self._keys[delivery.key_id])
            and self._is_fair(self._hosts[_host_of(delivery)])
        )
        if has_room:
            self._hold(delivery)
        return has_room

    def _is_fair(self, held: int) -> bool:
        return held == 0 or _FREE_TIMES * held < self._free

    def _hold(self, delivery: Delivery) -> None:
        self._free -= 1
        self._lines.add((delivery.task_id, delivery.endpoint))
        self._places[delivery.place] += 1
        self._keys[delivery.key_id] += 1
        self._hosts[_host_of(delivery)] += 1


def _host_of(delivery: Delivery) -> str:
    """Return where a place is, whichever key named it; a standing endpoint is one of its own."""
    return delivery.place.rpartition(" ")[2]
