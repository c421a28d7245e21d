"""Quotas and credits: acceptance, headers, refusals, and returned amounts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api_harness import UPPER, Answer, World, a_world, failed, succeeded

from swell.core.billing.money_format import dollars
from swell.core.errors import Unavailable
from swell.core.pipeline_stages import Pipeline, Stage
from swell.core.quota import Account, Use, place_of, resets_at
from swell.core.store_types import Accepted
from swell.core.task import NewTask
from swell.db.task_store import Store
from swell.sdk.pipeline_cards import Declared

HOUR_MICROS = 3_600_000
_KEYED = {"idempotency-key": "k"}

PACK: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "x-ui": {"pack": True}}
SCENES = {
    "name": "demo/scenes",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "scenes": {**PACK, "minItems": 1, "maxItems": 9, "default": ["sea", "sky"]},
            "sizes": {**PACK, "minItems": 1, "maxItems": 4, "default": ["small"]},
        },
    },
}
WORDS = {"name": "demo/words", "version": "1", "input_schema": {"type": "object"}}
SERIES = Declared(
    name="demo/series",
    description="# Series\n\nOne picture for each word.",
    pipeline=Pipeline(
        stages=(
            Stage(name="words", queue="demo/words"),
            Stage(name="draw", queue="demo/scenes", take={"scenes": "input.scenes"}, counts=True),
        )
    ),
    input_schema={
        "type": "object",
        "properties": {"scenes": {"type": "array", "items": {"type": "string"}}},
    },
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(
        hour_micros={"default": HOUR_MICROS}, pipelines=(SERIES,), lease_s=120.0
    ) as world:
        yield world


async def key_of(world: World) -> str:
    keys = (await world.admin("GET", "/v1/keys")).json["keys"]
    return str(next(each["id"] for each in keys if each["name"] == "anna"))


async def limit(world: World, **fields: Any) -> str:
    key_id = await key_of(world)
    answer = await world.admin("PUT", "/v1/quotas", {"key_id": key_id, **fields})
    assert answer.status == 200, answer.body
    return key_id


async def grant(world: World, micros: int, **fields: Any) -> Answer:
    body = {"key_id": await key_of(world), "micros": micros, **fields}
    return await world.admin("POST", "/v1/credits", body)


async def submit(world: World, **fields: Any) -> Answer:
    body = {"model": "demo/upper", "input": {"text": "a"}, **fields}
    return await world.anna("POST", "/v1/tasks", body)


async def account(world: World, user: str | None = None) -> Account:
    await world.service.quotas.settle()
    place = place_of(await key_of(world), user)
    return (await world.service.registry.sheet([place], world.clock.now())).account(place)


async def run(world: World, worker: str, took_s: float, **fields: Any) -> None:
    """Have the next task succeed after so long."""
    tasks = (await world.lease(worker, n=1))["tasks"]
    await world.hold(worker, tasks, took_s)
    told = succeeded(tasks[0], "x")
    told["outcome"]["timings"] = {"run_s": took_s}
    await world.report(worker, settlements=[told])


# ---- quotas


async def test_a_day_has_a_limit_of_tasks(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_day=2)
    first, second, third = [await submit(world) for _ in range(3)]
    assert (first.status, second.status, third.status) == (202, 202, 429)
    assert first.headers["ratelimit-policy"] == '"tasks-day";q=2;w=86400'
    assert first.headers["ratelimit"].startswith('"tasks-day";r=1;t=')
    assert third.json["code"] == "quota_exceeded"
    assert "2 tasks per day" in third.json["detail"]
    left_s = (resets_at(world.clock.now().strftime("%Y-%m-%d")) - world.clock.now()).total_seconds()
    assert int(third.headers["retry-after"]) == pytest.approx(left_s, abs=1)
    world.clock.advance(left_s + 1)
    await world.register()
    assert (await submit(world)).status == 202


async def test_users_have_their_own_and_others_are_not_touched(world: World) -> None:
    await world.register()
    await limit(world, user="*", samples_per_day=4)
    await limit(world, user="vip", samples_per_day=8)
    assert (await submit(world, user="otto", count=3)).status == 202
    refused = await submit(world, user="otto", count=2)
    assert refused.status == 429
    assert "user 'otto'" in refused.json["detail"]
    assert refused.headers["ratelimit"].startswith('"user-samples-day";r=1')
    assert (await submit(world, user="vip", count=8)).status == 202
    assert (await submit(world, count=50)).status == 202
    body = {"model": "demo/upper", "input": {"text": "a"}, "user": "otto", "count": 9}
    assert (await world.berta("POST", "/v1/tasks", body)).status == 202


async def test_a_batch_is_accepted_as_a_whole_or_not_at_all(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_month=5)
    one = {"model": "demo/upper", "input": {"text": "a"}}
    batch = {"tasks": [one] * 3}
    statuses = [(await world.anna("POST", "/v1/tasks/batch", batch)).status for _ in range(2)]
    assert statuses == [202, 429]
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 3
    own = (await world.anna("GET", "/v1/quota")).json["limits"]
    assert [(each["name"], each["limit"], each["left"]) for each in own] == [("tasks-month", 5, 2)]


async def test_a_repeat_counts_once(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_day=2)
    key = {"idempotency-key": "k"}
    body = {"model": "demo/upper", "input": {"text": "a"}}
    answers = await asyncio.gather(
        *(world.anna("POST", "/v1/tasks", body, headers=key) for _ in range(2))
    )
    assert [each.status for each in answers] == [202, 202]
    assert (await world.anna("POST", "/v1/tasks", body, headers=key)).status == 202
    # Two that came at once were both entered, and one of them is given back.
    await world.service.quotas.settle()
    later = world.clock.now() + timedelta(seconds=1)
    held = await world.service.registry.holds(after="", before=later, limit=9)
    assert [each.id for each in held] == [answers[0].json["id"]]


async def test_repeating_a_task_counts_too(world: World) -> None:
    worker = await world.register()
    await limit(world, tasks_per_day=2)
    task = (await submit(world)).json
    await run(world, worker, 1)
    again = await world.anna("POST", f"/v1/tasks/{task['id']}/retry")
    assert again.status == 202
    await run(world, worker, 1)
    more = await world.anna("POST", f"/v1/tasks/{again.json['id']}/retry")
    assert (more.status, more.json["code"]) == (429, "quota_exceeded")


async def left_of(world: World) -> int:
    await world.service.quotas.settle()
    return int((await world.admin("GET", "/v1/quotas")).json["quotas"][0]["left"][0]["left"])


async def test_what_does_not_become_a_task_is_not_counted_as_one(world: World) -> None:
    worker = await world.register()
    await limit(world, tasks_per_day=3)
    task = (await submit(world)).json
    for _ in range(2):
        # It still runs, so it cannot be repeated.
        assert (await world.anna("POST", f"/v1/tasks/{task['id']}/retry")).status == 409
    assert await left_of(world) == 2
    await run(world, worker, 1)
    again = {
        (await world.anna("POST", f"/v1/tasks/{task['id']}/retry")).json["id"] for _ in range(2)
    }
    assert len(again) == 1
    assert await left_of(world) == 1


async def test_a_repeat_that_comes_at_the_same_time_counts_once(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_day=5)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    asking = (world.anna("POST", "/v1/tasks", body, headers=_KEYED) for _ in range(4))
    assert len({each.json["id"] for each in await asyncio.gather(*asking)}) == 1
    assert await left_of(world) == 4


async def dead_letter(world: World, worker: str, **fields: Any) -> str:
    task_id = str((await submit(world, max_attempts=1, **fields)).json["id"])
    granted = await world.lease(worker, n=1)
    await world.report(worker, settlements=[failed(granted["tasks"][0], retryable=True)])
    return task_id


async def test_a_replayed_dead_letter_is_its_owners_to_pay(world: World) -> None:
    worker = await world.register()
    await limit(world, is_prepaid=True)
    await grant(world, 9_000, id="c1")
    task_id = await dead_letter(world, worker)
    assert (await account(world)).spent == 0
    answer = await world.admin("POST", f"/v1/dead/{task_id}/replay")
    assert (answer.status, "ratelimit" in answer.headers) == (202, False)
    await run(world, worker, 2)
    assert (await account(world)).spent == 2_000


async def test_dead_letters_whose_owner_has_nothing_left_stay(world: World) -> None:
    worker = await world.register()
    key_id = await limit(world, tasks_per_day=3)
    ids = [await dead_letter(world, worker) for _ in range(2)]
    answer = await world.admin("POST", "/v1/dead/replay", {"ids": ids})
    first, second = answer.json["replayed"]
    assert (first["error"], second["new_id"]) == (None, None)
    assert f"key {key_id} may use 3 tasks per day" in second["error"]
    one = await world.admin("POST", f"/v1/dead/{ids[1]}/replay")
    assert (one.status, one.json["code"]) == (429, "quota_exceeded")
    # A replayed task is known, even without quota left.
    await limit(world, tasks_per_day=9)
    assert (await world.admin("POST", f"/v1/dead/{ids[1]}/replay")).status == 202
    assert await left_of(world) == 5


async def test_samples_of_tasks_that_do_not_succeed_are_given_back(world: World) -> None:
    await world.register()
    await limit(world, samples_per_day=4)
    task = (await submit(world, count=4)).json
    assert (await submit(world)).status == 429
    await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    await world.service.quotas.settle()
    assert (await submit(world, count=4)).status == 202


async def test_quotas_are_listed_and_dropped(world: World) -> None:
    await world.register()
    key_id = await limit(world, tasks_per_day=1)
    await limit(world, user="*", micros_per_month=9)
    await submit(world)
    listed = (await world.admin("GET", "/v1/quotas")).json["quotas"]
    assert [(each["user"], len(each["left"])) for each in listed] == [(None, 1), ("*", 0)]
    assert listed[0]["left"][0]["left"] == 0
    assert (await submit(world)).status == 429
    assert (await world.admin("DELETE", f"/v1/quotas?key_id={key_id}")).status == 200
    assert (await world.admin("DELETE", f"/v1/quotas?key_id={key_id}")).status == 404
    assert (await submit(world)).status == 202
    unknown = await world.admin("PUT", "/v1/quotas", {"key_id": "none"})
    assert unknown.status == 404
    assert (await world.anna("GET", "/v1/quotas")).status == 403
    assert (await world.anna("PUT", "/v1/quotas", {"key_id": key_id})).status == 403


async def test_an_estimate_says_that_a_quota_is_used_up(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_day=1)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    for _ in range(3):
        assert (await world.anna("POST", "/v1/estimate", body)).json["is_accepted"]
    await submit(world)
    told = (await world.anna("POST", "/v1/estimate", body)).json
    assert told["refusal"]["code"] == "quota_exceeded"


# ---- credits


async def test_credits_are_held_by_the_estimate_and_settled_by_the_true_cost(
    world: World,
) -> None:
    worker = await world.register(slots=1)
    await submit(world)
    await run(world, worker, 10)
    await limit(world, is_prepaid=True)
    refused = await submit(world)
    assert (refused.status, refused.json["code"]) == (402, "credits_used_up")
    assert "swell quotas KEY_ID --credit" in refused.json["detail"]
    assert (await grant(world, 25_000, id="inv-1")).status == 201
    assert (await grant(world, 25_000, id="inv-1")).status == 200
    task = (await submit(world)).json
    # 10 s at $3.60 an hour.
    assert await account(world) == Account(granted=25_000, held=10_000)
    assert (await submit(world)).status == 202
    assert (await submit(world)).status == 402
    await run(world, worker, 6)
    assert (await world.anna("GET", f"/v1/tasks/{task['id']}")).json["cost_micros"] == 6_000
    assert await account(world) == Account(granted=25_000, spent=6_000, held=10_000)
    told = (await world.admin("GET", "/v1/credits")).json
    assert [each["left_micros"] for each in told["accounts"]] == [9_000]
    assert [each["id"] for each in told["entries"]] == ["inv-1"]


async def test_payments_to_remote_services_are_held_and_settled_with_credits() -> None:
    async with a_world() as world:
        worker = await world.register(UPPER | {"price_micros": 40_000}, slots=1)
        await limit(world, is_prepaid=True)
        await grant(world, 100_000)
        # Nothing of that model has ended, and the pool has no price: what others ask is known.
        asked = {"model": "demo/upper", "input": {"text": "a"}, "count": 2}
        told = (await world.anna("POST", "/v1/estimate", asked)).json
        assert told["cost_micros"] == 80_000
        assert (await submit(world, count=2)).status == 202
        assert await account(world) == Account(granted=100_000, held=80_000)
        assert (await submit(world)).json["code"] == "credits_used_up"
        [lease] = (await world.lease(worker, n=1))["tasks"]
        done = succeeded(lease, "x", timings={"run_s": 1.0, "paid_micros": 40_000})
        await world.report(worker, settlements=[done])
        await world.service.quotas.settle()
        assert await account(world) == Account(granted=100_000, spent=40_000)


async def test_a_task_that_fails_or_is_canceled_costs_nothing(world: World) -> None:
    worker = await world.register(slots=1)
    await submit(world)
    await run(world, worker, 10)
    await limit(world, is_prepaid=True)
    await grant(world, 20_000)
    first = (await submit(world, max_attempts=1)).json
    second = (await submit(world)).json
    assert (await account(world)).left == 0
    await world.anna("POST", f"/v1/tasks/{second['id']}/cancel")
    assert await account(world) == Account(granted=20_000, held=10_000)
    granted = await world.lease(worker, n=1)
    failed = succeeded(granted["tasks"][0], "x")
    error = {"code": "broken", "title": "t", "detail": "d"}
    failed["outcome"] = {"type": "failed", "error": error, "retryable": False}
    await world.report(worker, settlements=[failed])
    assert (await world.anna("GET", f"/v1/tasks/{first['id']}")).json["state"] == "failed"
    assert await account(world) == Account(granted=20_000)


async def test_where_pools_have_no_price_samples_have_one() -> None:
    async with a_world(sample_micros=500) as world:
        worker = await world.register(slots=1)
        await limit(world, is_prepaid=True)
        await grant(world, 1_200)
        assert (await submit(world, count=2)).status == 202
        assert (await submit(world)).status == 402
        await run(world, worker, 3)
        assert await account(world) == Account(granted=1_200, spent=1_000)


async def test_concurrent_requests_never_exceed_the_credits() -> None:
    async with a_world(sample_micros=100) as world:
        await world.register()
        await limit(world, is_prepaid=True)
        await grant(world, 1_050)
        answers = await asyncio.gather(*(submit(world) for _ in range(40)))
        assert sorted(each.status for each in answers) == [202] * 10 + [402] * 30
        assert await account(world) == Account(granted=1_050, held=1_000)


# ---- packs


async def used(world: World) -> Use:
    await world.service.quotas.settle()
    place, now = place_of(await key_of(world), None), world.clock.now()
    return (await world.service.registry.sheet([place], now)).use(place, now.strftime("%Y-%m-%d"))


async def made(world: World, worker: str, pictures: int, took_s: float = 1.0) -> None:
    """Have the next task, or stage, succeed with this number of pictures."""
    [lease] = (await world.lease(worker, n=1))["tasks"]
    await world.hold(worker, [lease], took_s)
    home = f"outputs/{lease['task_id']}/{lease['attempt']}"
    files = [
        {"key": f"{home}/{n}.png", "content_type": "image/png", "bytes": 7, "width": 8, "height": 8}
        for n in range(pictures)
    ]
    for each in files:
        await world.service.objects.put_new(each["key"], b"picture", "image/png")
    output = [{"$artifact": n} for n in range(pictures)]
    told = succeeded(lease, output, artifacts=files, timings={"run_s": took_s})
    await world.report(worker, settlements=[told])


async def test_a_pack_counts_as_many_samples_as_it_makes(world: World) -> None:
    await world.register(SCENES)
    await limit(world, samples_per_day=20)
    body = {"model": "demo/scenes", "input": {}}
    usual = (await submit(world, **body)).json
    assert (await used(world)).samples == 2
    asked = {"scenes": ["a", "b", "c"], "sizes": ["small", "large"]}
    answer = await submit(world, model="demo/scenes", input=asked, count=2)
    assert (await used(world)).samples == 2 + 12
    assert answer.headers["ratelimit"].startswith('"samples-day";r=6;')
    assert (await submit(world, model="demo/scenes", input=asked, count=2)).status == 429
    told = await world.anna("POST", "/v1/estimate", {**body, "input": asked, "count": 2})
    assert told.json["refusal"]["code"] == "quota_exceeded"
    await world.anna("POST", f"/v1/tasks/{usual['id']}/cancel")
    assert (await used(world)).samples == 12


async def test_the_samples_made_count_at_the_end(world: World) -> None:
    worker = await world.register(SCENES, UPPER)
    await limit(world, samples_per_day=100)
    await submit(world, model="demo/scenes", input={"scenes": ["a", "b", "c"]})
    await made(world, worker, 3)
    assert (await used(world)).samples == 3
    # A model that makes a list of unknown length.
    await submit(world)
    assert (await used(world)).samples == 4
    await made(world, worker, 5)
    assert (await used(world)).samples == 3 + 5
    # Words are no pictures: as many as were asked for.
    await submit(world, count=4)
    await made(world, worker, 0)
    assert (await used(world)).samples == 8 + 4


async def test_a_pipeline_counts_the_samples_of_the_stage_that_makes_most(world: World) -> None:
    worker = await world.register(SCENES, WORDS)
    await limit(world, samples_per_day=20)
    body = {"model": "demo/series", "input": {"scenes": ["a", "b", "c"]}, "count": 2}
    await submit(world, **body)
    assert (await used(world)).samples == 6
    await made(world, worker, 0)
    await made(world, worker, 4)
    assert (await used(world)).samples == 4
    # The first stage has ended; its samples still count.
    await submit(world, **body)
    await made(world, worker, 0)
    assert (await used(world)).samples == 10


async def test_credits_are_held_in_proportion_to_the_pack(world: World) -> None:
    worker = await world.register(SCENES, slots=1)
    body = {"model": "demo/scenes", "input": {"scenes": ["a", "b"]}}
    await submit(world, **body)
    await made(world, worker, 2, took_s=10)
    await limit(world, is_prepaid=True)
    await grant(world, 100_000)
    await submit(world, **body)
    assert (await account(world)).held == 10_000
    await submit(world, model="demo/scenes", input={"scenes": list("abcdefgh")})
    assert (await account(world)).held == 10_000 + 40_000
    await made(world, worker, 2, took_s=10)
    await made(world, worker, 8, took_s=30)
    assert await account(world) == Account(granted=100_000, spent=40_000)


async def test_the_estimate_of_a_pack_grows_with_it(world: World) -> None:
    worker = await world.register(SCENES, slots=1)
    await submit(world, model="demo/scenes", input={"scenes": ["a", "b"]})
    await made(world, worker, 2, took_s=10)
    large = {"model": "demo/scenes", "input": {"scenes": list("abcdefgh")}}
    told = (await world.anna("POST", "/v1/estimate", large)).json
    usual = (await world.anna("POST", "/v1/estimate", {**large, "input": {}})).json
    for each, times in ((usual, 1), (told, 4)):
        assert each["finish_s"]["median"] == pytest.approx(times * 10, rel=0.01)
        assert each["cost_micros"] == times * 10_000
    refused = await submit(world, **large, finish_by_s=30)
    assert (refused.status, refused.json["code"]) == (503, "would_expire")
    assert (await submit(world, **large, finish_by_s=50)).status == 202


async def test_where_pools_have_no_price_the_samples_of_a_pack_have_one() -> None:
    async with a_world(sample_micros=500) as world:
        worker = await world.register(SCENES)
        await limit(world, is_prepaid=True)
        await grant(world, 9_000)
        body = {"model": "demo/scenes", "input": {"scenes": list("abcdef")}}
        await submit(world, **body)
        assert (await account(world)).held == 3_000
        await made(world, worker, 5)
        assert await account(world) == Account(granted=9_000, spent=2_500)


# ---- crashes


class _Lost:
    """A store that loses the answer to `accept`, so that its result is unknown."""

    def __init__(self, store: Store, *, writes: bool) -> None:
        self._store = store
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def accept(self, tasks: list[NewTask], **more: Any) -> list[Accepted]:
        if self._writes:
            await self._store.accept(tasks, **more)
        raise Unavailable("the way to the server is gone")


@pytest.mark.parametrize("writes", [True, False])
async def test_reservations_left_by_a_crash_are_repaired(writes: bool) -> None:
    async with a_world(sample_micros=100) as world:
        worker = await world.register()
        await limit(world, is_prepaid=True)
        await grant(world, 1_000)
        limits = world.service.limits
        limits._store, store = _Lost(limits._store, writes=writes), limits._store  # type: ignore[assignment]
        assert (await submit(world)).status == 503
        limits._store = store
        assert (await account(world)).held == 100
        # Not before it can be sure.
        await world.service.quotas.repair()
        assert (await account(world)).held == 100
        if writes:
            await run(world, worker, 1)
            # The process that saw its end has died before it could enter it.
            world.service.quotas._ended.clear()
        world.clock.advance(130)
        await world.service.quotas.repair()
        assert await account(world) == Account(granted=1_000, spent=100 if writes else 0)


async def test_a_task_that_waits_keeps_its_hold(world: World) -> None:
    await world.register()
    await limit(world, tasks_per_day=5)
    await submit(world)
    world.clock.advance(500)
    await world.service.quotas.repair()
    place = place_of(await key_of(world), None)
    sheet = await world.service.registry.sheet([place], world.clock.now())
    assert sheet.use(place, world.clock.now().strftime("%Y-%m-%d")) == Use(tasks=1, samples=1)
    assert len(await world.service.registry.holds(after="", before=world.clock.now(), limit=9)) == 1


# ---- which keys have quotas


async def test_a_crowd_that_comes_when_it_was_long_ago_has_them_looked_up_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register()
    await submit(world)
    registry = world.service.registry
    read, asked = registry.quota_keys, 0

    async def quota_keys() -> frozenset[str]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return await read()

    monkeypatch.setattr(registry, "quota_keys", quota_keys)
    world.clock.advance(60)
    answers = await asyncio.gather(*(submit(world) for _ in range(20)))
    assert {each.status for each in answers} == {202}
    assert asked == 1


async def test_a_quota_that_is_set_while_they_are_looked_up_counts_for_who_asks_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register()
    registry = world.service.registry
    read, is_read, goes_on = registry.quota_keys, asyncio.Event(), asyncio.Event()

    async def quota_keys() -> frozenset[str]:
        found = await read()
        if not is_read.is_set():
            is_read.set()
            await goes_on.wait()
        return found

    monkeypatch.setattr(registry, "quota_keys", quota_keys)
    world.clock.advance(60)
    early = asyncio.create_task(submit(world))
    await is_read.wait()
    await limit(world, tasks_per_day=1)
    goes_on.set()
    assert (await early).status == 202
    # It was accepted after the quota was there, and so it is counted.
    assert (await submit(world)).status == 429


# ---- words


def test_amounts_and_periods_in_words() -> None:
    assert [dollars(n) for n in (2_500_000, 1, 1_000_000_000_000)] == [
        "$2.5",
        "$0.000001",
        "$1,000,000",
    ]
    assert resets_at("2026-12") == datetime(2027, 1, 1, tzinfo=UTC)
    assert resets_at("2028-02-29") == datetime(2028, 3, 1, tzinfo=UTC)
