"""Share links to the pictures of a task. People with the link need no key.

A visitor gets newly encoded pictures without metadata, through the backend. They end with the link.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec

from swell.core.clock import Moment
from swell.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from swell.core.quota import Quota, month_of, resets_at
from swell.core.records import KeyLimits, Scope
from swell.core.share_link import ShareLink, new_share_token
from swell.core.task import SHOWN_LARGE_PX, Artifact, Task, TaskState, is_id
from swell.server.admin.admin_routes import shown_once
from swell.server.admin.admin_schemas import NewKeyView
from swell.server.auth import create_key, only_own
from swell.server.common_schemas import Cursor, NoQuery, doc
from swell.server.decoding import read_body, read_query
from swell.server.files.thumbnails import has_thumbnail, width_of
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import Body, Response, group_route
from swell.server.serializers import encode, project
from swell.server.service import Service
from swell.server.tasks.task_routes import find_task
from swell.server.tasks.task_schemas import Zoned

#: Keeps shared pictures out of search engines.
NO_INDEX_HEADER = (b"x-robots-tag", b"noindex")

#: The input field with the text of a picture.
_PROMPT: Final = "prompt"


class ShareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a share link."""

    with_prompt: Annotated[bool, doc("whether to show the prompt")] = True
    expires_at: Annotated[Zoned | None, doc("when the link expires; null for never")] = None


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """A share link."""

    task_id: str
    url: Annotated[str, doc("a page that needs no key and no scripts")]
    token: Annotated[str, doc("the secret part of the link")]
    with_prompt: bool
    created_at: Moment
    expires_at: Annotated[Moment | None, doc("null for never")]


class ShareList(msgspec.Struct, frozen=True, kw_only=True):
    """Share links; `cursor` gets the next page and is null at the end."""

    shares: list[ShareView]
    cursor: str | None


class SharesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which links to list."""

    task_id: Annotated[str, doc("only the link of this task", max_length=200)] | None = None
    cursor: Cursor = None
    limit: Annotated[int, doc("links on a page", ge=1, le=200)] = 50


class SharedPictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A shared picture: WebP without metadata."""

    url: Annotated[str, doc(f"at most {SHOWN_LARGE_PX} px wide")]
    thumbnail_url: Annotated[str, doc("the same, at most 512 px wide")]
    width: Annotated[int | None, doc("of the picture at `url`, in px")]
    height: int | None


class SharedView(msgspec.Struct, frozen=True, kw_only=True):
    """The shared part of a task."""

    model: str
    prompt: Annotated[str | None, doc("null if not shown")]
    seed: int | None
    settings: Annotated[dict[str, Any], doc("numbers, switches and choices of the input")]
    made_at: Moment
    expires_at: Moment | None
    pictures: list[SharedPictureView]
    guest_tasks: Annotated[int, doc("tasks that a visitor may run without another key")] = 0


class SharedPictureQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of a shared picture."""

    w: Annotated[int, doc("largest width, in px: 128, 256, 512 or 2048")] = SHOWN_LARGE_PX


_route = group_route("Shares")
_SHARE: Final = Response("The link", ShareView)


@_route(
    "POST /v1/tasks/{id}/share",
    _SHARE,
    body=Body(ShareRequest, example={"with_prompt": False}),
    errors=(NotFound, Conflict),
    audit="tasks.share",
)
async def share(service: Service, call: Call) -> Reply:
    """Share a task's result.

    The link shows pictures, model, settings and, unless you leave it out, the prompt, without a
    key. It ends when it is revoked, expires, or the task's outputs are removed. A second
    request changes what the link shows and keeps the link.
    """
    request = await read_body(service, call, ShareRequest, is_optional=True)
    task = await find_task(service, call)
    now = service.clock.now()
    if request.expires_at is not None and request.expires_at <= now:
        detail = "this time is past: give a later one, or null for a link that does not expire"
        raise field_error("/expires_at", detail, "past")
    if task.state is not TaskState.SUCCEEDED or not pictures_of(task):
        raise Conflict(f"task {task.id} has no picture to share")
    asked = ShareLink(
        task_id=task.id,
        key_id=task.key_id,
        token=new_share_token(),
        created_at=now,
        has_prompt=request.with_prompt,
        expires_at=request.expires_at,
    )
    link = await service.store.share(asked)
    if link is None:
        raise Conflict(f"the data of task {task.id} was deleted, so it cannot be shared")
    return Reply(200, encode(_view(service, call, link)))


@_route("GET /v1/tasks/{id}/share", _SHARE, errors=(InvalidRequest, InvalidInput, NotFound))
async def get_share(service: Service, call: Call) -> Reply:
    """Get a task's link."""
    read_query(call, NoQuery)
    task = await find_task(service, call)
    return _link_reply(service, call, task, await service.store.share_link_of(task.id))


