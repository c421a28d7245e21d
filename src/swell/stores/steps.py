"""What happens to tasks in a transaction, the same over both databases."""

import random
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from swell import task as life
from swell.fairness import band
from swell.retry import RetryPolicy
from swell.stages import Sight, may_run
from swell.store import Ended, Hold, HoldState, Onward, Start
from swell.stores.ready import is_ready
from swell.task import Failed, Settlement, Task, TaskState

if TYPE_CHECKING:
    from swell.stores.session import Session


def start(session: "Session", wish: Start) -> Task | None:
    """Start a task that is ready. See `Store.start`."""
    task = session.get(wish.task_id)
    now = session.now
    if task is None or not is_ready(task) or task.queue != wish.queue:
        return None
    if life.is_expired(task, now):
        return None
    running = life.start(
        task,
        worker_id=wish.worker_id,
        version=wish.version,
        token=wish.token,
        now=now,
        lease_s=wish.lease_s,
    )
    session.put(running)
    _serve(session, task)
    return running


def _serve(session: "Session", task: Task) -> None:
    """Note in the clocks that the key and user of a task had their turns."""
    model = task.stage_model
    session.clock(model, task.key_id, task.priority).serve(task.tag)
    session.turns(model, band(task.priority)).take(task.key_id, task.count)


def tagged(session: "Session", task: Task) -> Task:
    """Return a new task with its start tag among the tasks of its key.

    A pipeline gets a tag for each of its stages at once. So it does not wait there behind tasks
    that arrive later, and the turns of its user count in all of these queues.
    """
    flow, cost, run = task.user or "", task.count, task.run
    if run is None:
        clock = session.clock(task.model, task.key_id, task.priority)
        return msgspec.structs.replace(task, tag=clock.tag(flow, cost=cost))
    asked = Sight(run.pipeline, task.input)
    tags = tuple(
        session.clock(stage.model, task.key_id, task.priority).tag(flow, cost=cost)
        if place >= run.at and may_run(stage, asked)
        else 0.0
        for place, stage in enumerate(run.pipeline.stages)
    )
    run = msgspec.structs.replace(run, tags=tags)
    return msgspec.structs.replace(task, tag=tags[run.at], run=run)


def going_on(task: Task, onward: Onward | None, n: int, now: datetime) -> Task:
    """Return a settled task, with its next stage started if the worker can run it.

    Args:
        task: After the settlement.
        onward: The worker, if any.
        n: How many tasks of this call it has started already.
        now: The time.
    """
    if onward is None or n >= onward.n or task.state is not TaskState.QUEUED:
        return task
    if task.queue not in onward.versions or not life.has_gone_on(task):
        return task
    if life.is_expired(task, now):
        return task
    return life.start(
        task,
        worker_id=onward.worker_id,
        version=onward.versions[task.queue],
        token=life.new_token(),
        now=now,
        lease_s=onward.lease_s,
    )


def settle(
    session: "Session",
    settlements: Sequence[Settlement],
    onward: Onward | None,
    policy: RetryPolicy,
    rng: random.Random,
) -> Ended:
    """End attempts. See `Store.settle`."""
    tasks: list[Task | None] = []
    again, n = [], 0
    for place, each in enumerate(settlements):
        before = session.get(each.task_id)
        if before is None:
            tasks.append(None)
        elif before.is_held_by(each.attempt, each.token):
            task = _settle(session, before, each, policy, rng, onward, n)
            n += task.attempt > before.attempt
            tasks.append(task)
        elif life.was_settled_by(before, each.attempt, each.token):
            again.append(place)
            tasks.append(before)
        else:
            tasks.append(None)
    return Ended(tasks, again)


def _settle(
    session: "Session",
    task: Task,
    settlement: Settlement,
    policy: RetryPolicy,
    rng: random.Random,
    onward: Onward | None,
    n: int,
) -> Task:
    delay_s = 0.0
    if isinstance(settlement.outcome, Failed):
        delay_s = life.retry_delay_s(task, policy, rng)
    ended = life.settle(task, settlement.outcome, now=session.now, retry_delay_s=delay_s)
    if ended.run is not None:
        started = going_on(ended, onward, n, session.now)
        if started is not ended:
            _serve(session, ended)
            ended = started
    session.put(ended)
    return ended


def cap_waits(session: "Session", task_ids: Sequence[str], lease_s: float, backoff_s: float) -> int:
    """Shorten waits, and return how many. See `Store.cap_waits`."""
    n = 0
    for task in map(session.get, task_ids):
        if task is None:
            continue
        capped = life.cap_wait(task, now=session.now, lease_s=lease_s, backoff_s=backoff_s)
        if capped is not task:
            session.put(capped)
            n += 1
    return n


def extend(session: "Session", hold: Hold, until: datetime) -> HoldState:
    """Extend a lease. See `Store.extend`."""
    task = session.get(hold.task_id)
    if task is None or not task.is_held_by(hold.attempt, hold.token):
        return HoldState(is_held=False)
    session.put(msgspec.structs.replace(task, lease_expires_at=until))
    return HoldState(is_held=True, cancel_requested=task.cancel_requested)


def cancel(session: "Session", task_ids: Sequence[str]) -> Ended:
    """Cancel tasks. See `Store.cancel`."""
    tasks: list[Task | None] = []
    again = []
    for place, task_id in enumerate(task_ids):
        task = session.get(task_id)
        if task is not None and task.state.is_terminal:
            again.append(place)
        elif task is not None:
            task = life.cancel(task, now=session.now)
            session.put(task)
        tasks.append(task)
    return Ended(tasks, again)
