"""How many workers each pool should have: the policy. Pure, so that it can be replayed.

Read it in this order: `forecast` says what will be asked for, `need` how much must be drawn so that
few wait for too long, `requirement` puts both together for each model, `allocate` and `sizing` say
which pools draw it, `spending` what may be paid, `relief` what is to be done about the rest, and
`reasons` tells people.
"""

from swell.autoscaler import reasons
from swell.autoscaler.outlook import Observation, Plan, PoolPlan, Relief, State
from swell.autoscaler.policy_settings import PolicySettings
from swell.autoscaler.relief import launched, relief
from swell.autoscaler.requirement import Requirement, habits, remembered, requirements
from swell.autoscaler.sizing import Wish, wishes
from swell.autoscaler.spending import affordable, hour_limit_micros
from swell.autoscaler.supply import Supply, supply

__all__ = ["PolicySettings", "plan"]


def plan(observation: Observation, settings: PolicySettings, state: State) -> Plan:
    """Return how many workers each pool should have, and why.

    Args:
        observation: What is seen.
        settings: What is wanted.
        state: What the last plan left; an empty one lets no worker go for as long as a start takes.

    Guarantees:
        The same arguments give the same plan, in whatever order pools and models stand. Nothing is
        launched above a pool's `most`, nor above the budget. Busy workers go only where a limit was
        lowered, and finish what they hold. Nothing changes while what is seen is older than
        `stale_s`.
    """
    pools = [supply(view) for view in sorted(observation.pools, key=lambda view: view.pool)]
    if observation.age_s > settings.stale_s:
        return Plan(
            pools={each.view.pool: PoolPlan(desired=each.n) for each in pools},
            reasons=[reasons.stale(each, observation.age_s, settings.stale_s) for each in pools],
            state=state,
        )
    since = observation.at if state.since is None else min(state.since, observation.at)
    models = requirements(observation, settings, state, pools)
    limit_micros = hour_limit_micros(settings, observation.spent_micros)
    wanted = wishes(models, pools, settings, observation.at - since)
    chosen = affordable(wanted, pools, limit_micros)
    pairs = list(zip(pools, chosen, strict=True))
    asked = {at for each in models if not each.is_idle for at in each.pools}
    return Plan(
        pools={pool.view.pool: _pool_plan(pool, wish) for pool, wish in pairs},
        relief=_reliefs(models, pools, chosen),
        reasons=[
            *(reasons.of_model(each) for each in models),
            *(
                reasons.of_pool(pool, wish, is_asked=at in asked)
                for at, (pool, wish) in enumerate(pairs)
            ),
        ],
        state=State(
            since=since,
            forecasts=remembered(models, state, observation.at),
            habits=habits(models, state),
        ),
    )


def _pool_plan(pool: Supply, wish: Wish) -> PoolPlan:
    return PoolPlan(
        desired=pool.n + wish.launch - wish.cancel - wish.drain,
        launch=wish.launch,
        cancel_boots=wish.cancel,
        drain=wish.drain,
    )


def _reliefs(models: list[Requirement], pools: list[Supply], chosen: list[Wish]) -> list[Relief]:
    more = launched(models, pools, chosen)
    found = (relief(each, own) for each, own in zip(models, more, strict=True))
    return [each for each in found if each is not None]
