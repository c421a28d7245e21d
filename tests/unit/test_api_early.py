"""Files of a task that are told before it ends, as clients see them."""

import base64
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from api_harness import World, failed, hold, succeeded
from facade_harness import Asking, Painter, a_studio, picture

from swell.core.errors import NotFound, Unavailable
from swell.core.event_bus import MessageKind, PeerMessage
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import create_app
from swell.server.peer_messages import handle_messages

Studio = tuple[World, Painter]


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    async with a_studio() as studio:
        yield studio


def file_of(lease: dict[str, Any], index: int, data: bytes, kind: str = "image/png") -> Any:
    """What a worker tells of a file."""
    key = f"outputs/{lease['task_id']}/{lease['attempt']}/{index}.png"
    told = {"key": key, "content_type": kind, "bytes": len(data), "width": 8, "height": 8}
    return {"index": index, "seed": 7 + index, **told}


async def deliver(studio: Studio, lease: dict[str, Any], index: int) -> bytes:
    """Have a file stored, and told."""
    world, painter = studio
    data = picture(colour=("red", "lime", "blue")[index])
    told = file_of(lease, index, data)
    await world.service.objects.put(told["key"], data, "image/png")
    await painter.tell(lease, "artifact", **told)
    return data


async def create(world: World, count: int = 3) -> str:
    body = {"model": "demo/painter", "input": {"prompt": "a"}, "count": count}
    made = await world.anna("POST", "/v1/tasks", body)
    assert made.status == 202, made.json
    return str(made.json["id"])


async def seen(world: World, task_id: str) -> Any:
    return (await world.anna("GET", f"/v1/tasks/{task_id}")).json


async def test_a_running_task_shows_what_is_there_and_an_event_says_so(studio: Studio) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    async with world.anna.stream(f"/v1/tasks/{task_id}/events") as stream:
        assert (await stream.event())["event"] == "started"
        data = await deliver(studio, lease, 0)
        event = await stream.event()
    assert event["event"] == "artifact"
    told = event["data"]
    assert (told["index"], told["seed"], told["width"], told["bytes"]) == (0, 7, 8, len(data))
    assert told["thumbnail_url"] == told["url"] + "&w=256"
    assert "key" not in told
    got = await world.stranger("GET", told["url"].removeprefix("http://swell.test"))
    assert (got.status, got.body) == (200, data)
    task = await seen(world, task_id)
    assert task["state"] == "running"
    assert [each["url"].partition("?")[0] for each in task["artifacts"]] == [
        told["url"].partition("?")[0]
    ]
    assert task["output"] is None


async def test_what_comes_out_of_order_or_is_no_file_is_not_shown(studio: Studio) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    await deliver(studio, lease, 1)
    assert (await seen(world, task_id))["artifacts"] == []
    key = f"outputs/{task_id}/1/0.png"
    await painter.tell(lease, "artifact", index=0, key=key, content_type=7)
    assert (await seen(world, task_id))["artifacts"] == []


async def test_a_new_attempt_begins_without_files(studio: Studio) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    await deliver(studio, lease, 0)
    await world.report(painter.worker_id, settlements=[failed(lease, retryable=True)])
    assert (await seen(world, task_id))["artifacts"] == []
    world.clock.advance(60)
    await world.service.store.sweep()
    again = await painter.lease()
    assert again["attempt"] == 2
    assert (await seen(world, task_id))["artifacts"] == []
    await deliver(studio, again, 0)
    assert len((await seen(world, task_id))["artifacts"]) == 1


async def test_a_failed_task_has_no_artifacts_and_links_that_were_told_still_lead_to_files(
    studio: Studio,
) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    data = await deliver(studio, lease, 0)
    [early] = (await seen(world, task_id))["artifacts"]
    await world.report(painter.worker_id, settlements=[failed(lease, retryable=False)])
    assert (await seen(world, task_id))["artifacts"] == []
    got = await world.stranger("GET", early["url"].removeprefix("http://swell.test"))
    assert got.body == data


