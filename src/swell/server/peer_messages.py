"""Messages from other backends, and reading the store again after messages were lost."""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from swell.core.errors import SwellError
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import Event, EventKind, event_of
from swell.core.task import Task, TaskState
from swell.server.service import Service
from swell.server.tasks.submit import learn

_log = structlog.get_logger("swell.api")

#: Tasks per read of the store.
_BATCH: Final = 500

#: The pause after a failed read of the store, in seconds.
_RETRY_S: Final = 0.2


async def receive_messages(service: Service) -> None:
    """Handle messages of other backends until the bus ends."""
    while messages := await service.bus.receive():
        try:
            await handle_messages(service, messages)
        except SwellError as error:
            _log.warning("bus: a peer message was not processed", detail=error.detail)
        except Exception:
            _log.exception("bus: a peer message was not processed")


async def handle_messages(service: Service, messages: Sequence[PeerMessage]) -> None:
    """Handle messages of other backends; those of one kind together."""
    kinds = {each.kind for each in messages}
    n_missed = sum(each.kind is MessageKind.MISSED for each in messages)
    service.metrics.count("swell_bus_gaps_total", n=n_missed)
    for each in messages:
        take_events(service, each.events)
    if n_missed or MessageKind.KEYS in kinds:
        service.keys.forget()
        service.quotas.forget()
    if n_missed or MessageKind.FILES in kinds:
        service.fleet.ask_for_files()
    service.broker.note_ready(_ids(messages, MessageKind.READY))
    if stopped := _ids(messages, MessageKind.STOP):
        found = await service.store.get(list(stopped))
        tasks = [task for task in found if task is not None and must_stop(task)]
        service.fleet.stop(tasks, only_callers=True)
    if n_missed:
        await service.bus.broadcast([PeerMessage(kind=MessageKind.FILES)])
        await _catch_up_when_possible(service)
    if n_missed or MessageKind.WORKERS in kinds:
        await service.fleet.refresh()
        await service.cards.refresh()


def _ids(messages: Sequence[PeerMessage], kind: MessageKind) -> set[str]:
    return {each_id for each in messages if each.kind is kind for each_id in each.ids}


def take_events(service: Service, events: Iterable[Event]) -> None:
    """Learn from state changes of tasks at other backends."""
    fleet = service.fleet
    for event in events:
        summary = event.summary
        if summary is None:
            continue
        if event.kind is EventKind.STARTED:
            fleet.note_lease(event.task_id, summary)
            continue
        has_succeeded = event.kind is EventKind.SUCCEEDED
        if event.is_terminal:
            service.calibration.ended(event.task_id, service.clock, has_succeeded=has_succeeded)
        # The same event may arrive twice.
        if has_succeeded and not fleet.is_over(event.task_id, summary.attempt):
            learn(service, summary)
        fleet.release([(event.task_id, summary.attempt)])


async def catch_up(service: Service) -> None:
    """Read all tasks with listeners, leases or open estimates; publish their states locally."""
    listened, held = service.bus.subscribed(), service.fleet.held_tasks()
    ids = list(dict.fromkeys([*listened, *held, *service.calibration.open]))
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        found = await service.store.get(part)
        for task_id, task in zip(part, found, strict=True):
            if task is None or task.state.is_terminal:
                # The time of the end is not known, so the estimate cannot be compared with it.
                service.calibration.ended(task_id, service.clock, has_succeeded=False)
        tasks = [task for task in found if task is not None]
        service.bus.publish_local([event_of(task) for task in tasks])
        over = [task for task in tasks if task.state is not TaskState.RUNNING]
        service.fleet.release([(task.id, task.attempt) for task in over])


async def _catch_up_when_possible(service: Service) -> None:
    while not service.is_ending:
        try:
            await catch_up(service)
        except SwellError as error:
            _log.warning("bus: cannot read missed events, retrying", detail=error.detail)
            await service.clock.sleep(_RETRY_S)
        else:
            return


def must_stop(task: Task) -> bool:
    """Whether a worker must stop a task that it still runs."""
    return task.cancel_requested or task.state is not TaskState.RUNNING
