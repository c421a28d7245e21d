"""What may be paid. Pure."""

from collections.abc import Sequence

from swell.autoscaler.policy_settings import PolicySettings
from swell.autoscaler.sizing import Wish
from swell.autoscaler.supply import Supply


def hour_limit_micros(settings: PolicySettings, spent_micros: int) -> int | None:
    """Return what an hour may cost now, in millionths of a dollar; None for any amount.

    What is left of the day must last for an hour at least: as it runs out, less and less is had,
    instead of nothing at once.
    """
    limits = []
    if settings.hour_budget_micros is not None:
        limits.append(settings.hour_budget_micros)
    if settings.day_budget_micros is not None:
        limits.append(max(0, settings.day_budget_micros - spent_micros))
    return min(limits, default=None)


def affordable(
    wishes: Sequence[Wish], pools: Sequence[Supply], limit_micros: int | None
) -> list[Wish]:
    """Return the wishes that can be paid for: the cheapest samples first.

    What is there already and costs too much goes, the dearest first: what starts, what is idle, and
    then what is busy, once it has finished. Until then it is paid for, and its money buys nothing
    else.
    """
    if limit_micros is None:
        return list(wishes)
    found = list(wishes)
    left = limit_micros - sum(
        (pool.n - wish.cancel - wish.drain) * pool.view.hour_micros
        for wish, pool in zip(wishes, pools, strict=True)
    )
    order = sorted(range(len(pools)), key=lambda at: (_per_sample(pools[at]), at))
    if left < 0:
        for at in reversed(order):
            if left < 0:
                found[at], saved = _cut(found[at], pools[at], -left)
                left += saved
    left = limit_micros - sum(
        (pool.n - wish.cancel + pool.unused) * pool.view.hour_micros
        for wish, pool in zip(found, pools, strict=True)
    )
    for at in order:
        price = pools[at].view.hour_micros
        if price > 0 and found[at].launch * price > left:
            most = max(0, left) // price
            found[at] = found[at]._replace(launch=min(found[at].launch, most), why="budget")
        left -= found[at].launch * price
    return found


def _per_sample(pool: Supply) -> float:
    return pool.view.hour_micros / max((*pool.view.rates.values(), 1e-9))


def _cut(wish: Wish, pool: Supply, micros: int) -> tuple[Wish, int]:
    """Return a wish with as many fewer workers as save so much, and what that saves."""
    price = pool.view.hour_micros
    if price <= 0:
        return wish, 0
    many = -(-micros // price)
    cancel = min(many, len(pool.view.booting) - wish.cancel)
    drain = min(many - cancel, pool.view.ready - wish.drain)
    cut = wish._replace(
        launch=0, cancel=wish.cancel + cancel, drain=wish.drain + drain, why="budget"
    )
    return cut, (cancel + drain) * price
