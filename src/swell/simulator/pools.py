"""Simulated pools: prices, cold starts, losses and refusals."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from swell.autoscaler.outlook import PoolPlan, PoolView
from swell.core.errors import InvalidInput
from swell.core.kaplan_meier import Observation, Prior, quantiles
from swell.simulator.arrivals import TICK_S

#: The only model of the fluid simulation.
MODEL: Final = "demo/picture"

#: Pairs of start time in seconds and value; the default applies before the first.
Steps = Sequence[tuple[float, float]]

#: A worker that ends within this time of its launch counts as a flap, in seconds.
_FLAP_S: Final = 900.0

#: Interval between updates of the cold start estimate, in ticks, and number of recent starts that
#: it uses.
_LOOK_TICKS: Final = 6
_STARTS_KEPT: Final = 60

#: Back-off after a refusal, in seconds: it doubles up to the limit.
_CLOSED_S: Final = 60.0
_MOST_CLOSED_S: Final = 900.0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """True properties of a pool's workers; the policy sees them as a `PoolView`."""

    name: str = "pool"
    #: Samples per second of one worker, and factors over time.
    rate: float = 0.5
    rate_factors: Steps = ()
    #: Rate that the policy sees; None for the true one.
    told_rate: float | None = None
    hour_micros: int = 1_000_000
    launch_micros: int = 0
    #: Cold start in seconds, its relative spread (uniform), factors over time, and number of starts
    #: known at the start.
    start_s: float = 300.0
    jitter: float = 0.2
    start_factors: Steps = ()
    starts_seen: int = 20
    #: Quota, known to the policy, and minimum number of workers.
    most: int = 1_000_000
    least: int = 0
    least_billed_s: float = 0.0
    is_spot: bool = False
    location: str = ""
    #: Share of workers that the provider reclaims per hour.
    losses_per_hour: float = 0.0
    #: Capacity over time, unknown to the policy: the provider refuses launches beyond it, and
    #: reclaims workers beyond it.
    available: Steps = ()
    #: Periods when the provider refuses all launches, given as (start, end).
    refuses: Sequence[tuple[float, float]] = ()


def _step_at(steps: Steps, at_s: float, usual: float) -> float:
    at = bisect_right(steps, at_s, key=lambda step: step[0])
    return steps[at - 1][1] if at else usual


class _Boots:
    """Workers of one launch that are not all ready yet."""

    __slots__ = ("dues", "launched_s", "ready")

    def __init__(self, launched_s: float, dues: list[int]) -> None:
        self.launched_s = launched_s
        #: Ticks at which they are ready, sorted, and the number of ready ones.
        self.dues = dues
        self.ready = 0


