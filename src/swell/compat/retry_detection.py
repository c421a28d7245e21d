"""Retries that a client counts in a header, without an idempotency key.

Clients made by Stainless (OpenAI's, and Replicate's from 2.0 on) do so. A retry gets the task of
its first attempt from the database: otherwise every time-out would be paid twice.
"""

import re
from datetime import timedelta
from typing import Final

import msgspec

from swell.core.rollouts.rollout_state import asked_version
from swell.core.store_types import Accepted, TaskFilter
from swell.core.task import NewTask, Task, TaskState
from swell.server.request import Call
from swell.server.service import Service
from swell.server.tasks.submit import accept

#: Older tasks, and those that ended longer ago, belong to other requests.
_MAX_AGE: Final = timedelta(minutes=15)
_MAX_AGE_ENDED: Final = timedelta(minutes=1)

#: Number of the newest tasks of a key and a model to search.
_SEARCHED: Final = 1000

#: The end of a signed file URL, which differs between two URLs of the same file.
_SIGNATURE: Final = re.compile(rb"\?method=GET&expires=\d+(?:&bytes=\d+)?&signature=[\w%=-]+")

#: A retry after one of these starts a new task.
_FAILED: Final = frozenset({TaskState.FAILED, TaskState.CANCELED, TaskState.EXPIRED})


def is_retry(call: Call) -> bool:
    """Whether the client marks a request as a retry, and no idempotency key decides."""
    if call.headers.get(b"idempotency-key") is not None:
        return False
    count = (call.headers.get(b"x-stainless-retry-count") or b"").strip()
    return count.isdigit() and int(count[:9]) > 0


async def find_first_attempt(
    service: Service, call: Call, new: NewTask, *, by_metadata: bool = False
) -> Task | None:
    """Return the task of a retry's first attempt; None if there is none.

    It is the key's newest task of the last 15 minutes that equals the new one, has not failed, and
    has not ended more than a minute ago.

    Args:
        service: The backend.
        call: The request.
        new: The task that the retry asks for, from `admission.check`.
        by_metadata: Compare metadata instead of inputs: files of a form are other uploads each
            time, and the metadata holds their digest.
    """
    now = service.clock.now()
    where = TaskFilter(key_id=call.caller.id, model=new.model, user=new.user, since=now - _MAX_AGE)
    page = await service.store.page(where, limit=_SEARCHED, cursor=None)
    for task in page.tasks:
        is_recent = task.finished_at is None or task.finished_at >= now - _MAX_AGE_ENDED
        if is_recent and _is_same(task, new, by_metadata):
            return task
    return None


def _is_same(task: Task, new: NewTask, by_metadata: bool) -> bool:
    return (
        task.state not in _FAILED
        and asked_version(task.queue) == asked_version(new.queue)
        and task.count == new.count
        and task.metadata == new.metadata
        and (by_metadata or _unsigned(task.input) == _unsigned(new.input))
        # A request without a seed may have got one from the model.
        and (new.seed is None or task.seed == new.seed)
    )


def _unsigned(raw: msgspec.Raw) -> bytes:
    return _SIGNATURE.sub(b"", bytes(raw))


async def accept_once(
    service: Service, call: Call, new: NewTask, *, by_metadata: bool = False
) -> Accepted:
    """Accept a checked task, or return the task of a retry's first attempt.

    Args: as `find_first_attempt`.

    Raises:
        IdempotencyMismatch, InvalidInput, TooManyRequests: As `submit.accept`.
    """
    if is_retry(call):
        task = await find_first_attempt(service, call, new, by_metadata=by_metadata)
        if task is not None:
            return Accepted(task=task, is_new=False)
    return (await accept(service, call, [new]))[0]
