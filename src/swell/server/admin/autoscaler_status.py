"""Notes that a backend writes for the autoscaler, and its status.

Both communicate through notes in the registry, so the autoscaler may run in this process, in
another one, or not at all.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from swell.core.arrival_rates import PREFIX, Arrivals, stale
from swell.core.clock import Clock, Moment
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import (
    DECISIONS,
    FRESH_S,
    STATUS,
    WORKLOAD,
    Decision,
    ModelOutlook,
    ModelScaling,
    PoolScaling,
    ScalingStatus,
    Workload,
    read,
)
from swell.server.common_schemas import doc
from swell.server.decoding import read_query
from swell.server.estimates.eta import ServiceTimes
from swell.server.request import Call, Reply
from swell.server.route import Response, admin_route
from swell.server.serializers import encode, project
from swell.server.workers.worker_tracker import Fleet

if TYPE_CHECKING:
    from swell.server.service import Service

#: Arrivals are written this long after the end of their bin, in seconds.
_SOON_S: Final = 0.05

#: `can_launch` reads the status again at most this often, in seconds.
_LOOK_AGAIN_S: Final = 0.25

#: Outdated notes of arrivals are deleted this often, in seconds.
_SWEEP_EVERY_S: Final = 600.0

#: They are kept for this long, since the clocks of backends may differ.
_SWEEP_AFTER: Final = timedelta(hours=2)


class ScalingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many decisions to list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's state and decisions."""

    at: Annotated[Moment | None, doc("null if no autoscaler runs")]
    leader: Annotated[str | None, doc("the process that decides")]
    age_s: Annotated[float | None, doc("age of its data, in seconds")]
    spent_micros: Annotated[
        int | None, doc("spent by all pools today (UTC), in millionths of a dollar")
    ]
    models: list[ModelOutlook]
    decisions: Annotated[list[Decision], doc("newest first")]


class Scaling:
    """What one backend process knows of the autoscaler.

    Args:
        registry: Keeps the notes.
        clock: The time.
        name: The unique name of this process.
    """

    def __init__(self, registry: Registry, clock: Clock, name: str) -> None:
        self._registry = registry
        self._clock = clock
        self._name = name
        self.arrivals = Arrivals(clock.now())
        self._has_unwritten = False
        self._swept_s = float("-inf")
        self._status: ScalingStatus | None = None
        #: Pool → its last reported status, however old.
        self.pools: dict[str, PoolScaling] = {}
        #: When the status was read, in monotonic seconds.
        self._read_s = float("-inf")
        #: Pool → model → samples per second; rates of workers that have left stay valid.
        self._rates: dict[str, dict[str, float]] | None = None

    @property
    def status(self) -> ScalingStatus | None:
        """The last status; None if it is too old, so that no autoscaler runs."""
        return None if self._age_s() > FRESH_S else self._status

    async def listen(self) -> None:
        """Read the status."""
        self._read_s = self._clock.monotonic_s()
        self._status = read(await self._registry.note(STATUS), ScalingStatus)
        self.pools = (
            {} if self._status is None else {each.pool: each for each in self._status.pools}
        )

    async def can_launch(self, model: str) -> bool:
        """Whether the autoscaler starts workers for a model."""
        is_old = self._clock.monotonic_s() - self._read_s >= _LOOK_AGAIN_S
        if self._ready_in_s(model) is None and is_old:
            await self.listen()
        return self._ready_in_s(model) is not None

    def _ready_in_s(self, model: str) -> float | None:
        known = self._model(model)
        return None if known is None else known.ready_in_s

    def ready_in_s(self, model: str) -> tuple[float, float]:
        """Return when a worker takes the first task: expected, and with 95 % probability.

        In seconds from now; both 0 if unknown.
        """
        known, age_s = self._model(model), self._age_s()
        if known is None or known.ready_in_s is None:
            return 0.0, 0.0
        return max(0.0, known.ready_in_s - age_s), max(0.0, known.ready_by_s - age_s)

    def coming(self, model: str) -> list[tuple[float, int]]:
        """Return after how many seconds how many more workers will take tasks of a model."""
        known, age_s = self._model(model), self._age_s()
        return [] if known is None else [(max(0.0, in_s - age_s), n) for in_s, n in known.coming]

    def prices(self, model: str) -> list[int]:
        """Return the known prices of a worker hour in the pools of a model."""
        pools = () if self.status is None else self.status.pools
        return [
            each.hour_micros
            for each in pools
            if model in each.models and each.hour_micros is not None
        ]

    def next_bin_s(self) -> float:
        """Return after how many seconds there are arrivals to write."""
        return self.arrivals.next_in_s(self._clock.now()) + _SOON_S

    async def tell_arrivals(self) -> None:
        """Write new arrivals; delete outdated ones of backends that have gone."""
        self._has_unwritten |= self.arrivals.close(self._clock.now())
        if self._has_unwritten:
            await self._registry.put_note(PREFIX + self._name, self.arrivals.dump())
            self._has_unwritten = False
        if self._clock.monotonic_s() - self._swept_s >= _SWEEP_EVERY_S:
            self._swept_s = self._clock.monotonic_s()
            notes = await self._registry.notes(PREFIX)
            await self._registry.drop_notes(stale(notes, self._clock.now() - _SWEEP_AFTER))

    async def tell_workload(self, fleet: Fleet, times: ServiceTimes) -> None:
        """Write the workers' tasks and speeds; one backend does so for all."""
        if self._rates is None:
            before = read(await self._registry.note(WORKLOAD), Workload)
            self._rates = {} if before is None else {p: dict(r) for p, r in before.rates.items()}
        for pool, rates in fleet.rates().items():
            self._rates.setdefault(pool, {}).update(rates)
        work = Workload(
            at=self._clock.now(), held=fleet.held(), rates=self._rates, counts=times.mean_counts()
        )
        await self._registry.put_note(WORKLOAD, encode(work))

    def _model(self, model: str) -> ModelScaling | None:
        models = () if self.status is None else self.status.models
        return next((each for each in models if each.model == model), None)

    def _age_s(self) -> float:
        if self._status is None:
            return 0.0
        return max(0.0, (self._clock.now() - self._status.at).total_seconds())


@admin_route(
    "GET /v1/scaling", Response("Its state and latest decisions", ScalingView), query=ScalingQuery
)
async def show_scaling(service: "Service", call: Call) -> Reply:
    """Show the autoscaler's state and decisions."""
    query = read_query(call, ScalingQuery)
    await service.scaling.listen()
    status = service.scaling.status
    decisions = read(await service.registry.note(DECISIONS), list[Decision]) or []
    models = () if status is None else status.models
    # All null without an autoscaler.
    head = {each: getattr(status, each, None) for each in ("at", "leader", "age_s", "spent_micros")}
    view = ScalingView(
        **head,
        models=[project(ModelOutlook, each) for each in models],
        decisions=decisions[: -query.limit - 1 : -1],
    )
    return Reply(200, encode(view))
