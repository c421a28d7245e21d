"""Simulates one fleet: the real policy decides every ten seconds, and demand is a fluid.

Samples are a fluid, first come, first served; workers are whole. A worker is paid for from its
launch to its end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.autoscaler.outlook import Demand, Observation, Plan, State
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.pools import MODEL, Group, Pool
from swell.simulator.traces import STARTS_AT, Trace
from swell.simulator.waits import Waits, waits

#: The policy with its settings.
Policy = Callable[[Observation, State], Plan]

#: Number of full minutes and of ten-second bins in the demand that the policy sees.
_MINUTES: Final = 16
_TENS: Final = 3
_TICKS_A_MINUTE: Final = 6
_TICKS_A_DAY: Final = 8640

#: Workers at the start, relative to the need.
_SPARE: Final = 1.25

_Array = NDArray[np.float64]


class History(msgspec.Struct, frozen=True, eq=False):
    """Values at the end of each tick; shapes (ticks,), summed over pools."""

    queued: _Array
    ready: _Array
    booting: _Array


class Outcome(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Result of a simulation."""

    #: Samples that arrived, that remained at the end, and that were lost (always 0).
    samples: float
    left: float
    lost: float
    waits: Waits
    #: Paid money and worker time; worker time in cold starts and in work.
    cost_micros: float
    worker_s: float
    boot_s: float
    busy_s: float
    #: Workers launched, cancelled during their start, drained, ended within 15 minutes of their
    #: launch, reclaimed; and refused launches.
    launches: int
    canceled: int
    drained: int
    flaps: int
    losses: int
    refused: int
    #: Sum over pools of the peak number of workers.
    peak: int
    #: Share of paid time on workers that the provider cannot reclaim.
    on_demand_share: float
    #: Peak number of workers, by pool.
    peaks: Mapping[str, int] = {}
    history: History | None = None


def run(
    trace: Trace,
    policy: Policy,
    *,
    start_s: float = 300.0,
    seed: int = 101,
    rate: float = 0.5,
    spread: float = 0.10,
    keep: bool = False,
) -> Outcome:
    """Simulate a trace with one pool without limits.

    Args:
        trace: Demand over time.
        policy: The policy.
        start_s: Mean cold start in seconds, uniform within 20 % of it.
        seed: Seed of the noise and of the cold starts.
        rate: Samples per second of one worker.
        spread: Standard deviation of the noise.
        keep: Whether to return the history of all ticks.
    """
    came = arrivals(trace, seed, spread=spread)
    return simulate(came, policy, [Pool(start_s=start_s, rate=rate)], seed=seed, keep=keep)


def simulate(
    came: _Array,
    policy: Policy,
    pools: Sequence[Pool],
    *,
    seed: int = 101,
    ready: Sequence[int] | None = None,
    stale: Sequence[tuple[float, float]] = (),
    keep: bool = False,
) -> Outcome:
    """Simulate arrivals.

    Args:
        came: Samples that arrive in each tick. Shape (ticks,).
        policy: The policy.
        pools: The pools.
        seed: Seed of the cold starts and of the losses.
        ready: Ready workers of each pool at the start; None for 1.25 times the need of the first
            minutes, in the first pool.
        stale: Periods in seconds, given as (start, end), with frozen demand values for the policy.
        keep: Whether to return the history of all ticks.

    Raises:
        InvalidInput: The policy's plan is impossible.
    """
    begun = _first(came, pools) if ready is None else ready
    groups = [
        Group(pool, np.random.default_rng([seed, number]), n)
        for number, (pool, n) in enumerate(zip(pools, begun, strict=True))
    ]
    return _Run(came, policy, groups, stale).outcome(keep)


def _first(came: _Array, pools: Sequence[Pool]) -> list[int]:
    needed = float(came[: 5 * _TICKS_A_MINUTE].mean()) / TICK_S / pools[0].rate
    return [max(pools[0].least, math.ceil(needed * _SPARE)), *(each.least for each in pools[1:])]


