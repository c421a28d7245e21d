"""What a step would have taken if nobody else had wanted the processors. Pure.

Where a network runs on the machine's own processors, a step takes longer whenever others compute
too: whoever encodes pictures, a backend, a neighbour. That is no property of the model, and a cost
curve that was learnt at such a moment says that larger batches do not pay, or that they do. What
hardly changes is the time that processors spend on the step. So it is counted by that, divided by
how many processors it uses when it can have them: the most that was seen, of as many rows or fewer,
since more rows keep no fewer processors busy.

A network that runs elsewhere, or waits, uses next to no processor; then only the clock tells.
"""

from typing import Final

__all__ = ["Undisturbed"]

#: Whoever uses fewer processors than this, at best, does not compute here.
_COMPUTES: Final = 0.5


class Undisturbed:
    """Of the steps of one batch key."""

    def __init__(self) -> None:
        #: Rows → the most processors that were seen busy in a step of so many.
        self._most: dict[int, float] = {}

    def seconds(self, rows: int, wall_s: float, cpu_s: float) -> float:
        """Return what a step would have taken; never more than it took.

        Args:
            rows: That it had, padding included.
            wall_s: What it took by the clock.
            cpu_s: Seconds of all processors together that this process spent meanwhile.
        """
        if wall_s <= 0:
            return wall_s
        busy = cpu_s / wall_s
        if busy > self._most.get(rows, 0.0):
            self._most[rows] = busy
        most = max([seen for fewer, seen in self._most.items() if fewer <= rows], default=0.0)
        return wall_s if most < _COMPUTES else min(wall_s, cpu_s / most)
