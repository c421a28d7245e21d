"""Gathers the controller's observation from the store, the registry and the providers.

If a source does not answer, its last value stays and gets older. Times of another machine are
compared only with each other, never with this machine's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec
import structlog

from swell.autoscaler.arrivals import Arrived, arrived
from swell.autoscaler.chronicle import Chronicle
from swell.autoscaler.cold_starts import UNKNOWN, StartTimes, start_times
from swell.autoscaler.crew import Crew, crew_of, paid_s
from swell.autoscaler.history import EVERY_S, Usual
from swell.autoscaler.memory import Memory, expected
from swell.autoscaler.outlook import Demand, Observation, PoolView
from swell.autoscaler.pools import Pool
from swell.autoscaler.versions import (
    Brought,
    believed,
    brought_by,
    drawn_by,
    draws_of,
    last_of_live,
    leftovers,
    model_of,
    overdue,
)
from swell.core.arrival_rates import PREFIX, stale
from swell.core.broker_types import Depth
from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.kaplan_meier import Prior
from swell.core.provider import Instance, Notice
from swell.core.records import ModelCard, WorkerInfo
from swell.core.rollouts.rollout_state import Life
from swell.core.startup_phases import Startup, StartupKind, StartupState
from swell.db.instance_notices import Spent, last_spent
from swell.db.registry import Registry
from swell.db.rollouts import read_lives
from swell.protocol.autoscaler_messages import WORKLOAD, Workload, read
from swell.queues.table_broker import Broker

_log = structlog.get_logger("swell.autoscaler")

T = TypeVar("T")

#: Timeout of each source, in seconds.
_PATIENCE_S: Final = 10.0

#: A longer interval between reports of the backends is a pause of the backends, in seconds.
_GAP_S: Final = 5.0

#: Polling interval and limit of the wait for a new report of held tasks, in seconds. Backends
#: report every two seconds.
_ASK_S: Final = 0.5
_WORD_S: Final = 6.0

#: Interval between reads of slowly changing sources (startups, cards, costs), in seconds.
_SLOWLY_S: Final = 20.0

#: Assumed ratio of the 90th percentile to a configured median.
_TAIL: Final = 2.0

#: Default rate of a worker, in samples per second.
_UNKNOWN_RATE: Final = 0.2

#: Quantiles of cold starts: two for the policy, one to detect failed boots.
_SHARES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Timing:
    """Age limits of an observation."""

    #: A worker silent for longer than this, while others are not, takes no tasks. In seconds.
    lost_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Sight:
    """One observation."""

    now: datetime
    #: Time by the backends' clock, to compare with times of heartbeats.
    as_of: datetime
    observation: Observation
    crews: Mapping[str, Crew]
    #: Number of held tasks by worker; None before the first report since the start.
    held: Mapping[str, int] | None
    #: Silence of workers while others reported, in seconds, by worker.
    silence: Mapping[str, float]
    notices: Sequence[Notice]
    times: Mapping[str, StartTimes]
    #: Known models by pool.
    models: Mapping[str, tuple[str, ...]]
    #: Configured models without a model card, by pool.
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Names of expired arrival notes.
    stale_notes: Sequence[str] = ()
    #: Version from the last worker of each staged model, by pool and model.
    brought: Mapping[str, Mapping[str, Brought]] = field(default_factory=dict)
    #: Workers of versions that are neither live nor launched by their pool, by pool; and those of
    #: them that are not needed for a rollback any more.
    leftovers: Mapping[str, Sequence[WorkerInfo]] = field(default_factory=dict)
    overdue: Mapping[str, Sequence[WorkerInfo]] = field(default_factory=dict)
    #: Workers of a live version that no pool launches any more.
    last_of_live: frozenset[str] = frozenset()
    #: Pools with a provider that does not answer.
    unseen: frozenset[str] = frozenset()
    #: Number of listed machines, by launch token.
    listed: Mapping[str, int] = field(default_factory=dict)
    #: Listed machines by pool.
    machines: Mapping[str, Sequence[Instance]] = field(default_factory=dict)


class _Part(Generic[T]):
    """A source with its last value."""

    def __init__(self, name: str, first: T) -> None:
        self.name = name
        self.value = first
        #: Time of the last answer, in monotonic seconds; None before the first.
        self.seen_s: float | None = None

    async def look(self, ask: Callable[[], Awaitable[T]], now_s: float) -> bool:
        """Read the source; return whether it answered."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                self.value = await ask()
        except (SwellError, TimeoutError, OSError) as error:
            detail = getattr(error, "detail", "") or repr(error)
            _log.warning("cannot be observed", what=self.name, detail=detail)
            return False
        except Exception:
            _log.exception("cannot be observed", what=self.name)
            return False
        self.seen_s = now_s
        return True


