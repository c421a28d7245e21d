"""Time that is passed in."""

import asyncio
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from swell.core.clock import SystemClock


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock()
    before = clock.now()
    assert (clock.now(), clock.monotonic_s()) == (before, 0.0)
    clock.advance(2.5)
    assert (clock.now() - before, clock.monotonic_s()) == (timedelta(seconds=2.5), 2.5)


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        ManualClock().advance(-1)


@pytest.mark.parametrize("clock", [ManualClock(), SystemClock()])
def test_the_time_is_aware_and_in_utc(clock: ManualClock | SystemClock) -> None:
    assert clock.now().tzinfo is UTC


def test_the_machines_monotonic_seconds_do_not_go_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic_s() for _ in range(100)]
    assert readings == sorted(readings)


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before() -> None:
    clock = ManualClock()
    sleeper = asyncio.ensure_future(clock.sleep(10))
    await settle()
    clock.advance(9.9)
    await settle()
    assert not sleeper.done()
    clock.advance(0.2)
    await settle()
    assert sleeper.done()


async def test_sleepers_wake_in_order_of_their_due_time() -> None:
    clock = ManualClock()
    woken: list[int] = []

    async def nap(duration_s: int) -> None:
        await clock.sleep(duration_s)
        woken.append(duration_s)

    naps = [asyncio.ensure_future(nap(duration_s)) for duration_s in (30, 10, 20)]
    await settle()
    clock.advance(60)
    await asyncio.gather(*naps)
    assert woken == [10, 20, 30]


async def test_sleeping_for_no_time_gives_way_once() -> None:
    await asyncio.wait_for(ManualClock().sleep(0), 1)
    await asyncio.wait_for(SystemClock().sleep(0), 1)


async def test_a_sleeper_that_was_canceled_does_not_disturb_the_others() -> None:
    clock = ManualClock()
    first, second = (asyncio.ensure_future(clock.sleep(5)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    clock.advance(5)
    await asyncio.wait_for(second, 1)


@given(st.lists(st.integers(0, 1_000), max_size=20))
def test_seconds_advanced_add_up(steps_s: list[int]) -> None:
    clock = ManualClock()
    start = clock.now()
    for step_s in steps_s:
        clock.advance(step_s)
    assert clock.monotonic_s() == sum(steps_s)
    assert clock.now() == start + timedelta(seconds=sum(steps_s))
