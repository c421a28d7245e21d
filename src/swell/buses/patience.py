"""Ending waits, many of them by one timer of the event loop.

To set a timer and take it back costs as much as parsing a request, and nearly every wait for a task
ends before its time. So waits that are over in the same twentieth of a second share a timer, which
stays; a wait that ends early leaves its set.
"""

import asyncio
import math
from typing import Final

#: A wait lasts up to so many seconds longer than it should.
TICK_S: Final = 0.05

Waiter = asyncio.Future[bool]


class Patience:
    """Waits of one event loop, by when they are over."""

    __slots__ = ("_waits",)

    def __init__(self) -> None:
        #: Number of a tick of the loop's clock → who is woken then.
        self._waits: dict[int, set[Waiter]] = {}

    def begin(self, loop: asyncio.AbstractEventLoop, waiter: Waiter, timeout_s: float) -> int:
        """Have a future set to False after `timeout_s` seconds; return what `end` asks for."""
        tick = math.ceil((loop.time() + timeout_s) / TICK_S)
        waits = self._waits.get(tick)
        if waits is None:
            waits = self._waits[tick] = set()
            loop.call_at(tick * TICK_S, self._ring, tick)
        waits.add(waiter)
        return tick

    def end(self, tick: int, waiter: Waiter) -> None:
        """Note that a wait is over."""
        waits = self._waits.get(tick)
        if waits is not None:
            waits.discard(waiter)

    def _ring(self, tick: int) -> None:
        for waiter in self._waits.pop(tick):
            if not waiter.done():
                waiter.set_result(False)
