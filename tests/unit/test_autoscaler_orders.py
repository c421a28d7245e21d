"""What was asked of providers and never came to them, came late, or was refused."""

import asyncio
from collections.abc import Sequence

import pytest
from fleet_cases import Yard, a_pool

from manual_clock import ManualClock
from sqlite_rig import turns
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState, LaunchRequest, Refused
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


# ---- launches whose answer takes long, or never comes


async def test_a_launch_that_takes_long_is_not_made_again_beside_it() -> None:
    yard = await a_yard(provider := Slow(ManualClock(), 200.0), most=5)
    await yard.submit(50)
    peak = 0
    for _ in range(120):
        await look(yard)
        peak = max(peak, len(await yard.living()))
    assert peak == 5
    assert len(provider.launches) == 1


async def test_what_was_given_up_counts_towards_most_until_nothing_can_come_of_it() -> None:
    yard = await a_yard(provider := Lost(ManualClock()), most=5)
    await yard.submit(50)
    for _ in range(300):
        await yard.step(1)
        if any("not known what came" in each.why[0] for each in await yard.decisions()):
            break
    for _ in range(60):
        await yard.step(1)
    assert len(set(provider.tokens)) == 1
    [pool] = (await yard.status()).pools
    assert pool.booting == 0, "nobody counts on them"
    for _ in range(80):
        await yard.step(1)
    assert len(set(provider.tokens)) == 2


@pytest.mark.slow
async def test_what_a_dead_controller_had_asked_for_counts_for_as_long_as_a_call_may_take() -> None:
    yard = await a_yard(provider := Slow(ManualClock(), 2000.0), most=5)
    await yard.submit(50)
    await look(yard)
    dead = yard.controller
    yard.clock.advance(400)
    yard.controller = yard.another("two")
    for _ in range(100):
        await look(yard)
    assert provider.asked == 1, "another call of it may be under way"
    for _ in range(200):
        await look(yard)
    assert provider.asked > 1
    await dead.close()
    await yard.controller.close()


# ---- refusals


@pytest.mark.parametrize("n", [50, 500])
async def test_many_calls_that_are_refused_at_once_are_one_refusal(n: int) -> None:
    yard = await a_yard(provider := MemoryProvider(ManualClock()), most=n)
    provider.refuse(Refused("no capacity"))
    await yard.submit(n)
    await yard.step()
    await yard.step()
    [pool] = (await yard.status()).pools
    assert pool.closed_s == pytest.approx(12.0)


async def test_calls_of_one_moment_that_are_answered_one_after_the_other_are_one_refusal() -> None:
    yard = await a_yard(provider := Hesitant(ManualClock()), most=150)
    await yard.submit(150)
    await look(yard)
    for _ in range(3):
        provider.answers.pop().set_exception(Refused("no capacity"))
        await look(yard)
    await look(yard)
    [pool] = (await yard.status()).pools
    assert 0 < pool.closed_s <= 15.0


async def test_one_call_that_is_granted_among_refusals_does_not_open_a_pool() -> None:
    yard = await a_yard(provider := Hesitant(ManualClock()), most=150)
    await yard.submit(150)
    await look(yard)
    first, second, third = provider.answers
    first.set_exception(Refused("no capacity"))
    second.set_exception(Refused("no capacity"))
    third.set_result(None)
    await look(yard)
    await look(yard)
    [pool] = (await yard.status()).pools
    assert pool.closed_s > 0
    assert len(provider.answers) == 3, "it is not asked again at once"


async def look(yard: Yard) -> None:
    """Let the controller look, and wait for no provider."""
    yard.clock.advance(3)
    await yard.come_up()
    await yard.tell_workload()
    await yard.controller.step()
    await turns(20)


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


class Slow(MemoryProvider):
    """Answers a launch late, and lists nothing before."""

    def __init__(self, clock: ManualClock, takes_s: float) -> None:
        super().__init__(clock, boot_s=5.0)
        self.takes_s = takes_s
        self.asked = 0

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        self.asked += 1
        await self._clock.sleep(self.takes_s)
        return await super().launch(request)


class Lost(MemoryProvider):
    """Never says what came of a launch."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.tokens: list[str] = []

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        self.tokens.append(request.token)
        raise ConnectionResetError


class Hesitant(MemoryProvider):
    """Answers a launch when the test says so."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.answers: list[asyncio.Future[None]] = []

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer
        return await super().launch(request)