async def test_a_file_that_travels_with_its_event_is_there_when_it_is_told(studio: Studio) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    data = picture()
    told = file_of(lease, 0, data)
    news = {**hold(lease), "place": 1, "kind": "artifact", "data": told}
    file = {"key": told["key"], "data": base64.b64encode(data).decode()}
    await world.report(painter.worker_id, progress=[news], enclosures=[file])
    [early] = (await seen(world, task_id))["artifacts"]
    got = await world.stranger("GET", early["url"].removeprefix("http://swell.test"))
    assert (got.body, got.headers["content-type"]) == (data, "image/png")
    # The outcome has it again, in case that it could not be stored.
    artifact = {name: told[name] for name in ("key", "content_type", "bytes")}
    outcome = succeeded(lease, {"$artifact": 0}, artifacts=[artifact])
    await world.report(painter.worker_id, settlements=[outcome], enclosures=[file])
    assert (await seen(world, task_id))["state"] == "succeeded"


async def test_a_file_that_cannot_be_stored_yet_is_not_told(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    data = picture()
    told = file_of(lease, 0, data)
    news = {**hold(lease), "place": 1, "kind": "artifact", "data": told}
    file = {"key": told["key"], "data": base64.b64encode(data).decode()}

    async def full(*_: Any) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(world.service.objects, "put_new", full)
    await world.report(painter.worker_id, progress=[news], enclosures=[file])
    assert (await seen(world, task_id))["artifacts"] == []


@pytest.mark.parametrize("wrong", ["token", "bytes", "key"])
async def test_a_file_of_another_or_of_a_lost_lease_is_not_stored(
    studio: Studio, wrong: str
) -> None:
    world, painter = studio
    task_id = await create(world)
    lease = await painter.lease()
    data = picture()
    told = file_of(lease, 0, data)
    file = {"key": told["key"], "data": base64.b64encode(data).decode()}
    held = hold(lease)
    if wrong == "token":
        held["token"] = "other"
    elif wrong == "bytes":
        told["bytes"] += 1
    else:
        told["key"] = f"outputs/{task_id}/2/0.png"
    news = {**held, "place": 1, "kind": "artifact", "data": told}
    body = {"worker_id": painter.worker_id, "progress": [news], "enclosures": [file]}
    answer = await world.worker("POST", "/worker/v1/report", body)
    assert answer.status == {"token": 200, "bytes": 422, "key": 422}[wrong]
    with pytest.raises(NotFound):
        await world.service.objects.head(file["key"])
    assert (await seen(world, task_id))["artifacts"] == []


# --- a backend that was not there ----------------------------------------------------------------


@asynccontextmanager
async def restarted(studio: Studio) -> AsyncIterator[Studio]:
    """The same store and files, and a backend that has heard of nothing."""
    world, painter = studio
    await world.app.stop()
    backend = dataclasses.replace(world.app.backend, bus=MemoryBus(world.clock))
    again = World(world.clock, create_app(backend), world.keys)
    await again.app.start()
    try:
        yield again, Painter(again, painter.worker_id)
    finally:
        await again.app.stop()


def news_of(lease: dict[str, Any], told: Any, place: int, **more: Any) -> dict[str, Any]:
    said = {"place": place, "kind": "artifact", "data": told, "files": told["index"]}
    return {**hold(lease), **said, **more}


async def test_after_a_restart_a_worker_is_asked_for_files_and_the_task_shows_them_again(
    studio: Studio,
) -> None:
    world, _ = studio
    task_id = await create(world)
    lease = await studio[1].lease()
    before = [file_of(lease, n, await deliver(studio, lease, n)) for n in range(2)]
    async with restarted(studio) as (again, painter):
        assert (await seen(again, task_id))["artifacts"] == []
        data = picture(colour="blue")
        third = file_of(lease, 2, data)
        await again.service.objects.put(third["key"], data, "image/png")
        answer = await again.report(painter.worker_id, progress=[news_of(lease, third, 3)])
        assert answer["tell_files"] is True
        assert (await seen(again, task_id))["artifacts"] == [], "what comes first is told first"
        async with again.anna.stream(f"/v1/tasks/{task_id}/events") as stream:
            assert (await stream.event())["event"] == "started"
            told = [
                news_of(lease, each, 1 + n, again=True) for n, each in enumerate([*before, third])
            ]
            answer = await again.report(painter.worker_id, progress=told)
            assert "tell_files" not in answer
            heard = [await stream.event() for _ in told]
        assert [each["data"]["index"] for each in heard] == [0, 1, 2]
        there = (await seen(again, task_id))["artifacts"]
        names = [each["url"].partition("?")[0].rpartition("/")[2] for each in there]
        assert names == ["0.png", "1.png", "2.png"]
        async with again.anna.stream(
            f"/v1/tasks/{task_id}/events", {"Last-Event-ID": str(heard[1]["id"])}
        ) as stream:
            assert (await stream.event())["data"]["index"] == 2


async def test_a_heartbeat_is_enough_to_be_asked_for_files(studio: Studio) -> None:
    world, _ = studio
    await create(world)
    lease = await studio[1].lease()
    await deliver(studio, lease, 0)
    async with restarted(studio) as (again, painter):
        answer = await again.report(painter.worker_id, holds=[hold(lease)])
        assert answer["tell_files"] is True


async def test_a_file_told_again_that_was_never_stored_is_not_shown(studio: Studio) -> None:
    world, _ = studio
    task_id = await create(world)
    lease = await studio[1].lease()
    told = file_of(lease, 0, picture())
    async with restarted(studio) as (again, painter):
        await again.report(painter.worker_id, holds=[hold(lease)])
        await again.report(painter.worker_id, progress=[news_of(lease, told, 1, again=True)])
        assert (await seen(again, task_id))["artifacts"] == []


async def test_what_another_backend_may_have_missed_is_asked_of_workers(studio: Studio) -> None:
    world, painter = studio
    await create(world)
    lease = await painter.lease()
    for kind in (MessageKind.FILES, MessageKind.MISSED):
        await handle_messages(world.service, [PeerMessage(kind=kind)])
        answer = await world.report(painter.worker_id, holds=[hold(lease)])
        assert answer["tell_files"] is True
    answer = await world.report(painter.worker_id, holds=[hold(lease)])
    assert "tell_files" not in answer


# --- others' words -------------------------------------------------------------------------------


def _datas(answer: Any) -> list[Any]:
    blocks = answer.body.decode().split("\n\n")
    return [json.loads(each.rpartition("data: ")[2]) for each in blocks if "data: " in each]


async def test_openai_clients_get_each_picture_when_it_is_there(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "stream": True, "n": 3}
    asking = Asking(world.anna, "POST", "/openai/v1/images/generations", body)
    lease = await painter.lease()
    files = [await deliver(studio, lease, index) for index in (0, 1)]
    # Another attempt may make them again.
    await deliver(studio, lease, 0)
    files.append(picture(colour="blue"))
    await painter.succeed(lease, *files)
    told = _datas(await asking.answer())
    assert [each["type"] for each in told] == ["image_generation.completed"] * 3
    assert [base64.b64decode(each["b64_json"]) for each in told] == files
    assert [each["swell"]["run_s"] for each in told] == [0.0, 0.0, 1.5]


async def test_fal_clients_get_what_is_there_so_far(studio: Studio) -> None:
    world, painter = studio
    body = {"prompt": "a", "num_images": 2}
    asking = Asking(world.anna, "POST", "/fal/run/demo/painter/stream", body)
    lease = await painter.lease()
    files = [await deliver(studio, lease, index) for index in (0, 1)]
    await painter.succeed(lease, *files)
    told = _datas(await asking.answer())
    assert [len(each["images"]) for each in told] == [1, 2, 2]
    assert [each.get("partial") for each in told] == [True, True, None]
    assert told[0]["images"][0]["file_size"] == len(files[0])


async def test_a_prediction_that_runs_has_the_outputs_that_are_there(studio: Studio) -> None:
    world, painter = studio
    body = {"input": {"prompt": "a", "num_outputs": 2}}
    path = "/replicate/v1/models/demo/painter/predictions"
    made = (await world.anna("POST", path, body)).json
    assert made["output"] is None
    lease = await painter.lease()
    await deliver(studio, lease, 0)
    here = f"/replicate/v1/predictions/{made['id']}"
    now = (await world.anna("GET", here)).json
    assert (now["status"], len(now["output"])) == ("processing", 1)
    assert "/outputs/" in now["output"][0]


async def test_a_stream_of_a_prediction_tells_each_output_once(studio: Studio) -> None:
    world, painter = studio
    body = {"input": {"prompt": "a", "num_outputs": 3}}
    path = "/replicate/v1/models/demo/painter/predictions"
    made = (await world.anna("POST", path, body)).json
    where = made["urls"]["stream"].removeprefix("http://swell.test")
    lease = await painter.lease()
    async with world.stranger.stream(where) as stream:
        assert await stream.block() == "retry: 2000"
        files = [await deliver(studio, lease, index) for index in (0, 1)]
        first = [(await stream.block()).splitlines() for _ in range(2)]
        await deliver(studio, lease, 0)
        await painter.succeed(lease, *files, picture(colour="blue"))
        last = [(await stream.block()).splitlines() for _ in range(2)]
    assert [each[0] for each in [*first, *last]] == ["event: output"] * 3 + ["event: done"]
    names = [each[2].partition("?")[0].rpartition("/")[2] for each in [*first, last[0]]]
    assert names == ["0.png", "1.png", "2.png"]
    # Who comes back gets what comes after.
    seen_id = first[1][1].removeprefix("id: ")
    async with world.stranger.stream(where, {"Last-Event-ID": seen_id}) as stream:
        assert await stream.block() == "retry: 2000"
        rest = [(await stream.block()).splitlines()[0] for _ in range(2)]
    assert rest == ["event: output", "event: done"]


async def test_a_stream_of_a_prediction_goes_on_at_a_backend_that_has_heard_of_nothing(
    studio: Studio,
) -> None:
    world, _ = studio
    body = {"input": {"prompt": "a", "num_outputs": 3}}
    made = (await world.anna("POST", "/replicate/v1/models/demo/painter/predictions", body)).json
    where = made["urls"]["stream"].removeprefix("http://swell.test")
    lease = await studio[1].lease()
    async with world.stranger.stream(where) as stream:
        assert await stream.block() == "retry: 2000"
        files = [await deliver(studio, lease, index) for index in (0, 1)]
        for _ in files:
            seen_id = (await stream.block()).splitlines()[1].removeprefix("id: ")
    async with restarted(studio) as (again, painter):
        await again.report(painter.worker_id, holds=[hold(lease)])
        async with again.stranger.stream(where, {"Last-Event-ID": seen_id}) as stream:
            assert await stream.block() == "retry: 2000"
            await painter.succeed(lease, *files, picture(colour="blue"))
            rest = [(await stream.block()).splitlines() for _ in range(2)]
        assert [each[0] for each in rest] == ["event: output", "event: done"]
        assert "/2.png" in rest[0][2]
        # Who has seen the end's first part gets the second.
        seen_id = rest[0][1].removeprefix("id: ")
        async with again.stranger.stream(where, {"Last-Event-ID": seen_id}) as stream:
            assert await stream.block() == "retry: 2000"
            assert (await stream.block()).splitlines()[0] == "event: done"
            assert await stream.block() is None
