"""Two backends on one store, each with a bus of its own and a wire between them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from api_harness import UPPER, World, failed, hold, succeeded

from conformance.bus import Bench, meet, until
from manual_clock import ManualClock
from sqlite_rig import SqliteRig, turns
from swell.core.clock import SystemClock
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import ATTEMPT_STRIDE, TERMINAL_ID, Event, EventKind, TaskSummary
from swell.core.records import Scope
from swell.objects.folder import TemporaryObjects
from swell.pubsub.cluster_bus import WiredBus
from swell.server.app import create_app
from swell.server.auth import create_key
from swell.server.background_jobs import sweep
from swell.server.dependencies import ApiSettings, Backend
from swell.server.estimates.eta import Estimate, EtaSeconds, Forecast, IssuedEstimate, Situation
from swell.server.leader_election import DUTY_LEASE_S
from swell.server.peer_messages import take_events
from swell.server.rollouts.canary_monitor import look_after_canaries

PATIENCE_S = 5.0


class Pair:
    """Two backends, the wire between them, and what they share."""

    def __init__(self, worlds: list[World], bench: Bench, clock: ManualClock) -> None:
        self.worlds = worlds
        self.here, self.there = worlds
        self.bench = bench
        self.clock = clock

    async def register(self) -> str:
        """Register a worker with the first, and wait until the other has heard of it."""
        worker = await self.here.register()
        await until(lambda: bool(self.there.service.cards.newest()))
        return worker

    async def advance(self, duration_s: float) -> None:
        """Let time pass, in small steps, with turns for whoever wakes."""
        for _ in range(round(duration_s / 0.25)):
            self.clock.advance(0.25)
            await turns(10)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    clock, bench = ManualClock(), Bench()
    rig = SqliteRig(clock)
    registry = rig.registry
    objects = TemporaryObjects(clock, await registry.secret("objects"))
    scopes = {"anna": "client", "berta": "client", "admin": "admin", "worker": "worker"}
    keys = {
        name: (await create_key(registry, clock, name, frozenset({Scope(scope)}))).secret
        for name, scope in scopes.items()
    }
    worlds = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            bus = WiredBus(bench.wire(), SystemClock())
            await bus.open()
            stack.push_async_callback(bus.close)
            backend = Backend(
                store=rig.store,
                broker=rig.broker,
                outbox=rig.outbox,
                bus=bus,
                objects=objects,
                registry=registry,
                clock=clock,
                settings=ApiSettings(),
                is_shared=True,
            )
            app = create_app(backend)
            await app.start()
            stack.push_async_callback(app.stop)
            worlds.append(World(clock, app, keys))
        await meet(*(world.service.bus for world in worlds))
        yield Pair(worlds, bench, clock)


async def soon(get: Callable[[], Any]) -> Any:
    """Wait for what a call returns."""
    return await asyncio.wait_for(get(), PATIENCE_S)


async def test_who_waits_at_one_hears_of_the_end_that_another_was_told(pair: Pair) -> None:
    worker = await pair.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    asked = asyncio.ensure_future(
        pair.there.anna("POST", "/v1/tasks", body, headers={"Prefer": "wait=30"})
    )
    grant = await soon(lambda: pair.here.lease(worker, wait_s=10))
    await pair.here.report(worker, settlements=[succeeded(grant["tasks"][0], "A")])
    answer = await asyncio.wait_for(asked, PATIENCE_S)
    assert answer.status == 201
    assert answer.json["output"] == "A"


async def test_a_backend_looks_for_the_ready_tasks_that_another_announces(pair: Pair) -> None:
    noted: list[set[str]] = []
    pair.here.service.broker.note_ready = noted.append  # type: ignore[method-assign, assignment]
    ready = PeerMessage(kind=MessageKind.READY, ids=("demo/upper",))
    await pair.there.service.bus.broadcast([ready])
    async with asyncio.timeout(PATIENCE_S):
        while {"demo/upper"} not in noted:
            await asyncio.sleep(0.01)


async def test_a_stream_at_one_tells_what_a_worker_tells_another(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.there.create()
    async with pair.there.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await soon(stream.event))["event"] == "queued"
        [lease] = (await pair.here.lease(worker))["tasks"]
        assert (await soon(stream.event))["event"] == "started"
        await until(lambda: pair.here.service.bus.watched([task["id"]]) == [task["id"]])
        step = {**hold(lease), "kind": "progress", "data": {"step": 1, "steps": 2}}
        image = {**hold(lease), "kind": "preview", "data": {"image": "data:,x"}}
        told = await pair.here.report(
            worker, progress=[{**step, "place": 1}, {**image, "place": 2}]
        )
        assert told["watched"] == [task["id"]], "somebody follows it elsewhere"
        await pair.here.report(worker, settlements=[succeeded(lease, "A")])
        events = [await soon(stream.event) for _ in range(3)]
        assert [each["event"] for each in events] == ["progress", "preview", "succeeded"]
        assert events[2]["data"]["output"] == "A"
        assert await soon(stream.event) is None


async def test_what_a_key_has_open_at_one_ends_when_another_revokes_it(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.there.create()
    listed = {each.name: each.id for each in await pair.here.service.registry.keys()}
    ask = {"worker_id": worker, "n": 0, "wait_s": 19}
    waiting = asyncio.ensure_future(pair.there.worker("POST", "/worker/v1/lease", ask))
    async with pair.there.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await soon(stream.event))["event"] == "queued"
        await until(lambda: bool(pair.there.service.fleet.workers.get(worker).polls))
        for name in ("worker", "anna"):
            assert (await pair.here.admin("DELETE", f"/v1/keys/{listed[name]}")).status == 200
        assert await soon(stream.event) is None
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).status == 401


async def test_a_reader_goes_on_at_another_where_it_was(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.here.create()
    path = f"/v1/tasks/{task['id']}/events"
    [lease] = (await pair.here.lease(worker))["tasks"]
    async with pair.here.anna.stream(path) as stream:
        started = await soon(stream.event)
        pair.here.service.bus.end()
        last = None
        while (block := await soon(stream.block)) is not None:
            last = block
        assert last is not None
        assert 50 <= int(last.removeprefix("retry: ")) <= 500, "back soon, and not all at once"
    seen = {"Last-Event-ID": str(started["id"])}
    async with pair.there.anna.stream(path, seen) as stream:
        # Its bus has ended; what it was told before must still get through.
        await pair.here.report(worker, settlements=[succeeded(lease, "A")])
        end = await soon(stream.event)
        assert end["event"] == "succeeded", "what was seen is not told twice"
        assert end["id"] == TERMINAL_ID
        assert await soon(stream.event) is None


async def test_a_cancellation_reaches_a_worker_that_calls_another_at_once(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.here.create()
    await pair.here.lease(worker)
    listening = asyncio.ensure_future(pair.here.lease(worker, n=0, wait_s=20))
    await until(lambda: bool(pair.here.service.fleet.workers.get(worker).polls))  # type: ignore[union-attr]
    await pair.there.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    grant = await asyncio.wait_for(listening, PATIENCE_S)
    assert grant["cancels"] == [task["id"]]


async def test_a_cancellation_of_an_earlier_attempt_is_not_told_of_a_later_one(pair: Pair) -> None:
    worker = await pair.register()
    await pair.here.create()
    [first] = (await pair.here.lease(worker))["tasks"]
    released = {**hold(first), "outcome": {"type": "released"}}
    await pair.there.report(worker, settlements=[released])
    [second] = (await pair.there.lease(worker))["tasks"]
    assert second["task_id"] == first["task_id"]
    # As if one had heard late that the first attempt was lost.
    known = pair.here.service.fleet.workers.get(worker)
    assert known is not None
    known.cancels.append(first["task_id"])
    answer = await pair.here.report(worker, holds=[hold(second)])
    assert answer.get("cancels", []) == []


async def test_a_worker_that_waits_at_one_is_told_to_drain_through_another(pair: Pair) -> None:
    worker = await pair.register()
    waiting = asyncio.ensure_future(pair.here.lease(worker, wait_s=20))
    await until(lambda: bool(pair.here.service.fleet.workers.get(worker).polls))  # type: ignore[union-attr]
    answer = await pair.there.admin("POST", f"/v1/workers/{worker}/drain")
    assert answer.status == 200
    grant = await asyncio.wait_for(waiting, PATIENCE_S)
    assert grant["drain"] is True


async def test_a_worker_may_register_at_one_and_work_with_another(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.there.create()
    [lease] = (await pair.there.lease(worker))["tasks"]
    keys = [f"outputs/{task['id']}/1/a.png"]
    asked = {"worker_id": worker, "hold": hold(lease), "keys": keys}
    answer = await pair.here.worker("POST", "/worker/v1/uploads", asked)
    assert answer.status == 200, "a lease of another backend is as good"
    await pair.here.report(worker, settlements=[succeeded(lease, "A")])
    view = (await pair.there.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert view["state"] == "succeeded"


async def test_each_knows_what_workers_hold_and_learns_from_all_tasks(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.here.create()
    [lease] = (await pair.here.lease(worker))["tasks"]
    fleet = pair.there.service.fleet
    await until(lambda: fleet.held_attempt(task["id"]) == 1)

    async def held() -> int:
        listed = (await pair.there.admin("GET", "/v1/workers")).json
        return int(listed["workers"][0]["held"])

    assert await held() == 1
    timings = {"run_s": 0.5}
    await pair.here.report(worker, settlements=[succeeded(lease, "A", timings=timings)])
    await until(lambda: fleet.held_attempt(task["id"]) is None)
    assert await held() == 0
    stats = pair.there.service.times.stats("demo/upper")
    assert stats is not None
    assert stats.service_s(1) == pytest.approx(0.5)


async def test_each_learns_from_short_tasks_of_the_other(pair: Pair) -> None:
    worker = await pair.register()
    service = pair.there.service
    for run_s in (0.25, 0.5, 0.75):
        await pair.here.create()
        [lease] = (await pair.here.lease(worker))["tasks"]
        told = succeeded(lease, "A", timings={"run_s": run_s})
        await pair.here.report(worker, settlements=[told])

    def learned() -> int:
        stats = service.times.stats("demo/upper")
        return 0 if stats is None else stats.n

    await until(lambda: learned() == 3)
    stats = service.times.stats("demo/upper")
    assert stats is not None
    assert stats.service_s(1) == pytest.approx(0.5)
    assert service.times.by_device("demo/upper") == pair.here.service.times.by_device("demo/upper")
    assert service.fleet.held_tasks() == []


async def test_a_start_that_is_told_after_the_end_is_held_by_nobody(pair: Pair) -> None:
    worker = await pair.register()
    await pair.here.create()
    [lease] = (await pair.here.lease(worker))["tasks"]
    await pair.there.report(worker, settlements=[succeeded(lease, "A")])
    late = await pair.here.create()
    await pair.here.lease(worker)
    fleet = pair.there.service.fleet
    await until(lambda: fleet.held_attempt(late["id"]) == 1)
    assert fleet.held_tasks() == [late["id"]]


async def test_an_end_that_is_heard_before_its_start_is_the_end(pair: Pair) -> None:
    worker = await pair.register()
    fleet = pair.there.service.fleet
    summary = TaskSummary("demo/upper", 1, worker, 1, 0.5, 0.5, "v")
    take_events(
        pair.there.service,
        [
            Event(task_id="t1", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=summary),
            Event(task_id="t1", id=ATTEMPT_STRIDE, kind=EventKind.STARTED, summary=summary),
        ],
    )
    assert fleet.held_tasks() == []
    stats = pair.there.service.times.stats("demo/upper")
    assert stats is not None, "it is learnt from"
    again = TaskSummary("demo/upper", 2, worker)
    start = Event(task_id="t1", id=2 * ATTEMPT_STRIDE, kind=EventKind.STARTED, summary=again)
    take_events(pair.there.service, [start])
    assert fleet.held_tasks() == ["t1"], "another attempt is another matter"


async def test_an_end_that_is_told_again_is_learnt_from_once(pair: Pair) -> None:
    worker = await pair.register()
    service = pair.there.service
    for run_s in (0.5, 2.0, 2.0):
        summary = TaskSummary("demo/upper", 1, worker, 1, run_s, run_s, "v")
        end = Event(task_id="t1", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=summary)
        take_events(service, [end])
    stats = service.times.stats("demo/upper")
    assert stats is not None
    assert stats.service_s(1) == pytest.approx(0.5)


async def test_what_tells_progress_at_one_and_ends_at_another_is_held_no_longer(
    pair: Pair,
) -> None:
    worker = await pair.register()
    task = await pair.here.create()
    waiting = pair.here.service.bus.subscribe(task["id"], after=TERMINAL_ID - 1)
    [lease] = (await pair.here.lease(worker))["tasks"]
    step = {**hold(lease), "kind": "progress", "data": {"step": 1, "steps": 2}, "place": 1}
    await pair.there.report(worker, progress=[step])
    fleet = pair.there.service.fleet
    assert fleet.held_tasks() == [task["id"]]
    await pair.here.report(worker, settlements=[succeeded(lease, "A")])
    await until(lambda: fleet.held_tasks() == [])
    waiting.close()


async def test_what_was_over_before_a_worker_was_known_to_hold_any_says_not_how_fast_it_is(
    pair: Pair,
) -> None:
    worker = await pair.register()
    service = pair.there.service
    summary = TaskSummary("demo/upper", 1, worker, 1, 1.0, 1.0, "v")
    start = Event(task_id="t1", id=ATTEMPT_STRIDE, kind=EventKind.STARTED, summary=summary)
    end = Event(task_id="t1", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=summary)
    late_ends = [
        Event(task_id=f"t{n}", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=summary)
        for n in range(2, 12)
    ]
    beside = Event(task_id="t12", id=TERMINAL_ID, kind=EventKind.SUCCEEDED, summary=summary)
    take_events(service, [*late_ends, start])
    pair.clock.advance(2)
    take_events(service, [beside, end])
    known = service.fleet.workers.get(worker)
    assert known is not None
    pace = known.meter.paces["demo/upper"]
    assert pace.task_s == pytest.approx(1.0), "two in two seconds"


async def test_a_key_that_is_revoked_at_one_is_refused_by_another(pair: Pair) -> None:
    assert (await pair.there.anna("GET", "/v1/tasks")).status == 200
    listed = (await pair.here.admin("GET", "/v1/keys")).json["keys"]
    [key] = [each["id"] for each in listed if each["name"] == "anna"]
    assert (await pair.here.admin("DELETE", f"/v1/keys/{key}")).status == 200
    cache = pair.there.service.keys._cache
    await until(lambda: not cache)
    assert (await pair.there.anna("GET", "/v1/tasks")).status == 401


async def test_what_was_missed_is_read_after_the_connection_is_back(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.here.create()
    [lease] = (await pair.here.lease(worker))["tasks"]
    body = {"model": "demo/upper", "input": {"text": "b"}}
    waiting = asyncio.ensure_future(
        pair.there.anna("POST", "/v1/tasks", body, headers={"Prefer": "wait=30"})
    )
    [second] = (await soon(lambda: pair.here.lease(worker, wait_s=10)))["tasks"]
    async with pair.there.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await soon(stream.event))["event"] == "started"
        pair.bench.is_up = False
        done = [succeeded(lease, "A"), succeeded(second, "B")]
        await pair.here.report(worker, settlements=done)
        pair.bench.come_back()
        end = await soon(stream.event)
        assert end["data"]["output"] == "A"
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).json["output"] == "B"
    assert pair.there.service.fleet.held_tasks() == []


async def test_an_end_that_was_missed_closes_the_estimate_of_its_task(pair: Pair) -> None:
    worker = await pair.register()
    ended, waits = [(await pair.here.create())["id"] for _ in range(2)]
    known = pair.there.service.calibration
    second = EtaSeconds(low=1.0, median=1.0, high=1.0)
    told = Estimate(start=second, finish=second)
    for task_id in (ended, waits, "removed"):
        forecast = Forecast(Situation.QUEUE, 0.0, second)
        known.issued(task_id, IssuedEstimate("demo/upper", forecast, told))
    pair.bench.is_up = False
    [lease] = (await pair.here.lease(worker, n=1))["tasks"]
    await pair.here.report(worker, settlements=[succeeded(lease, "A")])
    assert len(known.open) == 3
    pair.bench.come_back()
    await until(lambda: list(known.open) == [waits])


async def test_one_sweeps_and_the_other_takes_over_when_it_stops(pair: Pair) -> None:
    await pair.advance(2)
    lead = [await world.service.leadership.leads("sweeper") for world in pair.worlds]
    assert sorted(lead) == [False, True]
    leader, other = pair.worlds if lead[0] else pair.worlds[::-1]
    await leader.app.stop()
    worker = await other.register()
    task = await other.create(max_attempts=1)
    await other.lease(worker)
    await pair.advance(other.service.settings.delivery.lease_s + 1)
    view = (await other.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert view["state"] == "failed", "the lease was found to be over"


async def test_a_leader_that_dies_is_replaced_when_its_lease_is_over(pair: Pair) -> None:
    await pair.advance(2)
    lead = [await world.service.leadership.leads("sweeper") for world in pair.worlds]
    leader, other = pair.worlds if lead[0] else pair.worlds[::-1]
    # As SIGKILL would: it does nothing any more, and gives nothing back.
    for each in leader.app._duties._running:
        each.cancel()
    await pair.advance(DUTY_LEASE_S + 3)
    assert await other.service.leadership.leads("sweeper")


async def test_a_deadline_that_passes_stops_a_worker_that_calls_another(pair: Pair) -> None:
    worker = await pair.register()
    task = await pair.here.create(finish_by_s=5)
    await pair.here.lease(worker)
    listening = asyncio.ensure_future(pair.here.lease(worker, n=0, wait_s=20))
    await until(lambda: bool(pair.here.service.fleet.workers.get(worker).polls))  # type: ignore[union-attr]
    pair.clock.advance(6)
    await sweep(pair.there.service)
    grant = await asyncio.wait_for(listening, PATIENCE_S)
    assert grant["cancels"] == [task["id"]]


async def test_what_two_see_of_a_canary_is_weighed_together_and_holds_at_both(pair: Pair) -> None:
    here, there = pair.here, pair.there
    old = await pair.register()
    path, newer = "/v1/models/demo/upper", UPPER | {"version": "2"}
    assert (await here.admin("POST", f"{path}/promote", {"version": "1"})).status == 200
    new = await there.register(newer)
    await until(lambda: bool(here.service.fleet.live("demo/upper", "2")))
    body = {"version": "2", "share": 0.5}
    assert (await here.admin("POST", f"{path}/canary", body)).status == 200
    await until(lambda: "demo/upper" in there.service.cards.canaries)
    tasks = [
        {"model": "demo/upper", "input": {"text": "a"}, "user": f"u{each}"} for each in range(160)
    ]
    for world in (here, there):
        answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": tasks})
        assert answer.status == 202
    leased = (await here.lease(new, n=200))["tasks"]
    half = len(leased) // 2
    assert {each["version"] for each in leased} == {"2"}
    # What a worker tells is taken by whichever backend it calls.
    await here.report(new, settlements=[failed(each, retryable=True) for each in leased[:half]])
    await there.report(new, settlements=[failed(each, retryable=True) for each in leased[half:]])
    leased = (await there.lease(old, n=300))["tasks"]
    assert {each["version"] for each in leased} == {"1"}
    await there.report(old, settlements=[succeeded(each, "A") for each in leased])
    for _ in range(2):
        for world in (here, there):
            await look_after_canaries(world.service)
    for world in (here, there):
        await until(lambda world=world: not world.service.cards.canaries)  # type: ignore[misc]
    shown = (await there.admin("GET", f"{path}/adoption")).json
    assert (shown["live"], shown["history"][0]["who"]) == ("1", "")
    assert [each["action"] for each in shown["history"]].count("rollback") == 1
    assert await here.service.registry.notes("adoption/evidence/") == {}
