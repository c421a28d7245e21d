"""Workers of the task simulation: cold starts, running tasks, ends and costs."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np

from swell.autoscaler.cold_starts import UNKNOWN
from swell.autoscaler.memory import Memory
from swell.autoscaler.outlook import PoolView
from swell.core.billing.idle_time import Life, remainder
from swell.core.billing.ledger import Charged, CostRow, EntryKind, cost_micros
from swell.core.kaplan_meier import Observation, Prior, quantiles
from swell.core.startup_phases import STARTUPS_KEPT
from swell.simulator.line import Task
from swell.simulator.pools import MODEL, Pool
from swell.simulator.speeds import Speed

#: Interval between updates of the cold start estimate, in seconds, as in the controller.
_LOOK_S: Final = 20.0

#: Assumed ratio of the 90th percentile to the median.
_TAIL: Final = 2.0

#: Number of tasks until a rate counts as measured, and number of recent tasks that it uses.
_KNOWN: Final = 16
_RECENT: Final = 256


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """Workers of one pool. `pool.rate` is not used."""

    pool: Pool = Pool()
    speeds: Mapping[str, Speed] = msgspec.field(
        default_factory=lambda: {MODEL: Speed(per_sample_s=2.0)}
    )
    #: Number of concurrent tasks.
    slots: int = 1
    #: Measured cold starts to draw from; empty to use those of `pool`.
    starts_s: Sequence[float] = ()
    #: Ready workers at the start.
    ready: int = 0
    #: Cold start in the settings; None if not set.
    told_start_s: float | None = None
    #: Mean number of samples per task, for the rate that the policy sees.
    samples: float = 1.0


class Machine:
    """One worker; times are in seconds since the start."""

    __slots__ = (
        *("asked_s", "attempts_micros", "attempts_s", "busy_s", "cold_s", "failed_s", "gone_s"),
        *("held", "is_draining", "mark", "number", "pool", "ready_s", "share_s", "since_s"),
    )

    def __init__(self, pool: "Machines", number: int, asked_s: float) -> None:
        self.pool = pool
        self.number = number
        self.asked_s = asked_s
        self.ready_s: float | None = None
        self.gone_s: float | None = None
        self.held: dict[int, Task] = {}
        self.is_draining = False
        #: Marks its valid entry among the idle workers.
        self.mark = 0
        #: Time with tasks, in seconds, and the same divided by the number of tasks.
        self.busy_s = self.share_s = self.since_s = 0.0
        # Charges.
        self.cold_s = self.attempts_s = self.failed_s = 0.0
        self.attempts_micros = 0

    def take(self, task: Task, now_s: float) -> None:
        """Start a task."""
        self._pass(now_s)
        task.began_s, task.share_s = now_s, self.share_s
        self.held[task.number] = task

    def let_go(self, task: Task, now_s: float) -> float:
        """End a task; return its share of the device time, in seconds."""
        self._pass(now_s)
        del self.held[task.number]
        return self.share_s - task.share_s

    def _pass(self, now_s: float) -> None:
        if n := len(self.held):
            passed_s = now_s - self.since_s
            self.busy_s += passed_s
            self.share_s += passed_s / n
        self.since_s = now_s


class Books:
    """Charges, as in the ledger of a real service.

    Args:
        starts_at: Start of the simulation as a Unix time, in seconds.
    """

    def __init__(self, starts_at: float) -> None:
        self._starts_at = starts_at
        #: (pool, kind, model) to (seconds, micros, attempts, pictures).
        self._sums: dict[tuple[str, EntryKind, str], list[float]] = {}

    def add(self, pool: str, kind: EntryKind, model: str, *amounts: float) -> None:
        """Add a charge of (seconds, micros, attempts, pictures)."""
        sums = self._sums.get((pool, kind, model))
        if sums is None:
            sums = self._sums[pool, kind, model] = [0.0] * 4
        for place, amount in enumerate(amounts):
            sums[place] += amount

    def settle(self, machine: Machine) -> float:
        """Charge the rest of an ended worker; return its paid time in seconds."""
        pool = machine.pool.like.pool
        assert machine.gone_s is not None, "a machine that has gone"
        ended_at = self._at(machine.gone_s)
        life = Life(
            account=str(machine.number),
            pool=pool.name,
            launched_at=self._at(machine.asked_s),
            heard_at=ended_at,
            ended_at=ended_at,
            hour_micros=pool.hour_micros,
            launch_micros=pool.launch_micros,
            least_billed_s=pool.least_billed_s,
        )
        cold_micros = cost_micros(machine.cold_s, pool.hour_micros) or 0
        self.add(pool.name, EntryKind.COLD_START, "", machine.cold_s, cold_micros)
        seconds = machine.cold_s + machine.attempts_s + machine.failed_s
        charged = Charged(seconds=seconds, micros=machine.attempts_micros + cold_micros)
        for part in remainder(life, charged, ended_at, name="end", at=ended_at):
            self.add(pool.name, part.kind, "", part.seconds, part.micros or 0)
            seconds += part.seconds
        return seconds

    def rows(self) -> list[CostRow]:
        """Return the charges as rows of the ledger."""
        day = self._at(0.0).date()
        return [
            CostRow(
                day=day,
                kind=kind,
                pool=pool,
                model=model,
                seconds=seconds,
                micros=round(micros),
                attempts=round(attempts),
                images=round(images),
            )
            for (pool, kind, model), (seconds, micros, attempts, images) in self._sums.items()
        ]

    def _at(self, now_s: float) -> datetime:
        return datetime.fromtimestamp(self._starts_at + now_s, UTC)


class _Recent:
    """Recent tasks with their sums."""

    __slots__ = ("last", "samples", "seconds")

    def __init__(self) -> None:
        #: Pairs of samples and device time in seconds.
        self.last: deque[tuple[int, float]] = deque()
        self.samples = 0
        self.seconds = 0.0

    def add(self, samples: int, seconds: float) -> None:
        self.last.append((samples, seconds))
        self.samples += samples
        self.seconds += seconds
        if len(self.last) > _RECENT:
            gone, gone_s = self.last.popleft()
            self.samples -= gone
            self.seconds -= gone_s


class Machines:
    """Workers of one pool.

    Args:
        like: Properties of the workers.
        random: Generator for cold starts and losses.
    """

    def __init__(self, like: Workers, random: np.random.Generator) -> None:
        self.like = like
        self._random = random
        #: Ready, starting and draining workers by number; starting ones in order of launch.
        self.ready: dict[int, Machine] = {}
        self.booting: dict[int, Machine] = {}
        self.draining: dict[int, Machine] = {}
        self.launches = self.canceled = self.drained = self.losses = self.refused = self.peak = 0
        self._starts: deque[float] = deque(maxlen=STARTUPS_KEPT)
        self._looked_s = -math.inf
        self._start_p50_s, self._start_p95_s = UNKNOWN.p50_s, UNKNOWN.p90_s
        #: Recent tasks that ended on a fully loaded worker, by model.
        self._recent: dict[str, _Recent] = {}

    @property
    def name(self) -> str:
        """Name of the pool."""
        return self.like.pool.name

    @property
    def alive(self) -> int:
        """Number of paid workers."""
        return len(self.ready) + len(self.booting) + len(self.draining)

    def given(self, n: int, now_s: float) -> int:
        """Return the number of workers that the provider grants."""
        pool = self.like.pool
        if any(from_s <= now_s < until_s for from_s, until_s in pool.refuses):
            return 0
        most = pool.most
        for from_s, available in pool.available:
            if from_s <= now_s:
                most = min(pool.most, int(available))
        return min(n, max(0, most - self.alive))

    def launch(self, numbers: Sequence[int], now_s: float) -> list[tuple[float, Machine]]:
        """Launch workers; return the time when each is ready."""
        found = []
        for number, took_s in zip(numbers, self._starts_s(len(numbers), now_s), strict=True):
            machine = self.booting[number] = Machine(self, number, now_s)
            found.append((now_s + took_s, machine))
        self.launches += len(found)
        self.peak = max(self.peak, self.alive)
        return found

    def be_ready(self, machine: Machine, now_s: float) -> None:
        """Move a worker from starting to ready."""
        del self.booting[machine.number]
        self.ready[machine.number] = machine
        machine.ready_s = machine.since_s = now_s
        machine.cold_s = now_s - machine.asked_s
        self._starts.append(machine.cold_s)

    def lost_in_s(self) -> float:
        """Draw the time until a ready worker is lost, in seconds; infinite if none is lost."""
        per_hour = self.like.pool.losses_per_hour
        return float(self._random.exponential(3600.0 / per_hour)) if per_hour else math.inf

    def to_drain(self, n: int, now_s: float) -> list[Machine]:
        """Return the workers to drain, in the controller's order; see `swell.autoscaler.crew`."""
        order = [
            (len(each.held), self._paid_s(each, now_s), -(each.ready_s or 0.0), -each.number, each)
            for each in self._all()
        ]
        return [machine for *_, machine in sorted(order, key=lambda row: row[:-1])[:n]]

    def _paid_s(self, machine: Machine, now_s: float) -> float:
        """Return the paid time that remains even if a worker ends now, in seconds."""
        return max(0.0, machine.asked_s + self.like.pool.least_billed_s - now_s)

    def to_cancel(self, n: int) -> list[Machine]:
        """Return the starting workers to cancel: the youngest."""
        return list(reversed(self.booting.values()))[:n]

    def learn(self, task: Task, share_s: float) -> None:
        """Record the speed of a task on a fully loaded worker."""
        recent = self._recent.get(task.model)
        if recent is None:
            recent = self._recent[task.model] = _Recent()
        recent.add(task.samples, share_s)

    def rates(self) -> dict[str, float]:
        """Return the measured rates in samples per second of one worker, by model."""
        return {
            model: recent.samples / recent.seconds
            for model, recent in self._recent.items()
            if len(recent.last) >= _KNOWN and recent.seconds > 0
        }

    def view(self, now_s: float, at: float, memory: Memory, rates: Mapping[str, float]) -> PoolView:
        """Return the pool as the controller sees it.

        Args:
            now_s: The time in seconds since the start.
            at: The same as a Unix time.
            memory: The controller's memory.
            rates: Rates in samples per second that the controller assumes, by model.
        """
        self._look(now_s)
        pool = self.like.pool
        return PoolView(
            pool=pool.name,
            rates=rates,
            ready=len(self.ready),
            busy=sum(1 for each in self.ready.values() if each.held),
            booting=[now_s - each.asked_s for each in self.booting.values()],
            draining=len(self.draining),
            hour_micros=pool.hour_micros,
            launch_micros=pool.launch_micros,
            least_billed_s=pool.least_billed_s,
            paid_s=sorted(
                self._paid_s(each, now_s)
                for each in self.ready.values()
                if pool.least_billed_s > 0 and not each.held
            ),
            start_p50_s=self._start_p50_s,
            start_p95_s=self._start_p95_s,
            most=pool.most,
            least=pool.least,
            is_spot=pool.is_spot,
            location=pool.location,
            losses_per_hour=pool.losses_per_hour,
            closed_s=memory.closed_s(pool.name, at),
        )

    def told_rates(self) -> dict[str, float]:
        """Return the rates in the settings, in samples per second, by model."""
        like = self.like
        return {
            model: like.pool.told_rate or speed.rate(like.samples, like.slots)
            for model, speed in like.speeds.items()
        }

    @property
    def start_s(self) -> tuple[float, float]:
        """Estimated cold start: median and 95th percentile, in seconds."""
        return self._start_p50_s, self._start_p95_s

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        told_s = self.like.told_start_s
        prior = UNKNOWN if told_s is None else Prior(p50_s=told_s, p90_s=_TAIL * told_s)
        seen = [Observation(each) for each in self._starts]
        seen += [Observation(now_s - each.asked_s, False) for each in self.booting.values()]
        p50, p95 = quantiles(seen, (0.5, 0.95), prior)
        self._start_p50_s = UNKNOWN.p50_s if p50.seconds is None else p50.seconds
        p95_s = UNKNOWN.p50_s if p95.seconds is None else p95.seconds
        self._start_p95_s = max(self._start_p50_s, p95_s)

    def _all(self) -> list[Machine]:
        return list(self.ready.values())

    def _starts_s(self, n: int, now_s: float) -> list[float]:
        pool = self.like.pool
        factor = 1.0
        for from_s, value in pool.start_factors:
            factor = value if from_s <= now_s else factor
        if self.like.starts_s:
            chosen = self._random.choice(np.array(self.like.starts_s), n)
        else:
            chosen = pool.start_s * (1.0 + pool.jitter * (2.0 * self._random.random(n) - 1.0))
        drawn: list[float] = (chosen * factor).tolist()
        return drawn
