"""The tasks in the model process of a worker, and its present work.

It runs batches, one after another, and tasks of step models concurrently. Its present work decides
which tasks are suspects when it dies, and since when it is silent. Plain values, changed by one
thread, with an injected clock.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from swell.runtime.ipc_messages import DRAWN

#: A model whose batches take less than this gets the next batch before the last has ended, so that
#: it never waits for the worker. For slower models, later tasks may still join the batch.
QUICK_S: Final = 0.02

#: Weight of the last batch in the moving average of seconds per task.
_RECENT: Final = 0.2

EntryT = TypeVar("EntryT")


@dataclass(slots=True)
class _Batch(Generic[EntryT]):
    """A batch that the model process has, and who of it has not come back yet."""

    number: int
    waiting: dict[int, EntryT]
    started_s: float
    #: When the model process took it up, or last ended a call for it.
    since_s: float
    #: How many tasks it has.
    size: int


@dataclass(frozen=True, slots=True)
class LostTasks(Generic[EntryT]):
    """What a process had when it died."""

    #: The batch that it ran, or all that it drew; empty if none of them caused the death.
    suspects: list[EntryT]
    #: The rest, in order.
    others: list[EntryT]


class ModelProcessState(Generic[EntryT]):
    """What the model process has, by handle."""

    def __init__(self) -> None:
        self._batches: deque[_Batch[EntryT]] = deque()
        self._number = DRAWN
        #: Tasks of step models.
        self.drawn: dict[int, EntryT] = {}
        #: When it began with them, or last reported on one.
        self._drawn_since_s = 0.0
        #: Which batch it has turned to, as far as it said.
        self._turn = DRAWN
        #: Tasks that it knows to be followed.
        self._watched: set[int] = set()
        self._last_run_s = 1.0
        #: Seconds per task of a batch: the last batch's, or more while slower ones are recent.
        self.task_s = 1.0
        #: The model that it is bringing to the device; else empty.
        self.busy_for = ""

    @property
    def wants_batch(self) -> bool:
        """Whether it is time to give it another batch."""
        if not self._batches:
            return True
        return len(self._batches) == 1 and self._last_run_s < QUICK_S

    @property
    def sent(self) -> set[int]:
        """Handles of all that it has."""
        return {handle for batch in self._batches for handle in batch.waiting} | set(self.drawn)

    @property
    def current(self) -> int | None:
        """The number of the batch that it is at, `DRAWN` for steps; None for nothing."""
        if self._batches and (not self.drawn or self._turn == self._batches[0].number):
            return self._batches[0].number
        return DRAWN if self.drawn else None

    @property
    def running(self) -> Collection[int]:
        """Handles of the tasks of its present work."""
        turn = self.current
        if turn is None:
            return ()
        return self.drawn if turn == DRAWN else self._batches[0].waiting

    @property
    def in_run(self) -> Mapping[int, EntryT]:
        """Those of the batch that it is at, who have not come back; empty where it draws."""
        return self._batches[0].waiting if self.current not in (None, DRAWN) else {}

    @property
    def since_s(self) -> float | None:
        """When its present work began; None if that has no time limit."""
        turn = self.current
        if turn is None or self.busy_for:
            return None
        return self._drawn_since_s if turn == DRAWN else self._batches[0].since_s

    def begin_batch(self, waiting: dict[int, EntryT], now_s: float) -> int:
        """Note that it gets a batch; return the number."""
        self._number += 1
        self._batches.append(_Batch(self._number, waiting, now_s, now_s, len(waiting)))
        return self._number

    def begin_drawing(self, handle: int, entry: EntryT, now_s: float) -> None:
        """Note that it gets a task to draw in steps."""
        if not self.drawn:
            self._drawn_since_s = now_s
        self.drawn[handle] = entry

    def watch(self, handles: Iterable[int]) -> list[int]:
        """Return which of these it has and does not know yet to be followed."""
        # A task that was returned reports nothing more.
        new = sorted((set(handles) & self.sent) - self._watched)
        self._watched.update(new)
        return new

    def is_watched(self, handle: int) -> bool:
        """Whether it knows a task to be followed."""
        return handle in self._watched

    def remove(self, batch: int, handle: int) -> EntryT:
        """Remove a task that has come back, and return it."""
        waiting = self.drawn if batch == DRAWN else self._batches[0].waiting
        self._watched.discard(handle)
        return waiting.pop(handle)

    def end_call(self, now_s: float, *, is_last: bool) -> None:
        """Note that a call for the present batch has ended, and whether the batch has."""
        batch = self._batches[0]
        batch.since_s = now_s
        if is_last:
            self._batches.popleft()
            self._last_run_s = now_s - batch.started_s
            task_s = self._last_run_s / batch.size
            self.task_s = max(task_s, self.task_s + _RECENT * (task_s - self.task_s))
            self._turn, self._drawn_since_s = DRAWN, now_s
            if self._batches:
                self._batches[0].since_s = now_s

    def turn_to(self, batch: int, now_s: float) -> None:
        """Note that it has turned to a batch."""
        self._turn = batch
        if self._batches:
            self._batches[0].since_s = now_s

    def note_step(self, now_s: float) -> None:
        """Note a message about a task of a step model."""
        self._drawn_since_s = now_s

    def free(self, now_s: float) -> None:
        """Note that a model is loaded: the time limit of the present work starts again."""
        self.busy_for, self._drawn_since_s = "", now_s
        if self._batches:
            self._batches[0].since_s = now_s

    def lose(self, *, blameless: bool) -> LostTasks[EntryT]:
        """Note that the process is gone; return its tasks.

        Args:
            blameless: Whether no task caused its death.
        """
        turn = None if blameless else self.current
        suspects: list[EntryT] = []
        others: list[EntryT] = []
        had = {batch.number: batch.waiting for batch in self._batches} | {DRAWN: self.drawn}
        for number, waiting in had.items():
            (suspects if number == turn else others).extend(waiting.values())
        self._batches.clear()
        self.drawn, self._turn, self.busy_for = {}, DRAWN, ""
        self._watched.clear()
        return LostTasks(suspects, others)
