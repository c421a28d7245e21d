"""Which tasks run together. Pure.

A batch has one model, one batch key, and at most as many samples as the model takes; the task that
waits longest is its first. A task that must run alone has a batch of its own, so that it can break
no other. If not all models fit on the device, a batch whose model must be loaded lets others pass
for as long as its owner says.

Models that draw in steps need no batches: a task goes to the model process as soon as there is room
(`StepAdmission`). Room is counted in samples of each model: those that run together and a few more,
so that one can start when another ends, and short tasks can pass long ones. The others wait in
order. After a process has died, the tasks that it was drawing are drawn one
at a time, so that a task that kills its process kills no other attempt.
"""

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from swell.core.records import ModelCard
from swell.diffusion.step_cost import CROWD

#: Samples that a model process holds at least. Where one picture fills the device, this is all that
#: the schedule can choose from: with five, short tasks wait outside behind long ones, and at nine
#: tenths of capacity the mean slowdown is 1.4 times that with eight. Each one more is also a task
#: that an idle worker might have run at once. See tests/simulation, `engine_timeslice.py`.
LEAST_ROOM: Final = 8

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

        An input that is not an object gets a key as well: the model process reports the error.
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


def room_of(card: ModelCard, *, is_pinned: bool = False) -> int:
    """Return how many samples the process of a model that draws in steps holds; else 0.

    Those that one step has, and as many again; a crowd for the largest step, if all have guidance;
    or `LEAST_ROOM`.

    Args:
        card: Of the model.
        is_pinned: Whether every step has `card.step_bucket` rows, as in exact mode.
    """
    rows = card.step_bucket if is_pinned else card.step_rows
    return card.step_bucket and max(LEAST_ROOM, 2 * card.step_bucket, int(CROWD * rows / 2))


@dataclass(slots=True, eq=False)
class _Place(Generic[EntryT]):
    entry: EntryT
    model: str
    samples: int
    alone: bool
    #: The batch key, and the most samples of a batch.
    key: Hashable = None
    most: int = 0


def _at_once(model: str, entry: object) -> bool:
    return False


class BatchQueue(Generic[EntryT]):
    """Entries that wait for the model, in order."""

    def __init__(self) -> None:
        self._waiting: deque[_Place[EntryT]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def models(self) -> set[str]:
        """The models that entries wait for."""
        return {place.model for place in self._waiting}

    def add(
        self, entry: EntryT, batching: Batching, key: Hashable, *, samples: int, alone: bool = False
    ) -> None:
        """Put an entry at the end of the queue."""
        self._waiting.append(_place(entry, batching, key, samples, alone))

    def put_back(
        self, entry: EntryT, batching: Batching, key: Hashable, *, samples: int, alone: bool = False
    ) -> None:
        """Put an entry before all others; of several, put the last one back first."""
        self._waiting.appendleft(_place(entry, batching, key, samples, alone))

    def take(self, lets_pass: Callable[[str, EntryT], bool] = _at_once) -> list[EntryT]:
        """Remove and return the next batch, in order; empty if no entry waits.

        An entry with more samples than a batch may hold comes alone: the model process cuts it.

        Args:
            lets_pass: Whether the first entry of a key, which waits for this model, lets those
                of other keys go first.
        """
        if not self._waiting:
            return []
        heads: dict[Hashable, _Place[EntryT]] = {}
        for place in self._waiting:
            heads.setdefault(place.key, place)
        first = min(heads.values(), key=lambda place: lets_pass(place.model, place.entry))
        batch: list[_Place[EntryT]] = []
        room = first.most
        for place in self._waiting:
            if place.key != first.key:
                continue
            if batch and place.samples > room:
                break
            room -= place.samples
            batch.append(place)
        taken = set(map(id, batch))
        self._waiting = deque(place for place in self._waiting if id(place) not in taken)
        return [place.entry for place in batch]


def _place(
    entry: EntryT, batching: Batching, key: Hashable, samples: int, alone: bool
) -> _Place[EntryT]:
    key, most = (object(), 1) if alone else (key, batching.max)
    return _Place(entry, batching.model, samples, alone, key, most)


# --- models that draw in steps -------------------------------------------------------------------


class StepAdmission(Generic[EntryT]):
    """Tasks that are drawn in steps: those that wait, and those in the model process.

    An entry that is `alone` enters an empty process, and no other enters until it has left.

    Args:
        rooms: Model → samples of it that the process holds. A task of more than that comes when
            none of that model is there.
    """

    def __init__(self, rooms: Mapping[str, int] | None = None) -> None:
        self.rooms = dict(rooms or {})
        self._waiting: deque[_Place[EntryT]] = deque()
        self._inside: dict[EntryT, _Place[EntryT]] = {}
        #: Model → its samples that are inside.
        self._samples: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: EntryT, model: str, samples: int, *, alone: bool = False) -> None:
        """Put an entry at the end of the line."""
        self._waiting.append(_Place(entry, model, samples, alone))

    def put_back(self, entry: EntryT, model: str, samples: int, *, alone: bool = False) -> None:
        """Put an entry before all others; of several, put the last one back first."""
        self._waiting.appendleft(_Place(entry, model, samples, alone))

    def take(self) -> EntryT | None:
        """Return the next entry for the model process, or None if it has no room for any."""
        if self._inside and next(iter(self._inside.values())).alone:
            return None
        full: set[str] = set()
        for index, place in enumerate(self._waiting):
            if place.alone and self._inside:
                break
            inside = self._samples.get(place.model, 0)
            has_room = not inside or inside < self.rooms.get(place.model, 0)
            if place.model not in full and has_room:
                del self._waiting[index]
                self._inside[place.entry] = place
                self._samples[place.model] = inside + place.samples
                return place.entry
            full.add(place.model)
            if len(full) == len(self.rooms):
                break
        return None

    def leave(self, entry: EntryT) -> None:
        """Note that an entry has left the model process. One that is not there means nothing."""
        place = self._inside.pop(entry, None)
        if place is not None:
            self._samples[place.model] -= place.samples

    def leave_all(self) -> None:
        """Note that the model process is gone."""
        self._inside.clear()
        self._samples.clear()