class _Run:
    """One simulation."""

    def __init__(
        self,
        came: _Array,
        policy: Policy,
        groups: Sequence[Group],
        stale: Sequence[tuple[float, float]],
    ) -> None:
        self._came: list[float] = came.tolist()
        self._policy = policy
        self._groups = groups
        self._stale = stale
        # Demand before the start equals that of the first minutes.
        before = np.full(_MINUTES * _TICKS_A_MINUTE, float(came[: 5 * _TICKS_A_MINUTE].mean()))
        sums = np.concatenate([[0.0], np.cumsum(np.concatenate([before, came]))])
        self._tens: list[float] = [*before.tolist(), *self._came]
        self._minutes: list[float] = (sums[_TICKS_A_MINUTE:] - sums[:-_TICKS_A_MINUTE]).tolist()
        self._ends: list[float] = np.concatenate([[0.0], np.cumsum(came)]).tolist()
        self._oldest = 0
        self._seen: Demand | None = None
        self._queued = 0.0
        self._drawn = self._again = 0.0
        self._state = State()
        self._before_micros = 0.0

    def outcome(self, keep: bool) -> Outcome:
        """Simulate all ticks, and return the result."""
        queued: list[float] = []
        ready: list[int] = []
        booting: list[int] = []
        for tick in range(len(self._came)):
            self._tick(tick)
            queued.append(self._queued)
            if keep:
                ready.append(sum(group.ready for group in self._groups))
                booting.append(sum(group.booting for group in self._groups))
        history = _history(queued, ready, booting) if keep else None
        return self._ended(np.array(queued), history)

    def _tick(self, tick: int) -> None:
        groups = self._groups
        again = 0.0
        for group in groups:
            group.begin(tick)
            again += group.be_lost(tick)
        self._queued += again
        self._again += again
        plan = self._policy(self._observed(tick), self._state)
        self._state = plan.state
        for group in groups:
            decided = plan.pools.get(group.pool.name)
            if decided is not None:
                group.apply(decided, tick)
        room = sum(group.ready * group.rate for group in groups) * TICK_S
        work = self._queued + self._came[tick]
        self._queued = max(0.0, work - room)
        self._drawn += min(work, room)
        share = min(1.0, work / room) if room > 0 else 0.0
        for group in groups:
            group.work(tick, share)

    def _observed(self, tick: int) -> Observation:
        now_s = tick * TICK_S
        age_s = next((now_s - a for a, b in self._stale if a < now_s < b), 0.0)
        if not age_s or self._seen is None:
            self._seen = self._demand(tick)
        return Observation(
            at=STARTS_AT + now_s,
            age_s=age_s,
            demands=(self._seen,),
            pools=[group.view(tick) for group in self._groups],
            spent_micros=self._spent_micros(tick),
        )

    def _spent_micros(self, tick: int) -> int:
        """Return the cost of the current day so far."""
        cost_micros = sum(group.cost_micros for group in self._groups)
        if tick % _TICKS_A_DAY == 0:
            self._before_micros = cost_micros
        return round(cost_micros - self._before_micros)

    def _demand(self, tick: int) -> Demand:
        # The first 16 minutes of the array precede the start.
        newest = (_MINUTES - 1) * _TICKS_A_MINUTE + tick
        tens = tick + _MINUTES * _TICKS_A_MINUTE
        return Demand(
            model=MODEL,
            waiting=self._queued,
            leased=float(sum(group.busy for group in self._groups)),
            oldest_s=self._oldest_s(tick) if self._queued > 0 else 0.0,
            minutes=self._minutes[tick : newest + 1 : _TICKS_A_MINUTE],
            tens=self._tens[tens - _TENS : tens],
        )

    def _oldest_s(self, tick: int) -> float:
        """Return the wait of the oldest waiting sample, in seconds."""
        ends, taken = self._ends, self._ends[tick] - self._queued
        at = self._oldest
        while at < tick and ends[at + 1] <= taken:
            at += 1
        self._oldest = at
        width = ends[at + 1] - ends[at]
        share = max(0.0, (taken - ends[at]) / width) if width > 0 else 0.0
        return max(0.0, (tick - at - share) * TICK_S)

    def _ended(self, queued: _Array, history: History | None) -> Outcome:
        groups, ticks = self._groups, len(self._came)
        for group in groups:
            group.end(ticks)
        per_s = sum(group.ready * group.rate for group in groups)
        rate = max(group.rate for group in groups)
        # The remaining samples are charged at the first pool's price, so that leaving them saves
        # nothing.
        rest_s = self._queued / groups[0].rate
        paid_s = [group.worker_ticks * TICK_S + group.extra_s for group in groups]
        worker_s = sum(paid_s) + rest_s
        firm_s = sum(s for s, group in zip(paid_s, groups, strict=True) if not group.pool.is_spot)
        return Outcome(
            samples=self._ends[-1],
            left=self._queued,
            lost=_whole(self._ends[-1] + self._again - self._drawn - self._queued),
            waits=waits(np.array(self._came), queued, per_s or rate),
            cost_micros=sum(group.cost_micros for group in groups)
            + rest_s * groups[0].pool.hour_micros / 3600.0,
            worker_s=worker_s,
            boot_s=sum(group.boot_ticks for group in groups) * TICK_S,
            busy_s=sum(group.busy_ticks for group in groups) * TICK_S,
            launches=sum(group.launches for group in groups),
            canceled=sum(group.canceled for group in groups),
            drained=sum(group.drained for group in groups),
            flaps=sum(group.flaps for group in groups),
            losses=sum(group.losses for group in groups),
            refused=sum(group.refused for group in groups),
            peak=sum(group.peak for group in groups),
            on_demand_share=firm_s / max(worker_s - rest_s, 1e-9),
            peaks={group.pool.name: group.peak for group in groups},
            history=history,
        )


def _history(queued: list[float], ready: list[int], booting: list[int]) -> History:
    return History(np.array(queued), np.array(ready, np.float64), np.array(booting, np.float64))


def _whole(samples: float) -> float:
    """Remove the rounding error of a difference of large sums."""
    return round(samples, 3) + 0.0
