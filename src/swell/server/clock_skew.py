"""Clock skew: how far this backend's clock is ahead of the database's."""

from collections.abc import Callable
from typing import Final

import structlog

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.db.task_store import Store

_log = structlog.get_logger("swell.api")

#: With a larger difference, a backend grants no leases and sweeps nothing, in seconds.
MOST_SKEW_S: Final = 3.0


class Skew:
    """The difference between this clock and the database's. It shows a local clock step at once.

    Args:
        store: The database. SQLite uses this clock, so it never differs.
        clock: The backend's clock.
        changed: Called when the clock becomes wrong, and when it is right again.
    """

    def __init__(self, store: Store, clock: Clock, changed: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        #: Wall time by the database's clock minus monotonic time; None if it has no clock.
        self.right_s: float | None = None
        self._was_wrong = False

    @property
    def ahead_s(self) -> float:
        """How far this clock is ahead of the database's, in seconds; 0 if unknown."""
        return 0.0 if self.right_s is None else self._offset_s() - self.right_s

    @property
    def refusal(self) -> str:
        """Why this backend hands out no leases, and what to do; empty while its clock is right.

        With a wrong clock, its leases and deadlines would harm those of other backends.
        """
        if self.right_s is None or abs(ahead_s := self.ahead_s) <= MOST_SKEW_S:
            return ""
        where = "ahead of" if ahead_s > 0 else "behind"
        return (
            f"this backend's clock is {abs(ahead_s):.1f} s {where} the database's, and may "
            f"differ by {MOST_SKEW_S:.0f} s: synchronise the clocks of both machines (NTP)"
        )

    def check(self) -> None:
        """Raise if the clock is wrong.

        Raises:
            Unavailable: The clock is wrong.
        """
        if self.refusal:
            raise Unavailable(self.refusal)

    async def compare(self) -> None:
        """Ask the database for its time.

        Raises:
            Unavailable: It does not answer. The known difference stays.
        """
        ahead_s = await self._store.clock_ahead_s()
        if ahead_s is None:
            return
        self.right_s = self._offset_s() - ahead_s
        is_wrong = bool(self.refusal)
        if is_wrong is not self._was_wrong:
            self._was_wrong = is_wrong
            if is_wrong:
                text = "clock skew: the clock differs from the database's, no leases are granted"
                _log.error(text, ahead_s=round(ahead_s, 3))
            else:
                _log.info("clock skew: the clock is right again", ahead_s=round(ahead_s, 3))
            self._changed()

    def _offset_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic_s()
