"""How many tasks come before one, without asking the broker more often than is worth it.

A place is exact in a short queue. In a long one nobody is helped by knowing whether 4,711 or 4,715
come first, while finding out would cost more than accepting the task does.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from swell.broker import Rank
from swell.clock import Clock
from swell.task import Task, TaskState

#: For how long an inexact place of a long queue stands for its newcomers, in seconds.
_FAR_S: Final = 0.25

#: Up to how many tasks of one queue are looked up one by one.
_EACH: Final = 8

#: Inexact places that are kept at most, before those whose time is over go.
_MAX_FAR: Final = 10_000

#: Queue, priority, key and user: whose newcomers come one after another.
_Flow = tuple[str, int, str, str | None]


#: Asks the broker what comes before each task.
Ranks = Callable[[Sequence[Task]], Awaitable[list[Rank | None]]]


class Places:
    """Ranks of waiting tasks."""

    def __init__(self, ranks: Ranks, clock: Clock) -> None:
        self._ranks = ranks
        self._clock = clock
        #: Flow → (good until, what comes before its next newcomer).
        self._far: dict[_Flow, tuple[float, Rank]] = {}

    async def ahead(self, tasks: Sequence[Task], *, are_new: bool = False) -> list[Rank | None]:
        """Return what comes before each task; None for one that does not wait.

        Args:
            tasks: Of any queues and states.
            are_new: They were accepted just now, so that each comes last of its user's.
        """
        found: list[Rank | None] = [None] * len(tasks)
        lines: dict[tuple[str, int, str], list[int]] = {}
        for number, task in enumerate(tasks):
            if task.state is TaskState.QUEUED:
                line = (task.queue, task.priority, task.key_id)
                lines.setdefault(line, []).append(number)
        for numbers in lines.values():
            numbers.sort(key=lambda number: (tasks[number].tag, tasks[number].created_at))
            group = [tasks[number] for number in numbers]
            ranks = await (self._of_new(group) if are_new else self._of_group(group))
            for number, rank in zip(numbers, ranks, strict=True):
                found[number] = rank
        return found

    async def _of_new(self, group: list[Task]) -> Sequence[Rank | None]:
        first = group[0]
        if any(task.user != first.user for task in group):
            return await self._of_group(group)
        flow = (first.queue, first.priority, first.key_id, first.user)
        far = self._far.get(flow)
        now_s = self._clock.monotonic_s()
        if far is not None and far[0] > now_s:
            found = _after(far[1], group)
            self._far[flow] = (far[0], found[-1])
            return found[:-1]
        [last] = await self._ranks(group[-1:])
        if last is None or last.is_exact:
            self._far.pop(flow, None)
            return await self._of_group(group, last=last)
        # Places are counted on from here until the time is over.
        if len(self._far) >= _MAX_FAR:
            self._far = {known: far for known, far in self._far.items() if far[0] > now_s}
        self._far[flow] = (now_s + _FAR_S, _after(last, group[-1:])[-1])
        start = max(0, last.ahead - len(group) + 1)
        samples = max(0, last.samples - sum(task.count for task in group[:-1]))
        return between(Rank(ahead=start, is_exact=False, samples=samples), last, len(group))

    async def _of_group(
        self, group: list[Task], *, last: Rank | None = None
    ) -> Sequence[Rank | None]:
        if len(group) == 1 and last is not None:
            return [last]
        if len(group) <= _EACH:
            return await self._ranks(group)
        first, end = await self._ranks([group[0], group[-1]])
        if first is None or end is None:
            # One of them has just left the queue: nobody can say for those between.
            return [None] * len(group)
        return between(first, end, len(group))


def between(first: Rank, last: Rank, n: int) -> list[Rank]:
    """Return `n` ranks from `first` to `last`, evenly spread. Pure."""
    if n <= 1:
        return [last] * n
    return [
        Rank(
            ahead=first.ahead + round((last.ahead - first.ahead) * at / (n - 1)),
            is_exact=n == 2 and first.is_exact and last.is_exact,
            samples=first.samples + round((last.samples - first.samples) * at / (n - 1)),
        )
        for at in range(n)
    ]


def _after(first: Rank, group: Sequence[Task]) -> list[Rank]:
    """Return the ranks of tasks that follow one another, and that of whoever comes next."""
    found = [first]
    for task in group:
        before = found[-1]
        found.append(
            Rank(ahead=before.ahead + 1, is_exact=False, samples=before.samples + task.count)
        )
    return found
