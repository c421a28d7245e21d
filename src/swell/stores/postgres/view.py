"""What waits in the queues, as far as a transaction has looked."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from swell.task import Task, TaskState

#: The first tasks of a key that are read more than were read before.
_MORE = 32

#: (priority, tag, id): the order among the tasks of one key.
Place = tuple[int, float, str]


def is_ready(task: Task) -> bool:
    """Whether a worker could have it."""
    return task.state is TaskState.QUEUED and task.available_at is None


def place_of(task: Task) -> Place:
    """Return where it stands among the tasks of its key."""
    return task.priority, task.tag, task.id


class LineCut(Exception):
    """What was read of a line is used up, and there may be more."""

    def __init__(self, queue: str, key_id: str) -> None:
        super().__init__(queue, key_id)
        self.queue = queue
        self.key_id = key_id


class _Line(msgspec.Struct):
    """What was read of one key's line."""

    task_ids: list[str]
    last: Place
    #: Whether there was no more.
    is_whole: bool

    @property
    def more(self) -> int:
        """How many to read next."""
        return len(self.task_ids) + _MORE


class View:
    """Lines of queues: what was read, and what the transaction itself has made ready.

    Args:
        task_of: Returns a task as the transaction sees it.
    """

    def __init__(self, task_of: Callable[[str], Task]) -> None:
        self._task_of = task_of
        self._lines: dict[str, dict[str, _Line]] = {}
        #: Queue → key → tasks that became ready in this transaction.
        self._fresh: dict[str, dict[str, dict[str, None]]] = {}

    def became_ready(self, task: Task) -> None:
        """Note a task that this transaction has added or made ready."""
        self._fresh.setdefault(task.queue, {}).setdefault(task.key_id, {})[task.id] = None

    def has_fresh(self, queue: str) -> bool:
        """Whether something became ready in a queue."""
        return queue in self._fresh

    def may_have_ready(self, queue: str) -> bool:
        """Whether something may be ready in a queue that was looked at."""
        lines = (self.line(queue, key_id) for key_id in self.keys(queue))
        return any(tasks or not is_whole for tasks, is_whole in lines)

    def is_known(self, queue: str) -> bool:
        """Whether a queue was looked at."""
        return queue in self._lines

    @property
    def queues(self) -> list[str]:
        """Queues in which something was found."""
        return [queue for queue, lines in self._lines.items() if lines]

    def know(self, queues: Iterable[str]) -> None:
        """Note that these were looked at; what was found follows."""
        for queue in queues:
            self._lines.setdefault(queue, {})

    def note(self, queue: str, key_id: str, tasks: list[Task], wanted: int) -> None:
        """Note what a read of so many found in one line, after what was known before."""
        lines = self._lines[queue]
        known = lines.get(key_id) or _Line([], (-1, -1.0, ""), False)
        lines[key_id] = _Line(
            known.task_ids + [task.id for task in tasks],
            place_of(tasks[-1]) if tasks else known.last,
            len(tasks) < wanted,
        )

    def further(self, queue: str, key_id: str) -> tuple[Place, int]:
        """Return after which place to read on, and how many."""
        line = self._lines[queue][key_id]
        return line.last, line.more

    def keys(self, queue: str) -> list[str]:
        """Return the keys of which something may be ready in a queue."""
        return list(self._lines[queue] | self._fresh.get(queue, {}))

    def line(self, queue: str, key_id: str) -> tuple[list[Task], bool]:
        """Return the ready tasks of one key in order, as far as known, and whether all are."""
        read = self._lines[queue].get(key_id)
        ids: dict[str, Any] = dict.fromkeys(read.task_ids) if read else {}
        ids |= self._fresh.get(queue, {}).get(key_id, {})
        tasks = [task for task in map(self._task_of, ids) if is_ready(task)]
        if len(tasks) > 1:
            tasks.sort(key=place_of)
        if read is None or read.is_whole:
            return tasks, True
        return [task for task in tasks if place_of(task) <= read.last], False
