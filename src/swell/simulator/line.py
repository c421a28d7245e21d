"""Queue of one model's tasks, in the broker's order."""

import bisect
import heapq
from collections import deque
from collections.abc import Iterator

from swell.core.fair_queueing import Passed, VirtualClock, band, take_bands, take_turns


class Task:
    """One task; times are in seconds since the start."""

    __slots__ = (
        *("at_s", "began_s", "key", "model", "number", "priority", "samples", "service_s"),
        *("share_s", "tag", "user", "waits"),
    )

    def __init__(
        self,
        number: int,
        model: str,
        at_s: float,
        who: tuple[str, str],
        priority: int,
        samples: int,
        service_s: float,
    ) -> None:
        self.number = number
        self.model = model
        self.at_s = at_s
        self.key, self.user = who
        self.priority = priority
        self.samples = samples
        self.service_s = service_s
        self.tag = 0.0
        self.began_s = 0.0
        self.share_s = 0.0
        self.waits = False


_Waiting = tuple[int, float, int, Task]


class Line:
    """Queue with fair turns between keys and between the users of a key (`core.fair_queueing`)."""

    def __init__(self) -> None:
        #: Waiting tasks by band and key, as heaps; none is empty.
        self._bands: dict[int, dict[str, list[_Waiting]]] = {}
        self._turns: dict[int, VirtualClock] = {}
        self._clocks: dict[tuple[str, int], VirtualClock] = {}
        #: Sorted start tags of waiting tasks, by key and priority.
        self._tags: dict[tuple[str, int], list[float]] = {}
        self._passed: Passed = {}
        #: Tasks in order of arrival, and returned tasks as a heap. Both may contain tasks that no
        #: longer wait.
        self._came: deque[Task] = deque()
        self._again: list[tuple[float, int, Task]] = []
        self.samples = 0
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def head(self) -> int | None:
        """The most urgent band with tasks; None if the queue is empty."""
        return min(self._bands, default=None)

    def add(self, task: Task, *, again: bool = False) -> None:
        """Add a task; a returned task keeps its position."""
        task.waits = True
        if again:
            heapq.heappush(self._again, (task.at_s, task.number, task))
        else:
            self._came.append(task)
            clock = self._clocks.get((task.key, task.priority))
            if clock is None:
                clock = self._clocks[task.key, task.priority] = VirtualClock()
            task.tag = clock.tag(task.user, task.samples)
        lines = self._bands.setdefault(band(task.priority), {})
        line = lines.get(task.key)
        if line is None:
            line = lines[task.key] = []
        heapq.heappush(line, (task.priority, task.tag, task.number, task))
        bisect.insort(self._tags.setdefault((task.key, task.priority), []), task.tag)
        self._n += 1
        self.samples += task.samples

    def pop(self) -> Task:
        """Remove and return the next task. The queue must not be empty."""
        urgency = next(take_bands("", self._bands, lambda each: iter([each] * 2), self._passed))
        lines = self._bands[urgency]
        clock = self._turns.get(urgency)
        if clock is None:
            clock = self._turns[urgency] = VirtualClock()

        def tasks_of(key: str) -> Iterator[tuple[float, Task]]:
            yield lines[key][0][3].samples, lines[key][0][3]

        task = next(take_turns(clock.starts(lines), tasks_of))
        clock.tag(task.key, task.samples, is_served=True)
        line = lines[task.key]
        heapq.heappop(line)
        if not line:
            del lines[task.key]
            if not lines:
                del self._bands[urgency]
        task.waits = False
        self._clocks[task.key, task.priority].serve(task.tag)
        tags = self._tags[task.key, task.priority]
        del tags[bisect.bisect_left(tags, task.tag)]
        self._n -= 1
        self.samples -= task.samples
        return task

    def before(self, task: Task) -> tuple[int, float]:
        """Return the number of tasks ahead of a new task, and their samples.

        Exact for tasks of the same key. For the other keys it assumes equal turns, and the mean
        number of samples.
        """
        urgency = band(task.priority)
        n = own = 0
        for (key, priority), tags in self._tags.items():
            if key == task.key and band(priority) == urgency and priority <= task.priority:
                clock = self._clocks[key, priority]
                is_alike = priority == task.priority
                own += bisect.bisect_right(tags, clock.peek(task.user)) if is_alike else len(tags)
        for other, lines in self._bands.items():
            if other < urgency:
                n += sum(map(len, lines.values()))
            elif other == urgency:
                n += sum(min(len(line), own + 1) for key, line in lines.items() if key != task.key)
        n += own
        return n, self.samples * n / self._n if self._n else 0.0

    @property
    def oldest_at_s(self) -> float:
        """Arrival time of the oldest waiting task. The queue must not be empty."""
        came, again = self._came, self._again
        while came and not came[0].waits:
            came.popleft()
        while again and not again[0][2].waits:
            heapq.heappop(again)
        heads = [came[0].at_s] if came else []
        return min([*heads, again[0][0]] if again else heads)
