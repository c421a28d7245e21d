"""What the client for Python says and hears of admission and of stages, by the real service."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from admission_harness import PAINT, POSTER, QUICK, drawn, measured
from api_harness import UPPER, World, a_world
from served_harness import served

from swell.client import (
    AsyncClient,
    Change,
    Client,
    Estimate,
    Refused,
    Stage,
    Task,
)

PAINTED = {"prompt": "a"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    # A thousandth of a dollar each second.
    async with a_world(pipelines=(POSTER,), hour_micros={"default": 3_600_000}) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with served(world) as url, AsyncClient(url, world.keys["anna"], retry_s=0) as opened:
        yield opened


# ---- cheaper tasks


@pytest.mark.slow
async def test_what_was_changed_of_a_task_is_told_when_it_is_made_and_later(
    world: World, client: AsyncClient
) -> None:
    await measured(world, 10)
    task = await client.submit(
        "demo/paint", PAINTED, finish_by_s=6, degrade={"steps": 10, "size_px": 256}
    )
    assert task.degraded == [Change(field="/input/steps", before=40, after=22)]
    assert task.input == {"prompt": "a", "steps": 22}
    assert (await client.get(task)).degraded == task.degraded
    assert [each.degraded async for each in client.tasks(state="queued")] == [task.degraded]


@pytest.mark.slow
async def test_the_model_that_runs_instead_is_told(world: World, client: AsyncClient) -> None:
    worker = await measured(world, 10)
    quick = await measured(world, 2, QUICK)
    await world.admin("POST", f"/v1/workers/{worker}/drain")
    others = ("demo/none", "demo/quick")
    task = await client.submit("demo/paint", PAINTED, degrade={"models": others})
    await drawn(world, quick, "painted", 2.0, 2.0)
    done = await client.wait(task, timeout_s=30)
    assert (done.model, done.output) == ("demo/quick", "painted")
    assert done.degraded == [Change(field="/model", before="demo/paint", after="demo/quick")]


@pytest.mark.slow
async def test_a_task_of_which_nothing_was_changed_tells_no_changes(
    world: World, client: AsyncClient
) -> None:
    await measured(world, 10)
    task = await client.submit("demo/paint", PAINTED, finish_by_s=60, degrade={"steps": 10})
    assert (task.degraded, task.stages) == ([], [])


@pytest.mark.slow
async def test_each_task_of_a_batch_says_what_may_be_changed_and_its_class(
    world: World, client: AsyncClient
) -> None:
    await measured(world, 10)
    each = {"model": "demo/paint", "input": PAINTED, "finish_by_s": 15, "degrade": {"steps": 10}}
    tasks = await client.submit_many([{**each, "class_name": "paid"}, {**each, "class": "free"}])
    assert [len(task.degraded) for task in tasks] == [0, 1]


@pytest.mark.slow
async def test_a_mistake_in_degrade_is_told_with_its_place(
    world: World, client: AsyncClient
) -> None:
    await measured(world, 10)
    with pytest.raises(Refused) as refused:
        await client.submit("demo/paint", PAINTED, degrade={"steps": 0})
    assert refused.value.reason == "invalid_input"
    assert refused.value.problem["errors"][0]["pointer"] == "/degrade/steps"


# ---- classes


@pytest.mark.slow
async def test_a_class_is_named(world: World, client: AsyncClient) -> None:
    await world.register(UPPER)
    free = await client.estimate("demo/upper", {"text": "a"}, class_name="free")
    paid = await client.estimate("demo/upper", {"text": "a"}, class_name="paid")
    assert (free.priority, paid.priority) == (5, 1)
    made = await client.submit("demo/upper", {"text": "a"}, class_name="free")
    [queue] = (await world.admin("GET", "/v1/queues")).json["queues"]
    assert {each["name"]: each["ready"] for each in queue["classes"]} == {"paid": 0, "free": 1}
    assert made.state == "queued"


@pytest.mark.slow
async def test_a_class_that_is_not_there_is_refused_with_those_that_are(
    world: World, client: AsyncClient
) -> None:
    await world.register(UPPER)
    with pytest.raises(Refused, match="there are: paid, free") as refused:
        await client.submit("demo/upper", {"text": "a"}, class_name="gold")
    assert refused.value.problem["errors"][0]["pointer"] == "/class"


# ---- estimates


@pytest.mark.slow
async def test_an_estimate_tells_place_time_and_cost_and_makes_nothing(
    world: World, client: AsyncClient
) -> None:
    worker = await measured(world, 10)
    await client.submit("demo/paint", PAINTED)
    await drawn(world, worker, "x", 10.0, 10.0)
    await client.submit("demo/paint", PAINTED)
    told = await client.estimate("demo/paint", PAINTED, metadata={"a": 1})
    assert (told.is_accepted, told.refusal, told.position, told.workers) == (True, None, 2, 1)
    assert told.start_s is not None
    assert told.finish_s is not None
    assert told.start_s.median < told.finish_s.median
    assert told.finish_s.low <= told.finish_s.median <= told.finish_s.high
    assert told.cost_micros == 10_000
    assert len([task async for task in client.tasks(state="queued")]) == 1


@pytest.mark.slow
async def test_an_estimate_tells_what_would_be_changed(world: World, client: AsyncClient) -> None:
    await measured(world, 10)
    told = await client.estimate("demo/paint", PAINTED, finish_by_s=6, degrade={"steps": 10})
    assert told.is_accepted
    assert told.degraded == [Change(field="/input/steps", before=40, after=22)]
    assert (told.model, told.input["steps"]) == ("demo/paint", 22)


@pytest.mark.slow
async def test_an_estimate_that_would_be_refused_says_why_and_raises_nothing(
    world: World, client: AsyncClient
) -> None:
    await measured(world, 10)
    told = await client.estimate("demo/paint", PAINTED, finish_by_s=4)
    assert not told.is_accepted
    assert told.refusal is not None
    assert (told.refusal.code, told.refusal.status) == ("would_expire", 503)
    assert told.refusal.retry_after_s == 6
    with pytest.raises(Refused) as refused:
        await client.submit("demo/paint", PAINTED, finish_by_s=4)
    assert (refused.value.reason, str(refused.value)) == (told.refusal.code, told.refusal.detail)


@pytest.mark.slow
async def test_nothing_is_told_of_times_that_were_never_measured(
    world: World, client: AsyncClient
) -> None:
    await world.register(PAINT)
    told = await client.estimate("demo/paint", PAINTED)
    assert (told.is_accepted, told.position) == (True, 1)
    assert (told.start_s, told.finish_s, told.cost_micros) == (None, None, None)


@pytest.mark.slow
async def test_an_estimate_of_what_is_not_served_is_refused(client: AsyncClient) -> None:
    with pytest.raises(Refused) as refused:
        await client.estimate("demo/none", {})
    assert refused.value.http_status == 404


@pytest.mark.slow
async def test_a_file_in_what_is_estimated_is_stored(world: World, client: AsyncClient) -> None:
    await world.register(UPPER)
    told = await client.estimate("demo/upper", {"text": b"a text"})
    assert await client.read(told.input["text"]) == b"a text"


# ---- pipelines


@pytest.mark.slow
async def test_each_stage_tells_its_time_and_its_cost(world: World, client: AsyncClient) -> None:
    upper, painter = await world.register(UPPER), await world.register(PAINT)
    task = await client.submit("demo/poster", {"prompt": "a"})
    assert [each.state for each in task.stages] == ["queued", "waiting", "waiting"]
    assert [each.timings for each in task.stages] == [None] * 3
    await drawn(world, upper, "A", 0.5, 0.25)
    await drawn(world, painter, "a poster", 2.0, 1.0)
    done = await client.wait(task, timeout_s=30)
    assert done.output == "a poster"
    assert [(each.name, each.model, each.state) for each in done.stages] == [
        ("upper", "demo/upper", "succeeded"),
        ("draw", "demo/paint", "succeeded"),
        ("again", "demo/upper", "skipped"),
    ]
    first, second, passed = done.stages
    assert first.timings is not None
    assert second.timings is not None
    assert (first.timings["run_s"], first.cost_micros, first.output) == (0.5, 250, "A")
    assert (second.timings["run_s"], second.cost_micros) == (2.0, 1000)
    assert (passed.timings, passed.cost_micros, passed.attempts) == (None, None, 0)
    assert done.cost_micros == 1250
    assert (first.attempts, first.worker, second.worker) == (1, upper, painter)
    assert second.finished_at is not None


# ---- other releases


def test_what_an_older_server_does_not_tell_is_left_open() -> None:
    old = {"id": "t1", "model": "demo/upper", "state": "queued"}
    task = msgspec.convert(old, Task)
    assert (task.degraded, task.stages) == ([], [])
    assert msgspec.convert({"is_accepted": True}, Estimate).degraded == []
    assert msgspec.convert({"name": "draw"}, Stage) == Stage(name="draw")
    assert msgspec.convert({"field": "/model"}, Change).after is None


def test_what_a_newer_server_tells_besides_is_passed_over() -> None:
    stage = {"name": "draw", "colour": "red", "timings": {"dream_s": 1.0}}
    newer = {"id": "t1", "model": "a/b", "state": "queued", "stages": [stage], "mood": "good"}
    assert msgspec.convert(newer, Task).stages[0].timings == {"dream_s": 1.0}


@pytest.mark.slow
async def test_an_older_server_without_estimates_says_that_there_are_none(
    world: World,
) -> None:
    async with served(world) as url, AsyncClient(f"{url}/old", "a-key", retry_s=0) as client:
        with pytest.raises(Refused) as refused:
            await client.estimate("demo/upper", {"text": "a"})
    assert refused.value.http_status == 404


@pytest.mark.slow
async def test_the_client_without_a_loop_says_and_hears_the_same(world: World) -> None:
    await measured(world, 10)

    def ask(url: str) -> tuple[Estimate, Task]:
        with Client(url, world.keys["anna"], retry_s=0) as client:
            told = client.estimate("demo/paint", PAINTED, finish_by_s=6, degrade={"steps": 10})
            return told, client.submit("demo/paint", PAINTED, finish_by_s=6, degrade={"steps": 10})

    async with served(world) as url:
        told, made = await asyncio.to_thread(ask, url)
    assert told.degraded == made.degraded == [Change(field="/input/steps", before=40, after=22)]
