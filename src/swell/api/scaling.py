"""What a backend tells the autoscaler, and what it hears from it.

The two never call each other: what they say lies as notes in the registry, so that the autoscaler
may be this process, another one, or none at all.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.eta import ServiceTimes
from swell.api.fleet import Fleet
from swell.api.messages import (
    DecisionView,
    ModelScalingView,
    PoolScalingView,
    ScalingQuery,
    ScalingView,
)
from swell.api.reading import read_query
from swell.api.route import Response, route
from swell.arrivals import PREFIX, Arrivals, stale
from swell.clock import Clock
from swell.db.registry import Registry
from swell.registry import Scope
from swell.scaling import (
    DECISIONS,
    FRESH_S,
    STATUS,
    WORKLOAD,
    Decision,
    ModelScaling,
    PoolScaling,
    ScalingStatus,
    Workload,
    read,
)

if TYPE_CHECKING:
    from swell.api.service import Service

#: A note that is told anew so much after the end of its bin is there in time, in seconds.
_SOON_S: Final = 0.05

#: Before a task is refused, what was told is read again so often at most, in seconds.
_LOOK_AGAIN_S: Final = 0.25

#: Notes of arrivals that say nothing any more are looked for so often, in seconds.
_SWEEP_EVERY_S: Final = 600.0

#: They are dropped so long after that, since clocks of backends may differ.
_SWEEP_AFTER: Final = timedelta(hours=2)

_encode = msgspec.json.Encoder().encode


class Scaling:
    """What one backend process knows of the autoscaler.

    Args:
        registry: Where notes lie.
        clock: The time.
        name: Tells this process from all others that there ever were.
    """

    def __init__(self, registry: Registry, clock: Clock, name: str) -> None:
        self._registry = registry
        self._clock = clock
        self._name = name
        self.arrivals = Arrivals(clock.now())
        self._has_untold = False
        self._swept_s = float("-inf")
        self._status: ScalingStatus | None = None
        #: When that was, in monotonic seconds.
        self._heard_s = float("-inf")
        self._models: Mapping[str, ModelScaling] = {}
        self._pools: Mapping[str, PoolScaling] = {}
        #: Rates of workers that may have gone are as good as none for their pools.
        self._rates: dict[str, dict[str, float]] | None = None

    @property
    def status(self) -> ScalingStatus | None:
        """How things stand; None where no autoscaler runs, as far as is known."""
        status = self._status
        if status is None or (self._clock.now() - status.at).total_seconds() > FRESH_S:
            return None
        return status

    async def listen(self) -> None:
        """Hear how things stand."""
        self._heard_s = self._clock.monotonic_s()
        self._status = read(await self._registry.note(STATUS), ScalingStatus)
        models = () if self._status is None else self._status.models
        self._models = {each.model: each for each in models}
        pools = () if self._status is None else self._status.pools
        self._pools = {each.pool: each for each in pools}

    async def can_launch(self, model: str) -> bool:
        """Whether the autoscaler starts workers for a model, as far as it has told by now."""
        if self._can_launch(model):
            return True
        now_s = self._clock.monotonic_s()
        if now_s - self._heard_s >= _LOOK_AGAIN_S:
            await self.listen()
        return self._can_launch(model)

    def _can_launch(self, model: str) -> bool:
        known = self._models.get(model)
        return self.status is not None and known is not None and known.ready_in_s is not None

    def ready_in_s(self, model: str) -> tuple[float, float]:
        """Return after how long a worker takes the first task, and by when most probably it does.

        Both 0 where nothing is known, in seconds.
        """
        status, known = self.status, self._models.get(model)
        if status is None or known is None or known.ready_in_s is None:
            return 0.0, 0.0
        passed_s = max(0.0, (self._clock.now() - status.at).total_seconds())
        return max(0.0, known.ready_in_s - passed_s), max(0.0, known.ready_by_s - passed_s)

    def coming(self, model: str) -> list[tuple[float, int]]:
        """Return after how many seconds how many more workers take tasks of a model."""
        status, known = self.status, self._models.get(model)
        if status is None or known is None or not known.coming:
            return []
        passed_s = max(0.0, (self._clock.now() - status.at).total_seconds())
        return [(max(0.0, in_s - passed_s), n) for in_s, n in known.coming]

    def pool(self, name: str) -> PoolScaling | None:
        """Return the last reported status of a pool, however old."""
        return self._pools.get(name)

    def prices(self, model: str) -> list[int]:
        """Return what an hour of a worker costs in each pool that serves a model, where known."""
        pools = () if self.status is None else self.status.pools
        return [
            each.hour_micros
            for each in pools
            if model in each.models and each.hour_micros is not None
        ]

    def next_bin_s(self) -> float:
        """Return after how many seconds there are arrivals to tell."""
        return self.arrivals.next_in_s(self._clock.now()) + _SOON_S

    async def tell_arrivals(self) -> None:
        """Tell what has arrived, if there is something new."""
        self._has_untold |= self.arrivals.close(self._clock.now())
        if self._has_untold:
            await self._registry.put_note(PREFIX + self._name, self.arrivals.dump())
            self._has_untold = False
        if self._clock.monotonic_s() - self._swept_s >= _SWEEP_EVERY_S:
            self._swept_s = self._clock.monotonic_s()
            await self._sweep_arrivals()

    async def _sweep_arrivals(self) -> None:
        """Drop what backends have told that are gone, since no autoscaler may be there to do so."""
        notes = await self._registry.notes(PREFIX)
        if old := stale(notes, self._clock.now() - _SWEEP_AFTER):
            await self._registry.drop_notes(old)

    async def tell_workload(self, fleet: Fleet, times: ServiceTimes) -> None:
        """Tell who holds what, and how fast workers are; one backend does so for all."""
        if self._rates is None:
            before = read(await self._registry.note(WORKLOAD), Workload)
            self._rates = {} if before is None else {p: dict(r) for p, r in before.rates.items()}
        for pool, rates in fleet.rates().items():
            self._rates.setdefault(pool, {}).update(rates)
        work = Workload(
            at=self._clock.now(), held=fleet.held(), rates=self._rates, counts=times.mean_counts()
        )
        await self._registry.put_note(WORKLOAD, _encode(work))


@route(
    "GET /v1/scaling",
    "Operators",
    {200: Response("Its state and latest decisions", ScalingView)},
    scope=Scope.ADMIN,
    query=ScalingQuery,
)
async def show_scaling(service: "Service", call: Call) -> Reply:
    """Show the autoscaler's state and decisions."""
    query = read_query(call, ScalingQuery)
    await service.scaling.listen()
    status = service.scaling.status
    told = read(await service.registry.note(DECISIONS), list[Decision]) or []
    view = ScalingView(
        at=None if status is None else status.at,
        leader=None if status is None else status.leader,
        age_s=None if status is None else status.age_s,
        spent_micros=None if status is None else status.spent_micros,
        models=[_model_view(each) for each in (() if status is None else status.models)],
        decisions=[_decision_view(each) for each in reversed(told[-query.limit :])],
    )
    return Reply(200, _encode(view))


