"""Builds the backend: everything that the HTTP service uses, opened."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from swell.bootstrap.objects import open_objects, open_weights
from swell.bootstrap.storage import external_queues, is_shared, open_bus, open_database
from swell.bootstrap.tracing import open_tracer
from swell.core.clock import Clock
from swell.core.errors import InvalidModel
from swell.core.retry import RetryPolicy
from swell.db.registry import Registry
from swell.db.task_store import Store
from swell.db.webhook_deliveries import Outbox
from swell.objects.url_signing import SigningSecrets, read_secrets
from swell.queues.table_broker import Broker
from swell.sdk.pipeline_cards import Declared
from swell.sdk.style_presets import Style
from swell.server.dependencies import ApiSettings, Backend
from swell.server.web.web_app import built_app
from swell.settings.load import Settings
from swell.settings.pool_prices import pool_prices


async def build_backend(
    settings: Settings, clock: Clock, *, launchable: Callable[[], list[str]] = list
) -> Backend:
    """Open everything that the HTTP service uses.

    Args:
        settings: The adapters and their limits.
        clock: The time.
        launchable: Returns the models for which a worker can be started.

    Raises:
        InvalidRequest: A URL names no known adapter.
        Unusable: An adapter cannot open what the settings name.
        Conflict: Another process has the database open.
    """
    delivery = settings.delivery
    policy = RetryPolicy(base_s=delivery.backoff_base_s, cap_s=delivery.backoff_cap_s)
    database = await open_database(settings, clock)
    store, broker, registry = Store(database, policy), Broker(database), Registry(database)
    publisher = None
    try:
        if settings.broker.url:
            from swell.queues.queue_publisher import QueuePublisher

            publisher = QueuePublisher(external_queues(settings.broker.url), broker)
        signing = SigningSecrets(clock, await read_secrets(registry))
        objects = await open_objects(settings, clock, signing)
        bus = await open_bus(settings, clock)
        if is_shared(settings):
            database.broadcast = bus.broadcast
    except BaseException:
        await store.close()
        raise
    return Backend(
        store=store,
        broker=broker,
        publisher=publisher,
        bus=bus,
        objects=objects,
        registry=registry,
        outbox=Outbox(database),
        clock=clock,
        settings=_api_settings(settings),
        launchable=launchable,
        is_shared=is_shared(settings),
        signing=signing,
        weights=open_weights(settings, clock, secret=signing) if settings.weights.url else None,
        tracer=open_tracer(settings, "swell-backend"),
    )


async def close_backend(backend: Backend) -> None:
    """Close what `build_backend` opened; the store last, since it commits queued writes."""
    await backend.bus.close()
    if backend.publisher is not None:
        await backend.publisher.close()
    await backend.broker.close()
    await backend.store.close()
    if backend.tracer is not None:
        await backend.tracer.close()


def _api_settings(settings: Settings) -> ApiSettings:
    from swell.sdk.pipeline import load_pipelines
    from swell.sdk.style_presets import load_styles

    pools = settings.pools
    return ApiSettings(
        **dict(settings),
        pipelines=_load_all("pipelines", settings.server.pipelines, load_pipelines),
        styles=_load_all("styles", settings.server.styles, load_styles),
        web_app=built_app(),
        hour_micros=_hour_micros(settings),
        launch_micros={name: pool.launch_micros for name, pool in pools.items()},
        least_billed_s={name: pool.least_billed_s for name, pool in pools.items()},
    )


NamedT = TypeVar("NamedT", Declared, Style)


def _load_all(
    setting: str, refs: Sequence[str], load: Callable[[str], list[NamedT]]
) -> tuple[NamedT, ...]:
    """Load all files of a setting; each name may occur once."""
    found = [each for ref in refs for each in load(ref)]
    names = [each.name for each in found]
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise InvalidModel(f"server.{setting}: {twice} is declared twice: name each once")
    return tuple(found)


def _hour_micros(settings: Settings) -> dict[str, int]:
    prices = {name: price.hour_micros for name, price in pool_prices(settings).items()}
    own, micros = settings.worker.pool, settings.pool.hour_micros
    return prices if own in settings.pools or micros is None else {own: micros, **prices}
