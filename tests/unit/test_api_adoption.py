"""Adopting versions over HTTP: who gets which, what moves when, and what rolls back by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, Answer, World, a_world, failed, succeeded

from sqlite_rig import turns
from swell.core.rollouts.rollout_state import Life, is_in_canary, roll_back
from swell.db.registry import Registry
from swell.db.rollouts import change_life
from swell.server.app import create_app
from swell.server.background_jobs import sweep
from swell.server.rollouts.canary_monitor import look_after_canaries

Change = Callable[[Life | None], Life | None]

PATH = "/v1/models/demo/upper"
OLD, NEW = UPPER, UPPER | {"version": "2"}

#: Users whose places lie below and above half.
INSIDE = [f"u{n}" for n in range(60)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def act(world: World, what: str, **body: Any) -> Answer:
    return await world.admin("POST", f"{PATH}/{what}", body)


async def stages(world: World) -> dict[str, str]:
    shown = (await world.admin("GET", f"{PATH}/adoption")).json
    return {each["version"]: each["stage"] for each in shown["versions"]}


async def edition(world: World) -> str:
    return str((await world.admin("GET", f"{PATH}/adoption")).json["edition"])


async def both(world: World) -> tuple[str, str]:
    """Register a worker of each version, the first of them live."""
    old = await world.register(OLD)
    assert (await act(world, "promote", version="1")).status == 200
    return old, await world.register(NEW)


async def split_users(world: World, share: float) -> tuple[list[str], list[str]]:
    """Return users that are in a canary of this share, and users that are not."""
    key = next(
        each["id"]
        for each in (await world.admin("GET", "/v1/keys")).json["keys"]
        if each["name"] == "anna"
    )
    inside = [u for u in INSIDE if is_in_canary("demo/upper", f"{key}\0{u}", share)]
    return inside, [u for u in INSIDE if u not in inside]


async def granted(world: World, worker: str, n: int = 100) -> list[dict[str, Any]]:
    return list((await world.lease(worker, n=n)).get("tasks", []))


async def test_newest_wins_until_a_version_was_promoted(world: World) -> None:
    await world.register(OLD)
    await world.register(NEW)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json
    assert (shown["is_staged"], shown["live"]) == (False, "2")
    assert "promote 2" in shown["notice"]
    assert (await act(world, "promote", version="1")).json["live"] == "1"
    await world.register(NEW)
    assert await stages(world) == {"2": "trial", "1": "live"}
    assert (await world.anna("GET", PATH)).json["version"] == "1"


async def test_a_trial_gets_only_what_names_it(world: World) -> None:
    old, new = await both(world)
    await world.create()
    named = await world.create(model="demo/upper:2")
    assert [each["task_id"] for each in await granted(world, new)] == [named["id"]]
    assert [each["version"] for each in await granted(world, old)] == ["1"]


async def test_without_a_worker_of_the_live_version_nothing_is_accepted(world: World) -> None:
    old, _ = await both(world)
    await world.report(old, goodbye=True)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert (answer.status, "demo/upper:1" in answer.json["detail"]) == (503, True)
    assert "promote" in (await world.admin("GET", f"{PATH}/adoption")).json["notice"]


async def test_users_are_split_and_stay_where_they_are(world: World) -> None:
    old, new = await both(world)
    assert (await act(world, "canary", version="2", share=0.3)).status == 200
    inside, outside = await split_users(world, 0.3)
    assert len(inside) > 8
    assert len(outside) > 20
    for user in INSIDE * 2:
        await world.create(user=user)
    of_canary, of_live = await granted(world, new, 500), await granted(world, old, 500)
    assert {each["version"] for each in of_canary} == {"2"}
    assert {each["version"] for each in of_live} == {"1"}
    assert (len(of_canary), len(of_live)) == (2 * len(inside), 2 * len(outside))
    larger = await act(world, "canary", version="2", share=0.6)
    assert larger.json["canary"]["share"] == 0.6
    assert set(inside) < set((await split_users(world, 0.6))[0])


async def test_a_key_may_stay_together(world: World) -> None:
    _, new = await both(world)
    await act(world, "canary", version="2", share=0.999999, sticky="key")
    for user in INSIDE[:10]:
        await world.create(user=user)
    assert len(await granted(world, new)) == 10


async def test_who_names_a_version_or_sends_what_the_canary_does_not_take_is_not_split(
    world: World,
) -> None:
    old = await world.register(OLD)
    await act(world, "promote", version="1")
    schema = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 3}}}
    new = await world.register(NEW | {"input_schema": schema})
    await act(world, "canary", version="2", share=0.999999)
    await world.create(model="demo/upper:1", user="u1")
    await world.create(user="u1", input={"text": "longer"})
    await world.create(user="u1", input={"text": "ok"})
    assert len(await granted(world, old)) == 2
    assert len(await granted(world, new)) == 1


async def test_whether_a_task_can_run_is_asked_of_the_version_that_gets_it(world: World) -> None:
    old, _ = await both(world)
    await act(world, "canary", version="2", share=0.5)
    inside, outside = await split_users(world, 0.5)
    await world.report(old, goodbye=True)
    asked = {"model": "demo/upper", "input": {"text": "a"}}
    for user, status in ((inside[0], 202), (outside[0], 503)):
        answer = await world.anna("POST", "/v1/tasks", asked | {"user": user})
        assert answer.status == status
    for user, status in ((inside[0], 202), (outside[0], 503)):
        batch = {"tasks": [asked | {"user": user}]}
        assert (await world.anna("POST", "/v1/tasks/batch", batch)).status == status
    told = [(await world.anna("POST", "/v1/estimate", asked | {"user": u})).json for u in INSIDE]
    assert {each["version"] for each in told if each["is_accepted"]} == {"2"}
    assert sum(each["is_accepted"] for each in told) == len(inside)


async def test_what_cannot_run_is_not_repeated(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    named = await world.create(model="demo/upper:2", max_attempts=1)
    split = await world.create(user="u1", max_attempts=1)
    tasks = await granted(world, new)
    await world.report(new, settlements=[failed(each, retryable=True) for each in tasks])
    await act(world, "rollback")
    await act(world, "retire", version="2")

    async def told(task: dict[str, Any]) -> tuple[int, int, Answer]:
        one = await world.anna("POST", f"/v1/tasks/{task['id']}/retry")
        dead = await world.admin("POST", f"/v1/dead/{task['id']}/replay")
        many = await world.admin("POST", "/v1/dead/replay", {"ids": [task["id"]]})
        return one.status, dead.status, many

    one, dead, many = await told(named)
    assert (one, dead) == (404, 404)
    assert "no version '2' that runs" in many.json["replayed"][0]["error"]
    await world.report(old, goodbye=True)
    one, dead, many = await told(split)
    assert (one, dead) == (503, 503)
    assert "no live worker has demo/upper:1" in many.json["replayed"][0]["error"]
    old = await world.register(OLD)
    one, dead, many = await told(split)
    assert (one, dead) == (202, 202)
    assert [each["task_id"] for each in await granted(world, old)] == [
        many.json["replayed"][0]["new_id"]
    ]


async def test_what_cannot_be_read_is_no_canarys_and_told_as_ever(world: World) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.999999)
    key = {"Idempotency-Key": "k"}
    body = b'{"model": "demo/upper", "input": {"text": "a"}}'
    assert (await world.anna("POST", "/v1/tasks", body, headers=key)).status == 202
    broken = b'{"model": "demo/upper", "input": {"text": "\xff"}}'
    for path, sent in (("/v1/tasks", broken), ("/v1/tasks/batch", b'{"tasks": [' + broken + b"]}")):
        again = await world.anna("POST", path, sent, headers=key)
        assert again.json["code"] == "idempotency_mismatch"
    call: Any = SimpleNamespace(checked=0)
    for raw in (b'{"text": "\xff"}', b"{", b"[" * 100_000):
        assert not world.service.cards.takes("demo/upper:2", msgspec.Raw(raw), call)


async def test_a_rollback_sends_what_waits_to_the_live_version(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    task = await world.create(user="u1")
    rolled = await act(world, "rollback", reason="six fingers")
    assert rolled.json["canary"] is None
    assert rolled.json["history"][0]["reason"] == "six fingers"
    assert await granted(world, new) == []
    assert [each["task_id"] for each in await granted(world, old)] == [task["id"]]
    assert await stages(world) == {"2": "trial", "1": "live"}


async def test_a_canary_without_workers_leaves_its_part_to_the_live_version(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    waiting = await world.create(user="u1")
    await world.report(new, goodbye=True)
    later = await world.create(user="u1")
    tasks = [each["task_id"] for each in await granted(world, old)]
    assert sorted(tasks) == sorted([waiting["id"], later["id"]])
    shown = (await world.admin("GET", f"{PATH}/adoption")).json
    assert shown["canary"]["is_served"] is False
    assert "its part goes to 1" in shown["notice"]


async def test_what_waits_for_a_canary_whose_worker_is_lost_goes_to_who_waits_for_work(
    world: World,
) -> None:
    old, _ = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    await look_after_canaries(world.service)
    task = await world.create(user="u1")
    worker = world.service.fleet.workers.get(old)
    assert worker is not None
    waiting = world.worker("POST", "/worker/v1/lease", {"worker_id": old, "n": 1, "wait_s": 20})
    call = asyncio.create_task(waiting)
    while not worker.polls:
        await asyncio.sleep(0)
    world.clock.advance(world.service.settings.lost_s + 1)
    await look_after_canaries(world.service)
    assert (await asyncio.wait_for(call, 5)).json.get("tasks", []) == []
    assert [each["task_id"] for each in await granted(world, old)] == [task["id"]]
    shown = (await world.admin("GET", f"{PATH}/adoption")).json
    assert shown["canary"]["is_served"] is False
    told = {each["version"]: (each["share"], each["workers"]) for each in shown["versions"]}
    assert told == {"2": (0.0, 0), "1": (1.0, 1)}
    assert "its part goes to 1" in shown["notice"]


async def test_places_count_what_the_workers_of_the_same_version_serve(world: World) -> None:
    old, _ = await both(world)
    assert (await act(world, "canary", version="2", share=0.5)).status == 200
    inside, outside = await split_users(world, 0.5)
    for user in [*inside[:9], *outside[:4]]:
        await world.create(user=user)
    await world.create(model="demo/upper:2", user="x")
    await world.create(model="demo/upper:1", user="y")

    async def position(**fields: Any) -> int:
        body = {"model": "demo/upper", "input": {"text": "a"}, **fields}
        return int((await world.anna("POST", "/v1/estimate", body)).json["position"])

    assert await position(user=outside[5]) == 6
    assert await position(user=inside[10]) == 11
    assert await position(model="demo/upper:2") == 11
    # Ids tell the age to the millisecond.
    world.clock.advance(1)
    asked = [
        {"model": "demo/upper", "input": {"text": "a"}, "user": user, "finish_by_s": 600}
        for user in (inside[10], outside[5], outside[6])
    ]
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": asked})
    canarys, *lives = [each["position"] for each in answer.json["tasks"]]
    assert (canarys, sorted(lives)) == (11, [6, 7])
    assert (await act(world, "rollback", version="2")).status == 200
    assert await position(user=outside[7]) == 6 + 2 + 9 + 1
    assert await position(model="demo/upper:2") == 2
    assert len(await granted(world, old)) == 5 + 2 + 10


async def test_a_promoted_canary_is_live_and_rolls_back_to_the_version_before(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.1)
    assert (await act(world, "promote", edition=await edition(world))).json["live"] == "2"
    assert await stages(world) == {"2": "live", "1": "trial"}
    await world.create()
    assert await granted(world, old) == []
    assert len(await granted(world, new)) == 1
    assert (await act(world, "rollback")).json["live"] == "1"


async def test_a_rollback_leaves_only_what_its_caller_saw(world: World) -> None:
    await both(world)
    await act(world, "promote", version="2")
    await world.register(UPPER | {"version": "3"})
    await act(world, "canary", version="3", share=0.1)
    assert (await act(world, "rollback", version="3")).json["live"] == "2"
    # Asked for while 3 was the canary, or told twice: the live version stays.
    for left in ("3", "3", "1"):
        again = await act(world, "rollback", version=left)
        assert (again.status, "would leave 2 now" in again.json["detail"]) == (409, True)
    assert (await act(world, "rollback", version="2")).json["live"] == "1"
    assert (await act(world, "rollback", version="2")).status == 409
    assert (await stages(world))["1"] == "live"


async def test_a_canary_that_is_rolled_back_meanwhile_is_not_promoted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.1)
    looked = await edition(world)
    await _meanwhile(world, monkeypatch)
    late = await act(world, "promote", edition=looked)
    assert (late.status, "2 was rolled back automatically" in late.json["detail"]) == (409, True)
    assert await stages(world) == {"2": "trial", "1": "live"}


@pytest.mark.parametrize("how", ["version", "edition", "both"])
async def test_a_promotion_from_a_stale_page_is_refused_after_an_automatic_rollback(
    world: World, how: str
) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.1)
    saw = await edition(world)
    await _watch_rolls_back(world)
    body = {"version": "2", "edition": saw}
    late = await act(world, "promote", **(body if how == "both" else {how: body[how]}))
    assert (late.status, late.json["code"]) == (409, "conflict")
    assert "2 was rolled back automatically" in late.json["detail"]
    assert await stages(world) == {"2": "trial", "1": "live"}
    # Who has seen that may.
    again = await act(world, "promote", version="2", edition=await edition(world))
    assert again.json["live"] == "2"


async def test_what_people_rolled_back_is_promoted_by_its_name(world: World) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.1)
    await act(world, "rollback", version="2")
    assert (await act(world, "promote", version="2")).json["live"] == "2"


async def test_a_promotion_says_what_it_promotes(world: World) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.1)
    vague = await act(world, "promote")
    assert (vague.status, "name what to make live" in vague.json["detail"]) == (422, True)
    saw = await edition(world)
    await act(world, "rollback", version="2")
    await world.register(UPPER | {"version": "3"})
    await act(world, "canary", version="3", share=0.1)
    late = await act(world, "promote", edition=saw)
    assert (late.status, "1 is live, 3 its canary" in late.json["detail"]) == (409, True)
    assert (await stages(world))["3"] == "canary"


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("canary", {"version": "2", "share": 0.5}),
        ("promote", {"version": "2"}),
        ("rollback", {"version": "2"}),
        ("retire", {"version": "2"}),
    ],
)
async def test_each_step_is_refused_where_the_stages_are_not_those_that_were_seen(
    world: World, what: str, body: dict[str, Any]
) -> None:
    await both(world)
    saw = await edition(world)
    await act(world, "canary", version="2", share=0.1)
    late = await act(world, what, **body, edition=saw)
    assert (late.status, "have changed since edition" in late.json["detail"]) == (409, True)
    if what != "retire":
        assert (await act(world, what, **body, edition=await edition(world))).status == 200


async def test_nothing_goes_back_to_a_version_that_nobody_serves_when_the_canary_goes_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = await both(world)
    await act(world, "promote", version="2")
    await world.register(UPPER | {"version": "3"})
    await act(world, "canary", version="3", share=0.1)
    await world.report(old, goodbye=True)
    await _meanwhile(world, monkeypatch)
    late = await act(world, "rollback")
    assert (late.status, "no live worker has demo/upper:1" in late.json["detail"]) == (409, True)
    assert (await stages(world))["2"] == "live"


async def _meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the watch take the canary just before the next step of an operator is kept."""

    async def late(registry: Registry, model: str, change: Change) -> Life | None:
        monkeypatch.undo()
        await _watch_rolls_back(world)
        return await change_life(registry, model, change)

    monkeypatch.setattr("swell.server.rollouts.rollout_routes.change_life", late)


