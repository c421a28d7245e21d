"""The ready tasks as one transaction sees them.

How many tasks are ready per queue, band and key is known in memory (`Waiting`). The tasks are read
from the database line by line: a lease reads only the lines that are next (`LinesCut`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from swell.fairness import USUAL_PRIORITY, band
from swell.stores.lines import Line, Waiting
from swell.task import Task, TaskState

#: (queue, band, key): the ready tasks of one key in one queue and band, ordered by `place_of`.
LineId = tuple[str, int, str]

#: (priority, tag, id)
Place = tuple[int, float, str]

#: (queue, key, highest priority, *place to read after, limit): parameters of one read.
Read = tuple[str, str, int, int, float, str, int]


def is_ready(task: Task) -> bool:
    """Whether a worker could lease it."""
    return task.state is TaskState.QUEUED and task.available_at is None


def place_of(task: Task) -> Place:
    """Return its place in its line."""
    return task.priority, task.tag, task.id


class LinesCut(Exception):
    """A plan needs more tasks of these lines than were read; `n` of all of them together."""

    def __init__(self, lines: list[LineId], n: int) -> None:
        super().__init__(lines, n)
        self.lines = lines
        self.n = n


class _Head(msgspec.Struct):
    """The first tasks of a line, as far as read."""

    task_ids: list[str]
    last: Place
    is_whole: bool


class ReadyTasks:
    """Ready tasks: counts with this transaction's changes, and the lines that it has read.

    Args:
        waiting: The counts before this transaction.
        task_of: Returns a task as this transaction sees it.
    """

    def __init__(self, waiting: Waiting, task_of: Callable[[str], Task | None]) -> None:
        self._waiting = waiting
        self._task_of = task_of
        #: How the counts of lines, and of queues, change.
        self._changes: dict[LineId, Line] = {}
        self._ready: dict[str, int] = {}
        self._heads: dict[LineId, _Head] = {}
        #: Tasks that became ready in this transaction.
        self._fresh: dict[LineId, dict[str, None]] = {}

    # ---- counts

    def add(self, task: Task) -> None:
        """Count a task that has become ready."""
        line = self._count(task, 1)
        fresh = self._fresh.get(line)
        if fresh is None:
            self._fresh[line] = {task.id: None}
        else:
            fresh[task.id] = None

    def remove(self, task: Task) -> None:
        """Count a task that is no longer ready."""
        self._count(task, -1)

    def _count(self, task: Task, by: int) -> LineId:
        line = task.queue, band(task.priority), task.key_id
        change = self._changes.get(line)
        if change is None:
            self._changes[line] = Line(by, by * task.count)
        else:
            change.n += by
            change.samples += by * task.count
        self._ready[task.queue] = self._ready.get(task.queue, 0) + by
        return line

    def count(self, queue: str) -> int:
        """Return how many tasks of a queue are ready."""
        return self._waiting.ready.get(queue, 0) + self._ready.get(queue, 0)

    def keys(self, queue: str) -> dict[int, dict[str, Any]]:
        """Return band → keys with ready tasks, in order of arrival; no band is empty."""
        counted = self._waiting.lines.get(queue, {})
        found: dict[int, dict[str, Any]] = {}
        for (of_queue, urgency, key_id), change in self._changes.items():
            if of_queue != queue:
                continue
            before = counted.get(urgency, {})
            keys = found.get(urgency)
            if keys is None:
                keys = found[urgency] = dict(before)
            if change.n > 0:
                keys.setdefault(key_id)
            elif key_id in before and before[key_id].n + change.n <= 0:
                del keys[key_id]
        return {urgency: keys for urgency, keys in (counted | found).items() if keys}

    def keep(self, sign: int = 1) -> None:
        """Add the changes to the counts, or subtract them with -1."""
        for (queue, urgency, key_id), line in self._changes.items():
            if line.n or line.samples:
                self._waiting.count(queue, urgency, key_id, sign * line.n, sign * line.samples)

    def left(self) -> set[str]:
        """Return queues with tasks that this transaction made ready, or read and did not take."""
        found = {queue for (queue, _, _), line in self._changes.items() if line.n > 0}
        return found | {line[0] for line in self._heads if self.tasks(line)[0]}

    # ---- lines

    def tasks(self, line: LineId) -> tuple[list[Task], bool]:
        """Return the ready tasks of a line in order as far as read, and whether these are all."""
        head, ids = self._heads.get(line), self._fresh.get(line, {})
        is_whole = not self.is_unread(line) if head is None else head.is_whole
        if head is not None:
            ids = dict.fromkeys(head.task_ids) | ids
        tasks = [task for task in map(self._task_of, ids) if task is not None and is_ready(task)]
        if len(tasks) > 1:
            tasks.sort(key=place_of)
        if is_whole:
            return tasks, True
        return [task for task in tasks if head and place_of(task) <= head.last], False

    def is_unread(self, line: LineId) -> bool:
        """Whether tasks of a line are counted, and none were read."""
        queue, urgency, key_id = line
        counted = self._waiting.lines.get(queue, {}).get(urgency, {})
        return key_id in counted and line not in self._heads

    @property
    def n_read(self) -> int:
        """How many lines were read."""
        return len(self._heads)

    def reads(self, cut: LinesCut) -> list[Read]:
        """Return the reads that a plan needs."""
        share, found = -(-cut.n // len(cut.lines)), []
        for queue, urgency, key_id in cut.lines:
            head = self._heads.get((queue, urgency, key_id))
            least = 0 if urgency == USUAL_PRIORITY else urgency
            last = (least, -1.0, "") if head is None else head.last
            # Twice as many each time, so that tasks that cannot be leased are soon passed.
            n = share if head is None else max(share, len(head.task_ids))
            found.append((queue, key_id, urgency, *last, n))
        return found

    def note(self, line: LineId, places: Sequence[Place], limit: int) -> None:
        """Add the result of a read to the tasks read before."""
        head = self._heads.setdefault(line, _Head([], (0, -1.0, ""), False))
        head.task_ids += [task_id for _, _, task_id in places]
        head.last = places[-1] if places else head.last
        head.is_whole = len(places) < limit
