"""Reports of workers: settlements, progress and new leases.

A report settles, extends and leases in one commit. Its settlements are durable before the answer is
sent.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from swell.api.canaries import note_settled
from swell.api.charges import with_costs
from swell.api.fleet import Worker
from swell.api.reported_files import (
    EVENT_KINDS,
    check_artifacts,
    check_stored,
    check_told_artifacts,
    keep_enclosures,
    release_failed_uploads,
    without_lost_files,
)
from swell.api.service import Service
from swell.api.stages import going_on
from swell.api.startups import keep_startups
from swell.api.worker_leases import (
    extend_leases,
    find_worker,
    holds_of,
    learn_holds,
    lease_request,
    leased_tasks,
    may_take_tasks,
    open_cancels,
    take_tasks,
    tasks_to_stop,
    undo_leases,
    undo_lost_leases,
)
from swell.bus import MessageKind, PeerMessage
from swell.dispatch import (
    Progress,
    Report,
    ReportAnswer,
)
from swell.events import ATTEMPT_STRIDE, Event
from swell.registry import WorkerInfo
from swell.store import Ended, Hold, Onward
from swell.task import (
    Settlement,
    Task,
)


async def take_report(service: Service, told: Report) -> ReportAnswer:
    """Store and publish a worker's report, and lease more tasks if asked.

    Raises:
        Forbidden: An outcome or an event names a file that is not one of its attempt's.
    """
    worker = await find_worker(service, told.worker_id)
    worker.hear(service.clock.monotonic_s())
    worker.residents = told.residents
    if told.known is not None:
        await undo_lost_leases(service, worker, told.known)
    if told.switches:
        service.metrics.models_switched(worker.count_switches(told.switches))
    if told.goodbye:
        # Tasks that it returns must not go to its own lease call, which may still wait.
        worker.leave()
    if told.enclosures:
        told = await keep_enclosures(service, worker, told)
    check_artifacts(told.settlements)
    check_told_artifacts(told.progress)
    if told.settlements and not service.objects.is_here:
        told = await check_stored(service, told)
    told = await release_failed_uploads(service, told)
    told = _with_costs(service, service.tariffs.priced(worker.info), told)
    settled, tasks, lost = await _write(service, worker, told)
    onward = going_on(worker.info.id, told.settlements, settled) if told.onward else []
    try:
        return await _told(service, worker, told, settled, tasks, lost, onward)
    except BaseException:
        # The worker repeats its report, and never gets these leases.
        await undo_leases(service, holds_of([*tasks, *onward]))
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
    cancels = tasks_to_stop([*await open_cancels(service, worker), *lost], tasks)
    drain = worker.info.draining
    if told.goodbye:
        await service.fleet.part(told.worker_id)
        await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    return ReportAnswer(
        stale=stale,
        cancels=cancels,
        drain=drain,
        tasks=leased_tasks(service, worker, tasks),
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


async def _write(
    service: Service, worker: Worker, told: Report
) -> tuple[list[Task | None], list[Task], list[str]]:
    """Settle, extend and lease in one commit; return what each gave."""
    may_take = may_take_tasks(service, worker) and not told.goodbye
    wants = told.ask > 0 and may_take
    onward = None
    if told.onward > 0 and may_take:
        wish = lease_request(service, worker, told.onward)
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
        extend_leases(service, worker, told.holds),
        take_tasks(service, worker, told.ask if wants else 0),
        return_exceptions=True,
    )
    if isinstance(tasks, BaseException):
        # The worker asks again; its report matters more.
        tasks = []
    for result in (settled, lost):
        if isinstance(result, BaseException):
            await undo_leases(service, holds_of(tasks))
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
    news = await without_lost_files(service, news)
    fleet = service.fleet
    told = {(each.task_id, each.attempt, each.token): None for each in news}
    holds = [Hold(task_id=task, attempt=attempt, token=token) for task, attempt, token in told]
    await learn_holds(service, worker, holds)
    events, passing = [], []
    for each in news:
        kind = EVENT_KINDS.get(each.kind)
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