async def _watch_rolls_back(world: World) -> None:
    now, registry = world.service.clock.now(), world.service.registry
    await change_life(registry, "demo/upper", lambda life: life and roll_back(life, who="", at=now))


async def test_who_waits_for_work_hears_of_new_stages_at_once(world: World) -> None:
    _, new = await both(world)
    worker = world.service.fleet.workers.get(new)
    assert worker is not None
    waiting = world.worker("POST", "/worker/v1/lease", {"worker_id": new, "n": 1, "wait_s": 20})
    call = asyncio.create_task(waiting)
    while not worker.polls:
        await asyncio.sleep(0)
    await act(world, "promote", version="2")
    assert (await asyncio.wait_for(call, 5)).json.get("tasks", []) == []


async def test_retired_versions_get_nothing(world: World) -> None:
    _, new = await both(world)
    assert (await act(world, "retire", version="2")).status == 200
    body = {"model": "demo/upper:2", "input": {"text": "a"}}
    refused = await world.anna("POST", "/v1/tasks", body)
    assert (refused.status, "there are: 1. " in refused.json["detail"]) == (404, True)
    again = await act(world, "retire", version="2")
    assert (again.status, again.json["code"]) == (409, "conflict")
    assert (await act(world, "promote", version="2")).json["live"] == "2"
    await world.create()
    assert len(await granted(world, new)) == 1


