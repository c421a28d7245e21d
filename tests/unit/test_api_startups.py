"""Reports of cold starts: stored, counted, charged and shown to operators."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_harness import UPPER, World, a_world, succeeded

from manual_clock import ManualClock
from swell.core.billing.ledger import LedgerEntry
from swell.core.errors import Internal
from swell.core.records import KeptStartup
from swell.core.startup_phases import STARTUPS_KEPT
from swell.core.task import TaskState
from swell.server.workers import startup_limits
from swell.server.workers.startups import end_startups, expire_startups

MODEL = "demo/upper"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(hour_micros={"priced": 3_600_000}) as made:
        yield made


def told(startup_id: str = "s1", **fields: Any) -> dict[str, Any]:
    return {"id": startup_id, "age_s": 0.0, "pool": "default", **fields}


def span(phase: str, start_s: float, end_s: float | None, **more: Any) -> dict[str, Any]:
    return {"phase": phase, "start_s": start_s, "end_s": end_s, **more}


def cold(boot_s: float = 10.0, load_s: float = 30.0) -> dict[str, Any]:
    """Return a cold start that is ready after a boot, 5 s of imports and a load."""
    at_s = boot_s + 5.0
    return told(
        state="ready",
        age_s=at_s + load_s,
        ready_s=at_s + load_s,
        models=[MODEL],
        spans=[
            span("boot", 0.0, boot_s),
            span("pull", boot_s / 2, boot_s),
            span("import", boot_s, at_s),
            span("load", at_s, at_s + load_s, model=MODEL, **{"from": "host"}),
        ],
    )


async def starting(world: World, **fields: Any) -> Any:
    answer = await world.worker("POST", "/worker/v1/starting", told(**fields))
    assert answer.status == 200, answer.body
    return answer.json


async def register(world: World, startup: dict[str, Any] | None, **fields: Any) -> str:
    body = {"name": "w", "models": [UPPER], "slots": 4, "startup": startup, **fields}
    answer = await world.worker("POST", "/worker/v1/register", body)
    assert answer.status == 200, answer.body
    return str(answer.json["worker_id"])


async def pool(world: World, name: str = "default") -> Any:
    pools = (await world.admin("GET", "/v1/pools")).json["pools"]
    return next(each for each in pools if each["pool"] == name)


async def times(world: World, name: str = "default", kind: str = "cold") -> dict[str, Any]:
    return {
        each["phase"]: each for each in (await pool(world, name))["times"] if each["kind"] == kind
    }


async def ledger(world: World) -> Any:
    return (await world.admin("GET", "/v1/ledger")).json["entries"]


async def metrics(world: World) -> dict[str, float]:
    text = (await world.stranger("GET", "/metrics")).body.decode()
    lines = [line for line in text.splitlines() if "start" in line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_a_worker_that_starts_is_told_how_often_to_tell(world: World) -> None:
    assert await starting(world) == {"tell_every_s": world.service.settings.delivery.heartbeat_s}
    assert (await pool(world))["starting"] == 1
    assert (await metrics(world))['swell_workers_starting{pool="default"}'] == 1.0
    [listed] = (await world.admin("GET", "/v1/workers")).json["starting"]
    assert listed["state"] == "starting"


async def test_the_phases_of_a_worker_are_shown_with_it(world: World) -> None:
    await starting(world)
    worker = await register(world, cold())
    found = (await world.admin("GET", "/v1/workers")).json
    assert found["starting"] == []
    [shown] = found["workers"]
    assert shown["id"] == worker
    startup = shown["startup"]
    assert (startup["state"], startup["ready_s"]) == ("ready", 45.0)
    assert [(s["phase"], s["start_s"], s["end_s"], s["from"]) for s in startup["spans"]] == [
        ("boot", 0.0, 10.0, ""),
        ("pull", 5.0, 10.0, ""),
        ("import", 10.0, 15.0, ""),
        ("load", 15.0, 45.0, "host"),
    ]


async def test_a_worker_without_a_startup_works(world: World) -> None:
    await register(world, None)
    [shown] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert shown["startup"] is None
    assert (await pool(world))["times"] == []
    assert await ledger(world) == []


async def test_unknown_fields_and_phases_of_a_newer_worker_are_ignored(world: World) -> None:
    startup = cold() | {"mood": "good"}
    startup["spans"].append(span("teleport", 1.0, 2.0))
    await register(world, startup)
    assert "teleport" not in await times(world)
    assert "load" in await times(world)


async def test_quantiles_count_what_has_ended_and_what_goes_on(world: World) -> None:
    for n, load_s in enumerate([10.0, 20.0, 30.0, 40.0]):
        await register(world, cold(load_s=load_s) | {"id": f"s{n}"})
    found = await times(world)
    assert (found["load"]["p50_s"], found["load"]["p90_s"]) == (20.0, 40.0)
    assert (found["ready"]["p50_s"], found["ready"]["observed"]) == (35.0, 4)
    for n in range(4):
        await starting(world, startup_id=f"late{n}", models=[MODEL], spans=[span("boot", 0.0, 0.0)])
    world.clock.advance(20.0)
    await expire_startups(world.service)
    found = await times(world)
    assert found["ready"]["not_over"] == 4
    assert found["ready"]["p50_s"] == 35.0
    world.clock.advance(5.0)
    for n in range(4):
        await starting(
            world,
            startup_id=f"late{n}",
            age_s=200.0,
            models=[MODEL],
            spans=[span("boot", 0.0, 10.0), span("load", 20.0, None, model=MODEL)],
        )
    found = await times(world)
    assert found["ready"]["p90_s"] == 200.0
    assert "p90" in found["ready"]["at_least"]
    assert found["load"]["p99_s"] == 180.0


async def test_one_that_dies_while_it_loads_never_counts_as_a_short_success(world: World) -> None:
    await register(world, cold())
    await starting(
        world,
        startup_id="dead",
        state="died",
        age_s=17.0,
        models=[MODEL],
        spans=[span("import", 0.0, 2.0), span("load", 2.0, None, model=MODEL)],
    )
    found = await times(world)
    assert (found["load"]["observed"], found["load"]["not_over"]) == (1, 1)
    assert found["load"]["p50_s"] == 30.0
    assert found["import"]["observed"] == 2
    numbers = await metrics(world)
    assert numbers['swell_cold_starts_total{outcome="died",pool="default"}'] == 1.0
    key = f'swell_cold_start_seconds_count{{model="{MODEL}",phase="load",pool="default"}}'
    assert numbers[key] == 1.0
    dead = next(each for each in await ledger(world) if each["ref"] == "dead")
    assert (dead["outcome"], dead["seconds"], dead["kind"]) == ("died", 17.0, "cold_start")


async def test_one_that_falls_silent_is_taken_for_dead_as_far_as_it_came(world: World) -> None:
    await starting(world, age_s=4.0, models=[MODEL])
    world.clock.advance(world.service.settings.lost_s - 1)
    assert await expire_startups(world.service) == 0
    world.clock.advance(2)
    assert await expire_startups(world.service) == 1
    assert await expire_startups(world.service) == 0
    found = await times(world)
    assert (found["ready"]["observed"], found["ready"]["not_over"]) == (0, 1)
    assert (found["ready"]["p50_s"], found["ready"]["at_least"]) == (4.0, ["p50", "p90", "p99"])
    assert (await pool(world))["starting"] == 0


async def test_one_whose_instance_is_known_to_have_ended_has_died(world: World) -> None:
    await starting(world, age_s=4.0, models=[MODEL], instance="i-7")
    await starting(world, startup_id="other", age_s=4.0, models=[MODEL], instance="i-8")
    world.clock.advance(2)
    await end_startups(world.service, ["i-7", "i-9"])
    [dead] = await ledger(world)
    assert (dead["outcome"], dead["seconds"]) == ("died", 6.0)
    assert (await pool(world))["starting"] == 1


async def test_one_that_was_taken_for_dead_and_is_ready_pays_the_rest(world: World) -> None:
    await starting(world, age_s=4.0, models=[MODEL])
    world.clock.advance(world.service.settings.lost_s + 1)
    await expire_startups(world.service)
    await register(world, cold())
    assert [each["seconds"] for each in await ledger(world)] == [41.0, 4.0]
    assert (await times(world))["ready"]["observed"] == 1


async def test_a_cold_start_is_charged_once_and_with_the_price_of_its_pool(world: World) -> None:
    startup = cold() | {"pool": "ignored"}
    for _ in range(2):
        # Again, as after a backend's restart.
        await register(world, startup, pool="priced")
    await register(world, cold() | {"id": "s2"})
    free, paid = await ledger(world)
    assert (paid["pool"], paid["seconds"], paid["cost_micros"]) == ("priced", 45.0, 45_000)
    assert (free["pool"], free["seconds"], free["cost_micros"]) == ("default", 45.0, None)
    key = 'swell_cold_starts_total{outcome="ready",pool="priced"}'
    assert (await metrics(world))[key] == 1.0


async def test_a_worker_whose_startup_cannot_be_is_registered_without_it(world: World) -> None:
    worker = await register(world, cold() | {"age_s": -3.0})
    [shown] = (await world.admin("GET", "/v1/workers")).json["workers"]
    assert (shown["id"], shown["startup"]) == (worker, None)


async def test_the_first_outcome_ends_a_cold_start(world: World) -> None:
    worker = await register(world, cold())
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    done = cold() | {"state": "done", "age_s": 100.0, "whole_s": 47.5}
    done["spans"].append(span("first_task", 90.0, 92.5))
    await world.report(worker, settlements=[succeeded(lease)], startups=[done])
    await world.report(worker, startups=[done])
    found = await times(world)
    assert (found["first_task"]["p50_s"], found["whole"]["p50_s"]) == (2.5, 47.5)
    numbers = await metrics(world)
    key = f'swell_cold_start_seconds_count{{model="{MODEL}",phase="whole",pool="default"}}'
    assert numbers[key] == 1.0
    kinds = [each["kind"] for each in await ledger(world)]
    assert sorted(kinds) == ["attempt", "cold_start"]


async def test_switches_and_restarts_are_kept_apart(world: World) -> None:
    worker = await register(world, cold())
    switch = told(
        "switch",
        kind="switch",
        state="done",
        age_s=3.0,
        models=[MODEL],
        spans=[span("load", 0.0, 3.0, model=MODEL, **{"from": "host"})],
    )
    await world.report(worker, startups=[switch])
    assert (await times(world))["load"]["p50_s"] == 30.0
    found = await times(world, kind="switch")
    assert found["load"]["p50_s"] == 3.0
    assert "ready" not in found
    wasted, cold_start = await ledger(world)
    assert (cold_start["kind"], cold_start["seconds"]) == ("cold_start", 45.0)
    assert (wasted["kind"], wasted["outcome"], wasted["models"]) == ("wasted", "switch", [MODEL])


async def test_a_worker_reports_only_its_own_startups(world: World) -> None:
    worker = await register(world, cold())
    foreign = told("f", kind="switch", state="done", pool="other", models=["a/b"], age_s=1.0)
    await world.report(worker, startups=[foreign])
    [kept] = [s for s in await world.service.registry.startups() if s.id == "f"]
    assert (kept.pool, kept.models, kept.worker_id) == ("default", [MODEL], worker)


async def test_what_cannot_be_is_left_out_or_refused(world: World) -> None:
    worker = await register(world, None)
    await world.report(worker, startups=[told(""), told("x", age_s=-1.0, kind="restart")])
    assert await world.service.registry.startups() == []
    for wrong in (
        {"age_s": -1.0},
        {"id": ""},
        {"id": "a\nb"},
        {"age_s": 1e300},
        {"pool": "a\0"},
        {"models": ["x" * 201]},
    ):
        answer = await world.worker("POST", "/worker/v1/starting", told() | wrong)
        assert answer.status == 422, answer.body
    odd = [
        span("boot", -5.0, 1.0),
        span("load", 3.0, 2.0, model=MODEL),
        span("warm", 0.0, 99.0, model=MODEL),
    ]
    await starting(world, age_s=4.0, models=[MODEL], spans=odd)
    assert set(await times(world)) == {"ready"}


async def test_a_key_of_a_pool_cannot_report_for_another(world: World) -> None:
    made = await world.admin(
        "POST", "/v1/keys", {"name": "k", "scopes": ["worker"], "pools": ["spot"]}
    )
    world.worker.key = made.json["key"]
    answer = await world.worker("POST", "/worker/v1/starting", told())
    assert answer.status == 403
    assert await starting(world, pool="spot")


async def test_only_workers_report_and_only_operators_read(world: World) -> None:
    assert (await world.anna("POST", "/worker/v1/starting", told())).status == 403
    assert (await world.stranger("POST", "/worker/v1/starting", told())).status == 401
    for path in ("/v1/pools", "/v1/ledger"):
        assert (await world.anna("GET", path)).status == 403
        assert (await world.worker("GET", path)).status == 403


async def test_a_worker_is_ready_only_once_it_has_registered(world: World) -> None:
    await starting(world, state="done", ready_s=1.0, age_s=2.0, models=[MODEL])
    assert (await pool(world))["starting"] == 1
    assert (await times(world))["ready"]["observed"] == 0


async def test_the_ledger_comes_in_pages(world: World) -> None:
    for n in range(3):
        await register(world, cold() | {"id": f"s{n}"})
    first = (await world.admin("GET", "/v1/ledger?limit=2")).json
    assert [each["ref"] for each in first["entries"]] == ["s2", "s1"]
    rest = (await world.admin("GET", f"/v1/ledger?limit=2&cursor={first['cursor']}")).json
    assert ([each["ref"] for each in rest["entries"]], rest["cursor"]) == (["s0"], None)
    assert (await world.anna("GET", "/v1/ledger")).status == 403


async def cold_starts(world: World) -> dict[str, float]:
    """Return the metrics of cold starts."""
    found = await metrics(world)
    return {name: n for name, n in found.items() if name.startswith("swell_cold_start")}


async def charges(world: World) -> list[LedgerEntry]:
    return (await world.service.registry.ledger(limit=999)).entries


async def test_a_worker_that_was_forgotten_is_not_counted_again(world: World) -> None:
    first = cold() | {"id": "first", "age_s": 100_000.0}
    await register(world, first)
    for n in range(STARTUPS_KEPT):
        await register(world, cold() | {"id": f"n{n}"})
    assert "first" not in {each.id for each in await world.service.registry.startups()}
    counted, charged = await cold_starts(world), await charges(world)
    done = first | {"state": "done", "whole_s": 50.0, "spans": [span("first_task", 45.0, 50.0)]}
    for again in (first, done):
        await register(world, again)
        world.clock.advance(1.0)
    assert (await cold_starts(world), await charges(world)) == (counted, charged)


async def test_many_workers_may_start_at_once(world: World) -> None:
    for n in range(STARTUPS_KEPT + 50):
        await starting(world, startup_id=f"s{n:04}", age_s=1000.0 - n)
    assert (await pool(world))["starting"] == STARTUPS_KEPT + 50


class Broken:
    """Fails like a registry without its database."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, *_: object) -> None:
        raise self.error


