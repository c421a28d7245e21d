"""The workers' protocol: `/worker/v1/register`, `lease`, `report`, `uploads`.

A report settles, extends and leases in one commit. Its settlements are
durable before the answer is sent.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from swell.api.auth import check_worker
from swell.api.call import Call, Reply
from swell.api.canaries import note_settled
from swell.api.cards import is_model_name, is_plain_word
from swell.api.charges import with_costs
from swell.api.early import read_artifact
from swell.api.files import READ_URL_S, may_name_files, name_files, plain_type
from swell.api.fleet import Worker
from swell.api.gallery import keep_samples
from swell.api.news import must_stop
from swell.api.pipelines import register_pipelines
from swell.api.reading import Reader
from swell.api.route import Response, route
from swell.api.service import Service
from swell.api.stages import going_on, leased_stage
from swell.api.startups import account_told, keep_startups
from swell.api.traffic import staged_queues
from swell.broker import LeaseRequest
from swell.bus import MessageKind, PeerMessage
from swell.card_limits import check_card
from swell.dispatch import (
    Ask,
    Enclosure,
    Grant,
    LeasedTask,
    Progress,
    Registration,
    Report,
    ReportAnswer,
    Upload,
    Welcome,
)
from swell.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    SwellError,
    Unavailable,
)
from swell.events import ATTEMPT_STRIDE, Event, EventKind, event_of
from swell.objects import check_key
from swell.registry import MOST_PRICE_MICROS, ModelCard, Scope, WorkerInfo
from swell.store import Ended, Hold, Onward, Start
from swell.task import (
    Artifact,
    Failed,
    Released,
    Settlement,
    Succeeded,
    Task,
    TaskError,
    TaskState,
    checkpoint_key,
    new_id,
    new_token,
)

_log = structlog.get_logger("swell.api")

#: The most tasks that one lease or report hands out.
MAX_LEASE: Final = 512

#: Larger files come by themselves: this much of a report is decoded before the next call's turn.
_ENCLOSE_BYTES: Final = 256 * 1024

#: A signed PUT must outlive a slow upload.
_PUT_URL_S: Final = 3600.0

_KINDS: Final = {
    "progress": EventKind.PROGRESS,
    "preview": EventKind.PREVIEW,
    "artifact": EventKind.ARTIFACT,
}


class UploadsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask where to put the files of one attempt."""

    worker_id: str
    #: The attempt, by its lease.
    hold: Hold
    #: `outputs/TASK/ATTEMPT/NAME` each, or `checkpoints/TASK-ATTEMPT.bin`.
    keys: list[str]


class UploadsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where to put them, in the same order."""

    uploads: list[Upload]


_registration = Reader(Registration)
_ask = Reader(Ask)
_report = Reader(Report)
_uploads = Reader(UploadsRequest)
_encode = msgspec.json.Encoder().encode
_NEVER_GONE: Callable[[], bool] = lambda: False  # noqa: E731


@route(
    "POST /worker/v1/register",
    "Workers",
    {200: Response("The worker's id and intervals", Welcome)},
    scope=Scope.WORKER,
    body=Registration,
    errors=(Conflict,),
    audit="workers.register",
)
async def register(service: Service, call: Call) -> Reply:
    """Register a worker."""
    registration = await _registration.read_call(call, service.settings.server.max_body_bytes)
    names = [card.name for card in registration.models]
    check_worker(call.caller, registration.pool, names)
    call.of_others = Scope.ADMIN in call.caller.scopes
    call.about = f"{registration.name!r} with {', '.join(names)}"
    welcome = await register_worker(service, registration, call.caller.id)
    call.target = welcome.worker_id
    return Reply(200, _encode(welcome))


@route(
    "POST /worker/v1/lease",
    "Workers",
    {200: Response("Tasks, cancellations, or nothing", Grant)},
    scope=Scope.WORKER,
    body=Ask,
    errors=(NotFound,),
    audit="workers.lease",
)
async def lease(service: Service, call: Call) -> Reply:
    """Lease tasks."""
    ask = await _ask.read_call(call, service.settings.server.max_body_bytes)
    await _check_own(service, call, ask.worker_id)
    grant = await lease_tasks(service, ask, call.is_gone, lambda: service.check_again(call))
    return _answer(service, grant)


@route(
    "POST /worker/v1/report",
    "Workers",
    {200: Response("The stored result", ReportAnswer)},
    scope=Scope.WORKER,
    body=Report,
    errors=(NotFound,),
    audit="workers.report",
)
async def report(service: Service, call: Call) -> Reply:
    """Report progress and outcomes."""
    told = await _report.read_call(call, service.settings.server.max_upload_bytes)
    await _check_own(service, call, told.worker_id)
    return _answer(service, await take_report(service, told))


@route(
    "POST /worker/v1/uploads",
    "Workers",
    {200: Response("A signed URL for each key", UploadsAnswer)},
    scope=Scope.WORKER,
    body=UploadsRequest,
    errors=(NotFound, Forbidden, Conflict),
    audit="workers.upload",
)
async def uploads(service: Service, call: Call) -> Reply:
    """Get upload URLs for outputs.

    Only for the holder of the attempt's lease. A stored file never changes: the same bytes are
    accepted again, others are refused.
    """
    asked = await _uploads.read_call(call, service.settings.server.max_body_bytes)
    await _check_own(service, call, asked.worker_id)
    worker, hold = await _known(service, asked.worker_id), asked.hold
    checkpoint = checkpoint_key(hold.task_id, hold.attempt)
    for key in asked.keys:
        if key != checkpoint and not _is_output(check_key(key), hold.task_id, hold.attempt):
            home = f"outputs/{hold.task_id}/{hold.attempt}/"
            raise Forbidden(
                f"the outputs of this attempt go to {home[:80]}NAME and its checkpoint to "
                f"{checkpoint[:80]}, not {key[:80]!r}"
            )
    await _learn_holds(service, worker, [hold])
    if not service.fleet.is_held(hold.task_id, hold.attempt, hold.token):
        raise Conflict(
            f"the lease of attempt {hold.attempt} of task {hold.task_id[:60]} has "
            "ended, so the server accepts nothing for it: discard the result"
        )
    found = list(await asyncio.gather(*(_place(service, key) for key in asked.keys)))
    return Reply(200, _encode(UploadsAnswer(uploads=found)))


def _answer(service: Service, told: Grant | ReportAnswer) -> Reply:
    """Return an answer; if it does not reach the worker, its leases are undone."""
    reply = Reply(200, _encode(told))
    if told.tasks:
        holds = [task.hold for task in told.tasks]
        reply.lost = lambda: _hand_back(service, holds)
    return reply


async def register_worker(
    service: Service, registration: Registration, key_id: str = ""
) -> Welcome:
    """Make a worker and its models known.

    Args:
        service: The backend.
        registration: What the worker says of itself.
        key_id: Of the key that speaks for it from now on; empty for any.

    Raises:
        InvalidInput: It has no model, or a card's schema or a picture on it cannot be used.
        Conflict: A version is known with other schemas.
    """
    if not registration.models:
        raise InvalidInput("a worker needs at least one model")
    _check_told(registration)
    for card in registration.models:
        _check_names(card.name, card.version)
        check_card(card)
        _check_price(card)
        if card.pipeline is not None:
            raise InvalidInput(
                f"{card.name} is a pipeline, and workers run models: declare it in a file that the "
                "backend reads (server.pipelines)"
            )
        await _check_unchanged(service, card)
    now, settings = service.clock.now(), service.settings
    account, launched_at = account_told(registration, now)
    hour_micros, launch_micros, least_billed_s = await _price(service, registration, account)
    cards = [
        card if card.registered_at else msgspec.structs.replace(card, registered_at=now)
        for card in [await keep_samples(service, card) for card in registration.models]
    ]
    await service.registry.put_models(cards)
    await service.cards.refresh()
    await register_pipelines(service)
    info = WorkerInfo(
        id=new_id(now),
        name=registration.name,
        pool=registration.pool,
        models={card.name: card.version for card in cards},
        slots=max(1, registration.slots),
        device=registration.device,
        host=registration.host,
        pid=registration.pid,
        instance=registration.instance,
        release=registration.release[:40],
        clock_ahead_s=(
            0.0 if registration.sent_at is None else (registration.sent_at - now).total_seconds()
        ),
        registered_at=now,
        seen_at=now,
        key_id=key_id,
        account=account,
        launched_at=launched_at,
        hour_micros=hour_micros,
        launch_micros=launch_micros,
        least_billed_s=least_billed_s,
        dearest_micros=max(card.price_micros for card in cards),
    )
    await service.fleet.add(info)
    await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    if registration.startup is not None:
        await keep_startups(service, [registration.startup], info, is_ready=True)
    return Welcome(
        worker_id=info.id,
        lease_s=settings.delivery.lease_s,
        heartbeat_s=settings.delivery.heartbeat_s,
        max_wait_s=settings.delivery.worker_wait_s,
        enclose_bytes=_ENCLOSE_BYTES if service.objects.is_here else 0,
        staged=staged_queues(service, info),
    )


async def _price(
    service: Service, registration: Registration, account: str
) -> tuple[int | None, int, float]:
    """Return a worker's price per hour, the price of its launch, and its shortest billed time.

    A machine keeps its first price when its worker registers again: with another one, its charges
    would not add up to its bill. `Tariffs` applies changes of the pool's price.
    """
    startup, pool = registration.startup, registration.pool
    if startup is not None and startup.ready_s is not None and startup.age_s > startup.ready_s:
        listed = await service.registry.workers()
        known = [service.tariffs.priced(each) for each in listed if each.account == account]
        priced = [each for each in known if each.hour_micros is not None]
        if priced:
            first = min(priced, key=lambda each: (each.registered_at, each.id))
            return first.hour_micros, first.launch_micros, first.least_billed_s
    tariffs = service.tariffs
    if tariffs.now_micros(pool) is None:
        # The autoscaler may have published the price since the last read.
        await service.scaling.listen()
    return tariffs.now_micros(pool), tariffs.launch_micros(pool), tariffs.least_billed_s(pool)


async def lease_tasks(
    service: Service,
    ask: Ask,
    is_gone: Callable[[], bool] = _NEVER_GONE,
    check_again: Callable[[], Awaitable[None]] | None = None,
) -> Grant:
    """Grant tasks as soon as there are some, or tell what there is to tell.

    Args:
        service: The backend.
        ask: What the worker wants, and how long it waits.
        is_gone: Whether the worker has hung up, so that nothing is leased to a dead connection.
        check_again: Raises where the worker's key has stopped working while it waited.
    """
    worker = await _known(service, ask.worker_id)
    worker.hear(service.clock.monotonic_s())
    worker.residents = ask.residents
    if ask.known is not None:
        await _take_back(service, worker, ask.known)
    wait_s = min(max(0.0, ask.wait_s), service.settings.delivery.worker_wait_s)
    wants = ask.n > 0 and _may_take(service, worker) and not is_gone()
    has_news = worker.cancels or (worker.info.draining and not worker.is_drain_told)
    tasks: list[Task] = []
    if ask.offered:
        if not worker.info.draining:
            _check_hands_out(service)
        tasks = await _start(service, worker, ask.offered[:MAX_LEASE]) if wants else []
    elif has_news or wait_s <= 0 or service.is_ending or is_gone():
        tasks = await _take(service, worker, ask.n if wants else 0)
    else:
        with _poll(worker, wait_s) as until:
            if wants:
                tasks = await _take(service, worker, ask.n, until=until)
            else:
                await until
        if check_again is not None:
            await _if_it_still_may(service, tasks, check_again)
    if tasks and (is_gone() or service.skew.is_wrong):
        await _hand_back(service, _holds(tasks))
        tasks = []
        if ask.offered:
            _check_hands_out(service)
    try:
        drain = worker.is_drain_told = worker.info.draining
        cancels = _to_stop(await _cancels(service, worker), tasks)
        return Grant(
            tasks=_leased(service, worker, tasks),
            cancels=cancels,
            drain=drain,
            staged=staged_queues(service, worker.info) if service.cards.lives else {},
        )
    except BaseException:
        await _hand_back(service, _holds(tasks))
        raise


async def _if_it_still_may(
    service: Service, tasks: Sequence[Task], check_again: Callable[[], Awaitable[None]]
) -> None:
    """Undo the leases and raise if the worker's key was revoked during the wait."""
    try:
        await check_again()
    except BaseException:
        await _hand_back(service, _holds(tasks))
        raise


