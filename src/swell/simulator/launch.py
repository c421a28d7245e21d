"""Plans a launch: workers, quotas, cost, and the effect of a smaller quota. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from swell.autoscaler.policy_settings import PolicySettings
from swell.core.billing.price_book import LIST, Price
from swell.simulator.machines import Workers
from swell.simulator.runs import Told

#: Larger fleets are simulated at a smaller scale.
MOST_WORKERS: Final = 1000

#: Ratio of a recommended quota to the simulated peak.
SPARE: Final = 1.2


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """A quota to request from a provider."""

    #: Name of a pool, or provider and machine type.
    name: str
    gpu: str = ""
    is_spot: bool = False
    #: Number of concurrent workers.
    workers: int
    #: Hourly price of a worker, in millionths of a dollar.
    hour_micros: int
    #: Number of locations with this quota each, because the policy limits the share of one
    #: location.
    places: int = 1


def quotas_of_pools(told: Told, pools: Sequence[Workers], times: float) -> list[Quota]:
    """Return the peak of each pool plus a margin.

    Args:
        told: Result of the simulation.
        pools: The simulated pools.
        times: Ratio of the real demand to the simulated demand.
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
    """Return the quota for each provider with this GPU, as if it were the only provider.

    On-demand machines need one quota. For spot machines, the policy limits the share of one
    location, so several locations need a quota.

    Args:
        told: Result of the simulation.
        settings: Settings with the share of one location.
        times: Ratio of the real demand to the simulated demand.
        gpu: Name of the GPU in the price book.
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
    """Limit the total number of workers; the first pools keep theirs."""
    found, left = [], most
    for each in pools:
        own = min(each.pool.most, left)
        left -= own
        found.append(_with(each, most=own, least=min(each.pool.least, own)))
    return found


def shrunk(pools: Sequence[Workers], times: float) -> list[Workers]:
    """Divide the limits of pools by a factor."""
    return [
        _with(
            each, most=max(1, round(each.pool.most / times)), least=round(each.pool.least / times)
        )
        for each in pools
    ]


def _with(workers: Workers, **limits: int) -> Workers:
    changed: Mapping[str, int] = limits
    return msgspec.structs.replace(workers, pool=msgspec.structs.replace(workers.pool, **changed))
