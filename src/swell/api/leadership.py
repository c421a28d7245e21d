"""Which of several backends does what one must do for all.

A duty is leased from the registry, and renewed long before its lease ends; a backend that dies is
replaced when that is over, one that stops gives its duties back and tells the others so. Two may
have a duty for a moment, where a process hung for longer than its lease: whatever is done under one
must bear that, and does, since the store judges every write.
"""

import asyncio
import contextlib
from typing import Final

from swell.api.skew import Skew
from swell.bus import Bus, News, NewsKind
from swell.clock import Clock
from swell.db.registry import Registry
from swell.errors import SwellError

#: A backend that dies is replaced after so long, in seconds.
DUTY_LEASE_S: Final = 6.0
#: A duty is renewed, or asked for, so often, in seconds.
_ASK_EVERY_S: Final = 1.5


class Leadership:
    """The duties of one process.

    Args:
        registry: Where duties are leased.
        bus: By which the others hear of a duty that was given back.
        clock: The time.
        holder: Names this process.
        is_shared: Whether there may be others; a process that is alone has every duty.
        skew: The clock's skew. While the clock is wrong, this process leads nothing.
    """

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        clock: Clock,
        holder: str,
        *,
        is_shared: bool,
        skew: Skew,
    ) -> None:
        self._skew = skew
        self._registry = registry
        self._bus = bus
        self._clock = clock
        self._holder = holder
        self._is_shared = is_shared
        #: Duty → whether it is held, and until when that is not asked again, in monotonic seconds.
        self._known: dict[str, tuple[bool, float]] = {}
        self._vacant = asyncio.Event()

    async def leads(self, duty: str) -> bool:
        """Whether this process has a duty now; takes it where nobody has.

        Raises:
            SwellError: The registry cannot be asked. The duty counts as another's.
        """
        if not self._is_shared:
            return True
        if self._skew.is_wrong:
            await self.leave()
            return False
        now_s = self._clock.monotonic_s()
        known = self._known.get(duty)
        if known is not None and now_s < known[1]:
            return known[0]
        self._known.pop(duty, None)
        is_held = await self._registry.take_duty(duty, self._holder, lease_s=DUTY_LEASE_S)
        # From before the call, so that the answer's way counts against the lease.
        self._known[duty] = (is_held, now_s + _ASK_EVERY_S)
        return is_held

    async def wait(self) -> None:
        """Wait until it is worth asking again for a duty that another has."""
        vacant = asyncio.ensure_future(self._vacant.wait())
        passing = asyncio.ensure_future(self._clock.sleep(_ASK_EVERY_S))
        try:
            await asyncio.wait({vacant, passing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            vacant.cancel()
            passing.cancel()

    def hear_of_vacancies(self) -> None:
        """Ask again now, since another has given its duties back."""
        self._known = {duty: known for duty, known in self._known.items() if known[0]}
        vacant, self._vacant = self._vacant, asyncio.Event()
        vacant.set()

    async def leave(self) -> None:
        """Give all duties back."""
        held = [duty for duty, known in self._known.items() if known[0]]
        self._known.clear()
        # Where that fails, the leases end by themselves.
        with contextlib.suppress(SwellError):
            for duty in held:
                await self._registry.leave_duty(duty, self._holder)
        if held:
            await self._bus.tell([News(kind=NewsKind.VACANT)])
