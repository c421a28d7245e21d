"""What lies in queues and what comes before a task: for brokers that keep order in a database.

The database tells how many tasks of a task's own key come first; what those of others do is known
from their lines and from the clocks between keys.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from swell import task as life
from swell.broker import Backlog, Depth, Rank, ReadyTask, ServedWith
from swell.fairness import (
    USUAL_PRIORITY,
    VirtualClock,
    band,
    later_before,
    passed_by,
    turns_before,
    urgent_before,
)
from swell.stores.lines import Line
from swell.task import NewTask, Task

#: Ranks are counted exactly up to here.
EXACT_RANKS = 200

#: Where the keys that wait make more lines than this, a rank looks at every second, or third, only.
MAX_LINES = 100


class State(Protocol):
    """What is known without asking the database."""

    #: Queue → band → key → what of it is ready.
    lines: dict[str, dict[int, dict[str, Line]]]
    #: As of `fairness.take_bands`.
    passed: dict[str, int]

    @property
    def turns(self) -> Mapping[tuple[str, int], VirtualClock]:
        """(model, band) → the clock between its keys; made at the first look."""
        ...

    def queues_of(self, model: str) -> list[str]:
        """Return the queues of a model in which tasks wait."""
        ...


def ready_tasks(queue: str, rows: Iterable[tuple[str, str, str | None, int]]) -> list[ReadyTask]:
    """Return the rows (ID, key, user, priority) of a queue's ready tasks as tasks."""
    return [
        ReadyTask(id=task_id, queue=queue, key_id=key_id, user=user, priority=priority)
        for task_id, key_id, user, priority in rows
    ]


def depths_of(
    ready: Iterable[tuple[str, int, int, str]], woken: Iterable[tuple[str, int, int]]
) -> list[Depth]:
    """Return what lies in queues, by name.

    Args:
        ready: (queue, tasks, their samples, the oldest id) of what could run.
        woken: (queue, delayed, running) of what has a time to wake.
    """
    depths = {
        queue: Depth(
            queue=queue,
            ready=n,
            ready_samples=samples,
            oldest_ready_at=life.created_at_of(oldest),
        )
        for queue, n, samples, oldest in ready
    }
    for queue, delayed, running in woken:
        depth = depths.get(queue, Depth(queue=queue))
        depths[queue] = Depth(
            queue=queue,
            ready=depth.ready,
            ready_samples=depth.ready_samples,
            oldest_ready_at=depth.oldest_ready_at,
            delayed=delayed,
            running=running,
        )
    busy = [depth for depth in depths.values() if depth.ready + depth.delayed + depth.running]
    return sorted(busy, key=lambda depth: depth.queue)


def backlog_of(state: State, model: str, priority: int, served_with: ServedWith) -> Backlog:
    """Return what waits of a model, for a task of this priority."""
    urgency = band(priority)
    urgent, equal = Line(), Line()
    for queue in served_with.get(model) or state.queues_of(model):
        for other_band, lines in state.lines.get(queue, {}).items():
            if other_band <= urgency:
                counted = urgent if other_band < urgency else equal
                for line in lines.values():
                    counted.add(line.n, line.samples)
    return Backlog(
        urgent=urgent.n,
        urgent_samples=urgent.samples,
        equal=equal.n,
        equal_samples=equal.samples,
    )


def queues_before(state: State, task: Task | NewTask, served_with: ServedWith) -> list[str]:
    """Return the queues whose tasks may come before one."""
    queues = sorted({*state.queues_of(task.stage_model), task.queue})
    served = served_with.get(task.queue)
    if served is None and task.queue != task.stage_model:
        served = (task.stage_model, task.queue)
    return queues if served is None else [queue for queue in queues if queue in served]


def in_line(state: State, queue: str, task: Task | NewTask) -> Line | None:
    """Return what of a task's own key and band is ready in a queue, if anything is."""
    return state.lines.get(queue, {}).get(band(task.priority), {}).get(task.key_id)


def least_of(task: Task | NewTask) -> int:
    """Return the least priority of a task's band."""
    urgency = band(task.priority)
    return 0 if urgency == USUAL_PRIORITY else urgency


