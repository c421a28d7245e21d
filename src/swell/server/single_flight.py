"""Concurrent calls for the same thing share one execution (single flight)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


class SingleFlight(Generic[K, R]):
    """Shares running calls by key.

    Args:
        shared_s: A call that takes longer is not shared with later callers, in seconds: its
            connection may be broken.
    """

    def __init__(self, shared_s: float = 1.0) -> None:
        self._shared_s = shared_s
        #: Key → (start in the loop's time, outcome).
        self._running: dict[K, tuple[float, asyncio.Future[R]]] = {}

    async def run(self, key: K, call: Callable[[], Awaitable[R]]) -> R:
        """Return or raise the outcome of the running call with this key, or make the call."""
        loop = asyncio.get_running_loop()
        while key in self._running:
            started_s, running = self._running[key]
            if loop.time() - started_s >= self._shared_s:
                break
            await asyncio.wait([running])
            if not running.cancelled():
                return running.result()
        running = loop.create_future()
        own = self._running[key] = loop.time(), running
        try:
            result = await call()
            running.set_result(result)
            return result
        except Exception as error:
            running.set_exception(error)
            # There may be no other caller.
            running.exception()
            raise
        finally:
            # If this caller was cancelled, another one makes the call.
            running.cancel()
            if self._running.get(key) is own:
                del self._running[key]

    def forget(self) -> None:
        """Share no running call with later callers."""
        self._running.clear()
