"""Webhook deliveries, and which events cause them. `swell.db.webhook_deliveries` keeps them.

A delivery is one event for one receiver. Those about a start or an end are written in the
transaction that starts or ends the task. The body is built for each attempt from the stored task,
so it never has data that was removed.

Deliveries of one task to one receiver are a line. Only the first that waits in a line is due, so
receivers get the events of a task in order.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import msgspec

from swell.core.task import Task, TaskState, new_id
from swell.core.webhook import ENDS, PASSING, STARTED

#: Characters that are kept of an answer.
SNIPPET_CHARS: Final = 500

#: Attempts that are kept, those before a replay included.
MOST_TRIES_KEPT: Final = 50

#: Why a delivery is skipped.
OVERTAKEN: Final = "an attempt failed, and there is something newer to tell of this task"


class DeliveryState(StrEnum):
    """State of a delivery."""

    #: Waits for its first attempt, or for the next.
    WAITING = "waiting"
    #: The receiver answered with 2xx.
    DELIVERED = "delivered"
    #: No attempt is left, or none makes sense; it may be replayed.
    FAILED = "failed"
    #: An attempt failed, and a newer event of the task supersedes this one.
    SKIPPED = "skipped"


class Try(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt to deliver."""

    at: datetime
    took_s: float
    #: HTTP status; None without an answer.
    status: int | None = None
    #: `timeout`, `refused_url`, `connection`, `status`, …; empty if it succeeded.
    error: str = ""
    #: Description for people.
    detail: str = ""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver."""

    #: Also the `webhook-id` on the wire, the same in every attempt.
    id: str
    task_id: str
    #: Of a standing endpoint; empty for the task's own URL.
    endpoint: str = ""
    #: The key that may see the delivery.
    key_id: str = ""
    #: As in `swell.core.webhook.EVENTS`.
    event: str
    #: Receivers at one place share its limits.
    place: str = ""
    #: The attempt of the task.
    attempt: int = 0
    #: When it happened.
    at: datetime
    #: Data of progress, previews and artifacts, and the worker of a start.
    data: msgspec.Raw | None = None
    state: DeliveryState = DeliveryState.WAITING
    #: Attempts since it was written or replayed.
    tries: int = 0
    #: Time of the next attempt; None unless it waits.
    due_at: datetime | None = None
    ended_at: datetime | None = None
    #: Why it failed or was skipped, for people.
    reason: str = ""
    log: tuple[Try, ...] = ()
    #: The beginning of each answer, as `log`; empty if the data of the task was removed.
    answers: tuple[str, ...] = ()


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """The events that a standing endpoint gets."""

    endpoint: str
    #: Only of tasks of this key; None for all.
    key_id: str | None
    #: The key that made it; empty for that of the task.
    owner: str = ""
    events: tuple[str, ...]
    #: Only of these models (`owner/name`, or `owner/*`); empty for all.
    models: tuple[str, ...] = ()
    place: str = ""

    def wants(self, event: str, task: Task) -> bool:
        """Whether the endpoint gets an event of a task."""
        if event not in self.events or self.key_id not in (None, task.key_id):
            return False
        owner = task.model.partition("/")[0] + "/*"
        return not self.models or task.model in self.models or owner in self.models


class AttemptResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of an attempt to deliver."""

    id: str
    #: Attempts before this one. If the delivery has another number, the result is ignored.
    tries: int
    attempt: Try
    answer: str = ""
    #: Data of the task that was removed before the attempt: the answer cannot quote it.
    inputs_removed: bool = False
    outputs_removed: bool = False
    #: The new state; `due_at` only if it still waits.
    state: DeliveryState
    due_at: datetime | None = None
    reason: str = ""


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries to list; None means any."""

    task_id: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    state: DeliveryState | None = None


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    deliveries: tuple[Delivery, ...]
    cursor: str | None


class Backlog(msgspec.Struct, frozen=True):
    """How many deliveries wait, and the time of the oldest event."""

    waiting: int = 0
    oldest_at: datetime | None = None


def place_of(key_id: str, url: str) -> str:
    """Return the place of a URL: the key, and the origin of the URL."""
    parts = urlsplit(url)
    return f"{key_id} {parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def deliveries_of(
    before: Task, after: Task, watches: Sequence[Watch], now: datetime
) -> list[Delivery]:
    """Return the deliveries that a change of a task causes. Pure but for random IDs."""
    # A pipeline that starts its next stage at once has a new attempt.
    is_same = after.state is before.state and after.attempt == before.attempt
    if is_same or after.state is TaskState.QUEUED:
        return []
    event = STARTED if after.state is TaskState.RUNNING else after.state._value_
    values = {"worker": after.worker_id}
    if after.run is not None:
        values["stage"] = after.run.stage.name
    data = msgspec.Raw(msgspec.json.encode(values))
    return posted(after, event, data if event == STARTED else None, watches, now)


def posted(
    task: Task, event: str, data: msgspec.Raw | None, watches: Sequence[Watch], now: datetime
) -> list[Delivery]:
    """Return the deliveries of one event to all receivers. Pure but for random IDs."""
    receivers = [
        (each.endpoint, each.place, each.owner or task.key_id)
        for each in watches
        if each.wants(event, task)
    ]
    hook = task.webhook
    if hook is not None and event in hook.events:
        receivers.insert(0, ("", place_of(task.key_id, hook.url), task.key_id))
    return [
        Delivery(
            id="msg_" + new_id(now),
            task_id=task.id,
            endpoint=endpoint,
            key_id=owner,
            event=event,
            place=place,
            attempt=task.attempt,
            at=now,
            data=data,
            due_at=now,
        )
        for endpoint, place, owner in receivers
    ]


def says_passing(task: Task, watches: Sequence[Watch]) -> bool:
    """Whether any receiver gets progress, previews or artifacts of a task. Pure."""
    wanted = [] if task.webhook is None else [task.webhook.events]
    wanted += [each.events for each in watches if each.key_id in (None, task.key_id)]
    return any(event in PASSING for events in wanted for event in events)


def after_try(
    delivery: Delivery, result: AttemptResult, *, has_later: bool, quotes_removed: bool = False
) -> Delivery:
    """Return a delivery after an attempt. Pure.

    Args:
        delivery: Before the attempt. If it was superseded or failed during the attempt, only a
            success changes that.
        result: Result of the attempt.
        has_later: Whether a later delivery waits in its line.
        quotes_removed: Whether the answer may quote removed data.
    """
    answer = "" if quotes_removed else result.answer[:SNIPPET_CHARS]
    state, due_at, reason = result.state, result.due_at, result.reason
    if delivery.state is not DeliveryState.WAITING and state is not DeliveryState.DELIVERED:
        state, due_at, reason = delivery.state, None, delivery.reason
    elif state is DeliveryState.WAITING and has_later and delivery.event not in ENDS:
        state, due_at, reason = DeliveryState.SKIPPED, None, OVERTAKEN
    # Earlier answers may have been removed.
    missing = len(delivery.log) - len(delivery.answers)
    return msgspec.structs.replace(
        delivery,
        state=state,
        reason=reason,
        tries=delivery.tries + 1,
        due_at=due_at,
        ended_at=None if state is DeliveryState.WAITING else result.attempt.at,
        log=(*delivery.log, result.attempt)[-MOST_TRIES_KEPT:],
        answers=(*delivery.answers, *[""] * missing, answer)[-MOST_TRIES_KEPT:],
    )
