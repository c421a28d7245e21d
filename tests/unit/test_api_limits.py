"""How much a key may ask."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

import pytest
import typer
from api_harness import Answer, Client, World, a_world, succeeded
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.cli.keys import rate_per_s
from swell.core.errors import SwellError, Unavailable
from swell.core.records import ApiKey, KeyLimits, Scope
from swell.core.store_types import Accepted
from swell.core.task import NewTask
from swell.db.registry import Registry
from swell.server.auth import create_key
from swell.server.billing.quota_accounting import Quotas
from swell.server.limits import SHARE_EVERY_S, Allowance, Limits, effective_limits
from swell.server.route import Route
from swell.server.routes import ROUTES
from swell.settings.backend_settings import LimitsSettings


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def _client(world: World, scope: Scope = Scope.CLIENT, **limits: float) -> Client:
    made = await create_key(
        world.service.registry,
        world.clock,
        "limited",
        frozenset({scope}),
        limits=KeyLimits(**limits),  # type: ignore[arg-type]
    )
    return Client(world.app, made.secret)


async def _submit(client: Client, **headers: str) -> Answer:
    body = {"model": "demo/upper", "input": {"text": "a"}}
    return await client("POST", "/v1/tasks", body, headers=headers)


# ---- requests


async def test_a_burst_is_let_through_and_then_the_rate(world: World) -> None:
    client = await _client(world, rate_per_s=2, burst=3)
    assert [(await client("GET", "/v1/tasks")).status for _ in range(4)] == [200, 200, 200, 429]
    world.clock.advance(0.5)
    assert [(await client("GET", "/v1/tasks")).status for _ in range(2)] == [200, 429]


async def test_every_answer_tells_what_is_left(world: World) -> None:
    client = await _client(world, rate_per_s=2, burst=3)
    answers = [await client("GET", "/v1/tasks") for _ in range(4)]
    assert {each.headers["ratelimit-policy"] for each in answers} == {'"requests";q=3;w=2'}
    left = [each.headers["ratelimit"] for each in answers]
    assert left == [
        '"requests";r=2;t=1',
        '"requests";r=1;t=1',
        '"requests";r=0;t=2',
        '"requests";r=0;t=2',
    ]


async def test_who_is_too_fast_is_told_when_to_come_back(world: World) -> None:
    client = await _client(world, rate_per_s=0.1, burst=1)
    assert (await client("GET", "/v1/models")).status == 200
    answer = await client("GET", "/v1/models")
    assert answer.status == 429
    assert answer.json["code"] == "too_many_requests"
    assert answer.headers["retry-after"] == "10"
    world.clock.advance(10)
    assert (await client("GET", "/v1/models")).status == 200


async def test_a_window_of_less_than_a_second_is_told_as_what_a_second_gives(
    world: World,
) -> None:
    client = await _client(world, rate_per_s=50, burst=5)
    answer = await client("GET", "/v1/tasks")
    assert answer.headers["ratelimit-policy"] == '"requests";q=50;w=1'


RATES = {"the least subnormal": 5e-324, "tiny": 1e-300, "one in three years": 1e-8}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
async def test_rates_that_no_clock_can_keep_are_refused_everywhere(
    world: World, rate: float
) -> None:
    body = {"name": "slow", "rate_per_s": rate}
    answer = await world.admin("POST", "/v1/keys", body)
    assert answer.status == 422
    assert "0 for no limit" in answer.json["detail"]
    with pytest.raises(ValidationError, match="0 for no limit"):
        LimitsSettings(rate_per_s=rate)
    with pytest.raises(typer.BadParameter, match="0 for no limit"):
        rate_per_s(f"{rate * 86_400:.400f}/d")


@pytest.mark.parametrize("rate", [0, 1e-5, 1e6])
async def test_rates_within_are_taken_everywhere(world: World, rate: float) -> None:
    answer = await world.admin("POST", "/v1/keys", {"name": "slow", "rate_per_s": rate})
    assert answer.status == 201
    assert LimitsSettings(rate_per_s=rate).rate_per_s == rate
    client = Client(world.app, answer.json["key"])
    assert (await client("GET", "/v1/tasks")).status == 200
    await world.service.limits.share()


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
async def test_such_a_rate_that_was_kept_before_spoils_nothing(world: World, rate: float) -> None:
    slow = await _client(world, rate_per_s=rate, burst=1_000_000)
    once = await _client(world, rate_per_s=rate)
    for client in (slow, once):
        assert (await client("GET", "/v1/tasks")).status == 200
    assert (await once("GET", "/v1/tasks")).status == 429
    await world.service.limits.share()
    assert (await once("GET", "/v1/tasks")).status == 429


async def test_errors_tell_what_is_left_too(world: World) -> None:
    client = await _client(world, rate_per_s=1)
    answer = await client("GET", "/v1/tasks/none")
    assert (answer.status, answer.headers["ratelimit"]) == (404, '"requests";r=1;t=1')


async def test_event_streams_tell_what_is_left(world: World) -> None:
    await world.register()
    client = await _client(world, rate_per_s=1)
    task = (await _submit(client)).json
    async with client.stream(f"/v1/tasks/{task['id']}/events") as stream:
        await stream.event()
        assert stream.headers["ratelimit"] == '"requests";r=0;t=2'


async def test_keys_have_allowances_of_their_own(world: World) -> None:
    one, two = await _client(world, rate_per_s=1, burst=1), await _client(world, rate_per_s=1)
    assert (await one("GET", "/v1/tasks")).status == 200
    assert (await one("GET", "/v1/tasks")).status == 429
    assert (await two("GET", "/v1/tasks")).status == 200


async def test_a_key_that_asks_all_the_time_gets_no_new_allowance_when_many_other_keys_ask(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.server.limits._MAX_METERS", 3)
    busy = await _client(world, rate_per_s=1, burst=1)
    assert (await busy("GET", "/v1/tasks")).status == 200
    for _ in range(6):
        other = await _client(world, rate_per_s=1)
        assert (await other("GET", "/v1/tasks")).status == 200
        assert (await busy("GET", "/v1/tasks")).status == 429
    assert len(world.service.limits._meters) == 3


async def test_a_key_whose_tasks_are_being_accepted_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.server.limits._MAX_METERS", 2)
    await world.register()
    store, is_asked, goes_on = world.service.store, asyncio.Event(), asyncio.Event()
    accept = store.accept

    async def accept_later(news: Sequence[NewTask]) -> list[Accepted | SwellError]:
        is_asked.set()
        await goes_on.wait()
        return await accept(news)

    monkeypatch.setattr(store, "accept", accept_later)
    client = await _client(world, tasks_in_flight=1)
    first = asyncio.ensure_future(_submit(client))
    await is_asked.wait()
    for _ in range(3):
        other = await _client(world, rate_per_s=1)
        assert (await other("GET", "/v1/tasks")).status == 200
    is_asked.clear()
    second, asked_again = (
        asyncio.ensure_future(_submit(client)),
        asyncio.ensure_future(is_asked.wait()),
    )
    await asyncio.wait({second, asked_again}, return_when=asyncio.FIRST_COMPLETED)
    asked_again.cancel()
    goes_on.set()
    assert [(await each).status for each in (first, second)] == [202, 429]


async def test_a_key_without_limits_is_told_nothing(world: World) -> None:
    answer = await world.anna("GET", "/v1/tasks")
    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers


async def test_the_settings_hold_for_keys_without_limits_of_their_own() -> None:
    async with a_world(limits=KeyLimits(rate_per_s=1, burst=1)) as world:
        assert [(await world.anna("GET", "/v1/tasks")).status for _ in range(2)] == [200, 429]
        free = await _client(world, rate_per_s=0)
        assert [(await free("GET", "/v1/tasks")).status for _ in range(2)] == [200, 200]
        assert [(await world.admin("GET", "/v1/tasks")).status for _ in range(2)] == [200, 200]


async def test_workers_and_operators_are_not_slowed_down_at_what_is_theirs() -> None:
    async with a_world(limits=KeyLimits(rate_per_s=1, burst=1)) as world:
        worker = await world.register()
        for _ in range(3):
            await world.lease(worker)
            assert (await world.admin("GET", "/v1/queues")).status == 200


# ---- tasks in flight


async def test_tasks_in_flight_are_bounded_until_one_ends(world: World) -> None:
    worker = await world.register()
    client = await _client(world, tasks_in_flight=2)
    answers = [await _submit(client) for _ in range(3)]
    assert [each.status for each in answers] == [202, 202, 429]
    assert answers[2].headers["retry-after"] == "1"
    assert answers[2].headers["ratelimit"] == '"in-flight";r=0'
    (lease,) = (await world.lease(worker, n=1))["tasks"]
    assert (await _submit(client)).status == 429
    await world.report(worker, settlements=[succeeded(lease)])
    assert [(await _submit(client)).status for _ in range(2)] == [202, 429]


async def test_a_canceled_task_makes_room(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_in_flight=1)
    task = (await _submit(client)).json
    assert (await _submit(client)).status == 429
    await client("POST", f"/v1/tasks/{task['id']}/cancel")
    assert (await _submit(client)).status == 202


async def test_a_crowd_at_once_gets_no_more_than_its_room(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_in_flight=5)
    answers = await asyncio.gather(*(_submit(client) for _ in range(30)))
    assert sorted(each.status for each in answers) == [202] * 5 + [429] * 25
    page = (await client("GET", "/v1/tasks")).json
    assert len(page["tasks"]) == 5


async def test_a_batch_counts_as_its_tasks(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_in_flight=5)
    three = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 3}
    statuses = [(await client("POST", "/v1/tasks/batch", three)).status for _ in range(2)]
    assert statuses == [202, 429]
    assert [(await _submit(client)).status for _ in range(3)] == [202, 202, 429]


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        ({"tasks_in_flight": 3}, "3 tasks that have not ended"),
        ({"tasks_per_day": 3}, "3 tasks a day"),
        ({"tasks_in_flight": 9, "tasks_per_day": 3}, "3 tasks a day"),
    ],
)
async def test_a_batch_that_can_never_pass_is_not_told_to_come_back(
    world: World, limits: dict[str, float], bound: str
) -> None:
    await world.register()
    client = await _client(world, **limits)
    batch = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 5}
    answer = await client("POST", "/v1/tasks/batch", batch)
    assert answer.status == 422
    assert "retry-after" not in answer.headers
    assert bound in answer.json["detail"]
    assert "send at most 3 in one batch" in answer.json["detail"]
    assert answer.json["errors"][0]["pointer"] == "/tasks"
    # Nothing was taken for it.
    batch["tasks"] = batch["tasks"][:3]
    assert (await client("POST", "/v1/tasks/batch", batch)).status == 202


async def test_a_repeat_takes_no_room(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_in_flight=2, tasks_per_day=2)
    for _ in range(3):
        assert (await _submit(client, **{"Idempotency-Key": "a"})).status == 202
    assert [(await _submit(client)).status for _ in range(2)] == [202, 429]


async def test_a_request_that_is_refused_for_something_else_takes_no_room(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_in_flight=1)
    bad = {"model": "demo/upper", "input": {"text": ""}}
    for _ in range(3):
        assert (await client("POST", "/v1/tasks", bad)).status == 422
    assert (await _submit(client)).status == 202


async def test_what_other_processes_accepted_and_ended_is_learned(world: World) -> None:
    """Another process is another `Limits` on the same store."""
    await world.register()
    client = await _client(world, tasks_in_flight=2)
    task = (await _submit(client)).json
    other = Limits(
        world.service.registry, world.service.store, world.clock, KeyLimits(), world.service.quotas
    )
    world.service.limits = other
    assert [(await _submit(client)).status for _ in range(2)] == [202, 429]
    await world.service.store.cancel([task["id"]])
    world.clock.advance(0.06)
    assert (await _submit(client)).status == 202


# ---- tasks per day


async def test_tasks_of_a_day_are_bounded_and_come_back_little_by_little(world: World) -> None:
    await world.register()
    client = await _client(world, tasks_per_day=24)
    batch = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 23}
    assert (await client("POST", "/v1/tasks/batch", batch)).status == 202
    answers = [await _submit(client) for _ in range(2)]
    assert [each.status for each in answers] == [202, 429]
    assert answers[0].headers["ratelimit-policy"] == '"tasks";q=24;w=86400'
    assert answers[0].headers["ratelimit"] == '"tasks";r=0;t=86400'
    assert answers[1].headers["retry-after"] == "3600"


# ---- many processes


async def test_processes_share_an_allowance_within_the_bound_that_is_told() -> None:
    clock = ManualClock()
    rig = SqliteRig(clock)
    registry = rig.registry
    made = await create_key(
        registry, clock, "k", frozenset({Scope.CLIENT}), limits=KeyLimits(rate_per_s=10, burst=20)
    )
    processes = [_limits(rig, registry, clock) for _ in range(4)]
    seconds, passed = 60, 0
    for _ in range(seconds * 10):
        for each in processes:
            passed += sum(_is_let_through(each, made.key) for _ in range(5))
        clock.advance(0.1)
        if round(clock.monotonic_s() * 10) % round(SHARE_EVERY_S * 10) == 0:
            for each in processes:
                await each.share()
    due = 20 + 10 * seconds
    assert due * 0.95 <= passed <= due + 3 * (20 + 10 * SHARE_EVERY_S)


def _limits(rig: SqliteRig, registry: Registry, clock: ManualClock) -> Limits:
    quotas = Quotas(registry, rig.store, clock, lambda _: None, lambda task: task.count)
    return Limits(registry, rig.store, clock, KeyLimits(), quotas)


def _is_let_through(limits: Limits, key: ApiKey) -> bool:
    # What `check` decides by, without a request around it.
    requests = limits._meter(key).requests
    assert requests is not None
    return requests.take(limits._clock.monotonic_s()) == 0


@pytest.mark.parametrize("error", [Unavailable("away"), OverflowError("a bug")])
async def test_what_could_not_be_told_is_told_later(error: Exception) -> None:
    clock = ManualClock()
    rig = SqliteRig(clock)
    registry = _Flaky(rig.database)
    registry.error = error
    limits = _limits(rig, registry, clock)
    made = await create_key(
        registry, clock, "k", frozenset({Scope.CLIENT}), limits=KeyLimits(rate_per_s=1, burst=3)
    )
    assert [_is_let_through(limits, made.key) for _ in range(3)] == [True] * 3
    with pytest.raises(type(error)):
        await limits.share()
    registry.is_there = True
    await limits.share()
    (until,) = (await registry.spend({f"{made.key.id}:requests": 0})).values()
    assert (until - clock.now()).total_seconds() == 3
    assert not _is_let_through(limits, made.key)


class _Flaky(Registry):
    """A registry that is away."""

    is_there = False
    error: Exception

    async def spend(self, costs_s: Mapping[str, float]) -> dict[str, datetime]:
        if not self.is_there:
            raise self.error
        return await super().spend(costs_s)


def test_a_clock_that_jumped_blocks_nobody_for_long() -> None:
    allowance = Allowance("a", 10, 10)
    allowance.adopt(1e9, 100.0)
    assert 60 <= allowance.take(100.0) <= 62
    assert allowance.take(171.0) == 0


@given(
    st.integers(1, 50),
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=60),
)
def test_no_window_sees_more_than_a_burst_and_the_rate(
    quota: int, window_s: float, steps: list[tuple[float, int]]
) -> None:
    allowance = Allowance("a", quota, window_s)
    now_s, taken = 0.0, [(0.0, 0)]
    for pause_s, n in steps:
        now_s += pause_s
        if allowance.take(now_s, n) == 0:
            taken.append((now_s, n))
    for at in range(len(taken)):
        for to in range(at, len(taken)):
            seen = sum(n for _, n in taken[at : to + 1])
            span_s = taken[to][0] - taken[at][0]
            assert seen <= quota + span_s * quota / window_s + 1e-3


@given(st.integers(1, 50), st.floats(0.1, 100), st.integers(1, 60))
def test_who_waits_as_told_is_let_through(quota: int, window_s: float, n: int) -> None:
    allowance = Allowance("a", quota, window_s)
    allowance.take(0.0, quota)
    wait_s = allowance.take(0.0, n)
    assert wait_s > 0
    if n <= quota:
        assert allowance.take(wait_s + 1e-6, n) == 0


# ---- which limits


def _key(*scopes: Scope, **limits: float) -> ApiKey:
    return ApiKey(
        id="k",
        name="k",
        digest=b"",
        scopes=frozenset(scopes),
        created_at=ManualClock().now(),
        limits=KeyLimits(**limits),  # type: ignore[arg-type]
    )


def test_own_limits_win_over_the_settings_and_zero_means_none() -> None:
    defaults = KeyLimits(rate_per_s=5, burst=50, tasks_in_flight=7)
    found = effective_limits(_key(Scope.CLIENT, rate_per_s=1, tasks_in_flight=0), defaults)
    # The burst of the settings belongs to their rate.
    assert found == KeyLimits(rate_per_s=1)
    assert effective_limits(_key(Scope.CLIENT), defaults) == defaults
    assert effective_limits(_key(Scope.CLIENT), KeyLimits(rate_per_s=0)) == KeyLimits()


def test_operators_are_held_to_their_own_limits_only() -> None:
    defaults = KeyLimits(rate_per_s=5)
    assert effective_limits(_key(Scope.ADMIN), defaults) == KeyLimits()
    own = _key(Scope.ADMIN, rate_per_s=1)
    assert effective_limits(own, defaults) == KeyLimits(rate_per_s=1)


# ---- sizes

FORM_HEAD = b'--edge\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'
WITH_BODIES = [each for each in ROUTES if each.body is not None and each.scope is not None]


@pytest.mark.slow
@pytest.mark.parametrize("route", WITH_BODIES, ids=lambda each: f"{each.method} {each.path}")
@pytest.mark.parametrize("chunk_bytes", [None, 7, 999])
async def test_no_path_takes_a_longer_body_than_it_may(
    route: Route, chunk_bytes: int | None
) -> None:
    async with a_world(max_body_bytes=1000, max_upload_bytes=1000) as world:
        task_id = (await _a_task(world))["id"]
        path = route.path.replace("{id}", task_id)
        client = world.worker if route.scope is Scope.WORKER else world.admin
        body = b'"' + b"x" * 1100 + b'"'
        headers = {"Content-Type": "application/json"}
        assert route.body is not None
        if route.body.media_types == ("multipart/form-data",):
            body = FORM_HEAD + b"x" * 1100
            headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        answer = await client(route.method, path, body, headers=headers, chunk_bytes=chunk_bytes)
        assert (answer.status, answer.json["code"]) == (413, "too_large")
        assert answer.headers["connection"] == "close"


async def _a_task(world: World) -> dict[str, str]:
    await world.register()
    task: dict[str, str] = await world.create()
    return task


# ---- event streams


async def test_so_many_streams_may_be_open_and_a_closed_one_makes_room(world: World) -> None:
    client, other = await _client(world, streams=2), await _client(world, streams=1)
    await world.register()
    path = f"/v1/tasks/{(await _submit(client)).json['id']}/events"
    async with client.stream(path) as first, client.stream(path) as second:
        for stream, left in ((first, 1), (second, 0)):
            assert (await stream.event())["event"] == "queued"
            assert stream.headers["ratelimit-policy"] == '"streams";q=2'
            assert stream.headers["ratelimit"] == f'"streams";r={left}'
        refused = await client("GET", path)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert "may have 2 event streams open" in refused.json["detail"]
        assert len(world.service.streams) == 2
        # Of another key nothing is taken.
        own = f"/v1/tasks/{(await _submit(other)).json['id']}/events"
        async with other.stream(own) as third:
            assert (await third.event())["event"] == "queued"
        # Who hung up a moment ago, and was not missed yet, keeps nobody out.
        first.gone.set()
        async with client.stream(path) as fourth:
            assert (await fourth.event())["event"] == "queued"
            assert (await client("GET", path)).status == 429
    async with client.stream(path) as fifth:
        assert (await fifth.event())["event"] == "queued"


async def test_streams_end_with_their_tasks_and_count_no_longer(world: World) -> None:
    client = await _client(world, streams=1)
    worker = await world.register()
    for _ in range(3):
        path = f"/v1/tasks/{(await _submit(client)).json['id']}/events"
        async with client.stream(path) as stream:
            assert (await stream.event())["event"] == "queued"
            [lease] = (await world.lease(worker))["tasks"]
            await world.report(worker, settlements=[succeeded(lease)])
            assert [(await stream.event())["event"] for _ in range(2)] == ["started", "succeeded"]
            assert await stream.event() is None


async def test_streams_of_keys_without_limits_are_as_many_as_they_like(world: World) -> None:
    await world.register()
    path = f"/v1/tasks/{(await world.create())['id']}/events"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            stream = await stack.enter_async_context(world.anna.stream(path))
            assert (await stream.event())["event"] == "queued"
            assert "ratelimit" not in stream.headers
