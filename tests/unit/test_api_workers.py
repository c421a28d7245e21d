"""Registering, leasing and reporting over HTTP."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, Answer, World, a_world, failed, hold, succeeded

from swell.core.errors import NotFound, Unavailable
from swell.core.records import WorkerInfo
from swell.core.store_types import Hold
from swell.objects.folder import TemporaryObjects
from swell.protocol.worker_messages import Switches
from swell.server.background_jobs import discard, sweep
from swell.server.workers.worker_tracker import Worker


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def test_a_worker_is_welcomed_with_its_duties(world: World) -> None:
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": [UPPER]})
    assert set(answer.json) == {
        *("worker_id", "lease_s", "heartbeat_s", "max_wait_s", "enclose_bytes", "staged"),
    }
    assert answer.json["enclose_bytes"] > 0


@pytest.mark.parametrize("what", ["input_schema", "output_schema"])
async def test_a_version_that_is_known_is_not_registered_with_another_schema(
    world: World, what: str
) -> None:
    card = UPPER | {"output_schema": {"type": "string"}}
    for known in (card, card, {"name": "demo/upper", "version": "1"}):
        await world.register(known)
    body = {"name": "w", "models": [card | {what: {"type": "object", "maxProperties": 3}}]}
    answer = await world.worker("POST", "/worker/v1/register", body)
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert (
        "version 1 of demo/upper is already registered with a different " + what
        in answer.json["detail"]
    )
    assert "a new version" in answer.json["detail"]


async def test_where_files_go_elsewhere_nothing_is_enclosed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TemporaryObjects, "is_here", False)
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": [UPPER]})
    assert answer.json["enclose_bytes"] == 0


@pytest.mark.parametrize(
    "models",
    [
        [],
        [{**UPPER, "name": "upper"}],
        [{**UPPER, "name": "demo/../x"}],
        [{**UPPER, "version": ""}],
        [{**UPPER, "input_schema": {"type": "nonsense"}}],
        [{**UPPER, "input_schema": {"$ref": "http://elsewhere.example/schema"}}],
    ],
)
async def test_a_model_that_cannot_be_served_is_refused(world: World, models: list[object]) -> None:
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": models})
    assert answer.status == 422


async def test_an_unknown_worker_is_told_to_register(world: World) -> None:
    for path in ("lease", "report"):
        answer = await world.worker("POST", f"/worker/v1/{path}", {"worker_id": "x", "n": 1})
        assert answer.status in (404, 422)
    answer = await world.worker("POST", "/worker/v1/report", {"worker_id": "x"})
    assert answer.status == 404
    assert "register" in answer.json["detail"]


async def polling(world: World, worker: str) -> None:
    """Wait until a worker waits for work."""
    while not world.service.fleet.workers[worker].polls:
        await asyncio.sleep(0)


async def test_a_lease_waits_for_work(world: World) -> None:
    worker = await world.register()
    waiting = asyncio.create_task(world.lease(worker, wait_s=10))
    await polling(world, worker)
    task = await world.create(finish_by_s=100)
    grant = await waiting
    [leased] = grant["tasks"]
    assert leased["task_id"] == task["id"]
    assert leased["attempt"] == 1
    assert leased["input"] == {"text": "a"}
    assert leased["finish_within_s"] == 100.0


async def test_a_report_settles_and_leases_in_one_go(world: World) -> None:
    worker = await world.register()
    first, second = await world.create(), await world.create()
    grant = await world.lease(worker, n=1)
    answer = await world.report(worker, settlements=[succeeded(grant["tasks"][0], "A")], ask=5)
    assert [each["task_id"] for each in answer["tasks"]] == [second["id"]]
    seen = (await world.anna("GET", f"/v1/tasks/{first['id']}")).json
    assert (seen["state"], seen["output"]) == ("succeeded", "A")


async def test_an_outcome_told_twice_is_taken_once(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    for _ in range(2):
        assert await world.report(worker, settlements=[succeeded(lease, "A")]) == {}


async def test_an_outcome_of_a_lost_lease_is_stale(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    wrong = {**lease, "token": "other"}
    answer = await world.report(worker, settlements=[succeeded(wrong, "A")])
    assert answer == {"stale": [task["id"]]}


async def test_a_failure_goes_back_to_the_queue(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[failed(lease, retryable=True)])
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert (seen["state"], seen["error"]["code"]) == ("queued", "model_error")


async def test_a_task_handed_back_and_leased_again_in_one_report_is_held(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    released = {**hold(lease), "outcome": {"type": "released"}}
    answer = await world.report(worker, settlements=[released], ask=1)
    [again] = answer.get("tasks") or (await world.lease(worker))["tasks"]
    assert (again["task_id"], again["attempt"]) == (task["id"], 2)
    assert world.service.fleet.held_attempt(task["id"]) == 2
    late = await world.report(worker, settlements=[succeeded(lease, "A")])
    assert late["stale"] == [task["id"]]
    assert world.service.fleet.held_attempt(task["id"]) == 2


async def test_a_held_lease_is_extended_by_reports(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    for _ in range(5):
        world.clock.advance(20)
        assert await world.report(worker, holds=[hold(lease)]) == {}
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert seen["state"] == "running"


async def test_a_canceled_hold_is_told_in_every_report_until_it_is_let_go(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    for _ in range(2):
        assert await world.report(worker, holds=[hold(lease)]) == {"cancels": [task["id"]]}


async def test_a_silent_worker_loses_its_task_and_is_shown_as_lost(world: World) -> None:
    worker = await world.register()
    task = await world.create(max_attempts=1)
    [lease] = (await world.lease(worker))["tasks"]
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "started"
        world.clock.advance(31)
        # The sweep of the background may have read the clock before this.
        await sweep(world.service)
        end = await stream.event()
    assert end["event"] == "failed"
    assert end["data"]["error"]["code"] == "worker_lost"
    [shown] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert shown["state"] == "lost"
    late = await world.report(worker, settlements=[succeeded(lease, "A")])
    assert late["stale"] == [task["id"]]
    assert late["cancels"] == [task["id"]]


@pytest.mark.parametrize("asks", ["lease", "report"])
async def test_a_lost_task_that_its_worker_is_granted_again_is_not_to_be_stopped(
    world: World, asks: str
) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    world.clock.advance(31)
    await sweep(world.service)
    # Longer than the backoff, and not so long that the worker must register again.
    world.clock.advance(10)
    await sweep(world.service)
    if asks == "lease":
        answer = await world.lease(worker)
    else:
        answer = await world.report(worker, holds=[hold(lease)], ask=1)
    assert [(each["task_id"], each["attempt"]) for each in answer["tasks"]] == [(task["id"], 2)]
    assert "cancels" not in answer


async def test_draining_wakes_a_waiting_lease_and_ends_granting(world: World) -> None:
    worker = await world.register()
    waiting = asyncio.create_task(world.lease(worker, wait_s=10))
    await polling(world, worker)
    answer = await world.admin("POST", f"/v1/workers/{worker}/drain")
    assert answer.json["state"] == "draining"
    assert await waiting == {"drain": True}
    body = {"model": "demo/upper", "input": {"text": "a"}}
    refused = await world.anna("POST", "/v1/tasks", body)
    assert refused.json["code"] == "no_worker"
    assert (await world.report(worker, ask=3)) == {"drain": True}
    assert (await world.admin("POST", "/v1/workers/none/drain")).status == 404


async def test_a_worker_that_says_goodbye_is_gone(world: World) -> None:
    worker = await world.register()
    await world.report(worker, goodbye=True)
    assert (await world.admin("GET", "/v1/workers")).json["workers"] == []
    [shown] = (await world.admin("GET", "/v1/workers?gone=true")).json["workers"]
    assert shown["state"] == "gone"
    answer = await world.worker("POST", "/worker/v1/lease", {"worker_id": worker, "n": 1})
    assert answer.status == 404


async def test_what_a_worker_hands_back_as_it_goes_is_not_granted_to_it_again(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    poll = asyncio.ensure_future(world.lease(worker, wait_s=20))
    await polling(world, worker)
    released = {**hold(lease), "outcome": {"type": "released", "reason": "stopped"}}
    await world.report(worker, settlements=[released], goodbye=True)
    assert "tasks" not in await asyncio.wait_for(poll, 5)
    shown = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert shown["state"] == "queued"


async def test_a_restarted_backend_knows_its_workers_again(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    fleet = world.service.fleet
    fleet.workers.clear()
    fleet._leases.clear()
    progress = {**hold(lease), "place": 1, "kind": "progress", "data": {"step": 1}}
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "started"
        await world.report(worker, progress=[progress])
        assert (await stream.event())["data"] == {"step": 1}
    await world.create()


# --- delivering ----------------------------------------------------------------------------------


async def _places(world: World, worker: str, lease: Any, *keys: str, **changed: Any) -> Answer:
    body = {"worker_id": worker, "hold": hold(lease) | changed, "keys": list(keys)}
    return await world.worker("POST", "/worker/v1/uploads", body)


async def _deliver(world: World, place: str, data: bytes) -> Answer:
    return await world.stranger("PUT", place, data, headers={"Content-Type": "image/png"})


async def test_a_worker_delivers_only_where_the_outputs_of_its_attempt_lie(world: World) -> None:
    worker = await world.register()
    first, second = await world.create(), await world.create()
    lease, _ = (await world.lease(worker))["tasks"]
    home = f"outputs/{first['id']}/1"
    for key in ("uploads/x", f"outputs/{second['id']}/1/a", f"outputs/{first['id']}/2/a"):
        assert (await _places(world, worker, lease, f"{home}/a", key)).status == 403, key
    for key in (home, f"{home}/a/b", f"{home}1/a"):
        assert (await _places(world, worker, lease, key)).status == 403, key
    assert (await _places(world, worker, lease, f"{home}/../x")).status == 400
    answer = await _places(world, worker, lease, f"{home}/a", f"{home}/b")
    assert [each["key"] for each in answer.json["uploads"]] == [f"{home}/a", f"{home}/b"]


async def test_only_the_holder_of_the_lease_is_told_where_to_deliver(world: World) -> None:
    worker, rogue = await world.register(), await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key = f"outputs/{task['id']}/1/a.png"
    guessed = await _places(world, rogue, lease, key, token="guessed")
    assert (guessed.status, guessed.json["code"]) == (409, "conflict")
    assert (await _places(world, worker, lease, key)).status == 200
    await world.report(worker, settlements=[succeeded(lease, "A")])
    for each in (worker, rogue):
        assert (await _places(world, each, lease, key)).status == 409


async def test_a_lease_that_ran_out_delivers_nothing(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "started"
        world.clock.advance(31)
        await sweep(world.service)
        assert (await stream.event())["event"] == "queued"
    key = f"outputs/{task['id']}/1/a.png"
    assert (await _places(world, worker, lease, key)).status == 409


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_restarted_backend_asks_the_store_who_may_deliver(
    world: World, is_held: bool
) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    if not is_held:
        await world.report(worker, settlements=[succeeded(lease, "A")])
    world.service.fleet.workers.clear()
    world.service.fleet._leases.clear()
    answer = await _places(world, worker, lease, f"outputs/{task['id']}/1/a.png")
    assert answer.status == (200 if is_held else 409)


async def test_an_output_is_never_replaced_even_with_the_url_it_was_put_with(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key = f"outputs/{task['id']}/1/a.png"
    [place] = (await _places(world, worker, lease, key)).json["uploads"]
    first = await _deliver(world, place["url"], b"right")
    # The answer may have got lost, so the same is taken again.
    again = await _deliver(world, place["url"], b"right")
    assert (first.status, again.status) == (201, 201)
    assert first.json == again.json
    artifact = {"key": key, "content_type": "image/png", "bytes": 5}
    output = {"$artifact": 0}
    await world.report(worker, settlements=[succeeded(lease, output, artifacts=[artifact])])
    wrong = await _deliver(world, place["url"], b"wrong")
    assert (wrong.status, wrong.json["code"]) == (409, "conflict")
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    got = await world.stranger("GET", seen["output"].removeprefix("http://swell.test"))
    assert got.body == b"right"


# --- files inside a report -----------------------------------------------------------------------


def _enclosed(key: str, data: bytes) -> dict[str, str]:
    return {"key": key, "data": base64.b64encode(data).decode()}


def _naming(lease: Any, data: bytes, name: str = "a.png") -> tuple[str, dict[str, Any]]:
    """Return the key of a file, and the outcome that names it."""
    key = f"outputs/{lease['task_id']}/{lease['attempt']}/{name}"
    artifact = {"key": key, "content_type": "image/png", "bytes": len(data)}
    return key, succeeded(lease, {"$artifact": 0}, artifacts=[artifact])


async def _stored(world: World, key: str) -> bytes:
    return b"".join([part async for part in world.service.objects.read(key)])


async def test_a_file_inside_a_report_is_stored_with_its_outcome(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key, outcome = _naming(lease, b"right")
    # The answer may have got lost, so the same report is taken again.
    for _ in range(2):
        told = await world.report(
            worker, settlements=[outcome], enclosures=[_enclosed(key, b"right")]
        )
        assert told == {}
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert seen["state"] == "succeeded"
    got = await world.stranger("GET", seen["output"].removeprefix("http://swell.test"))
    assert (got.body, got.headers["content-type"]) == (b"right", "image/png")


async def test_a_file_whose_media_type_is_none_is_sent_as_bytes(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key, outcome = _naming(lease, b"right")
    outcome["outcome"]["artifacts"][0]["content_type"] = "image/png\r\nset-cookie: a=b"
    await world.report(worker, settlements=[outcome], enclosures=[_enclosed(key, b"right")])
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    got = await world.stranger("GET", seen["output"].removeprefix("http://swell.test"))
    assert (got.body, got.headers["content-type"]) == (b"right", "application/octet-stream")


async def test_a_file_of_a_lost_lease_is_not_stored(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key, outcome = _naming({**lease, "token": "other"}, b"late")
    answer = await world.report(worker, settlements=[outcome], enclosures=[_enclosed(key, b"late")])
    assert answer == {"stale": [lease["task_id"]]}
    with pytest.raises(NotFound):
        await world.service.objects.head(key)


async def test_a_report_encloses_only_files_that_its_outcomes_name(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key, outcome = _naming(lease, b"right")
    elsewhere = {**outcome["outcome"]["artifacts"][0], "key": "uploads/x"}
    outside = succeeded(lease, {"$artifact": 0}, artifacts=[elsewhere])
    for settlement, file in (
        (outcome, _enclosed(f"{key}2", b"right")),
        (outcome, _enclosed(key, b"longer")),
        (outside, _enclosed("uploads/x", b"right")),
        (failed(lease, retryable=True), _enclosed(key, b"right")),
    ):
        body = {"worker_id": worker, "settlements": [settlement], "enclosures": [file]}
        answer = await world.worker("POST", "/worker/v1/report", body)
        assert (answer.status, answer.json["code"]) == (422, "invalid_input"), file
        with pytest.raises(NotFound):
            await world.service.objects.head(file["key"])
    await world.report(worker, settlements=[outcome], enclosures=[_enclosed(key, b"right")])
    assert await _stored(world, key) == b"right"


async def test_an_outcome_whose_file_cannot_be_stored_fails_and_the_others_are_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await world.register()
    first, second = await world.create(), await world.create()
    leases = {each["task_id"]: each for each in (await world.lease(worker, n=2))["tasks"]}
    refused, bad = _naming(leases[first["id"]], b"bad")
    key, good = _naming(leases[second["id"]], b"good")
    store = TemporaryObjects.put_new

    async def full(self: TemporaryObjects, key: str, data: Any, content_type: str) -> Any:
        if key == refused:
            raise Unavailable("the disk is full")
        return await store(self, key, data, content_type)

    monkeypatch.setattr(TemporaryObjects, "put_new", full)
    files = [_enclosed(refused, b"bad"), _enclosed(key, b"good")]
    assert await world.report(worker, settlements=[bad, good], enclosures=files) == {}
    seen = [(await world.anna("GET", f"/v1/tasks/{t['id']}")).json for t in (first, second)]
    assert [each["state"] for each in seen] == ["queued", "succeeded"]
    assert (seen[0]["error"]["code"], seen[0]["error"]["detail"]) == (
        "upload_failed",
        "the disk is full",
    )


async def test_a_restarted_backend_stores_what_a_report_encloses(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    world.service.fleet.workers.clear()
    world.service.fleet._leases.clear()
    key, outcome = _naming(lease, b"right")
    await world.report(worker, settlements=[outcome], enclosures=[_enclosed(key, b"right")])
    assert await _stored(world, key) == b"right"


# --- what an attempt leaves to the next ----------------------------------------------------------


async def _left(world: World, worker: str, lease: Any, data: bytes) -> str:
    """Leave something to the next attempt; returns its key."""
    key = f"checkpoints/{lease['task_id']}-{lease['attempt']}.bin"
    [place] = (await _places(world, worker, lease, key)).json["uploads"]
    assert (await _deliver(world, place["url"], data)).status == 201
    outcome = {"type": "released", "checkpoint": key}
    await world.report(worker, settlements=[{**hold(lease), "outcome": outcome}])
    return key


async def test_the_next_worker_is_told_where_to_read_what_was_left(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    assert "checkpoint" not in lease
    await _left(world, worker, lease, b"half a picture")
    [again] = (await world.lease(worker))["tasks"]
    got = await world.stranger("GET", again["checkpoint"])
    assert (got.status, got.body) == (200, b"half a picture")


async def test_only_the_holder_of_a_lease_may_leave_something(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    own = f"checkpoints/{task['id']}-1.bin"
    for key in (f"checkpoints/{task['id']}-2.bin", "checkpoints/x-1.bin", f"{own}/x"):
        assert (await _places(world, worker, lease, key)).status == 403, key
    [place] = (await _places(world, worker, lease, own)).json["uploads"]
    world.clock.advance(31)
    await sweep(world.service)
    world.clock.advance(61)
    await sweep(world.service)
    [again] = (await world.lease(worker))["tasks"]
    assert (await _places(world, worker, lease, own)).status == 409
    assert (await _deliver(world, place["url"], b"late")).status == 409
    outcome = {"type": "released", "checkpoint": own}
    for late in (lease, again):
        await world.report(worker, settlements=[{**hold(late), "outcome": outcome}])
    [third] = (await world.lease(worker))["tasks"]
    assert third["attempt"] == 3
    assert "checkpoint" not in third


async def test_what_was_left_is_deleted_when_it_was_replaced_and_when_the_task_ends(
    world: World,
) -> None:
    worker = await world.register()
    await world.create()
    keys = []
    for data in (b"some", b"more"):
        [lease] = (await world.lease(worker))["tasks"]
        keys.append(await _left(world, worker, lease, data))
    assert await discard(world.service) == 1
    with pytest.raises(NotFound):
        await world.service.objects.head(keys[0])
    await world.service.objects.head(keys[1])
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, "A")])
    assert await discard(world.service) == 1
    with pytest.raises(NotFound):
        await world.service.objects.head(keys[1])
    assert await discard(world.service) == 0


async def test_what_is_to_be_deleted_is_not_forgotten_while_that_fails(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    key = await _left(world, worker, lease, b"some")
    await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    objects, world.service.objects = world.service.objects, Stuck(world.clock, bytes(32))
    with pytest.raises(Unavailable):
        await discard(world.service)
    world.service.objects = objects
    assert await discard(world.service) == 1
    with pytest.raises(NotFound):
        await objects.head(key)


class Stuck(TemporaryObjects):
    """Deletes nothing."""

    async def delete(self, keys: list[str]) -> None:
        raise Unavailable("the disk is gone")


async def test_queues_tell_what_lies_in_them(world: World) -> None:
    worker = await world.register()
    for _ in range(3):
        await world.create(count=2)
    await world.lease(worker, n=1)
    [queue] = (await world.admin("GET", "/v1/queues")).json["queues"]
    assert (queue["ready"], queue["running"], queue["ready_samples"]) == (2, 1, 4)
    [shown] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert (shown["state"], shown["held"]) == ("busy", 1)


async def test_switches_of_models_are_counted_once_however_often_they_are_told(
    world: World,
) -> None:
    worker = await world.register()
    once = [{"model": "demo/upper", "disk": 2, "host": 1}]
    for told in (once, once, [{"model": "demo/upper", "disk": 2, "host": 4, "loras": 3}]):
        await world.report(worker, switches=told, residents=["demo/upper"])
    text = (await world.stranger("GET", "/metrics")).body.decode()
    assert 'swell_model_switches_total{model="demo/upper",source="disk"} 2.0' in text
    assert 'swell_model_switches_total{model="demo/upper",source="host"} 4.0' in text
    assert 'swell_model_switches_total{model="demo/upper",source="lora"} 3.0' in text
    [seen] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert seen["switches"] == {"demo/upper": {"disk": 2, "host": 4, "loras": 3}}
    assert seen["residents"] == ["demo/upper"]


def test_of_a_worker_that_was_there_before_only_what_is_new_is_counted() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    info = WorkerInfo(id="w", name="w", pool="p", models={"a": "1"}, registered_at=now, seen_at=now)
    worker = Worker(info, 0.0)
    assert worker.count_switches([Switches(model="a", disk=7)]) == []
    assert worker.count_switches([Switches(model="a", disk=9)]) == [Switches(model="a", disk=2)]
    # It was started again under its name.
    assert worker.count_switches([Switches(model="a", disk=1)]) == [Switches(model="a")]


async def test_a_report_that_is_stale_does_not_have_the_lease_of_another_forgotten(
    world: World,
) -> None:
    one, other = await world.register(), await world.register()
    await world.create()
    [lease] = (await world.lease(other))["tasks"]
    wrong = {**succeeded(lease), "token": "0" * 32}
    assert (await world.report(one, settlements=[wrong]))["stale"] == [lease["task_id"]]
    fleet = world.service.fleet
    assert fleet.is_held(msgspec.convert(hold(lease), Hold))
    worker = fleet.workers.get(other)
    assert worker is not None
    assert worker.meter.held == 1


# ---- leases whose answer does not reach their worker


async def _counted(world: World, task_id: str) -> int:
    """Return how many attempts of a task count, the running one included."""
    [task] = await world.service.store.get([task_id])
    assert task is not None
    return task.attempt - task.handed_back


async def test_what_a_worker_was_granted_and_does_not_know_is_taken_back_unharmed(
    world: World,
) -> None:
    worker = await world.register()
    for _ in range(3):
        await world.create()
    first, second, third = (await world.lease(worker, n=3))["tasks"]
    # Of the second no answer was heard; the third has ended, and that is being told.
    ask = {"worker_id": worker, "n": 5, "known": [hold(first), hold(third)]}
    [again] = (await world.worker("POST", "/worker/v1/lease", ask)).json["tasks"]
    assert again["task_id"] == second["task_id"]
    assert await _counted(world, second["task_id"]) == 1
    assert again["token"] != second["token"]
    told = await world.report(
        worker, settlements=[succeeded(each) for each in (first, second, third, again)]
    )
    assert told["stale"] == [second["task_id"]]


async def test_a_report_may_tell_what_is_known_as_well(world: World) -> None:
    worker = await world.register()
    for _ in range(2):
        await world.create()
    first, second = (await world.lease(worker))["tasks"]
    told = await world.report(worker, settlements=[succeeded(first)], known=[hold(first)], ask=1)
    assert told.get("stale", []) == []
    [again] = told["tasks"]
    assert again["task_id"] == second["task_id"]
    assert await _counted(world, second["task_id"]) == 1


async def test_what_other_workers_hold_is_not_taken_back(world: World) -> None:
    one, other = await world.register(), await world.register()
    await world.create()
    [lease] = (await world.lease(other))["tasks"]
    ask = {"worker_id": one, "n": 1, "known": []}
    assert "tasks" not in (await world.worker("POST", "/worker/v1/lease", ask)).json
    assert "stale" not in await world.report(other, settlements=[succeeded(lease)])


@pytest.mark.parametrize("path", ["lease", "report"])
async def test_a_lease_after_which_something_fails_costs_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    worker = await world.register()
    task = await world.create()

    def fail(events: object) -> None:
        monkeypatch.undo()
        raise Unavailable("the bus is away")

    monkeypatch.setattr(world.service.bus, "publish", fail)
    ask = {"worker_id": worker, **({"n": 1} if path == "lease" else {"ask": 1})}
    answer = await world.worker("POST", f"/worker/v1/{path}", ask)
    assert "tasks" not in answer.json
    [lease] = (await world.lease(worker))["tasks"]
    assert lease["task_id"] == task["id"]
    assert await _counted(world, task["id"]) == 1
