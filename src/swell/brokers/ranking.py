"""How many tasks of other keys come before one: for brokers that keep order in a database."""

from swell.fairness import VirtualClock, turns_before
from swell.stores.lines import Line

__all__ = ["EXACT_RANKS", "MAX_LINES", "Others"]

#: Ranks are counted exactly up to here.
EXACT_RANKS = 200

#: Where the keys that wait make more lines than this, a rank looks at every second, or third, only.
MAX_LINES = 100


class Others:
    """What the other keys of a band have done before a key's task is next.

    Args:
        turns: The clock between the keys.
        key_id: Whose task it is.
        samples: How much of that key comes before it.
    """

    def __init__(self, turns: VirtualClock, key_id: str, samples: int) -> None:
        self._turns = turns
        self._key_id = key_id
        self._start = turns.peek(key_id) + samples
        #: Key → what waits of it, and for how many keys it stands.
        self._lines: dict[str, tuple[Line, int]] = {}
        #: Whether every task that was counted costs the same.
        self.is_exact = True

    def add(self, key_id: str, line: Line, stands_for: int) -> None:
        """Count what waits of a key in one queue; who came first first."""
        known = self._lines.get(key_id)
        if known is None:
            known = self._lines[key_id] = (Line(), stands_for)
        known[0].add(line.n, line.samples)

    def before(self) -> tuple[int, int]:
        """Return how many tasks of other keys come before, and their samples."""
        n = samples = 0
        # Who came first wins a tie.
        wins_tie = True
        for key_id, (line, stands_for) in self._lines.items():
            if key_id == self._key_id:
                wins_tie = False
                continue
            cost = line.samples / line.n
            lead = self._start - self._turns.peek(key_id)
            found = turns_before(lead, line.n, cost, wins_tie=wins_tie)
            n += stands_for * found
            samples += stands_for * round(found * cost)
            self.is_exact = self.is_exact and (cost == 1 or found in (0, line.n))
        return n, samples