@pytest.mark.parametrize(
    ("what", "body", "status", "said"),
    [
        ("canary", {"version": "9", "share": 0.1}, 404, "there are: 2, 1"),
        ("canary", {"version": "1", "share": 0.1}, 409, "live already"),
        ("canary", {"version": "2", "share": 1.5}, 422, "share"),
        ("promote", {"version": "1"}, 409, "live already"),
        ("promote", {}, 422, "name what to make live"),
        ("promote", {"edition": "0" * 12}, 409, "have changed since edition"),
        ("rollback", {}, 409, "no canary"),
        ("rollback", {"version": "2"}, 409, "would leave 1 now, and not 2: 1 is live"),
        ("rollback", {"version": ""}, 422, "version"),
        ("retire", {"version": "1"}, 409, "promote another version first"),
    ],
)
async def test_what_cannot_be_done_says_what_to_do(
    world: World, what: str, body: dict[str, Any], status: int, said: str
) -> None:
    await both(world)
    answer = await act(world, what, **body)
    assert (answer.status, said in answer.json["detail"]) == (status, True), answer.body


async def test_a_version_that_nobody_serves_gets_no_traffic(world: World) -> None:
    _, new = await both(world)
    await world.report(new, goodbye=True)
    for what, body in (("canary", {"version": "2", "share": 0.1}), ("promote", {"version": "2"})):
        answer = await act(world, what, **body)
        assert (answer.status, "swell worker" in answer.json["detail"]) == (409, True)


