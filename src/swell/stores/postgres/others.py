"""When a backend looks at what others have accepted. Pure.

Whatever is in the table may be handed out by any backend, and a look at it costs a way to the
server, keeps the next group from being sent, and what is taken was in another's memory. So a
backend goes on with what it has accepted itself, for as long as nobody waits for long because of
it.
"""

import math
from typing import Final

__all__ = ["OVERLOOKED_S", "PATIENCE_S", "Others"]

#: What others have accepted is passed over for so long where there is work of one's own, in
#: seconds.
OVERLOOKED_S: Final = 0.1

#: A backend that has had work of its own lately leaves others so much time to hand out theirs, and
#: asks so often whether they did, in seconds.
PATIENCE_S: Final = 0.02

#: How long ago "lately" may be, in seconds.
_LATELY_S: Final = 0.05


class Others:
    """What is known of the times, by queue; all are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._looked_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}
        self._served_s: dict[str, float] = {}

    def are_due(self, queue: str, now_s: float) -> bool:
        """Whether to see, before own work is taken, if others' has waited."""
        return now_s >= self._looked_s.get(queue, -math.inf) + OVERLOOKED_S

    def looked(self, queue: str, now_s: float) -> None:
        """Note that nothing of others' has waited, or that what has was there to be taken.

        Whoever saw it and took something of another model has not looked.
        """
        self._looked_s[queue] = now_s

    def served(self, queue: str, now_s: float) -> None:
        """Note that own work is handed out."""
        self._served_s[queue] = now_s

    def least_age_s(self, queue: str, now_s: float) -> float | None:
        """Return how long others' work must have waited to be taken, in seconds, by one with none.

        None where it was asked a moment ago.
        """
        if now_s >= self._served_s.get(queue, -math.inf) + _LATELY_S:
            return 0.0
        if now_s < self._asked_s.get(queue, -math.inf) + PATIENCE_S:
            return None
        self._asked_s[queue] = now_s
        return PATIENCE_S
