"""Tasks: create, list, get, cancel, retry; and the dead letters.

`create` is the hot path. A 2xx is written only after the store's call has returned, and the store
returns only when the task is durable. A client that waits (`Prefer: wait`) gets its answer from the
event that ends the task, without another read of the store.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from swell.core.broker_types import Rank
from swell.core.errors import (
    Conflict,
    CreditsUsedUp,
    FieldError,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    NoWorker,
    QuotaExceeded,
    SwellError,
    WouldExpire,
)
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.like import Viewer
from swell.core.search_words import MOST_SOUGHT, words_of
from swell.core.store_types import Accepted, TaskFilter
from swell.core.task import NewTask, Task
from swell.server.auth import may_see, only_own
from swell.server.decoding import Reader, read_body, read_query
from swell.server.files.file_routes import comes_from_its_url, file_reply, preferred_file
from swell.server.request import Call, Reply
from swell.server.route import (
    IDEMPOTENCY_KEY,
    TASK_EXAMPLE,
    Body,
    Header,
    Response,
    admin_route,
    task_route,
)
from swell.server.serializers import encode, task_view
from swell.server.service import Service
from swell.server.tasks.admission import check, check_can_run_again
from swell.server.tasks.partial_artifacts import early_artifacts
from swell.server.tasks.submit import (
    accept,
    count_end,
    follow,
    note_new,
    prefer_wait_s,
    publish_changes,
    repeat_of,
)
from swell.server.tasks.task_schemas import (
    BatchRequest,
    BatchView,
    DeadQuery,
    DeadReplayRequest,
    DeadReplayView,
    Replayed,
    TaskList,
    TaskQuery,
    TaskRequest,
    TaskView,
)

#: Most tasks indexed right before a search; a background job indexes more.
_WORDS_BEFORE: Final = 500

_request = Reader(TaskRequest)
_batch = Reader(BatchRequest)


_PREFER: Final = Header(
    "Prefer",
    "`wait=N` holds the request until the task ends, for at most N seconds (N <= 60), or 5 s "
    "more after the client closes its sending side",
    {"type": "string", "maxLength": 100},
    "wait=30",
)
_ACCEPT: Final = Header(
    "Accept",
    "a preferred file type, such as `image/png` or `audio/*`: the answer is the first such file "
    "of a succeeded task instead of JSON; `application/octet-stream` accepts any file",
    {"type": "string", "maxLength": 1000},
    "image/png",
)
#: Why a task is not accepted that could be read.
_REFUSED: Final[tuple[type[SwellError], ...]] = (
    NoWorker,
    WouldExpire,
    QuotaExceeded,
    CreditsUsedUp,
)
_TASK_OVER: Final = Response("The ended task", TaskView)
_OF_A_FILE: Final = (
    ("swell-task", "With a file: the id of its task"),
    ("swell-task-state", "With a file: `succeeded`"),
    ("swell-artifacts", "With a file: the number of files of its task"),
)
_TASK_OR_FILE: Final = Response(
    "The ended task, or its file of the preferred type: `Location` and `Swell-Task` name the "
    "task, `Content-Location` is the file's URL",
    TaskView,
    files=("image/*", "audio/*", "video/*", "text/plain", "application/octet-stream"),
    headers=_OF_A_FILE,
)
_FILE_ELSEWHERE: Final = Response(
    "The succeeded task; its file of the preferred type exceeds 16 MiB or is in a bucket: read "
    "it at `Location`, without a key",
    TaskView,
    headers=_OF_A_FILE,
)
_TASK_NOT_YET: Final = Response("The task, still queued or running", TaskView)


@task_route(
    "POST /v1/tasks",
    {201: _TASK_OR_FILE, 202: _TASK_NOT_YET, 303: _FILE_ELSEWHERE},
    body=Body(TaskRequest, example=TASK_EXAMPLE),
    headers=(_PREFER, _ACCEPT, IDEMPOTENCY_KEY),
    errors=(Forbidden, NotFound, IdempotencyMismatch, *_REFUSED),
)
async def create(service: Service, call: Call) -> Reply:
    """Create a task.

    A 2xx answer means that the task is durable and reaches exactly one end. To get a file with
    `Accept`, also send `Prefer`, or repeat the idempotency key of an ended task; without a file
    of that type the answer is JSON.
    """
    request: TaskRequest = await call.read(_request, service.settings.server.max_body_bytes)
    repeat = None
    if b"idempotency-key" in call.headers:
        repeat = await repeat_of(service, call, call.content)
    new = await check(service, call, request, repeat)
    [accepted] = await accept(service, call, [new])
    prefer = call.headers.get(b"prefer")
    wait_s = 0.0 if prefer is None else prefer_wait_s(prefer, service.settings.server.max_wait_s)
    task = await follow(service, call, accepted, wait_s)
    reply = await _file_reply(service, call, task, wait_s) if task.artifacts else None
    return reply or await _task_reply(service, call, task, wait_s)


@task_route(
    "POST /v1/tasks/batch",
    {
        201: Response("The tasks, all ended", BatchView),
        202: Response("The tasks, in the order of the request", BatchView),
    },
    body=Body(BatchRequest, example={"tasks": [TASK_EXAMPLE]}),
    headers=(IDEMPOTENCY_KEY,),
    errors=(IdempotencyMismatch, *_REFUSED),
)
async def create_batch(service: Service, call: Call) -> Reply:
    """Create up to 1,000 tasks.

    The server accepts all tasks or none. An idempotency key covers the whole batch.
    """
    batch: BatchRequest = await call.read(_batch, service.settings.server.max_body_bytes)
    repeat = await repeat_of(service, call, call.content)
    ranks = _BatchRanks(service)
    news: list[NewTask] = []
    errors: list[FieldError] = []
    for number, request in enumerate(batch.tasks):
        at = f"/tasks/{number}"
        # Let other requests run between two tasks.
        await asyncio.sleep(0)
        try:
            place = (at, number)
            new = await check(service, call, request, repeat, place=place, rank_of=ranks.rank_of)
            ranks.add(new)
            news.append(new)
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
    accepted = await accept(service, call, news)
    await note_new(service, accepted)
    tasks = [each.task for each in accepted]
    urls = service.urls(call)
    places = await service.estimates.positions(tasks, are_new=True)
    views = [
        task_view(task, urls, position=position, eta_s=None if eta is None else eta.finish)
        for task, (position, eta) in zip(tasks, places, strict=True)
    ]
    is_over = all(task.state.is_terminal for task in tasks)
    return Reply(201 if is_over else 202, encode(BatchView(tasks=views)))


@task_route("GET /v1/tasks", Response("A page of tasks, newest first", TaskList), query=TaskQuery)
async def list_tasks(service: Service, call: Call) -> Reply:
    """List tasks.

    A client key sees its own tasks; an admin key sees all.
    """
    query = read_query(call, TaskQuery)
    viewer = Viewer(call.caller.id, query.viewer or "")
    words = words_of(query.q)[:MOST_SOUGHT]
    if words:
        # Tasks since the last run of the background job.
        await service.store.keep_words(limit=_WORDS_BEFORE)
    where = TaskFilter(
        state=query.state,
        model=query.model,
        user=query.user,
        key_id=only_own(call),
        liked_by=viewer if query.favourite else None,
        words=words,
        since=query.since,
        until=query.until,
    )
    return await _page(service, call, where, query.limit, query.cursor, viewer)


@task_route("GET /v1/tasks/{id}", Response("The task", TaskView), errors=(NotFound,))
async def get(service: Service, call: Call) -> Reply:
    """Get a task."""
    task = await find_task(service, call)
    position, expected = await service.estimates.position(task)
    eta = None if expected is None else expected.finish
    early = early_artifacts(service.bus, task)
    urls = service.urls(call)
    return Reply(200, encode(task_view(task, urls, position=position, eta_s=eta, early=early)))


@task_route(
    "POST /v1/tasks/{id}/cancel",
    Response("The task; a running one stops at its next step", TaskView),
    errors=(NotFound,),
    audit="tasks.cancel",
)
async def cancel(service: Service, call: Call) -> Reply:
    """Cancel a task.

    A queued task ends at once. Canceling an ended task changes nothing.
    """
    task = await cancel_task(service, await find_task(service, call))
    return Reply(200, encode(task_view(task, service.urls(call))))


async def cancel_task(service: Service, before: Task) -> Task:
    """Cancel a task and return it: one that waited has ended, one that runs ends within a step."""
    canceled = await service.store.cancel([before.id])
    [task] = canceled
    assert task is not None, "the task was there a moment ago, and tasks are never forgotten"
    if task.state.is_terminal:
        if not canceled.again:
            count_end(service, task)
            publish_changes(service, [task])
    elif task.cancel_requested:
        service.fleet.stop([task])
        # Its worker may call another backend.
        await service.bus.broadcast([PeerMessage(kind=MessageKind.STOP, ids=(task.id,))])
    return task


@task_route(
    "POST /v1/tasks/{id}/retry",
    {201: _TASK_OVER, 202: Response("The new task", TaskView)},
    errors=(NotFound, Conflict, QuotaExceeded, CreditsUsedUp),
    audit="tasks.retry",
)
async def retry(service: Service, call: Call) -> Reply:
    """Repeat an ended task.

    Creates a new task; the old one keeps its outcome. A second request returns the same new
    task.
    """
    task = await find_task(service, call)
    return await _repeat(service, call, task)


@admin_route(
    "GET /v1/dead", Response("Tasks that failed their last attempt", TaskList), query=DeadQuery
)
async def list_dead(service: Service, call: Call) -> Reply:
    """List dead letters."""
    query = read_query(call, DeadQuery)
    where = TaskFilter(dead=True, model=query.model)
    return await _page(service, call, where, query.limit, query.cursor)


@admin_route(
    "POST /v1/dead/{id}/replay",
    {201: _TASK_OVER, 202: Response("The new task", TaskView)},
    errors=(NotFound, Conflict),
    audit="dead.replay",
)
async def replay(service: Service, call: Call) -> Reply:
    """Replay a dead letter."""
    task = await find_task(service, call)
    return await _repeat(service, call, task, only_dead=True)


@admin_route(
    "POST /v1/dead/replay",
    Response("The result for each", DeadReplayView),
    body=Body(DeadReplayRequest, example={"model": "demo/upper"}),
    audit="dead.replay_many",
)
async def replay_many(service: Service, call: Call) -> Reply:
    """Replay many dead letters."""
    asked = await read_body(service, call, DeadReplayRequest)
    if asked.ids is None:
        where = TaskFilter(dead=True, model=asked.model)
        page = await service.store.page(where, limit=1000)
        known = {task.id: task for task in page.tasks}
    else:
        found = await service.store.get(asked.ids)
        known = {task.id: task for task in found if task is not None}
    ids = asked.ids or list(known)
    # Together, so that they share transactions.
    replays = await asyncio.gather(*(_replayed(service, call, each, known) for each in ids))
    await note_new(service, [each for each in replays if isinstance(each, Accepted)])
    replayed = [
        Replayed(id=task_id, new_id=each.task.id)
        if isinstance(each, Accepted)
        else Replayed(id=task_id, error=each.detail)
        for task_id, each in zip(ids, replays, strict=True)
    ]
    return Reply(200, encode(DeadReplayView(replayed=replayed)))


async def _replayed(
    service: Service, call: Call, task_id: str, known: Mapping[str, Task]
) -> Accepted | SwellError:
    task = known.get(task_id)
    if task is None:
        return NotFound(f"there is no task {task_id[:60]!r}")
    try:
        if task.dead:
            await check_can_run_again(service, task)
        return await service.limits.repeat(call, task, only_dead=True)
    except SwellError as error:
        return error


async def find_task(service: Service, call: Call) -> Task:
    """Return the task that the path names, as it is now.

    Raises:
        NotFound: There is none, or it belongs to another key.
    """
    task_id = call.params["id"]
    task = (await service.store.get([task_id]))[0]
    if task is None or not may_see(call, task.key_id):
        raise NotFound(
            f"this key has no task {task_id[:60]!r}: GET /v1/tasks or `swell tasks ls` lists its "
            "tasks"
        )
    return task


async def _file_reply(service: Service, call: Call, task: Task, wait_s: float) -> Reply | None:
    """Return a file of the task as the answer, or where it is; None where the answer is JSON."""
    artifact = preferred_file(call, task)
    if artifact is None:
        return None
    urls = service.urls(call)
    url = urls.file(artifact.key, artifact.bytes)
    headers = [
        (b"vary", b"Accept"),
        (b"swell-task", task.id.encode()),
        (b"swell-task-state", task.state.encode()),
        (b"swell-artifacts", b"%d" % len(task.artifacts)),
    ]
    if comes_from_its_url(service, artifact):
        headers += _headers(url, wait_s)
        return Reply(303, encode(task_view(task, urls)), headers=headers)
    headers += _headers(f"{urls.base}/v1/tasks/{task.id}", wait_s)
    headers.append((b"content-location", url.encode()))
    return await file_reply(service, artifact, headers)


async def _task_reply(service: Service, call: Call, task: Task, wait_s: float) -> Reply:
    urls = service.urls(call)
    headers = _headers(f"{urls.base}/v1/tasks/{task.id}", wait_s)
    if task.state.is_terminal:
        return Reply(201, encode(task_view(task, urls)), headers=headers)
    position, expected = await service.estimates.position(task, is_new=wait_s == 0)
    eta = None if expected is None else expected.finish
    body = encode(task_view(task, urls, position=position, eta_s=eta))
    return Reply(202, body, headers=headers)


def _headers(location: str, wait_s: float) -> list[tuple[bytes, bytes]]:
    headers = [(b"location", location.encode())]
    if wait_s > 0:
        headers.append((b"preference-applied", b"wait=%d" % wait_s))
    return headers


class _BatchRanks:
    """Counts the tasks before each task of a batch, earlier ones of the batch included."""

    def __init__(self, service: Service) -> None:
        self._estimates = service.estimates
        #: (queue, priority, user) → rank of a task without its batch.
        self._ranks: dict[tuple[str, int, str | None], Rank] = {}
        #: Queues of the same workers → (priority, start tag, samples) of the tasks so far.
        self._tasks: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
        #: (these queues, priority, user) → start tag of the next task, as of
        #: `swell.core.fair_queueing`.
        self._tags: dict[tuple[tuple[str, ...], int, str | None], int] = {}

    async def rank_of(self, new: NewTask) -> Rank:
        """Return the rank of the next task of the batch."""
        flow = (new.queue, new.priority, new.user)
        rank = self._ranks.get(flow)
        if rank is None:
            rank = self._ranks[flow] = await self._estimates.rank_of_new(new)
        queues = self._queues(new)
        # The tasks before it count as its user's own: other users get their turns among them.
        tag = self._tags.get((queues, new.priority, new.user), 0) + rank.samples
        earlier = [
            samples
            for priority, start, samples in self._tasks.get(queues, ())
            if (priority, start) <= (new.priority, tag)
        ]
        return Rank(ahead=rank.ahead + len(earlier), samples=rank.samples + sum(earlier))

    def add(self, new: NewTask) -> None:
        """Count a task of the batch."""
        queues = self._queues(new)
        flow = (queues, new.priority, new.user)
        tag = self._tags.get(flow, 0)
        self._tags[flow] = tag + new.count
        self._tasks.setdefault(queues, []).append((new.priority, tag, new.count))

    def _queues(self, new: NewTask) -> tuple[str, ...]:
        served = self._estimates.served_with(new.queue).get(new.queue)
        return served or (new.stage_model,)


async def _repeat(service: Service, call: Call, task: Task, *, only_dead: bool = False) -> Reply:
    if task.dead or not only_dead:
        await check_can_run_again(service, task)
    accepted = await service.limits.repeat(call, task, only_dead=only_dead)
    await note_new(service, [accepted])
    return await _task_reply(service, call, accepted.task, 0.0)


async def _page(
    service: Service,
    call: Call,
    where: TaskFilter,
    limit: int,
    cursor: str | None,
    viewer: Viewer | None = None,
) -> Reply:
    page = await service.store.page(where, limit=limit, cursor=cursor)
    tasks = list(page.tasks)
    urls = service.urls(call)
    places = await service.estimates.positions(tasks)
    views = [
        task_view(task, urls, position=position, eta_s=None if eta is None else eta.finish)
        for task, (position, eta) in zip(tasks, places, strict=True)
    ]
    if viewer is not None and views:
        liked = await service.store.favourites(viewer, [task.id for task in tasks])
        views = [
            msgspec.structs.replace(view, favourites=list(each)) if each else view
            for view, each in zip(views, liked, strict=True)
        ]
    return Reply(200, encode(TaskList(tasks=views, cursor=page.cursor)))
