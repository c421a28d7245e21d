"""Concurrent calls for the same thing share one execution (single flight)."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

#: A call that takes longer than this is not shared with later callers, in seconds: its connection
#: may be broken.
_SHARED_S: Final = 1.0


class SingleFlight(Generic[K, R]):
    """Shares running calls by key."""

    def __init__(self) -> None:
        #: Key → (start in the loop's time, the call).
        self._running: dict[K, tuple[float, asyncio.Task[R]]] = {}

    async def run(self, key: K, call: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Return or raise the outcome of the running call with this key, or make the call.

        A caller that is cancelled does not cancel the call.
        """
        now_s = asyncio.get_running_loop().time()
        if key not in self._running or now_s - self._running[key][0] >= _SHARED_S:
            started = asyncio.create_task(call())
            self._running[key] = now_s, started
            started.add_done_callback(partial(self._end, key))
        return await asyncio.shield(self._running[key][1])

    def forget(self) -> None:
        """Share no running call with later callers."""
        self._running.clear()

    def _end(self, key: K, ended: asyncio.Task[R]) -> None:
        if key in self._running and self._running[key][1] is ended:
            del self._running[key]
        if not ended.cancelled():
            # There may be no caller left.
            ended.exception()
