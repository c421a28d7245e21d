"""Costs of attempts, the remainder of bills, budgets, and reports of costs."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, World, a_world, failed, hold, succeeded
from fleet_cases import Yard, a_pool

from manual_clock import ManualClock
from sqlite_rig import SqliteRig, turns
from swell.core.billing.ledger import EntryKind, LedgerEntry
from swell.core.billing.price_history import TARIFFS, PoolTariff, changed
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState
from swell.db.instance_notices import Spent, keep_spent, last_spent, tell_end
from swell.db.registry import Registry
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import create_app
from swell.server.background_jobs import Duties, Duty, sweep
from swell.server.billing.attempt_costs import Charges
from swell.server.billing.cost_routes import instance_ended, settle, spent, watch_budget
from swell.server.leader_election import Leadership
from swell.server.metrics import Metrics

MODEL = "demo/upper"
#: A thousandth of a dollar each second.
PRICE = 3_600_000
#: Shorter than a lease, so that no sweep ends a running task.
HEARTBEAT_S = 20.0


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test looks at workers, charges and settles; no duty does so in between."""
    table = Duties.table
    by_hand = ("workers", "charges", "costs")

    def without(duties: Duties) -> list[Duty]:
        return [each for each in table(duties) if each.name not in by_hand]

    monkeypatch.setattr(Duties, "table", without)


@pytest.fixture
async def world(by_hand: None) -> AsyncIterator[World]:
    async with a_world(hour_micros={"default": PRICE}, api_image_micros=40_000) as made:
        yield made


@pytest.fixture
async def free(by_hand: None) -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def register(world: World, startup: dict[str, Any] | None = None, **fields: Any) -> str:
    body = {"name": "w", "models": [UPPER], "slots": 4, "startup": startup, **fields}
    answer = await world.worker("POST", "/worker/v1/register", body)
    assert answer.status == 200, answer.body
    return str(answer.json["worker_id"])


def cold(age_s: float = 30.0, **fields: Any) -> dict[str, Any]:
    ready = {"id": "s1", "state": "ready", "age_s": age_s, "ready_s": age_s, "models": [MODEL]}
    return ready | fields


async def ledger(world: World) -> list[Any]:
    found = (await world.admin("GET", "/v1/ledger?limit=500")).json["entries"]
    return list(reversed(found))


async def totals(world: World) -> dict[str, tuple[float, int | None]]:
    """Return kind → its seconds and millionths of a dollar."""
    found: dict[str, tuple[float, int | None]] = {}
    for each in await ledger(world):
        seconds, micros = found.get(each["kind"], (0.0, None))
        cost = each["cost_micros"]
        both = micros if cost is None else (micros or 0) + cost
        found[each["kind"]] = round(seconds + each["seconds"], 6), both
    return found


async def run(
    world: World, worker: str, seconds: float = 2.0, *, device_s: float | None = None, **more: Any
) -> tuple[str, dict[str, Any]]:
    """Run a task for some seconds; return its id and its worker's settlement."""
    task = await world.create(**more)
    [lease] = (await world.lease(worker))["tasks"]
    left_s = seconds
    while left_s > HEARTBEAT_S:
        world.clock.advance(HEARTBEAT_S)
        await world.report(worker, holds=[hold(lease)])
        left_s -= HEARTBEAT_S
    world.clock.advance(left_s)
    timings = {"run_s": seconds} | ({} if device_s is None else {"device_s": device_s})
    told = succeeded(lease, "A", timings=timings)
    await world.report(worker, settlements=[told])
    return task["id"], told


async def show(world: World, task_id: str) -> Any:
    return (await world.anna("GET", f"/v1/tasks/{task_id}")).json


async def metrics(world: World) -> dict[str, float]:
    text = (await world.stranger("GET", "/metrics")).body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def dict_of(prices: Mapping[str, int]) -> dict[str, int]:
    assert isinstance(prices, dict)
    return prices


def ended(world: World, instance_id: str, launched_s: float) -> Instance:
    now = world.clock.now()
    return Instance(
        id=instance_id,
        pool="default",
        state=InstanceState.ENDED,
        launched_at=now - timedelta(seconds=launched_s),
        ended_at=now,
    )


# ---- attempts


async def test_a_task_shows_the_cost_of_its_share_of_the_device(world: World) -> None:
    worker = await register(world)
    task_id, _ = await run(world, worker, 2.0, device_s=0.5)
    shown = await show(world, task_id)
    assert shown["cost_micros"] == 500
    assert shown["timings"]["device_s"] == 0.5
    assert "cost_micros" not in shown["timings"]


async def test_a_task_of_a_pool_without_a_price_has_no_cost(free: World) -> None:
    worker = await register(free)
    task_id, _ = await run(free, worker, device_s=0.5)
    shown = await show(free, task_id)
    assert (shown["cost_micros"], shown["timings"]["device_s"]) == (None, 0.5)


async def test_an_attempt_is_charged_with_whose_it_is(world: World) -> None:
    worker = await register(world)
    task_id, _ = await run(world, worker, device_s=0.5, user="ute", count=3)
    [entry] = await ledger(world)
    told = {name: entry[name] for name in ("id", "kind", "models", "ref", "outcome", "worker_id")}
    assert told == {
        "id": f"{task_id}-1",
        "kind": "attempt",
        "models": [MODEL],
        "ref": task_id,
        "outcome": "succeeded",
        "worker_id": worker,
    }
    assert (entry["seconds"], entry["cost_micros"]) == (0.5, 500)
    assert (entry["user"], entry["attempts"], entry["images"]) == ("ute", 1, 3)
    assert entry["key_id"]


