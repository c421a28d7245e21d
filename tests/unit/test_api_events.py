"""Following a task over server-sent events."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from api_harness import World, a_world, hold, succeeded

from sqlite_rig import turns
from swell.core.events import TERMINAL_ID
from swell.server.background_jobs import tell_positions


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def test_a_stream_tells_the_whole_life_of_a_task(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert await stream.block() == "retry: 2000"
        queued = await stream.event()
        assert queued["event"] == "queued"
        assert queued["data"]["position"] == 1
        [lease] = (await world.lease(worker))["tasks"]
        told = [
            {**hold(lease), "place": 1, "kind": "progress", "data": {"step": 1, "steps": 2}},
            {**hold(lease), "place": 2, "kind": "preview", "data": {"image": "data:,x"}},
            {
                **hold(lease),
                "place": 3,
                "kind": "artifact",
                "data": {"key": f"outputs/{task['id']}/1/a.png", "content_type": "image/png"},
            },
        ]
        await world.report(worker, progress=told)
        await world.report(worker, settlements=[succeeded(lease, "A")])
        events = [await stream.event() for _ in range(5)]
        assert await stream.event() is None
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.headers["cache-control"] == "no-cache"
    kinds = [event["event"] for event in events]
    assert kinds == ["started", "progress", "preview", "artifact", "succeeded"]
    ids = [event["id"] for event in [queued, *events]]
    assert ids == sorted(set(ids))
    assert events[0]["data"]["worker"] == worker
    assert "signature=" in events[3]["data"]["url"]
    assert "key" not in events[3]["data"]
    assert events[4]["data"]["output"] == "A"
    assert events[4]["data"]["state"] == "succeeded"
    assert len(world.service.streams) == 0


async def test_a_reader_goes_on_where_it_was(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    for place in (1, 2, 3):
        news = {**hold(lease), "place": place, "kind": "progress", "data": {"step": place}}
        await world.report(worker, progress=[news])
    path = f"/v1/tasks/{task['id']}/events"
    async with world.anna.stream(path, {"Last-Event-ID": "1000001"}) as stream:
        assert [(await stream.event())["data"]["step"] for _ in range(2)] == [2, 3]
    async with world.anna.stream(path + "?after=1000002") as stream:
        assert (await stream.event())["data"]["step"] == 3


async def test_a_stream_of_an_ended_task_has_one_event_and_then_no_more(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, "A")])
    path = f"/v1/tasks/{task['id']}/events"
    async with world.anna.stream(path) as stream:
        event = await stream.event()
        assert (event["event"], event["id"]) == ("succeeded", TERMINAL_ID)
        assert await stream.event() is None
    again = await world.anna("GET", path, headers={"Last-Event-ID": str(TERMINAL_ID)})
    assert again.status == 204


@pytest.mark.parametrize("last", ["x", "-5", "99999999999999999999"])
async def test_an_id_that_is_none_is_refused(world: World, last: str) -> None:
    await world.register()
    task = await world.create()
    path = f"/v1/tasks/{task['id']}/events"
    answer = await world.anna("GET", path, headers={"Last-Event-ID": last})
    assert answer.status == 400


async def test_progress_of_another_attempt_is_not_shown(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "started"
        stale = {**hold(lease), "token": "no", "place": 1, "kind": "progress", "data": {"step": 9}}
        right = {**hold(lease), "place": 2, "kind": "progress", "data": {"step": 1}}
        await world.report(worker, progress=[stale, right])
        assert (await stream.event())["data"] == {"step": 1}


async def test_an_idle_stream_is_kept_open_by_comments(world: World) -> None:
    await world.register()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert await stream.block() == "retry: 2000"
        assert "queued" in await stream.block()
        for _ in range(16):
            world.clock.advance(1)
            await turns(2)
        assert await stream.block() == ": keep-alive"


async def test_a_client_that_hangs_up_is_found_and_forgotten(world: World) -> None:
    await world.register()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "queued"
        stream.gone.set()
        while not stream.task.done():
            world.clock.advance(1)
            await asyncio.sleep(0)
        assert len(world.service.streams) == 0
        assert world.service.bus.listener_count() == 0


async def test_a_waiting_reader_is_told_its_new_position(world: World) -> None:
    worker = await world.register()
    await world.create()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["data"]["position"] == 2
        await world.lease(worker, n=1)
        await tell_positions(world.service)
        event = await stream.event()
        assert (event["event"], event["id"], event["data"]["position"]) == ("queued", None, 1)


async def test_asking_for_the_head_of_a_stream_does_not_open_it(world: World) -> None:
    await world.register()
    task = await world.create()
    answer = await world.anna("HEAD", f"/v1/tasks/{task['id']}/events")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_streams_end_with_the_service(world: World) -> None:
    await world.register()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "queued"
        await world.service.bus.close()
        assert await stream.event() is None