async def take_report(service: Service, told: Report) -> ReportAnswer:
    """Store and publish a worker's report, and lease more tasks if asked.

    Raises:
        Forbidden: An outcome or an event names a file that is not one of its attempt's.
    """
    worker = await _known(service, told.worker_id)
    worker.hear(service.clock.monotonic_s())
    worker.residents = told.residents
    if told.known is not None:
        await _take_back(service, worker, told.known)
    if told.switches:
        service.metrics.models_switched(worker.count_switches(told.switches))
    if told.goodbye:
        # Tasks that it returns must not go to its own lease call, which may still wait.
        worker.leave()
    if told.enclosures:
        told = await _keep_enclosures(service, worker, told)
    _check_artifacts(told.settlements)
    _check_told_artifacts(told.progress)
    if told.settlements and not service.objects.is_here:
        told = await _check_stored(service, told)
    told = await _release_failed_uploads(service, told)
    told = _with_costs(service, service.tariffs.priced(worker.info), told)
    settled, tasks, lost = await _write(service, worker, told)
    onward = going_on(worker.info.id, told.settlements, settled) if told.onward else []
    try:
        return await _told(service, worker, told, settled, tasks, lost, onward)
    except BaseException:
        # The worker repeats its report, and never gets these leases.
        await _hand_back(service, _holds([*tasks, *onward]))
        raise


async def _told(
    service: Service,
    worker: Worker,
    told: Report,
    settled: Sequence[Task | None],
    tasks: Sequence[Task],
    lost: Sequence[str],
    onward: Sequence[Task],
) -> ReportAnswer:
    """Publish what a report that was written says, and return its answer."""
    stale = [
        each.task_id for each, task in zip(told.settlements, settled, strict=True) if task is None
    ]
    tell_files = worker.take_files_due()
    if told.progress:
        await _publish_progress(service, worker, told.progress, lacks_files=tell_files)
    if told.settlements:
        await service.changed([task for task in settled if task is not None])
        service.fleet.release(_over(service, told.settlements, settled))
        if onward:
            tasks = [*tasks, *onward]
            service.fleet.hold(worker, onward)
    if told.startups:
        await keep_startups(service, told.startups, worker.info)
    cancels = _to_stop([*await _cancels(service, worker), *lost], tasks)
    drain = worker.info.draining
    if told.goodbye:
        await service.fleet.part(told.worker_id)
        await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    return ReportAnswer(
        stale=stale,
        cancels=cancels,
        drain=drain,
        tasks=_leased(service, worker, tasks),
        watched=service.bus.watched(dict.fromkeys(each.task_id for each in told.progress)),
        tell_files=tell_files,
    )