@_route(
    "DELETE /v1/tasks/{id}/share",
    Response("The link as it was", ShareView),
    errors=(NotFound,),
    audit="tasks.unshare",
)
async def unshare(service: Service, call: Call) -> Reply:
    """Revoke a link.

    The link stops working; sharing the task again creates another one.
    """
    task = await find_task(service, call)
    return _link_reply(service, call, task, await service.store.unshare(task.id))


@_route("GET /v1/shares", Response("Links, newest tasks first", ShareList), query=SharesQuery)
async def list_shares(service: Service, call: Call) -> Reply:
    """List links.

    A client key sees the links of its tasks; an admin key sees all. Expired links are
    included.
    """
    query = read_query(call, SharesQuery)
    if query.cursor is not None and not is_id(query.cursor):
        raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
    key_id = only_own(call)
    if query.task_id is not None:
        link = await service.store.share_link_of(query.task_id)
        found = [link] if link is not None and key_id in (None, link.key_id) else []
    else:
        found = await service.store.share_links(
            key_id=key_id, limit=query.limit + 1, before=query.cursor
        )
    page = found[: query.limit]
    cursor = page[-1].task_id if len(found) > query.limit else None
    views = [_view(service, call, each) for each in page]
    return Reply(200, encode(ShareList(shares=views, cursor=cursor)))


@_route(
    "GET /v1/shares/{token}",
    Response("The shared part of the task", SharedView),
    scope=None,
    errors=(InvalidRequest, InvalidInput, NotFound),
)
async def look(service: Service, call: Call) -> Reply:
    """Get shared content.

    `/s/{token}` shows the same as a page.
    """
    read_query(call, NoQuery)
    _, view = await find_shared(service, call)
    return Reply(200, encode(view), headers=[(b"cache-control", b"no-store"), NO_INDEX_HEADER])


@_route(
    "POST /v1/shares/{token}/guest",
    {201: Response("A key for `limits.guest_tasks` tasks within a day", NewKeyView)},
    scope=None,
    errors=(InvalidRequest, Forbidden, NotFound, TooManyRequests),
)
async def make_guest_key(service: Service, call: Call) -> Reply:
    """Create a guest key.

    Visitors of a shared page try its prompt without another key. Off by default. An
    address gets one key per hour.

    Raises:
        Forbidden: The settings allow no guests.
        TooManyRequests: Within the hour this process made one for this address, or 60 in all.
    """
    await find_shared(service, call)
    if not (tasks := service.settings.limits.guest_tasks):
        raise Forbidden("guests may run no tasks here: sign in with a key")
    client = call.scope.get("client")
    # Behind a proxy all clients have its address. A forged header evades only this limit.
    forwarded = call.headers.get(b"x-forwarded-for") or b""
    service.limits.let_in_guest(forwarded.decode("latin-1") or (client[0] if client else ""))
    now = service.clock.now()
    made = await create_key(
        service.registry,
        service.clock,
        "guest",
        frozenset({Scope.CLIENT}),
        # In the next month the quota would be full again.
        expires_at=min(now + timedelta(days=1), resets_at(month_of(now))),
        limits=KeyLimits(streams=10),
    )
    await service.registry.put_quota(Quota(key_id=made.key.id, tasks_per_month=tasks))
    service.quotas.forget()
    return shown_once(201, made)


