"""How far this backend's clock is from the database's, which all backends compare with."""

from typing import Final

import structlog

from swell.clock import Clock
from swell.errors import Unavailable
from swell.store import Store

__all__ = ["COMPARE_EVERY_S", "MOST_SKEW_S", "Skew"]

_log = structlog.get_logger("swell.api")

#: A backend whose clock differs by more hands out no leases and sweeps nothing, in seconds.
MOST_SKEW_S: Final = 3.0

#: How often the clocks are compared, in seconds.
COMPARE_EVERY_S: Final = 2.0


class Skew:
    """The difference between two clocks, also where one is set between two comparisons.

    Args:
        store: Whose clock is compared with; a store without one never differs.
        clock: The backend's.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        #: Wall time less monotonic time, as it would be by the database's clock.
        self._right_s: float | None = None
        self._was_wrong = False

    @property
    def ahead_s(self) -> float:
        """By how much this clock is ahead of the database's, in seconds; 0 where that has none."""
        return 0.0 if self._right_s is None else self._offset_s() - self._right_s

    @property
    def is_wrong(self) -> bool:
        """Whether leases and deadlines by this clock would harm those of other backends."""
        return abs(self.ahead_s) > MOST_SKEW_S

    def check(self) -> None:
        """Raise where the clock is wrong.

        Raises:
            Unavailable: With the difference, and what to do.
        """
        if self.is_wrong:
            where = "ahead of" if self.ahead_s > 0 else "behind"
            raise Unavailable(
                f"this backend's clock is {abs(self.ahead_s):.1f} s {where} the database's, and "
                f"may differ by {MOST_SKEW_S:.0f} s: synchronise the clocks of both machines (NTP)"
            )

    async def compare(self) -> None:
        """Ask the database for its time.

        Raises:
            Unavailable: It does not answer. What was known stays.
        """
        ahead_s = await self._store.clock_ahead_s()
        if ahead_s is None:
            return
        self._right_s = self._offset_s() - ahead_s
        if self.is_wrong is not self._was_wrong:
            self._was_wrong = self.is_wrong
            if self.is_wrong:
                _log.error(
                    "the clock differs from the database's: no leases are handed out",
                    ahead_s=round(ahead_s, 3),
                )
            else:
                _log.info("the clock agrees with the database's again", ahead_s=round(ahead_s, 3))

    def _offset_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic_s()