def _with_costs(service: Service, info: WorkerInfo, told: Report) -> Report:
    """Return a report that says what the attempts in it cost, where the pool has a price."""
    settlements = told.settlements
    if not settlements or (
        info.hour_micros is None
        and all(
            each.outcome.timings.cost_micros is None and not each.outcome.timings.paid_micros
            for each in settlements
        )
    ):
        return told
    most_s = (service.clock.now() - info.registered_at).total_seconds()
    price = service.tariffs.hour_micros(info)
    costly = with_costs(price, settlements, most_s, info.dearest_micros)
    return msgspec.structs.replace(told, settlements=costly)


def _count(
    service: Service, info: WorkerInfo, settlements: Sequence[Settlement], ended: Ended
) -> None:
    """Count and charge ended attempts, each once, also if the report is repeated.

    Call it right after the write, with the store's word on which settlements are new.
    """
    requeued = service.metrics.requeued
    for place, (each, task) in enumerate(zip(settlements, ended, strict=True)):
        if task is None:
            continue
        if place in ended.again:
            if task.finished_at is not None:
                # The process that wrote it may have died before this; twice does no harm.
                service.quotas.ended(task)
            continue
        if service.cards.canaries:
            note_settled(service, task, each.outcome)
        if task.finished_at is not None:
            service.count_end(task)
        elif task.run is not None and task.run.done_by(each.attempt) is not None:
            service.stage_passed(task)
        else:
            requeued[task.model] = requeued.get(task.model, 0) + 1
    service.charges.settled(info, settlements, ended)


def _over(
    service: Service, settlements: Sequence[Settlement], settled: Sequence[Task | None]
) -> list[tuple[str, int]]:
    """Return the ended attempts, as (task id, attempt).

    A settlement that the store did not take says nothing about another lease.
    """
    return [
        (each.task_id, each.attempt)
        for each, task in zip(settlements, settled, strict=True)
        if task is not None or service.fleet.is_held(each.task_id, each.attempt, each.token)
    ]


async def _place(service: Service, key: str) -> Upload:
    """Return where to put a file: straight to the bucket where that is possible."""
    direct = await service.objects.direct("PUT", key, _PUT_URL_S)
    if direct is None:
        return Upload(key=key, url=service.objects.sign("PUT", key, _PUT_URL_S))
    return Upload(key=key, url=direct.url, headers=direct.headers)


async def _check_stored(service: Service, told: Report) -> Report:
    """Return a report with failures where a file that an outcome names is not in the bucket."""
    settlements = await asyncio.gather(*(_if_stored(service, each) for each in told.settlements))
    return msgspec.structs.replace(told, settlements=list(settlements))


async def _release_failed_uploads(service: Service, told: Report) -> Report:
    """Return a report whose failed uploads count as no attempts while no upload succeeds.

    While the object store takes files, the fault is the file's: the attempt counts.
    """
    if not any(_is_upload_failed(each) for each in told.settlements):
        return told
    if await service.writable.takes_files():
        return told
    settlements = [
        msgspec.structs.replace(
            each, outcome=Released(reason="upload failed", timings=each.outcome.timings)
        )
        if _is_upload_failed(each)
        else each
        for each in told.settlements
    ]
    return msgspec.structs.replace(told, settlements=settlements)


def _is_upload_failed(settlement: Settlement) -> bool:
    outcome = settlement.outcome
    return isinstance(outcome, Failed) and outcome.error.code == "upload_failed"


async def _if_stored(service: Service, settlement: Settlement) -> Settlement:
    outcome = settlement.outcome
    if not isinstance(outcome, Succeeded) or not outcome.artifacts:
        return settlement
    missing = await asyncio.gather(*(_lack(service, each) for each in outcome.artifacts))
    why = next((each for each in missing if each), None)
    if why is None:
        return settlement
    failure = TaskError(code="upload_failed", title="The output could not be stored", detail=why)
    failed = Failed(error=failure, retryable=True, timings=outcome.timings)
    return msgspec.structs.replace(settlement, outcome=failed)


async def _lack(service: Service, artifact: Artifact) -> str:
    """Return the problem of a file that a worker reports as stored; empty if none."""
    try:
        info = await service.objects.head(artifact.key)
    except (NotFound, InvalidRequest):
        return f"{artifact.key[:120]!r} is not there"
    if info.bytes != artifact.bytes:
        return f"{artifact.key[:120]!r} has {info.bytes:,} bytes, not {artifact.bytes:,}"
    return ""


def _is_output(key: str, task_id: str, attempt: int) -> bool:
    """Return whether a key is one for an output of an attempt."""
    home = f"outputs/{task_id}/{attempt}/"
    return key.startswith(home) and "/" not in key[len(home) :]


def _check_artifacts(settlements: Sequence[Settlement]) -> None:
    """Check that outcomes name files of their attempts alone.

    Readers of the task get signed URLs for them, so the key of another file would expose it.
    """
    for each in settlements:
        if not isinstance(each.outcome, Succeeded):
            continue
        for artifact in each.outcome.artifacts:
            _check_output(artifact.key, each.task_id, each.attempt)


