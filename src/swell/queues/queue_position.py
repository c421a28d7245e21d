"""Queue positions and backlogs, for brokers that keep the order in a database.

The database counts the tasks of the same key that come first. The tasks of other keys follow
from the counts and the virtual clocks in memory (`State`).
"""

import itertools
from collections.abc import Mapping

from swell.core.broker_types import Backlog, Rank, ServedWith
from swell.core.fair_queueing import (
    band,
    later_before,
    turns_before,
    urgent_before,
)
from swell.core.task import NewTask, Task
from swell.db.transaction import Line, State

#: The database counts up to this rank; beyond it, ranks are estimates.
EXACT_RANKS = 200

#: With more keys than this in a band, a rank looks at every second (third, ...) key only.
MAX_LINES = 100


def backlog_of(state: State, model: str, priority: int, served_with: ServedWith) -> Backlog:
    """Return the ready tasks of a model, as a task of this priority sees them."""
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


def queues_before(state: State, served_with: ServedWith, task: Task | NewTask) -> list[str]:
    """Return the queues with tasks that may come before a task."""
    queues = sorted({*state.queues_of(task.stage_model), task.queue})
    served = served_with.get(task.queue)
    if served is None and task.queue != task.stage_model:
        served = (task.stage_model, task.queue)
    return queues if served is None else [queue for queue in queues if queue in served]


def own_line(state: State, queue: str, task: Task | NewTask) -> Line | None:
    """Return the ready tasks of a task's key and band in a queue; None if there are none."""
    return state.lines.get(queue, {}).get(band(task.priority), {}).get(task.key_id)


def rank_of(state: State, task: Task | NewTask, found: Mapping[str, tuple[int, int]]) -> Rank:
    """Return the number of tasks that come before one.

    Args:
        state: All ready tasks.
        task: The task.
        found: Each of `queues_before` → (tasks of its key and band that come before it, their
            samples), counted up to `EXACT_RANKS` + 1.
    """
    urgency = band(task.priority)
    before = Line()
    # Key → (its ready tasks, the number of keys that it represents).
    keys: dict[str, tuple[Line, int]] = {}
    bands: dict[int, Line] = {}
    for queue, (n, samples) in found.items():
        line = own_line(state, queue, task)
        if n > EXACT_RANKS and line is not None:
            # Far back, nearly all tasks of the key come before it.
            n, samples = max(n, line.n), max(samples, line.samples)
        before.add(n, samples)
        for other_band, lines in state.lines.get(queue, {}).items():
            step = 1 + len(lines) // MAX_LINES
            for key_id, line in itertools.islice(lines.items(), 0, None, step):
                if other_band == urgency:
                    keys.setdefault(key_id, (Line(), step))[0].add(line.n, line.samples)
                else:
                    total = bands.setdefault(other_band, Line())
                    total.add(step * line.n, step * line.samples)
        if queue == task.queue:
            keys.setdefault(task.key_id, (Line(), 1))
    _add_other_keys(before, state, task, keys)
    _add_other_bands(before, state, task, bands)
    return Rank(ahead=before.n, samples=before.samples)


def _add_other_keys(
    before: Line, state: State, task: Task | NewTask, keys: dict[str, tuple[Line, int]]
) -> None:
    """Add the tasks of other keys of the same band that come first.

    Args:
        before: The tasks of the same key.
        state: All ready tasks.
        task: The task.
        keys: As in `rank_of`, in order of arrival.
    """
    turns = state.turns[task.stage_model, band(task.priority)]
    start = turns.peek(task.key_id) + before.samples
    # Of keys with equal tags, the one that came first is next.
    wins_tie = True
    for key_id, (line, n_keys) in keys.items():
        if key_id == task.key_id:
            wins_tie = False
            continue
        cost = line.samples / line.n
        n = turns_before(start - turns.peek(key_id), line.n, cost, wins_tie=wins_tie)
        before.add(n_keys * n, n_keys * round(n * cost))


def _add_other_bands(
    before: Line, state: State, task: Task | NewTask, bands: dict[int, Line]
) -> None:
    """Add the tasks of other bands that come first.

    Args:
        before: The tasks of the same band.
        state: All ready tasks.
        task: The task.
        bands: Band → its ready tasks.
    """
    model, urgency = task.stage_model, band(task.priority)
    urgent = Line()
    for other, line in bands.items():
        if other < urgency:
            urgent.add(line.n, line.samples)
    if urgent.n:
        n = min(urgent.n, urgent_before(before.n, state.passed.get((model, urgency), 0)))
        before.add(n, round(urgent.samples * n / urgent.n))
    ahead = before.n
    for other, line in bands.items():
        if other > urgency:
            n = later_before(ahead, line.n, state.passed.get((model, other), 0))
            before.add(n, round(line.samples * n / line.n))
