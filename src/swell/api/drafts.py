"""From what is asked to a new task, before it is known whether it may be accepted."""

import hashlib

import msgspec

from swell.api.call import Call
from swell.api.cards import Target, own_seed
from swell.api.files import check_files, may_name_files
from swell.api.messages import MAX_METADATA_BYTES, TaskRequest, WebhookRequest
from swell.api.service import Service
from swell.api.stages import at_first_stage
from swell.degrade import with_changes
from swell.errors import FieldError, InvalidInput, InvalidRequest
from swell.task import NewTask


class Repeat(msgspec.Struct, frozen=True):
    """What a request's idempotency key says."""

    key: str
    #: Of the path and the whole body.
    fingerprint: bytes
    #: Whether the key was used in the last day, so that this is a repeat or a mistake.
    is_known: bool

    def key_at(self, place: int) -> str:
        """Return under which key to keep the task at a place of the request.

        The first lies under the key itself, so that single requests and batches share one scope.
        The further ones have a line feed in theirs, which no client can send.
        """
        return self.key if place == 0 else f"{self.key}\n{place}"


def new_task(
    call: Call,
    request: TaskRequest,
    queue: str,
    repeat: Repeat | None,
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


async def repeat_of(service: Service, call: Call, body: bytes) -> Repeat | None:
    """Return what a request's idempotency key says; None without one.

    Args:
        service: Whose tasks they are.
        call: The request.
        body: Its body, or other bytes that say all that it asks for.

    Raises:
        InvalidRequest: The key cannot be used.
    """
    header = call.header(b"idempotency-key")
    if header is None:
        return None
    key = idempotency_key(header)
    return Repeat(key, fingerprint(call.path, body), await service.store.knows(call.caller.id, key))


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


def fingerprint(path: str, body: bytes) -> bytes:
    """Return a digest of a request that ignores the order of fields and spaces.

    The path counts too: in many APIs it names the model.
    """
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Broken inside an input or metadata, which is told where these are checked.
        canonical = body
    return hashlib.sha256(path.encode() + b"\n" + canonical).digest()


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
