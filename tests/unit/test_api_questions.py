"""Concurrent calls for the same thing."""

import asyncio
import gc
from typing import Any

import pytest

from swell.core.errors import Unavailable
from swell.server.single_flight import SingleFlight


class Calls:
    """A call that ends when `go` is set, and returns how often it was made."""

    def __init__(self) -> None:
        self.n = 0
        self.go = asyncio.Event()

    async def answer(self) -> int:
        self.n += 1
        mine = self.n
        await self.go.wait()
        return mine

    async def refuse(self) -> int:
        await self.answer()
        raise Unavailable("away")


async def begun(*running: Any) -> "list[asyncio.Task[int]]":
    tasks = [asyncio.ensure_future(each) for each in running]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_concurrent_calls_share_one_execution_and_later_ones_do_not() -> None:
    flights, calls = SingleFlight[str, int](), Calls()
    running = await begun(*(flights.run("which", calls.answer) for _ in range(3)))
    running += await begun(flights.run("other", calls.answer))
    calls.go.set()
    assert await asyncio.gather(*running) == [1, 1, 1, 2]
    assert await flights.run("which", calls.answer) == 3


async def test_a_cancelled_caller_does_not_cancel_the_others() -> None:
    flights, calls = SingleFlight[str, int](), Calls()
    running = await begun(*(flights.run("which", calls.answer) for _ in range(4)))
    running[1].cancel()
    await begun()
    assert calls.n == 1
    running[0].cancel()
    await begun()
    assert calls.n == 2, "another caller makes the call"
    calls.go.set()
    assert await asyncio.gather(*running[2:]) == [2, 2]
    for each in running[:2]:
        with pytest.raises(asyncio.CancelledError):
            await each


async def test_a_caller_after_forget_gets_no_older_answer() -> None:
    flights, calls = SingleFlight[str, int](), Calls()
    (before,) = await begun(flights.run("which", calls.answer))
    flights.forget()
    after = await begun(*(flights.run("which", calls.answer) for _ in range(2)))
    calls.go.set()
    assert await asyncio.gather(before, *after) == [1, 2, 2]


async def test_a_call_that_hangs_is_not_shared_with_later_callers() -> None:
    flights, calls, silent = SingleFlight[str, int](shared_s=0.05), Calls(), Calls()
    (first,) = await begun(flights.run("which", silent.answer))
    await asyncio.sleep(0.1)
    later = await begun(*(flights.run("which", calls.answer) for _ in range(3)))
    calls.go.set()
    assert await asyncio.gather(*later) == [1, 1, 1]
    assert not first.done()
    silent.go.set()
    assert await first == 1
    assert await flights.run("which", calls.answer) == 2


async def test_all_callers_get_a_failure_and_nothing_is_logged_if_all_were_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights, calls = SingleFlight[str, int](), Calls()
    for each in await begun_with_failure(flights, calls):
        with pytest.raises(Unavailable, match="away"):
            await each
    calls.go.clear()
    (cancelled,) = await begun(flights.run("which", calls.refuse))
    cancelled.cancel()
    calls.go.set()
    await begun()
    del cancelled
    gc.collect()
    assert caplog.text == ""
    assert await flights.run("which", calls.answer) == 3


async def begun_with_failure(
    flights: SingleFlight[str, int], calls: Calls
) -> "list[asyncio.Task[int]]":
    running = await begun(*(flights.run("which", calls.refuse) for _ in range(2)))
    calls.go.set()
    return running