async def test_only_operators_stage(world: World) -> None:
    await both(world)
    assert (await world.anna("POST", f"{PATH}/promote", {"version": "2"})).status == 403
    assert (await world.anna("GET", f"{PATH}/adoption")).status == 403


async def test_what_operators_did_is_in_the_audit_log(world: World) -> None:
    await both(world)
    await act(world, "canary", version="2", share=0.25)
    entries = (await world.admin("GET", "/v1/audit")).json["entries"]
    told = {(entry["action"], entry["target"], entry["detail"]) for entry in entries}
    assert ("models.canary", "demo/upper:2", "0.25 of the traffic") in told


# ---- what rolls back by itself


async def work(world: World, worker: str, *, fails: int, took_s: float, n: int) -> None:
    """Have a worker end up to n tasks, the first of which fail."""
    tasks = await granted(world, worker, n)
    told = []
    for number, task in enumerate(tasks):
        settlement = failed(task, retryable=True) if number < fails else succeeded(task, "x")
        if number >= fails:
            settlement["outcome"]["timings"] = {"run_s": took_s}
        told.append(settlement)
    await world.report(worker, settlements=told)


async def crowd(world: World, n: int) -> None:
    for at in range(0, n, 100):
        batch = {
            "tasks": [
                {"model": "demo/upper", "input": {"text": "a"}, "user": f"v{at + each}"}
                for each in range(100)
            ]
        }
        assert (await world.anna("POST", "/v1/tasks/batch", batch)).status == 202


