"""Leader election: which of several backends does what only one may do.

A backend leases a role from the registry and renews the lease long before it ends. The leases of a
backend that dies expire; a backend that stops releases its leases. After a process hung for longer
than a lease, two may have the same role for a moment. The work of a role must tolerate that: the
store checks every write.
"""

import contextlib
from typing import Final

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.db.registry import Registry
from swell.server.clock_skew import Skew

#: Another backend replaces a leader that died after this time, in seconds.
DUTY_LEASE_S: Final = 6.0
#: A backend asks the registry for a role at most this often, in seconds.
_ASK_EVERY_S: Final = 1.5


class Leadership:
    """The roles of one process.

    Args:
        registry: Keeps the leases.
        clock: The time.
        holder: The unique name of this process.
        is_shared: Whether there may be other backends; a single one has every role.
        skew: The clock's skew. While the clock is wrong, this process leads nothing.
    """

    def __init__(
        self, registry: Registry, clock: Clock, holder: str, *, is_shared: bool, skew: Skew
    ) -> None:
        self._skew = skew
        self._registry = registry
        self._clock = clock
        self._holder = holder
        self._is_shared = is_shared
        #: Role → (whether this process has it, until when that answer is used).
        self._known: dict[str, tuple[bool, float]] = {}

    async def leads(self, role: str) -> bool:
        """Whether this process has a role now; acquires a free one.

        Raises:
            SwellError: The registry does not answer, so another process may have the role.
        """
        if not self._is_shared:
            return True
        if self._skew.refusal:
            await self.leave()
            return False
        now_s = self._clock.monotonic_s()
        is_held, until_s = self._known.get(role, (False, now_s))
        if now_s < until_s:
            return is_held
        self._known.pop(role, None)
        is_held = await self._registry.take_duty(role, self._holder, lease_s=DUTY_LEASE_S)
        # From before the call, so that its duration counts against the lease.
        self._known[role] = (is_held, now_s + _ASK_EVERY_S)
        return is_held

    async def leave(self) -> None:
        """Release all roles."""
        held = [role for role, known in self._known.items() if known[0]]
        self._known.clear()
        # If that fails, the leases expire.
        with contextlib.suppress(SwellError):
            for role in held:
                await self._registry.leave_duty(role, self._holder)
