"""When a backend looks at what others have accepted, and tells them of its own. Pure.

Whatever is in the table may be handed out by any backend, and a look at it costs a way to the
server, keeps the next group from being sent, and what is taken was in another's memory. So a
backend goes on with what it has accepted itself, for as long as nobody waits for long because of
it; and while its workers take what it accepts, the others need not look, until it tells them.
"""

import math
from typing import Final

#: What others have accepted is passed over for so long where there is work of one's own, in
#: seconds.
OVERLOOKED_S: Final = 0.1

#: A backend that hands out what it accepts tells others of what has waited for so long, in seconds.
PATIENCE_S: Final = 0.05

#: How long ago "lately" may be, in seconds.
_LATELY_S: Final = 0.05


class Others:
    """What is known of the times, by queue; all are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._looked_s: dict[str, float] = {}
        self._served_s: dict[str, float] = {}

    def are_due(self, queue: str, now_s: float) -> bool:
        """Whether to see, before own work is taken, if others' has waited."""
        return now_s >= self._looked_s.get(queue, -math.inf) + OVERLOOKED_S

    def looked(self, queue: str, now_s: float) -> None:
        """Note that nothing of others' has waited, or that what has was there to be taken.

        Whoever saw it and took something of another model has not looked.
        """
        self._looked_s[queue] = now_s

    def handed_out(self, queue: str, now_s: float) -> None:
        """Note that a worker of this backend got something."""
        self._served_s[queue] = now_s

    def can_wait(self, queue: str, now_s: float) -> bool:
        """Whether workers of this backend have got something lately.

        If so, what is left here will soon be taken, and what others have left they tell of.
        """
        return now_s < self._served_s.get(queue, -math.inf) + _LATELY_S
