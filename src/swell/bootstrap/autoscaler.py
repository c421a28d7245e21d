"""Builds the autoscaler: providers and pools from settings, and the controller.

`swell.autoscaler` is imported when there are pools.
"""

import dataclasses
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from swell.bootstrap.storage import is_shared
from swell.core.billing.price_book import MachinePrice
from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.core.provider import LaunchRequest, Provider, TellsPrices
from swell.settings.environment import process_environment
from swell.settings.load import Settings, environment_of
from swell.settings.pool_prices import book_of, pool_prices, unknown_kinds
from swell.settings.pool_settings import AutoscaleSettings, PoolTable

if TYPE_CHECKING:
    from swell.autoscaler.controller import Controller
    from swell.autoscaler.live_prices import Asking
    from swell.autoscaler.policy import PolicySettings
    from swell.autoscaler.pools import Pool
    from swell.server.dependencies import Backend

_log = structlog.get_logger("swell.autoscaler")

#: Providers without an account that several deployments share.
_UNSHARED: Final = ("process", "external")


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """The controller and its pools."""

    controller: "Controller"
    pools: "Sequence[Pool]"

    async def close(self) -> None:
        """Let another controller lead; workers end if their provider ends with this process."""
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
    """Return the autoscaler of the pools in the settings, not yet started.

    Args:
        settings: The pools, and the policy.
        clock: The time.
        backend: The queues, the workers and the registry.
        access: How workers reach the backend, unless the settings say it.
        wake: Called when workers are drained, so that backends tell them at once.
        ref_of: Turns a model of a process pool into a reference for `worker.models`.

    Raises:
        InvalidRequest: The settings of a pool are not sufficient to launch its workers.
    """
    from swell.autoscaler.controller import Controller, Terms
    from swell.autoscaler.decide import Limits
    from swell.autoscaler.live_prices import LivePrices
    from swell.autoscaler.observe import Observer, Timing
    from swell.autoscaler.policy import plan

    chosen = settings.autoscale
    token = chosen.token.get_secret_value() or access.token
    if not token:
        check_token(settings)
    access = Access(chosen.url or settings.server.public_url or access.url, token)
    prices = pool_prices(settings)
    pools = [
        _pool(name, settings, clock, _environment(name, settings, access, ref_of), prices.get(name))
        for name in settings.pools
    ]
    _log_advice(settings, prices)
    registry = backend.registry
    policy = policy_of(settings)
    terms = Terms(
        holder=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        every_s=chosen.every_s,
        is_alone=not is_shared(settings),
        limits=msgspec.convert(chosen, Limits, from_attributes=True),
        prices=LivePrices(
            registry, clock, _askings(settings, pools), prices, settings.prices.ask_every_s
        ),
    )
    controller = Controller(
        Observer(backend.broker, registry, pools, clock, Timing(3 * settings.delivery.heartbeat_s)),
        registry,
        pools,
        clock,
        lambda observation, state: plan(observation, policy, state),
        terms,
        wake,
    )
    return Autoscaler(controller, pools)


def _askings(settings: Settings, pools: "Sequence[Pool]") -> "dict[str, Asking]":
    """Return how to ask for the prices of pools that may change."""
    from swell.autoscaler.live_prices import Asking, live_price

    book, found = book_of(settings), {}
    for pool in pools:
        table, provider = settings.pools[pool.name], pool.provider
        if _is_asked(settings, table) and isinstance(provider, TellsPrices):
            found[pool.name] = Asking(provider.prices, partial(live_price, pool.name, table, book))
    return found


def _is_asked(settings: Settings, table: PoolTable) -> bool:
    """Whether the autoscaler asks a pool's cloud for its price."""
    from swell.autoscaler.live_prices import may_change

    return settings.prices.ask_every_s > 0 and may_change(table, book_of(settings))


def _log_advice(settings: Settings, prices: Mapping[str, MachinePrice]) -> None:
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
    """Return warnings about prices, budgets and pools that are allowed and probably wrong."""
    limit, alarm = settings.autoscale.day_budget_micros, settings.costs.budget_day_micros
    hour_limit = settings.autoscale.hour_budget_micros
    is_limited = any(each is not None for each in (limit, hour_limit, alarm))
    pools = settings.pools
    found = [
        f"the pool {name} has no price: it counts as free, no budget limits it, and its pictures "
        f"have no cost: set pools.{name}.hour_micros"
        for name, table in pools.items()
        # The autoscaler asks for the others when it starts.
        if not (name in prices or _is_asked(settings, table))
        and (is_limited or table.provider != "process")
    ]
    found += [
        f"prices.hour_micros has {name!r}, a kind of machine that no pool asks for and the list "
        "does not have: look for a slip of the pen"
        for name in unknown_kinds(settings)
    ]
    if len(pools) > 1 and settings.autoscale.policy.get("location_share") != 1:
        found += [
            f"autoscale.policy.location_share does not apply to {name}, a pool of "
            f"spot workers without a location: set pools.{name}.location, or set the"
            " share to 1 if all of them may be reclaimed at once"
            for name, table in pools.items()
            if table.is_spot and not table.location
        ]
    is_default = settings.autoscale.deployment == AutoscaleSettings().deployment
    if is_default and any(table.provider not in _UNSHARED for table in pools.values()):
        found.append(
            "autoscale.deployment has its default value: two services in one "
            "account with pools of the same name would end each other's machines, "
            "so set a unique name"
        )
    if pools and limit is None and alarm is not None:
        found.append(
            "costs.budget_day_micros gives alarms and stops nothing: set "
            "autoscale.day_budget_micros too, where pools should not cost more"
        )
    if pools and limit is not None and alarm is None:
        found.append(
            "autoscale.day_budget_micros shrinks pools without an earlier alarm: "
            "set costs.budget_day_micros too, for alarms at 50, 80 and 100 %"
        )
    return found


