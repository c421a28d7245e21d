"""What operators ask: models, queues, workers, keys, health and numbers."""

import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import msgspec

from swell.api import metrics
from swell.api.auth import NewKey, create_key, rotate_key
from swell.api.call import Call, Reply
from swell.api.eta import EtaSeconds
from swell.api.files import READ_URL_S
from swell.api.fleet import Worker
from swell.api.gallery import sample_views
from swell.api.messages import (
    AuditList,
    AuditQuery,
    AuditView,
    ClassView,
    HealthView,
    KeyLimitsView,
    KeyList,
    KeyRequest,
    KeyView,
    MeasuredView,
    ModelList,
    ModelView,
    NewKeyView,
    QueueList,
    QueueView,
    RotateRequest,
    RotateSigningRequest,
    SigningView,
    StartupView,
    SwitchesView,
    WorkerList,
    WorkersQuery,
    WorkerView,
)
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.startups import startup_view
from swell.api.views import encode
from swell.broker import Depth
from swell.bus import News, NewsKind
from swell.errors import Conflict, NotFound, SwellError, Unavailable
from swell.fairness import USUAL_PRIORITY
from swell.phases import StartupKind
from swell.registry import ApiKey, KeyLimits, ModelCard, WorkerInfo
from swell.signing import rotate_secrets

#: A worker that was lost longer ago is not among the numbers: nobody would wait for it any more.
_LOST_TOLD_S: Final = 3600.0

_key = Reader(KeyRequest)
_rotation = Reader(RotateRequest)
_signing_rotation = Reader(RotateSigningRequest)


async def list_models(service: Service, call: Call) -> Reply:
    """`GET /v1/models`."""
    await service.cards.refresh()
    base = service.base_url(call)
    views = [model_view(service, card, base) for card in service.cards.newest()]
    return Reply(200, encode(ModelList(models=views)))


async def get_model(service: Service, call: Call) -> Reply:
    """`GET /v1/models/{owner}/{name}`; the name may end with `:version`."""
    target = await service.cards.target(model_name(call))
    view = model_view(service, target.card, service.base_url(call))
    served = service.served_with([target.queue]).get(target.queue)
    served_with = {} if served is None else {target.model: served}
    [waiting] = await service.broker.backlogs(
        [target.model], USUAL_PRIORITY, served_with=served_with
    )
    expected = await service.expected_last(target.queue, waiting.equal, waiting.equal_samples)
    if expected is not None:
        view = msgspec.structs.replace(view, start_s=expected.start, eta_s=expected.finish)
    return Reply(200, encode(view))


async def list_versions(service: Service, call: Call) -> Reply:
    """`GET /v1/models/{owner}/{name}/versions`."""
    cards = await service.cards.versions(model_name(call))
    base = service.base_url(call)
    return Reply(200, encode(ModelList(models=[model_view(service, each, base) for each in cards])))


async def list_queues(service: Service, call: Call) -> Reply:
    """`GET /v1/queues`."""
    depths = await service.broker.depths()
    views = [await _queue_view(service, each) for each in depths]
    return Reply(200, encode(QueueList(queues=views)))


async def list_workers(service: Service, call: Call) -> Reply:
    """`GET /v1/workers`."""
    query = read_query(call, WorkersQuery)
    listed = [each for each in await service.fleet.all() if query.gone or each[1] != "gone"]
    ids = [info.id for info, _, _ in listed]
    own = {s.worker_id: startup_view(s) for s in await service.registry.startups_of(ids)}
    views = [
        _worker_view(info, state, held, service.fleet.get(info.id), own.get(info.id))
        for info, state, held in listed
    ]
    startups = await service.registry.startups(under_way=True)
    under_way = [startup_view(each) for each in startups if each.kind is StartupKind.COLD]
    return Reply(200, encode(WorkerList(workers=views, starting=under_way)))


async def drain_worker(service: Service, call: Call) -> Reply:
    """`POST /v1/workers/{id}/drain`."""
    worker_id = call.params["id"]
    info = await service.fleet.drain(worker_id)
    await service.bus.tell([News(kind=NewsKind.WORKERS)])
    if info is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: GET /v1/workers lists them")
    worker = service.fleet.get(worker_id)
    held = 0 if worker is None else worker.held
    state = "gone" if info.gone_at else "draining"
    return Reply(200, encode(_worker_view(info, state, held, worker)))


async def make_key(service: Service, call: Call) -> Reply:
    """`POST /v1/keys`."""
    asked: KeyRequest = await _key.read_call(call, service.settings.server.max_body_bytes)
    service.classes.check_known(asked.classes)
    lasts_s, now = asked.expires_in_s, service.clock.now()
    made = await create_key(
        service.registry,
        service.clock,
        asked.name,
        frozenset(asked.scopes),
        expires_at=None if lasts_s is None else now + timedelta(seconds=lasts_s),
        pools=tuple(asked.pools),
        models=tuple(asked.models),
        limits=KeyLimits(
            rate_per_s=asked.rate_per_s,
            burst=asked.burst,
            tasks_in_flight=asked.tasks_in_flight,
            tasks_per_day=asked.tasks_per_day,
            streams=asked.streams,
        ),
        classes=tuple(asked.classes),
    )
    call.target = made.key.id
    call.about = f"{asked.name!r}: {', '.join(sorted(asked.scopes))}"
    return shown_once(201, made)


