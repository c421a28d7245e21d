"""Pools of the settings → providers, workers and the controller: the wiring of the autoscaler.

It is imported where it is needed: whoever has no pools loads nothing of it.
"""

import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from swell.clock import Clock
from swell.config import AutoscaleSettings, PoolTable, Settings, environment_of
from swell.errors import InvalidRequest
from swell.money.pool_prices import (
    book_of,
    live_price,
    may_change,
    pool_prices,
    unknown_kinds,
    whole_machines,
)
from swell.money.pricing import MachinePrice
from swell.provider import LaunchRequest, TellsPrices
from swell.wiring import is_shared, provider_of, worker_environment

if TYPE_CHECKING:
    from swell.api.settings import Backend
    from swell.autoscaler.controller import Controller
    from swell.autoscaler.live_prices import Asking
    from swell.autoscaler.policy import PolicySettings
    from swell.autoscaler.pools import Pool

_log = structlog.get_logger("swell.autoscaler")


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """The controller, and whom it asks for machines."""

    controller: "Controller"
    pools: "Sequence[Pool]"

    async def close(self) -> None:
        """Let another lead. Workers that end with this process end; the others go on."""
        await self.controller.close()
        for pool in self.pools:
            await pool.provider.close()


@dataclass(frozen=True, slots=True)
class Access:
    """How launched workers reach the backend."""

    url: str
    #: API key with the scope `worker`.
    token: str


def build_autoscaler(
    settings: Settings,
    clock: Clock,
    backend: "Backend",
    access: Access,
    *,
    wake: Callable[[], Awaitable[None]],
    ref_of: Callable[[str], str] = str,
) -> Autoscaler:
    """Return what scales the pools of the settings, not yet started.

    Args:
        settings: Which pools, and how they are scaled.
        clock: The time.
        backend: What waits, who works, and where notes lie.
        access: How workers reach the backend, as far as the settings do not say it.
        wake: Called when workers were let go, so that backends tell them at once.
        ref_of: Turns what a pool of processes serves into what `worker.models` takes.

    Raises:
        InvalidRequest: A pool is not set up so that it can be launched.
    """
    from swell.autoscaler.controller import Controller, Terms
    from swell.autoscaler.decide import Limits
    from swell.autoscaler.live_prices import LivePrices
    from swell.autoscaler.observe import Observer, Timing
    from swell.autoscaler.policy import plan

    chosen = settings.autoscale
    url = chosen.url or settings.server.public_url or access.url
    token = chosen.token.get_secret_value() or access.token
    if not token:
        check_token(settings)
    prices = pool_prices(settings)
    pools = [
        _pool(name, table, settings, clock, Access(url, token), ref_of, prices.get(name))
        for name, table in settings.pools.items()
    ]
    _tell(settings, prices)
    observer = Observer(
        backend.broker,
        backend.registry,
        pools,
        clock,
        Timing(lost_s=3 * settings.delivery.heartbeat_s),
    )
    prices_now = LivePrices(
        backend.registry, clock, _askings(settings, pools), prices, settings.prices.ask_every_s
    )
    terms = Terms(
        holder=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        every_s=chosen.every_s,
        is_alone=not is_shared(settings),
        limits=Limits(
            stale_s=chosen.stale_s, boot_limit_s=chosen.boot_limit_s, silent_s=chosen.silent_s
        ),
        prices=prices_now,
    )
    policy = policy_of(settings)
    controller = Controller(
        observer,
        backend.registry,
        pools,
        clock,
        lambda observation, state: plan(observation, policy, state),
        terms,
        wake,
    )
    return Autoscaler(controller, pools)


def _askings(settings: Settings, pools: "Sequence[Pool]") -> "dict[str, Asking]":
    """Return how the prices are found of pools whose price may change."""
    from swell.autoscaler.live_prices import Asking

    book, found = book_of(settings), {}
    for pool in pools:
        table, provider = settings.pools[pool.name], pool.provider
        if _is_asked(settings, table) and isinstance(provider, TellsPrices):
            found[pool.name] = Asking(provider.prices, partial(live_price, pool.name, table, book))
    return found


