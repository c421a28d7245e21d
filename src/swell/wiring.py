"""Settings → adapters → engines: the only place where they meet.

Adapters are imported where they are chosen, so that a client command does not load a database.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from swell.addresses.trust import trusting
from swell.client.access import read_access
from swell.clock import Clock, process_age_s, since_boot_s
from swell.config import (
    LogSettings,
    ObjectsSettings,
    PoolTable,
    RetentionSettings,
    Settings,
    WebhooksSettings,
    environment_of,
    hide_secrets,
    process_environment,
    texts_of,
)
from swell.errors import Conflict, InvalidModel, InvalidRequest, SwellError, Unavailable
from swell.provider import Instance, LaunchRequest
from swell.registry import KeyLimits
from swell.retry import RetryPolicy
from swell.signing import SigningSecrets, read_secrets
from swell.telemetry import request_id

if TYPE_CHECKING:
    from swell.api.settings import ApiSettings, Backend, Retention, WebhookSettings
    from swell.autoscaler.keeper import Keeper
    from swell.brokers.external import ExternalQueues
    from swell.brokers.table import Broker
    from swell.bus import Bus
    from swell.db.deliveries import Outbox
    from swell.db.registry import Registry
    from swell.dispatch import Dispatch
    from swell.object_stores.bucket import BucketObjects
    from swell.object_stores.signing import Secret
    from swell.objects import Objects
    from swell.pipeline_cards import Declared
    from swell.provider import Provider
    from swell.providers.process import ProcessProvider
    from swell.stores.tasks import Store, TaskDatabase
    from swell.styles import Style
    from swell.telemetry import Tracer
    from swell.weights.cache import WeightCache
    from swell.weights.compiled import CompiledCache
    from swell.weights.compiled_fetch import ProgramSource
    from swell.weights.gather import Terms
    from swell.weights.signing import Trusted
    from swell.weights.store import WeightStore
    from swell.weights.wishing import Wishing
    from swell.worker.engine import Worker
    from swell.worker.environments import Environments
    from swell.worker.frames import Shelf
    from swell.worker.run import Home, Origin
    from swell.worker.startups import Startups
    from swell.worker.warm import Forks

__all__ = [
    "AlreadyRunning",
    "DataLock",
    "Fleet",
    "Unusable",
    "back_up",
    "begin_worker",
    "build_backend",
    "build_fleet",
    "build_worker",
    "close_backend",
    "configure_logging",
    "external_queues",
    "is_shared",
    "model_home",
    "open_bus",
    "open_compiled",
    "open_objects",
    "open_tracer",
    "open_weights",
    "provider_of",
    "schema_of_store",
    "self_signed_cert",
    "sqlite_version",
    "store_file",
    "upgrade_store",
    "weights_url",
    "why_spans_are_refused",
    "worker_environment",
    "worker_name",
]

#: What another backend has begun to write in a shared folder is let be for so long, in seconds.
_INCOMING_S: Final = 24 * 3600.0

#: How URLs of PostgreSQL begin.
_POSTGRES: Final = ("postgresql:", "postgres:")

#: What the workers of `swell up` are told of its settings, by groups and one by one.
_WORKERS_GROUPS: Final = ("worker", "log", "telemetry")
_WORKERS_KEYS: Final = ("data_dir",)

#: But not these: each worker has a name of its own, and none asks a hub (`swell models pull` does).
#: A file for the health of one worker is no other's.
_NOT_FOR_WORKERS: Final = (
    "worker.name",
    "worker.instance",
    "worker.hub_url",
    "worker.hub_token",
    "worker.health_file",
)


#: Nor what is told of the start of one process.
_OF_ONE_START: Final = ("worker.asked_at", "worker.began_boot_s", "worker.pull_s")


class Unusable(InvalidRequest):
    """A folder or file that a setting names cannot be used; the text says what to do."""

    code, title = "unusable", "A setting names what cannot be used"


class AlreadyRunning(Conflict):
    """A backend runs on this data folder.

    Args:
        pid: Its process, as text.
        data_dir: The folder.
    """

    title = "Swell is already running"

    def __init__(self, pid: str, data_dir: Path) -> None:
        left = read_access(data_dir)
        where = f", {left.url}" if left is not None and left.url else ""
        super().__init__(
            f"Swell is already running in this folder (pid {pid}{where}). Stop it with Ctrl-C, or "
            "start a second one: --data other --port 0"
        )


class DataLock:
    """Held by the one backend of a data folder; the kernel lets go of it when the process dies."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "backend.lock"
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            Conflict: Another backend has it.
            Unusable: There can be no such folder, or nothing can be written in it.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._hold(descriptor)
        except OSError as error:
            raise Unusable(
                f"the data folder {self._path.parent} cannot be used ({error.strerror}): choose "
                "one that can be written with --data, or the setting data_dir"
            ) from error

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(holder, self._path.parent) from None
        self._descriptor = descriptor
        # In this order: a full disk would not take what was let go of before.
        os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0))

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def build_backend(
    settings: Settings, clock: Clock, *, launchable: Callable[[], list[str]] = list
) -> "Backend":
    """Return everything that the HTTP service stands on, opened.

    Args:
        settings: Which adapters, and their numbers.
        clock: For all of them.
        launchable: Names the models for which a worker could be started.

    Raises:
        InvalidRequest: A URL names no known adapter.
        Unusable: What it names cannot be opened.
        Conflict: The database is open elsewhere.
    """
    from swell.api.settings import Backend

    store, broker, registry, outbox = await _open_store(settings, clock)
    try:
        queues = external_queues(settings)
        signing = SigningSecrets(clock, await read_secrets(registry))
        objects = await open_objects(settings, clock, signing)
        bus = await open_bus(settings, clock)
    except BaseException:
        await store.close()
        raise
    publisher = None
    if queues is not None:
        from swell.brokers.publisher import QueuePublisher

        publisher = QueuePublisher(queues, broker)
    return Backend(
        store=store,
        broker=broker,
        publisher=publisher,
        bus=bus,
        objects=objects,
        registry=registry,
        outbox=outbox,
        clock=clock,
        settings=_api_settings(settings),
        launchable=launchable,
        is_shared=is_shared(settings),
        signing=signing,
        weights=open_weights(settings, clock, secret=signing) if settings.weights.url else None,
        tracer=open_tracer(settings, clock, "swell-backend"),
    )


