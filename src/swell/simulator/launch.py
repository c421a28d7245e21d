"""What a launch needs: workers, quotas, money, and what becomes of a smaller quota. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from swell.autoscaler.policy_settings import PolicySettings
from swell.core.billing.price_book import LIST, Price
from swell.simulator.machines import Workers
from swell.simulator.runs import Told

#: More workers than so many are simulated at a smaller scale.
MOST_WORKERS: Final = 1000

#: A quota should be so many times what the simulation needed at most.
SPARE: Final = 1.2


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask a provider for."""

    #: A pool, or a provider with its kind of machine and where.
    name: str
    gpu: str = ""
    is_spot: bool = False
    #: How many workers may run at once.
    workers: int
    #: What one costs an hour, in millionths of a dollar.
    hour_micros: int
    #: In so many places each, so that no place has more than the policy wants.
    places: int = 1


def quotas_of_pools(told: Told, pools: Sequence[Workers], times: float) -> list[Quota]:
    """Return what each pool needed at most, and some more.

    Args:
        told: Of a simulation.
        pools: Which were simulated.
        times: So many times as large is the real demand.
    """
    return [
        Quota(
            name=each.pool.name,
            is_spot=each.pool.is_spot,
            workers=math.ceil(told.peaks.get(each.pool.name, 0) * times * SPARE),
            hour_micros=each.pool.hour_micros,
        )
        for each in pools
    ]


def quotas_of_prices(
    told: Told, settings: PolicySettings, times: float, gpu: str, prices: Sequence[Price] = LIST
) -> list[Quota]:
    """Return what to ask each provider for that has such a GPU, if it were the only one.

    On demand that is all. Of spot machines one place has no more than the policy's share, so that
    several places are needed.

    Args:
        told: Of a simulation.
        settings: With the shares.
        times: So many times as large is the real demand.
        gpu: As the price book calls it.
        prices: The price book.
    """
    whole = told.peak * times * SPARE
    cheapest: dict[tuple[str, bool], Price] = {}
    for each in prices:
        key = (each.provider, each.spot)
        known = cheapest.get(key)
        if each.gpu == gpu and (known is None or each.hour_micros < known.hour_micros):
            cheapest[key] = each
    places = math.ceil(1.0 / settings.location_share)
    return [
        Quota(
            name=f"{each.provider} {each.kind}",
            gpu=gpu,
            is_spot=each.spot,
            workers=math.ceil(whole * settings.location_share) if each.spot else math.ceil(whole),
            hour_micros=each.hour_micros,
            places=places if each.spot else 1,
        )
        for each in sorted(cheapest.values(), key=lambda each: each.hour_micros)
    ]


def capped(pools: Sequence[Workers], most: int) -> list[Workers]:
    """Return pools that have no more workers than so many together, the first ones first."""
    found, left = [], most
    for each in pools:
        own = min(each.pool.most, left)
        left -= own
        found.append(_with(each, most=own, least=min(each.pool.least, own)))
    return found


def shrunk(pools: Sequence[Workers], times: float) -> list[Workers]:
    """Return pools whose limits are so many times smaller."""
    return [
        _with(
            each, most=max(1, round(each.pool.most / times)), least=round(each.pool.least / times)
        )
        for each in pools
    ]


def _with(workers: Workers, **limits: int) -> Workers:
    changed: Mapping[str, int] = limits
    return msgspec.structs.replace(workers, pool=msgspec.structs.replace(workers.pool, **changed))
