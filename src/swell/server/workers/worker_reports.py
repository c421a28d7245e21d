"""Reports of workers: `POST /worker/v1/report`, with outcomes, progress and new leases.

A report settles, extends and leases in one commit. Its settlements are durable before the answer is
sent.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from swell.core.errors import NotFound
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import ATTEMPT_STRIDE, Event
from swell.core.records import WorkerInfo
from swell.core.store_types import Ended, Hold, Onward
from swell.core.task import Settlement, Succeeded, Task
from swell.protocol.worker_messages import Progress, Report, ReportAnswer
from swell.server.billing.attempt_costs import with_costs
from swell.server.decoding import Reader
from swell.server.request import Call, Reply
from swell.server.rollouts.canary_monitor import note_settled
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.server.tasks.stage_inputs import going_on
from swell.server.tasks.submit import count_end, publish_changes, stage_passed
from swell.server.workers.reported_files import EVENT_KINDS, with_checked_files, without_lost_files
from swell.server.workers.startups import keep_startups
from swell.server.workers.worker_leases import (
    extend_leases,
    holds_of,
    learn_holds,
    lease_request,
    leased_task,
    own_worker,
    refusal_of,
    reply_with_leases,
    take_cancels,
    take_tasks,
    undo_leases,
    undo_lost_leases,
)
from swell.server.workers.worker_tracker import Worker

_report = Reader(Report)


@worker_route(
    "POST /worker/v1/report",
    Response("The stored result", ReportAnswer),
    body=Report,
    errors=(NotFound,),
    audit="workers.report",
    operation_id="workers_report",
)
async def report(service: Service, call: Call) -> Reply:
    """Report progress and outcomes."""
    received: Report = await call.read(_report, service.settings.server.max_upload_bytes)
    worker = await own_worker(service, call, received.worker_id)
    return reply_with_leases(service, await take_report(service, worker, received))


async def take_report(service: Service, worker: Worker, report: Report) -> ReportAnswer:
    """Store and publish a worker's report, and lease more tasks if it asks for some.

    Raises:
        Forbidden: An outcome or an event names a file that is not one of its attempt's.
    """
    worker.residents = report.residents
    if report.known is not None:
        await undo_lost_leases(service, worker, report.known)
    if report.switches:
        service.metrics.models_switched(worker.count_switches(report.switches))
    if report.goodbye:
        # Tasks that it returns must not go to its own lease call, which may still wait.
        worker.leave()
    outcomes = [each.outcome for each in report.settlements]
    checked = [each for each in outcomes if not isinstance(each, Succeeded) or each.artifacts]
    if report.enclosures or report.progress or checked:
        report = await with_checked_files(service, worker, report)
    if report.settlements:
        info = service.tariffs.priced(worker.info)
        report = _with_costs(service, info, report)
    else:
        info = worker.info
    ended, tasks, lost = await _write(service, worker, info, report)
    onward = going_on(worker.info.id, report.settlements, ended) if report.onward else []
    try:
        return await _publish(service, worker, report, ended, tasks, lost, onward)
    except BaseException:
        # The worker repeats its report, and never gets these leases.
        await undo_leases(service, holds_of([*tasks, *onward]))
        raise


async def _publish(
    service: Service,
    worker: Worker,
    report: Report,
    ended: Ended,
    tasks: Sequence[Task],
    lost: Sequence[str],
    onward: Sequence[Task],
) -> ReportAnswer:
    """Publish the content of a report that was written, and return its answer.

    Args:
        service: The backend.
        worker: The worker.
        report: Its report.
        ended: The tasks of its settlements.
        tasks: Tasks that it has leased.
        lost: Tasks that it holds without a lease.
        onward: Pipelines that have started their next stage on it.
    """
    settled = list(zip(report.settlements, ended, strict=True))
    tell_files, worker.files_due = worker.files_due, False
    if report.progress:
        await _publish_progress(service, worker, report.progress, lacks_files=tell_files)
    if settled:
        publish_changes(service, [task for task in ended if task is not None])
        # A refused settlement does not end another lease.
        service.fleet.release(
            [
                (each.task_id, each.attempt)
                for each, task in settled
                if task is not None or service.fleet.is_held(each)
            ]
        )
    if onward:
        tasks = [*tasks, *onward]
        service.fleet.hold(worker, onward)
    if report.startups:
        await keep_startups(service, report.startups, worker.info)
    cancels: list[str] = []
    if worker.cancels or lost:
        cancels = await take_cancels(service, worker, tasks, lost)
    drain = worker.info.draining
    if report.goodbye:
        await service.fleet.remove(report.worker_id)
        await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])
    followed = dict.fromkeys([each.task_id for each in report.progress])
    return ReportAnswer(
        stale=[each.task_id for each, task in settled if task is None],
        cancels=cancels,
        drain=drain,
        tasks=[leased_task(service, worker, task) for task in tasks],
        watched=service.bus.watched(followed) if followed else [],
        tell_files=tell_files,
    )


def _with_costs(service: Service, info: WorkerInfo, report: Report) -> Report:
    """Return a report with the cost of each attempt, if the pool has a price or others are paid."""
    timings = [each.outcome.timings for each in report.settlements]
    has_costs = [each for each in timings if each.cost_micros is not None or each.paid_micros]
    if info.hour_micros is None and not has_costs:
        return report
    most_s = (service.clock.now() - info.registered_at).total_seconds()
    price = service.tariffs.hour_micros(info)
    costly = with_costs(price, report.settlements, most_s, info.dearest_micros)
    return msgspec.structs.replace(report, settlements=costly)


async def _write(
    service: Service, worker: Worker, info: WorkerInfo, report: Report
) -> tuple[Ended, list[Task], list[str]]:
    """Settle, extend and lease in one commit.

    Args:
        service: The backend.
        worker: The worker.
        info: The same, with its price.
        report: Its report.

    Returns:
        The tasks of the settlements, the new leases, and the tasks of lost leases.
    """
    n = report.ask
    onward = None
    if n > 0 or report.onward > 0:
        if worker.info.draining or report.goodbye or refusal_of(service):
            n = 0
        elif report.onward > 0:
            request = lease_request(service, worker, report.onward)
            onward = Onward(
                worker_id=request.worker_id,
                versions=request.queues,
                n=request.n,
                lease_s=request.lease_s,
            )
    if report.settlements and not report.holds and n <= 0:
        return await _settle(service, info, report.settlements, onward), [], []
    settled, lost, tasks = await asyncio.gather(
        _settle(service, info, report.settlements, onward),
        extend_leases(service, worker, report.holds),
        take_tasks(service, worker, n),
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
    service: Service, info: WorkerInfo, settlements: Sequence[Settlement], onward: Onward | None
) -> Ended:
    """Store outcomes. Count and charge ended attempts, each once, also if a report is repeated."""
    if not settlements:
        return Ended()
    ended = await service.store.settle(settlements, onward)
    for place, (each, task) in enumerate(zip(settlements, ended, strict=True)):
        if task is None:
            continue
        if place in ended.again:
            if task.finished_at is not None and task.key_id in service.quotas.ever:
                # The process that wrote it may have died before this; twice does no harm.
                service.quotas.ended(task)
            continue
        if service.cards.canaries:
            note_settled(service, task, each.outcome)
        if task.finished_at is not None:
            count_end(service, task)
        elif task.run is not None and task.run.done_by(each.attempt) is not None:
            stage_passed(service, task)
        else:
            service.metrics.count("swell_attempts_requeued_total", task.model)
    service.charges.settled(info, settlements, ended)
    paying = [
        (each, task)
        for each, task in zip(settlements, ended, strict=True)
        if each.outcome.timings.paid_micros
    ]
    if paying:
        await _pay(service, info, paying)
    return ended


async def _pay(
    service: Service, info: WorkerInfo, paying: Sequence[tuple[Settlement, Task | None]]
) -> None:
    """Charge payments of attempts to other services, also of lost or expired attempts."""
    asked = [each.task_id for each, task in paying if task is None]
    known = {task.id: task for task in (await service.store.get(asked) if asked else ()) if task}
    payments: list[tuple[Settlement, Task, bool]] = []
    for each, task in paying:
        if task is not None:
            payments.append((each, task, False))
        elif (left := known.get(each.task_id)) and _may_have_run(info, left, each.attempt):
            payments.append((each, left, True))
    await service.charges.pay(info, payments)


def _may_have_run(info: WorkerInfo, task: Task, attempt: int) -> bool:
    """Whether a worker may have had an attempt that the store does not know any more."""
    run = task.run
    models = {task.model} if run is None else {stage.model for stage in run.pipeline.stages}
    return 0 < attempt <= task.attempt and not models.isdisjoint(info.models)


async def _publish_progress(
    service: Service, worker: Worker, news: Sequence[Progress], *, lacks_files: bool
) -> None:
    """Publish events within attempts, unless the attempt is no longer this worker's.

    Args:
        service: The backend.
        worker: The worker.
        news: Its progress.
        lacks_files: Whether files may have been missed. The next report repeats them; events that
            would overtake them, against the order of ids, wait for that.
    """
    news = await without_lost_files(service, news)
    holds = [Hold(task_id=each.task_id, attempt=each.attempt, token=each.token) for each in news]
    await learn_holds(service, worker, list(dict.fromkeys(holds)))
    events, passing = [], []
    for each in news:
        kind = EVENT_KINDS.get(each.kind)
        if kind is None or not 0 < each.place < ATTEMPT_STRIDE - 1:
            continue
        if service.fleet.is_held(each):
            number = each.attempt * ATTEMPT_STRIDE + each.place
            event = Event(task_id=each.task_id, id=number, kind=kind, data=each.data)
            if not each.again:
                passing.append(event)
            if each.again or not (lacks_files and each.files):
                events.append(event)
    if events:
        service.bus.publish(events)
    if passing:
        service.hooks.pass_on(passing)