async def test_an_attempt_that_failed_is_kept_apart(world: World) -> None:
    worker = await register(world)
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    world.clock.advance(3.0)
    told = failed(lease, retryable=True)
    told["outcome"]["timings"] = {"run_s": 3.0, "device_s": 1.5}
    await world.report(worker, settlements=[told])
    [entry] = await ledger(world)
    assert (entry["kind"], entry["seconds"], entry["images"]) == ("failed", 1.5, 0)


async def test_costs_in_a_report_are_ignored(world: World, free: World) -> None:
    for each in (world, free):
        worker = await register(each)
        task = await each.create()
        [lease] = (await each.lease(worker))["tasks"]
        each.clock.advance(1.0)
        timings = {"device_s": 1.0, "cost_micros": 10**15}
        told = succeeded(lease, "A", timings=timings)
        await each.report(worker, settlements=[told])
        cost = (await show(each, task["id"]))["cost_micros"]
        assert cost == (1_000 if each is world else None)


DEAR = UPPER | {"price_micros": 40_000}


async def pay(world: World, worker: str, *micros: int, **more: Any) -> list[dict[str, Any]]:
    """Run tasks for a second each, with payments to a remote service; return their settlements."""
    told = []
    for each in micros:
        await world.create(**more)
        [lease] = (await world.lease(worker))["tasks"]
        world.clock.advance(1)
        told.append(succeeded(lease, "A", timings={"run_s": 1.0, "paid_micros": each}))
        await world.report(worker, settlements=told[-1:])
    return told


@pytest.mark.parametrize("is_priced", [True, False])
async def test_payments_to_remote_services_are_charged_to_the_task_and_to_no_machine(
    world: World, free: World, is_priced: bool
) -> None:
    here = world if is_priced else free
    worker = await register(here, models=[DEAR])
    told = await pay(here, worker, 40_000, 0, user="eve")
    shown = await show(here, told[0]["task_id"])
    machine = 1_000 if is_priced else 0
    assert shown["cost_micros"] == 40_000 + machine
    assert "paid_micros" not in shown["timings"]
    await here.report(worker, settlements=told)
    here.clock.advance(120)
    [entry] = [each for each in await ledger(here) if each["outcome"] == "paid"]
    assert (entry["kind"], entry["cost_micros"], entry["seconds"]) == ("attempt", 40_000, 0.0)
    assert (entry["ref"], entry["user"], entry["worker_id"]) == (told[0]["task_id"], "eve", None)
    [cost] = (await here.admin("GET", "/v1/costs?by=model")).json["costs"]
    assert (cost["images"], cost["attempts"]) == (2, 2)
    if is_priced:
        assert cost["image_micros"] == (40_000 + 2 * machine) / 2
    else:
        # Attempts without a price do not count in the cost of an image.
        assert cost["image_micros"] == 40_000
    # The machine is charged its time and no more.
    [life] = await here.service.registry.charged([worker])
    assert life.seconds == pytest.approx(2.0)
    assert life.micros == 2 * machine


async def test_payments_are_limited_by_the_models_card(world: World, free: World) -> None:
    plain = await register(world)
    [told] = await pay(world, plain, 40_000)
    assert (await show(world, told["task_id"]))["cost_micros"] == 1_000
    dear = await register(free, models=[DEAR])
    greedy, negative = await pay(free, dear, 10**15, -5)
    assert (await show(free, greedy["task_id"]))["cost_micros"] == 40_000 * 10_000
    assert (await show(free, negative["task_id"]))["cost_micros"] is None


async def test_an_attempt_that_failed_has_paid_all_the_same(free: World) -> None:
    worker = await register(free, models=[DEAR])
    await free.create()
    [lease] = (await free.lease(worker))["tasks"]
    told = failed(lease, retryable=False)
    told["outcome"]["timings"] = {"run_s": 1.0, "paid_micros": 40_000}
    await free.report(worker, settlements=[told])
    [entry] = [each for each in await ledger(free) if each["outcome"] == "paid"]
    assert (entry["kind"], entry["cost_micros"]) == ("failed", 40_000)


async def written(world: World) -> list[Any]:
    """Return the entries of payments to remote services, as they are in the ledger now."""
    entries = (await world.admin("GET", "/v1/ledger?limit=500")).json["entries"]
    return [each for each in entries if each["outcome"] == "paid"]


@pytest.mark.parametrize("is_priced", [True, False])
async def test_payments_are_in_the_ledger_before_the_worker_gets_its_answer(
    world: World, free: World, is_priced: bool
) -> None:
    here = world if is_priced else free
    worker = await register(here, models=[DEAR])
    told = await pay(here, worker, 40_000)
    [entry] = await written(here)
    assert (entry["ref"], entry["cost_micros"]) == (told[0]["task_id"], 40_000)
    await here.report(worker, settlements=told)
    assert len(await written(here)) == 1


