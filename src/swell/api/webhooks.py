"""Webhooks: standing endpoints, what signs, and what became of deliveries."""

import secrets
from typing import Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.endpoints import Endpoint, EndpointState
from swell.api.hook_secrets import SigningPair
from swell.api.hooks import checked_url
from swell.api.messages import (
    DeliveryList,
    DeliveryQuery,
    DeliveryView,
    EndpointList,
    EndpointRequest,
    EndpointView,
    HookReplayRequest,
    HookReplayView,
    HookRotateRequest,
    HookSecretView,
    TryView,
)
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import Conflict, Forbidden, InvalidInput, NotFound
from swell.outbox import Delivery, DeliveryFilter, DeliveryState
from swell.registry import Scope
from swell.webhooks.signing import new_secret

_endpoint = Reader(EndpointRequest)
_rotation = Reader(HookRotateRequest)
_since = Reader(HookReplayRequest)

#: Failed deliveries that one call sends again are read in pages of so many, up to so many.
_PAGE: Final = 200
_MOST_REPLAYED: Final = 100_000


async def create(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks`."""
    hooks = service.need_hooks()
    asked: EndpointRequest = await _endpoint.read_call(call, service.settings.server.max_body_bytes)
    key = call.caller
    if asked.all_keys and Scope.ADMIN not in key.scopes:
        raise Forbidden(
            "only an admin key may subscribe to the tasks of all keys: leave out `all_keys`"
        )
    call.of_others = asked.all_keys
    hooks.check_format(asked.format, asked.events, "")
    await hooks.endpoints.refresh()
    if sum(each.key_id == key.id for each in hooks.endpoints.all()) >= hooks.settings.endpoints:
        raise Conflict(
            f"this key has {hooks.settings.endpoints} webhooks, which is as many as it may: delete "
            "one first"
        )
    now = service.clock.now()
    endpoint = Endpoint(
        id="we_" + secrets.token_hex(8),
        key_id=key.id,
        url=checked_url(hooks.policy, asked.url, "/url"),
        is_for_all=asked.all_keys,
        events=tuple(dict.fromkeys(asked.events)),
        models=tuple(dict.fromkeys(asked.models)),
        format=asked.format,
        description=asked.description,
        base=service.base_url(call),
        changed_at=now,
        created_at=now,
        signing=SigningPair(secret=new_secret(), created_at=now),
    )
    await hooks.endpoints.add(endpoint)
    call.target = endpoint.id
    return Reply(201, encode(_view(endpoint, shows_secret=True)))


async def list_endpoints(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks`."""
    hooks = service.need_hooks()
    await hooks.endpoints.refresh()
    views = [_view(each) for each in hooks.endpoints.all() if _may_see(call, each)]
    return Reply(200, encode(EndpointList(webhooks=views)))


async def get(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks/{id}`."""
    return Reply(200, encode(_view(await _find(service, call))))


async def delete(service: Service, call: Call) -> Reply:
    """`DELETE /v1/webhooks/{id}`."""
    endpoint = await _find(service, call)
    await service.need_hooks().endpoints.remove(endpoint.id)
    return Reply(200, encode(_view(endpoint)))


async def pause(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/{id}/pause`."""
    endpoint = await _find(service, call)
    if endpoint.state is EndpointState.DISABLED:
        raise Conflict(f"{endpoint.id} is disabled ({endpoint.reason}): resume it first")
    return await _set_state(service, endpoint, EndpointState.PAUSED, "paused by a user")


async def resume(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/{id}/resume`."""
    return await _set_state(service, await _find(service, call), EndpointState.ACTIVE, "")


async def rotate(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/{id}/rotate`."""
    overlap_s = await _overlap_s(service, call)
    endpoint = await _find(service, call)
    changed = await service.need_hooks().endpoints.rotate(endpoint.id, overlap_s)
    return Reply(200, encode(_view(changed, shows_secret=True)))


async def show_secret(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks/{id}/secret`."""
    return _secret_reply(service, (await _find(service, call)).signing)


async def show_signing_secret(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks/secrets/{name}`."""
    name = call.params["name"]
    pair = await service.need_hooks().secrets.of(call.caller.id, name)
    if pair is None:
        raise NotFound(
            f"this key has no signing secret {name[:64]!r}: POST /v1/webhooks/secrets/NAME/rotate "
            "makes one"
        )
    return _secret_reply(service, pair)


async def new_signing_secret(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/secrets/{name}/rotate`."""
    overlap_s = await _overlap_s(service, call)
    hooks, name = service.need_hooks(), call.params["name"]
    call.target = name
    await hooks.secrets.check_name(call.caller.id, name)
    return _secret_reply(service, await hooks.secrets.rotate(call.caller.id, name, overlap_s))


async def list_deliveries(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks/deliveries`."""
    query = read_query(call, DeliveryQuery)
    key = call.caller
    where = DeliveryFilter(
        task_id=query.task,
        endpoint=query.endpoint,
        key_id=None if Scope.ADMIN in key.scopes else key.id,
        state=query.state,
    )
    page = await service.need_hooks().outbox.page(where, limit=query.limit, cursor=query.cursor)
    views = [_delivery_view(each) for each in page.deliveries]
    return Reply(200, encode(DeliveryList(deliveries=views, cursor=page.cursor)))


async def get_delivery(service: Service, call: Call) -> Reply:
    """`GET /v1/webhooks/deliveries/{id}`."""
    return Reply(200, encode(_delivery_view(await _find_delivery(service, call))))


async def replay(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/deliveries/{id}/replay`."""
    delivery = await _find_delivery(service, call)
    if delivery.state is DeliveryState.WAITING:
        raise Conflict(f"{delivery.id} still has attempts left: there is nothing to replay")
    outbox = service.need_hooks().outbox
    await outbox.replay([delivery.id])
    (again,) = await outbox.get([delivery.id])
    return Reply(200, encode(_delivery_view(again or delivery)))


async def replay_failed(service: Service, call: Call) -> Reply:
    """`POST /v1/webhooks/{id}/replay`."""
    asked: HookReplayRequest = await _since.read_call(call, service.settings.server.max_body_bytes)
    if asked.since.tzinfo is None:
        raise InvalidInput("/since: name the zone too, such as 2026-11-26T12:00:00Z")
    endpoint = await _find(service, call)
    outbox = service.need_hooks().outbox
    where = DeliveryFilter(endpoint=endpoint.id, state=DeliveryState.FAILED, since=asked.since)
    ids: list[str] = []
    cursor: str | None = None
    while len(ids) < _MOST_REPLAYED:
        page = await outbox.page(where, limit=_PAGE, cursor=cursor)
        ids += [each.id for each in page.deliveries]
        cursor = page.cursor
        if cursor is None:
            break
    # Oldest first, though whoever waits with them is due at the same moment.
    n = await outbox.replay(ids[::-1]) if ids else 0
    call.about = f"{n} deliveries"
    return Reply(200, encode(HookReplayView(replayed=n)))


async def _set_state(
    service: Service, endpoint: Endpoint, state: EndpointState, reason: str
) -> Reply:
    hooks = service.need_hooks()
    changed = await hooks.endpoints.set_state(endpoint.id, state, reason)
    hooks.dispatcher.wake()
    return Reply(200, encode(_view(changed)))


async def _overlap_s(service: Service, call: Call) -> float:
    body = await call.body(service.settings.server.max_body_bytes)
    asked: HookRotateRequest = _rotation.read(body or b"{}")
    call.about = f"the secret before signs too for {asked.overlap_s:g} s"
    return asked.overlap_s


async def _find(service: Service, call: Call) -> Endpoint:
    """Return the endpoint that the path names, as it is now.

    Raises:
        NotFound: There is none, or it belongs to another key.
    """
    endpoint_id = call.params["id"]
    endpoint = await service.need_hooks().endpoints.read(endpoint_id)
    if endpoint is None or not _may_see(call, endpoint):
        raise NotFound(
            f"this key has no webhook {endpoint_id[:60]!r}: GET /v1/webhooks lists those it has"
        )
    return endpoint


async def _find_delivery(service: Service, call: Call) -> Delivery:
    delivery_id = call.params["id"]
    (delivery,) = await service.need_hooks().outbox.get([delivery_id])
    key = call.caller
    is_own = delivery is not None and delivery.key_id == key.id
    if delivery is None or not (is_own or Scope.ADMIN in key.scopes):
        raise NotFound(
            f"this key has no delivery {delivery_id[:60]!r}: GET /v1/webhooks/deliveries lists "
            "those that it has"
        )
    call.of_others = not is_own
    return delivery


def _may_see(call: Call, endpoint: Endpoint) -> bool:
    """Whether the caller may know of an endpoint: its own, or any for an admin."""
    if endpoint.key_id == call.caller.id:
        return True
    is_admin = Scope.ADMIN in call.caller.scopes
    call.of_others = call.of_others or is_admin
    return is_admin


def _secret_reply(service: Service, pair: SigningPair) -> Reply:
    is_old_good = pair.old_until is not None and pair.old_until > service.clock.now()
    view = HookSecretView(
        key=pair.secret,
        created_at=pair.created_at,
        old_until=pair.old_until if is_old_good else None,
    )
    return Reply(200, encode(view), headers=[(b"cache-control", b"no-store")])


def _view(endpoint: Endpoint, *, shows_secret: bool = False) -> EndpointView:
    return EndpointView(
        id=endpoint.id,
        key_id=endpoint.key_id,
        url=endpoint.url,
        events=list(endpoint.events),
        models=list(endpoint.models),
        description=endpoint.description,
        all_keys=endpoint.is_for_all,
        format=endpoint.format,
        state=endpoint.state.value,
        reason=endpoint.reason,
        changed_at=endpoint.changed_at,
        created_at=endpoint.created_at,
        secret=endpoint.signing.secret if shows_secret else msgspec.UNSET,
    )


def _delivery_view(delivery: Delivery) -> DeliveryView:
    missing = len(delivery.log) - len(delivery.answers)
    answers = (*delivery.answers, *[""] * missing)
    return DeliveryView(
        id=delivery.id,
        task=delivery.task_id,
        endpoint=delivery.endpoint or None,
        event=delivery.event,
        at=delivery.at,
        state=delivery.state.value,
        reason=delivery.reason,
        tries=delivery.tries,
        due_at=delivery.due_at,
        ended_at=delivery.ended_at,
        attempts=[
            TryView(
                at=each.at,
                took_s=each.took_s,
                status=each.status,
                error=each.error,
                detail=each.detail,
                answer=answer,
            )
            for each, answer in zip(delivery.log, answers, strict=True)
        ],
    )
