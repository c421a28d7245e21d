"""Which steps to rehearse while nobody draws, to know what they take when a crowd comes. Pure.

A crowd has better things to do than to try larger batches, and it disturbs what is measured: others
want the processor as well. So a larger step is tried with nobody's samples, several times, and the
shortest counts. Moments in which nobody draws are disturbed too, now and then, for as long as they
last. So before it is believed that a larger step gains nothing, it is compared with one of half the
rows again, in other such moments.

What is known of steps that were drawn is from as many moments, slow ones among them, and by some
percent more or less it is decided how many run together. So all that ran in this process are
rehearsed once more, in one moment, and count together or not at all. That moment may be a slow one
as well, which the next drawn steps show for some buckets only: so other moments do the same.
"""

from collections.abc import Sequence
from typing import Final

from swell.worker.curve import BUCKETS, Curve, flat_end, next_size

#: Whoever comes while a step is rehearsed waits until it ends: a longer one is left to a crowd.
LONGEST_S: Final = 0.5

#: A step that takes so many times what was expected has compiled something. Larger ones would too,
#: so they are left to who needs them.
SURPRISE: Final = 8.0

#: Moments in which it is looked at again whether the largest step gains nothing.
LOOKS: Final = 3

#: So often each step that is known is rehearsed in a moment, in so many of them; one that ends too
#: soon counts as well, since each step is one that somebody may have to wait for.
TIMES: Final = 3
ROUNDS: Final = 5


class Rehearsal:
    """What is to be rehearsed in this process of batch keys whose steps take the same.

    Args:
        stored: What was known before any of them ran here.
    """

    def __init__(self, stored: Curve | None = None) -> None:
        self._stored = stored or Curve()
        #: Rows beyond which nothing is rehearsed, whatever fits.
        self._most = BUCKETS[-1]
        #: Rows that were rehearsed before, so that nothing of them is to be compiled any more.
        self._ran: set[int] = set()
        self._looks = 0
        self._left: list[int] = []
        self._is_new_moment = True
        #: Rows → what a step of them took in this moment, each time.
        self._took: dict[int, list[float]] = {}
        self._rounds = ROUNDS
        #: What is rehearsed once more in this moment, and whether that is over.
        self._known: list[int] = []
        self._is_renewed = False

    def interrupt(self) -> None:
        """Somebody has drawn: the next moment is another one."""
        self._is_new_moment = True
        self._left.clear()
        self._took.clear()
        self._known.clear()
        self._is_renewed = False

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
        larger = next_size(curve, largest, widest, believes=True)
        if larger is not None and curve.seconds(larger) <= LONGEST_S:
            return larger
        short = [
            rows for rows in curve.measured if rows <= largest and curve.seconds(rows) <= LONGEST_S
        ]
        return self._look_again(curve, short) or self._once_more(curve, short)

    def _look_again(self, curve: Curve, short: Sequence[int]) -> int | None:
        if self._is_new_moment and self._looks < LOOKS:
            end = flat_end(curve)
            if end is not None and end[-1] in short:
                self._is_new_moment = False
                self._looks += 1
                self._left = list(end)
        return self._left[0] if self._left and self._left[-1] in short else None

    def _once_more(self, curve: Curve, short: Sequence[int]) -> int | None:
        if not set(self._known) <= set(short):
            self._known = []  # there is no room for all of them any more
        if not self._known and self._rounds and not self._is_renewed:
            known = [rows for rows in short if rows in BUCKETS and self._has_run(curve, rows)]
            # One alone has nothing that it is compared with.
            if len(known) > 1:
                self._rounds -= 1
                self._known = known
        rows = min(self._known, key=self._times, default=None)
        return None if rows is None or self._times(rows) >= TIMES else rows

    def _times(self, rows: int) -> int:
        return len(self._took.get(rows, ()))

    def _has_run(self, curve: Curve, rows: int) -> bool:
        return rows in self._ran or curve.count(rows) > self._stored.count(rows)

    def is_first(self, curve: Curve, rows: int) -> bool:
        """Whether a step of so many rows has not run here yet, and may compile something."""
        return not self._has_run(curve, rows)

    def tried(self, curve: Curve, rows: int, seconds: float) -> Curve:
        """Return what is known after a step of so many rows took so long."""
        is_first = self.is_first(curve, rows)
        self._ran.add(rows)
        if is_first and seconds > SURPRISE * curve.seconds(rows):
            self._most = min(self._most, rows)
            self._left.clear()
            return curve
        self._took.setdefault(rows, []).append(seconds)
        if self._left and self._left[0] == rows:
            self._left.pop(0)
        elif rows in self._known:
            if any(self._times(each) < TIMES for each in self._known):
                return curve
            known, self._known, self._is_renewed = self._known, [], True
            return curve.renew({each: min(self._took[each]) for each in known})
        return curve.rehearse(rows, seconds)
