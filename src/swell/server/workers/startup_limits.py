"""Limits of startups in one backend process, and the cached times of pools."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from swell.core.clock import Clock
from swell.core.errors import TooManyRequests
from swell.core.startup_phases import Startup, family

#: Limits of new names within `_WINDOW_S`.
LIMITS: Final = {"pools": 1_000, "sets of models": 10_000}

#: In seconds; much longer than the interval of heartbeats.
_WINDOW_S: Final = 3600.0

#: An answer is cached for this many times as long as it took to compute, up to this, in seconds.
_AS_OFTEN: Final = 10.0
_MAX_AGE_S: Final = 10.0


class Starts:
    """Limits reports of startups, and caches the times of pools."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Name of a limit → names that were reported, and when.
        self._known: dict[str, dict[str, float]] = {what: {} for what in LIMITS}
        self._lock = asyncio.Lock()
        self._answer = b""
        self._good_until_s = 0.0

    def admit(self, startup: Startup) -> None:
        """Note a startup.

        Raises:
            TooManyRequests: A limit is reached.
        """
        now_s = self._clock.monotonic_s()
        for what, key in (("pools", startup.pool), ("sets of models", family(startup))):
            known, most = self._known[what], LIMITS[what]
            if key not in known and len(known) >= most:
                known = {name: at_s for name, at_s in known.items() if at_s > now_s - _WINDOW_S}
                self._known[what] = known
                if len(known) >= most:
                    raise TooManyRequests(
                        f"{most:,} {what} have reported a start within the last hour: start "
                        "fewer at a time, or reuse known names",
                        headers={"Retry-After": str(int(_WINDOW_S))},
                    )
            known[key] = now_s

    async def answer(self, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the cached answer, or compute it, once for all callers."""
        async with self._lock:
            begun_s = self._clock.monotonic_s()
            if begun_s >= self._good_until_s:
                self._answer = await make()
                now_s = self._clock.monotonic_s()
                self._good_until_s = now_s + min(_MAX_AGE_S, _AS_OFTEN * (now_s - begun_s))
            return self._answer
