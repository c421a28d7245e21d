"""Runs a simulation for the CLI: by task if there are few tasks, otherwise as a fluid."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.autoscaler.outlook import Observation, Plan, State
from swell.autoscaler.policy import plan
from swell.autoscaler.policy_settings import PolicySettings
from swell.core.billing.ledger import EntryKind
from swell.core.errors import InvalidInput
from swell.simulator import fluid, jobs
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.crowds import Crowd, crowd_of, parts
from swell.simulator.machines import Workers
from swell.simulator.pools import MODEL
from swell.simulator.traces import Trace

_Array = NDArray[np.float64]

Level = Literal["tasks", "fluid"]

#: Limit of individually simulated tasks, which takes some seconds.
MOST_TASKS: Final = 400_000

#: Number of chart columns.
COLUMNS: Final = 72

#: Workers at the start, relative to the need.
_SPARE: Final = 1.25


class Asked(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Inputs of a simulation."""

    demand: Trace | Crowd
    pools: Sequence[Workers]
    settings: PolicySettings = PolicySettings()
    seed: int = 1
    #: Standard deviation of the correlated noise.
    spread: float = 0.10
    #: Tasks expire after this wait, in seconds; None for never. Simulation by task only.
    patience_s: float | None = None
    #: None to choose by the number of tasks.
    level: Level | None = None
    terms: jobs.Terms = jobs.Terms(known_s=960.0)
    #: Share of a trace's tasks by model, in any unit; ignored for a list of tasks. Several models
    #: need simulation by task.
    shares: Mapping[str, float] = msgspec.field(default_factory=lambda: {MODEL: 1.0})


class Chart(msgspec.Struct, frozen=True, eq=False):
    """Values over time in `COLUMNS` columns; workers and waits are maxima.

    Args:
        demand_per_s: Samples per second that arrived.
        ready: Ready workers.
        alive: Ready and starting workers.
        wait_s: Approximate wait of arrivals in the column, in seconds.
    """

    demand_per_s: Sequence[float]
    ready: Sequence[float]
    alive: Sequence[float]
    wait_s: Sequence[float]


class Waits(msgspec.Struct, frozen=True):
    """Waits of one model: 95th percentile, and the share of late tasks."""

    p95_s: float = 0.0
    late: float = 0.0


