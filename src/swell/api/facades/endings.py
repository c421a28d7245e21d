"""Waiting for the end of a task on behalf of a client that holds its request open.

Such a client is not told when it may hang up, and one that has gone is noticed within seconds. Its
task goes on: whoever sends the request again finds it.
"""

from typing import Final

from swell.api.call import Call, ClientGone
from swell.api.service import Service
from swell.api.submit import note_new
from swell.bus import Subscription
from swell.errors import Unavailable
from swell.events import TERMINAL_ID
from swell.results import is_inputs_fault
from swell.store import Accepted
from swell.task import Task, TaskState

#: How often it is looked whether the client is still there, in seconds.
_LOOK_S: Final = 5.0


async def until_end(service: Service, call: Call, accepted: Accepted) -> Task:
    """Offer a task to the workers, and return it once it has ended.

    Args:
        service: Whose it is.
        call: Who waits; its body was read.
        accepted: The task, new or one that goes on.

    Raises:
        ClientGone: The client hung up.
        Unauthenticated: The key was revoked meanwhile.
        Unavailable: The backend ends; asked again, another one goes on.
    """
    task = accepted.task
    if task.state.is_terminal:
        await note_new(service, [accepted])
        return task
    # Listening before the offer: a quick worker must not end the task unheard.
    subscription = service.bus.subscribe(task.id, after=TERMINAL_ID - 1)
    try:
        await note_new(service, [accepted])
        if not accepted.is_new:
            # It may have ended before anybody listened.
            task = await service.lookups.get(task.id) or task
        while not task.state.is_terminal:
            task = await _next(service, call, subscription, task)
    finally:
        subscription.close()
    await service.check_again(call)
    return task


async def _next(service: Service, call: Call, subscription: Subscription, task: Task) -> Task:
    event = await subscription.next(_LOOK_S)
    if event is not None:
        return event.task or await service.lookups.get(task.id) or task
    if call.is_gone():
        raise ClientGone
    if service.is_ending:
        raise Unavailable(
            f"this backend ends before task {task.id} does: send the request again",
            headers={"Retry-After": "1"},
        )
    await service.check_again(call)
    return task


def is_users_fault(task: Task) -> bool:
    """Whether a failed task would fail again in the same way, for what it asks. Pure."""
    if task.state is not TaskState.FAILED or task.error is None:
        return False
    return is_inputs_fault(task.error)
