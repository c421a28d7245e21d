"""Work that blocks, in threads that hold nobody up.

A process waits for the threads of `asyncio.to_thread` before it ends, for however long a server
keeps still. For these it does not.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Do something in a thread of its own, which is let go of when this is cancelled.

    Nobody hears of what it does then, so it must use nothing that is closed meanwhile.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            told = partial(_settle, done, done.set_result, work())
        except BaseException as error:
            told = partial(_settle, done, done.set_exception, error)
        # Where the loop has ended, nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await done


def _settle(done: asyncio.Future[Any], how: Callable[[Any], None], what: Any) -> None:
    if not done.done():
        how(what)


async def to_the_end(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The same for what uses files of ours: when cancelled, have it stop, and wait until it has."""
    running = asyncio.ensure_future(aside(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        while not running.done():
            # However often it is cancelled: what it uses is closed afterwards.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        running.exception()
        raise