@pytest.mark.slow
@pytest.mark.parametrize("error", [Internal("the database failed: row too large"), OSError("no")])
async def test_what_cannot_be_accounted_for_stops_no_registration_and_no_report(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world.service.registry, "put_startup", Broken(error))
        worker = await register(world, cold())
        assert len((await world.admin("GET", "/v1/workers")).json["workers"]) == 1
        task = await world.create()
        [lease] = (await world.lease(worker))["tasks"]
        done = cold() | {"state": "done", "age_s": 100.0, "whole_s": 47.5}
        await world.report(worker, settlements=[succeeded(lease)], startups=[done])
        await end_startups(world.service, ["i-7"])
    [stored] = await world.service.store.get([task["id"]])
    assert stored is not None
    assert stored.state is TaskState.SUCCEEDED
    assert world.service.metrics.values["swell_duty_failures_total"]["startups"] == 2
    # The next report makes up for it.
    await world.report(worker, startups=[done])
    entries = await ledger(world)
    assert [e["seconds"] for e in entries if e["kind"] == "cold_start"] == [45.0]
    key = 'swell_cold_starts_total{outcome="ready",pool="default"}'
    assert (await metrics(world))[key] == 1.0


async def test_outcomes_are_written_before_startups(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await register(world, cold())
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    states: list[TaskState] = []
    keep = world.service.registry.put_startup

    async def looking(*given: Any) -> KeptStartup:
        [stored] = await world.service.store.get([task["id"]])
        assert stored is not None
        states.append(stored.state)
        return await keep(*given)

    monkeypatch.setattr(world.service.registry, "put_startup", looking)
    await world.report(worker, settlements=[succeeded(lease)], startups=[cold()])
    assert states == [TaskState.SUCCEEDED]


async def test_cold_starts_are_counted_from_zero(world: World) -> None:
    numbers = await metrics(world)
    assert numbers['swell_cold_starts_total{outcome="died",pool="priced"}'] == 0.0
    await starting(world, pool="spot")
    await register(world, None)
    numbers = await metrics(world)
    for name in ("spot", "default"):
        for outcome in ("ready", "died"):
            key = f'swell_cold_starts_total{{outcome="{outcome}",pool="{name}"}}'
            assert numbers[key] == 0.0


@pytest.mark.parametrize("name", ["no-slash", "a/b/c", "/x", "x/", "a/b c", "a/" + "x" * 101])
async def test_an_invalid_name_of_a_model_is_refused(world: World, name: str) -> None:
    answer = await world.worker("POST", "/worker/v1/starting", told(models=[MODEL, name]))
    assert answer.status == 422
    assert "owner/name" in answer.json["detail"]


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("pools", [{"pool": "one"}, {"pool": "two"}]),
        ("sets of models", [{}, {"models": [MODEL]}]),
    ],
)
async def test_new_pools_and_sets_of_models_are_limited(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str, fields: list[dict[str, Any]]
) -> None:
    monkeypatch.setitem(startup_limits.LIMITS, what, 1)
    first, second = (told() | each for each in fields)
    path = "/worker/v1/starting"
    for _ in range(2):
        assert (await world.worker("POST", path, first)).status == 200
    refused = await world.worker("POST", path, second)
    assert (refused.status, refused.json["code"]) == (429, "too_many_requests")
    world.clock.advance(3600.0)
    assert (await world.worker("POST", path, second)).status == 200


async def test_what_takes_long_to_work_out_is_worked_out_seldom() -> None:
    clock, made = ManualClock(), 0
    known = startup_limits.Starts(clock)

    async def make() -> bytes:
        nonlocal made
        made += 1
        clock.advance(0.5)
        return b"%d" % made

    assert await known.answer(make) == b"1"
    clock.advance(4.9)
    assert await known.answer(make) == b"1"
    clock.advance(0.1)
    both = await asyncio.gather(known.answer(make), known.answer(make))
    assert both == [b"2", b"2"]
