"""Simulates many fleets of one pool in parallel with arrays, for simple rules.

The model is that of `fluid`, with two simplifications: a rule cancels the starting workers that
would be ready last, and cold starts come from a table. Arrays have one entry per fleet: shape
(fleets,).
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.simulator.arrivals import TICK_S
from swell.simulator.waits import Waits, waits

_Array = NDArray[np.float64]
_Whole = NDArray[np.int64]

#: Number of cold start times in the table, which repeats, and their relative spread.
_TABLE: Final = 4096
_JITTER: Final = 0.2

#: A worker that ends within this many ticks of its launch counts as a flap.
_FLAP_TICKS: Final = 90

#: Workers at the start, relative to the need of the first minutes.
_SPARE: Final = 1.25
_FIRST_TICKS: Final = 30


class Case(msgspec.Struct, frozen=True):
    """Inputs of one fleet: column of the arrivals, and mean cold start in seconds."""

    arrivals: int
    start_s: float


class Rule(Protocol):
    """An autoscaling rule for many fleets."""

    #: Whether only idle workers may end.
    only_idle: bool

    def wanted(self, fleets: "Fleets") -> _Array:
        """Return the target number of workers, starting ones included; called each tick."""
        ...


class Result(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Result of one fleet; see `fluid.Outcome`."""

    samples: float
    left: float
    waits: Waits
    worker_s: float
    boot_s: float
    launches: int
    flaps: int
    peak: int


class Fleets:
    """The state of all fleets, and the values that a rule may read.

    Args:
        came: Samples that arrive in each tick, for several traces. Shape (ticks, courses).
        cases: Inputs of each fleet.
        rate: Samples per second of one worker.
        seed: Seed of the cold starts.
    """

    def __init__(self, came: _Array, cases: Sequence[Case], rate: float, seed: int) -> None:
        self.rate = rate
        self.tick = 0
        self.came, self.course = came, np.array([each.arrivals for each in cases])
        self.start_s = np.array([each.start_s for each in cases])
        first = came[:_FIRST_TICKS].mean(axis=0) / TICK_S / rate
        n = len(cases)
        self.ready: _Array = np.ceil(first * _SPARE)[self.course]
        self.booting: _Array = np.zeros(n)
        self.busy: _Array = np.zeros(n)
        self.waiting: _Array = np.zeros(n)
        self._starts = [
            _Starts(start_s, np.flatnonzero(self.start_s == start_s), seed)
            for start_s in np.unique(self.start_s)
        ]
        slots = max(starts.last for starts in self._starts) + 1
        #: Workers that become ready in each tick, modulo the slots. Shape (fleets, slots).
        self._due = np.zeros((n, slots))
        self._launched_at = np.zeros((_FLAP_TICKS, n))
        self._recent = np.zeros(n)
        self._queued = np.zeros((len(came), n), np.float32)
        self._sums = {
            name: np.zeros(n) for name in ("alive", "booting", "extra_s", "launches", "flaps")
        }
        self._peak = np.zeros(n)
        before = np.repeat(came[:_FIRST_TICKS].mean(axis=0)[None, :], 60, axis=0)
        ends = np.cumsum(np.concatenate([before, came]), axis=0)
        #: Samples per second over the last minute, at each tick. Shape (ticks, courses).
        self._minutes = (ends[59 : 59 + len(came)] - ends[53 : 53 + len(came)]) / 60.0

    @property
    def total(self) -> _Array:
        """Workers, starting ones included."""
        return self.ready + self.booting

    @property
    def held(self) -> _Array:
        """Samples that wait or run."""
        return self.waiting + self.busy

    @property
    def per_s(self) -> _Array:
        """Samples per second that arrived in the last minute."""
        found: _Array = self._minutes[self.tick][self.course]
        return found

    @property
    def per_s_now(self) -> _Array:
        """Samples per second that arrived in the last tick."""
        found: _Array = self.came[max(0, self.tick - 1)][self.course] / TICK_S
        return found

    def run(self, rule: Rule) -> list[Result]:
        """Simulate all ticks."""
        for tick in range(len(self.came)):
            self.tick = tick
            self._begin()
            self._apply(np.maximum(rule.wanted(self), 0.0), rule.only_idle)
            self._work()
        return [self._result(fleet) for fleet in range(len(self.course))]

    # --- one tick ---

    def _begin(self) -> None:
        slot = self.tick % self._due.shape[1]
        came = self._due[:, slot]
        self.ready = self.ready + came
        self.booting = self.booting - came
        self._due[:, slot] = 0.0
        row = self.tick % _FLAP_TICKS
        self._recent = self._recent - self._launched_at[row]
        self._launched_at[row] = 0.0

    def _apply(self, wanted: _Array, only_idle: bool) -> None:
        change = wanted - self.ready - self.booting
        if np.max(change) > 0.0:
            self._launch(np.maximum(change, 0.0))
        if np.min(change) < 0.0:
            fewer = np.maximum(-change, 0.0)
            canceled = np.minimum(fewer, self.booting)
            if canceled.any():
                self._cancel(canceled)
            self._drain(np.minimum(fewer - canceled, self.ready), only_idle)

    def _launch(self, n: _Array) -> None:
        for starts in self._starts:
            starts.launch(n, self.tick, self._due)
        self.booting = self.booting + n
        self._recent = self._recent + n
        self._launched_at[self.tick % _FLAP_TICKS] += n
        self._sums["launches"] += n

    def _cancel(self, n: _Array) -> None:
        """Cancel the starting workers that would be ready last."""
        some = np.flatnonzero(n)
        slots = self._due.shape[1]
        order = (self.tick + np.arange(slots - 1, 0, -1)) % slots
        due = self._due[np.ix_(some, order)]
        before = np.cumsum(due, axis=1) - due
        self._due[np.ix_(some, order)] = due - np.clip(n[some, None] - before, 0.0, due)
        self.booting = self.booting - n
        # Nearly all of them were launched within the last 15 minutes.
        self._recent = np.maximum(self._recent - n, 0.0)
        self._sums["flaps"] += n

    def _drain(self, n: _Array, only_idle: bool) -> None:
        idle = np.maximum(self.ready - self.busy, 0.0)
        if only_idle:
            n = np.minimum(n, idle)
        older = np.maximum(self.ready + self.booting - self._recent, 0.0)
        self._sums["flaps"] += np.maximum(n - older, 0.0)
        self._sums["extra_s"] += np.maximum(n - idle, 0.0) / self.rate
        self.ready = self.ready - n

    def _work(self) -> None:
        room = self.ready * (self.rate * TICK_S)
        work = self.waiting + self.came[self.tick][self.course]
        self.waiting = np.maximum(work - room, 0.0)
        self.busy = np.minimum(self.ready, np.ceil(work / (self.rate * TICK_S) - 1e-9))
        self._queued[self.tick] = self.waiting
        alive = self.ready + self.booting
        self._sums["alive"] += alive
        self._sums["booting"] += self.booting
        self._peak = np.maximum(self._peak, alive)

    def _result(self, fleet: int) -> Result:
        came = self.came[:, self.course[fleet]]
        left = float(self.waiting[fleet])
        paid_s = float(self._sums["alive"][fleet]) * TICK_S + float(self._sums["extra_s"][fleet])
        queued = self._queued[:, fleet].astype(np.float64)
        return Result(
            samples=float(np.sum(came)),
            left=left,
            waits=waits(came, queued, max(float(self.ready[fleet]), 1.0) * self.rate),
            # The remaining samples are charged at the same price, so that leaving them saves
            # nothing.
            worker_s=paid_s + left / self.rate,
            boot_s=float(self._sums["booting"][fleet]) * TICK_S,
            launches=int(self._sums["launches"][fleet]),
            flaps=int(self._sums["flaps"][fleet]),
            peak=int(self._peak[fleet]),
        )


