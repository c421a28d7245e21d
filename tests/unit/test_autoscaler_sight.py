"""What the controller takes for true of what it sees, and what it does not."""

import msgspec
import pytest
from fleet_cases import MODEL, Yard, a_pool, a_worker, one_for_each

from swell.autoscaler.outlook import Observation, Plan, PoolView, State
from swell.autoscaler.policy import PolicySettings, plan
from swell.autoscaler.sizing import Wish
from swell.autoscaler.spending import affordable
from swell.autoscaler.supply import supply
from swell.core.errors import Unavailable
from swell.core.records import ModelCard
from swell.core.store_types import TaskFilter
from swell.protocol.autoscaler_messages import WORKLOAD, Workload

#: What an hour of a machine costs.
PRICE = 3_600_000


async def grown(n: int) -> Yard:
    """A yard in which n workers are at work, and so many tasks wait."""
    yard = Yard()
    await yard.describe()
    await yard.submit(n)
    await yard.step()
    yard.clock.advance(10)
    await yard.come_up()
    await yard.step()
    return yard


async def test_a_word_of_backends_that_lay_there_already_is_no_news() -> None:
    yard = await grown(3)
    await yard.finish()
    await yard.tell_workload()
    yard.clock.advance(3600)  # backends and controller are down
    yard.controller = yard.another("two")
    for _ in range(3):
        await yard.controller.step()
        yard.clock.advance(3)
    [pool] = (await yard.status()).pools
    assert pool.busy == 3, "each may hold something"
    assert not any(each.draining for each in await yard.registry.workers())
    await yard.step()
    assert all(each.draining for each in await yard.registry.workers())


# ---- what is paid for


async def hourly(least_billed_s: float) -> tuple[Yard, list[PoolView]]:
    """A yard of one old worker and a young one, of which the old one is paid until soon."""
    yard = Yard()
    seen: list[PoolView] = []

    def look(observation: Observation, state: State) -> Plan:
        seen[:] = observation.pools
        return one_for_each(observation, state)

    yard.plan = look
    yard.pools = (a_pool(yard.provider, least_billed_s=least_billed_s),)
    yard.controller = yard.another("one")
    await yard.describe()
    await yard.submit(1)
    await yard.step()
    yard.clock.advance(1797)
    await yard.come_up()
    await yard.submit(1)
    await yard.step()
    yard.clock.advance(60)
    await yard.come_up()
    return yard, seen


async def test_for_how_long_idle_workers_are_paid_is_seen() -> None:
    yard, seen = await hourly(3600.0)
    old, young = await yard.registry.workers()
    await yard.step()
    assert list(seen[0].paid_s) == pytest.approx([1737.0, 3537.0])
    yard.held = {old.id: 1}
    await yard.step()
    assert list(seen[0].paid_s) == pytest.approx([3534.0])
    yard.held = {young.id: 1}
    yard.clock.advance(7200)
    await yard.step()
    assert list(seen[0].paid_s) == [0.0]


async def test_where_time_is_paid_by_the_second_nothing_is_seen_to_be_paid() -> None:
    yard, seen = await hourly(0.0)
    await yard.step()
    assert list(seen[0].paid_s) == []


@pytest.mark.parametrize(("least_billed_s", "place"), [(3600.0, 0), (0.0, 1)])
async def test_whose_paid_time_is_over_first_goes_first(least_billed_s: float, place: int) -> None:
    yard, _ = await hourly(least_billed_s)
    await yard.step()
    tasks = await yard.store.page(TaskFilter(), limit=10)
    await yard.store.cancel([tasks.tasks[0].id])
    await yard.step()
    [gone] = [at for at, each in enumerate(await yard.registry.workers()) if each.draining]
    assert gone == place


async def test_the_policy_keeps_whom_the_hour_is_paid_for_and_lets_the_other_go() -> None:
    yard, _ = await hourly(3600.0)
    settings = PolicySettings(wait_s=20.0, first_wait_s=0.0)
    yard.plan = lambda observation, state: plan(observation, settings, state)
    old, young = await yard.registry.workers()
    await yard.finish()
    for _ in range(40):
        await yard.step(30)
    assert not any(each.draining for each in await yard.registry.workers()), "paid anyway"
    for _ in range(20):
        await yard.step(30)
    draining = [each.id for each in await yard.registry.workers() if each.draining]
    assert draining == [old.id] != [young.id]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["most", "budget"])
