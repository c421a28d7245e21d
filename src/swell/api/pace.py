"""How fast a worker completes the tasks of a model, measured while it works. Pure.

A worker may hold more tasks than it runs: a function runs one at a time, a batch or a model that
works in steps runs several. If `n` tasks ended in `B` busy seconds and ran for `R` seconds in
total, Little's law (L = λW, with λ = n / B and W = R / n) gives the number that ran at once:

    task_s = B / n                 worker time per task
    at_once = R / B = run_s / task_s

This is the worker's capacity only if it had enough tasks. With fewer tasks than it can run at once,
a window is a lower bound, so it counts only if it is better than the known pace. A worker with
several slots overlaps the transfers of a task with other tasks, so `B` is at most `R`.

Failed tasks are not counted; their time is part of the tasks that succeed.

Source:
    J. D. C. Little, "A Proof for the Queuing Formula: L = λW", Operations Research, 1961.
"""

from typing import Final

import msgspec

#: Tasks per window. A window weighs as much as everything known before it.
WINDOW: Final = 16

#: A worker has enough tasks if it holds this part of the number it can run at once.
_ENOUGH: Final = 0.9

#: The least time per task, in seconds.
_LEAST_S: Final = 1e-6


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one model's tasks for a busy worker."""

    #: Worker seconds per task.
    task_s: float
    #: Seconds that each task ran, together with others.
    run_s: float
    #: Samples of these tasks on average.
    count: float = 1.0

    @property
    def at_once(self) -> float:
        """How many tasks the worker runs at once; at least 1."""
        return max(1.0, self.run_s / self.task_s)

    @property
    def sample_s(self) -> float:
        """Worker seconds per sample."""
        return self.task_s / self.count


class Window(msgspec.Struct):
    """Measurements of a worker while some tasks of one model ended."""

    n: int = 0
    count: int = 0
    run_s: float = 0.0
    #: Seconds during which the worker held tasks.
    busy_s: float = 0.0
    #: These seconds times the number of tasks held.
    held_s: float = 0.0


class Meter:
    """Measures one worker."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        #: Tasks that it holds.
        self.held = 0
        #: Model → its pace here.
        self.paces: dict[str, Pace] = {}
        self._windows: dict[str, Window] = {}
        self._since_s = 0.0
        # Since the last task ended.
        self._busy_s = 0.0
        self._held_s = 0.0

    def take(self, n: int, now_s: float) -> None:
        """Record that the worker leased tasks."""
        self._advance(now_s)
        self.held += n

    def end(self, model: str, run_s: float, count: int, now_s: float) -> Window | None:
        """Record that a task has succeeded; return the previous window if it is full.

        It is ignored if the worker holds no task here: another backend leased it, and the busy time
        is unknown.
        """
        if not self.held:
            return None
        self._advance(now_s)
        window, full = self._windows.setdefault(model, Window()), None
        # Tasks that end together belong to one window.
        if window.n >= WINDOW and self._busy_s > 0.5 * window.busy_s / window.n:
            full, window = window, Window()
            self._windows[model] = window
        window.n += 1
        window.count += count
        window.run_s += run_s
        window.busy_s += self._busy_s
        window.held_s += self._held_s
        self._busy_s = self._held_s = 0.0
        return full

    def let_go(self, now_s: float) -> dict[str, Window]:
        """Record that the worker no longer holds a task; return all windows if it is idle now."""
        self._advance(now_s)
        self.held = max(0, self.held - 1)
        if self.held:
            return {}
        self._busy_s = self._held_s = 0.0
        windows, self._windows = self._windows, {}
        return windows

    def _advance(self, now_s: float) -> None:
        if self.held:
            self._busy_s += now_s - self._since_s
            self._held_s += (now_s - self._since_s) * self.held
        self._since_s = now_s


def learn(known: Pace | None, seen: Window, slots: int) -> Pace | None:
    """Return the pace after a window at a worker with some slots."""
    if seen.n == 0 or seen.busy_s <= 0:
        return known
    busy_s = min(seen.busy_s, seen.run_s or seen.busy_s) if slots > 1 else seen.busy_s
    pace = Pace(
        task_s=max(_LEAST_S, busy_s / seen.n), run_s=seen.run_s / seen.n, count=seen.count / seen.n
    )
    if known is None:
        return pace
    is_better = pace.task_s * known.count < known.task_s * pace.count
    if not is_better and seen.held_s / seen.busy_s < _ENOUGH * known.at_once:
        return known
    part = seen.n / (seen.n + WINDOW)
    return Pace(
        task_s=known.task_s + part * (pace.task_s - known.task_s),
        run_s=known.run_s + part * (pace.run_s - known.run_s),
        count=known.count + part * (pace.count - known.count),
    )


def first_pace(run_s: float, count: float) -> Pace:
    """Return the pace of a worker that was not measured yet: one task at a time."""
    run_s = max(_LEAST_S, run_s)
    return Pace(task_s=run_s, run_s=run_s, count=count)