@pytest.mark.parametrize(
    ("fails", "took_s", "why"), [(25, 1.0, "fails more often"), (0, 3.0, "takes longer")]
)
async def test_a_worse_canary_is_rolled_back(
    world: World, fails: int, took_s: float, why: str
) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.5)
    for _ in range(3):
        await crowd(world, 100)
        await work(world, old, fails=0, took_s=1.0, n=200)
        await work(world, new, fails=fails, took_s=took_s, n=200)
        await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json
    assert (shown["canary"], shown["live"]) == (None, "1")
    assert why in shown["history"][0]["reason"]
    assert shown["history"][0]["who"] == ""
    entries = (await world.admin("GET", "/v1/audit")).json["entries"]
    assert ("models.rollback", "") in {(each["action"], each["key_name"]) for each in entries}
    numbers = (await world.stranger("GET", "/metrics")).body.decode()
    assert 'swell_canary_rollbacks_total{model="demo/upper"} 1.0' in numbers
    await crowd(world, 100)
    assert await granted(world, new) == []


async def test_a_canary_that_is_no_worse_stays_and_what_was_seen_is_shown(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.5)
    await crowd(world, 100)
    await work(world, old, fails=1, took_s=1.0, n=200)
    await work(world, new, fails=1, took_s=1.0, n=200)
    await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert shown["verdict"] == "fine"
    assert shown["canary"]["failures"] == shown["live"]["failures"] == 1
    assert shown["canary"]["attempts"] + shown["live"]["attempts"] == 100
    assert shown["failures_evidence"] < shown["needed_evidence"] == 2000
    assert (
        'swell_canary_share{model="demo/upper"} 0.5'
        in (await world.stranger("GET", "/metrics")).body.decode()
    )


