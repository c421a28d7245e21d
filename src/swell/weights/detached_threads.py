"""Blocking work in daemon threads.

A process waits for threads of `asyncio.to_thread` before it ends, but not for these.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Run blocking work in a new thread; a cancellation abandons the thread.

    Its result is then lost, so the work must not use files that the caller closes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            told = partial(_settle, done, done.set_result, work())
        except BaseException as error:
            told = partial(_settle, done, done.set_exception, error)
        # The loop may have ended.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await done


def _settle(done: asyncio.Future[Any], how: Callable[[Any], None], what: Any) -> None:
    if not done.done():
        how(what)


async def to_the_end(work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    """Run blocking work in a new thread; a cancellation calls `stop` and waits for its end."""
    running = asyncio.ensure_future(aside(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        while not running.done():
            # Also if cancelled again: the caller then closes the files in use.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        running.exception()
        raise