class Group:
    """Workers of one pool.

    Args:
        pool: Properties of the workers.
        random: Generator for cold starts and losses.
        ready: Ready workers at the start.
    """

    def __init__(self, pool: Pool, random: np.random.Generator, ready: int) -> None:
        self.pool = pool
        self.ready = ready
        self.booting = 0
        self.busy = 0
        self.draining = 0
        self.rate = pool.rate
        self._random = random
        #: Pairs of launch time and number of ready workers, oldest first.
        self._cohorts: deque[list[float]] = deque([[-math.inf, float(ready)]] if ready else [])
        self._boots: deque[_Boots] = deque()
        self._due: dict[int, list[_Boots]] = {}
        self._drained: deque[tuple[int, int]] = deque()
        self._rates = {MODEL: pool.told_rate or pool.rate}
        self._starts: deque[float] = deque(maxlen=_STARTS_KEPT)
        self._starts.extend(self._start_s(0.0, pool.starts_seen))
        self._looked = -_LOOK_TICKS
        self._start_p50_s, self._start_p95_s = 180.0, 600.0
        self._closed_until_s = 0.0
        self._refused_in_a_row = 0
        # Totals for the result.
        self.worker_ticks = self.boot_ticks = self.busy_ticks = 0
        self.extra_s = 0.0
        self.launches = self.canceled = self.drained = self.flaps = self.losses = 0
        self.refused = self.peak = 0

    @property
    def cost_micros(self) -> float:
        """Total cost in millionths of a dollar."""
        paid_s = self.worker_ticks * TICK_S + self.extra_s
        return paid_s * self.pool.hour_micros / 3600.0 + self.launches * self.pool.launch_micros

    # --- events ---

    def begin(self, tick: int) -> None:
        """Make due workers ready, and remove those that have drained."""
        for boots in self._due.pop(tick, ()):
            before = boots.ready
            while boots.ready < len(boots.dues) and boots.dues[boots.ready] <= tick:
                boots.ready += 1
            if came := boots.ready - before:
                self.booting -= came
                self.ready += came
                self._cohorts.append([boots.launched_s, float(came)])
                took_s = tick * TICK_S - boots.launched_s
                self._starts.extend([took_s] * min(came, _STARTS_KEPT))
        while self._boots and self._boots[0].ready == len(self._boots[0].dues):
            self._boots.popleft()
        while self._drained and self._drained[0][0] <= tick:
            self.draining -= self._drained.popleft()[1]

    def be_lost(self, tick: int) -> float:
        """Lose workers; return the number of samples to repeat."""
        pool, lost = self.pool, 0
        if pool.losses_per_hour and self.ready:
            share = 1.0 - math.exp(-pool.losses_per_hour * TICK_S / 3600.0)
            lost = int(self._random.binomial(self.ready, share))
        if pool.available:
            most = _step_at(pool.available, tick * TICK_S, math.inf)
            beyond = self.ready + self.booting - most
            if beyond > 0:
                canceled = min(self.booting, int(beyond))
                self._cancel(canceled, tick)
                lost = max(lost, int(beyond) - canceled)
        if not lost:
            return 0.0
        busy = min(self.busy, lost)
        self._stop(lost, tick, by_policy=False)
        self.losses += lost
        # On average, half of their work is lost.
        return busy * 0.5

    def apply(self, plan: PoolPlan, tick: int) -> None:
        """Apply a decision of the policy.

        Raises:
            InvalidInput: The decision is impossible.
        """
        if plan.drain or plan.cancel_boots or plan.launch:
            if not 0 <= plan.drain <= self.ready or not 0 <= plan.cancel_boots <= self.booting:
                raise InvalidInput(
                    f"{plan} drains or cancels more than the {self.ready} workers that are ready "
                    f"and the {self.booting} that start"
                )
            self._cancel(plan.cancel_boots, tick)
            self.canceled += plan.cancel_boots
            self._drain(plan.drain, tick)
            self._launch(plan.launch, tick)

    def work(self, tick: int, share: float) -> None:
        """Account for one tick with this share of busy workers."""
        self.busy = min(self.ready, math.ceil(self.ready * share - 1e-9))
        alive = self.ready + self.booting
        self.worker_ticks += alive
        self.boot_ticks += self.booting
        self.busy_ticks += self.busy
        self.peak = max(self.peak, alive)
        if self.pool.rate_factors:
            factor = _step_at(self.pool.rate_factors, (tick + 1) * TICK_S, 1.0)
            self.rate = self.pool.rate * factor

    def end(self, tick: int) -> None:
        """Bill the minimum time of the remaining workers."""
        for launched_s, n in self._cohorts:
            self._bill_least(launched_s, n, tick)
        for boots in self._boots:
            self._bill_least(boots.launched_s, len(boots.dues) - boots.ready, tick)

    # --- observation ---

    def view(self, tick: int) -> PoolView:
        """Return the pool as the controller sees it."""
        pool, now_s = self.pool, tick * TICK_S
        if tick - self._looked >= _LOOK_TICKS:
            self._look(tick)
        ages: list[float] = []
        for boots in self._boots:
            ages += [now_s - boots.launched_s] * (len(boots.dues) - boots.ready)
        return PoolView(
            pool=pool.name,
            rates=self._rates,
            ready=self.ready,
            busy=self.busy,
            booting=ages,
            draining=self.draining,
            hour_micros=pool.hour_micros,
            launch_micros=pool.launch_micros,
            least_billed_s=pool.least_billed_s,
            start_p50_s=self._start_p50_s,
            start_p95_s=self._start_p95_s,
            most=pool.most,
            least=pool.least,
            is_spot=pool.is_spot,
            location=pool.location,
            losses_per_hour=pool.losses_per_hour,
            closed_s=max(0.0, self._closed_until_s - now_s),
        )

    def _look(self, tick: int) -> None:
        """Estimate the cold start, including the unfinished starts."""
        self._looked = tick
        seen = [Observation(each) for each in self._starts]
        for boots in self._boots:
            if (left := len(boots.dues) - boots.ready) > 0:
                seen.append(Observation(tick * TICK_S - boots.launched_s, False, float(left)))
        p50, p95 = quantiles(seen, (0.5, 0.95), Prior(180.0, 600.0))
        self._start_p50_s = p50.seconds or self._start_p50_s
        self._start_p95_s = p95.seconds or self._start_p95_s

    # --- launches and ends ---

    def _start_s(self, at_s: float, n: int) -> list[float]:
        pool = self.pool
        factor = _step_at(pool.start_factors, at_s, 1.0)
        spread = pool.jitter * (2.0 * self._random.random(n) - 1.0)
        drawn: list[float] = (pool.start_s * factor * (1.0 + spread)).tolist()
        return drawn

    def _launch(self, n: int, tick: int) -> None:
        if n <= 0:
            return
        now_s = tick * TICK_S
        given = self._given(n, now_s)
        if given < n:
            self.refused += n - given
            closed_s = min(_MOST_CLOSED_S, _CLOSED_S * 2.0**self._refused_in_a_row)
            self._refused_in_a_row += 1
            self._closed_until_s = now_s + closed_s
        else:
            self._refused_in_a_row = 0
        if not given:
            return
        self.launches += given
        self.booting += given
        dues = sorted(
            tick + max(1, math.ceil(took_s / TICK_S)) for took_s in self._start_s(now_s, given)
        )
        boots = _Boots(now_s, dues)
        self._boots.append(boots)
        for due in set(dues):
            self._due.setdefault(due, []).append(boots)

    def _given(self, n: int, now_s: float) -> int:
        """Return the number of workers that the provider grants."""
        pool = self.pool
        if any(from_s <= now_s < until_s for from_s, until_s in pool.refuses):
            return 0
        most = min(float(pool.most), _step_at(pool.available, now_s, math.inf))
        return int(min(n, max(0.0, most - self.ready - self.booting)))

    def _cancel(self, n: int, tick: int) -> None:
        """Cancel the youngest starting workers."""
        self.booting -= n
        while n > 0:
            boots = self._boots[-1]
            ended = min(n, len(boots.dues) - boots.ready)
            del boots.dues[len(boots.dues) - ended :]
            self._left(boots.launched_s, ended, tick, by_policy=True)
            n -= ended
            if boots.ready == len(boots.dues):
                self._boots.pop()

    def _drain(self, n: int, tick: int) -> None:
        """Drain idle workers first; busy ones finish their sample."""
        if n <= 0:
            return
        finishing = max(0, n - (self.ready - self.busy))
        self._stop(n, tick, by_policy=True)
        self.drained += n
        if finishing:
            self.draining += finishing
            self.extra_s += finishing / self.rate
            self._drained.append((tick + math.ceil(1.0 / self.rate / TICK_S), finishing))

    def _stop(self, n: int, tick: int, *, by_policy: bool) -> None:
        """End the oldest ready workers."""
        self.ready -= n
        self.busy = min(self.busy, self.ready)
        left = float(n)
        while left > 0:
            cohort = self._cohorts[0]
            ended = min(left, cohort[1])
            cohort[1] -= ended
            left -= ended
            self._left(cohort[0], ended, tick, by_policy=by_policy)
            if not cohort[1]:
                self._cohorts.popleft()

    def _left(self, launched_s: float, n: float, tick: int, *, by_policy: bool) -> None:
        if by_policy:
            self._bill_least(launched_s, n, tick)
            if tick * TICK_S - launched_s < _FLAP_S:
                self.flaps += int(n)

    def _bill_least(self, launched_s: float, n: float, tick: int) -> None:
        age_s = tick * TICK_S - launched_s
        self.extra_s += n * max(0.0, self.pool.least_billed_s - age_s)
