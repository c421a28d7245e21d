"""Concurrent calls for the same thing share one execution (single flight)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

#: A call that takes longer than this is not shared with later callers, in seconds: its connection
#: may be broken.
_SHARED_S: Final = 1.0


class SingleFlight(Generic[K, R]):
    """Shares running calls by key."""

    def __init__(self) -> None:
        #: Key → (start in the loop's time, running call).
        self._running: dict[K, tuple[float, asyncio.Future[R]]] = {}

    async def run(self, key: K, call: Callable[[], Awaitable[R]]) -> R:
        """Return or raise the outcome of the running call with this key, or start one.

        A call continues if its callers are cancelled.
        """
        now_s = asyncio.get_running_loop().time()
        started_s, running = self._running.get(key, (-_SHARED_S, None))
        if running is None or running.done() or now_s - started_s >= _SHARED_S:
            running = asyncio.ensure_future(call())
            own = self._running[key] = (now_s, running)
            running.add_done_callback(lambda _: self._end(key, own))
        return await asyncio.shield(running)

    def forget(self) -> None:
        """Share no running call with later callers."""
        self._running.clear()

    def _end(self, key: K, own: tuple[float, asyncio.Future[R]]) -> None:
        if not own[1].cancelled():
            # No caller may be left to do so.
            own[1].exception()
        if self._running.get(key) is own:
            del self._running[key]