def _is_asked(settings: Settings, table: PoolTable) -> bool:
    """Return whether a pool's cloud is asked for its price."""
    return settings.prices.ask_every_s > 0 and may_change(table, book_of(settings))


def _tell(settings: Settings, prices: Mapping[str, MachinePrice]) -> None:
    """Log what operators should know of prices and budgets."""
    for name, price in prices.items():
        if price.read_on is not None:
            _log.info(
                "a pool has its price from a list: pools.NAME.hour_micros takes its place",
                pool=name,
                hour_micros=price.hour_micros,
                source=price.source,
                read_on=price.read_on.isoformat(),
            )
    for line in advice(settings, prices):
        _log.warning(line)


def advice(settings: Settings, prices: Mapping[str, MachinePrice]) -> list[str]:
    """Return what is allowed and yet probably not meant, about prices, budgets and pools. Pure."""
    limit, alarm = settings.autoscale.day_budget_micros, settings.costs.budget_day_micros
    hour_limit = settings.autoscale.hour_budget_micros
    is_limited = any(each is not None for each in (limit, hour_limit, alarm))
    # Theirs is asked for as soon as they are scaled.
    asked = [name for name, table in settings.pools.items() if _is_asked(settings, table)]
    found = [
        f"the pool {name} has no price: it counts as free, no budget limits it, and its pictures "
        f"have no cost: set pools.{name}.hour_micros"
        for name, table in settings.pools.items()
        if name not in (*prices, *asked) and (is_limited or table.provider != "process")
    ]
    found += [
        f"prices.hour_micros has {name!r}, a kind of machine that no pool asks for and the list "
        "does not have: look for a slip of the pen"
        for name in unknown_kinds(settings)
    ]
    found += [
        f"prices.hour_micros has {name!r}, of a kind of machine that the list does not have: it "
        "counts for the whole machine, however many GPUs that has"
        for name in whole_machines(settings)
    ]
    found += [
        f"autoscale.policy.location_share does not apply to {name}, a pool of "
        f"spot workers without a location: set pools.{name}.location, or set the"
        " share to 1 if all of them may be reclaimed at once"
        for name in _anywhere(settings)
    ]
    if settings.autoscale.deployment == AutoscaleSettings().deployment and _on_clouds(settings):
        found.append(
            "autoscale.deployment has its default value: two services in one "
            "account with pools of the same name would end each other's machines, "
            "so set a unique name"
        )
    if settings.pools and limit is None and alarm is not None:
        found.append(
            "costs.budget_day_micros gives alarms and stops nothing: set "
            "autoscale.day_budget_micros too, where pools should not cost more"
        )
    if settings.pools and limit is not None and alarm is None:
        found.append(
            "autoscale.day_budget_micros shrinks pools without an earlier alarm: "
            "set costs.budget_day_micros too, for alarms at 50, 80 and 100 %"
        )
    return found


def _anywhere(settings: Settings) -> list[str]:
    """Return the spot pools beside others that are limited by no share of a location."""
    if len(settings.pools) < 2 or settings.autoscale.policy.get("location_share") == 1:
        return []
    return [name for name, each in settings.pools.items() if each.is_spot and not each.location]


def _on_clouds(settings: Settings) -> list[str]:
    """Return the pools whose machines others of the same account could list."""
    here = ("process", "external")
    return [name for name, table in settings.pools.items() if table.provider not in here]


