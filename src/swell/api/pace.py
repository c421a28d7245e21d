"""How fast a worker gets through the tasks of a model, measured while it works. Pure.

What a worker holds is not what it runs: a function takes one task at a time, however many wait in
its worker, and a batch or a model that draws in steps runs many at once. Both show in what ends
while the worker is busy. Of `n` tasks that ended in `B` busy seconds and were run for `R` seconds
together, Little's law (L = λW, with λ = n / B and W = R / n) says how many were run at once:

    task_s = B / n                 what each costs the worker
    at_once = R / B = run_s / task_s

This says what the worker can do only if it had enough to do. So what is measured counts in full
where it held at least as many tasks as it is known to run at once; with fewer it is a lower bound
of what it can do, and counts only where it is better than what is known. Of a task that was alone,
the time on its way to the worker and back is not counted: with others behind it, it would overlap.

Before anything was measured a worker is taken to run one at a time. What it spends on tasks that do
not succeed falls on those that do. Workers with several models bear what ended for each model the
time since anything ended, so that the costs of all add up to the time that it was busy.

Source:
    J. D. C. Little, "A Proof for the Queuing Formula: L = λW", Operations Research, 1961.
"""

from typing import Final

import msgspec

#: So many tasks make a window, and weigh as much as all that was known before.
WINDOW: Final = 16

#: With fewer tasks held on average nobody waited inside the worker.
_ALONE: Final = 1.5

#: A worker holds enough from this part of what it runs at once.
_ENOUGH: Final = 0.9

#: No task costs less, in seconds.
_LEAST_S: Final = 1e-6


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks of one model cost a worker that has enough to do."""

    #: Seconds of the worker for each task.
    task_s: float
    #: How long a task ran at that pace, beside the others.
    run_s: float
    #: Samples of these tasks on average.
    count: float = 1.0

    @property
    def at_once(self) -> float:
        """How many tasks the worker runs at once; at least 1."""
        return max(1.0, self.run_s / self.task_s) if self.task_s else 1.0


class Window:
    """What happened at a worker while some tasks of one model ended."""

    __slots__ = ("busy_s", "count", "held_s", "n", "run_s")

    def __init__(self) -> None:
        self.n = 0
        self.count = 0
        self.run_s = 0.0
        #: Seconds in which the worker held something.
        self.busy_s = 0.0
        #: The same, times how many tasks it held.
        self.held_s = 0.0


class Meter:
    """Measures one worker: told of every task that it takes, ends and lets go."""

    __slots__ = ("_busy_s", "_held_s", "_since_s", "_windows", "held", "paces", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        #: How many tasks it holds.
        self.held = 0
        #: Model → what was learnt of it here.
        self.paces: dict[str, Pace] = {}
        self._windows: dict[str, Window] = {}
        self._since_s = 0.0
        # Not yet borne by any task.
        self._busy_s = 0.0
        self._held_s = 0.0

    def take(self, n: int, now_s: float) -> None:
        """Note that it took tasks."""
        self._pass(now_s)
        self.held += n

    def end(self, model: str, run_s: float, count: int, now_s: float) -> Window | None:
        """Note that a task succeeded; return the window before it where that is full.

        One that ends while the worker is not known to hold any says nothing: with several backends
        it may have been taken at another one, and for how long it was busy is not known.
        """
        if not self.held:
            return None
        self._pass(now_s)
        window, full = self._windows.get(model), None
        # Tasks that end together belong to one window.
        if (
            window is not None
            and window.n >= WINDOW
            and self._busy_s * window.n > 0.5 * window.busy_s
        ):
            full, window = window, None
        if window is None:
            window = self._windows[model] = Window()
        window.n += 1
        window.count += count
        window.run_s += run_s
        window.busy_s += self._busy_s
        window.held_s += self._held_s
        self._busy_s = self._held_s = 0.0
        return full

    def let_go(self, now_s: float) -> dict[str, Window]:
        """Note that it holds a task less; return all windows if it was the last."""
        self._pass(now_s)
        self.held = max(0, self.held - 1)
        if self.held:
            return {}
        self._busy_s = self._held_s = 0.0
        windows, self._windows = self._windows, {}
        return windows

    def _pass(self, now_s: float) -> None:
        if self.held:
            busy_s = now_s - self._since_s
            self._busy_s += busy_s
            self._held_s += busy_s * self.held
        self._since_s = now_s


def learn(known: Pace | None, seen: Window, slots: int) -> Pace | None:
    """Return what is known of a pace after a window at a worker with so many slots."""
    if seen.n == 0 or seen.busy_s <= 0:
        return known
    held = seen.held_s / seen.busy_s
    busy_s = seen.busy_s
    if held < _ALONE and slots > 1 and seen.run_s > 0:
        busy_s = min(busy_s, seen.run_s)
    task_s, run_s = max(_LEAST_S, busy_s / seen.n), seen.run_s / seen.n
    count = seen.count / seen.n
    if known is None:
        return Pace(task_s=task_s, run_s=run_s, count=count)
    is_better = task_s * known.count < known.task_s * count
    if not is_better and held < _ENOUGH * known.at_once:
        return known
    part = seen.n / (seen.n + WINDOW)
    return Pace(
        task_s=known.task_s + part * (task_s - known.task_s),
        run_s=known.run_s + part * (run_s - known.run_s),
        count=known.count + part * (count - known.count),
    )