def _check_told_artifacts(news: Sequence[Progress]) -> None:
    """Check files that are reported before the outcome in the same way."""
    for each in news:
        if _KINDS.get(each.kind) is EventKind.ARTIFACT and "key" in each.data:
            _check_output(each.data["key"], each.task_id, each.attempt)


def _check_output(key: object, task_id: str, attempt: int) -> None:
    if not isinstance(key, str) or not _is_output(key, task_id, attempt):
        raise Forbidden(
            f"{str(key)[:80]!r} is not a file of attempt {attempt} of task "
            f"{task_id[:60]}: use a key under outputs/{task_id[:60]}/{attempt}/"
        )


async def _keep_enclosures(service: Service, worker: Worker, told: Report) -> Report:
    """Store the files inside a report; return it with failures where that was refused.

    Raises:
        InvalidInput: A file is none that an outcome or an event in the report names.
    """
    files = {file.key: file for file in told.enclosures}
    parts = [_Part(each, _enclosed(each, files)) for each in told.settlements]
    early = {n: each for n, each in enumerate(told.progress) if _is_enclosed(each, files)}
    named = {str(each.data["key"]) for each in early.values()}
    if strange := set(files).difference(named, *(part.types for part in parts)):
        raise InvalidInput(
            f"{min(strange)[:120]!r} cannot be enclosed: nothing in this report names it as a file "
            "of its attempt, with this size"
        )
    await _learn_holds(
        service,
        worker,
        [*(part.hold for part in parts if part.types), *map(_hold_of, early.values())],
    )
    settlements = await asyncio.gather(*(_kept(service, part, files) for part in parts))
    lost = {n for n, each in early.items() if not await _kept_early(service, each, files)}
    progress = [each for n, each in enumerate(told.progress) if n not in lost]
    return msgspec.structs.replace(told, settlements=list(settlements), progress=progress)


def _hold_of(told: Progress) -> Hold:
    return Hold(task_id=told.task_id, attempt=told.attempt, token=told.token)


def _is_enclosed(told: Progress, files: Mapping[str, Enclosure]) -> bool:
    """Whether this is progress about a file that the report encloses."""
    if _KINDS.get(told.kind) is not EventKind.ARTIFACT:
        return False
    key, data = told.data.get("key"), told.data
    return (
        isinstance(key, str)
        and key in files
        and _is_output(key, told.task_id, told.attempt)
        and data.get("bytes") == len(files[key].data)
        and isinstance(data.get("content_type"), str)
    )


async def _kept_early(service: Service, told: Progress, files: Mapping[str, Enclosure]) -> bool:
    """Store a file that came before its outcome; whether it is there.

    The outcome brings it again, and fails where it cannot be stored then either.
    """
    if not service.fleet.is_held(told.task_id, told.attempt, told.token):
        # No event is published for it.
        return True
    key = told.data["key"]
    try:
        await service.objects.put_new(key, files[key].data, plain_type(told.data["content_type"]))
    except SwellError as error:
        _log.warning("a file cannot be stored yet", task=told.task_id, detail=error.detail)
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Part:
    """An outcome, and those of its files that came with it."""

    settlement: Settlement
    #: Key → media type.
    types: Mapping[str, str]

    @property
    def hold(self) -> Hold:
        told = self.settlement
        return Hold(task_id=told.task_id, attempt=told.attempt, token=told.token)


def _enclosed(settlement: Settlement, files: Mapping[str, Enclosure]) -> dict[str, str]:
    """Return the keys and media types of an outcome's files that are enclosed."""
    if not isinstance(settlement.outcome, Succeeded):
        return {}
    return {
        artifact.key: plain_type(artifact.content_type)
        for artifact in settlement.outcome.artifacts
        if artifact.key in files
        and _is_output(artifact.key, settlement.task_id, settlement.attempt)
        and artifact.bytes == len(files[artifact.key].data)
    }


async def _kept(service: Service, part: _Part, files: Mapping[str, Enclosure]) -> Settlement:
    """Store the files of one outcome; return it, or that it failed."""
    hold = part.hold
    if not part.types or not service.fleet.is_held(hold.task_id, hold.attempt, hold.token):
        # The store will not take the outcome either, unless it has it already.
        return part.settlement
    try:
        for key, content_type in part.types.items():
            await service.objects.put_new(key, files[key].data, content_type)
    except SwellError as error:
        failure = TaskError(
            code="upload_failed", title="The output could not be stored", detail=error.detail
        )
        failed = Failed(error=failure, retryable=True, timings=part.settlement.outcome.timings)
        return msgspec.structs.replace(part.settlement, outcome=failed)
    return part.settlement


async def _cancels(service: Service, worker: Worker) -> list[str]:
    """Return the tasks that a worker must stop, if that is still so.

    With several backends another one may have sent the cancellation, and a new attempt may run.
    """
    cancels = worker.take_cancels()
    if not cancels or not service.backend.is_shared:
        return cancels
    tasks = await service.store.get(cancels)
    return [
        task.id
        for task in tasks
        if task is not None and (must_stop(task) or task.worker_id != worker.info.id)
    ]


