"""Which steps to rehearse while nobody draws, to know what they take when a crowd comes. Pure.

A crowd has better things to do than to try larger batches, and it disturbs what is measured: others
want the processor as well. So a larger step is tried with nobody's samples, several times, and the
shortest counts. Moments in which nobody draws are disturbed too, now and then, for as long as they
last. So before it is believed that a larger step gains nothing, it is compared with one of half the
rows again, in other such moments.
"""

from typing import Final

from swell.worker.curve import Curve, flat_end, next_size

__all__ = ["LONGEST_S", "Rehearsal"]

#: Whoever comes while a step is rehearsed waits until it ends: a longer one is left to a crowd.
LONGEST_S: Final = 0.5

#: A step that takes so many times what was expected has compiled something. Larger ones would too,
#: so they are left to who needs them.
SURPRISE: Final = 8.0

#: Moments in which it is looked at again whether the largest step gains nothing.
LOOKS: Final = 3


class Rehearsal:
    """What is to be rehearsed of one batch key in this process.

    Args:
        largest: Rows that fit into memory, as far as is known; at least 1.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        #: Rows that were rehearsed before, so that nothing of them is to be compiled any more.
        self._ran: set[int] = set()
        self._looks = 0
        self._left: list[int] = []
        self._is_new_moment = True

    def interrupt(self) -> None:
        """Somebody has drawn: the next moment is another one."""
        self._is_new_moment = True
        self._left.clear()

    def end(self) -> None:
        """Rehearse nothing any more."""
        self._largest = 0

    def next(self, curve: Curve, widest: int) -> int | None:
        """Return how many rows the next step should have, or None where nothing is to be learnt.

        Args:
            curve: What is known.
            widest: Rows of the narrowest sample: 1, or 2 if all have guidance.
        """
        if not self._largest:
            return None
        rows = next_size(curve, self._largest, widest)
        if rows is None:
            rows = self._look_again(curve)
        return None if rows is None or curve.seconds(rows) > LONGEST_S else rows

    def _look_again(self, curve: Curve) -> int | None:
        if self._is_new_moment and self._looks < LOOKS:
            self._is_new_moment = False
            self._looks += 1
            end = flat_end(curve)
            self._left = [] if end is None else [n for n in end if n <= self._largest]
        return self._left[0] if self._left else None

    def is_first(self, rows: int) -> bool:
        """Whether a step of so many rows was not rehearsed before, and may compile something."""
        return rows not in self._ran

    def tried(self, curve: Curve, rows: int, seconds: float) -> Curve:
        """Return what is known after a step of so many rows took so long."""
        is_first = self.is_first(rows)
        self._ran.add(rows)
        if is_first and seconds > SURPRISE * curve.seconds(rows):
            self._largest = min(self._largest, rows)
            return curve
        if self._left and self._left[0] == rows:
            self._left.pop(0)
        return curve.rehearse(rows, seconds)