async def new_secret(service: Service, call: Call) -> Reply:
    """`POST /v1/keys/{id}/rotate`."""
    body = await call.body(service.settings.server.max_body_bytes)
    asked: RotateRequest = _rotation.read(body or b"{}")
    key = await _find_key(service, call)
    made = await rotate_key(service.registry, service.clock, key, asked.overlap_s)
    call.about = f"the secret before works for {asked.overlap_s:g} s"
    service.keys.forget()
    await service.bus.tell([News(kind=NewsKind.KEYS)])
    return shown_once(200, made)


def shown_once(status: int, made: NewKey) -> Reply:
    """Return the answer with a new key and its secret."""
    view = NewKeyView(
        id=made.key.id,
        name=made.key.name,
        scopes=sorted(made.key.scopes),
        created_at=made.key.created_at,
        expires_at=made.key.expires_at,
        old_until=made.key.old_until,
        key=made.secret,
    )
    return Reply(status, encode(view), headers=[(b"cache-control", b"no-store")])


async def rotate_signing(service: Service, call: Call) -> Reply:
    """`POST /v1/signing/rotate`."""
    body = await call.body(service.settings.server.max_body_bytes)
    asked: RotateSigningRequest = _signing_rotation.read(body or b"{}")
    signing = service.backend.signing
    if signing is None:
        raise Conflict("URLs of this service are signed with a secret that does not change")
    made = await rotate_secrets(
        service.registry,
        service.clock,
        secrets.token_bytes(32),
        lasting_s=max(service.settings.server.signed_url_s, READ_URL_S),
        revoke=asked.revoke,
    )
    signing.replace(made)
    call.about = "URLs signed before are void" if asked.revoke else "URLs signed before stay good"
    others = [each.until for each in made if each.until is not None]
    view = SigningView(signs_from=made[0].from_at, others_until=max(others, default=None))
    return Reply(200, encode(view))


async def list_audit(service: Service, call: Call) -> Reply:
    """`GET /v1/audit`."""
    query = read_query(call, AuditQuery)
    entries = await service.registry.audit(limit=query.limit, before=query.cursor)
    views = [
        AuditView(
            id=each.id,
            at=each.at,
            key_id=each.key_id,
            key_name=each.key_name,
            address=each.address,
            action=each.action,
            target=each.target,
            status=each.status,
            detail=each.detail,
            request_id=each.request_id,
        )
        for each in entries
    ]
    cursor = entries[-1].id if len(entries) == query.limit else None
    return Reply(200, encode(AuditList(entries=views, cursor=cursor)))


async def list_keys(service: Service, call: Call) -> Reply:
    """`GET /v1/keys`."""
    keys = await service.registry.keys()
    return Reply(200, encode(KeyList(keys=[_key_view(each) for each in keys])))


async def own_key(service: Service, call: Call) -> Reply:
    """`GET /v1/keys/self`."""
    return Reply(200, encode(_key_view(call.caller)))


async def revoke_key(service: Service, call: Call) -> Reply:
    """`DELETE /v1/keys/{id}`."""
    key = await _find_key(service, call)
    if key.revoked_at is None:
        key = msgspec.structs.replace(key, revoked_at=service.clock.now())
        await service.registry.put_key(key)
    call.about = repr(key.name)
    service.keys.forget()
    await service.bus.tell([News(kind=NewsKind.KEYS)])
    return Reply(200, encode(_key_view(key)))


async def _find_key(service: Service, call: Call) -> ApiKey:
    key_id = call.params["id"]
    for key in await service.registry.keys():
        if key.id == key_id:
            return key
    raise NotFound(f"there is no key {key_id[:60]!r}: GET /v1/keys lists them")


async def health_live(service: Service, call: Call) -> Reply:
    """`GET /health/live`."""
    return Reply(200, encode(HealthView(status="ok")))


async def health_ready(service: Service, call: Call) -> Reply:
    """`GET /health/ready`."""
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


async def show_metrics(service: Service, call: Call) -> Reply:
    """`GET /metrics`."""
    now = service.clock.now()
    depths = await service.broker.depths()
    ages_s = {
        depth.queue: (now - depth.oldest_ready_at).total_seconds()
        for depth in depths
        if depth.oldest_ready_at is not None
    }
    workers: dict[tuple[str, str], int] = {}
    slots: dict[str, tuple[int, int]] = {}
    for pool in service.settings.hour_micros:
        service.metrics.know_pool(pool)
    for info, state, held in await service.fleet.all():
        service.metrics.know_pool(info.pool)
        if state == "gone" or (now - info.seen_at).total_seconds() > _LOST_TOLD_S:
            continue
        workers[info.pool, state] = workers.get((info.pool, state), 0) + 1
        if state != "lost":
            may_hold, holds = slots.get(info.pool, (0, 0))
            slots[info.pool] = (may_hold + info.slots, holds + held)
    starting: dict[str, int] = {}
    for each in await service.registry.startups(under_way=True):
        starting[each.pool] = starting.get(each.pool, 0) + 1
    models = {depth.queue.partition(":")[0] for depth in depths}
    snapshot = metrics.Snapshot(
        depths,
        ages_s,
        workers,
        len(service.streams),
        slots,
        starting,
        service.scaling.status,
        await _classes(service, models),
        (0, 0.0) if service.hooks is None else await service.hooks.waiting(),
        service.skew.ahead_s,
    )
    text = service.metrics.text(snapshot)
    if service.backend.together is not None:
        text = service.backend.together(text)
    return Reply(200, text, metrics.CONTENT_TYPE.encode())


