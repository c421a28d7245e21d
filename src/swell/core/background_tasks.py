"""Background tasks: exceptions are logged, and loops start again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from swell.core.clock import Clock

_log = structlog.get_logger("swell.background")

#: A loop that failed starts again after so long, in seconds.
PAUSE_S: Final = 1.0

T = TypeVar("T")


async def keep_running(
    loop: Callable[[], Awaitable[None]],
    clock: Clock,
    *,
    name: str,
    on_failure: Callable[[], None] | None = None,
) -> None:
    """Run a loop until it returns; after an exception, log it and run the loop again.

    Args:
        loop: Starts the loop.
        clock: Times the pause before the loop starts again.
        name: Names the loop in the log.
        on_failure: Counts the failure.
    """
    while True:
        try:
            return await loop()
        except Exception:
            _log.exception("background task failed: starting it again", task=name, after_s=PAUSE_S)
            if on_failure is not None:
                on_failure()
            await clock.sleep(PAUSE_S)


def log_failure(task: "asyncio.Task[Any]") -> None:
    """Log the exception that ended a task: a callback for `add_done_callback`."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("background task failed", task=task.get_name(), exc_info=error)


class BackgroundTasks:
    """Tasks that end by themselves, or when their owner does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task that nothing waits for: a failure is logged."""
        task = self.keep(asyncio.get_running_loop().create_task(work))
        task.add_done_callback(log_failure)
        return task

    def keep(self, task: "asyncio.Task[T]") -> "asyncio.Task[T]":
        """Cancel this task too when the owner ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
