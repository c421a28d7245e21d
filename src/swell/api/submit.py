"""The one way in: from what is asked to a durable task, and to its end where somebody waits.

The native surface and every façade make tasks here, so that the same checks, limits and promises
hold for all. A façade calls `submit` with a `TaskRequest`; `POST /v1/tasks` walks the same steps.
"""

import functools
import hashlib
import re
from typing import Final

import msgspec

from swell.adoption.traffic import is_of_canary
from swell.api.call import Call
from swell.api.cards import Target, own_seed
from swell.api.eta import Estimate, retry_after_s
from swell.api.files import check_files, may_name_files
from swell.api.messages import MAX_METADATA_BYTES, TaskRequest, WebhookRequest
from swell.api.service import Service
from swell.api.stages import at_first_stage
from swell.api.traffic import split
from swell.broker import Rank
from swell.degrade import with_changes
from swell.errors import (
    FieldError,
    InvalidInput,
    InvalidRequest,
    NoWorker,
    SwellError,
    WouldExpire,
)
from swell.events import TERMINAL_ID
from swell.stages import stages_ahead
from swell.store import Accepted
from swell.task import NewTask, Task, again

__all__ = [
    "Repeat",
    "accept",
    "check",
    "check_can_run",
    "check_can_run_again",
    "check_deadline",
    "fingerprint",
    "follow",
    "idempotency_key",
    "late_of",
    "new_task",
    "note_new",
    "prefer_wait_s",
    "prepared",
    "repeat_of",
    "submit",
    "telling",
]

_WAIT: Final = re.compile(rb"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?=$|[,;\s])")

#: After how many seconds a caller may ask again for a model that nobody serves.
_NO_WORKER_RETRY_S: Final = "10"


async def submit(
    service: Service,
    call: Call,
    request: TaskRequest,
    *,
    wait_s: float = 0.0,
    repeat: "Repeat | None" = None,
) -> Task:
    """Make a task that is durable once this returns, and wait for its end.

    Args:
        service: Who takes it.
        call: Who asks.
        request: What is asked; whoever builds it by hand keeps to the bounds of its fields.
        wait_s: How long to wait for the end.
        repeat: What its idempotency key says; None without one.

    Raises:
        NotFound: No such model or version.
        InvalidInput: The input does not fit the model, or the key may never have so many tasks.
        NoWorker: Nobody can run it, now or soon.
        WouldExpire: It would miss its deadline.
        IdempotencyMismatch: Its key stands for another request.
        TooManyRequests: The key may not have it now.
    """
    new = await check(service, call, request, repeat)
    return await follow(service, call, await accept(service, call, new), wait_s)


async def check(
    service: Service, call: Call, request: TaskRequest, repeat: "Repeat | None" = None
) -> NewTask:
    """Return the task that a request asks for, once it is sure that it may be accepted.

    Raises:
        SwellError: As `submit`.
    """
    if repeat is not None and repeat.is_known:
        # A repeat gets its task, even when a new one would be refused.
        return new_task(call, request, request.model, repeat)
    if request.class_name is not None or call.caller.classes:
        request = service.classes.apply(call.caller, request)
    cards = service.cards
    target = cards.known(request.model) or await cards.target(request.model)
    cards.check_input(target, request.input)
    new = split(service, prepared(service, new_task(call, request, target.queue, repeat), target))
    try:
        if new.run is not None or not service.fleet.is_served(target.model, target.needed_version):
            await check_can_run(service, target, new)
        if new.start_by_s is not None or new.finish_by_s is not None:
            await check_deadline(service, new, await service.rank_of_new(new))
    except (NoWorker, WouldExpire) as refusal:
        if request.degrade is None:
            raise
        from swell.api.admission import degraded  # noqa: PLC0415  it stands on this module

        new = await degraded(service, call, request, repeat, refusal)
        service.metrics.task_degraded(target.model)
    if request.webhook is not None:
        new = await telling(service, call, new, request.webhook)
    return new


async def accept(service: Service, call: Call, new: NewTask) -> Accepted:
    """Make a checked task durable. Nobody is offered it before `follow` or `note_new`.

    Raises:
        IdempotencyMismatch: Its key stands for another request.
        TooManyRequests: The key may not have it now.
    """
    accepted = (await service.limits.accept(call, [new]))[0]
    if isinstance(accepted, SwellError):
        raise accepted
    service.traces.accepted(call, [accepted])
    return accepted


