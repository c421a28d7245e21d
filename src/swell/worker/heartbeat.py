"""Extends leases well before they expire, however long a model runs."""

from typing import Final

from swell.core.clock import Clock
from swell.worker.inflight import InflightTasks

#: Share of the longest allowed pause between heartbeats, so that one may get lost.
MARGIN: Final = 0.5


async def keep_beating(tasks: InflightTasks, clock: Clock, heartbeat_s: float) -> None:
    """Extend the leases of tasks in flight, until cancelled.

    Short tasks need no heartbeat, since each report of the worker is one.
    """
    while True:
        await clock.sleep(heartbeat_s * MARGIN)
        tasks.beat()
