"""Webhook endpoints: standing webhooks, signing secrets and deliveries."""

import secrets
from itertools import zip_longest

import msgspec

from swell.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from swell.core.outbox import Delivery, DeliveryFilter, DeliveryState
from swell.core.records import Scope
from swell.server.auth import may_see, only_own
from swell.server.decoding import read_body, read_query
from swell.server.request import Call, Reply
from swell.server.route import Body, Response, group_route
from swell.server.serializers import encode, project
from swell.server.service import Service
from swell.server.webhooks.task_webhooks import checked_url
from swell.server.webhooks.webhook_endpoints import Endpoint, EndpointState
from swell.server.webhooks.webhook_schemas import (
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
from swell.server.webhooks.webhook_secrets import SigningPair, next_pair

_route = group_route("Webhooks", errors=(NotFound, Unavailable))


@_route(
    "POST /v1/webhooks",
    {201: Response("The webhook with its signing secret", EndpointView)},
    body=Body(
        EndpointRequest,
        example={"url": "https://shop.example/hooks", "events": ["succeeded", "failed"]},
    ),
    errors=(Forbidden, Conflict, Unavailable),
    audit="webhooks.create",
)
async def create(service: Service, call: Call) -> Reply:
    """Create a standing webhook.

    It receives events of the key's tasks from now on; with several backends, after a few
    seconds.
    """
    hooks, key = service.hooks, call.caller
    request = await read_body(service, call, EndpointRequest)
    if request.all_keys and Scope.ADMIN not in key.scopes:
        raise Forbidden(
            "only an admin key may subscribe to the tasks of all keys: leave out `all_keys`"
        )
    call.of_others = request.all_keys
    hooks.check_format(request.format, request.events, "")
    await hooks.endpoints.refresh()
    if sum(each.key_id == key.id for each in hooks.endpoints.all()) >= hooks.settings.endpoints:
        raise Conflict(
            f"this key has {hooks.settings.endpoints} webhooks, which is the limit: delete one "
            "first"
        )
    now = service.clock.now()
    endpoint = project(
        Endpoint,
        request,
        id="we_" + secrets.token_hex(8),
        key_id=key.id,
        url=checked_url(hooks.policy, request.url, "/url"),
        events=tuple(dict.fromkeys(request.events)),
        models=tuple(dict.fromkeys(request.models)),
        reason="",
        base=service.base_url(call),
        changed_at=now,
        created_at=now,
        signing=next_pair(None, now),
    )
    await hooks.endpoints.add(endpoint)
    call.target = endpoint.id
    return Reply(201, encode(_view(endpoint, shows_secret=True)))


@_route("GET /v1/webhooks", Response("Webhooks, oldest first", EndpointList), errors=(Unavailable,))
async def list_endpoints(service: Service, call: Call) -> Reply:
    """List standing webhooks.

    A client key sees its own; an admin key sees all.
    """
    endpoints = service.hooks.endpoints
    await endpoints.refresh()
    views = [_view(each) for each in endpoints.all() if may_see(call, each.key_id)]
    return Reply(200, encode(EndpointList(webhooks=views)))


@_route("GET /v1/webhooks/{id}", Response("The webhook, without its secret", EndpointView))
async def get(service: Service, call: Call) -> Reply:
    """Get a standing webhook."""
    return Reply(200, encode(_view(await _find(service, call))))


@_route(
    "DELETE /v1/webhooks/{id}",
    Response("The deleted webhook", EndpointView),
    audit="webhooks.delete",
)
async def delete(service: Service, call: Call) -> Reply:
    """Delete a standing webhook.

    Waiting deliveries fail.
    """
    endpoint = await _find(service, call)
    await service.hooks.endpoints.remove(endpoint.id)
    return Reply(200, encode(_view(endpoint)))


@_route(
    "POST /v1/webhooks/{id}/pause",
    Response("The webhook", EndpointView),
    errors=(NotFound, Conflict, Unavailable),
    audit="webhooks.pause",
)
async def pause(service: Service, call: Call) -> Reply:
    """Pause a standing webhook.

    Swell keeps events until the webhook is resumed.
    """
    endpoint = await _find(service, call)
    if endpoint.state is EndpointState.DISABLED:
        raise Conflict(f"{endpoint.id} is disabled ({endpoint.reason}): resume it first")
    return await _set_state(service, endpoint, EndpointState.PAUSED, "paused by a user")


@_route(
    "POST /v1/webhooks/{id}/resume",
    Response("The webhook", EndpointView),
    errors=(NotFound, Conflict, Unavailable),
    audit="webhooks.resume",
)
async def resume(service: Service, call: Call) -> Reply:
    """Resume a standing webhook.

    Also re-enables one that was disabled by a 410; events in between are lost to it.
    """
    return await _set_state(service, await _find(service, call), EndpointState.ACTIVE, "")


@_route(
    "POST /v1/webhooks/{id}/rotate",
    Response("The webhook with its new secret", EndpointView),
    body=Body(HookRotateRequest, example={"overlap_s": 86400}),
    errors=(NotFound, Conflict, Unavailable),
    audit="webhooks.rotate",
)
async def rotate(service: Service, call: Call) -> Reply:
    """Rotate a standing webhook's secret.

    Both secrets sign during the overlap, so receivers can replace theirs.
    """
    overlap_s, now = await _overlap_s(service, call), service.clock.now()

    def change(before: Endpoint) -> Endpoint:
        signing = next_pair(before.signing, now, overlap_s)
        return msgspec.structs.replace(before, signing=signing)

    endpoint = await _find(service, call)
    changed = await service.hooks.endpoints.change(endpoint.id, change)
    return Reply(200, encode(_view(changed, shows_secret=True)))


@_route(
    "GET /v1/webhooks/{id}/secret", Response("The secret", HookSecretView), audit="webhooks.secret"
)
async def show_secret(service: Service, call: Call) -> Reply:
    """Get a standing webhook's secret."""
    return _secret_reply(service, (await _find(service, call)).signing)


@_route(
    "GET /v1/webhooks/secrets/{name}",
    Response("The secret of the caller's key", HookSecretView),
    audit="webhooks.named_secret",
)
async def show_signing_secret(service: Service, call: Call) -> Reply:
    """Get a signing secret.

    It signs requests to URLs that tasks name. Each key has `default`, and others created with
    `rotate`.
    """
    name = call.params["name"]
    pair = await service.hooks.secrets.of(call.caller.id, name)
    if pair is None:
        raise NotFound(
            f"this key has no signing secret {name[:64]!r}: POST /v1/webhooks/secrets/NAME/rotate "
            "makes one"
        )
    return _secret_reply(service, pair)


@_route(
    "POST /v1/webhooks/secrets/{name}/rotate",
    Response("The new secret", HookSecretView),
    body=Body(HookRotateRequest, example={"overlap_s": 86400}),
    errors=(Unavailable,),
    audit="webhooks.rotate_named",
)
async def new_signing_secret(service: Service, call: Call) -> Reply:
    """Create or replace a signing secret.

    Both secrets sign during the overlap.
    """
    overlap_s = await _overlap_s(service, call)
    call.target = name = call.params["name"]
    pair = await service.hooks.secrets.rotate(call.caller.id, name, overlap_s)
    return _secret_reply(service, pair)


@_route(
    "GET /v1/webhooks/deliveries",
    Response("A page of deliveries, newest first", DeliveryList),
    query=DeliveryQuery,
    errors=(Unavailable,),
)
async def list_deliveries(service: Service, call: Call) -> Reply:
    """List deliveries.

    A client key sees those of its own tasks; an admin key sees all.
    """
    query = read_query(call, DeliveryQuery)
    where = project(DeliveryFilter, query, task_id=query.task, key_id=only_own(call))
    page = await service.hooks.outbox.page(where, limit=query.limit, cursor=query.cursor)
    views = [_delivery_view(each) for each in page.deliveries]
    return Reply(200, encode(DeliveryList(deliveries=views, cursor=page.cursor)))


@_route(
    "GET /v1/webhooks/deliveries/{id}", Response("The delivery with its attempts", DeliveryView)
)
async def get_delivery(service: Service, call: Call) -> Reply:
    """Get a delivery."""
    return Reply(200, encode(_delivery_view(await _find_delivery(service, call))))


@_route(
    "POST /v1/webhooks/deliveries/{id}/replay",
    Response("The delivery, due now", DeliveryView),
    errors=(NotFound, Conflict, Unavailable),
    audit="webhooks.replay_one",
)
async def replay(service: Service, call: Call) -> Reply:
    """Replay a delivery.

    Sends it under the same `webhook-id`, with a new series of attempts.
    """
    delivery = await _find_delivery(service, call)
    if delivery.state is DeliveryState.WAITING:
        raise Conflict(f"{delivery.id} still has attempts left: there is nothing to replay")
    outbox = service.hooks.outbox
    await outbox.replay([delivery.id])
    again = await outbox.get(delivery.id)
    return Reply(200, encode(_delivery_view(again or delivery)))


@_route(
    "POST /v1/webhooks/{id}/replay",
    Response("The number of deliveries", HookReplayView),
    body=Body(HookReplayRequest, example={"since": "2026-11-26T12:00:00Z"}),
    audit="webhooks.replay",
)
async def replay_failed(service: Service, call: Call) -> Reply:
    """Replay failed deliveries of a webhook.

    Sends all failed deliveries of events since that time again, with a new series of attempts.
    """
    request = await read_body(service, call, HookReplayRequest)
    if request.since.tzinfo is None:
        raise InvalidInput("/since: name the zone too, such as 2026-11-26T12:00:00Z")
    endpoint = await _find(service, call)
    n = await service.hooks.outbox.replay_failed(endpoint.id, request.since)
    call.about = f"{n} deliveries"
    return Reply(200, encode(HookReplayView(replayed=n)))


async def _set_state(
    service: Service, endpoint: Endpoint, state: EndpointState, reason: str
) -> Reply:
    hooks = service.hooks
    changed = await hooks.endpoints.set_state(endpoint.id, state, reason)
    hooks.dispatcher.wake()
    return Reply(200, encode(_view(changed)))


async def _overlap_s(service: Service, call: Call) -> float:
    request = await read_body(service, call, HookRotateRequest, is_optional=True)
    call.about = f"the previous secret signs too for {request.overlap_s:g} s"
    return request.overlap_s


async def _find(service: Service, call: Call) -> Endpoint:
    """Return the endpoint that the path names, as it is now.

    Raises:
        NotFound: There is none, or it belongs to another key.
    """
    endpoint_id = call.params["id"]
    endpoint = await service.hooks.endpoints.read(endpoint_id)
    if endpoint is None or not may_see(call, endpoint.key_id):
        raise NotFound(
            f"this key has no webhook {endpoint_id[:60]!r}: GET /v1/webhooks lists those it has"
        )
    return endpoint


async def _find_delivery(service: Service, call: Call) -> Delivery:
    delivery_id = call.params["id"]
    delivery = await service.hooks.outbox.get(delivery_id)
    if delivery is None or not may_see(call, delivery.key_id):
        raise NotFound(
            f"this key has no delivery {delivery_id[:60]!r}: GET /v1/webhooks/deliveries lists "
            "those that it has"
        )
    return delivery


def _secret_reply(service: Service, pair: SigningPair) -> Reply:
    old_until = pair.overlap_until(service.clock.now())
    view = project(HookSecretView, pair, key=pair.secret, old_until=old_until)
    return Reply(200, encode(view), headers=[(b"cache-control", b"no-store")])


def _view(endpoint: Endpoint, *, shows_secret: bool = False) -> EndpointView:
    secret = endpoint.signing.secret if shows_secret else msgspec.UNSET
    return project(EndpointView, endpoint, secret=secret)


def _delivery_view(delivery: Delivery) -> DeliveryView:
    # Answers are removed with the data of the task.
    tries = zip_longest(delivery.log, delivery.answers, fillvalue="")
    return project(
        DeliveryView,
        delivery,
        task=delivery.task_id,
        endpoint=delivery.endpoint or None,
        attempts=[project(TryView, each, answer=answer) for each, answer in tries],
    )
