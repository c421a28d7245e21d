"""Builds the backend: everything that the HTTP service uses, opened."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from swell.addresses.urls import UrlPolicy
from swell.api.settings import ApiSettings, Backend, Retention, WebhookSettings
from swell.api.web import built_app
from swell.bootstrap.objects import open_objects, open_weights
from swell.bootstrap.storage import external_queues, is_shared, open_bus, open_database
from swell.bootstrap.tracing import open_tracer
from swell.clock import Clock
from swell.errors import InvalidModel
from swell.money.pool_prices import pool_prices
from swell.registry import KeyLimits
from swell.sdk.pipeline_cards import Declared
from swell.sdk.style_presets import Style
from swell.settings.backend import LogSettings, RetentionSettings, WebhooksSettings
from swell.settings.load import Settings
from swell.signing import SigningSecrets, read_secrets


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
    database = await open_database(settings, clock)
    publisher = None
    try:
        if settings.broker.url:
            from swell.brokers.publisher import QueuePublisher

            publisher = QueuePublisher(external_queues(settings.broker.url), database.broker)
        signing = SigningSecrets(clock, await read_secrets(database.registry))
        objects = await open_objects(settings, clock, signing)
        bus = await open_bus(settings, clock)
    except BaseException:
        await database.store.close()
        raise
    return Backend(
        store=database.store,
        broker=database.broker,
        publisher=publisher,
        bus=bus,
        objects=objects,
        registry=database.registry,
        outbox=database.outbox,
        clock=clock,
        settings=_api_settings(settings),
        launchable=launchable,
        is_shared=is_shared(settings),
        signing=signing,
        weights=open_weights(settings, clock, secret=signing) if settings.weights.url else None,
        tracer=open_tracer(settings, clock, "swell-backend"),
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

    server, delivery, limits = settings.server, settings.delivery, settings.limits
    return ApiSettings(
        public_url=server.public_url,
        hosts=server.hosts,
        cors_origins=server.cors_origins,
        facades=server.facades,
        model_aliases=server.model_aliases,
        pipelines=_load_all("pipelines", server.pipelines, load_pipelines),
        upload_types=server.upload_types,
        limits=KeyLimits(
            rate_per_s=limits.rate_per_s,
            burst=limits.burst,
            tasks_in_flight=limits.tasks_in_flight,
            tasks_per_day=limits.tasks_per_day,
            streams=limits.streams,
        ),
        guest_tasks=limits.guest_tasks,
        classes=dict(settings.admission.classes),
        sample_micros=settings.admission.sample_micros,
        max_body_bytes=server.max_body_bytes,
        max_upload_bytes=server.max_upload_bytes,
        max_artifact_bytes=server.max_artifact_bytes,
        max_prefer_s=server.max_wait_s,
        keepalive_s=server.keepalive_s,
        signed_url_s=server.signed_url_s,
        lease_s=delivery.lease_s,
        heartbeat_s=delivery.heartbeat_s,
        max_wait_s=delivery.worker_wait_s,
        sweep_every_s=delivery.sweep_every_s,
        repair_every_s=settings.broker.repair_s,
        serve_files=settings.objects.serve,
        retention=_retention(settings.retention),
        hour_micros=_hour_micros(settings),
        launch_micros={name: pool.launch_micros for name, pool in settings.pools.items()},
        least_billed_s={name: pool.least_billed_s for name, pool in settings.pools.items()},
        api_image_micros=settings.costs.api_image_micros,
        budget_day_micros=settings.costs.budget_day_micros,
        budget_month_micros=settings.costs.budget_month_micros,
        uploads_s=_uploads_s(settings),
        log_requests=log_requests(settings.log),
        shows_trace=settings.telemetry.in_tasks,
        webhooks=_webhook_settings(settings.webhooks),
        styles=_load_all("styles", server.styles, load_styles),
        web_app=built_app(),
    )


def _webhook_settings(settings: WebhooksSettings) -> WebhookSettings:
    return WebhookSettings(
        urls=UrlPolicy.of(settings.allow_private_urls, settings.url_ports, "webhooks"),
        schedule_s=settings.schedule_s,
        timeout_s=settings.timeout_s,
        at_once=settings.at_once,
        per_receiver=settings.per_receiver,
        log_s=settings.log_s,
        endpoints=settings.endpoints,
    )


NamedT = TypeVar("NamedT", Declared, Style)


def _load_all(
    setting: str, refs: Sequence[str], load: Callable[[str], list[NamedT]]
) -> tuple[NamedT, ...]:
    """Load all files of a setting; each name may occur once."""
    found = [each for ref in refs for each in load(ref)]
    names = [each.name for each in found]
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise InvalidModel(f"server.{setting}: two files declare {twice}: name each once")
    return tuple(found)


def _retention(settings: RetentionSettings) -> tuple[Retention, ...]:
    classes = [
        Retention(each.models, each.inputs_s, each.outputs_s, each.tasks_s)
        for each in settings.classes.values()
    ]
    others = Retention(None, settings.inputs_s, settings.outputs_s, settings.tasks_s)
    return (*classes, others)


def _hour_micros(settings: Settings) -> dict[str, int]:
    prices = {name: price.hour_micros for name, price in pool_prices(settings).items()}
    own, micros = settings.worker.pool, settings.pool.hour_micros
    return prices if own in settings.pools or micros is None else {own: micros, **prices}


def _uploads_s(settings: Settings) -> float | None:
    """Return the age at which unused uploads are deleted: tasks can use them until URLs expire."""
    uploads_s = settings.retention.uploads_s
    return None if uploads_s is None else max(uploads_s, settings.server.signed_url_s)


def log_requests(settings: LogSettings) -> Literal["off", "debug", "info"]:
    """Return the level of the lines about requests; `off` if the log leaves that level out."""
    level = settings.requests
    if level == "off" or getattr(logging, level.upper()) < getattr(logging, settings.level.upper()):
        return "off"
    return level
