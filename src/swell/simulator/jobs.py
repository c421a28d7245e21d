"""Simulates individual tasks with the real scheduling, estimation, scaling and billing code.

`swell.core.fair_queueing` chooses the next task, `swell.server.estimates.eta` estimates its end on
arrival, the policy scales the workers from the observation that `swell.autoscaler.observe` would
make, and `swell.core.billing.idle_time` computes the cost. The simulation jumps from event to
event.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.autoscaler.arrivals import LAG_S, Arrived, arrived
from swell.autoscaler.memory import Memory
from swell.autoscaler.observe import demands
from swell.autoscaler.outlook import Observation, Plan, PoolPlan, State
from swell.autoscaler.report import coming_of
from swell.core.arrival_rates import BIN_S, Arrivals
from swell.core.billing.cost_breakdown import Cost, added, costs_by
from swell.core.billing.ledger import EntryKind, cost_micros
from swell.core.broker_types import Depth
from swell.core.errors import InvalidInput
from swell.core.fair_queueing import rotate
from swell.protocol.autoscaler_messages import Workload
from swell.server.estimates.eta import (
    Calibration,
    Estimate,
    EtaSeconds,
    IssuedEstimate,
    ServiceTimes,
    Situation,
    forecast,
)
from swell.server.estimates.eta import Workers as ServingWorkers
from swell.simulator.crowds import Crowd
from swell.simulator.line import Line, Task
from swell.simulator.machines import Books, Machine, Machines, Workers
from swell.simulator.traces import STARTS_AT

#: The policy with its settings.
Policy = Callable[[Observation, State], Plan]

#: Limit of launches in one decision, and of the time to finish the remaining tasks after the end,
#: in seconds.
_AT_ONCE: Final = 50
_PATIENCE_S: Final = 86_400.0

_DAY_S: Final = 86_400.0

#: Event types, in order of precedence at the same time.
_END, _READY, _LOST, _AGAIN = range(4)

_Array = NDArray[np.float64]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the service."""

    #: Interval between decisions of the policy, in seconds.
    every_s: float = 3.0
    #: Lease time: a lost worker's tasks return to the queue after this time, in seconds.
    lease_s: float = 30.0
    #: Start of the simulation as a Unix time, in seconds.
    starts_at: float = STARTS_AT
    #: Earliest end of the simulation, in seconds; None for the last task.
    until_s: float | None = None
    #: Seconds of known arrivals before the start, at the rate of the first five minutes; 0 for a
    #: new service.
    known_s: float = 0.0
    #: Whether to record each task's estimate, see `Outcome.told`.
    are_told: bool = False


_TERMS: Final = Terms()


class Life(msgspec.Struct, frozen=True):
    """Life of one worker, in seconds since the start; None if the state was not reached."""

    pool: str
    asked_s: float
    ready_s: float | None
    gone_s: float


class Course(msgspec.Struct, frozen=True, eq=False):
    """Values at each decision of the policy; shapes (decisions,)."""

    at_s: _Array
    queued: _Array
    ready: _Array
    booting: _Array


class Told(msgspec.Struct, frozen=True):
    """Estimated and actual duration of a task, in seconds."""

    situation: Situation
    eta: EtaSeconds
    took_s: float


