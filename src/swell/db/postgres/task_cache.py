"""What a backend keeps in memory between its transactions. A write never relies on it unchecked.

With a single backend it is exact. With several, a row in memory may be outdated, which its edition
shows when it is written, and so may the counts, which are read again.
"""

from collections.abc import Iterable
from typing import Any, Final

from swell.core.task import TaskState, size_bytes
from swell.db.transaction import MAX_LIVE_INPUT_BYTES, MAX_LIVE_TASKS, State, StoredTask

#: Counts are read again after this many times the duration of the last read.
REFRESH_SHARE: Final = 20.0


class PostgresState(State):
    """Running tasks, counts of ready ones, and the clocks of fair queueing."""

    def __init__(self) -> None:
        super().__init__()
        #: Queues that other backends may have changed since their tasks were counted.
        self.unsure: set[str] = set()
        #: When queues with ready tasks may be counted again, by the clock of the event loop.
        self.recount_at_s = 0.0
        #: How many groups were remembered as written and failed.
        self.mistakes = 0

    def may_wait(self, queue: str) -> bool:
        """Whether a task may be ready in a queue."""
        return queue in self.lines or queue in self.unsure

    def recount(self, queues: Iterable[str], lines: Iterable[Any]) -> None:
        """Replace the counts of some queues by the rows of `ready_lines_of`."""
        for queue in queues:
            self.lines.pop(queue, None)
        for row in lines:
            self.count(*row)

    def remember(self, row: StoredTask) -> None:
        """Keep the row of a running task; forget others, and the oldest if there are too many."""
        task = row.task
        self.live.pop(task.id, None)
        if task.state is TaskState.RUNNING and size_bytes(task) <= MAX_LIVE_INPUT_BYTES:
            self.live[task.id] = row
            if len(self.live) > MAX_LIVE_TASKS:
                del self.live[next(iter(self.live))]
