"""Tasks: create, list, get, cancel, retry; and the dead letters.

`create` is the hot path. A 2xx is written only after the store's call has returned, and the store
returns only when the task is durable. Whoever waits (`Prefer: wait`) is answered from the event
that ends the task, without asking the store again; with a file of the task where it prefers that.
"""

import asyncio
import bisect
from collections.abc import Mapping
from typing import Final

import msgspec

from swell.api.admission import degraded
from swell.api.call import Call, Reply
from swell.api.drafts import Repeat, new_task, prepared, repeat_of, telling
from swell.api.early import early_artifacts
from swell.api.feasible import check_can_run, check_can_run_again, check_deadline
from swell.api.files import comes_from_its_url, file_reply, preferred_file
from swell.api.messages import (
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
from swell.api.submit import accept, check, follow, note_new, prefer_wait_s
from swell.api.traffic import split
from swell.api.views import UrlMaker, encode, encode_task, task_view
from swell.broker import Rank
from swell.bus import News, NewsKind
from swell.errors import (
    FieldError,
    InvalidInput,
    NotFound,
    NoWorker,
    SwellError,
    WouldExpire,
)
from swell.favourites import Viewer
from swell.registry import Scope
from swell.store import Accepted, TaskFilter
from swell.task import NewTask, Task
from swell.words import MOST_SOUGHT, words_of

#: Of so many tasks words are kept before tasks are sought by them; of more a duty does it in time.
_WORDS_BEFORE: Final = 500

_request = Reader(TaskRequest)
_batch = Reader(BatchRequest)
_replay = Reader(DeadReplayRequest)


async def create(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks`."""
    service.traces.begin(call)
    body = await call.body(service.settings.server.max_body_bytes)
    request = _read(call, body)
    is_repeatable = call.header(b"idempotency-key") is not None
    repeat = await repeat_of(service, call, body) if is_repeatable else None
    new = await check(service, call, request, repeat)
    accepted = await accept(service, call, new)
    prefer = call.header(b"prefer")
    wait_s = 0.0 if prefer is None else prefer_wait_s(prefer, service.settings.server.max_wait_s)
    task = await follow(service, call, accepted, wait_s)
    reply = await _file_reply(service, call, task, wait_s) if task.artifacts else None
    return reply or await _task_reply(service, call, task, wait_s)


async def create_batch(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/batch`."""
    service.traces.begin(call)
    body = await call.body(service.settings.server.max_body_bytes)
    _check_type(call)
    batch: BatchRequest = _batch.read(body)
    repeat = await repeat_of(service, call, body)
    outlook = _Outlook(service)
    news: list[NewTask] = []
    errors: list[FieldError] = []
    for number, request in enumerate(batch.tasks):
        at = f"/tasks/{number}"
        # Let other requests run between two tasks.
        await asyncio.sleep(0)
        try:
            if repeat is not None and repeat.is_known:
                news.append(new_task(call, request, request.model, repeat, (at, number)))
                continue
            news.append(await _checked(service, call, request, repeat, (at, number), outlook))
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
    await note_new(service, accepted)
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
    viewer = Viewer(call.caller.id, query.viewer or "")
    words = words_of(query.q)[:MOST_SOUGHT]
    if words:
        # What came since the duty looked last.
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


async def get(service: Service, call: Call) -> Reply:
    """`GET /v1/tasks/{id}`."""
    task = await find_task(service, call)
    position, expected = await service.place(task)
    eta = None if expected is None else expected.finish
    early = early_artifacts(service.bus, task)
    urls = service.urls(call)
    return Reply(200, encode_task(task, urls, position=position, eta_s=eta, early=early))


async def cancel(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/{id}/cancel`."""
    task = await cancel_task(service, await find_task(service, call))
    return Reply(200, encode_task(task, service.urls(call)))


async def cancel_task(service: Service, before: Task) -> Task:
    """Cancel a task and return it: one that waited has ended, one that runs ends within a step."""
    canceled = await service.store.cancel([before.id])
    [task] = canceled
    assert task is not None, "the task was there a moment ago, and tasks are never forgotten"
    if task.state.is_terminal:
        if not canceled.again:
            service.count_end(task)
            await service.changed([task])
    elif task.cancel_requested:
        service.fleet.stop([task])
        # Its worker may call another backend.
        await service.bus.tell([News(kind=NewsKind.STOP, ids=(task.id,))])
    return task


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
    asked: DeadReplayRequest = await _replay.read_call(call, service.settings.server.max_body_bytes)
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
        return await service.limits.replay(call, task)
    except SwellError as error:
        return error


async def find_task(service: Service, call: Call) -> Task:
    """Return the task that the path names, as it is now.

    Raises:
        NotFound: There is none, or it belongs to another key.
    """
    task_id = call.params["id"]
    task = (await service.store.get([task_id]))[0]
    if task is None or not service.may_see(call, task):
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
    url = urls.file(artifact.key, artifact.bytes).encode()
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


async def _checked(
    service: Service,
    call: Call,
    request: TaskRequest,
    repeat: Repeat | None,
    place: tuple[str, int],
    outlook: "_Outlook",
) -> NewTask:
    """Return a task of a batch, once it is sure that it may be accepted."""
    at, _ = place
    if request.class_name is not None or call.caller.classes:
        request = service.classes.apply(call.caller, request)
    target = await service.cards.target(request.model)
    service.cards.check_input(call, target, request.input, at + "/input")
    new = new_task(call, request, target.queue, repeat, place)
    new = split(service, call, prepared(service, new, target, at))
    try:
        await check_can_run(service, target, new)
        await outlook.check(new)
    except (NoWorker, WouldExpire) as refusal:
        if request.degrade is None:
            raise
        new = await degraded(
            service, call, request, repeat, refusal, place=place, rank_of=outlook.rank_of
        )
        service.metrics.task_degraded(target.model)
    outlook.add(new)
    if request.webhook is not None:
        new = await telling(service, call, new, request.webhook, at)
    return new


class _Outlook:
    """What would come before the tasks of a batch: what waits already, and some of the batch."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: (queue, priority, user) → the rank of one that came alone.
        self._ranks: dict[tuple[str, int, str | None], Rank] = {}
        #: Queues that the same workers serve → priority → the batch so far.
        self._lines: dict[tuple[str, ...], dict[int, _Line]] = {}

    async def check(self, new: NewTask) -> None:
        """Check the deadlines of the batch's next task.

        Raises:
            WouldExpire: It would start or end too late.
        """
        if new.start_by_s is not None or new.finish_by_s is not None:
            await check_deadline(self._service, new, await self.rank_of(new))

    async def rank_of(self, new: NewTask) -> Rank:
        """Return what would come before the batch's next task."""
        lines = self._lines.setdefault(self._served_with(new), {})
        line = lines.setdefault(new.priority, _Line())
        flow = (new.queue, new.priority, new.user)
        rank = self._ranks.get(flow)
        if rank is None:
            rank = self._ranks[flow] = await self._service.rank_of_new(new)
        own, samples = line.before(new, rank.samples)
        for priority, other in lines.items():
            if priority < new.priority:
                own, samples = own + len(other.costs), samples + sum(other.costs)
        return Rank(ahead=rank.ahead + own, is_exact=False, samples=rank.samples + samples)

    def add(self, new: NewTask) -> None:
        """Count a task that the batch holds."""
        lines = self._lines.setdefault(self._served_with(new), {})
        lines.setdefault(new.priority, _Line()).add(new)

    def _served_with(self, new: NewTask) -> tuple[str, ...]:
        """Return what the tasks of a batch have in common that wait for the same workers."""
        queues = self._service.served_with([new.queue]).get(new.queue)
        return queues or (new.stage_model,)


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


def _read(call: Call, body: bytes) -> TaskRequest:
    _check_type(call)
    request: TaskRequest = _request.read(body)
    return request


def _check_type(call: Call) -> None:
    header = call.header(b"content-type")
    if header is not None and header != b"application/json":
        check_json(call)


async def _repeat(service: Service, call: Call, task: Task, *, only_dead: bool = False) -> Reply:
    if task.dead or not only_dead:
        await check_can_run_again(service, task)
    limits = service.limits
    accepted = await (limits.replay(call, task) if only_dead else limits.retry(call, task))
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
    places = await service.places(tasks)
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


def only_own(call: Call) -> str | None:
    """Return the id of the key whose tasks its caller may list; None for those of all."""
    key = call.caller
    return None if Scope.ADMIN in key.scopes else key.id


def _all_accepted(results: list[Accepted | SwellError]) -> list[Accepted]:
    accepted = []
    for result in results:
        if isinstance(result, SwellError):
            raise result
        accepted.append(result)
    return accepted