class Outcome(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Result of a simulation."""

    #: Tasks submitted; tasks finished, expired, refused on arrival, waiting at the end, and lost
    #: (always 0).
    tasks: int
    samples: int
    drawn: int
    #: Samples of finished tasks.
    drawn_samples: int
    expired: int
    refused: int
    left: int
    lost: int
    #: Attempts lost with their worker, and tasks that arrived during a relief.
    again: int
    degraded: int
    #: Wait until its start, priority and model of each finished task.
    waits_s: _Array
    priorities: NDArray[np.int64]
    models: Sequence[str]
    #: Cost by pool; paid worker time, peak workers by pool, and counts of workers.
    costs: Mapping[str, Cost]
    worker_s: float
    peaks: Mapping[str, int]
    launches: int
    canceled: int
    drained: int
    losses: int
    refusals: int
    course: Course
    lives: Sequence[Life]
    #: Estimates of finished tasks, with `Terms.are_told`.
    told: Sequence[Told] = ()

    @property
    def cost(self) -> Cost:
        """Cost of all pools."""
        return added(self.costs.values())

    def wait_s(self, share: float, priority: int | None = None) -> float:
        """Return this quantile of the waits, in seconds; 0 without tasks."""
        waits = self.waits_s if priority is None else self.waits_s[self.priorities == priority]
        return float(np.quantile(waits, share)) if len(waits) else 0.0

    def waits_of(self, model: str) -> _Array:
        """Return the waits of a model's tasks, in seconds. Shape: (its tasks,)."""
        waits: _Array = self.waits_s[np.array([each == model for each in self.models], bool)]
        return waits

    def mean_wait_s(self, priority: int | None = None) -> float:
        """Return the mean wait, in seconds; 0 without tasks."""
        waits = self.waits_s if priority is None else self.waits_s[self.priorities == priority]
        return float(waits.mean()) if len(waits) else 0.0

    def late_share(self, than_s: float) -> float:
        """Return the share of tasks that waited longer."""
        return float((self.waits_s > than_s).mean()) if len(self.waits_s) else 0.0


def simulate(
    crowd: Crowd,
    policy: Policy,
    pools: Sequence[Workers],
    *,
    seed: int = 101,
    terms: Terms = _TERMS,
    rivals: Sequence[Crowd] = (),
) -> Outcome:
    """Simulate tasks.

    Args:
        crowd: The tasks.
        policy: The policy.
        pools: The pools.
        seed: Seed of service times, cold starts and losses.
        terms: Parameters of the service.
        rivals: Tasks of other models on the same workers.

    Raises:
        InvalidInput: No pool serves a model, or the policy's plan is impossible.
    """
    crowds = [crowd, *rivals]
    for each in crowds:
        if not any(each.model in pool.speeds for pool in pools):
            raise InvalidInput(f"no pool serves {each.model}: give one of them its speed")
    return _Run(crowds, policy, pools, seed, terms).outcome()


class _Run:
    """One simulation."""

    def __init__(
        self,
        crowds: Sequence[Crowd],
        policy: Policy,
        pools: Sequence[Workers],
        seed: int,
        terms: Terms,
    ) -> None:
        self._policy = policy
        self._terms = terms
        self._crowds = {each.model: each for each in crowds}
        self._tasks = _tasks(crowds, pools, seed)
        self._pools = [
            Machines(like, np.random.default_rng([seed, 3, number]))
            for number, like in enumerate(pools)
        ]
        self._models = list(dict.fromkeys(model for like in pools for model in like.speeds))
        self._lines = {model: Line() for model in self._models}
        #: Workers with a free slot by model, longest idle first.
        self._idle: dict[str, deque[tuple[int, Machine]]] = {
            model: deque() for model in self._models
        }
        self._events: list[tuple[float, int, int, Machine | Task, Task | None]] = []
        self._number = 0
        self._last_model: str | None = None
        self._running = dict.fromkeys(self._models, 0)
        #: Mean number of samples per task, by model.
        self._counts = {each.model: float(each.samples.mean()) for each in crowds if len(each)}
        self._told = [each.told_rates() for each in self._pools]
        self._books = Books(terms.starts_at)
        self._memory = Memory()
        self._times = ServiceTimes()
        self._calibration = Calibration()
        #: Estimates of unfinished tasks, by task number.
        self._promises: dict[int, IssuedEstimate] = {}
        self._told_tasks: list[Told] = []
        #: Announced starting workers by model, and the time of the announcement.
        self._coming: dict[str, list[tuple[float, int]]] = {}
        self._coming_at_s = 0.0
        self._relieved: set[str] = set()
        self._arrivals = _known(crowds, terms)
        self._counted: dict[str, Arrived] = {}
        self._told_bin: int | None = None
        self._waits: list[float] = []
        self._priorities: list[int] = []
        self._drawn_models: list[str] = []
        self._expired = self._refused = self._again = self._degraded = self._drawn = 0
        self._drawn_samples = 0
        self._paid_s = 0.0
        #: Current day, time of the last update, and cost of the day so far.
        self._day = ""
        self._spent_at_s = self._spent_micros = 0.0
        self._lives: list[Life] = []
        self._course: list[tuple[float, int, int, int]] = []

    # --- event loop ---

    def outcome(self) -> Outcome:
        """Simulate all events, and return the result."""
        for pool in self._pools:
            for _, machine in pool.launch(self._numbers(pool.like.ready), 0.0):
                self._be_ready(pool, machine, 0.0)
            pool.launches = 0
        tasks, terms = self._tasks, self._terms
        last_s = tasks[-1].at_s if tasks else 0.0
        until_s = last_s if terms.until_s is None else max(terms.until_s, last_s)
        at, n = 0, len(tasks)
        now_s = 0.0
        events = self._events
        tick_s, bin_s = 0.0, BIN_S - terms.starts_at % BIN_S
        while True:
            next_s = min(tick_s, bin_s)
            if at < n and tasks[at].at_s < next_s:
                next_s = tasks[at].at_s
            if events and events[0][0] <= next_s:
                now_s = events[0][0]
                self._happen(*heapq.heappop(events))
            elif at < n and next_s == tasks[at].at_s:
                now_s = next_s
                self._come(tasks[at], now_s)
                at += 1
            elif bin_s <= tick_s:
                now_s = bin_s
                self._arrivals.close(self._datetime(now_s))
                bin_s += BIN_S
            else:
                now_s = tick_s
                if self._is_over(now_s, until_s, at == n):
                    break
                self._decide(now_s)
                tick_s += terms.every_s
        return self._ended(now_s)

    def _is_over(self, now_s: float, until_s: float, have_all_come: bool) -> bool:
        if now_s < until_s or not have_all_come:
            return False
        is_done = not any(self._lines.values()) and not any(self._running.values())
        return (is_done and not self._waits_again()) or now_s > until_s + _PATIENCE_S

    def _waits_again(self) -> bool:
        return any(kind == _AGAIN for _, _, kind, _, _ in self._events)

    def _numbers(self, n: int) -> list[int]:
        self._number += n
        return list(range(self._number - n, self._number))

    def _push(self, at_s: float, kind: int, what: Machine | Task, task: Task | None = None) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, kind, what, task))

    def _happen(
        self, now_s: float, number: int, kind: int, what: Machine | Task, task: Task | None
    ) -> None:
        if isinstance(what, Task):
            self._lines[what.model].add(what, again=True)
            self._give(what.model, now_s)
        elif kind == _END and task is not None:
            if what.gone_s is None:
                self._finish(what, task, now_s)
        elif kind == _READY:
            if what.gone_s is None:
                self._be_ready(what.pool, what, now_s)
        elif what.gone_s is None:
            self._lose(what, now_s)

    # --- tasks ---

    def _come(self, task: Task, now_s: float) -> None:
        model = task.model
        start_by_s = self._crowds[model].start_by_s
        if start_by_s is not None or self._terms.are_told:
            told = self._promise(task, now_s)
            if start_by_s is not None and told is not None and told.start.median > start_by_s:
                self._refused += 1
                return
        self._arrivals.fresh[model] = self._arrivals.fresh.get(model, 0) + task.samples
        if model in self._relieved:
            self._degraded += 1
        self._lines[model].add(task)
        self._give(model, now_s)

    def _promise(self, task: Task, now_s: float) -> Estimate | None:
        """Return the estimate for a new task."""
        model, line = task.model, self._lines[task.model]
        stats = self._times.stats(model)
        serving = [pool for pool in self._pools if model in pool.like.speeds]
        live = sum(len(pool.ready) for pool in serving)
        if stats is None:
            return None
        waiting, samples = line.before(task)
        running = self._running[model]
        work_s = stats.service_s(samples + running * stats.mean_count)
        at_once = sum(len(pool.ready) * pool.like.slots for pool in serving)
        passed_s = now_s - self._coming_at_s
        coming = [(max(0.0, in_s - passed_s), n) for in_s, n in self._coming.get(model, ())]
        first_s, first_by_s = min(pool.start_s for pool in serving)
        if not live:
            coming = coming or [(first_s, 1)]
        workers = ServingWorkers(
            live=live, at_once=max(1, at_once), coming=coming, first_by_s=first_by_s
        )
        expected = forecast(stats, waiting + running, work_s, workers, task.samples)
        told = self._calibration.corrected(model, expected)
        if expected.finish.median > 0:
            self._promises[task.number] = IssuedEstimate(model, expected, told, now_s)
        return told

    def _keep_promise(self, task: Task, now_s: float) -> None:
        """Calibrate the estimates with a finished task."""
        promise = self._promises.pop(task.number, None)
        if promise is not None:
            took_s = now_s - promise.at_s
            self._calibration.learn(promise, took_s)
            if self._terms.are_told:
                self._told_tasks.append(
                    Told(promise.forecast.situation, promise.estimate.finish, took_s)
                )

    def _give(self, model: str, now_s: float) -> None:
        """Assign waiting tasks to idle workers."""
        idle, line = self._idle[model], self._lines[model]
        while line and idle:
            mark, machine = idle.popleft()
            if mark == machine.mark and machine.gone_s is None and not machine.is_draining:
                self._take(machine, now_s)

    def _take(self, machine: Machine, now_s: float) -> None:
        """Fill the slots of a worker; it stays idle if slots remain."""
        pool = machine.pool
        slots = pool.like.slots
        while len(machine.held) < slots:
            task = self._next(pool)
            if task is None:
                break
            start_by_s = self._crowds[task.model].start_by_s
            if start_by_s is not None and now_s - task.at_s > start_by_s:
                self._expired += 1
                continue
            machine.take(task, now_s)
            self._running[task.model] += 1
            speed = pool.like.speeds[task.model]
            slowed = speed.slowed(len(machine.held)) if speed.slower else 1.0
            self._push(now_s + task.service_s * slowed, _END, machine, task)
        machine.mark += 1
        if len(machine.held) < slots:
            for model in pool.like.speeds:
                self._idle[model].append((machine.mark, machine))

    def _next(self, pool: Machines) -> Task | None:
        models = pool.like.speeds
        if len(models) == 1:
            [model] = models
            line = self._lines[model]
            return line.pop() if line else None
        heads = {m: head for m in models if (head := self._lines[m].head) is not None}
        if not heads:
            return None
        self._last_model = rotate(heads, self._last_model)[0]
        return self._lines[self._last_model].pop()

    def _finish(self, machine: Machine, task: Task, now_s: float) -> None:
        pool = machine.pool
        was_full = len(machine.held) == pool.like.slots
        share_s = machine.let_go(task, now_s)
        self._running[task.model] -= 1
        self._drawn += 1
        self._drawn_samples += task.samples
        self._waits.append(task.began_s - task.at_s)
        self._priorities.append(task.priority)
        self._drawn_models.append(task.model)
        micros = cost_micros(share_s, pool.like.pool.hour_micros) or 0
        machine.attempts_s += share_s
        machine.attempts_micros += micros
        self._books.add(pool.name, EntryKind.ATTEMPT, task.model, share_s, micros, 1, task.samples)
        if was_full:
            pool.learn(task, share_s)
        if self._terms.are_told or self._crowds[task.model].start_by_s is not None:
            self._keep_promise(task, now_s)
            self._times.observe(task.model, now_s - task.began_s, task.samples)
        if not machine.is_draining:
            self._take(machine, now_s)
        elif not machine.held:
            self._go(machine, now_s)

    # --- workers ---

    def _be_ready(self, pool: Machines, machine: Machine, now_s: float) -> None:
        pool.be_ready(machine, now_s)
        lost_in_s = pool.lost_in_s()
        if lost_in_s < math.inf:
            self._push(now_s + lost_in_s, _LOST, machine)
        self._take(machine, now_s)

    def _lose(self, machine: Machine, now_s: float) -> None:
        """Lose a worker: its tasks return to the queue when their leases expire."""
        pool = machine.pool
        pool.losses += 1
        for task in list(machine.held.values()):
            share_s = machine.let_go(task, now_s)
            micros = cost_micros(share_s, pool.like.pool.hour_micros) or 0
            machine.failed_s += share_s
            machine.attempts_micros += micros
            self._books.add(pool.name, EntryKind.FAILED, task.model, share_s, micros, 1)
            self._running[task.model] -= 1
            self._again += 1
            self._push(now_s + self._terms.lease_s, _AGAIN, task)
        self._go(machine, now_s)

    def _go(self, machine: Machine, now_s: float) -> None:
        """Remove a worker, and charge the rest of its time."""
        machine.gone_s = now_s
        if machine.ready_s is None:
            machine.cold_s = now_s - machine.asked_s
        pool = machine.pool
        for group in (pool.ready, pool.booting, pool.draining):
            group.pop(machine.number, None)
        self._paid_s += self._books.settle(machine)
        self._lives.append(Life(pool.name, machine.asked_s, machine.ready_s, now_s))

    # --- controller ---

    def _decide(self, now_s: float) -> None:
        seen = self._observed(now_s)
        if self._terms.are_told:
            # As the controller announces them to backends.
            self._coming_at_s = now_s
            self._coming = {
                model: coming_of(view for view in seen.pools if model in view.rates)
                for model in self._models
            }
        is_first = self._memory.state.since is None
        plan = self._policy(seen, self._memory.state)
        self._memory = msgspec.structs.replace(self._memory, state=plan.state)
        self._relieved = {each.model for each in plan.relief}
        for pool in self._pools:
            wanted = plan.pools.get(pool.name)
            if wanted is not None:
                self._apply(pool, wanted, now_s, may_shrink=not is_first)
        self._course.append(
            (
                now_s,
                sum(line.samples for line in self._lines.values()),
                sum(len(pool.ready) + len(pool.draining) for pool in self._pools),
                sum(len(pool.booting) for pool in self._pools),
            )
        )

    def _observed(self, now_s: float) -> Observation:
        now = self._datetime(now_s)
        rates = {pool.name: measured for pool in self._pools if (measured := pool.rates())}
        work = Workload(at=now, rates=rates, counts=self._counts)
        at = now.timestamp()
        # The counts change only at the end of a bin.
        told = int((at - LAG_S) // BIN_S)
        if told != self._told_bin:
            self._told_bin, self._counted = told, arrived([self._arrivals.dump()], now)
        return Observation(
            at=at,
            demands=demands(self._depths(), self._counted, work, now, self._models),
            pools=[
                pool.view(now_s, at, self._memory, {**settings, **rates.get(pool.name, {})})
                for pool, settings in zip(self._pools, self._told, strict=True)
            ],
            spent_micros=round(self._spent(now, now_s)),
        )

    def _spent(self, now: datetime, now_s: float) -> float:
        """Return the cost of the current day (UTC), counted as the controller does."""
        per_hour = sum(pool.alive * pool.like.pool.hour_micros for pool in self._pools)
        passed_s = now_s - self._spent_at_s
        day = now.date().isoformat()
        if day != self._day:
            passed_s = min(passed_s, now.timestamp() % _DAY_S)
            self._day, self._spent_micros = day, 0.0
        self._spent_micros += per_hour * passed_s / 3600.0
        self._spent_at_s = now_s
        return self._spent_micros

    def _depths(self) -> list[Depth]:
        return [
            Depth(
                queue=model,
                ready=len(line),
                running=self._running[model],
                ready_samples=line.samples,
                oldest_ready_at=self._datetime(line.oldest_at_s) if line else None,
            )
            for model, line in self._lines.items()
        ]

    def _apply(self, pool: Machines, wanted: PoolPlan, now_s: float, *, may_shrink: bool) -> None:
        self._launch(pool, wanted.launch, now_s)
        if not may_shrink:
            return
        for machine in pool.to_cancel(wanted.cancel_boots):
            pool.canceled += 1
            self._go(machine, now_s)
        for machine in pool.to_drain(wanted.drain, now_s):
            pool.drained += 1
            machine.is_draining = True
            if machine.held:
                pool.draining[machine.number] = pool.ready.pop(machine.number)
            else:
                self._go(machine, now_s)

    def _launch(self, pool: Machines, n: int, now_s: float) -> None:
        at = self._terms.starts_at + now_s
        n = min(n, max(0, pool.like.pool.most - pool.alive))
        if n <= 0 or self._memory.closed_s(pool.name, at) > 0:
            return
        for first in range(0, n, _AT_ONCE):
            asked = min(_AT_ONCE, n - first)
            given = pool.given(asked, now_s)
            for ready_s, machine in pool.launch(self._numbers(given), now_s):
                self._push(ready_s, _READY, machine)
            if given < asked:
                pool.refused += asked - given
                self._memory = self._memory.refused(pool.name, at, "there are no more")
                return
            self._memory = self._memory.given(pool.name)

    # --- result ---

    def _ended(self, now_s: float) -> Outcome:
        running = sum(self._running.values())
        waiting = sum(len(line) for line in self._lines.values())
        waiting += sum(kind == _AGAIN for _, _, kind, _, _ in self._events)
        for pool in self._pools:
            for machine in [*pool.ready.values(), *pool.booting.values(), *pool.draining.values()]:
                for task in list(machine.held.values()):
                    machine.let_go(task, now_s)
                self._go(machine, now_s)
        ended = self._drawn + self._expired + self._refused
        return Outcome(
            tasks=len(self._tasks),
            samples=sum(int(crowd.samples.sum()) for crowd in self._crowds.values()),
            drawn=self._drawn,
            drawn_samples=self._drawn_samples,
            expired=self._expired,
            refused=self._refused,
            left=running + waiting,
            lost=len(self._tasks) - ended - running - waiting,
            again=self._again,
            degraded=self._degraded,
            waits_s=np.array(self._waits),
            priorities=np.array(self._priorities, np.int64),
            models=self._drawn_models,
            costs={name or "": cost for name, cost in self._costs().items()},
            worker_s=self._paid_s,
            peaks={pool.name: pool.peak for pool in self._pools},
            launches=sum(pool.launches for pool in self._pools),
            canceled=sum(pool.canceled for pool in self._pools),
            drained=sum(pool.drained for pool in self._pools),
            losses=sum(pool.losses for pool in self._pools),
            refusals=sum(pool.refused for pool in self._pools),
            course=_course(self._course),
            lives=self._lives,
            told=self._told_tasks,
        )

    def _costs(self) -> dict[str | None, Cost]:
        return costs_by(self._books.rows(), "pool")

    def _datetime(self, now_s: float) -> datetime:
        return datetime.fromtimestamp(self._terms.starts_at + now_s, UTC)


def _tasks(crowds: Sequence[Crowd], pools: Sequence[Workers], seed: int) -> list[Task]:
    """Return all tasks in order of arrival, with their service times."""
    found: list[Task] = []
    for place, crowd in enumerate(crowds):
        speed = next(pool.speeds[crowd.model] for pool in pools if crowd.model in pool.speeds)
        random = np.random.default_rng([seed, 4, place])
        took = speed.drawn(crowd.samples.astype(np.float64), random)
        rows = zip(
            crowd.at_s.tolist(),
            crowd.keys.tolist(),
            crowd.users.tolist(),
            crowd.priorities.tolist(),
            crowd.samples.tolist(),
            took.tolist(),
            strict=True,
        )
        found += [
            Task(0, crowd.model, at_s, (str(key), str(user)), priority, samples, took_s)
            for at_s, key, user, priority, samples, took_s in rows
        ]
    if len(crowds) > 1:
        found.sort(key=lambda task: task.at_s)
    for number, task in enumerate(found):
        task.number = number
    return found


def _known(crowds: Sequence[Crowd], terms: Terms) -> Arrivals:
    """Return the arrivals known at the start."""
    now_s = -BIN_S * math.ceil(terms.known_s / BIN_S)
    counted = Arrivals(datetime.fromtimestamp(terms.starts_at + now_s, UTC))
    while now_s < 0:
        for crowd in crowds:
            counted.fresh[crowd.model] = round(crowd.first_per_s * BIN_S)
        now_s += BIN_S
        counted.close(datetime.fromtimestamp(terms.starts_at + now_s, UTC))
    return counted


def _course(rows: Sequence[tuple[float, int, int, int]]) -> Course:
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return Course(*columns)