def policy_of(settings: Settings) -> "PolicySettings":
    """Return the policy's settings.

    Raises:
        InvalidRequest: `autoscale.policy` has what it does not know.
    """
    from swell.autoscaler.policy import PolicySettings

    chosen = settings.autoscale
    known = {
        "wait_s": chosen.wait_s,
        "stale_s": chosen.stale_s,
        "hour_budget_micros": chosen.hour_budget_micros,
        "day_budget_micros": chosen.day_budget_micros,
    }
    fields = set(PolicySettings.__struct_fields__)
    given = {name: value for name, value in known.items() if name in fields and value is not None}
    for name in chosen.policy:
        if name not in fields or name in known:
            there = ", ".join(sorted(fields - set(known)))
            raise InvalidRequest(f"autoscale.policy.{name[:60]} does not exist: there are {there}")
    try:
        return msgspec.convert({**given, **chosen.policy}, PolicySettings)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"autoscale.policy: {error}") from error


def pool_models(settings: Settings) -> list[str]:
    """Return the names of the models that pools serve, as far as the settings tell them."""
    return list(dict.fromkeys(name for each in settings.pools.values() for name in _names(each)))


def needs_token(settings: Settings) -> list[str]:
    """Return the pools whose workers outlive this process, so that they need a key that does.

    Workers that others start bring their own.
    """
    return [
        name
        for name, table in settings.pools.items()
        if table.provider not in ("process", "external") or table.options.get("outlives")
    ]


def check_token(settings: Settings) -> None:
    """Check that launched workers have a key that outlives this process.

    Raises:
        InvalidRequest: They have none.
    """
    launched = [name for name, each in settings.pools.items() if each.provider != "external"]
    if launched and not settings.autoscale.token.get_secret_value():
        names = needs_token(settings) or launched
        raise InvalidRequest(
            f"workers of {', '.join(names)} need a key that outlives this process: make one with "
            "`swell keys create workers --scope worker`, and set autoscale.token, or name its file "
            "in SWELL_AUTOSCALE__TOKEN_FILE"
        )


def _names(table: PoolTable) -> tuple[str, ...]:
    return tuple(
        ref for ref in table.models if ref.count("/") == 1 and not ref.endswith((".py", ".toml"))
    )


def _pool(
    name: str,
    table: PoolTable,
    settings: Settings,
    clock: Clock,
    access: Access,
    ref_of: Callable[[str], str],
    price: MachinePrice | None,
) -> "Pool":
    from swell.autoscaler.pools import Pool

    return Pool(
        name=name,
        provider=provider_of(name, table, settings, clock),
        provider_name=table.provider,
        request=LaunchRequest(
            pool=name,
            command=(sys.executable, "-m", "swell", "worker"),
            environment=_environment(name, table, settings, access, ref_of),
        ),
        is_external=table.provider == "external",
        models=_names(table),
        least=table.least,
        most=table.most,
        hour_micros=None if price is None else price.hour_micros,
        price_source="" if price is None else price.source,
        price_read_on=None if price is None else price.read_on,
        launch_micros=table.launch_micros,
        least_billed_s=table.least_billed_s,
        is_spot=table.is_spot,
        losses_per_hour=table.losses_per_hour,
        location=table.location,
        start_s=table.start_s,
        rates=table.rates,
        drain_s=table.drain_s,
    )


def _environment(
    name: str,
    table: PoolTable,
    settings: Settings,
    access: Access,
    ref_of: Callable[[str], str],
) -> Mapping[str, str]:
    """Return what a worker of a pool must know."""
    own = {
        "worker.url": access.url,
        "worker.token": access.token,
        "worker.pool": name,
    }
    optional = {
        "worker.device": table.device,
        "worker.slots": table.slots,
        "worker.drain_s": table.drain_s,
    }
    own |= {key: str(value) for key, value in optional.items() if value is not None}
    if table.provider != "process":
        # An image says itself where its models lie; here they are known by their names only.
        return environment_of(own)
    # On this machine much holds for workers that holds for the backend.
    refs = [ref_of(ref) for ref in table.models]
    inherited = worker_environment(settings, refs, access.url, access.token)
    models = {"worker.models": ",".join(refs), "worker.added": "false"}
    return {**inherited, **environment_of(own | models)}
