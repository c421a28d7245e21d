"""Leases of workers: `POST /worker/v1/lease`, extensions, and leases that never arrived."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from swell.core.broker_types import LeaseRequest
from swell.core.errors import Forbidden, NotFound, SwellError, Unavailable
from swell.core.events import event_of
from swell.core.records import Scope
from swell.core.store_types import Hold, Start
from swell.core.task import Released, Settlement, Task, TaskState, new_token
from swell.protocol.worker_messages import Ask, Grant, LeasedTask, ReportAnswer
from swell.server.decoding import Reader
from swell.server.files.file_routes import READ_URL_S, SIGNED, name_files
from swell.server.peer_messages import must_stop
from swell.server.request import Call, Reply
from swell.server.rollouts.version_routing import staged_queues
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.server.tasks.stage_inputs import leased_stage
from swell.server.tasks.submit import publish_changes
from swell.server.workers.worker_tracker import Worker

_log = structlog.get_logger("swell.api")

#: The most tasks that one lease or report hands out.
_MAX_LEASE: Final = 512

_ask = Reader(Ask)
_encode = msgspec.json.Encoder().encode


@worker_route(
    "POST /worker/v1/lease",
    Response("Tasks, cancellations, or nothing", Grant),
    body=Ask,
    errors=(NotFound,),
    audit="workers.lease",
    operation_id="workers_lease",
)
async def lease(service: Service, call: Call) -> Reply:
    """Lease tasks."""
    ask: Ask = await call.read(_ask, service.settings.server.max_body_bytes)
    worker = await own_worker(service, call, ask.worker_id)
    return reply_with_leases(service, await lease_tasks(service, worker, ask, call))


async def own_worker(service: Service, call: Call, worker_id: str) -> Worker:
    """Return the worker of a call, which is a sign of life.

    A worker uses the key that registered it. Calls of operators are written to the audit log.

    Raises:
        NotFound: The worker is not registered.
        Forbidden: Another key registered it.
    """
    worker = service.fleet.workers.get(worker_id) or await service.fleet.find(worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: register again")
    if worker.info.key_id not in ("", call.caller.id):
        if Scope.ADMIN not in call.caller.scopes:
            raise Forbidden(
                f"worker {worker_id[:60]!r} was registered with another key: use that one, or "
                "register again"
            )
        call.of_others, call.target = True, worker_id
    worker.seen_s = service.clock.monotonic_s()
    worker.was_seen = worker.has_called = True
    return worker


def reply_with_leases(service: Service, answer: Grant | ReportAnswer) -> Reply:
    """Return an answer to a worker. If it does not arrive, its leases are undone."""
    reply = Reply(200, _encode(answer))
    if answer.tasks:
        reply.lost = lambda: undo_leases(service, [task.hold for task in answer.tasks])
    return reply


async def lease_tasks(
    service: Service, worker: Worker, ask: Ask, call: Call | None = None
) -> Grant:
    """Grant tasks, cancellations or a drain as soon as there are some.

    The key of the call must still work after the wait.

    Raises:
        Unauthenticated: The key was revoked during the wait.
        Unavailable: No tasks are handed out, and the worker offers ids of an external queue: it
            keeps them, and asks again.
    """
    worker.residents = ask.residents
    if ask.known is not None:
        await undo_lost_leases(service, worker, ask.known)
    wait_s = min(max(0.0, ask.wait_s), service.settings.delivery.worker_wait_s)
    is_draining, refusal = worker.info.draining, refusal_of(service)
    n = 0 if is_draining or refusal else ask.n
    has_news = worker.cancels or (is_draining and not worker.is_drain_told)
    if ask.offered:
        if refusal and not is_draining:
            raise Unavailable(f"no tasks are handed out: {refusal}")
        tasks = await _start(service, worker, ask.offered[:_MAX_LEASE]) if n > 0 else []
    elif has_news or wait_s <= 0 or service.is_ending:
        tasks = await take_tasks(service, worker, n)
    else:
        # Done after a while, or when there is news for the worker.
        loop = asyncio.get_running_loop()
        until: asyncio.Future[None] = loop.create_future()
        worker.polls.add(until)
        timer = loop.call_later(wait_s, _end_poll, until)
        try:
            tasks = await take_tasks(service, worker, n, until=until)
            if n <= 0:
                await until
        finally:
            timer.cancel()
            worker.polls.discard(until)
    try:
        # The key, the clock and the object store may have changed during the wait.
        if call is not None:
            await service.keys.find(call.headers.get(b"authorization"))
        if tasks and (refusal := refusal_of(service)):
            await undo_leases(service, holds_of(tasks))
            tasks = []
            if ask.offered:
                raise Unavailable(f"no tasks are handed out: {refusal}")
        drain = worker.is_drain_told = worker.info.draining
        cancels = await take_cancels(service, worker, tasks) if worker.cancels else []
        return Grant(
            tasks=[leased_task(service, worker, task) for task in tasks],
            cancels=cancels,
            drain=drain,
            staged=staged_queues(service, worker.info) if service.cards.lives else {},
        )
    except BaseException:
        await undo_leases(service, holds_of(tasks))
        raise


def refusal_of(service: Service) -> str:
    """Return why no tasks are handed out; empty while they are."""
    skew = service.skew
    return (skew.refusal if skew.right_s is not None else "") or service.writable.refusal


async def take_cancels(
    service: Service, worker: Worker, granted: Sequence[Task], lost: Sequence[str] = ()
) -> list[str]:
    """Return the tasks that a worker must stop, each once.

    With several backends another one may have sent the cancellation, and a new attempt may run. A
    task granted in the same answer is left out: its lost earlier attempt ends by itself, and the
    worker would stop the new one. A cancellation comes with the next heartbeat.

    Args:
        service: The backend.
        worker: The worker.
        granted: Tasks in the same answer.
        lost: Tasks that the worker holds without a lease.
    """
    ids, worker.cancels = worker.cancels, []
    if ids and service.backend.is_shared:
        ids = [
            task.id
            for task in await service.store.get(ids)
            if task is not None and (must_stop(task) or task.worker_id != worker.info.id)
        ]
    new = {task.id for task in granted}
    return [task_id for task_id in dict.fromkeys([*ids, *lost]) if task_id not in new]


async def extend_leases(service: Service, worker: Worker, holds: list[Hold]) -> list[str]:
    """Extend leases; return the ids of tasks that the worker must stop."""
    if not holds:
        return []
    if service.skew.refusal:
        # After a suspend the machine's clock only seems to be wrong.
        await service.skew.compare()
    # By the clock of the database: a lease that this one ended in the past would be lost at once.
    lease_s = service.settings.delivery.lease_s - service.skew.ahead_s
    states = await service.store.extend(holds, lease_s=lease_s)
    stopped = []
    for hold, state in zip(holds, states, strict=True):
        if state.is_held:
            service.fleet.learn_hold(worker, hold)
        elif service.fleet.is_held(hold):
            service.fleet.release([(hold.task_id, hold.attempt)])
        if not state.is_held or state.cancel_requested:
            stopped.append(hold.task_id)
    return stopped


async def take_tasks(
    service: Service, worker: Worker, n: int, *, until: "asyncio.Future[None] | None" = None
) -> list[Task]:
    """Lease up to `n` tasks for a worker, and publish that they have started."""
    if n <= 0:
        return []
    tasks = await service.broker.lease(lease_request(service, worker, n), until=until)
    if service.publisher is not None:
        service.publisher.leased(tasks)
    await _note_started(service, worker, tasks)
    return tasks


def lease_request(service: Service, worker: Worker, n: int) -> LeaseRequest:
    """Return the request for up to `n` tasks that a worker may run."""
    staged = staged_queues(service, worker.info) if service.cards.lives else {}
    return LeaseRequest(
        worker_id=worker.info.id,
        queues={
            queue: version
            for model, version in worker.info.models.items()
            for queue in staged.get(model) or (model, f"{model}:{version}")
        },
        n=min(n, _MAX_LEASE),
        lease_s=service.settings.delivery.lease_s,
        residents=worker.residents or (),
    )


async def _start(service: Service, worker: Worker, task_ids: Sequence[str]) -> list[Task]:
    """Start tasks that a worker took from an external queue by their ids, if it serves them."""
    request = lease_request(service, worker, len(task_ids))
    starts = [
        Start(
            task_id=task.id,
            queue=task.queue,
            worker_id=worker.info.id,
            version=request.queues[task.queue],
            token=new_token(),
            lease_s=request.lease_s,
        )
        for task in await service.store.get(task_ids)
        if task is not None and task.queue in request.queues
    ]
    tasks = [task for task in await service.store.start(starts) if task is not None]
    await _note_started(service, worker, tasks)
    return tasks


async def _note_started(service: Service, worker: Worker, tasks: Sequence[Task]) -> None:
    if not tasks:
        return
    service.fleet.hold(worker, tasks)
    service.metrics.observe((), swell_lease_tasks=len(tasks))
    try:
        service.bus.publish([event_of(task) for task in tasks])
    except BaseException:
        await undo_leases(service, holds_of(tasks))
        raise


def holds_of(tasks: Sequence[Task]) -> list[Hold]:
    """Return the leases of running tasks."""
    return [
        Hold(task_id=task.id, attempt=task.attempt, token=task.lease_token or "") for task in tasks
    ]


async def undo_leases(service: Service, holds: Sequence[Hold]) -> None:
    """Undo leases that never reached their worker; where that fails, they run out."""
    if not holds:
        return
    outcome = Released(reason="undelivered")
    settlements = [
        Settlement(task_id=each.task_id, attempt=each.attempt, token=each.token, outcome=outcome)
        for each in holds
    ]
    try:
        released = await service.store.settle(settlements)
        service.fleet.release([(each.task_id, each.attempt) for each in holds])
        publish_changes(service, [task for task in released if task is not None])
    except SwellError as error:
        _log.warning("leases: cannot undo leases after a lost response", detail=error.detail)


async def undo_lost_leases(service: Service, worker: Worker, known: Sequence[Hold]) -> None:
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
            "leases: undoing leases after a lost response", n=len(lost), worker_id=worker.info.id
        )
        await undo_leases(service, holds_of(lost))


async def learn_holds(service: Service, worker: Worker, holds: Sequence[Hold]) -> None:
    """Ask the store about leases that this process does not know.

    After a restart of the backend only the store knows the leases.
    """
    unknown = [each for each in holds if not service.fleet.is_held(each)]
    if unknown:
        await extend_leases(service, worker, unknown)


def _end_poll(until: "asyncio.Future[None]") -> None:
    if not until.done():
        until.set_result(None)


def leased_task(service: Service, worker: Worker, task: Task) -> LeasedTask:
    """Return a task as its worker gets it."""
    left_s = None
    if task.finish_by_at is not None:
        left_s = max(0.0, (task.finish_by_at - service.clock.now()).total_seconds())
    checkpoint = None
    if task.checkpoint is not None:
        checkpoint = service.objects.sign("GET", task.checkpoint, READ_URL_S)
    leased = LeasedTask(
        task_id=task.id,
        attempt=task.attempt,
        token=task.lease_token or "",
        model=task.queue.partition(":")[0],
        version=task.version,
        input=task.input,
        count=task.count,
        seed=task.seed,
        finish_within_s=left_s,
        own_files=name_files(service.objects, task.input) if SIGNED in bytes(task.input) else {},
        checkpoint=checkpoint,
        traceparent=None if service.traces is None else service.traces.leased(task),
    )
    if task.run is None:
        return leased
    # Of a pipeline, the worker gets the input of the present stage.
    return leased_stage(service.objects, task, task.run, leased, worker.info.models)
