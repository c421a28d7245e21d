"""Work for many things side by side, over a line that may be slow, flaky, or gone for a while.

It begins with one. Each that goes well makes room for one more. Where one fails, the room is halved
and grows slowly from then on: on a line where all of them together run out of time, so many go side
by side as get through. What failed is tried again, after a wait that grows. A failure before
anything went well is final, since it is no line that broke, but an address or a key that is wrong.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from swell.core.clock import Clock
from swell.core.errors import Unavailable

#: Of one thing.
TRIES: Final = 8

#: Before the second try, doubled for each further one up to the most; a minute in all, in seconds.
_WAIT_S: Final = 0.5
_MOST_WAIT_S: Final = 16.0

_T = TypeVar("_T")


class SideBySide:
    """As many at once as get through.

    Args:
        most: At no time more.
        clock: For waiting.
        tries: How often each thing is tried.
    """

    def __init__(self, most: int, clock: Clock, tries: int = TRIES) -> None:
        self._most = most
        self._clock = clock
        self._tries = tries
        self._room = 1.0
        self._taken = 0
        #: What has failed and is tried again.
        self._again: set[int] = set()
        self._freed = asyncio.Event()
        self._has_gone_well = False
        self._has_failed = False

    async def run(self, things: Iterable[_T], work: Callable[[_T], Awaitable[None]]) -> None:
        """Have work done for each of these.

        Raises:
            Unavailable: One failed in passing at every try, or the first of all did.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for number, thing in enumerate(things):
                    # Nothing new is begun while something is tried again: else a line that is gone
                    # for good would be found out the later, the more there is to do.
                    await self._room_for(lambda: not self._again)
                    group.create_task(self._until_done(number, partial(work, thing)))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _until_done(self, number: int, work: Callable[[], Awaitable[None]]) -> None:
        """Work in the room that was taken for it, and anew for each further try."""
        for failed in range(self._tries):
            if failed:
                await self._clock.sleep(min(_WAIT_S * 2.0 ** (failed - 1), _MOST_WAIT_S))
                await self._room_for()
            try:
                await work()
            except Unavailable:
                self._again.add(number)
                self._narrow()
                if not self._has_gone_well or failed == self._tries - 1:
                    raise
            else:
                self._again.discard(number)
                self._widen()
                return
            finally:
                self._taken -= 1
                self._freed.set()

    async def _room_for(self, may: Callable[[], bool] = lambda: True) -> None:
        """Wait for room, and take it."""
        while self._taken >= int(self._room) or not may():
            self._freed.clear()
            await self._freed.wait()
        self._taken += 1

    def _widen(self) -> None:
        self._has_gone_well = True
        more = 1.0 / self._room if self._has_failed else 1.0
        self._room = min(self._room + more, self._most)

    def _narrow(self) -> None:
        self._has_failed = True
        self._room = max(self._room / 2.0, 1.0)