@_route(
    "GET /v1/shares/{token}/pictures/{number}",
    {
        200: Response("The picture", media_type="image/webp"),
        304: Response("It has not changed", media_type=""),
    },
    scope=None,
    query=SharedPictureQuery,
    errors=(NotFound,),
)
async def show_picture(service: Service, call: Call) -> Reply:
    """Get a shared picture."""
    query = read_query(call, SharedPictureQuery)
    task, _ = await find_shared(service, call)
    pictures = {str(index): each for index, each in enumerate(pictures_of(task))}
    picture = pictures.get(call.params["number"])
    if picture is None:
        raise NotFound(f"there are pictures 0 to {len(pictures) - 1} behind this link")
    info = await service.thumbnails.find(picture.key, width_of(str(query.w)))
    tag = f'"{hashlib.sha256(info.etag.encode()).hexdigest()[:32]}"'.encode()
    headers = [
        (b"etag", tag),
        # Caches must ask each time whether the link still exists.
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
        NO_INDEX_HEADER,
    ]
    if tag in (call.headers.get(b"if-none-match") or b""):
        return Reply(304, headers=headers)
    stream = service.objects.read(info.key, 0, info.bytes)
    return Reply(200, b"", b"image/webp", headers, stream=stream, length=info.bytes)


async def find_shared(service: Service, call: Call) -> tuple[Task, SharedView]:
    """Return the task of a share link and its public view.

    Raises:
        NotFound: The link does not exist, or no longer; the error does not say which.
    """
    link = await service.store.share_link(call.params["token"])
    task: Task | None = None
    if link is not None and link.is_good(service.clock.now()):
        (task,) = await service.store.get([link.task_id])
    if link is None or task is None or not pictures_of(task):
        raise NotFound("this link was revoked, has expired, or never existed")
    card = await service.cards.registered(task.model, task.model_version)
    given = msgspec.json.decode(task.input)
    # The input may have been removed.
    given = given if isinstance(given, dict) else {}
    prompt = given.get(_PROMPT)
    home = f"{service.base_url(call)}/v1/shares/{link.token}/pictures"
    view = SharedView(
        model=task.model,
        prompt=prompt if link.has_prompt and isinstance(prompt, str) else None,
        seed=task.seed,
        settings=settings_of(given, {} if card is None else card.input_schema),
        made_at=task.created_at,
        expires_at=link.expires_at,
        pictures=[
            _picture(each, f"{home}/{number}") for number, each in enumerate(pictures_of(task))
        ],
        guest_tasks=service.settings.limits.guest_tasks,
    )
    return task, view


def _link_reply(service: Service, call: Call, task: Task, link: ShareLink | None) -> Reply:
    if link is None:
        raise NotFound(f"task {task.id} is not shared: POST /v1/tasks/{task.id}/share makes a link")
    return Reply(200, encode(_view(service, call, link)))


def _view(service: Service, call: Call, link: ShareLink) -> ShareView:
    url = f"{service.base_url(call)}/s/{link.token}"
    return project(ShareView, link, url=url, with_prompt=link.has_prompt)


def pictures_of(task: Task) -> list[Artifact]:
    """Return the files of a task that a share link shows."""
    return [each for each in task.artifacts if has_thumbnail(each.key, each.content_type)]


def settings_of(given: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public settings of an input: numbers, switches and choices.

    Free text may contain anything, such as a URL, so it is left out.
    """
    properties = schema.get("properties") or {}
    return {
        name: value
        for name, value in given.items()
        if name != _PROMPT and _is_public(value, _choices(properties.get(name), schema))
    }


def _is_public(value: Any, choices: list[Any]) -> bool:
    if isinstance(value, list):
        return all(not isinstance(each, list) and _is_public(each, choices) for each in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value in choices)


def _choices(prop: Any, schema: Mapping[str, Any], depth: int = 0) -> list[Any]:
    """Return the values that a schema lists for a field, or for each element of a list."""
    if not isinstance(prop, Mapping) or depth > 4:
        return []
    found = [*prop.get("enum", ()), *([prop["const"]] if "const" in prop else [])]
    parts = [each for name in ("anyOf", "oneOf", "allOf") for each in prop.get(name, ())]
    parts.append(prop.get("items"))
    if "$ref" in prop:
        parts.append(schema.get("$defs", {}).get(prop["$ref"].rpartition("/")[2]))
    return found + [each for part in parts for each in _choices(part, schema, depth + 1)]


def _picture(artifact: Artifact, url: str) -> SharedPictureView:
    width, height = artifact.width, artifact.height
    if width and height:
        # The limits of thumbnails.
        scale = min(1.0, SHOWN_LARGE_PX / width, 4 * SHOWN_LARGE_PX / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return SharedPictureView(url=url, thumbnail_url=f"{url}?w=512", width=width, height=height)
