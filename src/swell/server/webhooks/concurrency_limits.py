"""Concurrency limits of webhook attempts: no key and no host takes all slots. Pure.

A receiver that does not answer gets one request at a time. So a host that hangs costs its key one
slot, and a key with hundreds of them reaches its other hosts.
"""

from collections import Counter
from collections.abc import Container, Iterable
from typing import Final

from swell.core.outbox import Delivery

#: A key or host gets another slot only while it holds fewer than this many times the free ones: two
#: thirds of all if it is alone, and less the more others hold. With fixed shares, two halves would
#: be all. So a key or host that holds none finds a slot.
_SHARE: Final = 2

#: The most receivers that count as answering.
_MOST_ANSWERING: Final = 10_000


class Answering:
    """The receivers that answer: those that left fewer than `most` requests in a row unanswered.

    Args:
        most: Unanswered requests after which a receiver counts as hanging.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Place → requests since its last answer; the place that answered last comes last.
        self._unanswered: dict[str, int] = {}

    def __contains__(self, place: object) -> bool:
        return place in self._unanswered

    def note(self, place: str, *, has_answered: bool) -> None:
        """Remember the result of a request."""
        unanswered = self._unanswered.pop(place, None)
        if has_answered:
            self._unanswered[place] = 0
            if len(self._unanswered) > _MOST_ANSWERING:
                del self._unanswered[next(iter(self._unanswered))]
        elif unanswered is not None and unanswered + 1 < self._most:
            self._unanswered[place] = unanswered + 1


class Room:
    """The slots for attempts, and which deliveries hold them.

    Args:
        at_once: Attempts under way in all.
        per_place: Attempts under way at one place.
        flying: Deliveries that hold a slot.
        answering: Places that answer.
    """

    def __init__(
        self, at_once: int, per_place: int, flying: Iterable[Delivery], answering: Container[str]
    ) -> None:
        #: How many slots are free.
        self.free = at_once
        self._per_place = per_place
        self._answering = answering
        self._lines: set[tuple[str, str]] = set()
        self._places: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        for each in flying:
            self._hold(each)

    def full_places(self) -> list[str]:
        """Return the places without a free slot."""
        return [place for place in self._places if self._is_full(place)]

    def take(self, delivery: Delivery) -> bool:
        """Take a slot for an attempt if it may start now; return whether it may."""
        # An earlier event of its task may be under way.
        is_next = (delivery.task_id, delivery.endpoint) not in self._lines
        shares = (self._keys[delivery.key_id], self._hosts[_host_of(delivery)])
        is_fair = self.free > 0 and all(not held or held < _SHARE * self.free for held in shares)
        may_start = is_next and is_fair and not self._is_full(delivery.place)
        if may_start:
            self._hold(delivery)
        return may_start

    def _is_full(self, place: str) -> bool:
        return self._places[place] >= (self._per_place if place in self._answering else 1)

    def _hold(self, delivery: Delivery) -> None:
        self.free -= 1
        self._lines.add((delivery.task_id, delivery.endpoint))
        self._places[delivery.place] += 1
        self._hosts[_host_of(delivery)] += 1
        self._keys[delivery.key_id] += 1


def _host_of(delivery: Delivery) -> str:
    """Return the host of a place, for all keys; a standing endpoint counts as a host."""
    return delivery.place.rpartition(" ")[2]
