"""Time, passed in and never reached for.

Everything that needs the time takes a `Clock`. Only this file reads the machine's clock, so that
tests and the simulator can move time by hand.
"""

import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta

#: A time in a message or a record, with its format in JSON Schema.
Moment = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]

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
        # Imported here because model processes have no event loop.
        import asyncio  # noqa: PLC0415

        await asyncio.sleep(duration_s)
