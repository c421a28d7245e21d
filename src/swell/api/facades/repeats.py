"""A request that a client sends again, without an idempotency key, because no answer came.

Clients made by Stainless (OpenAI's, and Replicate's from 2.0 on) count their retries in a header.
Such a retry is given the task that the first request made, if it made one: else every time-out
would be paid for twice.
"""

import re
from datetime import timedelta
from typing import Final

import msgspec

from swell.adoption.traffic import asked_version
from swell.api.call import Call
from swell.api.service import Service
from swell.store import TaskFilter
from swell.task import NewTask, Task, TaskState

#: A task that is older than this was made by another request, and so was one that ended longer ago
#: than clients wait before they try again: its answer was heard.
_RECENT: Final = timedelta(minutes=15)
_UNHEARD: Final = timedelta(minutes=1)

#: How many tasks of a key and a model are looked through at most, the newest first.
_PAGE, _PAGES = 100, 10

#: What a signed URL of a file ends with.
_SIGNATURE: Final = re.compile(rb"\?method=GET&expires=\d+(?:&bytes=\d+)?&signature=[\w%=-]+")

#: Whoever asks again after one of these wants another try.
_WORTHLESS: Final = frozenset({TaskState.FAILED, TaskState.CANCELED, TaskState.EXPIRED})


def is_retry(call: Call) -> bool:
    """Whether the client says that it has sent this request before, and no key says which."""
    if call.header(b"idempotency-key") is not None:
        return False
    told = (call.header(b"x-stainless-retry-count") or b"").strip()
    return told.isdigit() and int(told[:9]) > 0


async def earlier(
    service: Service, call: Call, new: NewTask, *, by_metadata: bool = False
) -> Task | None:
    """Return the task that the first try of a request made; None where it made none.

    It is the caller's newest task of the last 15 minutes that asks for exactly the same, has not
    gone wrong, and has not ended more than a minute ago. It is found in the store, so that another
    backend may have made it.

    Args:
        service: Whose.
        call: Who asks.
        new: What the repeated request asks for, as `submit.check` returns it.
        by_metadata: Whether the same metadata are enough: a form's files are other uploads each
            time, and its façade notes there what they hold.
    """
    now = service.clock.now()
    since, unheard_since = now - _RECENT, now - _UNHEARD
    where = TaskFilter(key_id=call.caller.id, model=new.model, user=new.user)
    cursor = None
    for _ in range(_PAGES):
        page = await service.store.page(where, limit=_PAGE, cursor=cursor)
        for task in page.tasks:
            if task.created_at < since:
                return None
            if task.finished_at is not None and task.finished_at < unheard_since:
                continue
            if _is_same(task, new, by_metadata):
                return task
        cursor = page.cursor
        if cursor is None:
            return None
    return None


def _unsigned(raw: msgspec.Raw) -> bytes:
    """Return an input without what differs between two URLs of the same file."""
    return _SIGNATURE.sub(b"", bytes(raw))


def _is_same(task: Task, new: NewTask, by_metadata: bool) -> bool:
    is_same_input = by_metadata or _unsigned(task.input) == _unsigned(new.input)
    return (
        task.state not in _WORTHLESS
        and asked_version(task.queue) == asked_version(new.queue)
        and task.model == new.model
        and task.count == new.count
        and is_same_input
        and task.metadata == new.metadata
        # Without one in the request the model may have chosen it.
        and (new.seed is None or task.seed == new.seed)
    )