async def follow(service: Service, call: Call, accepted: Accepted, wait_s: float) -> Task:
    """Offer a task to the workers, and return it once it has ended or the time is over.

    Raises:
        Unauthenticated: The key was revoked meanwhile.
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


def new_task(
    call: Call,
    request: TaskRequest,
    queue: str,
    repeat: "Repeat | None",
    place: tuple[str, int] = ("", 0),
) -> NewTask:
    """Return the task that a checked request asks for.

    Args:
        call: Who asks.
        request: What is asked.
        queue: `owner/name` of its model, with `:version` where the caller insists on one.
        repeat: What its idempotency key says; None without one.
        place: JSON pointer to the request within a batch, and how many come before it.

    Raises:
        InvalidInput: Metadata too large or broken.
    """
    at, before = place
    metadata = None if bytes(request.metadata) == b"null" else request.metadata
    if metadata is not None:
        _check_metadata(metadata, at)
    return NewTask(
        model=queue.partition(":")[0],
        queue=queue,
        input=request.input,
        count=request.count,
        seed=request.seed,
        priority=request.priority,
        key_id=call.caller.id,
        user=request.user,
        metadata=with_changes(metadata, ()),
        start_by_s=request.start_by_s,
        finish_by_s=request.finish_by_s,
        max_attempts=request.max_attempts,
        idempotency_key=None if repeat is None else repeat.key_at(before),
        fingerprint=b"" if repeat is None else repeat.fingerprint,
        traceparent=None if call.trace is None else call.trace.own,
    )


def prepared(service: Service, new: NewTask, target: Target, at: str = "") -> NewTask:
    """Return a new task with its input's own seed, and the files of this backend that it names.

    One of a pipeline stands at its first stage.

    Args:
        service: Whose files they are.
        new: The task.
        target: Its model.
        at: JSON pointer to the request within a batch.

    Raises:
        InvalidInput: One of the files may not be read now, or no stage has anything to do.
    """
    if target.card.pipeline is not None:
        new = at_first_stage(new, target, at)
    if target.may_have_seed and (own := own_seed(target.card, new.input)) is not None:
        new = msgspec.structs.replace(new, seed=own)
    if not may_name_files(new.input):
        return new
    files = check_files(service.objects, new.input, at + "/input")
    return msgspec.structs.replace(new, files=files)


async def telling(
    service: Service, call: Call, new: NewTask, asked: str | WebhookRequest, at: str = ""
) -> NewTask:
    """Return a new task with what its caller wants to be told of it.

    Args:
        service: Who tells it.
        call: Who asks.
        new: The task without it.
        asked: A URL, or more.
        at: JSON pointer to the request within a batch.

    Raises:
        InvalidInput: Nothing is sent there, or the key has no such secret.
        Unavailable: This service sends no webhooks.
    """
    hooks, place = service.need_hooks(), at + "/webhook"
    hook = hooks.checked(asked, service.base_url(call), place)
    await hooks.check_secret(new.key_id, hook.secret, place + "/secret")
    return msgspec.structs.replace(new, webhook=hook)


async def check_can_run(service: Service, target: Target, new: NewTask) -> None:
    """Check that a worker has a model, or one that has it can be started.

    Of a pipeline that goes for the models of all stages that may run, and of what is the canary's
    part for the live version where no worker has the canary.

    Raises:
        NoWorker: Neither is so.
    """
    if new.run is None:
        if not _has_canary(service, new.queue):
            await _check_is_served(service, target)
        return
    for stage in stages_ahead(new.run, new.input):
        await _check_is_served(service, await service.cards.target(stage.queue))


async def check_can_run_again(service: Service, task: Task) -> None:
    """Check that a task which is to be repeated can run, as far as it can be repeated at all.

    Raises:
        NotFound: Its model or version is there no more.
        NoWorker: No worker has it, and none that has it can be started.
    """
    if not task.state.is_terminal or task.inputs_removed:
        # The store says why not.
        return
    asks_none = task.run is not None or is_of_canary(task.queue)
    target = await service.cards.target(task.model if asks_none else task.queue)
    await check_can_run(service, target, again(task))


def _has_canary(service: Service, queue: str) -> bool:
    """Whether a queue is a canary's that a live worker has."""
    model = queue.partition(":")[0]
    canary = service.cards.canaries.get(model) if is_of_canary(queue) else None
    return canary is not None and service.fleet.is_served(model, canary.version)


