"""Waits that share timers."""

import asyncio

from swell.buses.patience import TICK_S, Patience


def waiter() -> "asyncio.Future[bool]":
    return asyncio.get_running_loop().create_future()


async def test_whoever_waits_is_woken_in_time_and_not_before() -> None:
    loop, patience = asyncio.get_running_loop(), Patience()
    short, long = waiter(), waiter()
    began_s = loop.time()
    patience.begin(loop, long, 600)
    patience.begin(loop, short, 0.1)
    assert await short is False
    # The loop's clock is only as fine as a millisecond.
    assert loop.time() - began_s >= 0.1 - 0.001
    assert not long.done()


async def test_a_wait_that_ended_is_left_alone_and_remembered_nowhere() -> None:
    loop, patience = asyncio.get_running_loop(), Patience()
    early, others = waiter(), [waiter() for _ in range(10)]
    tick = patience.begin(loop, early, 2 * TICK_S)
    ticks = {patience.begin(loop, each, 2 * TICK_S) for each in others}
    early.set_result(True)
    patience.end(tick, early)
    assert sum(map(len, patience._waits.values())) == len(others)
    assert len(patience._waits) <= len(ticks | {tick}) <= 2, "they have a timer together"
    await asyncio.wait(others)
    assert early.result() is True
    assert not patience._waits
