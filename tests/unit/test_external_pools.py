"""Pools whose workers somebody else starts, by the number that the controller wants."""

from fleet_cases import Yard, a_pool, a_worker

from manual_clock import ManualClock
from swell.autoscaler.decide import Limits
from swell.core.provider import InstanceState
from swell.db.instance_notices import told_ends
from swell.providers.external import ExternalOptions, ExternalProvider


async def external_yard(**fields: object) -> Yard:
    clock = ManualClock()
    provider = ExternalProvider(ExternalOptions(), clock, "shop")
    yard = Yard(clock=clock, pools=(a_pool(provider, is_external=True),), **fields)
    yard.provider = provider
    await yard.describe()
    return yard


async def filled_yard(workers: int) -> Yard:
    """A pool for as many tasks, all of whose places workers have filled."""
    yard = await external_yard()
    await yard.submit(workers)
    await yard.step()
    for number in range(workers):
        await yard.registry.put_worker(a_worker(yard.clock, f"w{number}"))
    for _ in range(3):
        await yard.step()
    return yard


async def test_the_number_that_is_wanted_is_told_whoever_has_joined_so_far() -> None:
    yard = await external_yard()
    await yard.submit(3)
    await yard.step()
    for joined in range(4):
        await yard.step()
        [pool] = (await yard.status()).pools
        assert (pool.desired, pool.ready) == (3, joined)
        places = await yard.provider.instances()
        assert [each.state for each in places] == [InstanceState.STARTING] * (3 - joined)
        # Whoever started it has told it of no instance.
        await yard.registry.put_worker(a_worker(yard.clock, f"w{joined}"))
        await yard.step()
    assert await yard.provider.instances() == []
    await yard.finish()
    await yard.step()
    [pool] = (await yard.status()).pools
    assert (pool.desired, pool.draining) == (0, 0)
    # Who goes is for whoever started them to say.
    assert [each.draining for each in await yard.registry.workers()] == [False] * 4


async def test_a_place_that_a_worker_has_filled_is_gone_without_an_end_that_is_charged() -> None:
    yard = await filled_yard(3)
    yard.clock.advance(7200)
    await yard.step()
    assert await yard.provider.instances() == []
    assert await told_ends(yard.registry) == {}
    [pool] = (await yard.status()).pools
    assert pool.ends == {}


async def test_places_that_were_filled_leave_room_for_as_many_workers_as_are_allowed() -> None:
    yard = await filled_yard(6)
    await yard.submit(20)
    for _ in range(3):
        await yard.step()
    [pool] = (await yard.status()).pools
    assert (pool.desired, pool.ready, pool.booting, pool.draining) == (10, 6, 4, 0)


async def test_as_many_are_wanted_however_long_nobody_joins_and_nobody_pays_for_places() -> None:
    yard = await external_yard(limits=Limits(boot_limit_s=100))
    await yard.submit(4)
    for _ in range(30):
        await yard.step(60)
    status = await yard.status()
    [pool] = status.pools
    assert (pool.desired, pool.booting, pool.closed_s) == (4, 4, 0)
    assert "failed" not in [each.what for each in await yard.decisions()]
    assert status.spent_micros == 0