class _Starts:
    """Cold starts of the fleets with the same mean cold start."""

    def __init__(self, start_s: float, fleets: _Whole, seed: int) -> None:
        spread = np.random.default_rng([seed, 17]).random(_TABLE) * 2.0 - 1.0
        took = start_s * (1.0 + _JITTER * spread)
        ticks = np.maximum(1, np.ceil(took / TICK_S)).astype(np.int64)
        self._fleets = fleets
        self._first, self.last = int(np.min(ticks)), int(np.max(ticks))
        width = self.last - self._first + 1
        each = np.zeros((2 * _TABLE + 1, width))
        each[1 + np.arange(2 * _TABLE), np.tile(ticks, 2) - self._first] = 1.0
        #: Cumulative counts of cold start times in the table, repeated twice.
        self._sums = np.cumsum(each, axis=0)
        self._whole = self._sums[_TABLE]
        self._next = np.zeros(len(fleets), np.int64)

    def launch(self, n: _Array, tick: int, due: _Array) -> None:
        """Schedule `n` launches of each fleet."""
        mine = n[self._fleets].astype(np.int64)
        some = np.flatnonzero(mine)
        if not len(some):
            return
        counts, begin = mine[some], self._next[some]
        rounds, rest = counts // _TABLE, counts % _TABLE
        when = self._sums[begin + rest] - self._sums[begin] + rounds[:, None] * self._whole
        slots = (tick + np.arange(self._first, self.last + 1)) % due.shape[1]
        due[np.ix_(self._fleets[some], slots)] += when
        self._next[some] = (begin + rest) % _TABLE
