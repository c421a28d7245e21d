"""Operators' endpoints: models, queues, workers, keys, health and metrics."""

import secrets
from collections import Counter
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec

from swell.core.broker_types import Depth
from swell.core.clock import Moment
from swell.core.errors import Conflict, NotFound, SwellError, Unavailable
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.fair_queueing import USUAL_PRIORITY
from swell.core.pipeline_stages import Pipeline
from swell.core.records import ApiKey, KeyLimits, ModelCard, Scope, Speed, WorkerInfo
from swell.core.startup_phases import StartupKind
from swell.objects.url_signing import rotate_secrets
from swell.server import metrics
from swell.server.admin.admin_schemas import (
    AuditList,
    AuditQuery,
    HealthView,
    KeyList,
    KeyRequest,
    KeyView,
    NewKeyView,
    RotateRequest,
    RotateSigningRequest,
    SigningView,
)
from swell.server.auth import NewKey, create_key, rotate_key
from swell.server.common_schemas import doc
from swell.server.decoding import read_body, read_query
from swell.server.estimates.eta import EtaSeconds
from swell.server.files.file_routes import READ_URL_S
from swell.server.metrics import CONTENT_TYPE
from swell.server.models.sample_routes import SampleView, sample_views
from swell.server.request import Call, Reply
from swell.server.route import Body, Response, admin_route, model_route, service_route
from swell.server.serializers import encode, project
from swell.server.service import Service
from swell.server.workers.startups import startup_view
from swell.server.workers.worker_schemas import (
    ClassView,
    QueueList,
    QueueView,
    StartupView,
    SwitchesView,
    WorkerList,
    WorkersQuery,
    WorkerView,
)

