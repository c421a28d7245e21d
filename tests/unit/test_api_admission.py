"""What is decided before a task is accepted: estimates, cheaper tasks, classes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from admission_harness import PAINT, POSTER, QUICK, measured
from api_harness import UPPER, Client, World, a_world, succeeded

from swell.core.quality_fallback import time_share
from swell.core.records import Scope
from swell.server.auth import create_key


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "demo/paint", "input": {"prompt": "a"}, **fields}


# ---- estimates


async def test_an_estimate_makes_nothing_and_says_what_would_be(world: World) -> None:
    await measured(world, 10)
    await world.anna("POST", "/v1/tasks", asking())
    answer = await world.anna("POST", "/v1/estimate", asking())
    assert answer.status == 200
    told = answer.json
    assert told["is_accepted"] is True
    assert told["refusal"] is None
    assert (told["position"], told["workers"], told["version"]) == (2, 1, "1")
    assert told["start_s"]["median"] == 10
    assert told["finish_s"]["median"] == 20
    assert told["degraded"] == []
    tasks = (await world.anna("GET", "/v1/tasks?state=queued")).json["tasks"]
    assert len(tasks) == 1
    made = await world.anna("POST", "/v1/tasks", asking())
    assert (made.json["position"], made.json["eta_s"]) == (told["position"], told["finish_s"])


async def test_an_estimate_says_how_it_would_be_refused(world: World) -> None:
    await measured(world, 10)
    body = asking(finish_by_s=4)
    told = (await world.anna("POST", "/v1/estimate", body)).json
    refused = await world.anna("POST", "/v1/tasks", body)
    assert told["is_accepted"] is False
    refusal = told["refusal"]
    assert (refusal["status"], refusal["code"]) == (refused.status, refused.json["code"])
    assert refusal["detail"] == refused.json["detail"]
    assert str(refusal["retry_after_s"]) == refused.headers["retry-after"] == "6"


async def test_a_refused_task_may_come_again_within_an_hour(world: World) -> None:
    await measured(world, 50_000)
    refused = await world.anna("POST", "/v1/tasks", asking(finish_by_s=1))
    assert refused.headers["retry-after"] == "3600"


@pytest.mark.parametrize(
    ("asked", "took_s"),
    [({}, 10), ({"steps": 80}, 19), ({"steps": 20}, 5.5), ({"steps": 20, "width": 2048}, 10)],
)
async def test_an_estimate_follows_how_much_is_to_be_drawn(
    world: World, asked: dict[str, int], took_s: float
) -> None:
    await measured(world, 10)
    body = asking(input={"prompt": "a", **asked})
    told = (await world.anna("POST", "/v1/estimate", body)).json
    assert told["finish_s"]["median"] == pytest.approx(took_s)
    late = await world.anna("POST", "/v1/tasks", body | {"finish_by_s": took_s - 0.5})
    assert late.json["code"] == "would_expire"
    task = (await world.anna("POST", "/v1/tasks", body | {"finish_by_s": took_s + 0.5})).json
    assert task["eta_s"] == told["finish_s"]


@pytest.mark.slow
async def test_the_estimate_of_a_degraded_task_counts_what_was_changed_once(world: World) -> None:
    await measured(world, 10)
    body = asking(input={"prompt": "a", "steps": 80}, finish_by_s=6, degrade={"steps": 10})
    told = (await world.anna("POST", "/v1/estimate", body)).json
    [change] = told["degraded"]
    assert (change["field"], change["from"], change["to"]) == ("/input/steps", 80, 22)
    assert told["finish_s"]["median"] == pytest.approx(10 * (0.1 + 0.9 * 22 / 40))


async def test_a_stage_takes_as_long_as_what_it_draws() -> None:
    async with a_world(pipelines=(POSTER,)) as world:
        await measured(world, 10)
        worker = await world.register(UPPER, slots=1)
        await world.create()
        [lease] = (await world.lease(worker, n=1))["tasks"]
        world.clock.advance(1)
        await world.report(worker, settlements=[succeeded(lease, "A")])

        async def median_s() -> float:
            body = {"model": "demo/poster", "input": {"prompt": "a"}}
            told = (await world.anna("POST", "/v1/estimate", body)).json
            return float(told["finish_s"]["median"])

        # Its second stage draws as much as the task that was measured.
        assert await median_s() == pytest.approx(11)
        for _ in range(200):
            world.service.times.observe_size("demo/paint", time_share(2.0))
        # Others draw twice as much in that time: a tenth of it is needed anyway.
        assert await median_s() == pytest.approx(1 + 10 * 0.55, rel=0.05)


async def test_others_ask_no_less_for_a_task_that_was_made_quicker(world: World) -> None:
    await measured(world, 10, PAINT | {"price_micros": 40_000})
    body = asking(finish_by_s=6, degrade={"steps": 10})
    told = (await world.anna("POST", "/v1/estimate", body)).json
    assert told["degraded"] == [{"field": "/input/steps", "from": 40, "to": 22}]
    # Its worker's pool has no price.
    assert told["cost_micros"] == 40_000


async def test_an_estimate_of_what_nobody_can_run_says_so(world: World) -> None:
    worker = await measured(world, 10)
    await world.admin("POST", f"/v1/workers/{worker}/drain")
    told = (await world.anna("POST", "/v1/estimate", asking())).json
    assert told["refusal"]["code"] == "no_worker"
    assert told["workers"] == 0


async def test_an_estimate_is_checked_as_a_task_is(world: World) -> None:
    await measured(world, 10)
    assert (await world.anna("POST", "/v1/estimate", asking(model="demo/none"))).status == 404
    broken = asking(input={"steps": "many"})
    assert (await world.anna("POST", "/v1/estimate", broken)).status == 422
    assert (await world.stranger("POST", "/v1/estimate", asking())).status == 401


async def test_a_model_and_its_queue_say_when_a_task_would_start_and_end(world: World) -> None:
    await measured(world, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [asking()] * 3})
    card = (await world.anna("GET", "/v1/models/demo/paint")).json
    assert (card["start_s"]["median"], card["eta_s"]["median"]) == (30, 40)
    [queue] = (await world.admin("GET", "/v1/queues")).json["queues"]
    assert (queue["start_s"]["median"], queue["eta_s"]["median"]) == (30, 40)


async def test_estimates_learn_from_how_the_last_ones_turned_out(world: World) -> None:
    worker = await measured(world, 10)
    for _ in range(12):
        # Half of what tasks take is spent on the way, which nobody has told of.
        await world.anna("POST", "/v1/tasks", asking())
        grant = await world.lease(worker, n=1)
        world.clock.advance(20)
        told = succeeded(grant["tasks"][0], "x")
        told["outcome"]["timings"] = {"run_s": 10.0}
        await world.report(worker, settlements=[told])
    told = (await world.anna("POST", "/v1/estimate", asking())).json
    assert told["finish_s"]["median"] == pytest.approx(20, abs=1)


# ---- cheaper tasks


async def test_fewer_steps_are_drawn_where_that_is_in_time(world: World) -> None:
    await measured(world, 10)
    body = asking(finish_by_s=6, degrade={"steps": 10})
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 202
    task = answer.json
    # 6 s of 10 are left, of which 1 is needed anyway: 5 / 9 of 40 steps.
    assert task["input"]["steps"] == 22
    assert task["degraded"] == [{"field": "/input/steps", "from": 40, "to": 22}]
    assert task["metadata"] is None
    same = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert same["degraded"] == task["degraded"]
    refused = await world.anna("POST", "/v1/tasks", asking(finish_by_s=6))
    assert refused.json["code"] == "would_expire"
    told = (await world.anna("GET", "/metrics")).body.decode()
    assert 'swell_tasks_degraded_total{model="demo/paint"} 1.0' in told
    assert 'swell_requests_refused_total{code="would_expire"} 1.0' in told


async def test_nothing_is_changed_that_need_not_be(world: World) -> None:
    await measured(world, 10)
    allowed = {"steps": 10, "size_px": 256, "models": ["demo/quick"]}
    task = (await world.anna("POST", "/v1/tasks", asking(finish_by_s=11, degrade=allowed))).json
    assert "degraded" not in task
    assert task["input"] == {"prompt": "a"}


async def test_a_picture_gets_smaller_once_steps_cannot_be_fewer(world: World) -> None:
    await measured(world, 10)
    body = asking(
        input={"prompt": "a", "steps": 40},
        finish_by_s=3,
        degrade={"steps": 20, "size_px": 256},
        metadata={"own": 1},
    )
    task = (await world.anna("POST", "/v1/tasks", body)).json
    changed = {each["field"]: each["to"] for each in task["degraded"]}
    assert changed == {"/input/steps": 20, "/input/width": 640, "/input/height": 512}
    assert task["input"] == {"prompt": "a", "steps": 20, "width": 640, "height": 512}
    assert task["metadata"] == {"own": 1}


async def test_another_model_is_taken_where_the_queue_of_the_first_is_too_long(
    world: World,
) -> None:
    await measured(world, 10)
    await measured(world, 2, QUICK)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [asking()] * 5})
    body = asking(start_by_s=5, degrade={"models": ["demo/none", "demo/quick"]})
    told = (await world.anna("POST", "/v1/estimate", body)).json
    assert (told["is_accepted"], told["model"], told["position"]) == (True, "demo/quick", 1)
    task = (await world.anna("POST", "/v1/tasks", body)).json
    assert task["model"] == "demo/quick"
    assert task["degraded"] == told["degraded"]
    assert task["degraded"] == [{"field": "/model", "from": "demo/paint", "to": "demo/quick"}]


async def test_another_model_is_taken_where_nobody_can_run_the_first(world: World) -> None:
    worker = await measured(world, 10)
    await measured(world, 2, QUICK)
    await world.admin("POST", f"/v1/workers/{worker}/drain")
    task = (await world.anna("POST", "/v1/tasks", asking(degrade={"models": ["demo/quick"]}))).json
    assert task["model"] == "demo/quick"


async def test_what_cannot_be_in_time_anyhow_is_refused_as_it_was_asked(world: World) -> None:
    await measured(world, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [asking()] * 5})
    allowed = {"steps": 1, "size_px": 64, "models": ["demo/quick"]}
    answer = await world.anna("POST", "/v1/tasks", asking(finish_by_s=20, degrade=allowed))
    assert (answer.status, answer.json["code"]) == (503, "would_expire")
    assert "`degrade`" in answer.json["detail"]
    assert answer.headers["retry-after"].isdigit()


async def test_a_repeat_gets_the_same_task_whatever_would_be_changed_now(world: World) -> None:
    await measured(world, 10)
    key = {"idempotency-key": "k"}
    body = asking(finish_by_s=6, degrade={"steps": 10})
    first = await world.anna("POST", "/v1/tasks", body, headers=key)
    again = await world.anna("POST", "/v1/tasks", body, headers=key)
    assert again.json["id"] == first.json["id"]
    assert again.json["degraded"] == first.json["degraded"]
    other = asking(finish_by_s=6, degrade={"steps": 11})
    assert (await world.anna("POST", "/v1/tasks", other, headers=key)).status == 422


async def test_each_task_of_a_batch_is_changed_by_what_comes_before_it(world: World) -> None:
    await measured(world, 10)
    each = asking(finish_by_s=25, degrade={"steps": 1})
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": [each] * 3})
    assert answer.status == 202
    steps = [task["input"].get("steps") for task in answer.json["tasks"]]
    assert steps[:2] == [None, None]
    assert steps[2] == 17


async def test_a_repeated_task_keeps_what_was_changed(world: World) -> None:
    worker = await measured(world, 10)
    task = (await world.anna("POST", "/v1/tasks", asking(finish_by_s=6, degrade={"steps": 9}))).json
    grant = await world.lease(worker, n=1)
    await world.report(worker, settlements=[succeeded(grant["tasks"][0], "x")])
    again = (await world.anna("POST", f"/v1/tasks/{task['id']}/retry")).json
    assert again["degraded"] == task["degraded"]
    assert again["input"] == task["input"]


@pytest.mark.parametrize("metadata", [{"$degraded": []}, {"$degraded": "x", "b": 1}, [1], "a", 0])
async def test_metadata_come_back_whatever_they_look_like(world: World, metadata: object) -> None:
    await world.register(PAINT)
    task = (await world.anna("POST", "/v1/tasks", asking(metadata=metadata))).json
    assert task["metadata"] == metadata
    assert "degraded" not in task


# ---- classes


async def client_of(world: World, *classes: str) -> Client:
    body = {"name": "c", "classes": list(classes)}
    made = await world.admin("POST", "/v1/keys", body)
    assert made.status == 201, made.body
    return Client(world.app, made.json["key"])


async def priority_of(world: World, client: Client, **fields: Any) -> int | str:
    answer = await client("POST", "/v1/estimate", asking(**fields))
    return answer.json["priority"] if answer.status == 200 else answer.json["code"]


async def test_a_class_is_a_priority_and_a_key_uses_those_it_has(world: World) -> None:
    await world.register(PAINT)
    free, both = await client_of(world, "free"), await client_of(world, "paid", "free")
    assert await priority_of(world, free) == 5
    assert await priority_of(world, free, **{"class": "free"}) == 5
    assert await priority_of(world, free, **{"class": "paid"}) == "forbidden"
    assert await priority_of(world, free, priority=7) == 7
    assert await priority_of(world, free, priority=0) == "forbidden"
    assert await priority_of(world, free, priority=4) == "forbidden"
    assert await priority_of(world, both) == 1
    assert await priority_of(world, both, priority=0) == 0
    assert await priority_of(world, both, **{"class": "free"}) == 5
    assert await priority_of(world, world.anna, **{"class": "free"}) == 5
    assert await priority_of(world, world.anna, **{"class": "gold"}) == "invalid_input"
    assert await priority_of(world, both, priority=3, **{"class": "free"}) == "invalid_input"
    task = (await free("POST", "/v1/tasks", asking())).json
    stored = (await world.service.store.get([task["id"]]))[0]
    assert stored is not None
    assert stored.priority == 5
    batch = {"tasks": [asking(), asking(priority=0)]}
    assert (await free("POST", "/v1/tasks/batch", batch)).status == 422


async def test_operators_name_classes() -> None:
    async with a_world(classes={"gold": 0, "bulk": 9}) as world:
        await world.register(PAINT)
        client = await client_of(world, "bulk")
        assert await priority_of(world, client) == 9
        answer = await world.admin("POST", "/v1/keys", {"name": "c", "classes": ["paid"]})
        assert answer.status == 422
        assert "gold, bulk" in answer.json["detail"]


async def test_queues_say_what_waits_in_each_class(world: World) -> None:
    await world.register(PAINT)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [asking(count=2)] * 3})
    await world.anna("POST", "/v1/tasks", asking(**{"class": "free"}))
    [queue] = (await world.admin("GET", "/v1/queues")).json["queues"]
    assert queue["classes"] == [
        {"name": "paid", "priority": 1, "ready": 3, "ready_samples": 6},
        {"name": "free", "priority": 5, "ready": 1, "ready_samples": 1},
    ]


async def test_a_key_made_in_code_may_have_classes_that_are_gone(world: World) -> None:
    await world.register(UPPER)
    made = await create_key(
        world.service.registry, world.clock, "old", frozenset({Scope.CLIENT}), classes=("gone",)
    )
    client = Client(world.app, made.secret)
    answer = await client("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": "a"}})
    assert answer.status == 202