async def close_backend(backend: "Backend") -> None:
    """Close what `build_backend` opened; the store last, since it commits what is waiting."""
    await backend.bus.close()
    if backend.publisher is not None:
        await backend.publisher.close()
    await backend.broker.close()
    await backend.store.close()
    if backend.tracer is not None:
        await backend.tracer.close()


def open_tracer(
    settings: Settings, clock: Clock, service: str, instance: str = ""
) -> "Tracer | None":
    """Return what takes spans to a collector; None where no traces are wanted.

    Args:
        settings: Where the collector is.
        clock: The time.
        service: What this process is.
        instance: Which of them; empty for host name and process id.

    Raises:
        Unusable: The extra is not installed.
        InvalidRequest: The endpoint cannot be one.
    """
    chosen = settings.telemetry
    if not chosen.endpoint:
        return None
    with _installed("telemetry", "telemetry.endpoint"):
        from swell.tracers.otlp import OtlpTracer

    instance = instance or f"{socket.gethostname()}-{os.getpid()}"
    return OtlpTracer(
        chosen.endpoint, clock, sample=chosen.sample, service=service, instance=instance
    )


async def why_spans_are_refused(settings: Settings) -> str:
    """Return why the collector takes no spans; nothing where it would, or where none are wanted.

    Raises:
        Unusable: The extra is not installed.
        InvalidRequest: The endpoint cannot be one.
    """
    if not settings.telemetry.endpoint:
        return ""
    with _installed("telemetry", "telemetry.endpoint"):
        from swell.tracers.otlp import why_refused
    return await why_refused(settings.telemetry.endpoint)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of `swell up`."""

    provider: "ProcessProvider"
    #: One for all models that can share a process, and one for each environment that others need.
    keepers: "Sequence[Keeper]"
    #: Models whose environment is not there yet, which may take minutes.
    making: Sequence[str] = ()

    async def run(self) -> None:
        """Start workers whenever some are missing, until `drain` is called."""
        if not self.keepers:
            await asyncio.Event().wait()
        await asyncio.gather(*(keeper.run() for keeper in self.keepers))

    async def drain(self, grace_s: float) -> list[str]:
        """Start no more, ask all to end, and return their ids. May be repeated to hurry."""
        return [each for keeper in self.keepers for each in await keeper.drain(grace_s)]


def build_fleet(
    settings: Settings, clock: Clock, *, url: str, token: str, on_end: Callable[[Instance], None]
) -> Fleet:
    """Return the local workers of one machine, not yet started.

    Models that need an environment of their own have workers of their own, as many as the others.

    Args:
        settings: How many, and which models they serve.
        clock: For the keeper's waits.
        url: Where the backend is.
        token: API key with the scope `worker`.
        on_end: Told of each worker that ended unasked.
    """
    from swell.autoscaler.keeper import Keeper
    from swell.providers.process import ProcessProvider
    from swell.worker.needs import parted

    provider = ProcessProvider(
        clock,
        settings.data_dir / "logs",
        process_environment(without_settings=True),
        boot_delay_s=settings.pool.boot_delay_s,
    )
    parts = parted(settings.worker.models) if settings.pool.workers else []
    environments = _environments(settings)
    making = [ref for part in parts if not environments.is_there(part.needs) for ref in part.refs]
    keepers = []
    for number, part in enumerate(parts):
        # To the backend they are one pool; here each is counted by itself.
        name = f"{settings.worker.pool}-{number}" if number else settings.worker.pool
        request = LaunchRequest(
            pool=name,
            command=(sys.executable, "-m", "swell", "worker"),
            environment=worker_environment(settings, part.refs, url, token),
        )
        keepers.append(
            Keeper(
                provider,
                pool=name,
                wanted=settings.pool.workers,
                request=partial(_same, request),
                clock=clock,
                on_end=on_end,
            )
        )
    return Fleet(provider=provider, keepers=keepers, making=making)


def _same(request: LaunchRequest) -> LaunchRequest:
    return request


def provider_of(name: str, pool: PoolTable, settings: Settings, clock: Clock) -> "Provider":
    """Return who launches the workers of a pool.

    Args:
        name: Of the pool, which stands in errors.
        pool: Which provider it has, and what that is told.
        settings: The deployment's name, and where data lies.
        clock: The time.

    Raises:
        InvalidRequest: There is no such provider, it is told what it does not know, or what it
            needs is not installed.
    """
    from swell.providers import factory

    if pool.provider in _PROVIDERS:
        return _PROVIDERS[pool.provider](name, pool, settings, clock)
    return factory.provider_of(
        pool.provider,
        pool.options,
        clock,
        deployment=settings.autoscale.deployment,
        where=f"pools.{name}.options",
        spot=pool.is_spot,
    )


def _processes(name: str, pool: PoolTable, settings: Settings, clock: Clock) -> "Provider":
    from swell.providers.detached import DetachedProvider
    from swell.providers.options import checked
    from swell.providers.process import ProcessOptions, ProcessProvider
    from swell.providers.rehearsal import RehearsalProvider

    options = checked(ProcessOptions, pool.options, f"pools.{name}.options")
    environment = process_environment(without_settings=True)
    folder = settings.data_dir / "logs" / name
    provider: Provider
    if options.outlives:
        provider = DetachedProvider(
            clock,
            folder,
            environment,
            deployment=settings.autoscale.deployment,
            boot_delay_s=options.boot_delay_s,
        )
    else:
        provider = ProcessProvider(clock, folder, environment, boot_delay_s=options.boot_delay_s)
    if options.rehearsal is None:
        return provider
    return RehearsalProvider(provider, options.rehearsal, clock)


#: Name → what opens a provider for a pool: its name, its table, all settings, and the clock.
_PROVIDERS: Final[Mapping[str, Callable[[str, PoolTable, Settings, Clock], "Provider"]]] = {
    "process": _processes,
}


def model_home(
    settings: Settings, refs: Sequence[str], tell: Callable[[str], None] = lambda line: None
) -> "Home":
    """Return which Python runs these models, in an environment that is made if need be. Blocks.

    Args:
        settings: Where environments lie, and from what they are installed.
        refs: Models, as `load_models` takes them.
        tell: Called with a line for people before something takes long.

    Raises:
        InvalidRequest: They do not go into one process.
        EnvironmentFailed: What one of them needs cannot be had.
    """
    from swell.worker.needs import parted
    from swell.worker.run import Home

    parts = parted(refs)
    if len(parts) > 1:
        told = "; ".join(f"--models {','.join(part.refs)}" for part in parts)
        raise InvalidRequest(
            "these models need different environments, and a worker has one: start a worker for "
            f"each ({told}), or use `swell up`, which does"
        )
    if not parts or not parts[0].needs:
        return Home()
    environments = _environments(settings)
    python = environments.python(parts[0].needs, ", ".join(refs), tell)
    return Home(python, environments.variables(python))


def _environments(settings: Settings) -> "Environments":
    from swell.worker.environments import Environments

    return Environments(
        settings.worker.environments_dir or settings.data_dir / "environments",
        process_environment(),
        settings.worker.wheels_dir,
    )


async def begin_worker(settings: Settings, clock: Clock, home: "Home | None" = None) -> "Origin":
    """Have the model process of a worker started, before all that the worker itself imports.

    Args:
        settings: Its models, and what it must know.
        clock: The time.
        home: Of `model_home`; None for Swell's own Python.

    Raises:
        InvalidRequest: It has no token.
    """
    from swell.worker.frames import Load
    from swell.worker.run import Home, ModelProcess, Origin
    from swell.worker.startups import Beginning, Startups

    _token(settings)
    chosen = settings.worker
    startups = Startups(
        clock,
        chosen.pool,
        chosen.device,
        Beginning(
            age_s=process_age_s(),
            asked_at=chosen.asked_at,
            container_age_s=_container_age_s(chosen.began_boot_s),
            pull_s=chosen.pull_s,
        ),
        chosen.instance,
    )
    home = home or Home()
    forks = None if home.is_own else _forks(settings, clock)
    if forks is not None:
        forks.begin()
    process = ModelProcess(home.python, forks=forks, variables=home.variables)
    # Before the process may look for them.
    promise = _promise_programs(settings)
    process.begin(
        Load(
            list(chosen.models),
            chosen.device,
            chosen.device_memory_bytes,
            chosen.host_memory_bytes,
            list(chosen.optional),
            _shelf(settings),
        )
    )
    await process.is_asked.wait()
    provision = _begin_provision(settings, clock, startups, home, promise)
    return Origin(forks, process, home, startups, provision)


def _container_age_s(began_boot_s: float | None) -> float | None:
    now_s = since_boot_s()
    return None if began_boot_s is None or now_s is None else now_s - began_boot_s


def _promise_programs(settings: Settings) -> "_Promise | None":
    """Tell model processes that compiled programs may come; None where none will.

    Raises:
        InvalidRequest: One of `worker.compiled_keys` is no public key.
    """
    if not settings.worker.compiled_keys:
        return None
    from swell.weights.compiled import ANY

    try:
        from swell.weights.signing import Trusted
    except ImportError:
        why = "signatures need an extra: pip install 'swell[compiled]'"
        _tell_of_weights("compiled programs cannot be had", why=why)
        return None
    try:
        trusted = Trusted(settings.worker.compiled_keys)
    except InvalidRequest as error:
        raise InvalidRequest(f"worker.compiled_keys: {error.detail}") from error
    try:
        wishing = open_compiled(settings).wishing()
        wishing.tell([ANY])
    except (SwellError, OSError) as error:
        why = error.detail if isinstance(error, SwellError) else str(error)
        _tell_of_weights("compiled programs cannot be had", why=why)
        return None
    return _Promise(trusted, wishing)


@dataclass(frozen=True, slots=True)
class _Promise:
    """That compiled programs will be looked for, if somebody who is trusted has signed them."""

    trusted: "Trusted"
    wishing: "Wishing"


def _begin_provision(
    settings: Settings,
    clock: Clock,
    startups: "Startups",
    home: "Home",
    promise: "_Promise | None",
) -> "asyncio.Task[None] | None":
    """Have brought what was pushed; None where nothing is wanted that is not here."""
    from swell.worker.provision import Provision, wishes_of

    chosen = settings.worker
    wishes = wishes_of(chosen.models, chosen.weights, chosen.weights_file)
    cache = _weight_cache(settings)
    if promise is None and all(wish.is_in(cache) for wish in wishes):
        return None
    source, terms = _weight_source(settings, clock)
    provision = Provision(wishes, cache, source, clock, terms=terms, tell=_tell_of_weights)

    async def bring() -> None:
        beside = [] if promise is None else [asyncio.create_task(bring_programs(promise))]
        try:
            with startups.fetching("bucket", lambda: provision.bytes > 0):
                await provision.bring()
            await asyncio.gather(*beside)
        finally:
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def bring_programs(promise: "_Promise") -> None:
        from swell.worker.programs import Here, Programs, this_machine

        programs = Programs(
            wishes,
            Here(
                cache,
                open_compiled(settings),
                this_machine(settings.worker.device, is_own_python=home.is_own),
                promise.trusted,
                settings.worker.compiled_wait_s,
            ),
            source,
            clock,
            wishing=promise.wishing,
            terms=terms,
            tell=_tell_of_weights,
        )
        await programs.bring()

    return asyncio.get_running_loop().create_task(bring())


def _tell_of_weights(event: str, **facts: object) -> None:
    import structlog

    structlog.get_logger("swell.worker").info(event, **facts)


def _weight_cache(settings: Settings) -> "WeightCache":
    from swell.weights.cache import WeightCache

    chosen = settings.worker
    folder = chosen.cache_dir or settings.data_dir / "weights"
    return WeightCache(folder, chosen.cache_bytes, below=chosen.baked_dir)


def _shelf(settings: Settings) -> "Shelf":
    from swell.worker.frames import Shelf

    chosen = settings.worker
    folder = chosen.cache_dir or settings.data_dir / "weights"
    baked = None if chosen.baked_dir is None else str(chosen.baked_dir.absolute())
    return Shelf(
        str(folder.absolute()),
        baked,
        _contents(chosen.weights_file),
        str(_compiled_dir(settings).absolute()),
        chosen.compiled_bytes,
    )


def _compiled_dir(settings: Settings) -> Path:
    return settings.worker.compiled_dir or settings.data_dir / "compiled"


def open_compiled(settings: Settings) -> "CompiledCache":
    """Return where this machine's workers keep what they compile."""
    from swell.weights.compiled import CompiledCache

    return CompiledCache(_compiled_dir(settings), settings.worker.compiled_bytes)


