"""Leases of workers: grants, waits, extensions, and leases that never arrived."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import structlog

from swell.api.files import READ_URL_S, may_name_files, name_files
from swell.api.fleet import Worker
from swell.api.news import must_stop
from swell.api.service import Service
from swell.api.stages import leased_stage
from swell.api.traffic import staged_queues
from swell.broker import LeaseRequest
from swell.dispatch import (
    Ask,
    Grant,
    LeasedTask,
)
from swell.errors import (
    NotFound,
    SwellError,
    Unavailable,
)
from swell.events import event_of
from swell.store import Hold, Start
from swell.task import (
    Released,
    Settlement,
    Task,
    TaskState,
    new_token,
)

_log = structlog.get_logger("swell.api")


#: The most tasks that one lease or report hands out.
MAX_LEASE: Final = 512


_NEVER_GONE: Callable[[], bool] = lambda: False  # noqa: E731


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
    worker = await find_worker(service, ask.worker_id)
    worker.hear(service.clock.monotonic_s())
    worker.residents = ask.residents
    if ask.known is not None:
        await undo_lost_leases(service, worker, ask.known)
    wait_s = min(max(0.0, ask.wait_s), service.settings.delivery.worker_wait_s)
    wants = ask.n > 0 and may_take_tasks(service, worker) and not is_gone()
    has_news = worker.cancels or (worker.info.draining and not worker.is_drain_told)
    tasks: list[Task] = []
    if ask.offered:
        if not worker.info.draining:
            _check_hands_out(service)
        tasks = await _start(service, worker, ask.offered[:MAX_LEASE]) if wants else []
    elif has_news or wait_s <= 0 or service.is_ending or is_gone():
        tasks = await take_tasks(service, worker, ask.n if wants else 0)
    else:
        with _poll(worker, wait_s) as until:
            if wants:
                tasks = await take_tasks(service, worker, ask.n, until=until)
            else:
                await until
        if check_again is not None:
            await _if_it_still_may(service, tasks, check_again)
    if tasks and (is_gone() or service.skew.is_wrong):
        await undo_leases(service, holds_of(tasks))
        tasks = []
        if ask.offered:
            _check_hands_out(service)
    try:
        drain = worker.is_drain_told = worker.info.draining
        cancels = tasks_to_stop(await open_cancels(service, worker), tasks)
        return Grant(
            tasks=leased_tasks(service, worker, tasks),
            cancels=cancels,
            drain=drain,
            staged=staged_queues(service, worker.info) if service.cards.lives else {},
        )
    except BaseException:
        await undo_leases(service, holds_of(tasks))
        raise


async def _if_it_still_may(
    service: Service, tasks: Sequence[Task], check_again: Callable[[], Awaitable[None]]
) -> None:
    """Undo the leases and raise if the worker's key was revoked during the wait."""
    try:
        await check_again()
    except BaseException:
        await undo_leases(service, holds_of(tasks))
        raise


async def open_cancels(service: Service, worker: Worker) -> list[str]:
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


def tasks_to_stop(task_ids: Sequence[str], granted: Sequence[Task]) -> list[str]:
    """Return the tasks that a worker has to stop, each once.

    A task granted in the same answer is left out: its lost earlier attempt ends by itself, and the
    worker would stop the new one. A cancellation comes with the next heartbeat.
    """
    new = {task.id for task in granted}
    return [task_id for task_id in dict.fromkeys(task_ids) if task_id not in new]


async def extend_leases(service: Service, worker: Worker, holds: list[Hold]) -> list[str]:
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


def may_take_tasks(service: Service, worker: Worker) -> bool:
    """Whether a worker may get tasks now."""
    return not worker.info.draining and not service.refusal


def _check_hands_out(service: Service) -> None:
    """Raise while no tasks are handed out: a worker with ids of a queue keeps them, and asks again.

    Raises:
        Unavailable: With the reason.
    """
    if service.refusal:
        raise Unavailable(f"no tasks are handed out: {service.refusal}")


async def take_tasks(
    service: Service, worker: Worker, n: int, *, until: "asyncio.Future[None] | None" = None
) -> list[Task]:
    """Lease up to `n` tasks for a worker, and tell that they have started."""
    if n <= 0:
        return []
    tasks = await service.broker.lease(lease_request(service, worker, n), until=until)
    if service.publisher is not None:
        service.publisher.leased(tasks)
    await _tell_started(service, worker, tasks)
    return tasks


def lease_request(service: Service, worker: Worker, n: int) -> LeaseRequest:
    """Return the request for up to `n` tasks that a worker may run."""
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
        queue: version for queue, _, version in lease_request(service, worker, len(task_ids)).queues
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
            "leases: undoing leases whose response was lost", n=len(lost), worker_id=worker.info.id
        )
        await undo_leases(service, holds_of(lost))


async def learn_holds(service: Service, worker: Worker, holds: Sequence[Hold]) -> None:
    """Ask the store about leases that this process does not know.

    After a restart of the backend only the store knows the leases.
    """
    is_held = service.fleet.is_held
    unknown = [each for each in holds if not is_held(each.task_id, each.attempt, each.token)]
    if unknown:
        await extend_leases(service, worker, unknown)


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


async def find_worker(service: Service, worker_id: str) -> Worker:
    """Return a registered worker.

    Raises:
        NotFound: The worker is not registered.
    """
    worker = service.fleet.get(worker_id) or await service.fleet.find(worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id[:60]!r}: register again")
    return worker


def leased_tasks(service: Service, worker: Worker, tasks: Sequence[Task]) -> list[LeasedTask]:
    """Return tasks as their worker gets them; of a pipeline, the input of the present stage."""
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