@dataclass(slots=True)
class _PoolParts:
    instances: _Part[list[Instance]]
    notices: _Part[list[Notice]]
    is_seen: bool = False


@dataclass(slots=True)
class _Work:
    """Last report of the backends about workers, and its arrival in monotonic seconds."""

    told: Workload | None = None
    new_s: float = 0.0
    #: Whether it arrived after the start of this process. An older one may be of any age.
    is_news: bool = False


@dataclass(slots=True)
class _Versions:
    """Versions that pools launch and serve; see `Sight`."""

    brought: dict[str, Mapping[str, Brought]] = field(default_factory=dict)
    #: What the workers of each pool draw, see `swell.autoscaler.versions`.
    draws: dict[str, Sequence[str]] = field(default_factory=dict)
    leftovers: dict[str, Sequence[WorkerInfo]] = field(default_factory=dict)
    overdue: dict[str, Sequence[WorkerInfo]] = field(default_factory=dict)
    last_of_live: frozenset[str] = frozenset()


class Observer:
    """Gathers the policy's observation.

    Args:
        broker: Queue depths.
        registry: Workers, and notes of other processes.
        pools: Pools with their providers.
        clock: The clock.
        timing: Age limits.
    """

    def __init__(
        self,
        broker: Broker,
        registry: Registry,
        pools: Sequence[Pool],
        clock: Clock,
        timing: Timing = Timing(),
    ) -> None:
        self._broker = broker
        self._registry = registry
        self._pools = pools
        self._clock = clock
        self._timing = timing
        self._depths = _Part[list[Depth]]("queued work", [])
        self._workers = _Part[list[WorkerInfo]]("workers", [])
        self._notes = _Part[dict[str, bytes]]("arrivals", {})
        self._workload = _Part[bytes | None]("workload", None)
        self._cards = _Part[list[ModelCard]]("models", [])
        self._lives = _Part[dict[str, Life]]("stages of versions", {})
        self._startups = _Part[list[Startup]]("cold starts", [])
        self._spent = _Part[Spent | None]("spending", None)
        self._parts = {
            pool.name: _PoolParts(
                _Part(f"instances of {pool.name}", []), _Part(f"notices of {pool.name}", [])
            )
            for pool in pools
        }
        self._chronicle = Chronicle(registry)
        self._past = _Part[None]("what arrived in the last weeks", None)
        self._work = _Work()
        #: Whether there was no report of the backends at the first read.
        self._is_blank = False
        #: Last heartbeat and silence in seconds, by worker; and the time of the last report.
        self._silence: dict[str, tuple[datetime, float]] = {}
        self._told_at: datetime | None = None

    async def look(self, memory: Memory) -> Sight | None:
        """Return an observation; None until store and registry have answered once.

        Args:
            memory: Earlier actions, which may not be visible yet.
        """
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        await self._gather(now_s)
        if None in (self._depths.seen_s, self._workers.seen_s):
            return None
        work = self._hear(now_s)
        held = work.held if work is not None and self._work.is_news else None
        self._listen(work)
        silence = {each: silent_s for each, (_, silent_s) in self._silence.items() if silent_s > 0}
        silent = {each for each, silent_s in silence.items() if silent_s > self._timing.lost_s}
        crews = {pool.name: self._crew(pool, memory, silent) for pool in self._pools}
        models = {pool.name: self._models(pool, memory) for pool in self._pools}
        times = {pool.name: self._times(pool, crews[pool.name], now) for pool in self._pools}
        versions = self._versions(memory, crews, models, now)
        rates = {
            pool.name: rates_of(pool, versions.draws[pool.name], work, self._cards.value)
            for pool in self._pools
        }
        counts = arrived(self._notes.value.values(), now)
        if self._notes.seen_s == now_s:
            self._chronicle.hear(self._notes.value.values(), now)
        views = [
            self._view(
                pool,
                memory,
                _without(crews[pool.name], versions.leftovers[pool.name]),
                times[pool.name],
                rates[pool.name],
                held,
                now,
            )
            for pool in self._pools
        ]
        observation = Observation(
            at=now.timestamp(),
            age_s=self._age_s(self._clock.monotonic_s()),
            demands=demands(
                self._depths.value,
                counts,
                work,
                now,
                _all(versions.draws.values()),
                self._chronicle.usual(now),
                drawn_by(self._lives.value, self._workers.value),
            ),
            pools=views,
            usual_every_s=EVERY_S,
            spent_micros=self._spent_micros(memory, now),
        )
        return Sight(
            now=now,
            as_of=now if work is None else work.at,
            observation=observation,
            crews=crews,
            held=held,
            silence=silence,
            notices=self._notices(),
            times=times,
            models=models,
            missing={pool.name: self._missing(pool) for pool in self._pools},
            stale_notes=stale(self._notes.value, now),
            brought=versions.brought,
            leftovers=versions.leftovers,
            overdue=versions.overdue,
            last_of_live=versions.last_of_live,
            unseen=frozenset(name for name, parts in self._parts.items() if not parts.is_seen),
            listed={each.token: self._listed(each.pool, each.token) for each in memory.launches},
            machines={name: parts.instances.value for name, parts in self._parts.items()},
        )

    async def hear(self) -> bool:
        """Wait for a new report of held tasks; return whether one arrived.

        For a single observation: the stored report may be of any age.
        """
        ends_s = self._clock.monotonic_s() + _WORD_S
        while not self._work.is_news and (now_s := self._clock.monotonic_s()) < ends_s:
            await self._clock.sleep(_ASK_S)
            await self._workload.look(lambda: self._registry.note(WORKLOAD), now_s)
            self._hear(now_s)
        return self._work.is_news

    def reprice(self, pools: Sequence[Pool]) -> None:
        """Replace the pools by the same pools with new prices."""
        self._pools = pools

    def take_over(self) -> None:
        """Discard cached notes that another leader may have changed."""
        self._chronicle.forget()

    async def keep(self) -> None:
        """Write the arrival history; called by the leader only.

        Raises:
            SwellError: The registry cannot be written.
        """
        await self._chronicle.save()

    async def _gather(self, now_s: float) -> None:
        registry = self._registry
        asked: list[Awaitable[bool]] = [
            self._depths.look(self._broker.depths, now_s),
            self._notes.look(lambda: registry.notes(PREFIX), now_s),
            self._workload.look(lambda: registry.note(WORKLOAD), now_s),
            self._past.look(self._chronicle.load, now_s),
            self._lives.look(lambda: read_lives(registry), now_s),
        ]
        if self._is_due(self._cards, now_s):
            asked.append(self._cards.look(registry.models, now_s))
        if self._is_due(self._startups, now_s):
            asked.append(self._startups.look(registry.startups, now_s))
        if self._spent.seen_s is None or now_s - self._spent.seen_s >= _SLOWLY_S:
            asked.append(self._spent.look(lambda: last_spent(registry), now_s))
        await asyncio.gather(*asked, *(self._look_at(pool, now_s) for pool in self._pools))
        # Read workers after machines: a worker of a listed ended machine has already said goodbye.
        await self._workers.look(registry.workers, now_s)

    async def _look_at(self, pool: Pool, now_s: float) -> None:
        parts = self._parts[pool.name]
        parts.is_seen = await parts.instances.look(
            lambda: pool.provider.instances(pool.name), now_s
        )
        if parts.is_seen:
            await parts.notices.look(pool.provider.notices, now_s)

    def _spent_micros(self, memory: Memory, now: datetime) -> int:
        """Return today's cost: by the ledger or by the controller's count, the larger.

        The ledger lags behind. The count lacks machines that ended before the controller started.
        """
        told = self._spent.value
        by_ledger = None if told is None else told.today_micros(now)
        return max(memory.day_micros(now), by_ledger or 0)

    def _notices(self) -> list[Notice]:
        """Return the notices of all pools without duplicates."""
        told = [each for parts in self._parts.values() for each in parts.notices.value]
        return list({each.instance_id: each for each in told}.values())

    def _is_due(self, part: _Part[list[T]], now_s: float) -> bool:
        # Read a source without a value in every step.
        every_s = _SLOWLY_S if part.value else 0.0
        return part.seen_s is None or now_s - part.seen_s >= every_s

    def _hear(self, now_s: float) -> Workload | None:
        told = read(self._workload.value, Workload)
        if told is not None and (self._work.told is None or told.at != self._work.told.at):
            is_news = self._work.told is not None or self._is_blank
            self._work = _Work(told, now_s, is_news)
        self._is_blank = self._is_blank or (told is None and self._workload.seen_s is not None)
        return self._work.told

    def _age_s(self, now_s: float) -> float:
        seen = [part.seen_s for part in (self._depths, self._workers) if part.seen_s is not None]
        if self._work.told is not None:
            seen.append(self._work.new_s)
        return max(0.0, now_s - min(seen))

    def _listen(self, work: Workload | None) -> None:
        """Update the silence of workers.

        By the clock of the backends, and only while they report: after a pause of the store, all
        workers seem silent.
        """
        told_at = None if work is None else work.at
        passed_s = 0.0
        if told_at is not None and self._told_at is not None:
            passed_s = min(_GAP_S, max(0.0, (told_at - self._told_at).total_seconds()))
        self._told_at = told_at
        silence = {}
        for each in self._workers.value:
            if each.gone_at is None:
                seen_at, silent_s = self._silence.get(each.id, (each.seen_at, 0.0))
                is_same = seen_at == each.seen_at
                silence[each.id] = (each.seen_at, silent_s + passed_s if is_same else 0.0)
        self._silence = silence

    def _crew(self, pool: Pool, memory: Memory, silent: Collection[str]) -> Crew:
        return crew_of(
            pool.name,
            self._parts[pool.name].instances.value,
            self._workers.value,
            silent=silent,
            told_to_end=memory.ending,
        )

    def _models(self, pool: Pool, memory: Memory) -> tuple[str, ...]:
        served = (
            model for each in self._workers.value if each.pool == pool.name for model in each.models
        )
        return tuple(dict.fromkeys((*pool.models, *memory.models.get(pool.name, ()), *served)))

    def _versions(
        self,
        memory: Memory,
        crews: Mapping[str, Crew],
        models: Mapping[str, Sequence[str]],
        now: datetime,
    ) -> "_Versions":
        lives, found = self._lives.value, _Versions()
        for name, crew in crews.items():
            known = memory.versions.get(name, {})
            found.brought[name] = brought_by(name, self._workers.value, lives, known)
            brought = believed(found.brought[name], lives)
            draws = draws_of(models[name], brought, crew.ready, lives)
            found.draws[name] = draws
            found.leftovers[name] = leftovers(crew.ready, draws, lives)
            found.overdue[name] = overdue(found.leftovers[name], lives, now)
            found.last_of_live |= last_of_live(crew.ready, brought, lives)
        return found

    def _times(self, pool: Pool, crew: Crew, now: datetime) -> StartTimes:
        own = [each for each in self._startups.value if each.pool == pool.name]
        under_way = sum(
            each.kind is StartupKind.COLD and each.state is StartupState.STARTING for each in own
        )
        # Assume that the oldest booting machines report their startups.
        unheard = [each.launched_at for each in crew.booting[under_way:]]
        prior = UNKNOWN
        if pool.start_s is not None:
            prior = Prior(p50_s=pool.start_s, p90_s=_TAIL * pool.start_s)
        return start_times(own, now, asked=unheard, prior=prior, at=_SHARES)

    def _view(
        self,
        pool: Pool,
        memory: Memory,
        crew: Crew,
        times: StartTimes,
        rates: Mapping[str, float],
        held: Mapping[str, int] | None,
        now: datetime,
    ) -> PoolView:
        at = now.timestamp()
        booting = [max(0.0, at - each.launched_at.timestamp()) for each in crew.booting]
        unheard = crew.unheard
        for launch in memory.launches:
            if launch.pool != pool.name:
                continue
            missing = max(0, expected(launch) - self._listed(launch.pool, launch.token))
            if launch.until is None:
                booting += [max(0.0, at - launch.at)] * missing
            else:
                unheard += missing
        unknown = set(self._missing(pool)) - set(memory.vain.get(pool.name, ()))
        is_unknown = not rates or bool(unknown)
        closed_s = memory.closed_s(pool.name, at)
        if not self._parts[pool.name].is_seen:
            closed_s = max(closed_s, _SLOWLY_S)
        return PoolView(
            pool=pool.name,
            rates=rates,
            ready=len(crew.ready),
            # Without a report of the backends, assume that every worker is busy.
            busy=len(crew.ready) if held is None else _busy(crew, held),
            booting=sorted(booting, reverse=True),
            draining=len(crew.draining) + len(crew.leaving) + len(crew.left),
            silent=unheard,
            hour_micros=pool.hour_micros or 0,
            launch_micros=pool.launch_micros,
            least_billed_s=pool.least_billed_s,
            paid_s=_paid_s(crew, held, now, pool.least_billed_s),
            start_p50_s=_seconds(times, 0),
            start_p95_s=max(_seconds(times, 0), _seconds(times, 1)),
            most=pool.most,
            # Start one worker to learn a model without a card.
            least=max(pool.least, 1) if is_unknown else pool.least,
            is_unknown=is_unknown,
            is_spot=pool.is_spot,
            location=pool.location,
            losses_per_hour=pool.losses_per_hour,
            closed_s=closed_s,
        )

    def _missing(self, pool: Pool) -> tuple[str, ...]:
        """Return the configured models of a pool without a model card."""
        if self._cards.seen_s is None:
            return ()
        known = {each.name for each in self._cards.value}
        return tuple(each for each in pool.models if each not in known)

    def _listed(self, pool: str, token: str) -> int:
        return sum(each.token == token for each in self._parts[pool].instances.value)


