"""What runs together. Pure.

A batch holds one model and one batch key, never more samples than the model takes, and is led by
whoever waits longest. A task that must run alone shares with nobody, so that what it breaks is only
its own.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from swell.registry import ModelCard

__all__ = ["Backlog", "Batching", "batching_of"]

EntryT = TypeVar("EntryT")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model wants its inputs grouped."""

    model: str
    max: int
    by: tuple[str, ...]
    #: Values of the `by` fields where an input leaves them out.
    defaults: Mapping[str, Any]

    def key(self, raw: bytes | msgspec.Raw) -> Hashable:
        """Return what inputs must share to run together.

        An input that is not an object gets a key as well: the model process says what is wrong.
        """
        if not self.by:
            return self.model
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.MsgspecError:
            return (self.model, b"")
        values = [fields.get(name, self.defaults.get(name)) for name in self.by]
        return (self.model, msgspec.json.encode(values, order="sorted"))


def batching_of(card: ModelCard) -> Batching:
    """Return how the model of this card wants its inputs grouped."""
    properties = card.input_schema.get("properties", {})
    defaults = {name: properties.get(name, {}).get("default") for name in card.batch_by}
    return Batching(model=card.name, max=card.max_batch, by=card.batch_by, defaults=defaults)


@dataclass(slots=True)
class _Place(Generic[EntryT]):
    order: int
    entry: EntryT
    samples: int


class Backlog(Generic[EntryT]):
    """Who waits for the model, by batch key."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[_Place[EntryT]]] = {}
        self._limits: dict[Hashable, int] = {}
        self._order = 0
        self._early = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(
        self, entry: EntryT, batching: Batching, key: Hashable, *, samples: int, alone: bool = False
    ) -> None:
        """Put an entry at the end of the line."""
        self._order += 1
        self._put(_Place(self._order, entry, samples), batching, key, alone)

    def put_back(
        self, entry: EntryT, batching: Batching, key: Hashable, *, samples: int, alone: bool = False
    ) -> None:
        """Put an entry before everybody else; of several, put the last one back first."""
        self._early -= 1
        self._put(_Place(self._early, entry, samples), batching, key, alone)

    def _put(self, place: _Place[EntryT], batching: Batching, key: Hashable, alone: bool) -> None:
        if alone:
            key = (key, place.order)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            self._limits[key] = 1 if alone else batching.max
        if place.order < 0:
            queue.appendleft(place)
        else:
            queue.append(place)
        self._length += 1

    def take(self) -> list[EntryT]:
        """Remove and return the next batch, in order; empty if nobody waits.

        An entry with more samples than a batch may hold comes by itself: the model process cuts it.
        """
        if not self._queues:
            return []
        key = min(self._queues, key=lambda key: self._queues[key][0].order)
        queue, room = self._queues[key], self._limits[key]
        first = queue.popleft()
        batch, room = [first.entry], room - first.samples
        while queue and queue[0].samples <= room:
            place = queue.popleft()
            room -= place.samples
            batch.append(place.entry)
        if not queue:
            del self._queues[key], self._limits[key]
        self._length -= len(batch)
        return batch

    def clear(self) -> Sequence[EntryT]:
        """Remove and return everybody, longest waiting first."""
        places = sorted(
            (place for queue in self._queues.values() for place in queue),
            key=lambda place: place.order,
        )
        self._queues.clear()
        self._limits.clear()
        self._length = 0
        return [place.entry for place in places]
