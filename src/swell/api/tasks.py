"""Tasks: create, list, get, cancel, retry; and the dead letters.

`create` is the hot path. A 2xx is written only after the store's call has returned, and the store
returns only when the task is durable. Whoever waits (`Prefer: wait`) is answered from the event
that ends the task, without asking the store again; with a file of the task where it prefers that.
"""

import bisect
import functools
import hashlib
import re
from typing import Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.cards import Target
from swell.api.eta import retry_after_s
from swell.api.files import (
    check_files,
    comes_from_its_url,
    file_reply,
    may_name_files,
    preferred_file,
)
from swell.api.messages import (
    MAX_METADATA_BYTES,
    BatchRequest,
    BatchView,
    DeadQuery,
    DeadReplayRequest,
    DeadReplayView,
    Replayed,
    TaskList,
    TaskQuery,
    TaskRequest,
)
from swell.api.reading import Reader, check_json, read_query
from swell.api.service import Service
from swell.api.views import UrlMaker, encode, encode_task, task_view
from swell.broker import Rank
from swell.bus import News, NewsKind
from swell.errors import (
    FieldError,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NoWorker,
    SwellError,
    WouldExpire,
)
from swell.events import TERMINAL_ID
from swell.registry import Scope
from swell.store import Accepted, TaskFilter
from swell.task import NewTask, Task

__all__ = [
    "cancel",
    "create",
    "create_batch",
    "find_task",
    "fingerprint",
    "get",
    "idempotency_key",
    "list_dead",
    "list_tasks",
    "prefer_wait_s",
    "replay",
    "replay_many",
    "retry",
]

_request = Reader(TaskRequest)
_batch = Reader(BatchRequest)
_replay = Reader(DeadReplayRequest)

_WAIT: Final = re.compile(rb"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?=$|[,;\s])")

#: After how many seconds a caller may ask again for a model that nobody serves.
_NO_WORKER_RETRY_S: Final = "10"