#: Metrics leave out workers that were lost longer ago, in seconds.
_LOST_S: Final = 3600.0


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """Recent run times of a model on one kind of device."""

    device: Annotated[str, doc("the workers' name for it, such as `cpu` or `cuda:0`")]
    tasks: int
    median_s: Annotated[float, doc("for each task, including delivery")]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    name: str
    version: str
    description: str
    stage: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[dict[str, Any]]
    registered_at: Moment | None
    workers: Annotated[int, doc("live workers that have it")]
    service_s: Annotated[EtaSeconds | None, doc("recent task times, in seconds")]
    measured: Annotated[list[MeasuredView], doc("the same by device")]
    licence: Annotated[str, doc("of code and weights, as SPDX or text; empty if not stated")]
    credits: Annotated[str, doc("Markdown")]
    memory_bytes: Annotated[int | None, doc("device memory; null if unknown")]
    price_micros: Annotated[
        int | None,
        doc(
            "price of a sample at a remote service, in millionths of a dollar; null if it has none"
        ),
    ]
    speed: Annotated[list[Speed], doc("the author's measurements, in seconds")]
    samples: list[SampleView]
    eta_s: Annotated[EtaSeconds | None, doc("seconds until a typical new task ends")] = None
    start_s: Annotated[EtaSeconds | None, doc("seconds until a typical new task starts")] = None
    pipeline: Annotated[Pipeline | None, doc("its stages; null for a model")] = None
    urls: dict[str, str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models, by name."""

    models: list[ModelView]


@model_route("GET /v1/models", Response("The current version of every model", ModelList))
async def list_models(service: Service, call: Call) -> Reply:
    """List models."""
    await service.cards.refresh()
    base = service.base_url(call)
    views = [model_view(service, card, base) for card in service.cards.newest()]
    return Reply(200, encode(ModelList(models=views)))


@model_route(
    "GET /v1/models/{owner}/{name}",
    Response("The model's card, schemas and measured times", ModelView),
    errors=(NotFound,),
)
async def get_model(service: Service, call: Call) -> Reply:
    """Get a model.

    The name may end with `:version`.
    """
    target = await service.cards.target(model_name(call))
    view = model_view(service, target.card, service.base_url(call))
    queue, estimates = target.queue, service.estimates
    served = estimates.served_with(queue).get(queue)
    [waiting] = await service.broker.backlogs(
        [target.model], USUAL_PRIORITY, served_with={target.model: served} if served else {}
    )
    expected = await estimates.expected_last(queue, waiting.equal, waiting.equal_samples)
    if expected is not None:
        view = msgspec.structs.replace(view, start_s=expected.start, eta_s=expected.finish)
    return Reply(200, encode(view))


@model_route(
    "GET /v1/models/{owner}/{name}/versions",
    Response("Its versions, newest first", ModelList),
    errors=(NotFound,),
)
async def list_versions(service: Service, call: Call) -> Reply:
    """List a model's versions."""
    cards = await service.cards.versions(model_name(call))
    base = service.base_url(call)
    return Reply(200, encode(ModelList(models=[model_view(service, each, base) for each in cards])))


@admin_route("GET /v1/queues", Response("Queues that are not empty", QueueList))
async def list_queues(service: Service, call: Call) -> Reply:
    """List queues."""
    depths = await service.broker.depths()
    views = [await _queue_view(service, each) for each in depths]
    return Reply(200, encode(QueueList(queues=views)))


@admin_route("GET /v1/workers", Response("Workers, oldest first", WorkerList), query=WorkersQuery)
async def list_workers(service: Service, call: Call) -> Reply:
    """List workers."""
    query = read_query(call, WorkersQuery)
    listed = [each for each in await service.fleet.all() if query.gone or each[1] != "gone"]
    ids = [info.id for info, _, _ in listed]
    own = {s.worker_id: startup_view(s) for s in await service.registry.startups_of(ids)}
    views = [_worker_view(service, *each, own.get(each[0].id)) for each in listed]
    startups = await service.registry.startups(under_way=True)
    under_way = [startup_view(each) for each in startups if each.kind is StartupKind.COLD]
    return Reply(200, encode(WorkerList(workers=views, starting=under_way)))


@admin_route(
    "POST /v1/workers/{id}/drain",
    Response("The worker; it finishes its tasks and exits", WorkerView),
    errors=(NotFound,),
    audit="workers.drain",
)
async def drain_worker(service: Service, call: Call) -> Reply:
    """Drain a worker."""
    worker_id = call.params["id"]
    info = await service.fleet.drain(worker_id)
    await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    if info is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: GET /v1/workers lists them")
    worker = service.fleet.workers.get(worker_id)
    state = "gone" if info.gone_at else "draining"
    return Reply(
        200, encode(_worker_view(service, info, state, worker.meter.held if worker else 0))
    )


@admin_route(
    "POST /v1/keys",
    {201: Response("The key with its secret, shown only now", NewKeyView)},
    body=Body(KeyRequest, example={"name": "shop", "scopes": ["client"]}),
    audit="keys.create",
)
async def make_key(service: Service, call: Call) -> Reply:
    """Create a key."""
    request = await read_body(service, call, KeyRequest)
    service.classes.check_known(request.classes)
    expires_at = None
    if request.expires_in_s is not None:
        expires_at = service.clock.now() + timedelta(seconds=request.expires_in_s)
    made = await create_key(
        service.registry,
        service.clock,
        request.name,
        frozenset(request.scopes),
        expires_at=expires_at,
        pools=tuple(request.pools),
        models=tuple(request.models),
        limits=project(KeyLimits, request),
        classes=tuple(request.classes),
    )
    call.target = made.key.id
    call.about = f"{request.name!r}: {', '.join(sorted(request.scopes))}"
    return shown_once(201, made)


@admin_route(
    "POST /v1/keys/{id}/rotate",
    Response("The key with its new secret, shown only now", NewKeyView),
    body=Body(RotateRequest, example={"overlap_s": 3600}),
    errors=(NotFound, Conflict),
    audit="keys.rotate",
)
async def new_secret(service: Service, call: Call) -> Reply:
    """Rotate a key.

    Gives the key a new secret and keeps its id, scopes, limits and tasks. The previous secret
    works during the overlap; older ones stop at once.
    """
    request = await read_body(service, call, RotateRequest, is_optional=True)
    key = await find_key(service, call.params["id"])
    made = await rotate_key(service.registry, service.clock, key, request.overlap_s)
    call.about = f"the previous secret works for {request.overlap_s:g} s"
    await keys_changed(service)
    return shown_once(200, made)


def shown_once(status: int, made: NewKey) -> Reply:
    """Return the only reply that contains the secret of a key."""
    view = project(NewKeyView, made.key, scopes=sorted(made.key.scopes), key=made.secret)
    return Reply(status, encode(view), headers=[(b"cache-control", b"no-store")])


@admin_route(
    "POST /v1/signing/rotate",
    Response("When the new secret takes effect", SigningView),
    body=Body(RotateSigningRequest, example={"revoke": False}),
    errors=(Conflict,),
    audit="signing.rotate",
)
async def rotate_signing(service: Service, call: Call) -> Reply:
    """Rotate the URL signing secret.

    URLs signed before stay valid until they expire, unless you revoke them. After a revocation,
    queued tasks with such URLs in their input fail, and other backends may refuse new URLs for
    some seconds.
    """
    request = await read_body(service, call, RotateSigningRequest, is_optional=True)
    signing = service.backend.signing
    if signing is None:
        raise Conflict("URLs of this service are signed with a secret that does not change")
    made = await rotate_secrets(
        service.registry,
        service.clock,
        secrets.token_bytes(32),
        lasting_s=max(service.settings.server.signed_url_s, READ_URL_S),
        revoke=request.revoke,
    )
    signing.replace(made)
    call.about = f"URLs signed before are {'invalid' if request.revoke else 'still valid'}"
    others_until = max((each.until for each in made if each.until is not None), default=None)
    return Reply(200, encode(SigningView(signs_from=made[0].from_at, others_until=others_until)))


@admin_route(
    "GET /v1/audit", Response("A page of entries, newest first", AuditList), query=AuditQuery
)
async def list_audit(service: Service, call: Call) -> Reply:
    """List the audit log.

    Swell records every change by an operator, and every refused one, before it answers.
    """
    query = read_query(call, AuditQuery)
    entries = await service.registry.audit(limit=query.limit, before=query.cursor)
    cursor = entries[-1].id if len(entries) == query.limit else None
    return Reply(200, encode(AuditList(entries=entries, cursor=cursor)))


@admin_route("GET /v1/keys", Response("Keys, without their secrets", KeyList))
async def list_keys(service: Service, call: Call) -> Reply:
    """List keys."""
    keys = await service.registry.keys()
    return Reply(200, encode(KeyList(keys=[_key_view(each) for each in keys])))


@service_route(
    "GET /v1/keys/self", Response("The key, without its secret", KeyView), scope=Scope.CLIENT
)
async def own_key(service: Service, call: Call) -> Reply:
    """Show the caller's key."""
    return Reply(200, encode(_key_view(call.caller)))


@admin_route(
    "DELETE /v1/keys/{id}",
    Response("The revoked key", KeyView),
    errors=(NotFound,),
    audit="keys.revoke",
)
async def revoke_key(service: Service, call: Call) -> Reply:
    """Revoke a key."""
    key = await find_key(service, call.params["id"])
    if key.revoked_at is None:
        key = msgspec.structs.replace(key, revoked_at=service.clock.now())
        await service.registry.put_key(key)
    call.about = repr(key.name)
    await keys_changed(service)
    return Reply(200, encode(_key_view(key)))


async def keys_changed(service: Service) -> None:
    """Have all backends read keys and their quotas again."""
    service.keys.forget()
    service.quotas.forget()
    await service.bus.broadcast([PeerMessage(kind=MessageKind.KEYS)])


async def find_key(service: Service, key_id: str) -> ApiKey:
    """Return a key.

    Raises:
        NotFound: There is none with this id.
    """
    key = await service.registry.key(key_id)
    if key is None:
        raise NotFound(f"there is no key {key_id[:60]!r}: GET /v1/keys lists them")
    return key


@service_route("GET /health/live", Response("It answers", HealthView))
async def health_live(service: Service, call: Call) -> Reply:
    """Check that the process answers."""
    return Reply(200, encode(HealthView(status="ok")))


@service_route(
    "GET /health/ready", Response("They can be served", HealthView), errors=(Unavailable,)
)
async def health_ready(service: Service, call: Call) -> Reply:
    """Check that requests can be served.

    Fails while the disk refuses writes, for example; `detail` gives the reason, and every check
    tries again.
    """
    if not service.is_ready:
        raise Unavailable("the service is starting or stopping: try again in some seconds")
    try:
        await service.store.next_wake_at()
        await service.store.check_writable()
        await service.skew.compare()
    except SwellError as error:
        raise Unavailable(f"the store does not work: {error.detail}") from error
    service.skew.check()
    await service.writable.look()
    if service.writable.refusal:
        raise Unavailable(f"files cannot be stored: {service.writable.refusal}")
    return Reply(200, encode(HealthView(status="ok", checks={"store": "ok", "objects": "ok"})))


@service_route("GET /metrics", Response("Text exposition format", media_type=CONTENT_TYPE))
async def show_metrics(service: Service, call: Call) -> Reply:
    """Metrics for Prometheus."""
    waiting, oldest_s = await service.hooks.waiting()
    gauges: dict[str, metrics.Samples] = {
        **await _queue_gauges(service),
        **await _worker_gauges(service),
        **metrics.scaling_gauges(service.scaling.status),
        "swell_event_streams": {(): len(service.streams)},
        "swell_clock_ahead_seconds": {(): service.skew.ahead_s},
        "swell_webhooks_waiting": {(): waiting},
        "swell_webhooks_oldest_age_seconds": {(): oldest_s},
    }
    text = service.metrics.text(gauges)
    if service.backend.together is not None:
        text = service.backend.together(text)
    return Reply(200, text, CONTENT_TYPE.encode())


async def _queue_gauges(service: Service) -> dict[str, metrics.Samples]:
    now = service.clock.now()
    depths = await service.broker.depths()
    models = sorted({each.queue.partition(":")[0] for each in depths})
    return {
        "swell_tasks_waiting": {each.queue: each.ready for each in depths},
        "swell_tasks_delayed": {each.queue: each.delayed for each in depths},
        "swell_tasks_running": {each.queue: each.running for each in depths},
        "swell_queue_oldest_age_seconds": {
            each.queue: (now - each.oldest_ready_at).total_seconds()
            for each in depths
            if each.oldest_ready_at is not None
        },
        "swell_class_ready": {
            (model, view.name): view.ready
            for model in models
            for view in await _class_views(service, model)
        },
    }


async def _worker_gauges(service: Service) -> dict[str, metrics.Samples]:
    now = service.clock.now()
    states, slots, slots_held = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
    for pool in service.settings.hour_micros:
        service.metrics.know_pool(pool)
    for info, state, held in await service.fleet.all():
        service.metrics.know_pool(info.pool)
        if state == "gone" or (now - info.seen_at).total_seconds() > _LOST_S:
            continue
        states[info.pool, state] += 1
        if state != "lost":
            slots[info.pool] += info.slots
            slots_held[info.pool] += held
    startups = await service.registry.startups(under_way=True)
    return {
        "swell_workers": states,
        "swell_worker_slots": slots,
        "swell_worker_slots_held": slots_held,
        "swell_workers_starting": Counter(each.pool for each in startups),
    }


def model_name(call: Call) -> str:
    """Return `owner/name` from the path."""
    return f"{call.params['owner']}/{call.params['name']}"


def model_view(service: Service, card: ModelCard, base: str) -> ModelView:
    """Return a card as clients see it."""
    times = service.times.stats(card.name, card.version)
    if times is not None:
        low, median, high = (round(each, 3) for each in (times.p10_s, times.median_s, times.p90_s))
    home = f"{base}/v1/models/{card.name}"
    return project(
        ModelView,
        card,
        workers=_count_workers(service, card),
        service_s=None if times is None else EtaSeconds(low=low, median=median, high=high),
        measured=[
            MeasuredView(device=device, tasks=n, median_s=round(median_s, 3))
            for device, n, median_s in service.times.by_device(card.name, card.version)
        ],
        memory_bytes=card.memory_bytes or None,
        price_micros=card.price_micros or None,
        samples=sample_views(card, base),
        urls={"get": home, "versions": home + "/versions", "page": f"{base}/#/models/{card.name}"},
    )


def _count_workers(service: Service, card: ModelCard) -> int:
    """Return the number of live workers with a model; of a pipeline, of its scarcest stage."""
    if card.pipeline is None:
        return len(service.fleet.live(card.name, card.version))
    stages = card.pipeline.stages
    return min(len(service.fleet.live(each.model, each.pinned_version)) for each in stages)


async def _queue_view(service: Service, depth: Depth) -> QueueView:
    expected = await service.estimates.expected_last(depth.queue, depth.ready, depth.ready_samples)
    return project(
        QueueView,
        depth,
        eta_s=None if expected is None else expected.finish,
        start_s=None if expected is None else expected.start,
        classes=await _class_views(service, depth.queue.partition(":")[0]),
    )


async def _class_views(service: Service, model: str) -> list[ClassView]:
    """Return the ready tasks of a model in each priority class."""
    views = []
    for name, priority in service.classes.all.items():
        [backlog] = await service.broker.backlogs([model], priority)
        ready, samples = backlog.equal, backlog.equal_samples
        views.append(ClassView(name=name, priority=priority, ready=ready, ready_samples=samples))
    return views


def _worker_view(
    service: Service, info: WorkerInfo, state: str, held: int, startup: StartupView | None = None
) -> WorkerView:
    worker = service.fleet.workers.get(info.id)
    switches = {} if worker is None else worker.switches or {}
    return project(
        WorkerView,
        info,
        state=state,
        held=held,
        residents=None if worker is None else worker.residents,
        switches={each.model: project(SwitchesView, each) for each in switches.values()},
        instance=info.instance or None,
        clock_ahead_s=round(info.clock_ahead_s, 3),
        startup=startup,
    )


def _key_view(key: ApiKey) -> KeyView:
    return project(KeyView, key, scopes=sorted(key.scopes))
