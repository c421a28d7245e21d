"""What backends and the autoscaler tell each other, and what operators and clients see of it."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, World, a_world, succeeded

from swell.autoscaler.arrivals import arrived
from swell.core.arrival_rates import PREFIX
from swell.core.records import ModelCard
from swell.protocol.autoscaler_messages import (
    DECISIONS,
    STATUS,
    WORKLOAD,
    Decision,
    ModelScaling,
    PoolScaling,
    ScalingStatus,
    Workload,
)
from swell.server.admin.autoscaler_status import Scaling


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def a_pool(**fields: Any) -> PoolScaling:
    numbers = ("desired", "ready", "busy", "booting", "draining", "least", "most")
    values: dict[str, Any] = dict.fromkeys(PoolScaling.__struct_fields__) | {
        **dict.fromkeys((*numbers, "closed_s", "start_p50_s", "start_p95_s"), 0),
        "is_spot": False,
        "launch_micros": 0,
        "least_billed_s": 0.0,
        "counts": {},
        "ends": {},
        "reasons": [],
    }
    return PoolScaling(**(values | fields))


def an_outlook(**fields: Any) -> ModelScaling:
    values: dict[str, Any] = {
        "model": "demo/upper",
        "admitted": 1.0,
        "wait_s": 0.0,
        "speedup": 1.0,
    }
    return ModelScaling(**(values | fields))


async def tell(world: World, **fields: Any) -> None:
    """Tell a status as an autoscaler does, and have the backend hear it."""
    values: dict[str, Any] = {
        "leader": "one",
        "pools": [a_pool(pool="gpu", provider="aws", models=["demo/upper"], most=4)],
        "models": [an_outlook(ready_in_s=120.0, ready_by_s=300.0)],
    }
    status = ScalingStatus(at=world.clock.now(), **(values | fields))
    await world.service.registry.put_note(STATUS, msgspec.json.encode(status))
    await world.service.scaling.listen()


async def describe(world: World) -> None:
    card = msgspec.convert(UPPER, ModelCard)
    await world.service.registry.put_models([card])
    await world.service.cards.refresh()


async def test_what_is_accepted_is_counted_by_samples_and_told(world: World) -> None:
    await world.register()
    await world.create(count=3)
    await world.create()
    repeat = {"Idempotency-Key": "same"}
    body = {"model": "demo/upper", "input": {"text": "a"}}
    for _ in range(2):
        await world.anna("POST", "/v1/tasks", body, headers=repeat)
    world.clock.advance(world.service.scaling.next_bin_s())
    await world.service.scaling.tell_arrivals()
    world.clock.advance(2)
    notes = await world.service.registry.notes(PREFIX)
    assert len(notes) == 1
    assert arrived(notes.values(), world.clock.now())["demo/upper"].tens[-1] == 5


async def test_a_batch_counts_as_many_as_it_has(world: World) -> None:
    await world.register()
    task = {"model": "demo/upper", "input": {"text": "a"}, "count": 2}
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [task, task]})
    assert world.service.scaling.arrivals.fresh == {"demo/upper": 4}


async def test_nothing_is_written_while_nothing_arrives(world: World) -> None:
    world.clock.advance(30)
    await world.service.scaling.tell_arrivals()
    assert await world.service.registry.notes(PREFIX) == {}


async def test_what_has_arrived_is_told_when_the_service_ends() -> None:
    async with a_world() as world:
        await world.register()
        await world.create()
        registry, now = world.service.registry, world.clock.now()
    notes = await registry.notes(PREFIX)
    found = arrived(notes.values(), now + timedelta(seconds=12))
    assert sum(found["demo/upper"].tens) == 1


async def test_workers_are_told_of_with_what_they_hold_and_how_fast_they_are(
    world: World,
) -> None:
    worker_id = await world.register(slots=1)
    for _ in range(3):
        await world.create(count=2)
        [task] = (await world.lease(worker_id, 1))["tasks"]
        world.clock.advance(4)
        timings = {"queue_s": 0, "load_s": 0, "run_s": 4, "encode_s": 0, "upload_s": 0}
        await world.report(worker_id, settlements=[succeeded(task, "A", timings=timings)])
    await world.create()
    await world.lease(worker_id, 1)
    await world.service.scaling.tell_workload(world.service.fleet, world.service.times)
    note = await world.service.registry.note(WORKLOAD)
    work = msgspec.json.decode(note or b"", type=Workload)
    assert work.held == {worker_id: 1}
    assert work.counts == {"demo/upper": 2.0}
    assert work.rates["default"]["demo/upper"] == pytest.approx(0.5, rel=0.2)


async def test_rates_of_workers_that_have_gone_are_still_told(world: World) -> None:
    before = Workload(at=world.clock.now(), rates={"gpu": {"demo/upper": 3.0}})
    await world.service.registry.put_note(WORKLOAD, msgspec.json.encode(before))
    await world.service.scaling.tell_workload(world.service.fleet, world.service.times)
    note = await world.service.registry.note(WORKLOAD)
    assert msgspec.json.decode(note or b"", type=Workload).rates == {"gpu": {"demo/upper": 3.0}}


async def test_a_task_of_a_sleeping_model_is_accepted_and_told_when_a_worker_is_there(
    world: World,
) -> None:
    worker_id = await world.register(slots=1)
    await world.create()
    [task] = (await world.lease(worker_id, 1))["tasks"]
    world.clock.advance(2)
    timings = {"queue_s": 0, "load_s": 0, "run_s": 2, "encode_s": 0, "upload_s": 0}
    await world.report(worker_id, settlements=[succeeded(task, "A", timings=timings)], goodbye=True)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    refused = await world.anna("POST", "/v1/tasks", body)
    assert refused.status == 503
    await tell(world)
    told = await world.create()
    assert told["eta_s"]["median"] == pytest.approx(122, abs=1)
    assert told["eta_s"]["high"] >= 300
    assert told["eta_s"]["low"] < 70
    world.clock.advance(30)
    again = (await world.anna("GET", f"/v1/tasks/{told['id']}")).json
    assert again["eta_s"]["median"] == pytest.approx(92, abs=1)


async def test_a_deadline_that_a_cold_start_breaks_is_refused(world: World) -> None:
    worker_id = await world.register(slots=1)
    await world.create()
    [task] = (await world.lease(worker_id, 1))["tasks"]
    timings = {"queue_s": 0, "load_s": 0, "run_s": 2, "encode_s": 0, "upload_s": 0}
    await world.report(worker_id, settlements=[succeeded(task, "A", timings=timings)], goodbye=True)
    await tell(world)
    body = {"model": "demo/upper", "input": {"text": "a"}, "start_by_s": 60}
    refused = await world.anna("POST", "/v1/tasks", body)
    assert refused.status == 503
    assert refused.json["code"] == "would_expire"
    assert (await world.anna("POST", "/v1/tasks", body | {"start_by_s": 200})).status == 202


async def test_what_the_autoscaler_told_a_moment_ago_counts_before_a_task_is_refused(
    world: World,
) -> None:
    await describe(world)
    await tell(world, models=[])
    told = [an_outlook(ready_in_s=5.0)]
    status = ScalingStatus(at=world.clock.now(), leader="one", models=told)
    await world.service.registry.put_note(STATUS, msgspec.json.encode(status))
    world.clock.advance(0.3)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    assert (await world.anna("POST", "/v1/tasks", body)).status == 202


async def test_an_autoscaler_that_is_silent_launches_nothing(world: World) -> None:
    await describe(world)
    await tell(world)
    world.clock.advance(61)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    assert (await world.anna("POST", "/v1/tasks", body)).status == 503


async def test_a_model_that_no_pool_can_launch_is_refused(world: World) -> None:
    await describe(world)
    await tell(world, models=[an_outlook(ready_in_s=None)])
    body = {"model": "demo/upper", "input": {"text": "a"}}
    assert (await world.anna("POST", "/v1/tasks", body)).status == 503


async def test_of_a_staged_model_a_pool_must_launch_the_version_that_is_asked_for() -> None:
    body = {"model": "demo/upper", "input": {"text": "a"}}
    async with a_world(launchable=("demo/upper",)) as world:
        worker = await world.register({**UPPER, "version": "1"})
        await world.admin("POST", "/v1/models/demo/upper/promote", {"version": "1"})
        await world.report(worker, goodbye=True)
        # Nobody has told yet what pools bring.
        assert (await world.anna("POST", "/v1/tasks", body)).status == 202
        await tell(world, models=[an_outlook(model="demo/upper:2", ready_in_s=5.0)])
        refused = await world.anna("POST", "/v1/tasks", body)
        assert (refused.status, refused.json["code"]) == (503, "no_worker")
        assert "swell models rollout demo/upper:VERSION --promote" in refused.json["detail"]
        await tell(world)
        assert (await world.anna("POST", "/v1/tasks", body)).status == 202


async def test_pools_show_how_they_are_scaled_and_what_was_decided_last(world: World) -> None:
    pool = a_pool(
        pool="gpu",
        provider="aws",
        models=["demo/upper"],
        desired=3,
        ready=1,
        booting=2,
        most=4,
        hour_micros=805_000,
        price_source="aws/g6.xlarge: a list",
        price_read_on=date(2026, 11, 24),
        counts={"launch": 3},
        reasons=["3 wanted"],
    )
    await tell(world, pools=[pool])
    decisions = [
        Decision(at=world.clock.now(), about="gpu", what="launch", n=n, why=[f"{n} wanted"])
        for n in (1, 2)
    ]
    await world.service.registry.put_note(DECISIONS, msgspec.json.encode(decisions))
    [shown] = (await world.admin("GET", "/v1/pools")).json["pools"]
    scaling = shown["scaling"]
    assert (scaling["desired"], scaling["ready"], scaling["booting"]) == (3, 1, 2)
    assert scaling["decision"]["why"] == ["2 wanted"]
    assert scaling["hour_micros"] == 805_000
    assert scaling["price_source"] == "aws/g6.xlarge: a list"
    assert scaling["price_read_on"] == "2026-11-24"
    history = (await world.admin("GET", "/v1/scaling?limit=1")).json
    assert [each["n"] for each in history["decisions"]] == [2]
    assert history["leader"] == "one"
    text = (await world.stranger("GET", "/metrics")).body.decode()
    assert 'swell_pool_desired{pool="gpu"} 3.0' in text
    assert 'swell_pool_changes_total{pool="gpu",what="launch"} 3.0' in text
    assert 'swell_pool_changes_total{pool="gpu",what="lost"} 0.0' in text
    assert "swell_autoscaler_age_seconds 0.0" in text


async def test_without_an_autoscaler_nothing_is_told_of_one(world: World) -> None:
    assert (await world.admin("GET", "/v1/scaling")).json == {
        "at": None,
        "leader": None,
        "age_s": None,
        "spent_micros": None,
        "models": [],
        "decisions": [],
    }
    text = (await world.stranger("GET", "/metrics")).body.decode()
    assert "\nswell_autoscaler_age_seconds " not in text
    for path in ("/v1/scaling", "/v1/pools"):
        assert (await world.anna("GET", path)).status == 403


async def test_a_worker_tells_which_instance_it_is(world: World) -> None:
    body = {"name": "w", "models": [UPPER], "instance": "swell-gpu-0123-0"}
    assert (await world.worker("POST", "/worker/v1/register", body)).status == 200
    [worker] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert worker["instance"] == "swell-gpu-0123-0"
    odd = body | {"instance": "a\nb"}
    assert (await world.worker("POST", "/worker/v1/register", odd)).status == 422


async def test_what_backends_have_told_that_are_gone_is_dropped_without_an_autoscaler(
    world: World,
) -> None:
    for number in range(20):
        gone = Scaling(world.service.registry, world.clock, f"gone-{number}")
        gone.arrivals.fresh["demo/upper"] = 1
        world.clock.advance(10)
        await gone.tell_arrivals()
    assert len(await world.service.registry.notes(PREFIX)) == 20
    world.clock.advance(3600)
    await world.service.scaling.tell_arrivals()
    assert len(await world.service.registry.notes(PREFIX)) == 20, "clocks may differ"
    world.clock.advance(3 * 3600)
    await world.register()
    await world.create()
    await world.service.scaling.tell_arrivals()
    world.clock.advance(10)
    [only] = await world.service.registry.notes(PREFIX)
    assert not only.startswith(f"{PREFIX}gone")
