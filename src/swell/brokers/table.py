"""What the brokers over SQLite and PostgreSQL share: a queue is an index over the tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from swell.broker import NOT_STAGED, Backlog, ServedWith
from swell.brokers.ranking import backlog_of
from swell.stores.lines import Waiting
from swell.task import NewTask, Task

#: Larger than any id, since ids are made of 0-9 and a-f.
AFTER_ALL: Final = "~"


class TableBroker:
    """Base of a broker over a table.

    Args:
        state: Counts and clocks of the ready tasks.
    """

    def __init__(self, state: Waiting) -> None:
        self._state = state
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        return [backlog_of(self._state, model, priority, served_with) for model in models]

    async def close(self) -> None:
        self._is_closed = True
        for until in self._waits:
            if not until.done():
                until.set_result(None)

    async def _wait(
        self, until: "asyncio.Future[None]", lease: Callable[[], Awaitable[list[Task] | None]]
    ) -> list[Task]:
        """Wait for a lease; closing ends the wait."""
        if self._is_closed:
            return []
        self._waits.add(until)
        try:
            return await lease() or []
        finally:
            self._waits.discard(until)

    def _tag_of(self, task: NewTask) -> float:
        """Return the tag that a new task would get."""
        clock = self._state.clocks.get((task.stage_model, task.key_id, task.priority))
        return 0.0 if clock is None else clock.peek(task.user or "")
