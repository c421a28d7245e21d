"""What the worker holds, and what it still has to tell the backend.

A task is on the desk from its lease until the report with its outcome is answered: only then is its
slot free. Plain dictionaries and lists, changed by one thread; nothing here waits but `news`.
"""

import asyncio
import itertools
from collections.abc import Hashable, Sequence
from typing import Any

from swell.dispatch import LeasedTask, Progress
from swell.store import Hold
from swell.task import Outcome, Settlement

__all__ = ["Desk", "Held", "Page"]


class Held:
    """A leased task on its way through the worker."""

    __slots__ = (
        "admitted_s",
        "alone",
        "deadline_s",
        "files",
        "handle",
        "is_stopped",
        "key",
        "load_s",
        "place",
        "task",
    )

    def __init__(self, task: LeasedTask, handle: int, key: Hashable, now_s: float) -> None:
        self.task = task
        #: Names the task between the worker and its model process.
        self.handle = handle
        self.key = key
        self.admitted_s = now_s
        #: Monotonic seconds after which the task is worthless.
        self.deadline_s = None if task.finish_within_s is None else now_s + task.finish_within_s
        #: A task that was tried before may be what broke that attempt: it shares no batch.
        self.alone = task.attempt > 1
        self.is_stopped = False
        self.load_s = 0.0
        #: Number of the last progress told.
        self.place = 0
        #: URL → (bytes, media type) of its input files.
        self.files: dict[str, tuple[bytes, str]] = {}


class Page:
    """What goes into one report."""

    __slots__ = ("holds", "progress", "settlements")

    def __init__(
        self, settlements: list[Settlement], progress: list[Progress], holds: list[Hold]
    ) -> None:
        self.settlements = settlements
        self.progress = progress
        self.holds = holds

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.settlements or self.progress or self.holds)


class Desk:
    """Held tasks and unreported outcomes of one worker."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.held: dict[str, Held] = {}
        self._by_handle: dict[int, Held] = {}
        self._handles = itertools.count(1)
        self._settlements: list[Settlement] = []
        self._progress: dict[tuple[str, str], Progress] = {}
        #: Outcomes in a report that has not been answered yet.
        self._in_flight = 0
        self._is_heartbeat_due = False
        #: Set when there is something to report.
        self.news = asyncio.Event()
        #: Set when a task was put on the desk.
        self.busy = asyncio.Event()
        #: Set when nothing is held and everything is reported.
        self.is_clear = asyncio.Event()
        self.is_clear.set()

    @property
    def free(self) -> int:
        """How many more tasks fit."""
        return self.slots - len(self.held) - len(self._settlements) - self._in_flight

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes wait for a report."""
        return bool(self._settlements)

    def hold(self, task: LeasedTask, key: Hashable, now_s: float) -> Held:
        """Put a leased task on the desk."""
        held = Held(task, next(self._handles), key, now_s)
        self.held[task.task_id] = held
        self._by_handle[held.handle] = held
        self.is_clear.clear()
        self.busy.set()
        return held

    def find(self, handle: int) -> Held | None:
        """Return a task that is still held, by its number."""
        return self._by_handle.get(handle)

    def settle(self, held: Held, outcome: Outcome) -> None:
        """Note how a task ended. Of two outcomes the first counts."""
        task = held.task
        if self._by_handle.pop(held.handle, None) is None:
            return
        if self.held.get(task.task_id) is held:
            del self.held[task.task_id]
        self._settlements.append(
            Settlement(
                task_id=task.task_id, attempt=task.attempt, token=task.token, outcome=outcome
            )
        )
        self.news.set()

    def tell(self, held: Held, kind: str, data: dict[str, Any]) -> None:
        """Note progress. What was not told yet of the same kind is replaced."""
        if held.handle not in self._by_handle:
            return
        held.place += 1
        task = held.task
        # Put last again, so that places only grow within a report.
        self._progress.pop((task.task_id, kind), None)
        self._progress[task.task_id, kind] = Progress(
            task_id=task.task_id,
            attempt=task.attempt,
            token=task.token,
            place=held.place,
            kind=kind,
            data=data,
        )
        self.news.set()

    def beat(self) -> None:
        """Have the next report extend the leases, and make it soon."""
        if self.held:
            self._is_heartbeat_due = True
            self.news.set()

    def take(self) -> Page:
        """Take what is to be told; `told` must follow once it was."""
        holds: list[Hold] = []
        if self._is_heartbeat_due:
            holds = [held.task.hold for held in self.held.values()]
            self._is_heartbeat_due = False
        page = Page(self._settlements, list(self._progress.values()), holds)
        self._in_flight = len(self._settlements)
        self._settlements = []
        self._progress.clear()
        return page

    def told(self) -> None:
        """Note that the page that was taken is durable at the backend."""
        self._in_flight = 0
        if not self.held and not self._settlements:
            self.is_clear.set()

    def all_held(self) -> Sequence[Held]:
        """Return every held task, oldest first."""
        return list(self.held.values())
