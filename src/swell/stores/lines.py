"""Counts of the ready tasks, and the virtual clocks of fair queueing, in memory."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from swell.fairness import VirtualClock, band

#: Clocks between the users of a key. Beyond these, clocks of keys without ready tasks are dropped.
MAX_CLOCKS: Final = 10_000

#: (flow, start tag, cost) of a task.
_Share = tuple[str, float, float]


class Line:
    """Counts ready tasks and their samples, such as those of one key in one queue and band."""

    __slots__ = ("n", "samples")

    def __init__(self, n: int = 0, samples: int = 0) -> None:
        self.n = n
        self.samples = samples

    def add(self, n: int, samples: int) -> None:
        """Add to both counts; negative numbers subtract."""
        self.n += n
        self.samples += samples


class Waiting:
    """The ready tasks of each key, and the clocks that decide the order."""

    def __init__(self) -> None:
        #: (model, band) → clock between keys. A task gets this tag when it is leased.
        self.turns: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        #: (model, key, priority) → clock between users. A task gets this tag when it is ready.
        self.clocks: dict[tuple[str, str, int], VirtualClock] = {}
        self._max_clocks = MAX_CLOCKS
        #: Queue → number of ready tasks; none is 0.
        self.ready: dict[str, int] = {}
        #: Queue → band → key → its ready tasks, in order of arrival; none is empty.
        self.lines: dict[str, dict[int, dict[str, Line]]] = {}
        #: The model of the last lease.
        self.last_model: str | None = None
        #: See `swell.fairness.take_bands`.
        self.passed: dict[str, int] = {}

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock between the users of a key."""
        clock = self.clocks.get((model, key_id, priority))
        if clock is None:
            if len(self.clocks) >= self._max_clocks:
                self._drop_idle_clocks()
            clock = self.clocks[model, key_id, priority] = VirtualClock()
        return clock

    def _drop_idle_clocks(self) -> None:
        bands = [lines for of_queue in self.lines.values() for lines in of_queue.values()]
        waiting = {key_id for lines in bands for key_id in lines}
        self.clocks = {key: clock for key, clock in self.clocks.items() if key[1] in waiting}
        # As in `VirtualClock`, so that a call is cheap on average.
        self._max_clocks = max(MAX_CLOCKS, 2 * len(self.clocks))

    def queues_of(self, model: str) -> list[str]:
        """Return the queues of a model and its versions that have ready tasks."""
        versions = f"{model}:"
        return [queue for queue in self.ready if queue == model or queue.startswith(versions)]

    def restore(self, lines: Iterable[Any], shares: Iterable[Any]) -> None:
        """Replace the counts by rows of `ready_lines`; advance the clocks by `open_shares`."""
        self.ready, self.lines = {}, {}
        for queue, priority, key_id, n, samples in lines:
            self.count(queue, band(priority), key_id, n, samples)
        found: dict[tuple[str, str, int], tuple[list[_Share], list[_Share]]] = {}
        for model, key_id, priority, flow, was_served, tag, end in shares:
            both = found.setdefault((model, key_id, priority), ([], []))
            both[was_served].append((flow, tag, end - tag))
        for key, (waiting, served) in found.items():
            self.clock(*key).restore(waiting, served)

    def count(self, queue: str, band_: int, key_id: str, n: int, samples: int) -> None:
        """Add ready tasks and their samples; negative numbers subtract."""
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