def _without(crew: Crew, left: Sequence[WorkerInfo]) -> Crew:
    """Count leftover ready workers as billed only."""
    if not left:
        return crew
    ids = {each.id for each in left}
    ready = [each for each in crew.ready if each.id not in ids]
    return msgspec.structs.replace(crew, ready=ready, silent=[*crew.silent, *left])


def _busy(crew: Crew, held: Mapping[str, int]) -> int:
    return sum(held.get(each.id, 0) > 0 for each in crew.ready)


def _paid_s(
    crew: Crew, held: Mapping[str, int] | None, now: datetime, least_billed_s: float
) -> list[float]:
    """Return the prepaid time of idle workers, in seconds, shortest first."""
    if held is None or least_billed_s <= 0:
        return []
    idle = (each for each in crew.ready if not held.get(each.id))
    return sorted(paid_s(crew, each, now, least_billed_s) for each in idle)


def _seconds(times: StartTimes, place: int) -> float:
    seconds = times.at[place].seconds
    return UNKNOWN.p50_s if seconds is None else max(0.0, seconds)


def _all(models: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(model for each in models for model in each))


def demands(
    depths: Iterable[Depth],
    counts: Mapping[str, Arrived],
    work: Workload | None,
    now: datetime,
    models: Iterable[str] = (),
    usual: Mapping[str, Usual] = {},
    drawn: Callable[[str], str] = model_of,
) -> list[Demand]:
    """Return the demand of each model. Pure.

    Args:
        depths: Depths of all queues.
        counts: Arrivals by queue.
        work: Report of the backends.
        now: The time.
        models: Models to include even without demand.
        usual: Usual arrivals at this time of the week, by model.
        drawn: Maps a queue to the model or version that now serves it, which also gets the queue's
            earlier arrivals. A version that no pool serves is omitted.
    """
    per_task = {} if work is None else work.counts
    found: dict[str, _Asked] = {model: _Asked() for model in models}
    for queue, came in counts.items():
        what = drawn(queue)
        if what == model_of(what) or what in found:
            asked = found.setdefault(what, _Asked())
            asked.came = came if asked.came is None else asked.came.with_(came)
    for depth in depths:
        what = drawn(depth.queue)
        model = model_of(what)
        if what != model and what not in found:
            continue
        asked = found.setdefault(what, _Asked())
        asked.waiting += depth.ready_samples
        asked.leased += depth.running * per_task.get(model, 1.0)
        if depth.oldest_ready_at is not None:
            asked.oldest_s = max(asked.oldest_s, (now - depth.oldest_ready_at).total_seconds())
    nothing = Arrived((), ())
    return [
        Demand(
            model=model,
            waiting=float(asked.waiting),
            leased=asked.leased,
            oldest_s=max(0.0, asked.oldest_s),
            minutes=(asked.came or nothing).minutes,
            tens=(asked.came or nothing).tens,
            usual=usual.get(model, Usual()).ahead,
            usual_before=usual.get(model, Usual()).before,
        )
        for model, asked in sorted(found.items())
    ]


