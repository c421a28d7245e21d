"""What one backend remembers between its transactions. None of it decides what may be written.

Where this is the only backend, it is exact. Other backends make it stale: a task that was changed
elsewhere is noticed when it is written (its edition), and counts and clocks are read anew from
time to time.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from swell.fairness import VirtualClock, band
from swell.stores.lines import Line
from swell.stores.postgres.rows import Row
from swell.stores.postgres.view import is_ready

__all__ = ["State"]

#: Tasks kept in memory between transactions, and the largest input that is worth it.
MAX_LIVE_TASKS = 50_000
MAX_LIVE_INPUT_BYTES = 4_096

#: Virtual clocks of keys' users that are kept, before those of keys without waiting tasks go.
MAX_CLOCKS = 10_000

#: (flow, start tag, cost) of the tasks of one flow.
Share = tuple[str, float, float]


class State:
    """Tasks that have not ended, what waits of whom, and the clocks of fair queueing."""

    def __init__(self) -> None:
        #: As this backend wrote or read them last; who has lain longest is forgotten first.
        self.live: dict[str, Row] = {}
        #: (model, band) → whose flows are keys: they get their tags when a worker asks.
        self.turns: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        #: (model, key, priority) → whose flows are users: they get their tags on arrival.
        self.clocks: dict[tuple[str, str, int], VirtualClock] = {}
        self._max_clocks = MAX_CLOCKS
        #: Queue → how many of its tasks are ready.
        self.ready: dict[str, int] = {}
        #: Queue → band → key → its ready tasks; none is empty, and who came first stands first.
        self.lines: dict[str, dict[int, dict[str, Line]]] = {}
        #: Queue → its ready tasks among `live`.
        self._known: dict[str, dict[str, None]] = {}
        #: Queues of which others have told that something waits → how often they did.
        self.told: dict[str, int] = {}
        #: The model that the last lease took from.
        self.last_model: str | None = None
        #: Model → how many leases in a row were given others in its turn.
        self.passed: dict[str, int] = {}

    def may_wait(self, queue: str) -> bool:
        """Whether something may be ready in a queue; if not, nothing was when it was looked at."""
        return queue in self.ready or queue in self.told

    def tell(self, queues: Iterable[str]) -> None:
        """Note that others say that something is ready in these."""
        for queue in queues:
            self.told[queue] = self.told.get(queue, 0) + 1

    def found_empty(self, queue: str, told: int) -> None:
        """Note that a look found nothing in a queue of which had been told so often before."""
        if self.told.get(queue, 0) == told:
            self.told.pop(queue, None)
            self.ready.pop(queue, None)
            self.lines.pop(queue, None)

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock of a key's users."""
        clock = self.clocks.get((model, key_id, priority))
        if clock is None:
            if len(self.clocks) >= self._max_clocks:
                self._forget_clocks()
            clock = self.clocks[model, key_id, priority] = VirtualClock()
        return clock

    def _forget_clocks(self) -> None:
        # Where nothing of a key waits, its users start anew. As in `VirtualClock`, the next look
        # waits until there are twice as many.
        bands = [lines for of_queue in self.lines.values() for lines in of_queue.values()]
        waiting = {key_id for lines in bands for key_id in lines}
        self.clocks = {key: clock for key, clock in self.clocks.items() if key[1] in waiting}
        self._max_clocks = max(MAX_CLOCKS, 2 * len(self.clocks))

    def queues_of(self, model: str) -> list[str]:
        """Return the queues of a model, those of its versions included, in which tasks wait."""
        versions = f"{model}:"
        return [queue for queue in self.ready if queue == model or queue.startswith(versions)]

    def restore(self, lines: Iterable[Any], shares: Iterable[Any]) -> None:
        """Take over what the rows of `ready_lines` and `open_shares` say; clocks never go back."""
        self.ready, self.lines = {}, {}
        for queue, priority, key_id, n, samples in lines:
            self.count(queue, band(priority), key_id, n, samples)
        found: dict[tuple[str, str, int], tuple[list[Share], list[Share]]] = {}
        for model, key_id, priority, flow, was_served, tag, end in shares:
            both = found.setdefault((model, key_id, priority), ([], []))
            both[was_served].append((flow, tag, end - tag))
        for key, (waiting, served) in found.items():
            self.clock(*key).restore(waiting, served)

    def count(self, queue: str, band_: int, key_id: str, n: int, samples: int) -> None:
        """Count so many ready tasks and their samples more, or less."""
        ready = self.ready.get(queue, 0) + n
        if ready > 0:
            self.ready[queue] = ready
        else:
            self.ready.pop(queue, None)
        bands = self.lines.setdefault(queue, {})
        lines = bands.setdefault(band_, {})
        line = lines.setdefault(key_id, Line())
        line.add(n, samples)
        if line.n <= 0:
            del lines[key_id]
            if not lines:
                del bands[band_]
            if not bands:
                del self.lines[queue]

    def found_some(self, queue: str, told: int) -> None:
        """Note that a look has seen what is in a queue of which had been told so often before."""
        if self.told.get(queue, 0) == told:
            self.told.pop(queue, None)

    def all_ready(self, queue: str, most: int) -> list[Row] | None:
        """Return all ready tasks of a queue, if they are remembered and no more than `most`."""
        known = self._known.get(queue, {})
        is_whole = len(known) == self.ready.get(queue, 0) and queue not in self.told
        return (
            [self.live[task_id] for task_id in known] if is_whole and len(known) <= most else None
        )

    def remember(self, task_id: str, row: Row) -> None:
        """Keep a task as it lies in the table now, if it has not ended."""
        self._drop(task_id)
        task = row.task
        if task.state.is_terminal or len(memoryview(task.input)) > MAX_LIVE_INPUT_BYTES:
            return
        self.live[task_id] = row
        if is_ready(task):
            self._known.setdefault(task.queue, {})[task_id] = None
        if len(self.live) > MAX_LIVE_TASKS:
            self._drop(next(iter(self.live)))

    def forget(self, task_ids: Iterable[str]) -> None:
        """Read these anew the next time: somebody else has changed one of them."""
        for task_id in task_ids:
            self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        row = self.live.pop(task_id, None)
        if row is not None and is_ready(row.task):
            known = self._known[row.task.queue]
            del known[task_id]
            if not known:
                del self._known[row.task.queue]