async def _check_is_served(service: Service, target: Target) -> None:
    needed = target.needed_version
    if service.fleet.is_served(target.model, needed):
        return
    # One that has just registered at another backend may not have been heard of here.
    await service.fleet.look_again()
    if service.fleet.is_served(target.model, needed):
        return
    if await service.can_launch(target.model, needed):
        return
    named = target.model if needed is None else f"{target.model}:{needed}"
    advice = "start one with `swell worker`, or try again"
    if target.model in service.cards.lives:
        advice = (
            "have a pool launch this version or start one with `swell worker`, or make the version "
            f"live that there is (`swell models promote {target.model}:VERSION`; "
            f"`swell models stages {target.model}` shows them)"
        )
    raise NoWorker(
        f"no live worker has {named} and none can be started: {advice}",
        headers={"Retry-After": _NO_WORKER_RETRY_S},
    )


async def check_deadline(service: Service, new: NewTask, rank: Rank) -> None:
    """Check that a task with this before it would start and end in time.

    Raises:
        WouldExpire: It would not.
    """
    expected = await service.expected(new, rank)
    late = None if expected is None else late_of(new, expected)
    if late is not None:
        name, allowed_s, expected_s = late
        verb = "start" if name == "start_by_s" else "end"
        raise WouldExpire(
            f"it would {verb} in about {expected_s:.1f} s, later than {name} = {allowed_s:g}: "
            "try again later, or allow more time",
            headers={"Retry-After": str(retry_after_s(expected_s, allowed_s))},
        )


def late_of(new: NewTask, expected: Estimate) -> tuple[str, float, float] | None:
    """Return the deadline that a task would miss, its seconds and those expected; None if none."""
    for name, allowed_s, expected_s in (
        ("start_by_s", new.start_by_s, expected.start.median),
        ("finish_by_s", new.finish_by_s, expected.finish.median),
    ):
        if allowed_s is not None and expected_s > allowed_s:
            return name, allowed_s, expected_s
    return None


async def note_new(service: Service, accepted: list[Accepted]) -> None:
    """Offer tasks that are new, and count them."""
    fresh = [each.task for each in accepted if each.is_new]
    if fresh:
        counts, arrivals = service.metrics.accepted, service.scaling.arrivals.fresh
        for task in fresh:
            model, queue = task.model, task.queue
            counts[model] = counts.get(model, 0) + 1
            arrivals[queue] = arrivals.get(queue, 0) + task.count
        await service.broker.offer(fresh)


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


def idempotency_key(header: bytes) -> str:
    """Return the key in an `Idempotency-Key` header, which may stand in quotes or bare.

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


def fingerprint(body: bytes) -> bytes:
    """Return what tells one request from another, whatever the order of its fields or spaces."""
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Broken inside an input or metadata, which is told where these are checked.
        canonical = body
    return hashlib.sha256(canonical).digest()


class Repeat(msgspec.Struct, frozen=True):
    """What a request's idempotency key says."""

    key: str
    #: Of the whole body.
    fingerprint: bytes
    #: Whether the key was used in the last day, so that this is a repeat or a mistake.
    is_known: bool

    def key_at(self, place: int) -> str:
        """Return under which key to keep the task at a place of the request.

        The first lies under the key itself, so that single requests and batches share one scope.
        The further ones have a line feed in theirs, which no client can send.
        """
        return self.key if place == 0 else f"{self.key}\n{place}"


async def repeat_of(service: Service, call: Call, body: bytes) -> Repeat | None:
    """Return what a request's idempotency key says; None without one.

    Raises:
        InvalidRequest: The key cannot be used.
    """
    header = call.header(b"idempotency-key")
    if header is None:
        return None
    key = idempotency_key(header)
    return Repeat(key, fingerprint(body), await service.store.knows(call.caller.id, key))


def _check_metadata(metadata: msgspec.Raw, at: str) -> None:
    raw = bytes(metadata)
    pointer = at + "/metadata"
    if len(raw) > MAX_METADATA_BYTES:
        detail = f"metadata is {len(raw):,} bytes; at most {MAX_METADATA_BYTES:,} are kept"
        error = FieldError(pointer=pointer, detail=detail, code="too_large")
        raise InvalidInput(detail, errors=[error])
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the value at {pointer} is not JSON in UTF-8: {error}") from error