def pool_scaling_view(pool: PoolScaling, decision: Decision | None) -> PoolScalingView:
    """Return how a pool stands as operators see it."""
    return PoolScalingView(
        provider=pool.provider,
        models=list(pool.models),
        desired=pool.desired,
        ready=pool.ready,
        busy=pool.busy,
        booting=pool.booting,
        draining=pool.draining,
        least=pool.least,
        most=pool.most,
        hour_micros=pool.hour_micros,
        price_source=pool.price_source or None,
        price_read_on=pool.price_read_on,
        price_told_at=pool.price_told_at,
        price_note=pool.price_note or None,
        spot=pool.is_spot,
        location=pool.location or None,
        closed_s=pool.closed_s,
        why_closed=pool.why_closed or None,
        start_p50_s=pool.start_p50_s,
        start_p95_s=pool.start_p95_s,
        counts=dict(pool.counts),
        ends=dict(pool.ends),
        reasons=list(pool.reasons),
        decision=None if decision is None else _decision_view(decision),
    )


def _decision_view(decision: Decision) -> DecisionView:
    return DecisionView(
        at=decision.at,
        about=decision.about,
        what=decision.what,
        n=decision.n,
        why=list(decision.why),
    )


def _model_view(model: ModelScaling) -> ModelScalingView:
    return ModelScalingView(
        model=model.model,
        ready_in_s=model.ready_in_s,
        admitted=model.admitted,
        wait_s=model.wait_s,
        speedup=model.speedup,
    )