def policy_of(settings: Settings) -> "PolicySettings":
    """Return the settings of the policy.

    Raises:
        InvalidRequest: `autoscale.policy` has an unknown name or a value that is not allowed.
    """
    from swell.autoscaler.policy import PolicySettings

    chosen = settings.autoscale
    fields = set(PolicySettings.__struct_fields__)
    own = fields & set(AutoscaleSettings.model_fields)
    for name in chosen.policy:
        if name not in fields - own:
            there = ", ".join(sorted(fields - own))
            raise InvalidRequest(f"autoscale.policy.{name[:60]} does not exist: there are {there}")
    given = {name: getattr(chosen, name) for name in own}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**given, **chosen.policy}, PolicySettings)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"autoscale.policy: {error}") from error


def pool_models(settings: Settings) -> list[str]:
    """Return the names of the models that pools serve, as far as the settings tell them."""
    return list(dict.fromkeys(name for each in settings.pools.values() for name in each.names))


def needs_token(settings: Settings) -> list[str]:
    """Return the pools with workers that outlive this process, and so need a key that does, too.

    Workers of external pools bring their own.
    """
    return [
        name
        for name, table in settings.pools.items()
        if table.provider not in _UNSHARED or table.options.get("outlives")
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


def _pool(
    name: str,
    settings: Settings,
    clock: Clock,
    environment: Mapping[str, str],
    price: MachinePrice | None,
) -> "Pool":
    from swell.autoscaler.pools import Pool

    table = settings.pools[name]
    names = (each.name for each in dataclasses.fields(Pool))
    fields: dict[str, Any] = {each: getattr(table, each) for each in names if hasattr(table, each)}
    if price is not None:
        hour_micros, source, read_on = price
        fields |= {"hour_micros": hour_micros, "price_source": source, "price_read_on": read_on}
    fields |= {"name": name, "models": table.names, "provider_name": table.provider}
    fields["provider"] = provider_of(name, table, settings, clock)
    fields["is_external"] = table.provider == "external"
    command = (sys.executable, "-m", "swell", "worker")
    request = LaunchRequest(pool=name, command=command, environment=environment)
    return Pool(request=request, **fields)


def _environment(
    name: str, settings: Settings, access: Access, ref_of: Callable[[str], str]
) -> Mapping[str, str]:
    """Return the environment variables of a worker of a pool."""
    table = settings.pools[name]
    own = environment_of(
        {
            "worker.url": access.url,
            "worker.token": access.token,
            "worker.pool": name,
            "worker.device": table.device,
            "worker.slots": table.slots,
            "worker.drain_s": table.drain_s,
        }
    )
    if table.provider != "process":
        # An image contains its models.
        return own
    from swell.bootstrap.local_workers import worker_environment

    refs = [ref_of(ref) for ref in table.models]
    return {**worker_environment(settings, refs, access.url, access.token), **own}


def provider_of(name: str, table: PoolTable, settings: Settings, clock: Clock) -> Provider:
    """Return the provider of a pool.

    Args:
        name: The pool, for errors.
        table: Its provider, and the provider's options.
        settings: The deployment's name, and the data folder.
        clock: The time.

    Raises:
        InvalidRequest: The provider does not exist, an option is wrong, or a library is missing.
    """
    from swell.providers import factory

    deployment, where = settings.autoscale.deployment, f"pools.{name}.options"
    if table.provider == "process":
        folder = settings.data_dir / "logs" / name
        return _process_provider(table, clock, where, folder, deployment)
    return factory.provider_of(
        table.provider,
        table.options,
        clock,
        deployment=deployment,
        where=where,
        spot=table.is_spot,
    )


def _process_provider(
    table: PoolTable, clock: Clock, where: str, folder: Path, deployment: str
) -> Provider:
    from swell.providers.detached import DetachedProvider
    from swell.providers.options import checked
    from swell.providers.process import ProcessOptions, ProcessProvider
    from swell.providers.rehearsal import RehearsalProvider

    options = checked(ProcessOptions, table.options, where)
    provider_type: Callable[..., Provider] = ProcessProvider
    if options.outlives:
        provider_type = partial(DetachedProvider, deployment=deployment)
    environment = process_environment(without_settings=True)
    provider = provider_type(clock, folder, environment, boot_delay_s=options.boot_delay_s)
    if options.rehearsal is None:
        return provider
    return RehearsalProvider(provider, options.rehearsal, clock)
