"""What operators ask: models, queues, workers, keys, health and numbers."""

from swell.api import metrics
from swell.api.auth import create_key
from swell.api.call import Call, Reply
from swell.api.eta import EtaSeconds
from swell.api.fleet import Worker
from swell.api.gallery import sample_views
from swell.api.messages import (
    HealthView,
    KeyList,
    KeyRequest,
    KeyView,
    MeasuredView,
    ModelList,
    ModelView,
    NewKeyView,
    QueueList,
    QueueView,
    SwitchesView,
    WorkerList,
    WorkersQuery,
    WorkerView,
)
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.broker import Depth
from swell.errors import NotFound, SwellError, Unavailable
from swell.registry import ApiKey, ModelCard, WorkerInfo

__all__ = [
    "drain_worker",
    "get_model",
    "health_live",
    "health_ready",
    "list_keys",
    "list_models",
    "list_queues",
    "list_versions",
    "list_workers",
    "make_key",
    "model_name",
    "model_view",
    "revoke_key",
    "show_metrics",
]

_key = Reader(KeyRequest)


async def list_models(service: Service, call: Call) -> Reply:
    """`GET /v1/models`."""
    await service.cards.refresh()
    base = service.base_url(call)
    views = [model_view(service, card, base) for card in service.cards.newest()]
    return Reply(200, encode(ModelList(models=views)))


async def get_model(service: Service, call: Call) -> Reply:
    """`GET /v1/models/{owner}/{name}`; the name may end with `:version`."""
    target = await service.cards.target(model_name(call))
    return Reply(200, encode(model_view(service, target.card, service.base_url(call))))


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
    views = [
        _worker_view(info, state, held, service.fleet.get(info.id))
        for info, state, held in await service.fleet.all()
        if query.gone or state != "gone"
    ]
    return Reply(200, encode(WorkerList(workers=views)))


async def drain_worker(service: Service, call: Call) -> Reply:
    """`POST /v1/workers/{id}/drain`."""
    worker_id = call.params["id"]
    info = await service.fleet.drain(worker_id)
    if info is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: GET /v1/workers lists them")
    worker = service.fleet.get(worker_id)
    held = 0 if worker is None else worker.held
    state = "gone" if info.gone_at else "draining"
    return Reply(200, encode(_worker_view(info, state, held, worker)))


async def make_key(service: Service, call: Call) -> Reply:
    """`POST /v1/keys`."""
    asked: KeyRequest = await _key.read_call(call, service.settings.max_body_bytes)
    made = await create_key(service.registry, service.clock, asked.name, frozenset(asked.scopes))
    view = NewKeyView(
        id=made.key.id,
        name=made.key.name,
        scopes=sorted(made.key.scopes),
        created_at=made.key.created_at,
        key=made.secret,
    )
    return Reply(201, encode(view), headers=[(b"cache-control", b"no-store")])


async def list_keys(service: Service, call: Call) -> Reply:
    """`GET /v1/keys`."""
    keys = await service.registry.keys()
    return Reply(200, encode(KeyList(keys=[_key_view(each) for each in keys])))


async def revoke_key(service: Service, call: Call) -> Reply:
    """`DELETE /v1/keys/{id}`."""
    key_id = call.params["id"]
    for key in await service.registry.keys():
        if key.id == key_id:
            break
    else:
        raise NotFound(f"there is no key {key_id[:60]!r}: GET /v1/keys lists them")
    if key.revoked_at is None:
        key = _revoked(key, service)
        await service.registry.put_key(key)
    service.keys.forget()
    return Reply(200, encode(_key_view(key)))


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
    except SwellError as error:
        raise Unavailable(f"the store does not work: {error.detail}") from error
    try:
        await service.objects.check_writable()
    except SwellError as error:
        raise Unavailable(f"files cannot be stored: {error.detail}") from error
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
    for info, state, _ in await service.fleet.all():
        if state != "gone":
            workers[info.pool, state] = workers.get((info.pool, state), 0) + 1
    snapshot = metrics.Snapshot(depths, ages_s, workers, len(service.streams))
    return Reply(200, service.metrics.text(snapshot), metrics.CONTENT_TYPE.encode())


def model_name(call: Call) -> str:
    """Return `owner/name` as the path says."""
    return f"{call.params['owner']}/{call.params['name']}"


def model_view(service: Service, card: ModelCard, base: str) -> ModelView:
    """Return a card as clients see it."""
    stats = service.times.stats(card.name)
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
        workers=len(service.fleet.live(card.name, card.version)),
        service_s=took,
        measured=[
            MeasuredView(device=device, tasks=n, median_s=round(median_s, 3))
            for device, n, median_s in service.times.by_device(card.name)
        ],
        licence=card.licence,
        credits=card.credits,
        memory_bytes=card.memory_bytes or None,
        speed=card.speed,
        samples=sample_views(card, base),
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
    )


def _worker_view(info: WorkerInfo, state: str, held: int, worker: Worker | None) -> WorkerView:
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
        registered_at=info.registered_at,
        seen_at=info.seen_at,
        gone_at=info.gone_at,
    )


def _key_view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )


def _revoked(key: ApiKey, service: Service) -> ApiKey:
    return ApiKey(
        id=key.id,
        name=key.name,
        digest=key.digest,
        scopes=key.scopes,
        created_at=key.created_at,
        revoked_at=service.clock.now(),
    )
