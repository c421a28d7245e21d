"""Links to what came of tasks: made, taken back and listed by whoever may; followed by everybody.

Whoever follows one is shown pictures that were written anew, without what their files say of
themselves, and through the backend: when the link ends, so does all that it led to.
"""

import hashlib
from datetime import timedelta

from swell.api.auth import create_key
from swell.api.call import Call, Reply
from swell.api.messages import NoQuery
from swell.api.operators import shown_once
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.share_messages import (
    SharedPictureQuery,
    SharedView,
    ShareList,
    ShareRequest,
    SharesQuery,
    ShareView,
)
from swell.api.shared_task import pictures_of, shared_view
from swell.api.tasks import find_task, only_own
from swell.api.thumbnails import width_of
from swell.api.views import encode
from swell.errors import Conflict, FieldError, Forbidden, InvalidInput, InvalidRequest, NotFound
from swell.quotas import Quota, month_of, resets_at
from swell.registry import KeyLimits, Scope
from swell.sharing import ShareLink, new_share_token
from swell.task import Task, TaskState, is_id

_request = Reader(ShareRequest)

#: No search engine is to list what was shared with some.
UNLISTED = (b"x-robots-tag", b"noindex")


async def share(service: Service, call: Call) -> Reply:
    """`POST /v1/tasks/{id}/share`."""
    body = await call.body(service.settings.server.max_body_bytes)
    asked: ShareRequest = _request.read(body or b"{}")
    task = await find_task(service, call)
    now = service.clock.now()
    if asked.expires_at is not None and asked.expires_at <= now:
        detail = (
            "this time is in the past: give a later one, or null for a link that does not expire"
        )
        where = FieldError(pointer="/expires_at", detail=detail, code="past")
        raise InvalidInput(f"/expires_at: {detail}", errors=[where])
    if task.state is not TaskState.SUCCEEDED or not pictures_of(task):
        raise Conflict(
            f"task {task.id} has no picture that could be shown: share a task that has succeeded "
            "and made one"
        )
    link = await service.store.share(
        ShareLink(
            task_id=task.id,
            key_id=task.key_id,
            token=new_share_token(),
            created_at=now,
            has_prompt=asked.with_prompt,
            expires_at=asked.expires_at,
        )
    )
    if link is None:
        raise Conflict(f"the data of task {task.id} was deleted, so it cannot be shared")
    return Reply(200, encode(_view(service, call, link)))


async def get_share(service: Service, call: Call) -> Reply:
    """`GET /v1/tasks/{id}/share`."""
    read_query(call, NoQuery)
    task = await find_task(service, call)
    link = await service.store.share_link_of(task.id)
    if link is None:
        raise _not_shared(task)
    return Reply(200, encode(_view(service, call, link)))


async def unshare(service: Service, call: Call) -> Reply:
    """`DELETE /v1/tasks/{id}/share`."""
    task = await find_task(service, call)
    link = await service.store.unshare(task.id)
    if link is None:
        raise _not_shared(task)
    return Reply(200, encode(_view(service, call, link)))


async def list_shares(service: Service, call: Call) -> Reply:
    """`GET /v1/shares`."""
    query = read_query(call, SharesQuery)
    if query.cursor is not None and not is_id(query.cursor):
        raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
    if query.task_id is not None:
        link = await service.store.share_link_of(query.task_id)
        is_seen = link is not None and only_own(call) in (None, link.key_id)
        views = [_view(service, call, link)] if link is not None and is_seen else []
        return Reply(200, encode(ShareList(shares=views, cursor=None)))
    found = await service.store.share_links(
        key_id=only_own(call), limit=query.limit + 1, before=query.cursor
    )
    shown = found[: query.limit]
    views = [_view(service, call, each) for each in shown]
    after = shown[-1].task_id if len(found) > query.limit else None
    return Reply(200, encode(ShareList(shares=views, cursor=after)))


async def look(service: Service, call: Call) -> Reply:
    """`GET /v1/shares/{token}`: without a key."""
    read_query(call, NoQuery)
    _, view = await find_shared(service, call)
    return Reply(200, encode(view), headers=[(b"cache-control", b"no-store"), UNLISTED])


async def make_guest_key(service: Service, call: Call) -> Reply:
    """`POST /v1/shares/{token}/guest`: without a key.

    Raises:
        Forbidden: The settings allow no guests.
        TooManyRequests: Within the hour this process made one for this address, or 60 in all.
    """
    await find_shared(service, call)
    if not (tasks := service.settings.limits.guest_tasks):
        raise Forbidden("guests may run no tasks here: sign in with a key")
    client = call.scope.get("client")
    # Behind a proxy all have its address; a forged header gets around the limit per address alone.
    forwarded = call.header(b"x-forwarded-for") or b""
    service.limits.let_in_guest(forwarded.decode("latin-1") or (client[0] if client else ""))
    now = service.clock.now()
    made = await create_key(
        service.registry,
        service.clock,
        "guest",
        frozenset({Scope.CLIENT}),
        # Not into the next month, in which its quota would be full again.
        expires_at=min(now + timedelta(days=1), resets_at(month_of(now))),
        limits=KeyLimits(streams=10),
    )
    await service.registry.put_quota(Quota(key_id=made.key.id, tasks_per_month=tasks))
    service.quotas.forget()
    return shown_once(201, made)


async def show_picture(service: Service, call: Call) -> Reply:
    """`GET /v1/shares/{token}/pictures/{number}`: without a key."""
    query = read_query(call, SharedPictureQuery)
    task, _ = await find_shared(service, call)
    pictures = pictures_of(task)
    picture = dict(zip(map(str, range(len(pictures))), pictures, strict=True)).get(
        call.params["number"]
    )
    if picture is None:
        raise NotFound(f"there are pictures 0 to {len(pictures) - 1} behind this link")
    info = await service.thumbnails.find(picture.key, width_of(str(query.w)))
    tag = f'"{hashlib.sha256(info.etag.encode()).hexdigest()[:32]}"'.encode()
    headers = [
        (b"etag", tag),
        # Whoever keeps it asks each time whether the link is still good.
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
        UNLISTED,
    ]
    if tag in (call.header(b"if-none-match") or b""):
        return Reply(304, headers=headers)
    stream = service.objects.read(info.key, 0, info.bytes)
    return Reply(200, b"", b"image/webp", headers, stream=stream, length=info.bytes)


async def find_shared(service: Service, call: Call) -> tuple[Task, SharedView]:
    """Return the task that a link leads to, and what may be known of it.

    Raises:
        NotFound: It leads nowhere; whether it ever did is not told.
    """
    link = await service.store.share_link(call.params["token"])
    if link is None or not link.is_good(service.clock.now()):
        raise _nowhere()
    (task,) = await service.store.get([link.task_id])
    if task is None or not pictures_of(task):
        raise _nowhere()
    card = await service.cards.registered(task.model, task.model_version)
    schema = {} if card is None else card.input_schema
    base, guest_tasks = service.base_url(call), service.settings.limits.guest_tasks
    return task, shared_view(link, task, schema, base, guest_tasks)


def _view(service: Service, call: Call, link: ShareLink) -> ShareView:
    return ShareView(
        task_id=link.task_id,
        url=f"{service.base_url(call)}/s/{link.token}",
        token=link.token,
        with_prompt=link.has_prompt,
        created_at=link.created_at,
        expires_at=link.expires_at,
    )


def _not_shared(task: Task) -> NotFound:
    return NotFound(f"task {task.id} is not shared: POST /v1/tasks/{task.id}/share makes a link")


def _nowhere() -> NotFound:
    return NotFound("this link was revoked, has expired, or never existed")
