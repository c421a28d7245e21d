"""Submission of tasks: from a request to a durable task, and to its end for clients that wait.

The native surface and every façade make tasks here, so that the same checks, limits and promises
hold for all: `check` a `TaskRequest`, `accept` what came of it, and `follow` it to its end.
"""

import functools
import re
from typing import Final

from swell.api.admission import RankOf, admit
from swell.api.call import Call
from swell.api.drafts import Repeat, draft, new_task, with_webhook
from swell.api.service import Service
from swell.api.tasks_schemas import TaskRequest
from swell.errors import SwellError
from swell.events import TERMINAL_ID
from swell.store import Accepted
from swell.task import NewTask, Task

_WAIT: Final = re.compile(rb"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?=$|[,;\s])")


async def check(
    service: Service,
    call: Call,
    request: TaskRequest,
    repeat: Repeat | None = None,
    *,
    place: tuple[str, int] = ("", 0),
    rank_of: RankOf | None = None,
) -> NewTask:
    """Return the task of a request after all checks except quotas.

    Args:
        service: The backend.
        call: The call.
        request: The request, or one of its batch. Its fields must be within their bounds.
        repeat: Its idempotency key; None without one.
        place: See `drafts.new_task`.
        rank_of: See `admission.admit`.

    Raises:
        NotFound: No such model or version.
        InvalidInput: The input does not fit the model.
        NoWorker: No worker can run it, now or soon.
        WouldExpire: It would miss its deadline.
    """
    if repeat is not None and repeat.is_known:
        # A repeat returns its task, even if a new one would be refused.
        return new_task(call, request, request.model, repeat, place)
    request = service.classes.apply(call.caller, request)
    target, new = await draft(service, call, request, repeat, place)
    admitted = await admit(service, call, request, target, new, rank_of=rank_of)
    if admitted is not new:
        service.metrics.task_degraded(target.model)
    if request.webhook is not None:
        return await with_webhook(service, call, admitted, request.webhook, place[0])
    return admitted


async def accept(service: Service, call: Call, new: NewTask) -> Accepted:
    """Make a checked task durable. Workers get it after `follow` or `note_new`.

    Raises:
        IdempotencyMismatch: Its idempotency key belongs to another request.
        InvalidInput: The key's limits never allow this many tasks.
        TooManyRequests: The key may not have it now.
    """
    accepted = (await service.limits.accept(call, [new]))[0]
    if isinstance(accepted, SwellError):
        raise accepted
    service.traces.accepted(call, [accepted])
    return accepted


async def follow(service: Service, call: Call, accepted: Accepted, wait_s: float) -> Task:
    """Offer a task to the workers; return it when it ends, or after `wait_s`.

    Raises:
        Unauthenticated: The key was revoked during the wait.
    """
    task = accepted.task
    if task.state.is_terminal or wait_s <= 0:
        await note_new(service, [accepted])
        return task
    # Listening before the offer: a quick worker must not end the task unheard.
    subscription = service.bus.subscribe(task.id, after=TERMINAL_ID - 1)
    try:
        await note_new(service, [accepted])
        event = await subscription.next(wait_s)
    finally:
        subscription.close()
    if not service.keys.remembers(call.caller):
        await service.check_again(call)
    if event is not None and event.task is not None:
        return event.task
    return await service.lookups.get(task.id) or task


async def note_new(service: Service, accepted: list[Accepted]) -> None:
    """Offer tasks that are new, and count them."""
    fresh = [each.task for each in accepted if each.is_new]
    if fresh:
        counts, arrivals = service.metrics.accepted, service.scaling.arrivals.fresh
        for task in fresh:
            model, queue = task.model, task.queue
            counts[model] = counts.get(model, 0) + 1
            arrivals[queue] = arrivals.get(queue, 0) + task.count
        if service.publisher is not None:
            service.publisher.publish(fresh)


@functools.lru_cache(maxsize=256)
def prefer_wait_s(header: bytes, longest_s: float) -> float:
    """Return the seconds that a `Prefer` header asks to wait; 0 if it asks for nothing.

    `wait` without a number means as long as is allowed. What cannot be read is ignored.

    Source:
        RFC 7240, sections 2 and 4.3.
    """
    found = _WAIT.search(header.lower())
    if found is None:
        return 0.0
    return longest_s if found[1] is None else min(float(found[1]), longest_s)
