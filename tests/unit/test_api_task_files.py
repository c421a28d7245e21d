"""A task that is answered with its file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from api_harness import Answer, World, a_world, failed, succeeded

from swell.server.files import file_routes

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"

Files = Sequence[tuple[str, bytes]]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def _lease(world: World) -> tuple[str, dict[str, Any]]:
    worker = await world.register()
    return worker, (await world.lease(worker, wait_s=5))["tasks"][0]


async def _made(world: World, lease: dict[str, Any], made: Files) -> dict[str, Any]:
    """Store files, and return the outcome that names them, a moment later."""
    world.clock.advance(0.1)
    artifacts = []
    for number, (content_type, data) in enumerate(made):
        key = f"outputs/{lease['task_id']}/{lease['attempt']}/{number}"
        await world.service.objects.put(key, data, content_type)
        artifacts.append({"key": key, "content_type": content_type, "bytes": len(data)})
    return succeeded(lease, {"$artifact": 0}, artifacts=artifacts)


async def _asked(world: World, made: Files, accept: str | None = "image/png") -> Answer:
    """Return the answer to a request that waits for a task which makes these files."""
    asked = asyncio.create_task(_ask(world, accept))
    worker, lease = await _lease(world)
    await world.report(worker, settlements=[await _made(world, lease, made)])
    return await asked


async def _ask(world: World, accept: str | None = "image/png", **headers: str) -> Answer:
    await world.register()
    if accept is not None:
        headers["Accept"] = accept
    body = {"model": "demo/upper", "input": {"text": "a"}}
    return await world.anna("POST", "/v1/tasks", body, headers={"Prefer": "wait=30", **headers})


async def test_whoever_prefers_pictures_gets_the_picture(world: World) -> None:
    answer = await _asked(world, [("image/png", PNG)])
    assert (answer.status, answer.body) == (201, PNG)
    told = answer.headers
    assert told["content-type"] == "image/png"
    assert told["content-length"] == str(len(PNG))
    assert told["preference-applied"] == "wait=30"
    assert told["vary"] == "Accept"
    assert told["swell-task-state"] == "succeeded"
    assert told["swell-artifacts"] == "1"
    assert told["location"] == f"http://swell.test/v1/tasks/{told['swell-task']}"
    task = (await world.anna("GET", told["location"].removeprefix("http://swell.test"))).json
    assert task["state"] == "succeeded"
    assert task["id"] == told["swell-task"]
    same = await world.stranger("GET", told["content-location"].removeprefix("http://swell.test"))
    assert same.body == PNG


async def test_a_file_is_as_harmless_as_at_its_url_and_kept_by_no_cache(world: World) -> None:
    answer = await _asked(world, [("text/html", b"<script>")], "text/html")
    at = answer.headers["content-location"].removeprefix("http://swell.test")
    other = await world.stranger("GET", at)
    assert other.headers["content-disposition"] == "attachment"
    for name in ("content-disposition", "content-security-policy", "x-content-type-options"):
        assert answer.headers[name] == other.headers[name]
    assert answer.headers["cache-control"] == "private, no-store"
    shown = await _asked(world, [("image/png", PNG)])
    assert "content-disposition" not in shown.headers


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "audio/*", "application/json, image/png"]
)
async def test_json_comes_to_whoever_does_not_prefer_such_a_file(
    world: World, accept: str | None
) -> None:
    answer = await _asked(world, [("image/png", PNG)], accept)
    assert answer.status == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["artifacts"][0]["content_type"] == "image/png"
    assert "swell-task" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "body", "media_type"),
    [
        ("image/*", b"one", "image/webp"),
        ("image/png", b"two", "image/png"),
        ("image/*;q=0.5, audio/wav", b"three", "audio/wav"),
        ("application/octet-stream", b"zero", "text/plain"),
    ],
)
async def test_of_several_files_the_first_that_is_liked_best_comes(
    world: World, accept: str, body: bytes, media_type: str
) -> None:
    made = [
        *(("text/plain; charset=utf-8", b"zero"), ("image/webp", b"one")),
        *(("IMAGE/png", b"two"), ("audio/wav", b"three")),
    ]
    answer = await _asked(world, made, accept)
    assert (answer.body, answer.headers["content-type"]) == (body, media_type)
    assert answer.headers["swell-artifacts"] == "4"


async def test_several_accept_headers_count_as_one(world: World) -> None:
    scope = world.anna._scope

    def twice(*of: Any) -> dict[str, Any]:
        made = scope(*of)
        if made["method"] == "POST":
            made["headers"].append((b"accept", b"image/png"))
        return made

    world.anna._scope = twice  # type: ignore[method-assign]
    assert (await _asked(world, [("image/png", PNG)], "audio/*;q=0.5")).body == PNG
    answer = await _asked(world, [("image/png", PNG)], "application/json")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("told", "media_type"),
    [
        *(
            ("image/png\r\nset-cookie: a=b", "application/octet-stream"),
            ("image/png\n", "image/png"),
        ),
        *(("image", "application/octet-stream"), ("é/png", "application/octet-stream")),
        ("", "application/octet-stream"),
    ],
)
async def test_what_is_no_media_type_cannot_reach_the_headers(
    world: World, told: str, media_type: str
) -> None:
    answer = await _asked(world, [(told, PNG)], "image/*, application/octet-stream")
    assert (answer.body, answer.headers["content-type"]) == (PNG, media_type)


async def test_a_task_that_failed_or_made_no_file_is_told_as_json(world: World) -> None:
    answer = await _asked(world, [])
    assert (answer.status, answer.json["state"]) == (201, "succeeded")
    asked = asyncio.create_task(_ask(world))
    worker, lease = await _lease(world)
    await world.report(worker, settlements=[failed(lease, retryable=False)])
    answer = await asked
    assert (answer.status, answer.json["state"]) == (201, "failed")


async def test_a_task_that_is_not_over_is_told_as_json(world: World) -> None:
    answer = await _ask(world, Prefer="respond-async")
    assert (answer.status, answer.json["state"]) == (202, "queued")


async def test_a_repeat_gets_the_file_once_it_is_there(world: World) -> None:
    again = {"Idempotency-Key": "one", "Prefer": "wait=0"}
    first = await _ask(world, **again)
    assert first.status == 202
    worker, lease = await _lease(world)
    await world.report(worker, settlements=[await _made(world, lease, [("image/png", PNG)])])
    second = await _ask(world, **again)
    assert (second.status, second.body) == (201, PNG)
    assert second.headers["swell-task"] == first.json["id"]
    assert "preference-applied" not in second.headers


async def test_a_key_of_somebody_else_gets_no_file(world: World) -> None:
    asked = {"model": "demo/upper", "input": {"text": "a"}}
    headers = {"Accept": "image/png", "Idempotency-Key": "one", "Prefer": "wait=0"}
    await _ask(world, **headers)
    worker, lease = await _lease(world)
    await world.report(worker, settlements=[await _made(world, lease, [("image/png", PNG)])])
    other = await world.berta("POST", "/v1/tasks", asked, headers=headers)
    assert (other.status, other.json["state"]) == (202, "queued")


async def test_a_file_that_is_gone_leaves_the_json_of_its_task(world: World) -> None:
    again = {"Idempotency-Key": "one", "Prefer": "wait=0"}
    await _ask(world, **again)
    worker, lease = await _lease(world)
    outcome = await _made(world, lease, [("image/png", PNG)])
    await world.report(worker, settlements=[outcome])
    await world.service.objects.delete([outcome["outcome"]["artifacts"][0]["key"]])
    answer = await _ask(world, **again)
    assert (answer.status, answer.json["state"]) == (201, "succeeded")
    url = answer.json["artifacts"][0]["url"].removeprefix("http://swell.test")
    assert (await world.stranger("GET", url)).status == 404


async def test_a_large_file_is_read_from_its_url(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_routes, "_MOST_AT_ONCE_BYTES", len(PNG))
    assert (await _asked(world, [("image/png", PNG)])).body == PNG
    answer = await _asked(world, [("image/png", PNG + b"x")])
    _see_other(answer)
    got = await world.stranger("GET", answer.headers["location"].removeprefix("http://swell.test"))
    assert got.body == PNG + b"x"


@pytest.mark.parametrize("there", [PNG[:3], b"", PNG + b"x"])
async def test_a_file_of_another_size_than_its_task_says_is_not_served(
    world: World, there: bytes
) -> None:
    answer = await _asked(world, [("image/png", PNG)], accept=None)
    url, task = answer.json["artifacts"][0]["url"].removeprefix("http://swell.test"), answer.json
    (key,) = await world.service.objects.under(f"outputs/{task['id']}")
    await world.service.objects.put(key, there, "image/png")
    for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
        damaged = await world.stranger("GET", url, headers=headers)
        assert (damaged.status, damaged.json["code"]) == (404, "damaged_artifact")
        assert f"damaged (expected 10 bytes, has {len(there)})" in damaged.json["detail"]
    assert (await world.stranger("HEAD", url)).status == 404
    # Whoever cuts the size out of the URL has no signed URL.
    bare = await world.stranger("GET", url.replace("&bytes=10", ""))
    assert (bare.status, bare.json["code"]) == (403, "forbidden")


async def test_json_comes_in_place_of_a_damaged_file(world: World) -> None:
    asked = asyncio.create_task(_ask(world))
    worker, lease = await _lease(world)
    outcome = await _made(world, lease, [("image/png", PNG)])
    key = outcome["outcome"]["artifacts"][0]["key"]
    await world.service.objects.put(key, PNG[:3], "image/png")
    await world.report(worker, settlements=[outcome])
    answer = await asked
    assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
    assert answer.json["artifacts"][0]["bytes"] == len(PNG)


async def test_a_file_that_is_kept_elsewhere_is_read_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = world.app.backend.objects
    monkeypatch.setattr(type(objects), "is_here", False)
    monkeypatch.setattr(objects, "sign", lambda method, key, *_: f"https://far.test/{key}")
    answer = await _asked(world, [("image/png", PNG)])
    _see_other(answer)
    assert answer.headers["location"] == answer.json["output"]
    assert answer.headers["location"].startswith("https://far.test/outputs/")


def _see_other(answer: Answer) -> None:
    assert answer.status == 303
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == answer.json["artifacts"][0]["url"]
    assert answer.headers["swell-task"] == answer.json["id"]
    assert answer.headers["preference-applied"] == "wait=30"


async def _place(world: World, worker: str, lease: dict[str, Any]) -> str:
    """Return where this attempt may put a file."""
    hold = {name: lease[name] for name in ("task_id", "attempt", "token")}
    keys = [f"outputs/{lease['task_id']}/{lease['attempt']}/late.png"]
    asked = {"worker_id": worker, "hold": hold, "keys": keys}
    answer = await world.worker("POST", "/worker/v1/uploads", asked)
    return str(answer.json["uploads"][0]["url"])


async def test_nothing_can_be_stored_for_a_task_whose_data_was_removed(world: World) -> None:
    made = asyncio.create_task(_ask(world))
    worker, lease = await _lease(world)
    url = await _place(world, worker, lease)
    await world.report(worker, settlements=[succeeded(lease, "x")])
    await made
    late = await world.stranger("PUT", url, PNG)
    assert (late.status, late.json["code"]) == (409, "conflict")
    assert (await world.anna("DELETE", f"/v1/tasks/{lease['task_id']}")).status == 200
    late = await world.stranger("PUT", url, PNG)
    assert (late.status, late.json["code"]) == (410, "expired_artifact")
    assert await world.service.objects.under(f"outputs/{lease['task_id']}") == []


async def test_what_still_comes_while_its_task_is_erased_does_not_stay(world: World) -> None:
    made = asyncio.create_task(_ask(world))
    worker, lease = await _lease(world)
    url = await _place(world, worker, lease)
    objects = world.service.objects
    begins, goes_on = asyncio.Event(), asyncio.Event()
    put_new = objects.put_new

    async def slow(*of: Any) -> Any:
        begins.set()
        await goes_on.wait()
        return await put_new(*of)

    objects.put_new = slow  # type: ignore[method-assign]
    late = asyncio.create_task(world.stranger("PUT", url, PNG))
    await begins.wait()
    await world.report(worker, settlements=[succeeded(lease, "x")])
    await made
    assert (await world.anna("DELETE", f"/v1/tasks/{lease['task_id']}")).status == 200
    goes_on.set()
    assert (await late).status == 410
    assert await objects.under(f"outputs/{lease['task_id']}") == []
