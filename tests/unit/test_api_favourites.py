"""What people like best, tasks of a time, and tasks that are found by words."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from api_harness import World, a_world, succeeded

from sqlite_rig import turns
from swell.core.store_types import TaskFilter


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def _made(world: World, n: int = 3) -> list[str]:
    """Return the ids of tasks that have two files each, the newest first."""
    worker, ids = await world.register(), list[str]()
    for _ in range(n):
        await world.create(user="ann")
        (lease,) = (await world.lease(worker))["tasks"]
        artifacts = []
        for number in range(2):
            key = f"outputs/{lease['task_id']}/{lease['attempt']}/{number}.txt"
            await world.service.objects.put(key, b"x", "text/plain")
            artifacts.append({"key": key, "content_type": "text/plain", "bytes": 1})
        await world.report(worker, settlements=[succeeded(lease, None, artifacts=artifacts)])
        ids.insert(0, lease["task_id"])
        world.clock.advance(60)
    return ids


async def _listed(world: World, query: str = "", who: str = "anna") -> dict[str, Any]:
    answer = await getattr(world, who)("GET", f"/v1/tasks?{query}")
    assert answer.status == 200, answer.body
    return {each["id"]: each.get("favourites") for each in answer.json["tasks"]}


async def test_lists_tell_what_the_viewer_likes_and_only_that_where_it_is_asked(
    world: World,
) -> None:
    newest, middle, oldest = await _made(world)
    for task_id, query, told in (
        (newest, "viewer=ann&artifact=1", [1]),
        (newest, "viewer=ann", [0, 1]),
        (middle, "viewer=bob", [0]),
        (oldest, "", [0]),
    ):
        answer = await world.anna("PUT", f"/v1/tasks/{task_id}/favourite?{query}")
        assert answer.json == {"task_id": task_id, "favourites": told}
    assert await _listed(world, "viewer=ann") == {newest: [0, 1], middle: None, oldest: None}
    assert await _listed(world) == {newest: None, middle: None, oldest: [0]}
    assert await _listed(world, "favourite=true&viewer=bob") == {middle: [0]}
    assert await _listed(world, "favourite=true&viewer=eve") == {}
    answer = await world.anna("DELETE", f"/v1/tasks/{newest}/favourite?viewer=ann&artifact=1")
    assert answer.json == {"task_id": newest, "favourites": [0]}
    assert await _listed(world, "favourite=true&viewer=ann") == {newest: [0]}


async def test_favourites_are_the_keys_own_also_of_an_operator(world: World) -> None:
    (task_id,) = await _made(world, 1)
    path = f"/v1/tasks/{task_id}/favourite"
    assert (await world.berta("PUT", path)).status == 404
    assert (await world.stranger("PUT", path)).status == 401
    assert (await world.admin("PUT", path)).status == 200
    assert await _listed(world, "favourite=true") == {}
    assert await _listed(world, "favourite=true", "admin") == {task_id: [0]}


async def test_a_file_that_is_not_there_is_not_liked(world: World) -> None:
    (task_id,) = await _made(world, 1)
    path = f"/v1/tasks/{task_id}/favourite"
    for wrong in ("artifact=2", "artifact=-1", "artifact=x", "user=ann"):
        assert (await world.anna("PUT", f"{path}?{wrong}")).status == 422
    await world.anna("PUT", path)
    assert (await world.anna("DELETE", f"/v1/tasks/{task_id}")).status == 200
    assert await _listed(world, "favourite=true") == {}
    assert (await world.anna("PUT", path)).status == 409


async def test_tasks_of_a_time_are_listed(world: World) -> None:
    first_at = world.clock.now()
    newest, middle, oldest = await _made(world)

    def moment(minutes: int) -> str:
        at = datetime.fromtimestamp(first_at.timestamp() + 60 * minutes, first_at.tzinfo)
        return quote(at.isoformat())

    assert list(await _listed(world, f"since={moment(1)}")) == [newest, middle]
    assert list(await _listed(world, f"until={moment(1)}")) == [oldest]
    assert list(await _listed(world, f"since={moment(1)}&until={moment(2)}")) == [middle]
    assert list(await _listed(world, f"since={moment(1)}&until={moment(2)}&user=ann")) == [middle]
    for wrong in ("since=2030-01-01T00:00:00", "until=yesterday"):
        assert (await world.anna("GET", f"/v1/tasks?{wrong}")).status == 422


async def test_tasks_are_found_by_words_each_key_its_own_and_operators_all(world: World) -> None:
    await world.register()
    texts = ("A red fox", "un éléphant", "a fox asleep")
    ids = []
    for text in texts:
        ids.append((await world.create(input={"text": text}))["id"])
        world.clock.advance(1)
    assert list(await _listed(world, "q=fox")) == [ids[2], ids[0]]
    assert list(await _listed(world, f"q={quote('FO asl')}")) == [ids[2]]
    assert list(await _listed(world, "q=elephant", "admin")) == [ids[1]]
    assert list(await _listed(world, "q=fox", "berta")) == []
    assert len(await _listed(world, f"q={quote('!?')}")) == 3
    page = (await world.anna("GET", "/v1/tasks?q=fox&limit=1")).json
    assert list(await _listed(world, f"q=fox&cursor={page['cursor']}")) == [ids[0]]
    assert (await world.anna("GET", "/v1/tasks?q=" + "x" * 201)).status == 422


async def test_the_words_of_an_erased_task_are_gone(world: World) -> None:
    await world.register()
    task_id = (await world.create(input={"text": "a secret fox"}))["id"]
    assert list(await _listed(world, "q=secret")) == [task_id]
    await world.anna("POST", f"/v1/tasks/{task_id}/cancel")
    assert (await world.anna("DELETE", f"/v1/tasks/{task_id}")).status == 200
    assert await _listed(world, "q=secret") == {}


async def test_words_are_indexed_in_the_background(world: World) -> None:
    await world.register()
    batch = {"tasks": [{"model": "demo/upper", "input": {"text": "fox"}}] * 600}
    assert (await world.anna("POST", "/v1/tasks/batch", batch)).status == 202
    store = world.service.store

    async def found() -> int:
        page = await store.page(TaskFilter(words=("fox",)), limit=1000)
        return len(page.tasks)

    async def tick() -> None:
        world.clock.advance(5)
        await turns(50)

    await tick()
    assert await found() == 600