async def test_without_automatic_rollback_it_is_only_told(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.5, rollback={"automatic": False})
    await crowd(world, 200)
    await work(world, old, fails=0, took_s=1.0, n=300)
    await work(world, new, fails=300, took_s=1.0, n=300)
    await look_after_canaries(world.service)
    assert (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"][
        "verdict"
    ] == "worse"


async def test_what_a_trial_takes_says_nothing_of_the_live_version(world: World) -> None:
    old, new = await both(world)
    for worker, model, took_s in [(old, "demo/upper", 0.5), (new, "demo/upper:2", 5.0)] * 10:
        await world.create(model=model)
        (task,) = await granted(world, worker)
        world.clock.advance(took_s)
        told = succeeded(task, "x")
        told["outcome"]["timings"] = {"run_s": took_s}
        await world.report(worker, settlements=[told])
        await world.report(old)
    soon = {"input": {"text": "a"}, "finish_by_s": 2}
    live = await world.anna("POST", "/v1/tasks", {"model": "demo/upper", **soon})
    trial = await world.anna("POST", "/v1/tasks", {"model": "demo/upper:2", **soon})
    assert (live.status, trial.status) == (202, 503)
    assert (await world.anna("GET", PATH)).json["service_s"]["median"] == 0.5
    shown = (await world.anna("GET", f"{PATH}/versions")).json["models"]
    assert {each["version"]: each["service_s"]["median"] for each in shown} == {"1": 0.5, "2": 5.0}


async def test_what_is_told_again_counts_once(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.5)
    await crowd(world, 100)
    for worker in (old, new):
        told = [succeeded(each, "A") for each in await granted(world, worker)]
        for _ in range(2):
            await world.report(worker, settlements=told)
    await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert shown["canary"]["attempts"] + shown["live"]["attempts"] == 100
    assert world.service.metrics.values["swell_tasks_total"] == {("demo/upper", "succeeded"): 100}


async def test_what_is_told_again_to_another_backend_counts_once(world: World) -> None:
    old, new = await both(world)
    await act(world, "canary", version="2", share=0.5)
    await crowd(world, 100)
    leases = {worker: await granted(world, worker) for worker in (old, new)}
    other = World(world.clock, create_app(world.app.backend), world.keys)
    await other.app.start()
    for worker, held in leases.items():
        told = [succeeded(each, "A") for each in held]
        # The answer to the first gets lost.
        for each in (world, other, world):
            await each.report(worker, settlements=told)
    for each in (world, other):
        await look_after_canaries(each.service)
    await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert shown["canary"]["attempts"] + shown["live"]["attempts"] == 100
    assert world.service.metrics.values["swell_tasks_total"] == {("demo/upper", "succeeded"): 100}
    assert other.service.metrics.values["swell_tasks_total"] == {}
    await other.app.stop()


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("rejected", False), ("invalid_input", False), ("input_unavailable", True)],
)
async def test_faults_of_inputs_and_later_tries_tell_nothing(
    world: World, code: str, retryable: bool
) -> None:
    _, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    for _ in range(2):
        await world.create(user="u1")
    first, second = await granted(world, new)
    await world.report(new, settlements=[failed(first, retryable=retryable, code=code)])
    await world.report(new, settlements=[failed(second, retryable=True)])
    world.clock.advance(60)
    # A duty weighs what was seen.
    await turns(20)
    await world.register(NEW)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert (shown["canary"]["attempts"], shown["canary"]["failures"]) == (1, 1)
    assert shown["live"]["attempts"] == 0


async def test_what_was_seen_of_an_earlier_canary_says_nothing_of_the_next(world: World) -> None:
    _, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    await world.create(user="u1")
    (task,) = await granted(world, new)
    await world.report(new, settlements=[failed(task, retryable=True)])
    await act(world, "rollback")
    await act(world, "canary", version="2", share=0.999999)
    await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert (shown["verdict"], shown["canary"]["attempts"]) == ("early", 0)


async def test_a_lost_worker_counts_against_its_version(world: World) -> None:
    _, new = await both(world)
    await act(world, "canary", version="2", share=0.999999)
    await world.create(user="u1")
    assert len(await granted(world, new)) == 1
    world.clock.advance(120)
    await sweep(world.service)
    await look_after_canaries(world.service)
    shown = (await world.admin("GET", f"{PATH}/adoption")).json["canary"]["evidence"]
    assert (shown["canary"]["attempts"], shown["canary"]["failures"]) == (1, 1)
    assert shown["live"]["attempts"] == 0
