"""Builds the status that the controller publishes to the backends. Pure."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from swell.autoscaler.memory import Memory
from swell.autoscaler.observe import Sight
from swell.autoscaler.outlook import Plan, PoolPlan, PoolView, Relief
from swell.autoscaler.pools import Pool
from swell.protocol.autoscaler_messages import ModelScaling, PoolScaling, ScalingStatus

#: An overdue boot is expected after this share of the usual time.
_OVERDUE: Final = 0.25

#: Workers expected within this time of each other are reported together, in seconds.
_TOGETHER_S: Final = 2.0


def status_of(
    sight: Sight,
    plan: Plan,
    memory: Memory,
    pools: Sequence[Pool],
    *,
    leader: str,
) -> ScalingStatus:
    """Return the status after a decision.

    Args:
        sight: The observation.
        plan: The policy's plan.
        memory: The saved memory.
        pools: All pools.
        leader: Name of this process.
    """
    views = {each.pool: each for each in sight.observation.pools}
    relief = {each.model: each for each in plan.relief}
    return ScalingStatus(
        at=sight.now,
        leader=leader,
        age_s=round(sight.observation.age_s, 3),
        pools=[_pool(pool, views[pool.name], sight, plan, memory) for pool in pools],
        models=[
            _model(each.model, sight.observation.pools, relief.get(each.model))
            for each in sight.observation.demands
        ],
        spent_micros=max(memory.day_micros(sight.now), sight.observation.spent_micros),
    )


def _pool(pool: Pool, view: PoolView, sight: Sight, plan: Plan, memory: Memory) -> PoolScaling:
    models = sight.models[pool.name]
    wanted = plan.pools.get(pool.name, PoolPlan(desired=view.ready + len(view.booting)))
    closed_s = max(view.closed_s, memory.closed_s(pool.name, sight.now.timestamp()))
    closure = memory.closures.get(pool.name)
    why = "its provider does not answer" if pool.name in sight.unseen else ""
    if not why and closed_s > 0 and closure is not None:
        why = closure.why
    return PoolScaling(
        pool=pool.name,
        provider=pool.provider_name,
        models=models,
        desired=wanted.desired,
        ready=view.ready,
        busy=view.busy,
        booting=len(view.booting),
        draining=view.draining,
        least=pool.least,
        most=pool.most,
        hour_micros=pool.hour_micros,
        launch_micros=pool.launch_micros,
        least_billed_s=pool.least_billed_s,
        price_source=pool.price_source or None,
        price_read_on=pool.price_read_on,
        price_told_at=pool.price_told_at,
        price_note=pool.price_note or None,
        is_spot=pool.is_spot,
        location=pool.location or None,
        closed_s=round(closed_s, 1),
        why_closed=why or None,
        start_p50_s=round(view.start_p50_s, 1),
        start_p95_s=round(view.start_p95_s, 1),
        counts=memory.counts.get(pool.name, {}),
        ends=memory.ends.get(pool.name, {}),
        reasons=[
            each.text for each in plan.reasons if each.about == pool.name or each.about in models
        ],
    )


def _model(model: str, views: Sequence[PoolView], relief: Relief | None) -> ModelScaling:
    waits = [_ready_in_s(each) for each in views if model in each.rates and each.most]
    first, by = min(waits) if waits else (None, 0.0)
    coming = coming_of(view for view in views if model in view.rates)
    relief = relief or Relief(model=model, admitted=1.0, wait_s=0.0, speedup=1.0)
    return ModelScaling(
        model=model,
        ready_in_s=first,
        ready_by_s=by,
        coming=coming,
        admitted=relief.admitted,
        wait_s=round(relief.wait_s, 1),
        speedup=relief.speedup,
    )


def coming_of(views: Iterable[PoolView]) -> list[tuple[float, int]]:
    """Return pairs of seconds and number of workers that will be ready then, earliest first.

    Times are rounded up, so that nearly simultaneous workers are counted together.
    """
    found: dict[float, int] = {}
    for view in views:
        for age_s in view.booting:
            in_s = max(view.start_p50_s - age_s, _OVERDUE * view.start_p50_s)
            told_s = _TOGETHER_S * math.ceil(in_s / _TOGETHER_S)
            found[told_s] = found.get(told_s, 0) + 1
    return sorted(found.items())


def _ready_in_s(view: PoolView) -> tuple[float, float]:
    """Return the time until a pool's next worker is ready: median and 95th percentile.

    An overdue boot is assumed to need some more time.
    """
    if view.ready:
        return 0.0, 0.0
    if view.booting:
        p50_s = max(view.start_p50_s - max(view.booting), _OVERDUE * view.start_p50_s)
        return round(p50_s, 1), round(max(p50_s, view.start_p95_s - max(view.booting)), 1)
    return round(view.closed_s + view.start_p50_s, 1), round(view.closed_s + view.start_p95_s, 1)