def _contents(listings: Path | None) -> list[str]:
    """Return the digests that a list of weights names, without what reads weights."""
    if listings is None:
        return []
    try:
        told = json.loads(listings.read_bytes())
        return sorted({entry["sha256"] for each in told for entry in each["files"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(
            f"{listings} has no list of weights ({error!r}): see worker.weights_file"
        ) from error


def _weight_source(settings: Settings, clock: Clock) -> "tuple[ProgramSource, Terms]":
    """Return who has pushed weights: the store itself where it is named, or the backend."""
    from swell.weights.gather import Terms
    from swell.weights.sources import BackendSource, StoreSource

    chosen = settings.worker
    terms = Terms(trust=trusting(chosen.ca_file))
    if not settings.weights.url:
        return BackendSource(chosen.url, _token(settings), terms.trust), terms
    return StoreSource(open_weights(settings, clock)), terms


def open_weights(
    settings: Settings, clock: Clock, url: str = "", *, secret: "Secret | None" = None
) -> "WeightStore":
    """Return where pushed weights are, without a look whether it is there.

    Args:
        settings: What opens it.
        clock: The time.
        url: Where it is; empty for `weights.url`, or else among the files of the backend.
        secret: Of a backend, which serves what lies in a folder by URLs that this signs; None for
            whoever reads that folder.

    Raises:
        InvalidRequest: The URL names no known adapter, or one that is not installed.
    """
    from swell.weights.store import WeightStore

    place = _weights_place(settings, url)
    signer = secret or os.urandom(32)
    if place.root is not None:
        from swell.object_stores.folder import FolderObjects

        root = None if secret else place.root
        return WeightStore(FolderObjects(place.root, clock, signer), place.folder, root)
    bucket = _bucket(place.url, place.opening, clock, signer, place.setting)
    return WeightStore(bucket, place.folder)


def weights_url(settings: Settings, url: str = "") -> str:
    """Return the whole address of where pushed weights are, for people: without secrets.

    Args:
        settings: As for `open_weights`.
        url: As for `open_weights`.

    Raises:
        InvalidRequest: It is none.
    """
    place = _weights_place(settings, url)
    told = place.url.rstrip("/") if place.root is None else f"file:{place.root}"
    told = "/".join(filter(None, (told, place.folder)))
    endpoint = "" if place.root is not None else place.opening.endpoint
    return hide_secrets(f"{told} at {endpoint}" if endpoint else told)


@dataclass(frozen=True, slots=True)
class _WeightsPlace:
    """Where pushed weights are: below `folder` of a URL that `setting` gave, opened by that."""

    url: str
    setting: str
    opening: ObjectsSettings
    folder: str = ""

    @property
    def root(self) -> Path | None:
        """The folder of this machine that the URL names; None for one of a bucket."""
        if urlsplit(self.url).scheme != "file":
            return None
        return Path(self.url.removeprefix("file:").removeprefix("//")).absolute()


def _weights_place(settings: Settings, url: str) -> _WeightsPlace:
    chosen = settings.weights
    if url or chosen.url:
        setting = "--to" if url else "weights.url"
        opening = ObjectsSettings(
            endpoint=chosen.endpoint,
            region=chosen.region,
            key_id=chosen.key_id,
            secret=chosen.secret,
        )
        place = _WeightsPlace(url or chosen.url, setting, opening)
    else:
        home = settings.objects.url or f"file:{settings.data_dir / 'objects'}"
        place = _WeightsPlace(home, "objects.url", settings.objects, "weights")
    with contextlib.suppress(ValueError):
        if urlsplit(place.url).scheme in ("file", "s3", "gs", "az"):
            return place
    raise InvalidRequest(
        f"{place.setting} {place.url!r}: use file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
        "az://ACCOUNT/CONTAINER/PREFIX"
    )


def _token(settings: Settings) -> str:
    token = settings.worker.token.get_secret_value()
    if not token:
        raise InvalidRequest(
            "a worker needs a key with the scope worker: --token, or SWELL_WORKER__TOKEN_FILE"
        )
    return token


def _forks(settings: Settings, clock: Clock) -> "Forks":
    from swell.worker.warm import Forks, ForksSettings

    chosen = settings.worker
    return Forks(
        ForksSettings(settings.data_dir / "warm", chosen.preload, chosen.warm_s),
        chosen.models,
        process_environment(),
        clock,
    )


def build_worker(settings: Settings, clock: Clock, origin: "Origin | None" = None) -> "Worker":
    """Return a worker that talks to the backend over HTTP, not yet started.

    Args:
        settings: Its name, its models, and where the backend is.
        clock: The time.
        origin: Of `begin_worker`, if its model process was begun.

    Raises:
        InvalidRequest: It has no token.
    """
    from swell.worker.engine import Worker
    from swell.worker.run import Origin
    from swell.worker.settings import WorkerSettings

    chosen = settings.worker
    token = _token(settings)
    origin = origin or Origin(_forks(settings, clock))
    name = worker_name(settings)
    worker = Worker(
        WorkerSettings(
            name=name,
            pool=chosen.pool,
            stage=chosen.stage,
            device=chosen.device,
            device_memory_bytes=chosen.device_memory_bytes,
            host_memory_bytes=chosen.host_memory_bytes,
            optional=chosen.optional,
            slots=chosen.slots,
            host=socket.gethostname(),
            instance=chosen.instance,
            picture_format=chosen.picture_format,
            exact=chosen.batching == "exact",
            encode_processes=chosen.encode_processes,
            fetch_limit_bytes=chosen.max_file_bytes,
            lora_limit_bytes=chosen.max_lora_bytes,
            cancel_grace_s=chosen.cancel_grace_s,
            run_limit_s=chosen.run_limit_s,
            drain_s=chosen.drain_s,
            killed_after_s=chosen.killed_after_s,
            handover_s=chosen.handover_s,
            give_up_s=chosen.give_up_s or None,
            python=origin.home.python,
            variables=origin.home.variables,
            shelf=_shelf(settings),
        ),
        _open_dispatch(settings, clock, token),
        chosen.models,
        clock,
        curves=settings.data_dir / "curves",
        weights=_weight_cache(settings),
        origin=origin,
    )
    worker.traces.tracer = open_tracer(settings, clock, "swell-worker", name)
    return worker


def worker_name(settings: Settings) -> str:
    """Return what operators call the worker that this process is."""
    return settings.worker.name or f"{socket.gethostname()}-{os.getpid()}"


def configure_logging(settings: LogSettings, *, worker: str | None = None) -> None:
    """Send the log to stderr, one line an event, without anything that opens something.

    Args:
        settings: How it looks, and what is left out.
        worker: Name of the worker that this process is, for each of its lines.
    """
    import structlog

    level = getattr(logging, settings.level.upper())
    # Tracebacks without local values: these hold keys, and what users have sent.
    rendered: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.json_lines
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    before: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        partial(_with_context, worker),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendered,
                _without_secrets,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What it says of starting and stopping is told better by the commands.
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))
    # Broken forms are the sender's to hear of.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _with_context(
    worker: str | None, logger: Any, name: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add who tells a line, and which request it is about, if any."""
    if worker is not None:
        line.setdefault("worker", worker)
    if asked := request_id.get():
        line.setdefault("request_id", asked)
    return line


def _without_secrets(logger: Any, name: str, line: MutableMapping[str, Any] | str) -> str:
    """Return a rendered line without keys: a library's text may quote a header or a URL."""
    return hide_secrets(str(line))


def self_signed_cert(settings: Settings) -> Path:
    """Return where the certificate for trials lies, which is trusted by its file."""
    return settings.data_dir / "tls" / "cert.pem"


def _api_settings(settings: Settings) -> "ApiSettings":
    from swell.api.settings import ApiSettings
    from swell.api.web import built_app

    server, delivery = settings.server, settings.delivery
    return ApiSettings(
        public_url=server.public_url,
        hosts=server.hosts,
        cors_origins=server.cors_origins,
        facades=server.facades,
        model_aliases=server.model_aliases,
        pipelines=_pipelines(server.pipelines),
        upload_types=server.upload_types,
        limits=KeyLimits(
            rate_per_s=settings.limits.rate_per_s,
            burst=settings.limits.burst,
            tasks_in_flight=settings.limits.tasks_in_flight,
            tasks_per_day=settings.limits.tasks_per_day,
            streams=settings.limits.streams,
        ),
        guest_tasks=settings.limits.guest_tasks,
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
        log_requests=_log_requests(settings.log),
        shows_trace=settings.telemetry.in_tasks,
        webhooks=_webhook_settings(settings.webhooks),
        styles=_styles(server.styles),
        web_app=built_app(),
    )


def _webhook_settings(settings: WebhooksSettings) -> "WebhookSettings":
    from swell.addresses.urls import UrlPolicy
    from swell.api.settings import WebhookSettings

    return WebhookSettings(
        urls=UrlPolicy.of(settings.allow_private_urls, settings.url_ports, "webhooks"),
        schedule_s=settings.schedule_s,
        timeout_s=settings.timeout_s,
        at_once=settings.at_once,
        per_receiver=settings.per_receiver,
        log_s=settings.log_s,
        endpoints=settings.endpoints,
    )


def _pipelines(refs: Sequence[str]) -> "tuple[Declared, ...]":
    """Return the pipelines that files declare."""
    if not refs:
        return ()
    from swell.pipeline import load_pipelines

    found = [declared for ref in refs for declared in load_pipelines(ref)]
    names = [each.name for each in found]
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise InvalidModel(f"server.pipelines: two files declare {twice}: name each once")
    return tuple(found)


def _styles(refs: Sequence[str]) -> "tuple[Style, ...]":
    """Return the styles that files hold."""
    from swell.styles import load_styles

    found = [style for ref in refs for style in load_styles(ref)]
    names = [each.name for each in found]
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise InvalidModel(f"server.styles: two files hold {twice}: name each once")
    return tuple(found)


def _retention(settings: RetentionSettings) -> "tuple[Retention, ...]":
    """Return how long tasks are kept: those of each class, and all others."""
    from swell.api.settings import Retention

    classes = [
        Retention(each.models, each.inputs_s, each.outputs_s, each.tasks_s)
        for each in settings.classes.values()
    ]
    others = Retention(None, settings.inputs_s, settings.outputs_s, settings.tasks_s)
    return (*classes, others)


def _hour_micros(settings: Settings) -> dict[str, int]:
    from swell.money.pool_prices import pool_prices

    prices = {name: price.hour_micros for name, price in pool_prices(settings).items()}
    own, micros = settings.worker.pool, settings.pool.hour_micros
    return prices if own in settings.pools or micros is None else {own: micros, **prices}


def _uploads_s(settings: Settings) -> float | None:
    """Return how long unused uploads are kept: a task may name one until its URL has expired."""
    uploads_s = settings.retention.uploads_s
    return None if uploads_s is None else max(uploads_s, settings.server.signed_url_s)


def _log_requests(settings: LogSettings) -> Literal["off", "debug", "info"]:
    """Return how requests are logged: not at all where their lines would be left out."""
    level = settings.requests
    if level == "off" or getattr(logging, level.upper()) < getattr(logging, settings.level.upper()):
        return "off"
    return level


def _open_dispatch(settings: Settings, clock: Clock, token: str) -> "Dispatch":
    """Return a worker's way to the backend, and perhaps to the queues."""
    from swell.addresses.urls import UrlPolicy
    from swell.brokers.remote import RemoteDispatch

    chosen = settings.worker
    remote = RemoteDispatch(
        chosen.url.rstrip("/"),
        token,
        own_limit_bytes=chosen.max_file_bytes,
        policy=UrlPolicy.of(chosen.allow_private_urls, chosen.url_ports),
        tls=trusting(chosen.ca_file) if chosen.url.startswith("https:") else None,
    )
    if not chosen.broker:
        return remote
    from swell.brokers.consumer import PollingDispatch

    return PollingDispatch(remote, _open_queues(chosen.broker, "worker.broker"))


def external_queues(settings: Settings) -> "ExternalQueues | None":
    """Return a new connection to the service of `broker.url`; None without one.

    Raises:
        InvalidRequest: See `build_backend`.
    """
    url = settings.broker.url
    return _open_queues(url, "broker.url") if url else None


def _open_queues(url: str, setting: str) -> "ExternalQueues":
    """Return the queues of a service. They connect when they are first used.

    Raises:
        InvalidRequest: The URL names no known adapter, or its client library is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("nats", "tls"):
        with _installed("nats", setting):
            from swell.brokers.nats import NatsQueues
        return NatsQueues(url)
    if scheme == "sqs":
        with _installed("sqs", setting):
            from swell.brokers.sqs import SqsQueues
        return SqsQueues(url)
    raise InvalidRequest(
        f"{setting} {url.partition(':')[0]!r}: use nats://HOST:PORT/NAME or sqs://REGION/PREFIX"
    )


async def _open_store(settings: Settings, clock: Clock) -> "tuple[Store, Broker, Registry, Outbox]":
    url = settings.store.url or f"sqlite:///{settings.data_dir / 'swell.db'}"
    delivery = settings.delivery
    policy = RetryPolicy(base_s=delivery.backoff_base_s, cap_s=delivery.backoff_cap_s)
    if url.startswith("sqlite:///"):
        from swell.stores.sqlite import SqliteDatabase

        path = Path(url.removeprefix("sqlite:///"))
        with _explained(f"the database {path}", "store.url or data_dir"):
            return _on_database(SqliteDatabase.open(path, clock), policy)
    if url.startswith(_POSTGRES):
        with _installed("postgres", "store.url"):
            from swell.stores.postgres import PostgresDatabase
        connections = settings.store.connections
        return _on_database(
            await PostgresDatabase.open(url, clock, connections=connections), policy
        )
    raise InvalidRequest(
        f"store.url {url.partition(':')[0]!r}: use sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    )


def _on_database(
    database: "TaskDatabase", policy: RetryPolicy
) -> "tuple[Store, Broker, Registry, Outbox]":
    from swell.brokers.table import Broker
    from swell.db.deliveries import Outbox
    from swell.db.registry import Registry
    from swell.stores.tasks import Store

    return Store(database, policy), Broker(database), Registry(database), Outbox(database)


async def schema_of_store(settings: Settings) -> dict[str, Any]:
    """Return what the database of `store.url` has had of its migrations. Changes nothing.

    Raises:
        InvalidRequest: The store is no PostgreSQL.
        Unavailable: It cannot be reached.
    """
    url = _postgres_url(settings)
    with _installed("postgres", "store.url"):
        from swell.stores.postgres.upgrade import status_of
    found: dict[str, Any] = msgspec.to_builtins(await status_of(url))
    return found


async def upgrade_store(settings: Settings, clock: Clock) -> list[str]:
    """Apply the migrations that the database of `store.url` lacks, and return their names.

    Raises:
        InvalidRequest: The store is no PostgreSQL.
        Unavailable: It cannot be reached.
        Conflict: A newer Swell has changed it in a way that this one does not know.
    """
    url = _postgres_url(settings)
    with _installed("postgres", "store.url"):
        from swell.stores.postgres.upgrade import upgrade
    return await upgrade(url, clock)


def _postgres_url(settings: Settings) -> str:
    if not is_shared(settings):
        raise InvalidRequest(
            "store.url names no PostgreSQL: set it to postgresql://USER@HOST/DATABASE. An embedded "
            "database is brought up to date by the backend that opens it"
        )
    return settings.store.url


def is_shared(settings: Settings) -> bool:
    """Whether other backends may use the same store: one that is embedded has one process."""
    return settings.store.url.startswith(_POSTGRES)


@contextlib.contextmanager
def _installed(extra: str, setting: str) -> Iterator[None]:
    """Turn a module that is missing into what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("swell"):
            raise
        raise Unusable(
            f"{setting} needs {error.name}, which is not installed: pip install 'swell[{extra}]'"
        ) from error


async def open_bus(settings: Settings, clock: Clock) -> "Bus":
    """Return a bus of its own to what carries events between processes.

    Raises:
        InvalidRequest: The URL names no known adapter, or one that is not installed.
    """
    url = settings.bus.url or (settings.store.url if is_shared(settings) else "")
    if not url:
        from swell.buses.memory import MemoryBus

        return MemoryBus(clock)
    if url.partition(":")[0] in ("nats", "tls"):
        with _installed("nats", "bus.url"):
            from swell.buses.nats import NatsWire
            from swell.buses.wired import WiredBus
        return await WiredBus.start(NatsWire(url), clock)
    if url.startswith(_POSTGRES):
        with _installed("postgres", "bus.url"):
            from swell.buses.postgres import PostgresWire
            from swell.buses.wired import WiredBus
        return await WiredBus.start(PostgresWire(url, clock), clock)
    raise InvalidRequest(
        f"bus.url {url.partition(':')[0]!r}: use nats://HOST:PORT or postgresql://USER@HOST/DATABASE"
    )


async def open_objects(settings: Settings, clock: Clock, secret: SigningSecrets) -> "Objects":
    """Return where files lie.

    Args:
        settings: Where that is.
        clock: The time.
        secret: Signs URLs of this backend's own.

    Raises:
        InvalidRequest: The URL names no known adapter, or one that is not installed.
        Unusable: The folder or bucket cannot be used.
    """
    url = settings.objects.url or f"file:{settings.data_dir / 'objects'}"
    if url == "memory:":
        from swell.object_stores.memory import MemoryObjects

        return MemoryObjects(clock, secret)
    if urlsplit(url).scheme == "file":
        from swell.object_stores.folder import FolderObjects

        path = Path(url.removeprefix("file:").removeprefix("//"))
        folder = FolderObjects(path, clock, secret)
        with _explained(f"the folder {path}", "objects.url or data_dir"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            await folder.clear_incoming(older_s=_INCOMING_S if is_shared(settings) else 0.0)
        return folder
    if urlsplit(url).scheme in ("s3", "gs", "az"):
        return await _open_bucket(url, settings.objects, clock, secret)
    raise InvalidRequest(
        f"objects.url {url!r}: use file:PATH, memory:, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
        "az://ACCOUNT/CONTAINER/PREFIX"
    )


def _bucket(
    url: str, settings: ObjectsSettings, clock: Clock, secret: "Secret", setting: str
) -> "BucketObjects":
    try:
        from swell.object_stores.bucket import Access, BucketObjects
    except ImportError as error:
        raise InvalidRequest(
            f"{setting} {url!r} needs another package: pip install 'swell[buckets]'"
        ) from error
    access = Access(
        endpoint=settings.endpoint,
        region=settings.region,
        key_id=settings.key_id,
        secret=settings.secret.get_secret_value(),
    )
    return BucketObjects(url, access, clock, secret)


async def _open_bucket(
    url: str, settings: ObjectsSettings, clock: Clock, secret: SigningSecrets
) -> "Objects":
    bucket = _bucket(url, settings, clock, secret, "objects.url")
    try:
        await bucket.prove_writable()
    except Unavailable as error:
        raise Unusable(
            f"the bucket {url} cannot be used ({error.detail}): make it, or correct objects.url "
            "and what opens it"
        ) from error
    return bucket


@contextlib.contextmanager
def _explained(what: str, setting: str) -> Iterator[None]:
    """Turn whatever an adapter's library raises while it opens into what to do about it."""
    try:
        yield
    except SwellError:
        raise
    except Exception as error:
        raise Unusable(
            f"{what} cannot be opened ({error}): repair it, or choose another one with {setting}"
        ) from error


def worker_environment(
    settings: Settings, refs: Sequence[str], url: str, token: str
) -> Mapping[str, str]:
    """Return what a worker on this machine must know, as environment variables.

    Args:
        settings: Of the backend, many of which hold for its workers.
        refs: The models that it serves.
        url: Where the backend is.
        token: API key with the scope `worker`.
    """
    worker = settings.worker
    given = {key: text for key, text in texts_of(settings).items() if _is_for_workers(key)}
    cert = worker.ca_file or _own_cert(settings)
    if cert is not None:
        given["worker.ca_file"] = str(cert)
    return environment_of(
        given
        | {
            "worker.url": url,
            "worker.token": token,
            "worker.models": ",".join(refs),
            # They are among these.
            "worker.added": "false",
            "worker.optional": ",".join(ref for ref in refs if ref in worker.optional),
            # Whatever may be uploaded here can be used here.
            "worker.max_file_bytes": str(
                max(worker.max_file_bytes, settings.server.max_upload_bytes)
            ),
        }
    )


def _is_for_workers(key: str) -> bool:
    if key in _NOT_FOR_WORKERS or key in _OF_ONE_START:
        return False
    return key.partition(".")[0] in _WORKERS_GROUPS or key in _WORKERS_KEYS


def _own_cert(settings: Settings) -> Path | None:
    server = settings.server
    made = self_signed_cert(settings) if server.tls == "self-signed" else None
    cert = server.tls_cert or made
    return None if cert is None else cert.absolute()


def back_up(settings: Settings, target: Path) -> int:
    """Copy the embedded database to a new file; return its size, in bytes. Blocks.

    Raises:
        InvalidRequest: The store is not a SQLite file.
        NotFound, Conflict, Unavailable: See `swell.stores.sqlite.backup`.
    """
    from swell.stores.sqlite.backup import back_up

    file = store_file(settings)
    if file is None:
        raise InvalidRequest(
            "this copies SQLite databases, and store.url names another one: use that one's own "
            "tools, such as pg_dump or the archive of PostgreSQL's write-ahead log"
        )
    return back_up(file, target)


def store_file(settings: Settings) -> Path | None:
    """Return the SQLite file of the store; None where it is something else."""
    url = settings.store.url
    if not url:
        return settings.data_dir / "swell.db"
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def sqlite_version() -> str:
    """Return the version of the SQLite library that the embedded store would use."""
    from swell.stores.sqlite.file import library_version

    return library_version()
