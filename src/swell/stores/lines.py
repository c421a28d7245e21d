"""Counts of ready tasks by queue, band and key, and the clocks of fair queueing."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from swell.fairness import VirtualClock, band

#: Virtual clocks of keys' users that are kept, before those of keys without waiting tasks go.
MAX_CLOCKS: Final = 10_000

#: (flow, start tag, cost) of the tasks of one flow.
_Share = tuple[str, float, float]


class Line:
    """The ready tasks of one key in one queue and band."""

    __slots__ = ("n", "samples")

    def __init__(self, n: int = 0, samples: int = 0) -> None:
        self.n = n
        self.samples = samples

    def add(self, n: int, samples: int) -> None:
        """Add to the counts."""
        self.n += n
        self.samples += samples


class Waiting:
    """Counts of ready tasks, and clocks for the turns of models, keys and users, in memory."""

    def __init__(self) -> None:
        #: (model, band) → clock between keys, which get their tags when a worker asks.
        self.turns: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        #: (model, key, priority) → clock between users, who get their tags on arrival.
        self.clocks: dict[tuple[str, str, int], VirtualClock] = {}
        self._max_clocks = MAX_CLOCKS
        #: Queue → how many of its tasks are ready.
        self.ready: dict[str, int] = {}
        #: Queue → band → key → its ready tasks, in order of arrival; none is empty.
        self.lines: dict[str, dict[int, dict[str, Line]]] = {}
        #: The model that the last lease took from.
        self.last_model: str | None = None
        #: Model → how many leases in a row passed it in its turn.
        self.passed: dict[str, int] = {}

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock of a key's users."""
        clock = self.clocks.get((model, key_id, priority))
        if clock is None:
            if len(self.clocks) >= self._max_clocks:
                self._forget_clocks()
            clock = self.clocks[model, key_id, priority] = VirtualClock()
        return clock

    def _forget_clocks(self) -> None:
        # Users of a key without waiting tasks start again. As in `VirtualClock`, the next check
        # waits until there are twice as many.
        bands = [lines for of_queue in self.lines.values() for lines in of_queue.values()]
        waiting = {key_id for lines in bands for key_id in lines}
        self.clocks = {key: clock for key, clock in self.clocks.items() if key[1] in waiting}
        self._max_clocks = max(MAX_CLOCKS, 2 * len(self.clocks))

    def queues_of(self, model: str) -> list[str]:
        """Return the queues with ready tasks of a model and of its versions."""
        versions = f"{model}:"
        return [queue for queue in self.ready if queue == model or queue.startswith(versions)]

    def restore(self, lines: Iterable[Any], shares: Iterable[Any]) -> None:
        """Set counts and clocks from rows of `ready_lines` and `open_shares`.

        Clocks never go back.
        """
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
        """Add to the counts of ready tasks and their samples."""
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
