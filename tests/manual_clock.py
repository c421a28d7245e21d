"""Clocks for tests."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

T = TypeVar("T")


def time_skipper() -> Callable[[float], None]:
    """Return what puts the running loop's clock forward by seconds; what is due happens then.

    For limits far longer than any pause of the machine, in tests that last a moment.
    """
    loop = asyncio.get_running_loop()
    real_s, ahead_s = loop.time, 0.0

    def skip(duration_s: float) -> None:
        nonlocal ahead_s
        ahead_s += duration_s

    loop.time = lambda: real_s() + ahead_s  # type: ignore[method-assign]
    return skip


async def in_fast_time(work: Awaitable[T], skip: Callable[[float], None]) -> T:
    """Await work while half a second of the loop passes with each millisecond."""
    running = asyncio.ensure_future(work)
    while not running.done():
        skip(0.5)
        await asyncio.sleep(0.001)
    return running.result()


class ManualClock:
    """A clock that only `advance` moves.

    Sleepers wake in order of their due time while the clock advances.
    """

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the time that was set."""
        return self._now

    def monotonic_s(self) -> float:
        """Return the seconds advanced so far."""
        return self._elapsed_s

    async def sleep(self, duration_s: float) -> None:
        """Wait until the clock has been advanced by `duration_s`."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due_s = self._elapsed_s + duration_s
        heapq.heappush(self._sleepers, (due_s, next(self._order), done))
        await done

    def advance(self, duration_s: float) -> None:
        """Move time forward and wake every sleeper that is due.

        Raises:
            ValueError: `duration_s` is negative.
        """
        if duration_s < 0:
            raise ValueError("time does not go back")
        target_s = self._elapsed_s + duration_s
        while self._sleepers and self._sleepers[0][0] <= target_s:
            _, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                done.set_result(None)
        self._elapsed_s = target_s
        self._now += timedelta(seconds=duration_s)

    def set_back(self, duration_s: float) -> None:
        """Move wall time back, as an operator who corrects the clock does; nothing else changes."""
        self._now -= timedelta(seconds=duration_s)
