"""What is removed of tasks: at the owner's word, and when its time is over."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_harness import World, a_world, failed, succeeded

from conformance.factories import a_new_task
from manual_clock import ManualClock
from swell.core import task as life
from swell.core.errors import NotFound
from swell.core.task import Artifact
from swell.server.background_jobs import discard, retire
from swell.settings.backend_settings import RetentionClass, RetentionSettings

PICTURE = b"picture"
DAY_S = 86_400.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    kept = RetentionSettings(
        inputs_s=50.0,
        outputs_s=10.0,
        tasks_s=3 * DAY_S,
        classes={"kept": RetentionClass(models=("demo/kept",))},
    )
    async with a_world(retention=kept, uploads_s=DAY_S) as made:
        await made.register(CARD | {"name": "demo/upper"}, CARD | {"name": "demo/kept"})
        yield made


CARD = {"name": "", "version": "1", "input_schema": {"type": "object"}}


async def drawn(world: World, **fields: Any) -> Any:
    """Return a task that has succeeded with one picture."""
    task = await world.create(**fields)
    worker_id = await world.register(CARD | {"name": task["model"]})
    (lease,) = (await world.lease(worker_id))["tasks"]
    key = f"outputs/{task['id']}/1/a.png"
    await world.service.objects.put(key, PICTURE, "image/png")
    artifact = {"key": key, "content_type": "image/png", "bytes": len(PICTURE)}
    told = succeeded(lease, {"a": {"$artifact": 0}}, artifacts=[artifact])
    await world.report(worker_id, settlements=[told])
    return (await world.anna("GET", f"/v1/tasks/{task['id']}")).json


async def uploaded(world: World) -> Any:
    answer = await world.anna("POST", "/v1/uploads", b"input", headers={})
    assert answer.status == 201
    return answer.json


async def is_there(world: World, key: str) -> bool:
    try:
        await world.service.objects.head(key)
    except NotFound:
        return False
    return True


async def look(world: World) -> None:
    """Do what the duties do."""
    await retire(world.service)
    while await discard(world.service):
        pass


def path_of(url: str) -> str:
    return url.removeprefix("http://swell.test")


async def test_outputs_are_gone_after_their_time_and_the_url_says_so(world: World) -> None:
    task = await drawn(world)
    url = path_of(task["artifacts"][0]["url"])
    assert (await world.stranger("GET", url)).body == PICTURE
    world.clock.advance(9)
    await look(world)
    assert (await world.stranger("GET", url)).status == 200
    world.clock.advance(2)
    await look(world)
    gone = await world.stranger("GET", url)
    assert (gone.status, gone.json["code"]) == (410, "expired_artifact")
    bare = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert (bare["data_removed"], bare["artifacts"], bare["output"]) == (["outputs"], [], None)
    assert bare["input"] == task["input"]
    assert not await is_there(world, f"outputs/{task['id']}/1/a.png")


async def test_inputs_and_then_the_task_itself_go_after_their_time(world: World) -> None:
    upload = await uploaded(world)
    task = await drawn(world, input={"image": upload["url"]}, metadata={"who": "me"})
    world.clock.advance(51)
    await look(world)
    bare = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert bare["data_removed"] == ["inputs", "outputs"]
    assert (bare["input"], bare["metadata"], bare["state"]) == ({}, None, "succeeded")
    assert not await is_there(world, upload["key"])
    assert (await world.anna("POST", f"/v1/tasks/{task['id']}/retry")).status == 409
    world.clock.advance(3 * DAY_S)
    await look(world)
    assert (await world.anna("GET", f"/v1/tasks/{task['id']}")).status == 404
    assert (await world.anna("GET", "/v1/tasks")).json["tasks"] == []


async def test_a_class_keeps_its_models_tasks_for_ever(world: World) -> None:
    task = await drawn(world, model="demo/kept")
    world.clock.advance(30 * DAY_S)
    await look(world)
    kept = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert kept["data_removed"] == []
    assert (await world.stranger("GET", path_of(kept["artifacts"][0]["url"]))).status == 200


async def test_uploads_that_no_task_uses_go_and_others_stay(world: World) -> None:
    unused, used = await uploaded(world), await uploaded(world)
    await world.create(input={"images": [used["url"], used["url"]]})
    world.clock.advance(DAY_S + 1)
    await look(world)
    assert not await is_there(world, unused["key"])
    assert await is_there(world, used["key"])


async def test_an_output_that_another_task_takes_in_outlives_its_own(world: World) -> None:
    first = await drawn(world)
    url = first["artifacts"][0]["url"]
    second = await world.create(input={"image": url})
    world.clock.advance(1000)
    await look(world)
    assert await is_there(world, f"outputs/{first['id']}/1/a.png")
    await world.anna("POST", f"/v1/tasks/{second['id']}/cancel")
    world.clock.advance(1000)
    await look(world)
    assert not await is_there(world, f"outputs/{first['id']}/1/a.png")


async def test_an_owner_removes_everything_now(world: World) -> None:
    upload = await uploaded(world)
    task = await drawn(world, input={"image": upload["url"]}, metadata={"who": "me"})
    answer = await world.anna("DELETE", f"/v1/tasks/{task['id']}")
    assert answer.status == 200
    assert answer.json["data_removed"] == ["inputs", "outputs"]
    assert (answer.json["input"], answer.json["metadata"]) == ({}, None)
    assert await world.service.store.discarded() == []
    assert not await is_there(world, upload["key"])
    assert (await world.stranger("GET", path_of(task["artifacts"][0]["url"]))).status == 410
    assert (await world.stranger("GET", path_of(upload["url"]))).status == 410
    assert (await world.anna("DELETE", f"/v1/tasks/{task['id']}")).json == answer.json


async def test_an_admin_may_and_another_key_may_not(world: World) -> None:
    task = await drawn(world)
    assert (await world.berta("DELETE", f"/v1/tasks/{task['id']}")).status == 404
    assert (await world.worker("DELETE", f"/v1/tasks/{task['id']}")).status == 403
    assert (await world.admin("DELETE", f"/v1/tasks/{task['id']}")).status == 200


async def test_a_task_that_has_not_ended_keeps_its_data(world: World) -> None:
    task = await world.create()
    answer = await world.anna("DELETE", f"/v1/tasks/{task['id']}")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "cancel" in answer.json["detail"]


async def test_what_attempts_that_came_to_nothing_had_stored_goes_too(world: World) -> None:
    task = await world.create(max_attempts=1)
    worker_id = await world.register(CARD | {"name": "demo/upper"})
    (lease,) = (await world.lease(worker_id))["tasks"]
    key = f"outputs/{task['id']}/1/half.png"
    await world.service.objects.put(key, PICTURE, "image/png")
    await world.report(worker_id, settlements=[failed(lease, retryable=False)])
    assert await is_there(world, key)
    assert (await world.anna("DELETE", f"/v1/tasks/{task['id']}")).status == 200
    assert not await is_there(world, key)


def test_only_files_under_a_tasks_own_name_go_with_it() -> None:
    now = ManualClock().now()
    new = a_new_task()
    task = life.accept(new, task_id="t", now=now)
    keys = ("outputs/t/1/a.png", "outputs/other/1/a.png", "uploads/k/1.png")
    artifacts = tuple(Artifact(key=key, content_type="image/png", bytes=1) for key in keys)
    named = msgspec.structs.replace(task, artifacts=artifacts)
    assert life.objects_of(named) == ["outputs/t/1/a.png"]
    remains = life.remains_of(named)
    assert remains
    assert all(key.startswith("thumbnails/outputs/t/1/a.png/") for key in remains)
