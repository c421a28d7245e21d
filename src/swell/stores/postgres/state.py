"""What one backend remembers between its transactions. None of it decides what may be written.

Where this is the only backend, it is exact. Other backends make it stale: a task that was changed
elsewhere is noticed when it is written (its edition), and counts and clocks are read anew from
time to time.
"""

import itertools
from collections.abc import Iterable
from datetime import datetime

from swell.db.posting import Posting
from swell.stores.lines import Waiting
from swell.stores.postgres.others import Others
from swell.stores.postgres.rows import Row
from swell.stores.postgres.view import is_ready
from swell.task import Task, is_expired, size_bytes

#: Tasks kept in memory between transactions, and the largest input that is worth it.
MAX_LIVE_TASKS = 50_000
MAX_LIVE_INPUT_BYTES = 4_096


class State(Waiting):
    """Tasks that have not ended, what waits of whom, and the clocks of fair queueing."""

    def __init__(self) -> None:
        super().__init__()
        #: As this backend wrote or read them last; who has lain longest is forgotten first.
        self.live: dict[str, Row] = {}
        self.posting = Posting()
        #: Queue → its ready tasks among `live`.
        self._known: dict[str, dict[str, None]] = {}
        #: Queues of which others have told that something waits → how often they did.
        self.told: dict[str, int] = {}
        #: Queues in which tasks of this backend may be ready that are not among `live`.
        self.unremembered: set[str] = set()
        self.others = Others()
        #: How often something was remembered as if it was written, and then was not.
        self.mistakes = 0

    def may_wait(self, queue: str) -> bool:
        """Whether something may be ready in a queue; if not, nothing was when it was looked at."""
        return queue in self.ready or queue in self.told

    def tell(self, queues: Iterable[str]) -> None:
        """Note that others say that something is ready in these."""
        for queue in queues:
            self.told[queue] = self.told.get(queue, 0) + 1

    def tell_of_rest(self) -> None:
        """Note that more is ready than is remembered, after the counts were read."""
        self.tell(queue for queue, n in self.ready.items() if n > len(self._known.get(queue, ())))

    def found_empty(self, queue: str, told: int) -> None:
        """Note that a look found nothing in a queue of which had been told so often before."""
        if self.told.get(queue, 0) == told:
            self.told.pop(queue, None)
            self.unremembered.discard(queue)
            self.ready.pop(queue, None)
            self.lines.pop(queue, None)

    def found_some(self, queue: str, told: int) -> None:
        """Note that a look has seen what is in a queue of which had been told so often before."""
        if self.told.get(queue, 0) == told:
            self.told.pop(queue, None)

    def all_ready(self, queue: str, most: int) -> list[Row] | None:
        """Return all ready tasks of a queue, if they are remembered and no more than `most`."""
        known = self._known.get(queue, {})
        is_whole = len(known) == self.ready.get(queue, 0) and queue not in self.told
        return (
            [self.live[task_id] for task_id in known] if is_whole and len(known) <= most else None
        )

    def has_known(self, queue: str) -> bool:
        """Whether a ready task of a queue is remembered."""
        return queue in self._known

    def known_ready(self, queue: str, most: int, now: datetime) -> list[Row] | None:
        """Return the ready tasks of a queue that are remembered; None if more than `most` are.

        Those whose deadline has passed are forgotten: another backend may have ended them.
        """
        oldest = itertools.islice(self._known.get(queue, {}), most + 1)
        self.forget([each for each in oldest if is_expired(self.live[each].task, now)])
        known = self._known.get(queue, {})
        return [self.live[task_id] for task_id in known] if len(known) <= most else None

    def oldest_known(self, queue: str) -> Task | None:
        """Return the ready task of a queue that has been remembered for longest."""
        known = self._known.get(queue)
        return self.live[next(iter(known))].task if known else None

    def remember(self, task_id: str, row: Row) -> None:
        """Keep a task as it lies in the table now, if it has not ended."""
        self._drop(task_id)
        task = row.task
        if task.state.is_terminal:
            return
        if size_bytes(task) > MAX_LIVE_INPUT_BYTES:
            self.leave(task)
            return
        self.live[task_id] = row
        if is_ready(task):
            self._known.setdefault(task.queue, {})[task_id] = None
        if len(self.live) > MAX_LIVE_TASKS:
            self.forget([next(iter(self.live))])

    def forget(self, task_ids: Iterable[str]) -> None:
        """Read these anew the next time: somebody else has changed one of them."""
        for task_id in task_ids:
            row = self._drop(task_id)
            if row is not None:
                self.leave(row.task)

    def doubt(self, task_id: str) -> None:
        """Read a task anew, which is next: what is remembered of it is wrong, most probably."""
        self._drop(task_id)

    def leave(self, task: Task) -> None:
        """Note that a task is not remembered; if it is ready, its queue must be read."""
        if is_ready(task):
            self.unremembered.add(task.queue)

    def forget_all(self) -> None:
        """Read every task anew: a server that was lost may be back without its last commits.

        Others may since have written others in their place, under the same editions.
        """
        self.unremembered.update(self._known)
        self.live, self._known = {}, {}

    def _drop(self, task_id: str) -> Row | None:
        row = self.live.pop(task_id, None)
        if row is not None and is_ready(row.task):
            known = self._known[row.task.queue]
            del known[task_id]
            if not known:
                del self._known[row.task.queue]
        return row