def _to_stop(task_ids: Sequence[str], granted: Sequence[Task]) -> list[str]:
    """Return the tasks that a worker has to stop, each once.

    A task granted in the same answer is left out: its lost earlier attempt ends by itself, and the
    worker would stop the new one. A cancellation comes with the next heartbeat.
    """
    new = {task.id for task in granted}
    return [task_id for task_id in dict.fromkeys(task_ids) if task_id not in new]


async def _write(
    service: Service, worker: Worker, told: Report
) -> tuple[list[Task | None], list[Task], list[str]]:
    """Settle, extend and lease in one commit; return what each gave."""
    may_take = _may_take(service, worker) and not told.goodbye
    wants = told.ask > 0 and may_take
    onward = None
    if told.onward > 0 and may_take:
        wish = _wish(service, worker, told.onward)
        onward = Onward(
            worker_id=wish.worker_id,
            versions={queue: version for queue, _, version in wish.queues},
            n=wish.n,
            lease_s=wish.lease_s,
        )
    if told.settlements and not told.holds and not wants:
        return await _settle(service, worker, told.settlements, onward), [], []
    settled, lost, tasks = await asyncio.gather(
        _settle(service, worker, told.settlements, onward),
        _extend(service, worker, told.holds),
        _take(service, worker, told.ask if wants else 0),
        return_exceptions=True,
    )
    if isinstance(tasks, BaseException):
        # The worker asks again; its report matters more.
        tasks = []
    for result in (settled, lost):
        if isinstance(result, BaseException):
            await _hand_back(service, _holds(tasks))
            raise result
    assert not isinstance(settled, BaseException)
    assert not isinstance(lost, BaseException)
    return settled, tasks, lost


async def _settle(
    service: Service, worker: Worker, settlements: list[Settlement], onward: Onward | None
) -> list[Task | None]:
    if not settlements:
        return []
    if onward is not None:
        ended = await service.store.settle(settlements, onward)
    else:
        ended = await service.store.settle(settlements)
    info = service.tariffs.priced(worker.info)
    _count(service, info, settlements, ended)
    await _pay(service, info, settlements, ended)
    return ended


async def _pay(
    service: Service, info: WorkerInfo, settlements: Sequence[Settlement], ended: Ended
) -> None:
    """Charge payments of attempts to other services, also of lost or expired attempts."""
    paying = [
        (each, task)
        for each, task in zip(settlements, ended, strict=True)
        if each.outcome.timings.paid_micros
    ]
    if not paying:
        return
    asked = [each.task_id for each, task in paying if task is None]
    known = {task.id: task for task in (await service.store.get(asked) if asked else ()) if task}
    told: list[tuple[Settlement, Task, bool]] = []
    for each, task in paying:
        if task is not None:
            told.append((each, task, False))
        elif (left := known.get(each.task_id)) and _may_have_run(info, left, each.attempt):
            told.append((each, left, True))
    await service.charges.pay(info, told)


def _may_have_run(info: WorkerInfo, task: Task, attempt: int) -> bool:
    """Whether a worker may have had an attempt that the store knows nothing of any more."""
    run = task.run
    models = {task.model} if run is None else {stage.model for stage in run.pipeline.stages}
    return 0 < attempt <= task.attempt and not models.isdisjoint(info.models)


async def _extend(service: Service, worker: Worker, holds: list[Hold]) -> list[str]:
    """Extend leases; return the ids of tasks that the worker must stop."""
    if not holds:
        return []
    if service.skew.is_wrong:
        # After a suspend the machine's clock only seems to be wrong.
        await service.skew.compare()
    # By the clock of the database: a lease that this one ended in the past would be lost at once.
    lease_s = service.settings.delivery.lease_s - service.skew.ahead_s
    states = await service.store.extend(holds, lease_s=lease_s)
    stopped = []
    for hold, state in zip(holds, states, strict=True):
        if state.is_held:
            service.fleet.learn_hold(worker, hold)
        elif service.fleet.is_held(hold.task_id, hold.attempt, hold.token):
            service.fleet.release([(hold.task_id, hold.attempt)])
        if not state.is_held or state.cancel_requested:
            stopped.append(hold.task_id)
    return stopped


def _may_take(service: Service, worker: Worker) -> bool:
    """Whether a worker may get tasks now."""
    return not worker.info.draining and not service.refusal


def _check_hands_out(service: Service) -> None:
    """Raise while no tasks are handed out: a worker with ids of a queue keeps them, and asks again.

    Raises:
        Unavailable: With the reason.
    """
    if service.refusal:
        raise Unavailable(f"no tasks are handed out: {service.refusal}")


async def _take(
    service: Service, worker: Worker, n: int, *, until: "asyncio.Future[None] | None" = None
) -> list[Task]:
    """Lease up to `n` tasks for a worker, and tell that they have started."""
    if n <= 0:
        return []
    tasks = await service.broker.lease(_wish(service, worker, n), until=until)
    if service.publisher is not None:
        service.publisher.leased(tasks)
    await _tell_started(service, worker, tasks)
    return tasks


