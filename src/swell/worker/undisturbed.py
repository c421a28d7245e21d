"""What a step would have taken if nobody else had wanted the processors. Pure.

Where a network runs on the machine's own processors, a step takes longer whenever others compute
too: whoever encodes pictures, a backend, a neighbour. That is no property of the model, and a cost
curve that was learnt at such a moment says that larger batches do not pay, or that they do. What
hardly changes is the time that processors spend on the step. So one that was disturbed is counted
by that, divided by how many processors it uses when it can have them: of as many rows or fewer,
since more rows keep no fewer processors busy.

The system tells what threads have spent with an error of some milliseconds, so short steps are
counted by the clock, and so is a network that runs elsewhere or waits.
"""

import heapq
from typing import Final

#: Steps that take less, in seconds, are counted by the clock.
_SHORT_S: Final = 0.02

#: Whoever uses fewer processors than this, at best, does not compute here.
_COMPUTES: Final = 0.5

#: A step was disturbed if it had less than so much of the processors that it can use.
_DISTURBED: Final = 0.85

#: The most that was seen may be an error, and the second most. This one is believed.
_BELIEVED: Final = 3


class Undisturbed:
    """Of the steps of one batch key.

    Args:
        processors: How many there are for this process.
    """

    def __init__(self, processors: int) -> None:
        self._processors = float(processors)
        #: Rows → the most processors that were seen busy in steps of so many, as a heap.
        self._most: dict[int, list[float]] = {}

    def seconds(self, rows: int, wall_s: float, cpu_s: float) -> float:
        """Return what a step would have taken; never more than it took.

        Args:
            rows: That it had, padding included.
            wall_s: What it took by the clock.
            cpu_s: Seconds of all processors together that this process spent meanwhile.
        """
        if wall_s < _SHORT_S:
            return wall_s
        busy = cpu_s / wall_s
        seen = self._most.setdefault(rows, [])
        if len(seen) < _BELIEVED:
            heapq.heappush(seen, busy)
        else:
            heapq.heappushpop(seen, busy)
        full = [each[0] for few, each in self._most.items() if few <= rows and _is_enough(each)]
        uses = min(max(full, default=0.0), self._processors)
        if uses < _COMPUTES or busy >= _DISTURBED * uses:
            return wall_s
        return cpu_s / uses


def _is_enough(seen: list[float]) -> bool:
    return len(seen) == _BELIEVED