def rank_of(state: State, task: Task | NewTask, found: Sequence[tuple[str, int, int]]) -> Rank:
    """Return how many tasks come before one.

    Args:
        state: What is known.
        task: Which.
        found: (queue, tasks of its key and band that come before, their samples) of each of
            `queues_before`, counted up to one more than `EXACT_RANKS`.
    """
    urgency, n, samples, is_exact = band(task.priority), 0, 0, True
    #: Band → what of it is ready, of all bands but its own.
    bands: dict[int, Line] = {}
    for queue, before, before_samples in found:
        line = in_line(state, queue, task)
        if before > EXACT_RANKS and line is not None:
            # Who comes late in a long line: nearly all of it, as far as anybody cares.
            before, before_samples = max(before, line.n), max(before_samples, line.samples)
            is_exact = False
        n, samples = n + before, samples + before_samples
    others = _Others(state.turns[task.stage_model, urgency], task.key_id, samples)
    for queue, _, _ in found:
        for other_band, lines in state.lines.get(queue, {}).items():
            step = 1 + len(lines) // MAX_LINES
            is_exact = is_exact and step == 1
            for key_id, line in itertools.islice(lines.items(), 0, None, step):
                if other_band == urgency:
                    others.add(key_id, line, step)
                else:
                    counted = bands.setdefault(other_band, Line())
                    counted.add(step * line.n, step * line.samples)
        if queue == task.queue:
            # Where nothing of its key waits in this queue yet, the key comes last here.
            others.add(task.key_id, Line(), 1)
    more, more_samples = others.before()
    n, samples = n + more, samples + more_samples
    ahead, ahead_samples = _among_bands(state, task, Line(n, samples), bands)
    return Rank(
        ahead=ahead,
        # How several less urgent bands share what is left for them is not counted.
        is_exact=is_exact and others.is_exact and sum(each > USUAL_PRIORITY for each in bands) < 2,
        samples=ahead_samples,
    )


def _among_bands(
    state: State, task: Task | NewTask, own: Line, bands: Mapping[int, Line]
) -> tuple[int, int]:
    """Return how many tasks come before one, and their samples.

    Args:
        state: What is known.
        task: Which.
        own: What of its own band comes before it.
        bands: What is ready of the other ones.
    """
    urgency, ahead, samples = band(task.priority), own.n, own.samples
    urgent = [line for other, line in bands.items() if other < urgency]
    if urgent:
        most = urgent_before(own.n, passed_by(state.passed, task.stage_model, urgency))
        n, their = sum(line.n for line in urgent), sum(line.samples for line in urgent)
        ahead += min(n, most)
        samples += round(their * min(n, most) / n)
    before = ahead
    for other, line in bands.items():
        if other > urgency:
            n = later_before(before, line.n, passed_by(state.passed, task.stage_model, other))
            ahead += n
            samples += round(line.samples * n / line.n)
    return ahead, samples


class _Others:
    """What the other keys of a band have done before a key's task is next.

    Args:
        turns: The clock between the keys.
        key_id: Whose task it is.
        samples: How much of that key comes before it.
    """

    def __init__(self, turns: VirtualClock, key_id: str, samples: int) -> None:
        self._turns = turns
        self._key_id = key_id
        self._start = turns.peek(key_id) + samples
        #: Key → what waits of it, and for how many keys it stands.
        self._lines: dict[str, tuple[Line, int]] = {}
        #: Whether every task that was counted costs the same.
        self.is_exact = True

    def add(self, key_id: str, line: Line, stands_for: int) -> None:
        """Count what waits of a key in one queue; who came first first."""
        known = self._lines.get(key_id)
        if known is None:
            known = self._lines[key_id] = (Line(), stands_for)
        known[0].add(line.n, line.samples)

    def before(self) -> tuple[int, int]:
        """Return how many tasks of other keys come before, and their samples."""
        n = samples = 0
        # Who came first wins a tie.
        wins_tie = True
        for key_id, (line, stands_for) in self._lines.items():
            if key_id == self._key_id:
                wins_tie = False
                continue
            cost = line.samples / line.n
            lead = self._start - self._turns.peek(key_id)
            found = turns_before(lead, line.n, cost, wins_tie=wins_tie)
            n += stands_for * found
            samples += stands_for * round(found * cost)
            self.is_exact = self.is_exact and (cost == 1 or found in (0, line.n))
        return n, samples
