"""Builds a worker. Its model process starts before the imports of the worker itself."""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from swell.bootstrap.extras import Unusable
from swell.bootstrap.objects import compiled_folder, open_weights
from swell.bootstrap.storage import external_queues
from swell.bootstrap.tracing import open_tracer
from swell.core.clock import Clock, process_age_s
from swell.core.errors import InvalidRequest
from swell.net.tls_context import trusting
from swell.runtime.ipc_messages import Load, WeightLocations
from swell.runtime.model_process_client import ModelProcess, Origin
from swell.runtime.startup_timing import Beginning, Startups
from swell.runtime.venvs import Home
from swell.settings.load import Settings

if TYPE_CHECKING:
    from swell.protocol.worker_messages import Dispatch
    from swell.weights.cache import WeightCache
    from swell.weights.store_reader import Source
    from swell.worker.worker_loop import Worker


async def begin_worker(settings: Settings, clock: Clock, home: Home | None = None) -> Origin:
    """Start the model process of a worker, before everything that the worker itself imports.

    Args:
        settings: Its models, and the limits of its process.
        clock: The time.
        home: From `model_home`; None for Swell's own Python.

    Raises:
        InvalidRequest: The worker has no token.
    """
    _token(settings)
    chosen = settings.worker
    startups = Startups(
        clock,
        chosen.pool,
        chosen.device,
        Beginning(
            age_s=process_age_s(),
            asked_at=chosen.asked_at,
            pull_s=chosen.pull_s,
        ),
        chosen.instance,
    )
    home = home or Home()
    shelf = _shelf(settings)
    process = ModelProcess(home.python, variables=home.variables)
    process.begin(
        Load(
            list(chosen.models),
            chosen.device,
            chosen.device_memory_bytes,
            chosen.host_memory_bytes,
            list(chosen.optional),
            shelf,
        )
    )
    await process.is_asked.wait()
    provision = _begin_provision(settings, clock, startups)
    return Origin(process, home, startups, provision, shelf)


def build_worker(settings: Settings, clock: Clock, origin: Origin | None = None) -> "Worker":
    """Return a worker that talks to the backend over HTTP, not yet started.

    Args:
        settings: Its name, its models, and the URL of the backend.
        clock: The time.
        origin: From `begin_worker`, if its model process was started.

    Raises:
        InvalidRequest: The worker has no token.
    """
    from swell.worker.worker_loop import Worker

    name = worker_name(settings)
    worker = Worker(
        settings.worker.model_copy(update={"name": name}),
        _open_dispatch(settings),
        settings.worker.models,
        clock,
        weights=_weight_cache(settings),
        origin=origin or Origin(shelf=_shelf(settings)),
    )
    worker.traces.tracer = open_tracer(settings, "swell-worker", name)
    return worker


def worker_name(settings: Settings) -> str:
    """Return the name of the worker that this process is."""
    return settings.worker.name or f"{socket.gethostname()}-{os.getpid()}"


def _token(settings: Settings) -> str:
    token = settings.worker.token.get_secret_value()
    if not token:
        raise InvalidRequest(
            "a worker needs a key with the scope worker: --token, or SWELL_WORKER__TOKEN_FILE"
        )
    return token


def _open_dispatch(settings: Settings) -> "Dispatch":
    """Return the worker's connection to the backend, and to the external queues if it has some."""
    from swell.net.url_policy import UrlPolicy
    from swell.protocol.backend_client import RemoteDispatch

    chosen = settings.worker
    remote = RemoteDispatch(
        chosen.url.rstrip("/"),
        _token(settings),
        own_limit_bytes=chosen.max_file_bytes,
        policy=UrlPolicy.of(chosen.allow_private_urls, chosen.url_ports),
        tls=trusting(chosen.ca_file) if chosen.url.startswith("https:") else None,
    )
    if not chosen.broker:
        return remote
    from swell.queues.queue_consumer import PollingDispatch

    return PollingDispatch(remote, external_queues(chosen.broker, "worker.broker"))


def _weights_folder(settings: Settings) -> Path:
    return settings.worker.cache_dir or settings.data_dir / "weights"


def _weight_cache(settings: Settings) -> "WeightCache":
    from swell.weights.cache import WeightCache

    chosen = settings.worker
    return WeightCache(_weights_folder(settings), chosen.cache_bytes, below=chosen.baked_dir)


def _shelf(settings: Settings) -> WeightLocations:
    chosen = settings.worker
    return WeightLocations(
        str(_weights_folder(settings).absolute()),
        None if chosen.baked_dir is None else str(chosen.baked_dir.absolute()),
        _digests_in(chosen.weights_file),
        str(compiled_folder(settings).absolute()),
        chosen.compiled_bytes,
    )


def _digests_in(listings: Path | None) -> list[str]:
    """Return the digests in a list of weights, without importing the code that reads weights."""
    if listings is None:
        return []
    try:
        entries = json.loads(listings.read_bytes())
        return sorted({file["sha256"] for each in entries for file in each["files"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(
            f"{listings} has no list of weights ({error!r}): see worker.weights_file"
        ) from error


def _begin_provision(
    settings: Settings, clock: Clock, startups: Startups
) -> "asyncio.Task[None] | None":
    """Start to download pushed weights; None if everything is here."""
    from swell.worker.weight_prefetch import Provision, wishes_of

    chosen = settings.worker
    wishes = wishes_of(chosen.models, chosen.weights, chosen.weights_file)
    cache = _weight_cache(settings)
    if all(wish.is_in(cache) for wish in wishes):
        return None
    source = _weight_source(settings, clock)
    provision = Provision(wishes, cache, source, clock, tell=_log_weights)

    async def bring() -> None:
        with startups.fetching("bucket", lambda: provision.bytes > 0):
            await provision.bring()

    return asyncio.get_running_loop().create_task(bring())


def _weight_source(settings: Settings, clock: Clock) -> "Source":
    """Return the source of pushed weights: the store if the settings name it, or the backend."""
    from swell.weights.store_reader import BackendSource, StoreSource

    chosen = settings.worker
    if not settings.weights.url:
        return BackendSource(chosen.url, _token(settings), trusting(chosen.ca_file))
    return StoreSource(open_weights(settings, clock))


def _log_weights(event: str, **facts: object) -> None:
    import structlog

    structlog.get_logger("swell.worker").info(event, **facts)
