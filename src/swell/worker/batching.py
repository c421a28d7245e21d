"""Which tasks run together. Pure.

A batch has one model, one batch key, and at most as many samples as the model takes; the task that
waits longest is its first. A task that must run alone has a batch of its own, so that it can break
no other. If not all models fit on the device, a batch whose model must be loaded lets others pass
for as long as its owner says.

Models that draw in steps need no batches: a task goes to the model process as soon as there is room
(`next_to_draw`). Room is counted in samples of each model: those that run together and a few more,
so that one can start when another ends, and short tasks can pass long ones. The others wait in
order. After a process has died, the tasks that it was drawing are drawn one at a time, so that a
task that kills its process kills no other attempt.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from swell.core.records import ModelCard
from swell.diffusion.step_cost import CROWD

#: Samples that a model process holds at least. Where one picture fills the device, this is all that
#: the schedule can choose from: with five, short tasks wait outside behind long ones, and at nine
#: tenths of capacity the mean slowdown is 1.4 times that with eight. Each one more is also a task
#: that an idle worker might have run at once. See tests/simulation, `engine_timeslice.py`.
LEAST_ROOM: Final = 8


def batch_key(card: ModelCard, raw: bytes | msgspec.Raw) -> Hashable:
    """Return what the inputs of one batch of a model have in common.

    An input that is not an object gets a key as well: the model process reports the error.
    """
    if not card.batch_by:
        return card.name
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return (card.name, b"")
    properties = card.input_schema.get("properties", {})
    values = [fields.get(name, properties.get(name, {}).get("default")) for name in card.batch_by]
    return (card.name, msgspec.json.encode(values, order="sorted"))


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


class Waiting(Protocol):
    """A task that waits for its model process, or is there."""

    @property
    def model(self) -> str:
        """The name of its model."""

    @property
    def samples(self) -> int:
        """How many it has."""

    @property
    def alone(self) -> bool:
        """Whether it must run alone."""

    @property
    def key(self) -> Hashable:
        """What the tasks of a batch have in common."""


WaitingT = TypeVar("WaitingT", bound=Waiting)


def next_batch(
    waiting: deque[WaitingT],
    max_batch: Mapping[str, int],
    lets_pass: Callable[[WaitingT], bool] = lambda task: False,
) -> list[WaitingT]:
    """Remove and return the next batch, in order; empty if no task waits.

    A task with more samples than a batch may hold comes alone: the model process divides it.

    Args:
        waiting: The queue.
        max_batch: Model → the most samples of a batch.
        lets_pass: Whether the first task of a key lets those of other keys go first.
    """
    heads: dict[Hashable, WaitingT] = {}
    for task in waiting:
        heads.setdefault(_key(task), task)
    if not heads:
        return []
    first = min(heads.values(), key=lets_pass)
    batch: list[WaitingT] = []
    room = max_batch[first.model]
    for task in waiting:
        if _key(task) != _key(first):
            continue
        if batch and task.samples > room:
            break
        room -= task.samples
        batch.append(task)
    for task in batch:
        waiting.remove(task)
    return batch


def _key(task: Waiting) -> Hashable:
    return id(task) if task.alone else task.key


def next_to_draw(
    waiting: deque[WaitingT], inside: Collection[WaitingT], rooms: Mapping[str, int]
) -> WaitingT | None:
    """Remove and return the next task that is drawn in steps; None if there is no room for any.

    A task that must run alone enters an empty process, and no other enters until it has left.

    Args:
        waiting: The queue.
        inside: The tasks that the model process draws.
        rooms: Model → samples of it that the process holds. A task of more than that enters when
            none of that model is there.
    """
    if any(task.alone for task in inside):
        return None
    samples: Counter[str] = Counter()
    for task in inside:
        samples[task.model] += task.samples
    full: set[str] = set()
    for index, task in enumerate(waiting):
        if task.alone and inside:
            break
        there = samples[task.model]
        if task.model not in full and (not there or there < rooms[task.model]):
            del waiting[index]
            return task
        full.add(task.model)
    return None
