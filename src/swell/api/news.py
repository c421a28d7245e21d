"""What a backend does when another one tells it something, or may have told it something."""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from swell.api.service import Service
from swell.bus import News, NewsKind
from swell.errors import SwellError
from swell.events import Event, EventKind, Lives, event_of
from swell.task import Task, TaskState

_log = structlog.get_logger("swell.api")

#: Tasks that are read at once after something was missed.
_BATCH: Final = 500

#: How long to wait before the store is asked again that could not be, in seconds.
_AGAIN_S: Final = 0.2


async def hear(service: Service) -> None:
    """Take what other backends tell, until the bus ends."""
    while news := await service.bus.news():
        try:
            await take_news(service, news)
        except SwellError as error:
            _log.warning(
                "bus: a message from another backend was not processed", detail=error.detail
            )
        except Exception:
            _log.exception("bus: a message from another backend was not processed")


async def take_news(service: Service, news: Sequence[News]) -> None:
    """Take what other backends have told, and what is the same only once."""
    kinds = {each.kind for each in news}
    for each in news:
        if each.kind is NewsKind.TASKS:
            # These are from before the message, and say how fast a worker is beside what it is
            # known to have held since the one before: not beside what it is known to hold by this.
            take_lives(service, each.lives)
            take_events(service, each.events)
    if kinds & {NewsKind.KEYS, NewsKind.MISSED}:
        service.keys.forget()
        service.quotas.forget()
    if kinds & {NewsKind.VACANT, NewsKind.MISSED}:
        service.leadership.hear_of_vacancies()
    if kinds & {NewsKind.FILES, NewsKind.MISSED}:
        service.fleet.ask_for_files()
    if NewsKind.MISSED in kinds:
        await service.bus.tell([News(kind=NewsKind.FILES)])
    if NewsKind.STOP in kinds:
        ids = [task for each in news if each.kind is NewsKind.STOP for task in each.ids]
        await _stop(service, dict.fromkeys(ids))
    if NewsKind.MISSED in kinds:
        await _catch_up_at_last(service)
    if kinds & {NewsKind.WORKERS, NewsKind.MISSED}:
        await service.fleet.refresh()
        await service.cards.refresh()


def take_events(service: Service, events: Iterable[Event]) -> None:
    """Learn from tasks that have changed at another backend."""
    fleet = service.fleet
    for event in events:
        brief = event.brief
        if brief is None:
            continue
        if event.kind is EventKind.STARTED:
            fleet.note_hold(event.task_id, brief)
            continue
        if event.is_terminal:
            has_succeeded = event.kind is EventKind.SUCCEEDED
            service.calibration.ended(event.task_id, service.clock, has_succeeded=has_succeeded)
        # What is told again was learnt from before. One whose start was not told is not held here.
        is_again = fleet.is_over(event.task_id, brief.attempt)
        if event.kind is EventKind.SUCCEEDED and not is_again:
            service.learn(brief)
        fleet.release([(event.task_id, brief.attempt)])


def take_lives(service: Service, lives: Iterable[Lives]) -> None:
    """Learn from attempts that began and ended at another backend."""
    for each in lives:
        has_succeeded = each.kind is EventKind.SUCCEEDED
        for task_id in each.ids:
            service.calibration.ended(task_id, service.clock, has_succeeded=has_succeeded)
        service.learn_lives(each)


async def catch_up(service: Service) -> int:
    """Read what somebody here waits for, or takes to be held, and tell how it is now.

    Returns:
        How many tasks were read.
    """
    listened = filter(None, service.bus.listened())
    promised = service.calibration.open_tasks()
    ids = [*dict.fromkeys([*listened, *service.fleet.held_tasks(), *promised])]
    for at in range(0, len(ids), _BATCH):
        part = ids[at : at + _BATCH]
        found = await service.store.get(part)
        for task_id, task in zip(part, found, strict=True):
            if task is None or task.state.is_terminal:
                # It is not known how long ago that was: it teaches nothing.
                service.calibration.ended(task_id, service.clock, has_succeeded=False)
        tasks = [task for task in found if task is not None]
        service.bus.correct([event_of(task) for task in tasks])
        over = [task for task in tasks if task.state is not TaskState.RUNNING]
        service.fleet.release([(task.id, task.attempt) for task in over])
    return len(ids)


async def _catch_up_at_last(service: Service) -> None:
    """Catch up; where the store cannot be read either, as soon as it can be."""
    while not service.is_ending:
        try:
            await catch_up(service)
        except SwellError as error:
            _log.warning("cannot catch up with other backends yet", detail=error.detail)
            await service.clock.sleep(_AGAIN_S)
        else:
            return


async def _stop(service: Service, ids: Iterable[str]) -> None:
    """Have workers that call this backend told to stop tasks."""
    tasks = [task for task in await service.store.get(list(ids)) if task is not None]
    service.fleet.stop([task for task in tasks if is_to_stop(task)], only_callers=True)


def is_to_stop(task: Task) -> bool:
    """Whether whoever runs a task should not."""
    return task.cancel_requested or task.state is not TaskState.RUNNING
