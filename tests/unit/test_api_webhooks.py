"""Webhooks over the HTTP surface: what may be asked, who sees what, and what is sent."""

import asyncio
import base64
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from api_harness import Client, World, a_world, failed, hold, succeeded
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from loopback import listening
from swell.server.webhooks.webhook_bodies import MAX_BODY_BYTES
from swell.settings.backend_settings import WebhooksSettings


class Receiver:
    """A server that takes webhooks, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], Any]] = []
        #: As it came.
        self.raw: list[bytes] = []
        self.statuses: list[int] = []
        self.url = ""
        self._arrived = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._arrived:
            self.got.append((headers, json.loads(body)))
            self.raw.append(body)
            self._arrived.notify_all()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204, text="noted")

    async def until(self, n: int) -> list[Any]:
        """Return the bodies once there are so many."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= n)
        return [body for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{rest:.*}", receiver.take)
    async with listening(app) as url:
        receiver.url = f"{url}/in"
        yield receiver


@pytest.fixture
async def world() -> AsyncIterator[World]:
    trusting = WebhooksSettings(allow_private_urls=("127.0.0.1",))
    async with a_world(webhooks=trusting) as world:
        yield world


async def _run(world: World, output: Any = "A", **fields: Any) -> Any:
    """Run a task to its end; return it."""
    worker_id = await world.register()
    task = await world.create(**fields)
    (lease,) = (await world.lease(worker_id))["tasks"]
    await world.report(worker_id, settlements=[succeeded(lease, output)])
    return task


async def _until(world: World, state: str, **query: Any) -> Any:
    """Return the newest delivery once it is in this state."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    for _ in range(500):
        found = (await world.anna("GET", f"/v1/webhooks/deliveries?{text}")).json["deliveries"]
        if found and found[0]["state"] == state:
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never became {state}: {found}")


# ---- a task's own URL


async def test_a_task_is_told_of_when_it_ends(world: World, receiver: Receiver) -> None:
    task = await _run(world, webhook=receiver.url, metadata={"order": 7})
    (body,) = await receiver.until(1)
    assert body["type"] == "task.succeeded"
    assert body["timestamp"]
    assert body["data"]["id"] == task["id"]
    assert body["data"]["state"] == "succeeded"
    assert body["data"]["output"] == "A"
    assert body["data"]["metadata"] == {"order": 7}
    assert body["data"]["urls"]["get"] == f"http://swell.test/v1/tasks/{task['id']}"
    assert "left_out" not in body
    headers, _ = receiver.got[0]
    assert headers["content-type"] == "application/json"
    delivery = await _until(world, "delivered", task=task["id"])
    assert delivery["id"] == headers["webhook-id"]
    assert delivery["endpoint"] is None
    assert delivery["attempts"][0]["status"] == 204


async def test_a_webhook_says_which_events_it_wants(world: World, receiver: Receiver) -> None:
    hook = {"url": receiver.url, "events": ["started", "succeeded"]}
    task = await _run(world, webhook=hook)
    assert task["webhook"] == {
        "url": receiver.url,
        "events": ["started", "succeeded"],
        "format": "native",
    }
    started, ended = await receiver.until(2)
    assert (started["type"], ended["type"]) == ("task.started", "task.succeeded")
    assert started["data"]["state"] == "running"
    assert started["data"]["output"] is None
    assert started["data"]["finished_at"] is None


async def test_a_task_without_a_webhook_shows_none(world: World) -> None:
    assert "webhook" not in await _run(world)
    assert (await world.anna("GET", "/v1/webhooks/deliveries")).json["deliveries"] == []


async def test_progress_is_told_at_most_twice_a_second(world: World, receiver: Receiver) -> None:
    worker_id = await world.register()
    hook = {"url": receiver.url, "events": ["progress", "failed"]}
    await world.create(webhook=hook)
    (lease,) = (await world.lease(worker_id))["tasks"]

    async def tell(place: int, step: int) -> None:
        progress = {**hold(lease), "place": place, "kind": "progress", "data": {"step": step}}
        await world.report(worker_id, progress=[progress])

    await tell(1, 1)
    await receiver.until(1)
    await tell(2, 2)
    await tell(3, 3)
    world.clock.advance(0.4)
    told = (await world.anna("GET", "/v1/webhooks/deliveries")).json["deliveries"]
    assert len(told) == 1
    # The newest of those that came too soon is told, although nothing follows it.
    world.clock.advance(0.2)
    await receiver.until(2)
    world.clock.advance(0.6)
    await tell(4, 4)
    await receiver.until(3)
    await tell(5, 5)
    bodies = [body for _, body in receiver.got]
    assert [body["detail"]["step"] for body in bodies] == [1, 3, 4]
    assert bodies[0]["type"] == "task.progress"
    # There is an end to tell: what came too soon before it is not.
    await world.report(worker_id, settlements=[failed(lease, retryable=False)])
    world.clock.advance(0.6)
    *_, last = await receiver.until(4)
    assert last["type"] == "task.failed"
    assert last["data"]["error"]["code"] == "model_error"


def _names(urls: list[str]) -> list[str]:
    return [url.partition("?")[0].rpartition("/")[2] for url in urls]


@pytest.mark.parametrize("form", ["native", "replicate"])
async def test_with_a_file_all_that_are_there_are_told(
    world: World, receiver: Receiver, form: str
) -> None:
    worker_id = await world.register()
    hook = {"url": receiver.url, "events": ["artifact", "succeeded"], "format": form}
    await world.create(webhook=hook, count=4)
    (lease,) = (await world.lease(worker_id))["tasks"]
    files = [
        {
            "key": f"outputs/{lease['task_id']}/1/{n}.png",
            "content_type": "image/png",
            "bytes": 5,
        }
        for n in range(4)
    ]

    async def tell(*places: int) -> None:
        news = [
            {**hold(lease), "place": 1 + n, "kind": "artifact", "data": {"index": n, **files[n]}}
            for n in places
        ]
        await world.report(worker_id, progress=news)

    await tell(0)
    await receiver.until(1)
    # Too soon to be told, but it is there with the next, which is told when the time is over.
    await tell(1)
    await tell(2)
    world.clock.advance(0.6)
    await receiver.until(2)
    for file in files:
        await world.service.objects.put(file["key"], b"12345", "image/png")
    output = [{"$artifact": n} for n in range(4)]
    await world.report(worker_id, settlements=[succeeded(lease, output, artifacts=files)])
    first, second, last = await receiver.until(3)
    if form == "native":
        urls = [[each["url"] for each in body["data"]["artifacts"]] for body in (first, second)]
        assert [body["detail"]["index"] for body in (first, second)] == [0, 2]
        assert "so_far" not in second["detail"]
        assert second["data"]["state"] == "running"
        output = last["data"]["output"]
    else:
        urls, output = [first["output"], second["output"]], last["output"]
        assert [body["status"] for body in (first, second)] == ["processing"] * 2
    assert [_names(each) for each in urls] == [["0.png"], ["0.png", "1.png", "2.png"]]
    assert _names(output) == ["0.png", "1.png", "2.png", "3.png"]


async def test_what_is_long_is_left_out_and_named(world: World, receiver: Receiver) -> None:
    text = "x" * MAX_BODY_BYTES
    await _run(world, "y" * 100, input={"text": text}, webhook=receiver.url)
    (body,) = await receiver.until(1)
    assert body["left_out"] == ["input"]
    assert body["data"]["input"] == {}
    assert body["data"]["output"] == "y" * 100
    await _run(world, text, input={"text": text}, webhook=receiver.url)
    _, body = await receiver.until(2)
    assert body["left_out"] == ["input", "output"]
    assert len(json.dumps(body)) < MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("hook", "pointer"),
    [
        ("http://169.254.169.254/latest", "/webhook"),
        ("http://10.1.2.3/in", "/webhook"),
        ("http://localhost/in", "/webhook"),
        ("ftp://shop.example/in", "/webhook"),
        ("https://anna:secret@shop.example/in", "/webhook"),
        ("https://shop.example:8443/in", "/webhook"),
        ({"url": "http://192.168.0.1/"}, "/webhook/url"),
        ({"url": "https://shop.example/", "events": []}, "/webhook/events"),
        ({"url": "https://shop.example/", "events": ["done"]}, "/webhook/events/0"),
        ({"url": "https://shop.example/", "format": "xml"}, "/webhook/format"),
        (
            {"url": "https://shop.example/", "format": "fal", "events": ["failed", "progress"]},
            "/webhook/events/1",
        ),
        ({"url": "https://shop.example/", "secret": "unknown"}, "/webhook/secret"),
        ({"url": "https://shop.example/", "evnts": []}, "/webhook/evnts"),
        (7, "/webhook"),
    ],
)
async def test_what_cannot_be_told_is_refused_with_its_place(
    world: World, hook: Any, pointer: str
) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}, "webhook": hook}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422, answer.body
    (error,) = answer.json["errors"]
    assert error["pointer"] == pointer
    batch = await world.anna("POST", "/v1/tasks/batch", {"tasks": [body]})
    assert batch.json["errors"][0]["pointer"].startswith("/tasks/0/webhook"), batch.body


async def test_the_tasks_of_a_batch_are_told_of(world: World, receiver: Receiver) -> None:
    worker_id = await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}, "webhook": receiver.url}
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": [body, body]})
    assert answer.status == 202, answer.body
    leases = (await world.lease(worker_id))["tasks"]
    await world.report(worker_id, settlements=[succeeded(each, "A") for each in leases])
    assert len(await receiver.until(2)) == 2


async def test_a_repeat_with_its_key_does_not_ask_again(world: World, receiver: Receiver) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}, "webhook": receiver.url}
    headers = {"idempotency-key": "k"}
    first = await world.anna("POST", "/v1/tasks", body, headers=headers)
    again = await world.anna("POST", "/v1/tasks", body, headers=headers)
    assert first.json["id"] == again.json["id"]


# ---- signing secrets


async def test_each_key_has_a_secret_and_may_have_others(world: World) -> None:
    mine = (await world.anna("GET", "/v1/webhooks/secrets/default")).json
    assert mine["key"].startswith("whsec_")
    assert mine == (await world.anna("GET", "/v1/webhooks/secrets/default")).json
    theirs = (await world.berta("GET", "/v1/webhooks/secrets/default")).json
    assert theirs["key"] != mine["key"]
    assert (await world.anna("GET", "/v1/webhooks/secrets/shop")).status == 404
    made = await world.anna("POST", "/v1/webhooks/secrets/shop/rotate")
    assert made.status == 200
    assert (await world.anna("GET", "/v1/webhooks/secrets/shop")).json == made.json
    assert (await world.anna("POST", "/v1/webhooks/secrets/a%20b/rotate")).status == 400


async def test_a_task_may_be_signed_with_another_secret(world: World, receiver: Receiver) -> None:
    made = (await world.anna("POST", "/v1/webhooks/secrets/shop/rotate")).json
    await _run(world, webhook={"url": receiver.url, "secret": "shop"})
    await receiver.until(1)
    headers, _ = receiver.got[0]
    assert len(headers["webhook-signature"].split(" ")) == 1
    rotated = (await world.anna("POST", "/v1/webhooks/secrets/shop/rotate")).json
    assert rotated["key"] != made["key"]
    assert rotated["old_until"]
    world.clock.advance(5)
    await _run(world, webhook={"url": receiver.url, "secret": "shop"})
    await receiver.until(2)
    headers, _ = receiver.got[1]
    assert len(headers["webhook-signature"].split(" ")) == 2
    world.clock.advance(86400)
    await _run(world, webhook={"url": receiver.url, "secret": "shop"})
    await receiver.until(3)
    headers, _ = receiver.got[2]
    assert len(headers["webhook-signature"].split(" ")) == 1


# ---- standing endpoints


async def _endpoint(world: World, url: str, **fields: Any) -> Any:
    answer = await world.anna("POST", "/v1/webhooks", {"url": url, **fields})
    assert answer.status == 201, answer.body
    return answer.json


async def test_a_standing_endpoint_is_told_of_nothing_that_its_format_has_no_words_for(
    world: World,
) -> None:
    body = {"url": "http://127.0.0.1/", "format": "fal", "events": ["started", "succeeded"]}
    answer = await world.anna("POST", "/v1/webhooks", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_input")
    assert answer.json["errors"][0]["pointer"] == "/events/0"
    assert "leave 'started' out" in answer.json["detail"]
    assert (await world.anna("POST", "/v1/webhooks", {**body, "events": ["expired"]})).status == 201


async def test_a_standing_endpoint_is_told_of_its_keys_tasks(
    world: World, receiver: Receiver
) -> None:
    made = await _endpoint(world, receiver.url, description="the shop")
    assert made["secret"].startswith("whsec_")
    assert (made["state"], made["description"]) == ("active", "the shop")
    await _run(world)
    (body,) = await receiver.until(1)
    assert body["type"] == "task.succeeded"
    delivery = await _until(world, "delivered", endpoint=made["id"])
    assert delivery["endpoint"] == made["id"]
    listed = (await world.anna("GET", "/v1/webhooks")).json["webhooks"]
    assert [each["id"] for each in listed] == [made["id"]]
    assert "secret" not in listed[0]
    shown = (await world.anna("GET", f"/v1/webhooks/{made['id']}/secret")).json
    assert shown["key"] == made["secret"]


async def test_events_and_models_are_chosen(world: World, receiver: Receiver) -> None:
    await _endpoint(world, receiver.url, events=["failed"])
    await _endpoint(world, receiver.url, models=["demo/other"])
    wanted = await _endpoint(world, receiver.url, models=["demo/*"], events=["succeeded"])
    await _run(world)
    await receiver.until(1)
    found = (await world.anna("GET", "/v1/webhooks/deliveries")).json["deliveries"]
    assert [each["endpoint"] for each in found] == [wanted["id"]]


async def test_only_admins_are_told_of_the_tasks_of_all(world: World, receiver: Receiver) -> None:
    body = {"url": receiver.url, "all_keys": True}
    assert (await world.anna("POST", "/v1/webhooks", body)).status == 403
    made = await world.admin("POST", "/v1/webhooks", body)
    assert made.status == 201
    await _run(world)
    assert len(await receiver.until(1)) == 1


async def test_nobody_sees_or_changes_the_endpoints_of_others(
    world: World, receiver: Receiver
) -> None:
    made = await _endpoint(world, receiver.url)
    home = f"/v1/webhooks/{made['id']}"
    for method, path, body in (
        ("GET", home, None),
        ("DELETE", home, None),
        ("POST", home + "/pause", None),
        ("POST", home + "/resume", None),
        ("POST", home + "/rotate", None),
        ("GET", home + "/secret", None),
        ("POST", home + "/replay", {"since": "2030-01-01T00:00:00Z"}),
    ):
        assert (await world.berta(method, path, body)).status == 404, path
        assert (await world.stranger(method, path, body)).status == 401, path
    assert (await world.berta("GET", "/v1/webhooks")).json["webhooks"] == []
    assert len((await world.admin("GET", "/v1/webhooks")).json["webhooks"]) == 1
    assert (await world.anna("GET", home)).json["state"] == "active"


async def test_deliveries_of_others_are_not_seen(world: World, receiver: Receiver) -> None:
    await _run(world, webhook=receiver.url)
    delivery = await _until(world, "delivered")
    path = f"/v1/webhooks/deliveries/{delivery['id']}"
    assert (await world.anna("GET", path)).json == delivery
    assert (await world.berta("GET", path)).status == 404
    assert (await world.berta("POST", path + "/replay")).status == 404
    assert (await world.berta("GET", "/v1/webhooks/deliveries")).json["deliveries"] == []
    assert len((await world.admin("GET", "/v1/webhooks/deliveries")).json["deliveries"]) == 1


async def test_what_an_operators_receiver_answers_is_not_seen_by_whose_tasks_it_is_told_of(
    world: World, receiver: Receiver
) -> None:
    await world.admin("POST", "/v1/webhooks", {"url": receiver.url, "all_keys": True})
    task = await _run(world)
    await receiver.until(1)
    path = f"/v1/webhooks/deliveries?task={task['id']}"
    (delivery,) = (await world.admin("GET", path)).json["deliveries"]
    assert (await world.anna("GET", path)).json["deliveries"] == []
    home = f"/v1/webhooks/deliveries/{delivery['id']}"
    assert (await world.anna("GET", home)).status == 404
    assert (await world.anna("POST", home + "/replay")).status == 404


async def test_a_paused_endpoint_gets_all_when_it_goes_on(world: World, receiver: Receiver) -> None:
    made = await _endpoint(world, receiver.url)
    home = f"/v1/webhooks/{made['id']}"
    assert (await world.anna("POST", home + "/pause")).json["state"] == "paused"
    for _ in range(3):
        await _run(world)
    assert receiver.got == []
    assert (await world.anna("POST", home + "/resume")).json["state"] == "active"
    assert len(await receiver.until(3)) == 3


async def test_an_endpoint_that_is_gone_is_disabled_until_it_is_resumed(
    world: World, receiver: Receiver
) -> None:
    made = await _endpoint(world, receiver.url)
    home = f"/v1/webhooks/{made['id']}"
    receiver.statuses = [410]
    await _run(world)
    for _ in range(500):
        delivery = await _until(world, "failed")
        # All that waits is given up a moment before the attempt is written.
        if delivery["attempts"]:
            break
        await asyncio.sleep(0.01)
    assert delivery["attempts"][0]["error"] == "gone"
    shown = (await world.anna("GET", home)).json
    assert (shown["state"], shown["reason"]) == ("disabled", "it answered 410 Gone")
    assert (await world.anna("POST", home + "/pause")).status == 409
    await _run(world)
    assert (await world.anna("POST", home + "/resume")).json["reason"] == ""
    await _run(world)
    assert len(await receiver.until(2)) == 2
    found = (await world.anna("GET", "/v1/webhooks/deliveries")).json["deliveries"]
    assert len(found) == 2


async def test_what_failed_is_sent_again_when_it_is_asked_for(
    world: World, receiver: Receiver
) -> None:
    made = await _endpoint(world, receiver.url)
    home = f"/v1/webhooks/{made['id']}"
    since = world.clock.now()
    receiver.statuses = [410]
    await _run(world)
    failed = await _until(world, "failed")
    assert [each["status"] for each in failed["attempts"]] == [410], "it is failed when it is told"
    await world.anna("POST", home + "/resume")
    later = (since + timedelta(seconds=1)).isoformat()
    assert (await world.anna("POST", home + "/replay", {"since": later})).json["replayed"] == 0
    asked = {"since": since.isoformat()}
    assert (await world.anna("POST", home + "/replay", asked)).json["replayed"] == 1
    delivery = await _until(world, "delivered")
    assert [each["status"] for each in delivery["attempts"]] == [410, 204]
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]
    naive = await world.anna("POST", home + "/replay", {"since": "2030-01-01T00:00:00"})
    assert naive.status == 422


async def test_one_delivery_is_sent_again(world: World, receiver: Receiver) -> None:
    await _run(world, webhook=receiver.url)
    delivery = await _until(world, "delivered")
    answer = await world.anna("POST", f"/v1/webhooks/deliveries/{delivery['id']}/replay")
    assert (answer.status, answer.json["state"]) == (200, "waiting")
    assert len(await receiver.until(2)) == 2


async def test_a_rotated_endpoint_signs_with_both_for_a_while(
    world: World, receiver: Receiver
) -> None:
    made = await _endpoint(world, receiver.url)
    path = f"/v1/webhooks/{made['id']}/rotate"
    rotated = (await world.anna("POST", path, {"overlap_s": 60})).json
    assert rotated["secret"] != made["secret"]
    await _run(world)
    await receiver.until(1)
    world.clock.advance(61)
    await _run(world)
    await receiver.until(2)
    counts = [len(headers["webhook-signature"].split(" ")) for headers, _ in receiver.got]
    assert counts == [2, 1]


async def test_a_deleted_endpoint_is_told_nothing(world: World, receiver: Receiver) -> None:
    made = await _endpoint(world, receiver.url)
    home = f"/v1/webhooks/{made['id']}"
    await world.anna("POST", home + "/pause")
    await _run(world)
    assert (await world.anna("DELETE", home)).status == 200
    assert (await world.anna("GET", home)).status == 404
    delivery = await _until(world, "failed")
    assert delivery["reason"] == "the endpoint was deleted"
    await _run(world)
    assert receiver.got == []


async def test_an_endpoint_of_a_key_that_was_revoked_is_told_nothing_more(
    world: World, receiver: Receiver
) -> None:
    fields = {"all_keys": True, "url": receiver.url}
    made = (await world.admin("POST", "/v1/webhooks", fields)).json
    await _run(world)
    await receiver.until(1)
    key_id = made["key_id"]
    other = (await world.admin("POST", "/v1/keys", {"name": "other", "scopes": ["admin"]})).json
    again = Client(world.admin.app, other["key"])
    assert (await again("DELETE", f"/v1/keys/{key_id}")).status == 200
    world.clock.advance(3)
    await _run(world)
    for _ in range(500):
        shown = (await again("GET", f"/v1/webhooks/{made['id']}")).json
        if shown["state"] == "disabled":
            break
        await asyncio.sleep(0.01)
    assert (shown["state"], shown["reason"]) == ("disabled", "key 'admin' was revoked")
    await _run(world)
    assert len(receiver.got) == 1


async def test_the_tasks_of_a_key_that_was_revoked_are_told_to_no_url_of_theirs(
    world: World, receiver: Receiver
) -> None:
    await _run(world, webhook=receiver.url)
    await receiver.until(1)
    worker_id = await world.register()
    task = await world.create(webhook=receiver.url)
    (lease,) = (await world.lease(worker_id))["tasks"]
    keys = (await world.admin("GET", "/v1/keys")).json["keys"]
    (anna,) = [each["id"] for each in keys if each["name"] == "anna"]
    assert (await world.admin("DELETE", f"/v1/keys/{anna}")).status == 200
    world.clock.advance(3)
    await world.report(worker_id, settlements=[succeeded(lease)])
    where = f"/v1/webhooks/deliveries?task={task['id']}"
    for _ in range(500):
        (shown,) = (await world.admin("GET", where)).json["deliveries"]
        if shown["state"] == "failed":
            break
        await asyncio.sleep(0.01)
    assert shown["reason"].endswith("key 'anna' was revoked")
    assert len(receiver.got) == 1


async def test_what_is_read_while_an_endpoint_is_made_does_not_hide_it(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = world.service.hooks
    reading, made = asyncio.Event(), asyncio.Event()
    read = world.service.registry.notes

    async def read_slowly(prefix: str) -> Any:
        kept = await read(prefix)
        reading.set()
        await made.wait()
        return kept

    monkeypatch.setattr(world.service.registry, "notes", read_slowly)
    refreshing = asyncio.create_task(hooks.endpoints.refresh())
    await reading.wait()
    monkeypatch.setattr(world.service.registry, "notes", read)
    endpoint = await _endpoint(world, receiver.url)
    made.set()
    await refreshing
    assert [each.id for each in hooks.endpoints.all()] == [endpoint["id"]]
    await _run(world)
    assert len(await receiver.until(1)) == 1


async def test_a_key_may_have_so_many_endpoints(receiver: Receiver) -> None:
    few = WebhooksSettings(allow_private_urls=("127.0.0.1",), url_ports=(), endpoints=1)
    async with a_world(webhooks=few) as world:
        await _endpoint(world, receiver.url)
        assert (await world.anna("POST", "/v1/webhooks", {"url": receiver.url})).status == 409
        assert (await world.berta("POST", "/v1/webhooks", {"url": receiver.url})).status == 201


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://10.0.0.1/"},
        {"events": ["ended"]},
        {"models": ["demo"]},
        {"models": ["*/*"]},
        {"format": "xml"},
    ],
)
async def test_bad_endpoints_are_refused(world: World, fields: Any) -> None:
    body = {"url": "https://shop.example/", **fields}
    assert (await world.anna("POST", "/v1/webhooks", body)).status == 422


# ---- around it


async def test_what_operators_change_is_in_the_audit_log(world: World, receiver: Receiver) -> None:
    own = await _endpoint(world, receiver.url)
    await world.admin("POST", f"/v1/webhooks/{own['id']}/rotate", {"overlap_s": 60})
    await world.admin("DELETE", f"/v1/webhooks/{own['id']}")
    body = {"url": receiver.url, "all_keys": True}
    made = (await world.admin("POST", "/v1/webhooks", body)).json
    entries = (await world.admin("GET", "/v1/audit")).json["entries"]
    assert {(each["action"], each["target"]) for each in entries} == {
        ("webhooks.create", made["id"]),
        ("webhooks.delete", own["id"]),
        ("webhooks.rotate", own["id"]),
    }
    assert made["secret"] not in json.dumps(entries)


async def test_deliveries_are_counted(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500]
    await _run(world, webhook=receiver.url)
    await _until(world, "waiting")
    await receiver.until(1)
    for _ in range(200):
        text = (await world.admin("GET", "/metrics")).body.decode()
        if 'swell_webhook_deliveries_total{outcome="retried"} 1.0' in text:
            break
        await asyncio.sleep(0.01)
    assert 'swell_webhook_deliveries_total{outcome="retried"} 1.0' in text
    assert "swell_webhooks_waiting 1.0" in text
    assert "swell_webhooks_oldest_age_seconds" in text


async def test_erasing_a_task_removes_what_receivers_answered(
    world: World, receiver: Receiver
) -> None:
    task = await _run(world, webhook=receiver.url)
    await _until(world, "delivered")
    await world.anna("DELETE", f"/v1/tasks/{task['id']}")
    delivery = await _until(world, "delivered")
    assert [each["answer"] for each in delivery["attempts"]] == [""]
    await world.anna("POST", f"/v1/webhooks/deliveries/{delivery['id']}/replay")
    _, body = await receiver.until(2)
    assert body["data"]["output"] is None
    assert body["data"]["data_removed"] == ["inputs", "outputs"]


def _is_fals(headers: dict[str, str], body: bytes, keys: list[dict[str, str]]) -> bool:
    """Whether a request is signed as fal signs, with one of these keys; by another library."""
    told = [headers[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    message = "\n".join([*told, hashlib.sha256(body).hexdigest()]).encode()
    for key in keys:
        public = VerifyKey(base64.urlsafe_b64decode(key["x"] + "="))
        try:
            public.verify(message, bytes.fromhex(headers["x-fal-webhook-signature"]))
        except BadSignatureError:
            continue
        return True
    return False


async def test_fals_webhooks_are_signed_as_receivers_of_fals_check_it(
    world: World, receiver: Receiver
) -> None:
    worker_id = await world.register()
    path = f"/fal/queue/demo/upper?fal_webhook={quote(receiver.url, safe='')}"
    made = (await world.anna("POST", path, {"text": "a"})).json
    (lease,) = (await world.lease(worker_id))["tasks"]
    await world.report(worker_id, settlements=[succeeded(lease, "A")])
    await receiver.until(1)
    (headers, told), body = receiver.got[0], receiver.raw[0]
    assert (told["request_id"], told["status"]) == (made["request_id"], "OK")
    assert headers["x-fal-webhook-request-id"] == made["request_id"]
    assert int(headers["x-fal-webhook-timestamp"]) == int(world.clock.now().timestamp())
    known = await world.stranger("GET", "/fal/.well-known/jwks.json")
    keys = known.json["keys"]
    assert {key["crv"] for key in keys} == {"Ed25519"}
    assert "max-age" in known.headers["cache-control"]
    assert _is_fals(headers, body, keys)
    assert not _is_fals(headers, body + b" ", keys)
    assert not _is_fals(headers | {"x-fal-webhook-user-id": "other"}, body, keys)
    # Whoever checks all webhooks in one way can do so too.
    assert headers["webhook-signature"].startswith("v1,")


async def test_other_webhooks_have_no_signature_of_fals(world: World, receiver: Receiver) -> None:
    await _run(world, webhook=receiver.url)
    await receiver.until(1)
    assert not [name for name in receiver.got[0][0] if "fal" in name]


async def test_without_the_library_fals_webhooks_are_sent_all_the_same(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "swell.compat.fal.fal_signing", None)
    worker_id = await world.register()
    path = f"/fal/queue/demo/upper?fal_webhook={quote(receiver.url, safe='')}"
    await world.anna("POST", path, {"text": "a"})
    (lease,) = (await world.lease(worker_id))["tasks"]
    await world.report(worker_id, settlements=[succeeded(lease, "A")])
    await receiver.until(1)
    assert "x-fal-webhook-signature" not in receiver.got[0][0]
    refused = await world.stranger("GET", "/fal/.well-known/jwks.json")
    assert refused.status == 404
    assert "swell[fal]" in refused.json["detail"]


async def test_a_replicate_webhook_is_the_bare_prediction(world: World, receiver: Receiver) -> None:
    worker_id = await world.register()
    body = {
        "version": "demo/upper",
        "input": {"text": "a"},
        "webhook": receiver.url,
        "webhook_events_filter": ["completed"],
    }
    answer = await world.anna("POST", "/replicate/v1/predictions", body)
    assert answer.status in (201, 202), answer.body
    (lease,) = (await world.lease(worker_id))["tasks"]
    await world.report(worker_id, settlements=[succeeded(lease, "A")])
    (told,) = await receiver.until(1)
    assert (told["id"], told["status"], told["output"]) == (answer.json["id"], "succeeded", "A")
    refused = {**body, "webhook": "http://10.0.0.1/"}
    assert (await world.anna("POST", "/replicate/v1/predictions", refused)).status == 422