class Told(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Result of a simulation."""

    level: Level
    seconds: float
    tasks: int
    #: Samples that arrived, and those finished.
    samples: int
    drawn: int
    #: Samples per second in the busiest minute.
    peak_per_s: float
    mean_wait_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    #: Share of tasks that waited longer than the target.
    late: float
    #: 95th percentile of waits by priority; simulation by task only.
    priorities: Mapping[int, float]
    #: Waits by model, if there are several.
    models: Mapping[str, Waits]
    worker_s: float
    cost_micros: float
    #: Worker time by kind, as in the ledger, in seconds.
    kinds: Mapping[str, float]
    #: Peak number of workers, by pool.
    peaks: Mapping[str, int]
    launches: int
    losses: int
    refusals: int
    #: Tasks lost (always 0), refused and expired; tasks waiting at the end (samples in a fluid).
    lost: int
    refused: int
    expired: int
    left: int
    #: Smallest admitted share of new tasks, and longest wait announced to users, in seconds.
    admitted: float
    told_wait_s: float
    chart: Chart

    @property
    def peak(self) -> int:
        """Sum over pools of the peak number of workers: an upper bound of the peak."""
        return sum(self.peaks.values())

    @property
    def image_micros(self) -> float:
        """Total cost per picture, in millionths of a dollar."""
        return self.cost_micros / max(1, self.drawn)


def run(asked: Asked) -> Told:
    """Run a simulation.

    Raises:
        InvalidInput: The inputs are not valid.
    """
    demand = asked.demand
    level = asked.level
    if isinstance(demand, Crowd):
        level = "tasks"
    elif level is None:
        level = "tasks" if float(demand.per_s.sum()) * 60.0 <= MOST_TASKS else "fluid"
    if level == "fluid" and asked.patience_s is not None:
        raise InvalidInput(
            "patience is simulated task by task, and there are too many tasks: use a smaller scale"
        )
    if level == "fluid" and len(asked.shares) > 1:
        raise InvalidInput(
            "several models are simulated task by task, and there are too many "
            "tasks: use a smaller scale, or name no models"
        )
    policy = _Policy(asked.settings)
    if level == "tasks":
        return _single(asked, policy)
    assert isinstance(demand, Trace), "a crowd is simulated one by one"
    return _flowing(asked, demand, policy)


class _Policy:
    """The real policy; records its announcements to users."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self.admitted = 1.0
        self.wait_s = 0.0

    def __call__(self, seen: Observation, state: State) -> Plan:
        decided = plan(seen, self._settings, state)
        for each in decided.relief:
            self.admitted = min(self.admitted, each.admitted)
            self.wait_s = max(self.wait_s, each.wait_s)
        return decided


def _single(asked: Asked, policy: _Policy) -> Told:
    demand, terms = asked.demand, asked.terms
    if isinstance(demand, Trace):
        crowds = _crowds(demand, asked)
        terms = msgspec.structs.replace(terms, until_s=demand.seconds)
    else:
        crowds = parts(demand)
    if asked.patience_s is not None:
        crowds = [msgspec.structs.replace(each, start_by_s=asked.patience_s) for each in crowds]
    pools = _begun(asked.pools, {each.model: each.first_per_s for each in crowds})
    done = jobs.simulate(crowds[0], policy, pools, seed=asked.seed, terms=terms, rivals=crowds[1:])
    last_s = max((float(each.at_s[-1]) for each in crowds if len(each)), default=0.0)
    end_s = max(terms.until_s or 0.0, last_s, TICK_S)
    came = sum((_came(each, end_s) for each in crowds), np.zeros(1))
    cost = done.cost
    rate = rate_of(pools[0], {each.model: float(each.samples.sum()) for each in crowds})
    course = done.course
    return Told(
        level="tasks",
        seconds=end_s,
        tasks=done.tasks,
        samples=done.samples,
        drawn=done.drawn_samples,
        peak_per_s=_peak_per_s(came),
        mean_wait_s=done.mean_wait_s(),
        p50_s=done.wait_s(0.5),
        p95_s=done.wait_s(0.95),
        p99_s=done.wait_s(0.99),
        late=done.late_share(asked.settings.wait_s),
        priorities={int(each): done.wait_s(0.95, int(each)) for each in np.unique(done.priorities)},
        models={
            each.model: _waits(done.waits_of(each.model), asked.settings.wait_s)
            for each in (crowds if len(crowds) > 1 else ())
        },
        worker_s=done.worker_s,
        cost_micros=float(cost.whole_micros or 0),
        kinds={kind.value: seconds for kind, seconds in cost.seconds.items()},
        peaks=done.peaks,
        launches=done.launches,
        losses=done.losses,
        refusals=done.refusals,
        lost=done.lost,
        refused=done.refused,
        expired=done.expired,
        left=done.left,
        admitted=policy.admitted,
        told_wait_s=policy.wait_s,
        chart=_chart(came, course.at_s, course.queued, course.ready, course.booting, rate),
    )


def _flowing(asked: Asked, trace: Trace, policy: _Policy) -> Told:
    came = arrivals(trace, asked.seed, spread=asked.spread)
    pools = [
        msgspec.structs.replace(each.pool, rate=rate_of(each, asked.shares)) for each in asked.pools
    ]
    [model] = asked.shares
    begun = _begun(asked.pools, {model: float(came[:30].mean()) / TICK_S})
    done = fluid.simulate(
        came, policy, pools, seed=asked.seed, ready=[each.ready for each in begun], keep=True
    )
    assert done.history is not None, "it was asked for"
    at_s: _Array = np.arange(1, len(came) + 1, dtype=np.float64) * TICK_S
    stood = done.history
    return Told(
        level="fluid",
        seconds=trace.seconds,
        tasks=round(done.samples),
        samples=round(done.samples),
        drawn=round(done.samples - done.left),
        peak_per_s=_peak_per_s(came),
        mean_wait_s=done.waits.mean_s,
        p50_s=done.waits.quantile(0.5),
        p95_s=done.waits.quantile(0.95),
        p99_s=done.waits.quantile(0.99),
        late=done.waits.late_share(asked.settings.wait_s),
        priorities={},
        models={},
        worker_s=done.worker_s,
        cost_micros=done.cost_micros,
        kinds={
            EntryKind.ATTEMPT.value: done.busy_s,
            EntryKind.COLD_START.value: done.boot_s,
            EntryKind.IDLE.value: max(0.0, done.worker_s - done.busy_s - done.boot_s),
        },
        peaks=done.peaks,
        launches=done.launches,
        losses=done.losses,
        refusals=done.refused,
        lost=round(done.lost),
        refused=0,
        expired=0,
        left=round(done.left),
        admitted=policy.admitted,
        told_wait_s=policy.wait_s,
        chart=_chart(came, at_s, stood.queued, stood.ready, stood.booting, pools[0].rate),
    )


def _crowds(trace: Trace, asked: Asked) -> list[Crowd]:
    """Return the tasks of a trace, split by model, each with independent noise."""
    if len(asked.shares) == 1:
        [model] = asked.shares
        crowd = crowd_of(trace, asked.seed, spread=asked.spread)
        return [msgspec.structs.replace(crowd, model=model)]
    whole = sum(asked.shares.values())
    found = []
    for model, share in asked.shares.items():
        own = Trace(f"{trace.name} {model}", trace.per_s * (share / whole))
        crowd = crowd_of(own, asked.seed, spread=asked.spread)
        found.append(msgspec.structs.replace(crowd, model=model))
    return found


def _waits(waits_s: _Array, wanted_s: float) -> Waits:
    if not len(waits_s):
        return Waits()
    return Waits(float(np.quantile(waits_s, 0.95)), float((waits_s > wanted_s).mean()))


def rate_of(workers: Workers, shares: Mapping[str, float]) -> float:
    """Return the samples per second of one worker with this mix of models.

    Counts only the models that the worker serves. If it serves none of them, all its models count
    equally.
    """
    own = {model: n for model, n in shares.items() if model in workers.speeds and n > 0.0}
    own = own or dict.fromkeys(workers.speeds, 1.0)
    took_s = sum(
        n / workers.speeds[model].rate(workers.samples, workers.slots) for model, n in own.items()
    )
    return sum(own.values()) / took_s


def _begun(pools: Sequence[Workers], per_s: Mapping[str, float]) -> list[Workers]:
    """Return the pools with ready workers for the first minutes, plus a margin."""
    need, begun = {model: n * _SPARE for model, n in per_s.items()}, []
    for each in pools:
        rate = rate_of(each, need)
        own = sum(n for model, n in need.items() if model in each.speeds)
        ready = min(each.pool.most, max(each.pool.least, math.ceil(own / rate)))
        left = max(0.0, 1.0 - ready * rate / own) if own > 0.0 else 1.0
        need = {model: n * left if model in each.speeds else n for model, n in need.items()}
        begun.append(msgspec.structs.replace(each, ready=ready))
    return begun


def _peak_per_s(came: _Array) -> float:
    minutes = max(1, math.ceil(len(came) / 6))
    sums = np.bincount(np.arange(len(came)) // 6, weights=came, minlength=minutes)
    return float(np.max(sums)) / min(60.0, len(came) * TICK_S)


def _came(crowd: Crowd, end_s: float) -> _Array:
    """Return the samples that arrived in each tick."""
    ticks = max(1, math.ceil(end_s / TICK_S))
    of_task = np.minimum((crowd.at_s / TICK_S).astype(np.int64), ticks - 1)
    return np.bincount(of_task, weights=crowd.samples, minlength=ticks).astype(np.float64)


def _chart(
    came: _Array, at_s: _Array, queued: _Array, ready: _Array, booting: _Array, rate: float
) -> Chart:
    end_s = len(came) * TICK_S
    columns = min(COLUMNS, len(came))
    of_tick = np.arange(len(came)) * columns // len(came)
    ticks = np.bincount(of_tick, minlength=columns)
    demand = np.bincount(of_tick, weights=came, minlength=columns) / ticks / TICK_S
    places = np.minimum((at_s / end_s * columns).astype(np.int64), columns - 1)
    wait_s = queued / np.maximum(ready * rate, rate)

    def most(values: _Array) -> list[float]:
        found = np.zeros(columns)
        np.maximum.at(found, places, values)
        kept: list[float] = found.round(3).tolist()
        return kept

    return Chart(demand.round(3).tolist(), most(ready), most(ready + booting), most(wait_s))
