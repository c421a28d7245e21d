"""Which steps to rehearse while nobody draws, to know what they take when a crowd comes. Pure.

A crowd has better things to do than to try larger batches, and it disturbs what is measured: others
want the processor as well. So a larger step is tried with nobody's samples, several times, and the
shortest counts. Moments in which nobody draws are disturbed too, now and then, for as long as they
last. So before it is believed that a larger step gains nothing, it is compared with one of half the
rows again, in other such moments.
"""

from typing import Final

from swell.worker.curve import BUCKETS, Curve, flat_end, next_size

__all__ = ["LONGEST_S", "Rehearsal"]

#: Whoever comes while a step is rehearsed waits until it ends: a longer one is left to a crowd.
LONGEST_S: Final = 0.5

#: A step that takes so many times what was expected has compiled something. Larger ones would too,
#: so they are left to who needs them.
SURPRISE: Final = 8.0

#: Moments in which it is looked at again whether the largest step gains nothing.
LOOKS: Final = 3


class Rehearsal:
    """What is to be rehearsed in this process of batch keys whose steps take the same."""

    def __init__(self) -> None:
        #: Rows beyond which nothing is rehearsed, whatever fits.
        self._most = BUCKETS[-1]
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
        self._most = 0

    def next(self, curve: Curve, largest: int, widest: int = 1) -> int | None:
        """Return how many rows the next step should have, or None where nothing is to be learnt.

        Args:
            curve: What is known.
            largest: Rows that fit into memory; at least 1.
            widest: Rows of the narrowest sample: 1, or 2 if all have guidance.
        """
        largest = min(largest, self._most)
        if not largest:
            return None
        # The shortest of a few counts, and other moments have a look as well.
        rows = next_size(curve, largest, widest, believes=True)
        if rows is None:
            rows = self._look_again(curve, largest)
        return None if rows is None or curve.seconds(rows) > LONGEST_S else rows

    def _look_again(self, curve: Curve, largest: int) -> int | None:
        if self._is_new_moment and self._looks < LOOKS:
            end = flat_end(curve)
            if end is not None:
                self._is_new_moment = False
                self._looks += 1
                self._left = list(end)
        return self._left[0] if self._left and max(self._left) <= largest else None

    def is_first(self, rows: int) -> bool:
        """Whether a step of so many rows was not rehearsed before, and may compile something."""
        return rows not in self._ran

    def tried(self, curve: Curve, rows: int, seconds: float) -> Curve:
        """Return what is known after a step of so many rows took so long."""
        is_first = self.is_first(rows)
        self._ran.add(rows)
        if is_first and seconds > SURPRISE * curve.seconds(rows):
            self._most = min(self._most, rows)
            return curve
        if self._left and self._left[0] == rows:
            self._left.pop(0)
        return curve.rehearse(rows, seconds)
