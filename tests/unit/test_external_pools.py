"""Pools whose workers somebody else starts, by the number that the controller wants."""

from fleet_cases import Yard, a_pool, a_worker

from swell.clock import ManualClock
from swell.provider import InstanceState
from swell.providers.external import ExternalOptions, ExternalProvider


async def test_the_number_that_is_wanted_is_told_whoever_has_joined_so_far() -> None:
    clock = ManualClock()
    provider = ExternalProvider(ExternalOptions(), clock, "shop")
    yard = Yard(clock=clock, pools=(a_pool(provider),))
    yard.provider = provider
    await yard.describe()
    await yard.submit(3)
    await yard.step()
    for joined in range(4):
        await yard.step()
        [pool] = (await yard.status()).pools
        assert (pool.desired, pool.ready) == (3, joined)
        waited_for = [i for i in await provider.instances() if i.state is InstanceState.STARTING]
        assert len(waited_for) == 3 - joined
        # Whoever started it has told it of no instance.
        await yard.registry.put_worker(a_worker(clock, f"w{joined}"))
        await yard.step()
    states = {each.state for each in await provider.instances()}
    assert states <= {InstanceState.STOPPING, InstanceState.ENDED}
    await yard.finish()
    await yard.step()
    [pool] = (await yard.status()).pools
    assert pool.desired == 0
    # Who goes is for whoever started them to say.
    assert [each.draining for each in await yard.registry.workers()] == [False] * 4
