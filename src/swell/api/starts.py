"""What one backend process remembers of startups: bounds on what is new, and the last answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from swell.clock import Clock
from swell.errors import TooManyRequests
from swell.phases import Startup, StartupState, family

#: So many pools, and sets of models, may be new within `_FORGOTTEN_S`; so many may be under way.
MAX_POOLS: Final = 1_000
MAX_FAMILIES: Final = 10_000
MAX_UNDER_WAY: Final = 5_000

#: After so long what was heard counts no more, in seconds: far longer than between two heartbeats.
_FORGOTTEN_S: Final = 3600.0

#: An answer is good for so many times as long as it took to make, up to this, in seconds.
_AS_OFTEN: Final = 10.0
_MAX_AGE_S: Final = 10.0


class Starts:
    """Bounds for those who tell that they start, and the times of pools, worked out seldom."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[str, float] = {}
        self._families: dict[str, float] = {}
        self._under_way: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._answer = b""
        self._good_until_s = 0.0

    def admit(self, startup: Startup) -> None:
        """Note who starts.

        Raises:
            TooManyRequests: There are too many already.
        """
        self._note(self._pools, startup.pool, MAX_POOLS, "pools")
        self._note(self._families, family(startup), MAX_FAMILIES, "sets of models")
        if startup.state is StartupState.STARTING:
            self._note(self._under_way, startup.id, MAX_UNDER_WAY, "workers")

    def _note(self, known: dict[str, float], key: str, most: int, what: str) -> None:
        now_s = self._clock.monotonic_s()
        if key not in known and len(known) >= most:
            for each in [each for each, at_s in known.items() if at_s <= now_s - _FORGOTTEN_S]:
                del known[each]
            if len(known) >= most:
                raise TooManyRequests(
                    f"{most:,} {what} have reported a start within the last hour: start "
                    "fewer at a time, or reuse known names",
                    headers={"Retry-After": str(int(_FORGOTTEN_S))},
                )
        known[key] = now_s

    def over(self, startup: Startup) -> None:
        """Note that one is not under way any more."""
        self._under_way.pop(startup.id, None)

    async def answer(self, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what was made lately, or make it: one at a time, and seldom where it is slow."""
        async with self._lock:
            begun_s = self._clock.monotonic_s()
            if begun_s >= self._good_until_s:
                self._answer = await make()
                now_s = self._clock.monotonic_s()
                self._good_until_s = now_s + min(_MAX_AGE_S, _AS_OFTEN * (now_s - begun_s))
            return self._answer
