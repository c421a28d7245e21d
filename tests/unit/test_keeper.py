from itertools import pairwise

import pytest

from manual_clock import ManualClock
from swell.autoscaler.keeper import Keeper, RestartPolicy, missing
from swell.core.provider import Instance, InstanceState, LaunchRequest
from swell.providers.memory import MemoryProvider


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider(clock: ManualClock) -> MemoryProvider:
    return MemoryProvider(clock)


def make(provider: MemoryProvider, clock: ManualClock, wanted: int = 2) -> Keeper:
    return Keeper(
        provider,
        wanted=wanted,
        request=LaunchRequest(pool="p"),
        clock=clock,
        policy=RestartPolicy(healthy_after_s=10, base_s=1, cap_s=8),
    )


async def living(provider: MemoryProvider) -> list[Instance]:
    return [i for i in await provider.instances() if i.state is InstanceState.RUNNING]


async def test_missing_workers_are_started_once(
    provider: MemoryProvider, clock: ManualClock
) -> None:
    keeper = make(provider, clock)
    await keeper.step()
    await keeper.step()
    assert len(await living(provider)) == 2


async def test_a_healthy_worker_that_ends_is_replaced_at_once(
    provider: MemoryProvider, clock: ManualClock
) -> None:
    keeper = make(provider, clock)
    await keeper.step()
    clock.advance(11)
    provider.end((await living(provider))[0].id, exit_code=-9)
    await keeper.step()
    assert len(await living(provider)) == 2


async def test_a_worker_that_keeps_failing_is_started_ever_more_patiently(
    provider: MemoryProvider, clock: ManualClock
) -> None:
    keeper = make(provider, clock, wanted=1)
    started_at_s = []
    while len(started_at_s) < 6:
        await keeper.step()
        for instance in await living(provider):
            started_at_s.append(clock.monotonic_s())
            provider.end(instance.id, exit_code=1)
        clock.advance(0.5)
    waits = [b - a for a, b in pairwise(started_at_s)]
    assert waits == [1, 2, 4, 8, 8]


async def test_draining_ends_all_and_starts_none(
    provider: MemoryProvider, clock: ManualClock
) -> None:
    keeper = make(provider, clock)
    await keeper.step()
    ids = await keeper.drain(grace_s=5)
    assert len(ids) == 2
    clock.advance(6)
    await keeper.step()
    assert await living(provider) == []


async def test_unasked_ends_are_told_once(provider: MemoryProvider, clock: ManualClock) -> None:
    told: list[str] = []
    keeper = Keeper(
        provider,
        wanted=1,
        request=LaunchRequest(pool="p"),
        clock=clock,
        on_end=lambda instance: told.append(instance.id),
    )
    await keeper.step()
    [instance] = await living(provider)
    provider.end(instance.id, exit_code=1)
    await keeper.step()
    await keeper.step()
    assert told == [instance.id]


async def test_a_provider_without_room_is_asked_again_later(clock: ManualClock) -> None:
    provider = MemoryProvider(clock, capacity=1)
    keeper = make(provider, clock, wanted=2)
    await keeper.step()
    assert len(await living(provider)) == 1


def test_nothing_is_missing_when_more_live_than_are_wanted(clock: ManualClock) -> None:
    some = [
        Instance(id=str(n), pool="p", state=InstanceState.RUNNING, launched_at=clock.now())
        for n in range(3)
    ]
    assert missing(some, 2, clock.now(), RestartPolicy()) == 0
