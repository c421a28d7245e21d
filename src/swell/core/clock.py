"""Time, passed in and never reached for.

Everything that needs the time takes a `Clock`. Only this file reads the machine's clock, so that
tests and the simulator can move time by hand.
"""

import asyncio
import heapq
import itertools
import os
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

_imported_s = time.monotonic()


def process_age_s() -> float:
    """Return for how long this process has run, in seconds.

    Where the system does not say, since this module was imported.

    Source:
        proc_pid_stat(5): field 22, in ticks since the system was booted.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - _imported_s


def since_boot_s() -> float | None:
    """Return for how long this machine has run, in seconds; None where the system does not say.

    The same for all processes of a container, and it cannot be set.

    Source:
        clock_gettime(2): CLOCK_BOOTTIME.
    """
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return None


class Clock(Protocol):
    """Time and sleeping.

    Guarantees:
        `now` is aware and in UTC. `monotonic_s` never goes back within a process.
    """

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment, for measuring durations."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds of this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    #: The wall time, aware, in UTC.
    now = staticmethod(partial(datetime.now, UTC))
    #: The operating system's monotonic seconds; asked several times for each task.
    monotonic_s = staticmethod(time.monotonic)

    async def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds."""
        await asyncio.sleep(duration_s)


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