async def test_machines_that_are_not_heard_of_are_paid_for_and_count(limit: str) -> None:
    settings = PolicySettings(hour_budget_micros=5 * PRICE if limit == "budget" else None)
    yard = await flooded(settings, most=5 if limit == "most" else 50)
    assert len(await yard.registry.workers()) == 5
    await yard.registry.put_worker(a_worker(yard.clock, "elsewhere", pool="other"))
    for _ in range(60):
        yard.clock.advance(3)
        await yard.registry.touch_workers(["elsewhere"], yard.clock.now())
        work = Workload(at=yard.clock.now())
        await yard.registry.put_note(WORKLOAD, msgspec.json.encode(work))
        await yard.controller.step()
        await yard.controller.settled()
    assert len(await yard.living()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["most", "budget"])
async def test_machines_that_finish_what_they_hold_are_paid_for_and_count(limit: str) -> None:
    settings = PolicySettings(hour_budget_micros=5 * PRICE if limit == "budget" else None)
    yard = await flooded(settings, most=5 if limit == "most" else 50)
    workers = await yard.registry.workers()
    yard.held = {each.id: 1 for each in workers}
    for each in workers:
        await yard.registry.drain_worker(each.id)
    for _ in range(20):
        await yard.step()
        await yard.come_up()
    assert len(await yard.living()) == 5


def test_a_machine_that_is_let_go_for_its_price_buys_none_before_it_has_gone() -> None:
    dear = PoolView(
        pool="dear", rates={MODEL: 1.0}, ready=2, draining=1, silent=1, hour_micros=PRICE
    )
    cheap = PoolView(pool="cheap", rates={MODEL: 4.0}, hour_micros=PRICE)
    pools = [supply(cheap), supply(dear)]
    asked = [Wish(9, 0, 0, 9, 9), Wish(0, 0, 1, 1, 1)]
    launches = [each.launch for each in affordable(asked, pools, 6 * PRICE)]
    assert launches == [2, 0]


def test_whoever_finishes_makes_nobody_else_go() -> None:
    view = PoolView(pool="gpu", rates={MODEL: 1.0}, ready=2, draining=3, hour_micros=PRICE)
    [found] = affordable([Wish(0, 0, 0, 2, 2)], [supply(view)], 2 * PRICE)
    assert (found.cancel, found.drain) == (0, 0)


# ---- models that nobody has described


async def test_a_list_of_models_that_cannot_be_read_wakes_no_pool() -> None:
    yard = Yard()
    await yard.describe()
    read = yard.registry.models

    async def broken() -> list[ModelCard]:
        raise Unavailable("it does not answer")

    yard.registry.models = broken
    await yard.step()
    yard.registry.models = read
    await yard.step()
    assert not yard.provider.launches


async def test_a_model_that_no_worker_brings_keeps_none_and_is_told() -> None:
    settings = PolicySettings()
    yard = Yard(plan=lambda observation, state: plan(observation, settings, state))
    await yard.describe()
    yard.pools = (a_pool(yard.provider, models=(MODEL, "acme/typo")),)
    yard.controller = yard.another("one")
    await yard.step()
    [pool] = (await yard.status()).pools
    assert pool.reasons[-1].endswith("one of them to describe its models: launching 1.")
    for _ in range(100):
        await yard.step(5)
        await yard.come_up()
        for each in await yard.registry.workers():
            if each.draining and each.gone_at is None:
                await yard.registry.remove_worker(each.id, yard.clock.now())
    assert await yard.living() == []
    assert len(yard.provider.launches) == 1
    [told] = [each for each in await yard.decisions() if each.what == "failed"]
    assert tuple(told.why) == ("its workers do not bring acme/typo, which pools.gpu.models names",)
    assert told.about == "gpu"


async def flooded(settings: PolicySettings, most: int) -> Yard:
    """A yard with as many workers as there may be, and far more to do."""
    yard = Yard(plan=lambda observation, state: plan(observation, settings, state))
    await yard.describe()
    yard.pools = (a_pool(yard.provider, most=most),)
    yard.controller = yard.another("one")
    await yard.submit(5000)
    for _ in range(20):
        await yard.step()
        await yard.come_up()
    return yard
