"""What was asked of providers and never came to them, came late, or was refused."""

from collections.abc import Sequence

import pytest
from fleet_cases import Yard, a_pool

from swell.clock import ManualClock
from swell.errors import Unavailable
from swell.provider import InstanceState
from swell.providers.memory import MemoryProvider

# ---- orders to end


@pytest.mark.parametrize("is_crash", [False, True])
async def test_a_cancelled_boot_whose_order_to_end_was_lost_goes_nevertheless(
    is_crash: bool,
) -> None:
    yard = await a_yard(provider := Throttled(ManualClock()))
    await yard.submit(1)
    await yard.step()
    await yard.finish()
    await cancelled_in_vain(yard, provider, is_crash=is_crash)
    yard.clock.advance(5)
    await yard.come_up()
    await yard.step()
    [worker] = await yard.registry.workers()
    assert worker.draining, "it finishes what it may have begun, and begins nothing else"
    for _ in range(6):
        await yard.step()
    assert [each.state for each in await provider.instances()] == [InstanceState.STOPPING]
    assert len(provider.graces) <= 2, "an order that is heeded is not given again"


async def test_an_order_to_end_is_repeated_with_what_is_left_of_its_time() -> None:
    yard = await a_yard(provider := Throttled(ManualClock()), drain_s=100.0)
    await yard.submit(1)
    await yard.step()
    await yard.finish()
    provider.is_down = True
    for _ in range(50):
        await yard.step()
    first, *others = provider.graces
    assert first == 100.0
    assert 5 <= len(others) <= 10, "now and then"
    assert others == sorted(others, reverse=True)
    assert others[0] == pytest.approx(86.0)
    assert others[-1] == 0.0


async def test_a_drain_of_no_seconds_is_no_time_at_all() -> None:
    yard = await a_yard(provider := Throttled(ManualClock()), drain_s=0.0)
    await yard.submit(1)
    await yard.step()
    await yard.finish()
    await yard.step()
    assert provider.graces == [0.0]


async def a_yard(provider: MemoryProvider, **fields: object) -> Yard:
    yard = Yard(clock=provider._clock)
    await yard.describe()
    yard.provider = provider
    yard.pools = (a_pool(provider, **fields),)
    yard.controller = yard.another("one")
    return yard


async def cancelled_in_vain(yard: Yard, provider: "Throttled", *, is_crash: bool) -> None:
    """Have a boot cancelled, of which its provider never hears."""
    if not is_crash:
        provider.is_down = True
        await yard.step()
        provider.is_down = False
        return

    async def die(actions: object) -> None:
        raise RuntimeError

    yard.controller._act = die
    with pytest.raises(RuntimeError):
        await yard.step()
    yard.controller = yard.another("two")
    yard.clock.advance(11)  # until the duty is free


class Throttled(MemoryProvider):
    """Hears of no order to end while it is down."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, boot_s=5.0)
        self.is_down = False
        self.graces: list[float] = []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        self.graces.append(grace_s)
        if self.is_down:
            raise Unavailable("throttled")
        await super().terminate(instance_ids, grace_s=grace_s)