def _wish(service: Service, worker: Worker, n: int) -> LeaseRequest:
    return LeaseRequest(
        worker_id=worker.info.id,
        models=worker.info.models,
        n=min(n, MAX_LEASE),
        lease_s=service.settings.delivery.lease_s,
        residents=worker.residents or (),
        staged=staged_queues(service, worker.info) if service.cards.lives else {},
    )


async def _start(service: Service, worker: Worker, task_ids: Sequence[str]) -> list[Task]:
    """Start tasks whose ids a worker took from a queue service itself, if it serves them."""
    versions = {
        queue: version for queue, _, version in _wish(service, worker, len(task_ids)).queues
    }
    starts = [
        Start(
            task_id=task.id,
            queue=task.queue,
            worker_id=worker.info.id,
            version=versions[task.queue],
            token=new_token(),
            lease_s=service.settings.delivery.lease_s,
        )
        for task in await service.store.get(task_ids)
        if task is not None and task.queue in versions
    ]
    tasks = [task for task in await service.store.start(starts) if task is not None]
    await _tell_started(service, worker, tasks)
    return tasks


async def _tell_started(service: Service, worker: Worker, tasks: Sequence[Task]) -> None:
    if tasks:
        service.fleet.hold(worker, tasks)
        service.metrics.lease_tasks.observe(len(tasks))
        try:
            await service.bus.publish([event_of(task) for task in tasks])
        except BaseException:
            await _hand_back(service, _holds(tasks))
            raise


def _holds(tasks: Sequence[Task]) -> list[Hold]:
    return [
        Hold(task_id=task.id, attempt=task.attempt, token=task.lease_token or "") for task in tasks
    ]


async def _hand_back(service: Service, holds: Sequence[Hold]) -> None:
    """Undo leases that never reached their worker; where that fails, they run out."""
    if not holds:
        return
    outcome = Released(reason="undelivered")
    told = [
        Settlement(task_id=each.task_id, attempt=each.attempt, token=each.token, outcome=outcome)
        for each in holds
    ]
    try:
        released = await service.store.settle(told)
        service.fleet.release([(each.task_id, each.attempt) for each in holds])
        await service.changed([task for task in released if task is not None])
    except SwellError as error:
        _log.warning("leases: cannot undo leases whose response was lost", detail=error.detail)


async def _take_back(service: Service, worker: Worker, known: Sequence[Hold]) -> None:
    """Undo leases that a worker never received, judged by the leases that it reports.

    Leases granted by other backends are known here from their messages.
    """
    tokens = {hold.token for hold in known}
    held = await service.store.get(service.fleet.held_by(worker.info.id))
    lost = [
        task
        for task in held
        if task is not None
        and task.state is TaskState.RUNNING
        and task.worker_id == worker.info.id
        and task.lease_token not in tokens
    ]
    if lost:
        _log.info(
            "leases: undoing leases whose response was lost", n=len(lost), worker_id=worker.info.id
        )
        await _hand_back(service, _holds(lost))


async def _learn_holds(service: Service, worker: Worker, holds: Sequence[Hold]) -> None:
    """Ask the store about leases that this process does not know.

    After a restart of the backend only the store knows the leases.
    """
    is_held = service.fleet.is_held
    unknown = [each for each in holds if not is_held(each.task_id, each.attempt, each.token)]
    if unknown:
        await _extend(service, worker, unknown)


async def _publish_progress(
    service: Service, worker: Worker, news: Sequence[Progress], *, lacks_files: bool
) -> None:
    """Publish what happened within attempts, unless the attempt is no longer this worker's.

    Args:
        service: The backend.
        worker: The worker.
        news: Its progress.
        lacks_files: Whether files may have been missed. The next report repeats them; events that
            would overtake them, against the order of ids, wait for that.
    """
    news = await _there(service, news)
    fleet = service.fleet
    told = {(each.task_id, each.attempt, each.token): None for each in news}
    holds = [Hold(task_id=task, attempt=attempt, token=token) for task, attempt, token in told]
    await _learn_holds(service, worker, holds)
    events, passing = [], []
    for each in news:
        kind = _KINDS.get(each.kind)
        if kind is None or not 0 < each.place < ATTEMPT_STRIDE - 1:
            continue
        if fleet.is_held(each.task_id, each.attempt, each.token):
            number = each.attempt * ATTEMPT_STRIDE + each.place
            event = Event(task_id=each.task_id, id=number, kind=kind, data=each.data)
            if not each.again:
                passing.append(event)
            if each.again or not (lacks_files and each.files):
                events.append(event)
    if events:
        await service.bus.publish(events)
    if passing and service.hooks is not None:
        service.hooks.pass_on(passing)


async def _there(service: Service, news: Sequence[Progress]) -> list[Progress]:
    """Return news without repeated files that were never stored."""
    unsure = [each for each in news if each.again and not _is_remembered(service, each)]
    if not unsure:
        return list(news)
    found = await asyncio.gather(*(_is_stored(service, each.data) for each in unsure))
    lost = {id(each) for each, is_there in zip(unsure, found, strict=True) if not is_there}
    return [each for each in news if id(each) not in lost]