@dataclass(slots=True)
class _Asked:
    waiting: int = 0
    leased: float = 0.0
    oldest_s: float = 0.0
    came: Arrived | None = None


def rates_of(
    pool: Pool, models: Iterable[str], work: Workload | None, cards: Sequence[ModelCard]
) -> dict[str, float]:
    """Return the rates of one worker of a pool in samples per second, by model. Pure.

    All versions of a model share a rate. In order of precedence: measured in this pool, configured,
    measured in another pool, declared on the model card, default.
    """
    measured: Mapping[str, Mapping[str, float]] = {} if work is None else work.rates
    found: dict[str, float] = {}
    for what in models:
        model = model_of(what)
        elsewhere = [rates[model] for rates in measured.values() if model in rates]
        told = (
            measured.get(pool.name, {}).get(model),
            pool.rates.get(model),
            min(elsewhere, default=None),
            _declared(model, cards),
            _UNKNOWN_RATE,
        )
        found[what] = next(rate for rate in told if rate is not None and rate > 0)
    return found


def _declared(model: str, cards: Sequence[ModelCard]) -> float | None:
    """Return the rate on a model's card, for its slowest device."""
    for card in cards:
        if card.name == model:
            times = [speed.took_s for speed in card.speed if speed.took_s > 0]
            return 1.0 / max(times) if times else None
    return None