async def create(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks`."""
    service.traces.begin(call)
    body = await call.body(service.settings.max_body_bytes)
    request = _read(call, body)
    is_repeatable = call.header(b"idempotency-key") is not None
    repeat = await _repeat_of(service, call, body) if is_repeatable else None
    if repeat is not None and repeat.is_known:
        # A repeat gets its task, even when a new one would be refused.
        new = _new_task(call, request, request.model, repeat)
    else:
        target = await service.cards.target(request.model)
        service.cards.check_input(target, request.input)
        new = _naming_files(service, _new_task(call, request, target.queue, repeat), "/input")
        await _check_can_run(service, target)
        if new.start_by_s is not None or new.finish_by_s is not None:
            await _check_deadline(service, new, await service.broker.rank_of_new(new))
    accepted = (await service.limits.accept(call, [new]))[0]
    if isinstance(accepted, SwellError):
        raise accepted
    task = accepted.task
    service.traces.accepted(call, [accepted])
    prefer = call.header(b"prefer")
    wait_s = 0.0 if prefer is None else prefer_wait_s(prefer, service.settings.max_prefer_s)
    if task.state.is_terminal:
        await _note_new(service, [accepted])
    elif wait_s > 0:
        # Listening before the offer: a quick worker must not end the task unheard.
        subscription = service.bus.subscribe(task.id, after=TERMINAL_ID - 1)
        try:
            await _note_new(service, [accepted])
            event = await subscription.next(wait_s)
        finally:
            subscription.close()
        await service.check_again(call)
        if event is not None and event.task is not None:
            task = event.task
        else:
            task = await service.lookups.get(task.id) or task
    else:
        await _note_new(service, [accepted])
    reply = await _file_reply(service, call, task, wait_s) if task.artifacts else None
    return reply or await _task_reply(service, call, task, wait_s)


async def create_batch(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/batch`."""
    service.traces.begin(call)
    body = await call.body(service.settings.max_body_bytes)
    _check_type(call)
    batch: BatchRequest = _batch.read(body)
    repeat = await _repeat_of(service, call, body)
    outlook = _Outlook(service)
    news: list[NewTask] = []
    errors: list[FieldError] = []
    for number, request in enumerate(batch.tasks):
        at = f"/tasks/{number}"
        try:
            if repeat is not None and repeat.is_known:
                news.append(_new_task(call, request, request.model, repeat, (at, number)))
                continue
            target = await service.cards.target(request.model)
            service.cards.check_input(target, request.input, at + "/input")
            new = _new_task(call, request, target.queue, repeat, (at, number))
            news.append(_naming_files(service, new, at + "/input"))
            await _check_can_run(service, target)
            await outlook.check(news[-1])
        except SwellError as error:
            if error.status >= 500:
                raise
            errors += error.errors or [
                FieldError(pointer=at + "/model", detail=error.detail, code=error.code)
            ]
        if len(errors) >= 50:
            break
    if errors:
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        raise InvalidInput(f"nothing was accepted, since {first}", errors=errors)
    accepted = _all_accepted(await service.limits.accept(call, news))
    service.traces.accepted(call, accepted)
    await _note_new(service, accepted)
    tasks = [each.task for each in accepted]
    urls = service.urls(call)
    places = await service.places(tasks, are_new=True)
    views = [
        task_view(task, urls, position=position, eta_s=None if eta is None else eta.finish)
        for task, (position, eta) in zip(tasks, places, strict=True)
    ]
    is_over = all(task.state.is_terminal for task in tasks)
    return Reply(201 if is_over else 202, encode(BatchView(tasks=views)))


async def list_tasks(service: Service, call: Call) -> Reply:
    """`GET /v1/tasks`."""
    query = read_query(call, TaskQuery)
    where = TaskFilter(
        state=query.state, model=query.model, user=query.user, key_id=_only_own(call)
    )
    return await _page(service, call, where, query.limit, query.cursor)


async def get(service: Service, call: Call) -> Reply:
    """`GET /v1/tasks/{id}`."""
    task = await find_task(service, call)
    position, expected = await service.place(task)
    eta = None if expected is None else expected.finish
    return Reply(200, encode_task(task, service.urls(call), position=position, eta_s=eta))


async def cancel(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/{id}/cancel`."""
    before = await find_task(service, call)
    task = (await service.store.cancel([before.id]))[0]
    assert task is not None, "the task was there a moment ago, and tasks are never forgotten"
    if task.state.is_terminal and not before.state.is_terminal:
        service.count_end(task)
        await service.changed([task])
    elif task.cancel_requested:
        service.fleet.stop([task])
        # Its worker may call another backend.
        await service.bus.tell([News(kind=NewsKind.STOP, ids=(task.id,))])
    return Reply(200, encode_task(task, service.urls(call)))


async def retry(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/{id}/retry`."""
    task = await find_task(service, call)
    return await _repeat(service, call, task)


async def list_dead(service: Service, call: Call) -> Reply:
    """`GET /v1/dead`."""
    query = read_query(call, DeadQuery)
    where = TaskFilter(dead=True, model=query.model)
    return await _page(service, call, where, query.limit, query.cursor)


async def replay(service: Service, call: Call) -> Reply:
    """`POST /v1/dead/{id}/replay`."""
    task = await find_task(service, call)
    return await _repeat(service, call, task, only_dead=True)


async def replay_many(service: Service, call: Call) -> Reply:
    """`POST /v1/dead/replay`."""
    asked: DeadReplayRequest = await _replay.read_call(call, service.settings.max_body_bytes)
    ids = asked.ids
    if ids is None:
        where = TaskFilter(dead=True, model=asked.model)
        page = await service.store.page(where, limit=1000)
        ids = [task.id for task in page.tasks]
    replayed, fresh = [], []
    for task_id in ids:
        try:
            owner = await _owner(service, task_id)
            accepted = await service.store.retry(task_id, key_id=owner, only_dead=True)
        except SwellError as error:
            replayed.append(Replayed(id=task_id, error=error.detail))
            continue
        fresh.append(accepted)
        replayed.append(Replayed(id=task_id, new_id=accepted.task.id))
    await _note_new(service, fresh)
    return Reply(200, encode(DeadReplayView(replayed=replayed)))


async def find_task(service: Service, call: Call) -> Task:
    """Return the task that the path names, as it is now.

    Raises:
        NotFound: There is none, or it belongs to another key.
    """
    task_id = call.params["id"]
    task = (await service.store.get([task_id]))[0]
    if task is None or not service.may_see(call, task):
        raise NotFound(
            f"this key has no task {task_id[:60]!r}: GET /v1/tasks lists those that it has"
        )
    return task


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


async def _file_reply(service: Service, call: Call, task: Task, wait_s: float) -> Reply | None:
    """Return a file of the task as the answer, or where it is; None where the answer is JSON."""
    artifact = preferred_file(call, task)
    if artifact is None:
        return None
    urls = service.urls(call)
    url = urls.file(artifact.key).encode()
    headers = [
        *_applied(wait_s),
        (b"vary", b"Accept"),
        (b"swell-task", task.id.encode()),
        (b"swell-task-state", task.state.encode()),
        (b"swell-artifacts", b"%d" % len(task.artifacts)),
    ]
    if comes_from_its_url(service, artifact):
        return Reply(303, encode_task(task, urls), headers=[(b"location", url), *headers])
    headers += [_location(urls, task), (b"content-location", url)]
    return await file_reply(service, artifact, headers)


async def _task_reply(service: Service, call: Call, task: Task, wait_s: float) -> Reply:
    urls = service.urls(call)
    headers = [_location(urls, task), *_applied(wait_s)]
    if task.state.is_terminal:
        return Reply(201, encode_task(task, urls), headers=headers)
    position, expected = await service.place(task, is_new=wait_s == 0)
    eta = None if expected is None else expected.finish
    body = encode_task(task, urls, position=position, eta_s=eta)
    return Reply(202, body, headers=headers)


def _location(urls: UrlMaker, task: Task) -> tuple[bytes, bytes]:
    return b"location", f"{urls.base}/v1/tasks/{task.id}".encode()


def _applied(wait_s: float) -> list[tuple[bytes, bytes]]:
    return [(b"preference-applied", b"wait=%d" % wait_s)] if wait_s > 0 else []


def _new_task(
    call: Call,
    request: TaskRequest,
    queue: str,
    repeat: "_Repeat | None",
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
        metadata=metadata,
        start_by_s=request.start_by_s,
        finish_by_s=request.finish_by_s,
        max_attempts=request.max_attempts,
        idempotency_key=None if repeat is None else repeat.key_at(before),
        fingerprint=b"" if repeat is None else repeat.fingerprint,
        traceparent=None if call.trace is None else call.trace.own,
    )


def _naming_files(service: Service, new: NewTask, at: str) -> NewTask:
    """Return a new task with the files of this backend that its input names.

    Raises:
        InvalidInput: One of them may not be read now.
    """
    if not may_name_files(new.input):
        return new
    return msgspec.structs.replace(new, files=check_files(service.objects, new.input, at))


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


class _Repeat(msgspec.Struct, frozen=True):
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


async def _repeat_of(service: Service, call: Call, body: bytes) -> _Repeat | None:
    """Return what a request's idempotency key says; None without one.

    Raises:
        InvalidRequest: The key cannot be used.
    """
    header = call.header(b"idempotency-key")
    if header is None:
        return None
    key = idempotency_key(header)
    return _Repeat(key, fingerprint(body), await service.store.knows(call.caller.id, key))


async def _check_can_run(service: Service, target: Target) -> None:
    pinned = target.pinned_version
    if service.fleet.is_served(target.model, pinned):
        return
    # One that has just registered at another backend may not have been heard of here.
    await service.fleet.look_again()
    if service.fleet.is_served(target.model, pinned):
        return
    if await service.can_launch(target.model):
        # What is launched brings the version that a request without one gets.
        current = await service.cards.target(target.model)
        if pinned is None or pinned == current.card.version:
            return
    raise NoWorker(
        f"no live worker has {target.queue} and none can be started: start one with "
        f"`swell worker`, or try again",
        headers={"Retry-After": _NO_WORKER_RETRY_S},
    )


class _Outlook:
    """What would come before the tasks of a batch: what waits already, and some of the batch."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: (queue, priority, user) → the rank of one that came alone.
        self._ranks: dict[tuple[str, int, str | None], Rank] = {}
        #: Model → priority → the batch so far.
        self._lines: dict[str, dict[int, _Line]] = {}

    async def check(self, new: NewTask) -> None:
        """Check the deadlines of the batch's next task.

        Raises:
            WouldExpire: It would start or end too late.
        """
        lines = self._lines.setdefault(new.model, {})
        line = lines.setdefault(new.priority, _Line())
        if new.start_by_s is not None or new.finish_by_s is not None:
            flow = (new.queue, new.priority, new.user)
            rank = self._ranks.get(flow)
            if rank is None:
                rank = self._ranks[flow] = await self._service.broker.rank_of_new(new)
            own, samples = line.before(new, rank.samples)
            for priority, other in lines.items():
                if priority < new.priority:
                    own, samples = own + len(other.costs), samples + sum(other.costs)
            behind = Rank(ahead=rank.ahead + own, is_exact=False, samples=rank.samples + samples)
            await _check_deadline(self._service, new, behind)
        line.add(new)


class _Line:
    """A batch's tasks of one model and priority, in the order in which their users take turns."""

    def __init__(self) -> None:
        #: Start tags (see `swell.fairness`), in samples; those of users who have nothing waiting.
        self.tags: list[int] = []
        #: Samples of each.
        self.costs: list[int] = []
        self._ends: dict[str | None, int] = {}

    def add(self, new: NewTask) -> None:
        tag = self._ends.get(new.user, 0)
        self._ends[new.user] = tag + new.count
        at = bisect.bisect_right(self.tags, tag)
        self.tags.insert(at, tag)
        self.costs.insert(at, new.count)

    def before(self, new: NewTask, waiting: int) -> tuple[int, int]:
        """Return how many of these tasks come before a new one, and their samples.

        Args:
            new: It is the next of its user.
            waiting: Samples that would come before it if it came alone. They all count as its
                user's own, behind which other users get their turns: more than these they cannot.
        """
        n = bisect.bisect_right(self.tags, self._ends.get(new.user, 0) + waiting)
        return n, sum(self.costs[:n])


async def _check_deadline(service: Service, new: NewTask, rank: Rank) -> None:
    expected = await service.expected(new, rank)
    if expected is None:
        return
    for name, allowed_s, expected_s in (
        ("start_by_s", new.start_by_s, expected.start.median),
        ("finish_by_s", new.finish_by_s, expected.finish.median),
    ):
        if allowed_s is not None and expected_s > allowed_s:
            verb = "start" if name == "start_by_s" else "end"
            raise WouldExpire(
                f"it would {verb} in about {expected_s:.1f} s, later than {name} = {allowed_s:g}: "
                "try again later, or allow more time",
                headers={"Retry-After": str(retry_after_s(expected_s, allowed_s))},
            )


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


def _read(call: Call, body: bytes) -> TaskRequest:
    _check_type(call)
    request: TaskRequest = _request.read(body)
    return request


def _check_type(call: Call) -> None:
    header = call.header(b"content-type")
    if header is not None and header != b"application/json":
        check_json(call)


async def _note_new(service: Service, accepted: list[Accepted]) -> None:
    """Offer tasks that are new, and count them."""
    fresh = [each.task for each in accepted if each.is_new]
    if fresh:
        counts, arrivals = service.metrics.accepted, service.scaling.arrivals.fresh
        for task in fresh:
            model = task.model
            counts[model] = counts.get(model, 0) + 1
            arrivals[model] = arrivals.get(model, 0) + task.count
        await service.broker.offer(fresh)


async def _repeat(service: Service, call: Call, task: Task, *, only_dead: bool = False) -> Reply:
    if only_dead:
        accepted = await service.store.retry(task.id, key_id=task.key_id, only_dead=True)
    else:
        accepted = await service.limits.retry(call, task)
    await _note_new(service, [accepted])
    return await _task_reply(service, call, accepted.task, 0.0)


async def _page(
    service: Service, call: Call, where: TaskFilter, limit: int, cursor: str | None
) -> Reply:
    page = await service.store.page(where, limit=limit, cursor=cursor)
    tasks = list(page.tasks)
    urls = service.urls(call)
    places = await service.places(tasks)
    views = [
        task_view(task, urls, position=position, eta_s=None if eta is None else eta.finish)
        for task, (position, eta) in zip(tasks, places, strict=True)
    ]
    return Reply(200, encode(TaskList(tasks=views, cursor=page.cursor)))


async def _owner(service: Service, task_id: str) -> str:
    """Return whose task it is: a replay stays its owner's."""
    task = (await service.store.get([task_id]))[0]
    if task is None:
        raise NotFound(f"there is no task {task_id[:60]!r}")
    return task.key_id


def _only_own(call: Call) -> str | None:
    key = call.caller
    return None if Scope.ADMIN in key.scopes else key.id


def _all_accepted(results: list[Accepted | SwellError]) -> list[Accepted]:
    accepted = []
    for result in results:
        if isinstance(result, SwellError):
            raise result
        accepted.append(result)
    return accepted