def _is_remembered(service: Service, told: Progress) -> bool:
    """Whether this process has published this progress before."""
    number = told.attempt * ATTEMPT_STRIDE + told.place
    remembered = service.bus.history(told.task_id, after=number - 1)
    return bool(remembered) and remembered[0].id == number


async def _is_stored(service: Service, told: Mapping[str, object]) -> bool:
    """Whether a file lies where a worker says."""
    artifact = read_artifact(told)
    if artifact is None:
        return False
    try:
        return not await _lack(service, artifact)
    except SwellError as error:
        _log.info("files: cannot check a file that was reported twice", detail=error.detail)
        return False


@contextlib.contextmanager
def _poll(worker: Worker, wait_s: float) -> Iterator["asyncio.Future[None]"]:
    """Yield a future that ends a worker's wait: after a while, or when there is news for it."""
    loop = asyncio.get_running_loop()
    until: asyncio.Future[None] = loop.create_future()
    worker.polls.add(until)
    timer = loop.call_later(wait_s, _end_poll, until)
    try:
        yield until
    finally:
        timer.cancel()
        worker.polls.discard(until)


def _end_poll(until: "asyncio.Future[None]") -> None:
    if not until.done():
        until.set_result(None)


async def _check_own(service: Service, call: Call, worker_id: str) -> None:
    """Check that a worker was registered with the key that speaks for it now, or an operator's.

    What operators do for workers of others is written down.

    Raises:
        NotFound: There is no such worker.
        Forbidden: It is another key's.
    """
    owner = (await _known(service, worker_id)).info.key_id
    if not owner or owner == call.caller.id:
        return
    if Scope.ADMIN not in call.caller.scopes:
        raise Forbidden(
            f"worker {worker_id[:60]!r} was registered with another key: use that one, or register "
            "again"
        )
    call.of_others, call.target = True, worker_id


async def _known(service: Service, worker_id: str) -> Worker:
    worker = service.fleet.get(worker_id) or await service.fleet.find(worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: register again")
    return worker


def _leased(service: Service, worker: Worker, tasks: Sequence[Task]) -> list[LeasedTask]:
    leased = _leased_as_they_are(service, tasks)
    if all(task.run is None for task in tasks):
        return leased
    models = worker.info.models
    return [
        each if task.run is None else leased_stage(service.objects, task, task.run, each, models)
        for task, each in zip(tasks, leased, strict=True)
    ]


def _leased_as_they_are(service: Service, tasks: Sequence[Task]) -> list[LeasedTask]:
    now = service.clock.now()
    return [
        LeasedTask(
            task_id=task.id,
            attempt=task.attempt,
            token=task.lease_token or "",
            model=task.stage_model,
            version=task.version,
            input=task.input,
            count=task.count,
            seed=task.seed,
            finish_within_s=(
                None
                if task.finish_by_at is None
                else max(0.0, (task.finish_by_at - now).total_seconds())
            ),
            own_files=(
                name_files(service.objects, task.input) if may_name_files(task.input) else {}
            ),
            checkpoint=(
                None
                if task.checkpoint is None
                else service.objects.sign("GET", task.checkpoint, READ_URL_S)
            ),
            traceparent=service.traces.leased(task),
        )
        for task in tasks
    ]


def _check_told(registration: Registration) -> None:
    """Check what a worker says of itself, which operators read in lists, logs and numbers."""
    for what in ("name", "pool", "device", "host", "instance"):
        told = getattr(registration, what)
        if len(told) > 200 or not all(each == " " or each.isprintable() for each in told):
            raise InvalidInput(
                f"the worker's {what} {told[:60]!r} cannot be shown: use at most 200 printable "
                "characters"
            )


def _check_price(card: ModelCard) -> None:
    if not 0 <= card.price_micros <= MOST_PRICE_MICROS:
        raise InvalidInput(
            f"{card.name}: price_micros = {card.price_micros} must be from 0 to "
            f"{MOST_PRICE_MICROS:_} millionths of a dollar"
        )


async def _check_unchanged(service: Service, card: ModelCard) -> None:
    """Check that the schemas of a known version have not changed.

    A card without a schema says nothing of it.

    Raises:
        Conflict: It does not.
    """
    known = await service.cards.registered(card.name, card.version)
    if known is None:
        return
    for what in ("input_schema", "output_schema"):
        before, now = getattr(known, what), getattr(card, what)
        if before and now and before != now:
            raise Conflict(
                f"version {card.version} of {card.name} is already registered with a "
                f"different {what}, and versions never change: register the change as a "
                "new version (Swell does this itself for versions that it derives from "
                "code and files)"
            )


def _check_names(name: str, version: str) -> None:
    if not (is_model_name(name) and is_plain_word(version)):
        raise InvalidInput(
            f"{name[:120]!r} version {version[:60]!r} cannot be a model's name: use owner/name and "
            "a version of letters, digits, '-', '_' and '.'"
        )
