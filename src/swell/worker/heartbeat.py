"""Leases are extended well before they run out, however long a model takes."""

from typing import Final

from swell.core.clock import Clock
from swell.worker.inflight import InflightTasks

#: Part of the longest allowed pause between heartbeats: one may get lost without harm.
MARGIN: Final = 0.5


async def keep_beating(desk: InflightTasks, clock: Clock, heartbeat_s: float) -> None:
    """Have the leases on the desk extended, for ever.

    Short tasks are never named: each report is a heartbeat of the worker, and only what is held
    when this loop comes around needs its lease extended.
    """
    while True:
        await clock.sleep(heartbeat_s * MARGIN)
        desk.beat()
