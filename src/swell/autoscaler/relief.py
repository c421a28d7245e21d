"""What to do about demand that no worker will meet in time. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from swell.autoscaler.outlook import Relief
from swell.autoscaler.requirement import Requirement
from swell.autoscaler.sizing import Wish
from swell.autoscaler.supply import Supply

#: (in how many seconds, samples per second) of workers that are asked for now.
Launched = Sequence[tuple[float, float]]

#: Nobody is told to wait for longer, in seconds: by then everything is different.
_LONGEST_S: Final = 24 * 3600.0


def launched(
    models: Sequence[Requirement], pools: Sequence[Supply], chosen: Sequence[Wish]
) -> list[Launched]:
    """Return for each model what those will draw that are asked for now, the first first.

    Models of one pool share it by how much work they need of it. When it starts is told late rather
    than early: 19 of 20 have started by then.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in models]
    for at, (pool, wish) in enumerate(zip(pools, chosen, strict=True)):
        if not wish.launch:
            continue
        own = [place for place, each in enumerate(models) if at in each.pools]
        rates = [_rate(models[place], pool) for place in own]
        work = [models[place].need.up / rate for place, rate in zip(own, rates, strict=True)]
        total = sum(work)
        for place, rate, part in zip(own, rates, work, strict=True):
            share = part / total if total > 0.0 else 1.0 / len(own)
            if share > 0.0:
                found[place].append((pool.view.start_p95_s, wish.launch * rate * share))
    return [sorted(each) for each in found]


def _rate(model: Requirement, pool: Supply) -> float:
    return pool.view.rates[model.demand.model] * model.believed


def relief(model: Requirement, more: Launched) -> Relief | None:
    """Return what to do about one model's demand; None where it is met in time.

    Args:
        model: What it needs, and what its workers can draw by the time that new ones are ready.
        more: What is asked for now, the first to start first.
    """
    need, wait_s = model.need, model.terms.wait_s
    if need.wait_s <= wait_s or (need.rate <= 0.0 and need.queue <= 0.0):
        return None
    # What waits already is drawn first; of the rest there is room for so much within the wait.
    wanted = max(need.rate, need.ahead)
    waits_s = min(need.wait_s, _waits_s(model.demand.waiting, model.able, more))
    able = model.able + sum(rate for _, rate in more)
    short = wanted + need.queue / max(wait_s, waits_s, 1.0)
    admitted = min(1.0, able / short) if short > 0.0 else 1.0
    speedup = max(1.0, short / able) if able > 0.0 else math.inf
    return Relief(
        model=model.demand.model,
        admitted=max(0.0, admitted),
        wait_s=min(_LONGEST_S, waits_s),
        speedup=min(100.0, speedup),
    )


def _waits_s(waiting: float, able: float, more: Launched) -> float:
    """Return how long one that comes now waits for what is asked for now: a bound from above.

    Until the first of these has started nothing counts as drawn.
    """
    ahead, now_s = waiting, 0.0
    for place, (in_s, rate) in enumerate(more):
        drawn = able * (in_s - now_s) if place else 0.0
        if place and drawn >= ahead:
            break
        ahead, now_s, able = ahead - drawn, in_s, able + rate
    if not more or able <= 0.0:
        return math.inf
    return now_s + max(0.0, ahead) / able