async def test_payments_wait_while_the_registry_is_unavailable(
    free: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await register(free, models=[DEAR])
    charge = free.service.registry.charge

    async def refuse(entries: list[LedgerEntry]) -> list[bool]:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(free.service.registry, "charge", refuse)
    [told] = await pay(free, worker, 40_000)
    assert (await show(free, told["task_id"]))["state"] == "succeeded"
    monkeypatch.setattr(free.service.registry, "charge", charge)
    await free.service.charges.keep()
    assert [each["cost_micros"] for each in await written(free)] == [40_000]


@pytest.mark.slow
async def test_a_payment_that_was_not_written_is_charged_by_the_repeated_report(
    free: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await register(free, models=[DEAR])
    charge = free.service.registry.charge

    async def die(entries: list[LedgerEntry]) -> list[bool]:
        raise RuntimeError("killed")

    monkeypatch.setattr(free.service.registry, "charge", die)
    await free.create()
    [lease] = (await free.lease(worker))["tasks"]
    told = succeeded(lease, "A", timings={"run_s": 1.0, "paid_micros": 40_000})
    body = {"worker_id": worker, "settlements": [told]}
    assert (await free.worker("POST", "/worker/v1/report", body)).status == 500
    monkeypatch.setattr(free.service.registry, "charge", charge)
    await free.report(worker, settlements=[told])
    assert [each["cost_micros"] for each in await written(free)] == [40_000]


async def test_a_payment_for_an_expired_task_is_charged(free: World) -> None:
    worker = await register(free, models=[DEAR])
    task = await free.create(finish_by_s=5)
    [lease] = (await free.lease(worker))["tasks"]
    free.clock.advance(6)
    await sweep(free.service)
    assert (await show(free, task["id"]))["state"] == "expired"
    late = succeeded(lease, "A", timings={"run_s": 6.0, "paid_micros": 40_000})
    assert (await free.report(worker, settlements=[late]))["stale"] == [task["id"]]
    await free.report(worker, settlements=[late])
    [entry] = await written(free)
    assert (entry["kind"], entry["ref"]) == ("failed", task["id"])
    assert entry["cost_micros"] == 40_000


async def test_a_payment_by_a_worker_that_lost_its_lease_is_charged_too(
    free: World,
) -> None:
    first, second = await register(free, models=[DEAR]), await register(free, models=[DEAR])
    task = await free.create()
    [lost] = (await free.lease(first))["tasks"]
    free.clock.advance(100)
    await sweep(free.service)
    free.clock.advance(100)
    await sweep(free.service)
    [lease] = (await free.lease(second))["tasks"]
    paid = {"timings": {"run_s": 1.0, "paid_micros": 40_000}}
    await free.report(first, settlements=[succeeded(lost, "late", **paid)])
    await free.report(second, settlements=[succeeded(lease, "A", **paid)])
    found = [(each["kind"], each["ref"]) for each in await written(free)]
    assert found == [("attempt", task["id"]), ("failed", task["id"])]
    [cost] = (await free.admin("GET", "/v1/costs?by=model")).json["costs"]
    assert (cost["micros"]["total"], cost["images"]) == (80_000, 1)


async def test_a_worker_pays_for_no_attempt_that_it_cannot_have_had(free: World) -> None:
    worker = await register(free, models=[DEAR])
    other = await register(free, models=[DEAR | {"name": "demo/other"}])
    task = await free.create()
    [lease] = (await free.lease(worker))["tasks"]
    paid = {"timings": {"paid_micros": 40_000}}
    for strange in (
        lease | {"token": "none", "attempt": 2},
        lease | {"token": "none", "attempt": 0},
        lease | {"task_id": "none"},
    ):
        await free.report(worker, settlements=[succeeded(strange, "A", **paid)])
    await free.report(other, settlements=[succeeded(lease | {"token": "none"}, "A", **paid)])
    assert (await show(free, task["id"]))["state"] == "running"
    assert await written(free) == []


async def test_a_version_that_was_known_without_a_price_is_charged_with_that_of_now(
    free: World,
) -> None:
    await register(free)
    worker = await register(free, models=[DEAR])
    await pay(free, worker, 40_000)
    assert [each["cost_micros"] for each in await written(free)] == [40_000]
    asked = {"model": MODEL, "input": {"text": "a"}, "count": 2}
    assert (await free.anna("POST", "/v1/estimate", asked)).json["cost_micros"] == 80_000
    # Registered without a price, it has none again.
    await register(free)
    assert (await free.anna("GET", f"/v1/models/{MODEL}")).json.get("price_micros") is None
    assert not (await free.anna("POST", "/v1/estimate", asked)).json.get("cost_micros")


async def test_a_payment_for_a_retired_version_is_charged(
    free: World,
) -> None:
    worker = await register(free, models=[DEAR])
    await free.create()
    [lease] = (await free.lease(worker))["tasks"]
    await register(free, models=[UPPER | {"version": "2"}])
    for action, version in (("promote", "2"), ("retire", "1")):
        path = f"/v1/models/{MODEL}/{action}"
        answer = await free.admin("POST", path, {"version": version})
        assert answer.status == 200, answer.body
    told = succeeded(lease, "A", timings={"run_s": 1.0, "paid_micros": 40_000})
    await free.report(worker, settlements=[told])
    assert [each["cost_micros"] for each in await written(free)] == [40_000]


@pytest.mark.parametrize("micros", [-1, 10**18])
async def test_an_impossible_price_is_refused(free: World, micros: int) -> None:
    body = {"name": "w", "models": [UPPER | {"price_micros": micros}], "slots": 1}
    answer = await free.worker("POST", "/worker/v1/register", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_input")


class Slow(Registry):
    """Lets others have a turn before it writes."""

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        await asyncio.sleep(0)
        return await super().charge(entries)


async def test_entries_that_come_while_two_write_are_all_written() -> None:
    clock = ManualClock()
    registry = Slow(SqliteRig(clock).database)
    charges = Charges(registry, clock, Metrics())

    async def come() -> None:
        for n in range(100):
            charges._entries.append(
                LedgerEntry(id=str(n), at=clock.now(), kind=EntryKind.IDLE, pool="a", seconds=1.0)
            )
            await asyncio.sleep(0)

    await asyncio.gather(come(), charges.keep(), charges.keep())
    await charges.keep()
    assert len((await registry.ledger(limit=200)).entries) == 100


@pytest.mark.parametrize(("device_s", "counts_s"), [(1e300, 5.0), (-3.0, 0.0), (4.0, 4.0)])
async def test_a_share_is_no_longer_than_its_worker_has_lived(
    world: World, free: World, device_s: float, counts_s: float
) -> None:
    for each in (world, free):
        worker = await register(each)
        each.clock.advance(3.0)
        await run(each, worker, 2.0, device_s=device_s)
        assert (await totals(each))["attempt"][0] == counts_s


async def test_an_attempt_without_a_share_is_charged_its_running_time(world: World) -> None:
    worker = await register(world)
    await run(world, worker, 2.0)
    assert (await totals(world))["attempt"] == (2.0, 2_000)


async def test_a_repeated_report_is_charged_once(world: World, free: World) -> None:
    for each in (world, free):
        worker = await register(each)
        _, told = await run(each, worker, device_s=1.0)
        assert "stale" not in await each.report(worker, settlements=[told])
        await each.service.charges.keep()
        await each.report(worker, settlements=[told])
        assert (await totals(each))["attempt"][0] == 1.0


async def test_a_refused_outcome_is_not_charged(world: World) -> None:
    worker = await register(world)
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    told = succeeded(lease, "A", timings={"device_s": 1.0}) | {"token": "wrong"}
    assert (await world.report(worker, settlements=[told]))["stale"] == [lease["task_id"]]
    assert await ledger(world) == []


async def test_attempts_without_a_price_are_added_up(free: World) -> None:
    worker = await register(free)
    for _ in range(3):
        await run(free, worker, 2.0, device_s=0.25)
    [entry] = (await free.admin("GET", "/v1/ledger")).json["entries"]
    assert (entry["kind"], entry["seconds"], entry["cost_micros"]) == ("attempt", 0.75, None)
    assert (entry["attempts"], entry["images"]) == (3, 3)


async def test_entries_wait_while_the_registry_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await register(world)
    charge = world.service.registry.charge

    async def refuse(entries: list[LedgerEntry]) -> list[bool]:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(world.service.registry, "charge", refuse)
    await run(world, worker, device_s=1.0)
    with pytest.raises(Unavailable):
        await world.service.charges.keep()
    monkeypatch.setattr(world.service.registry, "charge", charge)
    assert (await totals(world))["attempt"] == (1.0, 1_000)


# ---- the remainder of bills


async def test_the_time_that_a_worker_had_nothing_to_do_is_idle(world: World) -> None:
    worker = await register(world, cold(30.0))
    await run(world, worker, 2.0, device_s=1.5)
    world.clock.advance(8.0)
    await world.lease(worker)
    await settle(world.service)
    assert await totals(world) == {
        "cold_start": (30.0, 30_000),
        "attempt": (1.5, 1_500),
        "idle": (8.5, 8_500),
    }


async def test_idle_time_is_written_once_in_a_period(world: World) -> None:
    worker = await register(world)
    for _ in range(10):
        world.clock.advance(60.0)
        await world.lease(worker)
        await settle(world.service)
    idle = [each["seconds"] for each in await ledger(world)]
    assert len(idle) == 3
    assert sum(idle) <= 600.0


async def test_a_worker_that_is_at_something_is_idle_until_that_began(world: World) -> None:
    worker = await register(world)
    world.clock.advance(10.0)
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    world.clock.advance(20.0)
    await world.report(worker, holds=[hold(lease)])
    await settle(world.service)
    assert await totals(world) == {"idle": (10.0, 10_000)}


async def test_a_silent_worker_costs_until_its_last_message(world: World) -> None:
    worker = await register(world)
    world.clock.advance(10.0)
    await world.lease(worker)
    world.clock.advance(3600.0)
    await settle(world.service)
    assert await totals(world) == {"idle": (10.0, 10_000)}


async def test_the_whole_life_of_an_instance_is_charged(world: World) -> None:
    worker = await register(world, cold(30.0, instance="i-1"), instance="i-1")
    await run(world, worker, 2.0, device_s=1.5)
    world.clock.advance(5.0)
    await world.report(worker, goodbye=True)
    world.clock.advance(3.0)
    await instance_ended(world.service, ended(world, "i-1", 40.0))
    await settle(world.service)
    found = await totals(world)
    assert found == {"cold_start": (30.0, 30_000), "attempt": (1.5, 1_500), "idle": (8.5, 8_500)}
    assert sum(seconds for seconds, _ in found.values()) == 40.0
    # Repeating it charges nothing more.
    await instance_ended(world.service, ended(world, "i-1", 40.0))
    await settle(world.service)
    assert await totals(world) == found


async def test_another_process_may_report_ends(world: World) -> None:
    worker = await register(world, None, instance="i-1")
    world.clock.advance(5.0)
    await world.report(worker, goodbye=True)
    registry = world.service.registry
    lives = ended(world, "i-1", 5.0)
    await tell_end(registry, lives)
    await tell_end(registry, lives)
    await tell_end(registry, ended(world, "never seen", 7.0))
    for _ in range(2):
        await settle(world.service)
        assert await totals(world) == {"idle": (5.0, 5_000), "wasted": (7.0, 7_000)}
        assert await registry.notes("ended") == {}
        await tell_end(registry, lives)
    world.clock.advance(2 * 86_400.0)
    await tell_end(registry, lives)
    await settle(world.service)
    assert await totals(world) == {"idle": (5.0, 5_000), "wasted": (7.0, 7_000)}


async def test_the_number_of_ends_does_not_change_how_often_workers_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = world.service.registry
    read_workers, reads = registry.workers, []

    async def workers() -> Any:
        reads.append(1)
        return await read_workers()

    monkeypatch.setattr(registry, "workers", workers)
    counts = []
    for n in (1, 20):
        for number in range(n):
            await register(world, None, instance=f"i-{n}-{number}")
        world.clock.advance(5.0)
        for number in range(n):
            await tell_end(registry, ended(world, f"i-{n}-{number}", 5.0))
        reads.clear()
        await settle(world.service)
        counts.append(len(reads))
    assert counts[0] == counts[1]
    assert await totals(world) == {"wasted": (105.0, 105_000)}


async def test_one_that_died_has_wasted_its_silence(world: World) -> None:
    await register(world, None, instance="i-7")
    world.clock.advance(5.0)
    await instance_ended(world.service, ended(world, "i-7", 5.0))
    await settle(world.service)
    assert await totals(world) == {"wasted": (5.0, 5_000)}


async def test_the_minimum_that_is_billed_is_charged() -> None:
    prices = {"hour_micros": {"default": PRICE}, "least_billed_s": {"default": 60.0}}
    async with a_world(**prices, launch_micros={"default": 7}) as world:
        worker = await register(world, cold(30.0, instance="i-1"), instance="i-1")
        await world.report(worker, goodbye=True)
        await instance_ended(world.service, ended(world, "i-1", 30.0))
        await settle(world.service)
        assert await totals(world) == {"cold_start": (30.0, 30_007), "wasted": (30.0, 30_000)}


async def test_an_instance_whose_worker_never_registered_is_charged(world: World) -> None:
    starting = {"id": "s9", "age_s": 10.0, "instance": "i-9"}
    answer = await world.worker("POST", "/worker/v1/starting", starting)
    assert answer.status == 200
    world.clock.advance(10.0)
    await instance_ended(world.service, ended(world, "i-9", 20.0))
    assert await totals(world) == {"cold_start": (20.0, 20_000)}
    # Another has never reported anything.
    for _ in range(2):
        await instance_ended(world.service, ended(world, "i-8", 15.0))
        await settle(world.service)
        assert await totals(world) == {"cold_start": (20.0, 20_000), "wasted": (15.0, 15_000)}


async def test_without_a_reported_end_the_deregistration_counts(world: World) -> None:
    worker = await register(world)
    world.clock.advance(5.0)
    await world.report(worker, goodbye=True)
    await settle(world.service)
    assert await totals(world) == {}, "somebody may still tell"
    world.clock.advance(601.0)
    await settle(world.service)
    assert await totals(world) == {"idle": (5.0, 5_000)}


async def test_a_worker_that_registers_again_is_the_same_machine(world: World) -> None:
    await register(world, cold(30.0))
    world.clock.advance(10.0)
    again = await register(world, cold(40.0, ready_s=30.0))
    world.clock.advance(10.0)
    await world.lease(again)
    await settle(world.service)
    assert await totals(world) == {"cold_start": (30.0, 30_000), "idle": (20.0, 20_000)}


async def test_a_machine_keeps_the_price_that_it_had_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await register(world, cold(30.0, instance="i-1"), instance="i-1")
    await run(world, worker, 70.0)
    # A backend with other settings takes over, and the worker registers again.
    monkeypatch.setitem(dict_of(world.service.settings.hour_micros), "default", 2 * PRICE)
    again = await register(world, cold(100.0, ready_s=30.0, instance="i-1"), instance="i-1")
    await run(world, again, 50.0)
    await world.report(again, goodbye=True)
    # Another machine has the new price.
    other = await register(world, cold(10.0, id="s2", instance="i-2"), instance="i-2")
    await world.report(other, goodbye=True)
    for name, lived_s in (("i-1", 150.0), ("i-2", 10.0)):
        await instance_ended(world.service, ended(world, name, lived_s))
    await settle(world.service)
    assert await totals(world) == {
        "cold_start": (40.0, 30_000 + 20_000),
        "attempt": (120.0, 120_000),
    }


async def test_a_worker_without_a_startup_is_the_same_machine_if_it_registers_again(
    world: World,
) -> None:
    for _ in range(2):
        worker = await register(world, None, instance="i-1")
        world.clock.advance(10.0)
    await world.report(worker, goodbye=True)
    await instance_ended(world.service, ended(world, "i-1", 25.0))
    await settle(world.service)
    assert await totals(world) == {"idle": (25.0, 25_000)}


async def test_an_end_by_a_clock_that_is_behind_is_that_of_its_worker(world: World) -> None:
    worker = await register(world, None, instance="i-1")
    world.clock.advance(10.0)
    await world.report(worker, goodbye=True)
    told = ended(world, "i-1", 20.0)
    behind = timedelta(seconds=30)
    await instance_ended(
        world.service,
        msgspec.structs.replace(
            told, launched_at=told.launched_at - behind, ended_at=world.clock.now() - behind
        ),
    )
    world.clock.advance(700.0)
    await settle(world.service)
    assert await totals(world) == {"idle": (20.0, 20_000)}


async def test_entries_lost_in_a_crash_become_idle_time(world: World) -> None:
    worker = await register(world)
    await run(world, worker, 2.0, device_s=2.0)
    service = world.service
    service.charges = Charges(service.registry, world.clock, service.metrics)
    world.clock.advance(8.0)
    await world.lease(worker)
    await settle(service)
    assert await totals(world) == {"idle": (10.0, 10_000)}


async def test_attempts_that_were_lost_with_their_worker_have_failed(world: World) -> None:
    worker = await register(world)
    world.clock.advance(10.0)
    for _ in range(2):
        await world.create()
    leases = (await world.lease(worker))["tasks"]
    world.clock.advance(6.0)
    await world.report(worker, holds=[hold(each) for each in leases])
    await world.service.fleet.refresh()
    world.clock.advance(100.0)
    assert await sweep(world.service) == 2
    found = [each for each in await ledger(world) if each["kind"] == "failed"]
    assert [(each["outcome"], each["seconds"]) for each in found] == [("worker_lost", 3.0)] * 2
    # The late report of a lost attempt is not charged again.
    late = succeeded(leases[0], "A", timings={"device_s": 5.0})
    await world.report(worker, settlements=[late])
    assert (await totals(world))["failed"] == (6.0, 6_000)


@pytest.mark.slow
@pytest.mark.parametrize("error", [Unavailable("the disk is full"), RuntimeError("a fault")])
async def test_what_cannot_be_charged_stops_no_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    worker = await register(world)
    task = await world.create()
    await world.lease(worker)

    async def refuse(entries: list[LedgerEntry]) -> list[bool]:
        raise error

    monkeypatch.setattr(world.service.registry, "charge", refuse)
    world.clock.advance(100.0)
    await sweep(world.service)
    assert (await show(world, task["id"]))["state"] == "queued"
    assert (await metrics(world))['swell_tasks_swept_total{what="lost"}'] == 1
    assert (await metrics(world))['swell_duty_failures_total{duty="costs"}'] >= 1


async def test_restarts_and_switches_are_wasted(world: World) -> None:
    worker = await register(world, cold(30.0))
    world.clock.advance(20.0)
    restart = {"id": "r1", "kind": "restart", "state": "done", "age_s": 4.0, "models": [MODEL]}
    switch = restart | {"id": "r2", "kind": "switch", "age_s": 1e6}
    for _ in range(2):
        await world.report(worker, startups=[restart, switch])
    assert (await totals(world))["wasted"] == (24.0, 24_000)


# ---- budgets


async def test_the_money_spent_includes_time_that_is_not_charged_yet(world: World) -> None:
    worker = await register(world, cold(30.0))
    await run(world, worker, 2.0, device_s=1.5)
    starting = {"id": "s2", "age_s": 10.0}
    await world.worker("POST", "/worker/v1/starting", starting)
    assert (await spent(world.service)).day_micros == 30_000 + 2_000 + 10_000
    world.clock.advance(11.0)
    await world.lease(worker)
    await settle(world.service)
    assert (await spent(world.service)).day_micros == 30_000 + 13_000 + 21_000
    assert await last_spent(world.service.registry) is None
    await watch_budget(world.service)
    told = await last_spent(world.service.registry)
    assert told is not None
    assert told.today_micros(world.clock.now()) == 64_000
    assert told.today_micros(world.clock.now() + timedelta(days=1)) is None
    assert (await metrics(world))['swell_spent_micros{period="day"}'] == 64_000


async def test_metrics_show_the_money_spent_as_another_backend_computed_it_today() -> None:
    async with a_world(budget_day_micros=100) as world:
        await pause()
        service, today = world.service, world.clock.now().date()
        service.leadership = Leadership(
            service.registry, world.clock, "this", is_shared=True, skew=service.skew
        )
        await keep_spent(service.registry, Spent(day=today, day_micros=70, month_micros=90))
        world.clock.advance(60.0)
        assert await service.registry.take_duty("costs", "another", lease_s=6.0)
        await pause()
        told = await metrics(world)
        assert told['swell_spent_micros{period="day"}'] == 70
        assert told['swell_spent_micros{period="month"}'] == 90
        assert told['swell_budget_micros{period="day"}'] == 100
        world.clock.advance(86_400.0)
        assert await service.registry.take_duty("costs", "another", lease_s=6.0)
        await pause()
        told = await metrics(world)
        assert 'swell_spent_micros{period="day"}' not in told
        assert told['swell_spent_micros{period="month"}'] == 90


async def pause() -> None:
    """Let the duties have their turns."""
    await turns(50)


async def test_yesterday_counts_to_the_month_alone(world: World) -> None:
    worker = await register(world)
    world.clock.advance(100.0)
    await world.report(worker, goodbye=True)
    world.clock.advance(700.0)
    await settle(world.service)
    world.clock.advance(86_400.0)
    found = await spent(world.service)
    assert (found.day_micros, found.month_micros) == (0, 100_000)
    world.clock.advance(31 * 86_400.0)
    assert (await spent(world.service)).month_micros == 0


async def test_each_alarm_of_a_budget_is_given_once_a_day(by_hand: None) -> None:
    budget = {"budget_day_micros": 100_000, "budget_month_micros": 10**9}
    async with a_world(hour_micros={"default": PRICE}, **budget) as world:
        worker = await register(world)
        seen: list[str] = []
        for _ in range(12):
            world.clock.advance(10.0)
            await world.lease(worker)
            for _ in range(2):
                await watch_budget(world.service)
            told = (await world.admin("GET", "/v1/audit")).json["entries"]
            seen = [each["target"] for each in told if each["action"] == "budget.day"]
        assert seen == ["100 %", "80 %", "50 %"]
        assert "0.05 of 0.10 $" in told[-1]["detail"]
        assert (await metrics(world))['swell_budget_micros{period="day"}'] == 100_000
        await world.report(worker, goodbye=True)
        world.clock.advance(86_400.0)
        again = await register(world)
        world.clock.advance(60.0)
        await world.lease(again)
        await watch_budget(world.service)
        told = (await world.admin("GET", "/v1/audit")).json["entries"]
        assert [each["target"] for each in told if each["action"] == "budget.day"] == [
            "50 %",
            *seen,
        ]


# ---- reports


async def costs(world: World, query: str = "") -> Any:
    answer = await world.admin("GET", f"/v1/costs{query}")
    assert answer.status == 200, answer.body
    return answer.json


async def test_costs_of_a_model_are_shown_with_and_without_shared_costs(world: World) -> None:
    worker = await register(world, cold(30.0))
    for user in ("ute", "ute", "vera"):
        await run(world, worker, 2.0, device_s=2.0, user=user)
    world.clock.advance(4.0)
    await world.lease(worker)
    await settle(world.service)
    found = await costs(world)
    [model] = found["costs"]
    assert (model["name"], model["images"], model["attempts"]) == (MODEL, 3, 3)
    assert model["seconds"] == {
        "attempts": 6.0,
        "failed": 0.0,
        "idle": 4.0,
        "cold": 30.0,
        "wasted": 0.0,
        "total": 40.0,
    }
    assert model["micros"]["total"] == 40_000
    assert (model["image_micros"], model["loaded_image_micros"]) == (2_000.0, 13_333.333)
    assert (found["api_image_micros"], model["api_micros"]) == (40_000, 120_000)
    assert found["total"] == model | {"name": None}
    by_user = await costs(world, "?by=user")
    assert [(each["name"], each["micros"]["total"]) for each in by_user["costs"]] == [
        ("ute", 26_667),
        ("vera", 13_333),
    ]
    few = await costs(world, "?by=user&limit=1")
    assert few["others"]["micros"]["total"] == 13_333
    assert few["total"] == by_user["total"]
    [day] = (await costs(world, "?by=day"))["costs"]
    assert day["name"] == world.clock.now().date().isoformat()
    [pool] = (await costs(world, "?by=pool"))["costs"]
    assert (pool["name"], pool["micros"]["total"]) == ("default", 40_000)
    [key] = (await costs(world, "?by=key"))["costs"]
    assert key["micros"]["total"] == 40_000


async def test_costs_without_a_price_are_seconds(free: World) -> None:
    worker = await register(free)
    await run(free, worker, 2.0, device_s=2.0)
    [model] = (await costs(free))["costs"]
    assert model["seconds"]["attempts"] == 2.0
    assert [model[name] for name in ("micros", "image_micros", "api_micros")] == [None] * 3


async def test_costs_are_shown_for_the_requested_days(world: World) -> None:
    worker = await register(world)
    await run(world, worker, 2.0, device_s=2.0)
    today = world.clock.now().date()
    tomorrow = today + timedelta(days=1)
    assert (await costs(world, f"?from={today}&to={today}"))["total"]["attempts"] == 1
    later = await costs(world, f"?from={tomorrow}&to={tomorrow}")
    assert (later["costs"], later["total"]["micros"]) == ([], None)
    told = await costs(world)
    assert (told["from"], told["to"]) == (str(today - timedelta(days=29)), str(today))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?from=2030-02-01&to=2030-01-01", "exchange them"),
        ("?from=2028-01-01&to=2030-01-01", "more than 366 days"),
        ("?by=user&from=2030-01-01&to=2030-03-01", "more than 31 days"),
        ("?from=yesterday", "/from"),
        ("?by=mood", "/by"),
    ],
)
async def test_invalid_queries_of_costs_are_refused(world: World, query: str, says: str) -> None:
    answer = await world.admin("GET", f"/v1/costs{query}")
    assert answer.status == 422
    assert says in answer.json["detail"]


async def test_costs_are_for_operators(world: World) -> None:
    assert (await world.anna("GET", "/v1/costs")).status == 403


async def test_charges_are_in_the_metrics(world: World) -> None:
    worker = await register(world, cold(30.0))
    await run(world, worker, 2.0, device_s=1.5)
    world.clock.advance(8.0)
    await world.lease(worker)
    await settle(world.service)
    found = await metrics(world)
    name = 'swell_cost_micros_total{kind="%s",pool="default"}'
    told = {kind: found[name % kind] for kind in ("cold_start", "attempt", "idle")}
    assert told == {"cold_start": 30_000, "attempt": 1_500, "idle": 8_500}
    assert found['swell_cost_seconds_total{kind="idle",pool="default"}'] == 8.5
    assert found['swell_cost_images_total{pool="default"}'] == 1


# ---- prices that change


@pytest.fixture
async def spot() -> AsyncIterator[World]:
    async with a_world(hour_micros={"default": PRICE}) as made:
        yield made


async def tell_price(world: World, hour_micros: int) -> None:
    """Publish the price of an hour of a worker, as an autoscaler does."""
    registry, now = world.service.registry, world.clock.now()
    note = await registry.note(TARIFFS)
    before = msgspec.json.decode(note or b"{}", type=dict[str, PoolTariff])
    known = before.get("default", PoolTariff())
    tariff = PoolTariff(steps=changed(known.steps, now, hour_micros), told_at=now)
    await registry.put_note(TARIFFS, msgspec.json.encode({"default": tariff}))
    await world.service.tariffs.refresh()


async def test_a_machine_is_charged_the_price_in_force(spot: World) -> None:
    worker = await register(spot, cold(30.0, instance="i-1"), instance="i-1")
    spot.clock.advance(10.0)
    await tell_price(spot, 2 * PRICE)
    first, _ = await run(spot, worker, 2.0)
    await settle(spot.service)
    spot.clock.advance(8.0)
    await tell_price(spot, PRICE // 2)
    second, _ = await run(spot, worker, 4.0)
    shown = [(await show(spot, each))["cost_micros"] for each in (first, second)]
    assert shown == [4_000, 2_000]
    await spot.report(worker, goodbye=True)
    await instance_ended(spot.service, ended(spot, "i-1", 54.0))
    await settle(spot.service)
    found = await totals(spot)
    assert found["cold_start"] == (30.0, 30_000)
    assert found["attempt"] == (6.0, 6_000)
    # 40 s at a thousandth of a dollar, 10 s at two of them, 4 s at half of one.
    assert sum(micros or 0 for _, micros in found.values()) == 40_000 + 20_000 + 2_000
    assert sum(seconds for seconds, _ in found.values()) == 54.0
    # A later price does not change the bill of an ended machine.
    await tell_price(spot, 9 * PRICE)
    await settle(spot.service)
    assert await totals(spot) == found


async def test_money_spent_and_expected_costs_follow_the_current_price(spot: World) -> None:
    worker = await register(spot)
    spot.clock.advance(10.0)
    await tell_price(spot, 3 * PRICE)
    spot.clock.advance(10.0)
    await spot.lease(worker)
    assert (await spent_of(spot)).day_micros == 10_000 + 30_000
    await run(spot, worker, 2.0)
    task = await spot.create()
    await settle(spot.service)
    [known] = await spot.service.store.get([task["id"]])
    assert known is not None
    assert spot.service.estimates.cost_micros(known) == 6_000


async def spent_of(world: World) -> Any:
    return await spent(world.service)


async def test_a_worker_without_a_price_gets_that_of_its_pool_later(
    free: World,
) -> None:
    worker = await register(free)
    before, _ = await run(free, worker, 2.0)
    await tell_price(free, PRICE)
    task_id, _ = await run(free, worker, 2.0)
    shown = [(await show(free, each))["cost_micros"] for each in (before, task_id)]
    assert shown == [None, 2_000]
    await tell_price(free, 2 * PRICE)
    free.clock.advance(3.0)
    await free.report(worker, goodbye=True)
    # Without a report of its end, its deregistration counts after a while.
    free.clock.advance(700.0)
    await settle(free.service)
    found = await totals(free)
    # 4 s at a thousandth of a dollar, 3 s at two of them.
    assert sum(micros or 0 for _, micros in found.values()) == 4_000 + 6_000
    # A later price does not change the bill of a machine that has gone.
    await tell_price(free, 9 * PRICE)
    await settle(free.service)
    assert await totals(free) == found


# ---- prices from the autoscaler


@pytest.fixture
async def two(by_hand: None) -> AsyncIterator[tuple[World, World]]:
    """Two backends without pools in their settings."""
    async with a_world(budget_day_micros=20_000) as here:
        backend = dataclasses.replace(here.app.backend, bus=MemoryBus(here.clock))
        app = create_app(backend)
        await app.start()
        yield here, World(here.clock, app, here.keys)
        await app.stop()


async def report_of_autoscaler(world: World, **pool: Any) -> None:
    """Have an autoscaler look once, and tell how its pool stands."""
    yard = Yard(clock=world.clock)
    yard.registry, yard.broker = world.app.backend.registry, world.app.backend.broker
    controller = yard.another("one", pools=[a_pool(yard.provider, "default", **pool)])
    await yard.tell_workload()
    await controller.step()


async def test_backends_without_pools_charge_by_the_autoscalers_prices(
    two: tuple[World, World],
) -> None:
    here, there = two
    early = await register(here)
    task_id, _ = await run(here, early, 1.0)
    assert (await show(here, task_id))["cost_micros"] is None
    await report_of_autoscaler(here, hour_micros=PRICE, launch_micros=5_000, least_billed_s=60.0)
    late = await register(there, cold(3.0), name="late")
    prices = {
        each.id: (each.hour_micros, each.launch_micros, each.least_billed_s)
        for each in await here.service.registry.workers()
    }
    assert prices == {early: (None, 0, 0.0), late: (PRICE, 5_000, 60.0)}
    # Each backend does this every two seconds.
    await here.service.scaling.listen()
    for world, worker in ((here, early), (there, early), (there, late)):
        task_id, _ = await run(world, worker, 2.0)
        assert (await show(world, task_id))["cost_micros"] == 2_000
    await watch_budget(here.service)
    # Seven seconds of one worker and nine of the other, and two launches.
    assert (await spent(here.service)).day_micros == 7_000 + 9_000 + 2 * 5_000
    assert (await metrics(here))['swell_spent_micros{period="day"}'] == 26_000
    actions = (await here.admin("GET", "/v1/audit")).json["entries"]
    assert ("budget.day", "100 %") in [(each["action"], each["target"]) for each in actions]
    for world, worker in ((here, early), (there, late)):
        await world.report(worker, goodbye=True)
        await world.service.charges.keep()
    here.clock.advance(700.0)
    await settle(here.service)
    told = (await here.admin("GET", "/v1/costs")).json["total"]["micros"]
    # A minute is paid of each at least.
    assert told["total"] == 2 * (60_000 + 5_000)
    counted = [await metrics(world) for world in two]
    name = 'swell_cost_micros_total{kind="attempt",pool="default"}'
    assert [each[name] for each in counted] == [2_000, 4_000]


async def test_a_price_of_the_settings_comes_before_the_autoscalers(world: World) -> None:
    await report_of_autoscaler(world, hour_micros=5 * PRICE)
    await world.service.scaling.listen()
    worker = await register(world)
    task_id, _ = await run(world, worker, 2.0)
    assert (await show(world, task_id))["cost_micros"] == 2_000