def model_name(call: Call) -> str:
    """Return `owner/name` as the path says."""
    return f"{call.params['owner']}/{call.params['name']}"


def _workers_of(service: Service, card: ModelCard) -> int:
    """Return how many live workers have a model; of a pipeline, its scarcest stage."""
    if card.pipeline is None:
        return len(service.fleet.live(card.name, card.version))
    stages = card.pipeline.stages
    return min(len(service.fleet.live(each.model, each.pinned_version)) for each in stages)


def model_view(service: Service, card: ModelCard, base: str) -> ModelView:
    """Return a card as clients see it."""
    stats = service.times.stats(card.name, card.version)
    took = None
    if stats is not None:
        took = EtaSeconds(
            low=round(stats.p10_s, 3), median=round(stats.median_s, 3), high=round(stats.p90_s, 3)
        )
    home = f"{base}/v1/models/{card.name}"
    return ModelView(
        name=card.name,
        version=card.version,
        description=card.description,
        stage=card.stage,
        input_schema=card.input_schema,
        output_schema=card.output_schema,
        examples=card.examples,
        registered_at=card.registered_at,
        workers=_workers_of(service, card),
        service_s=took,
        measured=[
            MeasuredView(device=device, tasks=n, median_s=round(median_s, 3))
            for device, n, median_s in service.times.by_device(card.name, card.version)
        ],
        licence=card.licence,
        credits=card.credits,
        memory_bytes=card.memory_bytes or None,
        price_micros=card.price_micros or None,
        speed=card.speed,
        samples=sample_views(card, base),
        pipeline=card.pipeline,
        urls={
            "get": home,
            "versions": home + "/versions",
            "page": f"{base}/models/{card.name}",
        },
    )


async def _queue_view(service: Service, depth: Depth) -> QueueView:
    expected = await service.expected_last(depth.queue, depth.ready, depth.ready_samples)
    return QueueView(
        queue=depth.queue,
        ready=depth.ready,
        delayed=depth.delayed,
        running=depth.running,
        ready_samples=depth.ready_samples,
        oldest_ready_at=depth.oldest_ready_at,
        eta_s=None if expected is None else expected.finish,
        start_s=None if expected is None else expected.start,
        classes=await _class_views(service, depth.queue.partition(":")[0]),
    )


async def _classes(service: Service, models: Iterable[str]) -> dict[tuple[str, str], int]:
    """Return how many tasks of models could run, by class."""
    return {
        (model, view.name): view.ready
        for model in sorted(models)
        for view in await _class_views(service, model)
    }


async def _class_views(service: Service, model: str) -> list[ClassView]:
    """Return what waits of a model in each class."""
    views = []
    for name, priority in service.classes.all.items():
        [backlog] = await service.broker.backlogs([model], priority)
        views.append(
            ClassView(
                name=name,
                priority=priority,
                ready=backlog.equal,
                ready_samples=backlog.equal_samples,
            )
        )
    return views


def _worker_view(
    info: WorkerInfo,
    state: str,
    held: int,
    worker: Worker | None,
    startup: StartupView | None = None,
) -> WorkerView:
    switches = {} if worker is None else worker.switches or {}
    return WorkerView(
        id=info.id,
        name=info.name,
        pool=info.pool,
        state=state,
        models=info.models,
        slots=info.slots,
        held=held,
        residents=None if worker is None else worker.residents,
        switches={
            each.model: SwitchesView(disk=each.disk, host=each.host, loras=each.loras)
            for each in switches.values()
        },
        device=info.device,
        host=info.host,
        pid=info.pid,
        instance=info.instance or None,
        release=info.release,
        clock_ahead_s=round(info.clock_ahead_s, 3),
        registered_at=info.registered_at,
        seen_at=info.seen_at,
        gone_at=info.gone_at,
        startup=startup,
    )


def _key_view(key: ApiKey) -> KeyView:
    limits = key.limits
    return KeyView(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        expires_at=key.expires_at,
        used_at=key.used_at,
        old_until=key.old_until,
        pools=list(key.pools),
        models=list(key.models),
        limits=KeyLimitsView(
            rate_per_s=limits.rate_per_s,
            burst=limits.burst,
            tasks_in_flight=limits.tasks_in_flight,
            tasks_per_day=limits.tasks_per_day,
            streams=limits.streams,
        ),
        classes=list(key.classes),
    )
