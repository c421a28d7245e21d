"""Versions that share a model: whose workers are supply for what, and what pools can launch."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from fleet_cases import MODEL, Yard, a_pool, a_worker

from conformance.factories import a_new_task
from manual_clock import ManualClock
from swell.autoscaler.arrivals import arrived
from swell.autoscaler.observe import demands, rates_of
from swell.autoscaler.versions import believed, drawn_by
from swell.core.arrival_rates import Arrivals
from swell.core.provider import InstanceState
from swell.core.records import WorkerInfo
from swell.core.rollouts.rollout_state import Canary, Life, promote, roll_back, start_canary
from swell.db.rollouts import change_life
from swell.providers.memory import MemoryProvider

QUEUE = f"{MODEL}:2"
CANARY = f"{MODEL}:~canary"


def a_life(at: datetime, live: str = "1", canary: str = "") -> Life:
    life = promote(Life(model=MODEL, live=live), live, who="anna", at=at)
    if not canary:
        return life
    return start_canary(life, Canary(id="c", version=canary, share=0.1, since=at), who="anna")


async def staged(pools: Sequence[str] = ("gpu",), canary: str = "", **fields: object) -> Yard:
    """A yard in which version 1 is live; the pool `canary` keeps one worker."""
    clock = ManualClock()
    provider = MemoryProvider(clock, boot_s=5.0)
    own = [a_pool(provider, name, least=int(name == "canary"), **fields) for name in sorted(pools)]
    yard = Yard(clock=clock, pools=own)
    yard.provider = provider
    await yard.describe()
    await stage(yard, a_life(clock.now(), canary=canary))
    return yard


async def stage(yard: Yard, life: Life) -> None:
    await change_life(yard.registry, MODEL, lambda _: life)


async def come_up(yard: Yard, **versions: str) -> None:
    """Register a worker for each new machine, with the version that its pool brings."""
    known = {each.instance for each in await yard.registry.workers()}
    for each in await yard.provider.instances():
        if each.state is InstanceState.RUNNING and each.id not in known:
            brings = {MODEL: versions[each.pool]}
            await yard.registry.put_worker(
                a_worker(
                    yard.clock, f"w-{each.id}", instance=each.id, pool=each.pool, models=brings
                )
            )


async def submit(yard: Yard, queue: str = MODEL) -> None:
    new = msgspec.structs.replace(a_new_task(), queue=queue)
    await yard.store.accept([new])


async def ready_in_s(yard: Yard, what: str = MODEL) -> float | None:
    found = {each.model: each.ready_in_s for each in (await yard.status()).models}
    return found.get(what)


async def draining(yard: Yard) -> set[str]:
    return {each.models[MODEL] for each in await yard.registry.workers() if each.draining}


async def test_a_canarys_worker_is_no_supply_for_what_the_live_version_serves() -> None:
    yard = await staged(("canary", "gpu"), canary="2")
    await yard.step()
    yard.clock.advance(10)
    await come_up(yard, canary="2")
    await yard.step()
    assert (len(await yard.living("canary")), await yard.living("gpu")) == (1, [])
    await submit(yard)
    await yard.step()
    assert (len(await yard.living("canary")), len(await yard.living("gpu"))) == (1, 1)


async def test_a_canarys_part_is_no_demand_for_the_live_version_while_its_worker_lives() -> None:
    yard = await staged(("canary", "gpu"), canary="2")
    await yard.step()
    yard.clock.advance(10)
    await come_up(yard, canary="2")
    await submit(yard, CANARY)
    await yard.step()
    assert await yard.living("gpu") == []
    for each in await yard.registry.workers():
        await yard.registry.remove_worker(each.id, yard.clock.now())
    await yard.step()
    assert len(await yard.living("gpu")) == 1


async def test_a_pool_that_brought_another_version_cannot_launch_the_live_one() -> None:
    yard = await staged()
    await submit(yard)
    await yard.step()
    # As far as is known it can.
    assert await ready_in_s(yard) is not None
    yard.clock.advance(10)
    await come_up(yard, gpu="2")
    for _ in range(3):
        await yard.step()
    assert len(await yard.living()) <= 1
    assert await ready_in_s(yard) is None
    assert await ready_in_s(yard, QUEUE) is not None
    # Who leads next knows it too.
    yard.controller = yard.another("two")
    await yard.step(30)
    assert await ready_in_s(yard) is None


async def test_what_names_a_version_is_launched_where_a_pool_brings_it() -> None:
    yard = await staged(("canary", "gpu"))
    await yard.step()
    yard.clock.advance(10)
    await come_up(yard, canary="2")
    await yard.step()
    for _ in range(2):
        await submit(yard, QUEUE)
    await yard.step()
    assert (len(await yard.living("canary")), await yard.living("gpu")) == (2, [])


async def test_another_live_version_has_pools_tried_again_and_the_old_workers_stay_an_hour() -> (
    None
):
    yard = await staged()
    await submit(yard)
    await yard.step()
    yard.clock.advance(10)
    await come_up(yard, gpu="1")
    await yard.step()
    life = promote(a_life(yard.clock.now()), "2", who="anna", at=yard.clock.now())
    await stage(yard, life)
    await yard.step()
    assert len(await yard.living()) == 2
    yard.clock.advance(10)
    await come_up(yard, gpu="2")
    await yard.step()
    await yard.step()
    assert await draining(yard) == set()
    await yard.step(3601)
    assert await draining(yard) == {"1"}


async def test_old_workers_make_room_where_a_pool_is_full() -> None:
    yard = await staged(most=1)
    await submit(yard)
    await yard.step()
    yard.clock.advance(10)
    await come_up(yard, gpu="1")
    await yard.step()
    await stage(yard, promote(a_life(yard.clock.now()), "2", who="anna", at=yard.clock.now()))
    await yard.step()
    assert await draining(yard) == {"1"}


async def test_the_last_worker_of_the_live_version_stays_while_there_is_work() -> None:
    yard = await staged()
    for _ in range(2):
        await submit(yard)
    await yard.step()
    yard.clock.advance(10)
    [first, second] = [each.id for each in await yard.provider.instances()]
    for machine, version in ((first, "1"), (second, "2")):
        worker = a_worker(yard.clock, f"w{version}", instance=machine, models={MODEL: version})
        await yard.registry.put_worker(worker)
        yard.clock.advance(1)
    yard.held = {"w2": 1}
    await yard.step()
    await yard.finish()
    await submit(yard)
    await yard.step()
    assert await draining(yard) == {"2"}


def test_of_a_model_that_nobody_staged_all_versions_are_one() -> None:
    drawn = drawn_by({}, [])
    assert [drawn(queue) for queue in (MODEL, QUEUE)] == [MODEL, MODEL]
    lives = {"demo/other": Life(model="demo/other", live="1")}
    assert drawn_by(lives, [])(QUEUE) == MODEL


def test_a_rolled_back_canary_leaves_what_is_known_of_pools() -> None:
    clock = ManualClock()
    life = a_life(clock.now(), canary="2")
    clock.advance(10)
    at = clock.now().timestamp()
    clock.advance(10)
    back = roll_back(life, who="", at=clock.now())
    assert believed({MODEL: ("2", at)}, {MODEL: back}) == {MODEL: "2"}
    other = promote(life, "2", who="", at=clock.now())
    assert believed({MODEL: ("2", at)}, {MODEL: other}) == {}
    assert believed({MODEL: ("2", at)}, {MODEL: roll_back(other, who="", at=clock.now())}) == {}


def test_versions_are_taken_to_be_as_fast_as_their_model() -> None:
    pool = a_pool(MemoryProvider(ManualClock()), rates={MODEL: 3.0})
    assert rates_of(pool, (MODEL, QUEUE), None, []) == {MODEL: 3.0, QUEUE: 3.0}


def test_what_arrives_is_forecast_for_those_who_serve_its_queue_now() -> None:
    clock = ManualClock()
    arrivals = Arrivals(clock.now())
    came = {MODEL: 60, CANARY: 30, f"{MODEL}:1": 5, QUEUE: 3, f"{MODEL}:3": 2, "demo/other:7": 4}
    for _ in range(30):
        arrivals.fresh.update(came)
        arrivals.close(clock.now())
        clock.advance(10)
    now = clock.now()
    counts = arrived([arrivals.dump()], now)
    workers = [
        a_worker(clock, each, models={MODEL: each}, pool=pool)
        for each, pool in (("1", "gpu"), ("2", "canary"))
    ]

    def asked(life: Life, workers: list[WorkerInfo]) -> dict[str, float]:
        found = demands([], counts, None, now, [MODEL, QUEUE], {}, drawn_by({MODEL: life}, workers))
        assert all(each.minutes[-1:] == tuple(6 * n for n in each.tens[-1:]) for each in found)
        return {each.model: sum(each.tens[-1:]) for each in found}

    others = {"demo/other": 4}
    canary = a_life(now, canary="2")
    assert asked(canary, workers) == {MODEL: 65, QUEUE: 33, **others}
    assert asked(canary, workers[:1]) == {MODEL: 95, QUEUE: 3, **others}
    promoted = promote(canary, None, who="anna", at=now)
    assert asked(promoted, workers) == {MODEL: 93, QUEUE: 0, **others}
    left = roll_back(canary, who="anna", at=now)
    assert asked(left, workers) == {MODEL: 95, QUEUE: 3, **others}
