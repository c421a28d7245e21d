"""Concurrency limits of webhook attempts: no key and no host takes all slots. Pure.

The slots are in two parts. The first request to a host of a key takes one of three quarters.
Further requests to the same host share the last quarter, and only a host that answers gets any. So
a host that hangs costs its key one slot, and a key with hundreds of them reaches its other hosts.
"""

from collections import Counter
from collections.abc import Container, Iterable
from typing import Final

from swell.core.outbox import Delivery

#: The part of all slots for further requests to one host.
_FURTHER_PART: Final = 4

#: A key gets another slot only while it holds fewer than this many times the free ones. One key
#: alone gets two thirds of the first slots for hosts that do not answer, and four fifths with those
#: that do, so hosts that hang leave slots for others. The share of the further slots, and of all
#: slots for one host, is a quarter.
_SHARE: Final = 2.0
_SHARE_ANSWERING: Final = 4.0
_SHARE_FURTHER: Final = 1 / 3
_SHARE_OF_HOST: Final = 1 / 3

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

    Shares shrink with the free slots: with fixed shares, two halves would be all. So a key or host
    that holds none finds a slot.

    Args:
        at_once: Attempts under way in all.
        per_place: Attempts under way at one place.
        flying: Deliveries that hold a slot.
        answering: Places that answer.
    """

    def __init__(
        self, at_once: int, per_place: int, flying: Iterable[Delivery], answering: Container[str]
    ) -> None:
        self._per_place = per_place
        self._answering = answering
        self._free_further = at_once // _FURTHER_PART
        self._free_first = at_once - self._free_further
        self._lines: set[tuple[str, str]] = set()
        self._places: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        #: By key.
        self._first: Counter[str] = Counter()
        self._further: Counter[str] = Counter()
        for each in flying:
            self._hold(each)

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._free_first + self._free_further

    def full_places(self) -> list[str]:
        """Return the places without a free slot."""
        return [place for place, held in self._places.items() if held >= self._most_at(place)]

    def take(self, delivery: Delivery) -> bool:
        """Take a slot for an attempt if it may start now; return whether it may."""
        may_start = self.may_start(delivery)
        if may_start:
            self._hold(delivery)
        return may_start

    def may_start(self, delivery: Delivery) -> bool:
        """Whether an attempt may start now."""
        place, key = delivery.place, delivery.key_id
        if (delivery.task_id, delivery.endpoint) in self._lines:
            # An earlier event of its task is under way.
            return False
        held = self._places[place]
        if held >= self._most_at(place):
            return False
        if not _is_fair(self._hosts[_host_of(delivery)], self.free, _SHARE_OF_HOST):
            return False
        if held:
            return _is_fair(self._further[key], self._free_further, _SHARE_FURTHER)
        share = _SHARE_ANSWERING if place in self._answering else _SHARE
        return _is_fair(self._first[key], self._free_first, share)

    def _most_at(self, place: str) -> int:
        return self._per_place if place in self._answering else 1

    def _hold(self, delivery: Delivery) -> None:
        is_first = not self._places[delivery.place]
        self._free_first -= is_first
        self._free_further -= not is_first
        (self._first if is_first else self._further)[delivery.key_id] += 1
        self._lines.add((delivery.task_id, delivery.endpoint))
        self._places[delivery.place] += 1
        self._hosts[_host_of(delivery)] += 1


def _is_fair(held: int, free: int, share: float) -> bool:
    return free > 0 and (held == 0 or held < share * free)


def _host_of(delivery: Delivery) -> str:
    """Return the host of a place, for all keys; a standing endpoint counts as a host."""
    return delivery.place.rpartition(" ")[2]
