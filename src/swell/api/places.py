"""How many tasks come before one, without asking the broker more often than is worth it.

A place is exact in a short queue. In a long one nobody is helped by knowing whether 4,711 or 4,715
come first, while finding out would cost more than accepting the task does.
"""

from collections.abc import Sequence
from typing import Final

from swell.broker import Broker, Rank
from swell.clock import Clock
from swell.task import Task, TaskState

__all__ = ["Places", "between"]

#: For how long an inexact place of a long queue stands for its newcomers, in seconds.
_FAR_S: Final = 0.25

#: Up to how many tasks of one queue are looked up one by one.
_EACH: Final = 8


class Places:
    """Ranks of waiting tasks."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        #: (queue, priority) → (good until, tasks before a newcomer).
        self._far: dict[tuple[str, int], tuple[float, int]] = {}

    async def ahead(self, tasks: Sequence[Task], *, are_new: bool = False) -> list[int | None]:
        """Return how many ready tasks come before each; None for one that does not wait.

        Args:
            tasks: Of any queues and states.
            are_new: They were accepted just now, so that they come last in their queue.
        """
        found: list[int | None] = [None] * len(tasks)
        groups: dict[tuple[str, int], list[int]] = {}
        for number, task in enumerate(tasks):
            if task.state is TaskState.QUEUED:
                groups.setdefault((task.queue, task.priority), []).append(number)
        for key, numbers in groups.items():
            numbers.sort(key=lambda number: (tasks[number].tag, tasks[number].created_at))
            group = [tasks[number] for number in numbers]
            ranks = await (self._of_new(key, group) if are_new else self._of_group(group))
            for number, rank in zip(numbers, ranks, strict=True):
                found[number] = rank
        return found

    async def _of_new(self, key: tuple[str, int], group: list[Task]) -> list[int | None]:
        far = self._far.get(key)
        now_s = self._clock.monotonic_s()
        if far is not None and far[0] > now_s:
            self._far[key] = (far[0], far[1] + len(group))
            return list(range(far[1], far[1] + len(group)))
        [last] = await self._broker.ranks(group[-1:])
        if last is None or last.is_exact:
            self._far.pop(key, None)
            return await self._of_group(group, last=last)
        # Places are counted on from here until the time is over.
        self._far[key] = (now_s + _FAR_S, last.ahead + 1)
        first = max(0, last.ahead - len(group) + 1)
        return list(between(first, last.ahead, len(group)))

    async def _of_group(self, group: list[Task], *, last: Rank | None = None) -> list[int | None]:
        if len(group) == 1 and last is not None:
            return [last.ahead]
        if len(group) <= _EACH:
            ranks = await self._broker.ranks(group)
            return [None if rank is None else rank.ahead for rank in ranks]
        ends = await self._broker.ranks([group[0], group[-1]])
        if ends[0] is None or ends[1] is None:
            # One of them has just left the queue: nobody can say for those between.
            return [None] * len(group)
        return list(between(ends[0].ahead, ends[1].ahead, len(group)))


def between(first: int, last: int, n: int) -> Sequence[int]:
    """Return `n` places from `first` to `last`, evenly spread. Pure."""
    if n <= 1:
        return [last] * n
    return [first + round((last - first) * at / (n - 1)) for at in range(n)]
