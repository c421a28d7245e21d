"""What one backend process remembers of startups: bounds on what is new, and the last answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from swell.clock import Clock
from swell.errors import TooManyRequests
from swell.phases import Startup, StartupState, family

__all__ = ["Starts"]

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
        now_s = self._clock.monotonic_s()
        for what, known, key, most in (
            ("pools", self._pools, startup.pool, MAX_POOLS),
            ("sets of models", self._families, family(startup), MAX_FAMILIES),
            ("workers", self._under_way, startup.id, MAX_UNDER_WAY),
        ):
            if key not in known and len(known) >= most:
                _forget(known, now_s - _FORGOTTEN_S)
                if len(known) >= most:
                    raise TooManyRequests(
                        f"{most:,} {what} were told of as starting within the last hour: "
                        "start fewer at a time, or under names that are known",
                        headers={"Retry-After": str(int(_FORGOTTEN_S))},
                    )
        for known, key in (
            (self._pools, startup.pool),
            (self._families, family(startup)),
            (self._under_way, startup.id),
        ):
            known[key] = now_s
        if startup.state is not StartupState.STARTING:
            self.over(startup)

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


def _forget(known: dict[str, float], before_s: float) -> None:
    for key in [key for key, heard_s in known.items() if heard_s <= before_s]:
        del known[key]
