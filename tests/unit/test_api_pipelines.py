"""Pipelines over HTTP: declared, called like models, seen stage by stage."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_harness import World, a_world, failed, succeeded
from structlog.testing import capture_logs

from swell.core.pipeline_stages import Pipeline, Stage
from swell.core.task import TaskState
from swell.sdk.pipeline_cards import Declared
from swell.server.billing.attempt_costs import attempt_entry

TRANSLATE = {
    "name": "demo/translate",
    "version": "t1",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "to": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "object", "properties": {"text": {"type": "string"}}},
}
DRAW = {
    "name": "demo/draw",
    "version": "d1",
    "input_schema": {
        "type": "object",
        "properties": {"prompt": {"type": "string", "maxLength": 500}},
        "required": ["prompt"],
        "additionalProperties": False,
    },
}
ENLARGE = {
    "name": "demo/enlarge",
    "version": "e1",
    "input_schema": {
        "type": "object",
        "properties": {"images": {"type": "array", "items": {"type": "string"}}},
        "required": ["images"],
    },
}

STAGES = (
    Stage(
        name="translate",
        queue="demo/translate",
        take={"text": "input.prompt"},
        fixed={"to": "en"},
        when='input.language != "en"',
    ),
    Stage(
        name="draw",
        queue="demo/draw",
        take={"prompt": "stages.translate.output.text or input.prompt"},
        counts=True,
    ),
    Stage(
        name="enlarge",
        queue="demo/enlarge",
        take={"images": "stages.draw.artifacts"},
        when="input.large",
    ),
)
POSTER = Declared(
    name="demo/poster",
    description="# Poster\n\nDraws one.",
    pipeline=Pipeline(stages=STAGES),
    input_schema={
        "type": "object",
        "properties": {
            "prompt": {"like": "draw.prompt"},
            "language": {"type": "string", "default": "en"},
            "large": {"type": "boolean", "default": False},
        },
        "required": ["prompt"],
        "additionalProperties": False,
    },
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(pipelines=(POSTER,)) as world:
        yield world


async def poster(world: World, **asked: Any) -> Any:
    body = {"prompt": "a fox", **asked}
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/poster", "input": body})
    assert answer.status == 202, answer.body
    return answer.json


async def seen(world: World, task: Any) -> Any:
    return (await world.anna("GET", f"/v1/tasks/{task['id']}")).json


async def put(world: World, worker: str, lease: Any, name: str = "0.png") -> dict[str, Any]:
    key = f"outputs/{lease['task_id']}/{lease['attempt']}/{name}"
    await world.service.objects.put_new(key, b"picture", "image/png")
    return {"key": key, "content_type": "image/png", "bytes": 7, "width": 8, "height": 8}


async def test_a_pipeline_is_a_model_once_those_of_its_stages_are(world: World) -> None:
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/poster", "input": {}})
    assert answer.status == 404
    assert "waits for workers that serve demo/translate, demo/draw" in answer.json["detail"]
    await world.register(TRANSLATE, DRAW, ENLARGE)
    card = (await world.anna("GET", "/v1/models/demo/poster")).json
    assert card["description"].startswith("# Poster")
    assert card["input_schema"]["properties"]["prompt"] == {"type": "string", "maxLength": 500}
    assert card["examples"] == [{"prompt": "example"}]
    assert card["workers"] == 1
    assert [stage["name"] for stage in card["pipeline"]["stages"]] == [
        "translate",
        "draw",
        "enlarge",
    ]


async def test_a_pipeline_is_told_to_wait_only_once_one_of_its_models_is_there(
    world: World,
) -> None:
    with capture_logs() as said:
        await world.register({**DRAW, "name": "demo/else"})
        answer = await world.anna("GET", "/v1/models/demo/poster")
        assert answer.status == 404
        assert "workers that serve demo/translate, demo/draw, demo/enlarge" in answer.json["detail"]
        await world.register(DRAW)
        await world.register(ENLARGE)
    told = [each for each in said if each["event"] == "pipeline not ready"]
    assert [each["log_level"] for each in told][-1:] == ["info"]
    assert [each["log_level"] for each in told].count("info") == 1
    assert "demo/translate" in told[-1]["detail"]


async def test_a_new_version_of_a_model_changes_the_pipeline_only_where_it_shows(
    world: World,
) -> None:
    await world.register(TRANSLATE, DRAW, ENLARGE)
    before = (await world.anna("GET", "/v1/models/demo/poster")).json["version"]
    await world.register(TRANSLATE, {**DRAW, "version": "d2"}, ENLARGE)
    assert (await world.anna("GET", "/v1/models/demo/poster")).json["version"] == before
    schema = {**DRAW["input_schema"], "properties": {"prompt": {"type": "string"}}}  # type: ignore[dict-item]
    await world.register(TRANSLATE, {**DRAW, "version": "d3", "input_schema": schema}, ENLARGE)
    assert (await world.anna("GET", "/v1/models/demo/poster")).json["version"] != before


async def test_an_input_is_checked_against_the_pipelines_own_schema(world: World) -> None:
    await world.register(TRANSLATE, DRAW, ENLARGE)
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/poster", "input": {"text": "x"}})
    assert answer.status == 422
    assert {error["code"] for error in answer.json["errors"]} == {"unknown_field", "required"}


async def test_stages_run_on_workers_of_their_own(world: World) -> None:
    translator = await world.register(TRANSLATE)
    painter = await world.register(DRAW)
    enlarger = await world.register(ENLARGE)
    task = await poster(world, prompt="ein Fuchs", language="de", large=True)
    assert (task["model"], task["state"]) == ("demo/poster", "queued")
    assert [each["state"] for each in task["stages"]] == ["queued", "waiting", "waiting"]

    assert (await world.lease(painter)).get("tasks", []) == []
    [lease] = (await world.lease(translator))["tasks"]
    assert (lease["model"], lease["version"]) == ("demo/translate", "t1")
    assert lease["input"] == {"to": "en", "text": "ein Fuchs"}
    assert not lease.get("may_go_on")
    await world.report(translator, settlements=[succeeded(lease, {"text": "a fox"})])

    [lease] = (await world.lease(painter))["tasks"]
    assert (lease["task_id"], lease["attempt"]) == (task["id"], 2)
    assert (lease["input"], lease["earlier"]) == ({"prompt": "a fox"}, 1)
    picture = await put(world, painter, lease)
    told = succeeded(lease, {"$artifact": 0}, artifacts=[picture])
    await world.report(painter, settlements=[told])

    [lease] = (await world.lease(enlarger))["tasks"]
    [url] = lease["input"]["images"]
    assert picture["key"] in url
    assert url in lease["own_files"]
    large = await put(world, enlarger, lease)
    told = succeeded(lease, [{"$artifact": 0}], artifacts=[large], timings={"run_s": 2.0})
    await world.report(enlarger, settlements=[told])

    ended = await seen(world, task)
    card = (await world.anna("GET", "/v1/models/demo/poster")).json
    assert (ended["state"], ended["version"]) == ("succeeded", card["version"])
    assert [each["state"] for each in ended["stages"]] == ["succeeded"] * 3
    assert large["key"] in ended["output"][0]
    assert [large["key"] in each["url"] for each in ended["artifacts"]] == [True]
    assert ended["stages"][0]["output"] == {"text": "a fox"}
    assert picture["key"] in ended["stages"][1]["output"]
    assert ended["stages"][2]["timings"]["run_s"] == 2.0


async def test_stages_that_are_not_wanted_are_passed_over(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world)
    [lease] = (await world.lease(worker))["tasks"]
    assert (lease["model"], lease["input"]) == ("demo/draw", {"prompt": "a fox"})
    await world.report(worker, settlements=[succeeded(lease, "a picture")])
    ended = await seen(world, task)
    assert (ended["state"], ended["output"]) == ("succeeded", "a picture")
    assert [each["state"] for each in ended["stages"]] == ["skipped", "succeeded", "skipped"]


async def test_a_worker_with_both_models_goes_on_without_the_queue(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world, language="de")
    [lease] = (await world.lease(worker))["tasks"]
    assert lease["may_go_on"]
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["data"]["stage"] == "translate"
        told = succeeded(lease, {"text": "a fox"})
        answer = await world.report(worker, settlements=[told], onward=1)
        [onward] = answer["tasks"]
        event = await stream.event()
    assert (event["event"], event["data"]["stage"]) == ("started", "draw")
    assert (onward["model"], onward["attempt"]) == ("demo/draw", 2)
    assert onward["input"] == {"prompt": "a fox"}
    held = world.service.fleet.held_attempt(task["id"])
    assert held == 2
    # The answer got lost and all is told again: it comes again.
    answer = await world.report(worker, settlements=[told], onward=1)
    assert answer["tasks"] == [onward]
    await world.report(worker, settlements=[succeeded(onward, "done")])
    assert (await seen(world, task))["state"] == "succeeded"


async def test_who_says_nothing_of_going_on_does_not(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world, language="de")
    [lease] = (await world.lease(worker))["tasks"]
    answer = await world.report(worker, settlements=[succeeded(lease, {"text": "a"})])
    assert "tasks" not in answer
    assert (await seen(world, task))["state"] == "queued"
    [lease] = (await world.lease(worker))["tasks"]
    assert lease["model"] == "demo/draw"


async def test_what_is_nested_very_deeply_is_not_looked_into_and_the_task_goes_on(
    world: World,
) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world, language="es")
    [lease] = (await world.lease(worker))["tasks"]
    told = {"worker_id": worker, "settlements": [succeeded(lease, {"text": "DEEP"})]}
    deep = json.dumps(told).replace('"DEEP"', "[" * 1500 + "]" * 1500).encode()
    assert (await world.worker("POST", "/worker/v1/report", deep)).status == 200
    [lease] = (await world.lease(worker))["tasks"]
    # The next that is there.
    assert (lease["model"], lease["input"]) == ("demo/draw", {"prompt": "a fox"})
    await world.report(worker, settlements=[succeeded(lease, "a picture")])
    assert (await world.service.store.get([task["id"]]))[0].state is TaskState.SUCCEEDED


async def test_a_waiting_client_is_answered_at_the_end_of_the_last_stage(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    body = {"model": "demo/poster", "input": {"prompt": "x", "language": "de"}}
    waiting = asyncio.create_task(
        world.anna("POST", "/v1/tasks", body, headers={"prefer": "wait=10"})
    )
    for _ in range(2):
        lease = None
        while not lease:
            await asyncio.sleep(0)
            lease = (await world.lease(worker)).get("tasks")
        assert not waiting.done()
        await world.report(worker, settlements=[succeeded(lease[0], {"text": "y"})])
    answer = await asyncio.wait_for(waiting, 10)
    assert (answer.status, answer.json["state"]) == (201, "succeeded")


CHECKED = Declared(
    name="demo/checked",
    description="# Checked\n\nDraws one and looks at it.",
    pipeline=Pipeline(
        stages=(
            Stage(
                name="translate",
                queue="demo/translate",
                take={"text": "input.prompt"},
                fixed={"to": "en"},
            ),
            Stage(name="draw", queue="demo/draw", take={"prompt": "stages.translate.output.text"}),
            Stage(
                name="look",
                queue="demo/enlarge",
                take={"images": "stages.draw.artifacts"},
                reject="stages.look.output.bad",
            ),
            Stage(name="last", queue="demo/draw", take={"prompt": "stages.translate.output.text"}),
        ),
        output="stages.draw.output",
    ),
    input_schema={
        "type": "object",
        "properties": {"prompt": {"like": "draw.prompt"}},
        "required": ["prompt"],
    },
)


@pytest.mark.parametrize("is_bad", [True, False])
async def test_what_a_later_stage_may_refuse_is_shown_when_it_has_not(is_bad: bool) -> None:
    async with a_world(pipelines=(CHECKED,)) as world:
        worker = await world.register(TRANSLATE, DRAW, ENLARGE)
        body = {"model": "demo/checked", "input": {"prompt": "a fox"}}
        task = (await world.anna("POST", "/v1/tasks", body)).json

        async def shown() -> tuple[Any, int]:
            text, drawn, *_ = (await seen(world, task))["stages"]
            assert text["output"] == {"text": "a fox"}, "no check takes it"
            return drawn["output"], len(drawn["artifacts"])

        [lease] = (await world.lease(worker))["tasks"]
        await world.report(worker, settlements=[succeeded(lease, {"text": "a fox"})])
        [lease] = (await world.lease(worker))["tasks"]
        file = await put(world, worker, lease)
        warnings = [{"code": "unknown_subject", "message": "It knows no fox."}]
        drawn = succeeded(lease, "drawn", artifacts=[file], warnings=warnings)
        await world.report(worker, settlements=[drawn])
        assert await shown() == (None, 0)
        assert (await seen(world, task))["warnings"] == []
        [lease] = (await world.lease(worker))["tasks"]
        await world.report(worker, settlements=[succeeded(lease, {"bad": is_bad})])
        assert len((await seen(world, task))["warnings"]) == 1 - is_bad
        assert await shown() == ((None, 0) if is_bad else ("drawn", 1))
        assert (await seen(world, task))["stages"][2]["output"] == {"bad": is_bad}
        await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
        assert await shown() == ((None, 0) if is_bad else ("drawn", 1))


async def test_a_retry_goes_on_at_the_stage_that_failed(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world, language="de")
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, {"text": "a fox"})])
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[failed(lease, retryable=False)])
    ended = await seen(world, task)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "model_error")
    assert [each["state"] for each in ended["stages"]] == ["succeeded", "failed", "not_reached"]
    again = (await world.anna("POST", f"/v1/tasks/{task['id']}/retry")).json
    assert again["model"] == "demo/poster"
    assert [each["state"] for each in again["stages"]] == ["succeeded", "queued", "waiting"]
    [lease] = (await world.lease(worker))["tasks"]
    assert (lease["model"], lease["attempt"]) == ("demo/draw", 1)
    assert lease["input"] == {"prompt": "a fox"}
    assert lease.get("earlier", 0) == 0


async def test_a_model_of_a_stage_that_nobody_has_is_told_before_anything_is_accepted(
    world: World,
) -> None:
    for card in (TRANSLATE, DRAW, ENLARGE):
        await world.register(card)
    for worker in await world.service.fleet.all():
        if "demo/enlarge" in worker[0].models:
            await world.report(worker[0].id, goodbye=True)
    await poster(world)
    body = {"model": "demo/poster", "input": {"prompt": "x", "large": True}}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert (answer.status, answer.json["code"]) == (503, "no_worker")
    assert "demo/enlarge" in answer.json["detail"]


async def test_a_count_goes_to_the_stage_that_counts(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    body = {"model": "demo/poster", "input": {"prompt": "x", "language": "de"}, "count": 3}
    assert (await world.anna("POST", "/v1/tasks", body)).status == 202
    [lease] = (await world.lease(worker))["tasks"]
    assert lease.get("count", 1) == 1
    await world.report(worker, settlements=[succeeded(lease, {"text": "y"})])
    [lease] = (await world.lease(worker))["tasks"]
    assert lease["count"] == 3


async def test_arrivals_and_depths_are_those_of_the_stage(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    await poster(world, language="de")
    assert world.service.scaling.arrivals.fresh == {"demo/translate": 1}
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, {"text": "y"})])
    assert world.service.scaling.arrivals.fresh == {"demo/translate": 1, "demo/draw": 1}
    [depth] = await world.service.broker.depths()
    assert (depth.queue, depth.ready) == ("demo/draw", 1)


async def test_the_estimate_covers_the_stages_that_follow(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    for _ in range(3):
        await poster(world, language="de")
        for run_s in (1.0, 4.0):
            [lease] = (await world.lease(worker))["tasks"]
            told = succeeded(lease, {"text": "y"}, timings={"run_s": run_s})
            await world.report(worker, settlements=[told])
    assert world.service.times.stats("demo/translate") is not None
    assert world.service.times.stats("demo/draw") is not None
    assert world.service.times.stats("demo/poster") is None
    whole = await poster(world, language="de")
    # 1 s and 4 s, and perhaps the first stage once more, as another model's of the same worker.
    assert 5.0 <= whole["eta_s"]["median"] <= 6.0
    body = {
        "model": "demo/poster",
        "input": {"prompt": "x", "language": "de"},
        "finish_by_s": 3,
    }
    assert (await world.anna("POST", "/v1/tasks", body)).json["code"] == "would_expire"


async def test_each_attempt_is_charged_to_the_model_of_its_stage() -> None:
    async with a_world(pipelines=(POSTER,), hour_micros={"default": 3_600_000}) as world:
        worker = await world.register(TRANSLATE, DRAW, ENLARGE)
        world.clock.advance(30)
        task = await poster(world, language="de")
        [lease] = (await world.lease(worker))["tasks"]
        told = succeeded(lease, {"text": "y"}, timings={"run_s": 1.0, "device_s": 1.0})
        answer = await world.report(worker, settlements=[told], onward=1)
        told = succeeded(answer["tasks"][0], "z", timings={"run_s": 5.0, "device_s": 5.0})
        await world.report(worker, settlements=[told])
        ended = await seen(world, task)
        assert ended["cost_micros"] == 6_000
        assert [each["cost_micros"] for each in ended["stages"][:2]] == [1_000, 5_000]
        await world.service.charges.keep()
        entries = (await world.service.registry.ledger()).entries
        found = {each.models: each.micros for each in entries if each.ref == task["id"]}
        assert found == {"demo/translate": 1_000, "demo/draw": 5_000}
        [kept] = await world.service.store.get([task["id"]])
        assert kept is not None
        info, now = world.service.fleet.workers[worker].info, world.clock.now()
        entry = attempt_entry(info, kept, 1, is_good=True, at=now, outcome="succeeded", seconds=1.0)
        assert (entry.models, entry.images) == ("demo/translate", 1)


async def test_a_pipeline_is_canceled_while_a_stage_runs(world: World) -> None:
    worker = await world.register(TRANSLATE, DRAW, ENLARGE)
    task = await poster(world, language="de")
    [lease] = (await world.lease(worker))["tasks"]
    await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    assert (await world.lease(worker, n=0))["cancels"] == [task["id"]]
    answer = await world.report(worker, settlements=[succeeded(lease, {"text": "y"})], onward=1)
    assert "tasks" not in answer
    ended = await seen(world, task)
    assert ended["state"] == "canceled"
    [kept] = await world.service.store.get([task["id"]])
    assert kept is not None
    assert kept.state is TaskState.CANCELED


async def test_a_worker_may_not_register_a_pipeline(world: World) -> None:
    card = {**DRAW, "pipeline": {"stages": [{"name": "a", "queue": "demo/upper"}]}}
    answer = await world.worker("POST", "/worker/v1/register", {"name": "w", "models": [card]})
    assert answer.status == 422
    assert "server.pipelines" in answer.json["detail"]
