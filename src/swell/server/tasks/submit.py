"""Submission of tasks: from a checked request to a durable task, and to its end.

The native surface and every façade make tasks here, so that the same limits and promises hold for
all: `admission.check` a `TaskRequest`, `accept` the task, and `follow` it to its end.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from swell.core.errors import UNREADABLE, FieldError, InvalidInput, InvalidRequest, SwellError
from swell.core.events import TERMINAL_ID, TaskSummary, event_of, summary_of, summary_of_stage
from swell.core.quality_fallback import with_changes
from swell.core.store_types import Accepted
from swell.core.task import NewTask, Task, TaskState
from swell.server.common_schemas import MAX_METADATA_BYTES
from swell.server.files.file_routes import SIGNED, check_files
from swell.server.models.model_cards import Target, own_seed
from swell.server.request import Call
from swell.server.rollouts.version_routing import split
from swell.server.service import Service
from swell.server.tasks.stage_inputs import at_first_stage
from swell.server.tasks.task_schemas import TaskRequest, WebhookRequest

_WAIT: Final = re.compile(rb"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?=$|[,;\s])")


class Repeat(msgspec.Struct, frozen=True):
    """The idempotency key of a request."""

    key: str
    #: Of the path and the whole body.
    fingerprint: bytes
    #: Whether the key was used in the last day.
    is_known: bool

    def key_at(self, place: int) -> str:
        """Return the key of the task at a place of a batch.

        The first task has the plain key, so that single requests and batches share one scope. The
        keys of the others contain a line feed, which no client can send.
        """
        return self.key if place == 0 else f"{self.key}\n{place}"


async def draft(
    service: Service,
    call: Call,
    request: TaskRequest,
    repeat: Repeat | None,
    place: tuple[str, int] = ("", 0),
) -> tuple[Target, NewTask]:
    """Return the model of a request and its task, with a valid input; arguments as `new_task`.

    Raises:
        NotFound: No such model or version.
        InvalidInput: The input does not fit the model, a file may not be read, the metadata are
            wrong, or no stage of a pipeline has anything to do.
    """
    at, _ = place
    target = await service.cards.target(request.model)
    value = service.cards.check_input(call, target, request.input, at + "/input")
    new = new_task(call, request, target.queue, repeat, place)
    if target.card.pipeline is not None:
        new = at_first_stage(new, target, at)
    if (seed := own_seed(target.card, value)) is not None:
        new = msgspec.structs.replace(new, seed=seed)
    if SIGNED in bytes(new.input):
        files = check_files(service.objects, new.input, at + "/input")
        new = msgspec.structs.replace(new, files=files)
    if target.model in service.cards.canaries:
        new = split(service, call, new)
    return target, new


def new_task(
    call: Call,
    request: TaskRequest,
    queue: str,
    repeat: Repeat | None,
    place: tuple[str, int] = ("", 0),
) -> NewTask:
    """Return the task of a request.

    Args:
        call: The call.
        request: The request, or one of its batch.
        queue: `owner/name` of its model; `owner/name:version` if the caller insists on a version.
        repeat: Its idempotency key; None without one.
        place: JSON pointer to the request in its batch, and the number of tasks before it.

    Raises:
        InvalidInput: The metadata are too large or not JSON.
    """
    at, before = place
    metadata = None if bytes(request.metadata) == b"null" else request.metadata
    if metadata is not None:
        _check_metadata(metadata, at)
        # Metadata that look like changes by `degrade` are wrapped.
        metadata = with_changes(metadata, ())
    return NewTask(
        model=queue.partition(":")[0],
        queue=queue,
        input=request.input,
        count=request.count,
        seed=request.seed,
        priority=request.priority,
        key_id=call.caller.id,
        user=request.user,
        metadata=metadata,
        start_by_s=request.start_by_s,
        finish_by_s=request.finish_by_s,
        max_attempts=request.max_attempts,
        idempotency_key=None if repeat is None else repeat.key_at(before),
        fingerprint=b"" if repeat is None else repeat.fingerprint,
        traceparent=None if call.trace is None else call.trace.own,
    )


async def with_webhook(
    service: Service, call: Call, new: NewTask, asked: str | WebhookRequest, at: str = ""
) -> NewTask:
    """Return a new task with its webhook.

    Args:
        service: The backend.
        call: The call.
        new: The task.
        asked: The URL or the whole webhook of the request.
        at: JSON pointer to the request in its batch.

    Raises:
        InvalidInput: The URL is not allowed, or the key has no such secret.
    """
    hooks, place = service.hooks, at + "/webhook"
    hook = hooks.checked(asked, service.base_url(call), place)
    await hooks.check_secret(new.key_id, hook.secret, place + "/secret")
    return msgspec.structs.replace(new, webhook=hook)


async def repeat_of(service: Service, call: Call, body: bytes) -> Repeat | None:
    """Return the idempotency key of a request; None without one.

    Args:
        service: The backend.
        call: The call.
        body: Its body, or other bytes with everything that it asks for.

    Raises:
        InvalidRequest: The key is not valid.
    """
    header = call.headers.get(b"idempotency-key")
    if header is None:
        return None
    key = idempotency_key(header)
    return Repeat(key, fingerprint(call.path, body), await service.store.knows(call.caller.id, key))


def idempotency_key(header: bytes) -> str:
    """Return the key in an `Idempotency-Key` header, with or without quotes.

    Raises:
        InvalidRequest: It is empty, longer than 255 characters, or not printable ASCII.
    """
    text = header.strip().decode("latin-1")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not text or len(text) > 255 or not text.isascii() or not text.isprintable():
        raise InvalidRequest(
            "an Idempotency-Key is 1 to 255 printable ASCII characters, such as a UUID"
        )
    return text


def fingerprint(path: str, body: bytes) -> bytes:
    """Return a digest of a request that ignores spaces and the order of fields.

    The path is included: in many APIs it names the model.
    """
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    except UNREADABLE:
        # The checks of the input and the metadata report the error.
        canonical = body
    return hashlib.sha256(path.encode() + b"\n" + canonical).digest()


def _check_metadata(metadata: msgspec.Raw, at: str) -> None:
    raw, pointer = bytes(metadata), at + "/metadata"
    if len(raw) > MAX_METADATA_BYTES:
        detail = f"metadata is {len(raw):,} bytes; at most {MAX_METADATA_BYTES:,} are kept"
        error = FieldError(pointer=pointer, detail=detail, code="too_large")
        raise InvalidInput(detail, errors=[error])
    try:
        msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise InvalidRequest(f"the value at {pointer} is not JSON in UTF-8: {error}") from error


async def accept(service: Service, call: Call, news: Sequence[NewTask]) -> list[Accepted]:
    """Make checked tasks durable, all or none. Workers get them after `follow` or `note_new`.

    Raises:
        IdempotencyMismatch: An idempotency key belongs to another request.
        InvalidInput: The key's limits never allow this many tasks.
        TooManyRequests: The key may not have them now.
    """
    accepted = []
    for each in await service.limits.accept(call, news):
        if isinstance(each, SwellError):
            raise each
        accepted.append(each)
    if len(accepted) == 1:
        call.task_id = accepted[0].task.id
    if service.traces is not None:
        service.traces.accepted(call, accepted)
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
    await service.keys.find(call.headers.get(b"authorization"))
    if event is not None and event.task is not None:
        return event.task
    return (await service.store.get([task.id]))[0] or task


async def note_new(service: Service, accepted: list[Accepted]) -> None:
    """Offer tasks that are new, and count them."""
    fresh = [each.task for each in accepted if each.is_new]
    if fresh:
        counts = service.metrics.values["swell_tasks_accepted_total"]
        arrivals = service.scaling.arrivals.fresh
        for task in fresh:
            counts[task.model] += 1
            arrivals[task.queue] = arrivals.get(task.queue, 0) + task.count
        if service.publisher is not None:
            service.publisher.publish(fresh)


def publish_changes(service: Service, tasks: list[Task]) -> None:
    """Publish the states of tasks, after the store has written them."""
    if service.publisher is not None:
        service.publisher.publish(tasks)
    service.bus.publish([event_of(task) for task in tasks])
    if service.traces is not None:
        service.traces.delivered(tasks)


def count_end(service: Service, task: Task) -> None:
    """Count and learn from a task that has ended."""
    has_succeeded = task.state is TaskState.SUCCEEDED
    service.limits.ended(task)
    if task.id in service.calibration.open:
        service.calibration.ended(task.id, service.clock, has_succeeded=has_succeeded)
    if task.finished_at is None:
        return
    if has_succeeded and task.started_at is not None:
        if service.cards.packed or service.cards.drawing:
            service.estimates.observe_size(task)
        learn(service, summary_of(task))
    metrics, model, timings = service.metrics, task.model, task.timings
    if task.dead:
        metrics.count("swell_tasks_dead_total", model)
    metrics.values["swell_tasks_total"][model, task.state.value] += 1
    total_s = (task.finished_at - task.created_at).total_seconds()
    metrics.observe(
        model,
        swell_task_queue_seconds=timings.queue_s if timings else 0.0,
        swell_task_run_seconds=timings.run_s if timings else 0.0,
        swell_task_total_seconds=total_s,
    )


def stage_passed(service: Service, task: Task) -> None:
    """Learn from an ended stage of a pipeline, and count the arrival of the next one."""
    assert task.run is not None, "it has stages"
    service.estimates.observe_size(task)
    learn(service, summary_of_stage(task, task.run.done[-1]))
    arrivals, queue = service.scaling.arrivals.fresh, task.queue
    arrivals[queue] = arrivals.get(queue, 0) + task.count


def learn(service: Service, summary: TaskSummary) -> None:
    """Learn from a task that has succeeded, here or at another backend."""
    worker = service.fleet.workers.get(summary.worker_id or "")
    device = "" if worker is None else worker.info.device
    service.times.observe(summary.model, summary.took_s, summary.count, device, summary.version)
    service.fleet.end(summary)


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
