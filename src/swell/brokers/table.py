"""What the brokers over SQLite and PostgreSQL share: the queue is an index over the store's table.

Accepting, starting and settling a task change its row and so the index. There is nothing to offer
and nothing to acknowledge.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from swell.broker import NOT_STAGED, Backlog, ServedWith
from swell.brokers.ranking import backlog_of
from swell.store import Hold
from swell.stores.lines import Waiting
from swell.task import NewTask, Task

#: Larger than any id, since ids are made of 0-9 and a-f.
AFTER_ALL: Final = "~"


class TableBroker:
    """Base of a broker over a table.

    Args:
        state: Counts and clocks of the ready tasks.
    """

    #: Calls that do nothing, so their duration is not measured.
    EMPTY: Final = frozenset({"offer", "ack", "started", "extend"})

    def __init__(self, state: Waiting) -> None:
        self._state = state
        self._waits: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`."""

    async def ack(self, tasks: Sequence[Task]) -> None:
        """See `Broker.ack`."""

    async def started(self, tasks: Sequence[Task]) -> None:
        """See `Broker.started`."""

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> None:
        """See `Broker.extend`."""

    async def feed(self, *, is_leader: bool) -> int:
        """See `Broker.feed`."""
        return 0

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        """See `Broker.backlogs`."""
        return [backlog_of(self._state, model, priority, served_with) for model in models]

    async def close(self) -> None:
        """See `Broker.close`."""
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
