"""Conformance of queues elsewhere, as brokers that carry ids use them.

An adapter's author subclasses `LanesConformance` with a fixture `queues` that holds messages for
two seconds. Real servers have no clock but the real one, so the tests wait by asking.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

from swell.brokers.lanes import Lane, Letter, Message, Queues
from swell.clock import SystemClock

LANE = Lane("demo/upper", True)

#: How long queues hold messages, in seconds.
HOLD_S = 2.0

#: So often is tried, at most, what proves nothing where machines were too busy meanwhile.
TRIES = 3

#: How long a test may wait for what must come, in seconds.
PATIENCE_S = 15.0


def a_letter() -> Letter:
    """Return a letter about some task."""
    task_id = secrets.token_hex(16)
    return Letter(task_id=task_id, group="key-1/ann", mark=f"{task_id}-0-0")


async def received(queues: Queues, n: int, lane: Lane = LANE) -> list[Message]:
    """Receive until there are n messages."""
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < n:
            found += await queues.receive(lane, n - len(found), wait_s=1.0)
    return found


async def stays_held(
    queues: Queues, lane: Lane, extend: Callable[[], Awaitable[object]], since_s: float
) -> bool:
    """Have a message held for twice as long as messages are, and see that it does not come.

    Args:
        queues: That hold it.
        lane: Where it would come, alone.
        extend: Has it held for `HOLD_S` from now on.
        since_s: When it was not held yet, in monotonic seconds.

    Returns:
        False if it came, but so late that it may not have been extended in time.
    """
    clock = SystemClock()
    for _ in range(4):
        before_s = clock.monotonic_s()
        await extend()
        found = await queues.receive(lane, 1, wait_s=1.0)
        if found and clock.monotonic_s() - since_s >= HOLD_S:
            await queues.forget(found)
            return False
        assert found == []
        since_s = before_s
    return True


class LanesConformance:
    """What every kind of queue elsewhere must do."""

    async def test_what_is_sent_is_received_and_held(self, queues: Queues) -> None:
        clock = SystemClock()
        for number in range(TRIES):
            lane = Lane(f"demo/{number}", True)
            letters = [a_letter() for _ in range(25)]
            await queues.send(lane, letters)
            since_s = clock.monotonic_s()
            found = await received(queues, 25, lane)
            more = await queues.receive(lane, 25, wait_s=0.0)
            if clock.monotonic_s() - since_s < HOLD_S:
                break
        assert sorted(message.body for message in found) == sorted(each.body for each in letters)
        assert {(message.lane, message.times) for message in found} == {(lane, 1)}
        assert more == []

    async def test_lanes_are_apart(self, queues: Queues) -> None:
        lanes = [
            Lane("demo/upper", True),
            Lane("demo/upper", False),
            Lane("demo/upper:v1", True),
            Lane("demo/up.per", True),
            Lane("demo/up_per", True),
        ]
        letters = {lane: a_letter() for lane in lanes}
        for lane, letter in letters.items():
            await queues.send(lane, [letter])
        for lane, letter in letters.items():
            assert [each.body for each in await received(queues, 1, lane)] == [letter.body]

    async def test_what_is_forgotten_comes_no_more(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter() for _ in range(12)])
        await queues.forget(await received(queues, 12))
        for _ in range(3):
            assert await queues.receive(LANE, 12, wait_s=1.0) == []

    async def test_what_is_not_forgotten_comes_again(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter()])
        (first,) = await received(queues, 1)
        (again,) = await received(queues, 1)
        assert (again.body, again.times) == (first.body, 2)

    async def test_what_is_extended_is_held_longer(self, queues: Queues) -> None:
        clock = SystemClock()
        for number in range(TRIES):
            lane = Lane(f"demo/{number}", True)
            await queues.send(lane, [a_letter()])
            since_s = clock.monotonic_s()
            (first,) = await received(queues, 1, lane)
            extend = partial(queues.extend, [first], HOLD_S)
            if await stays_held(queues, lane, extend, since_s):
                break
        else:
            raise AssertionError("it came each time")
        (again,) = await received(queues, 1, lane)
        assert again.body == first.body

    async def test_what_is_put_back_comes_at_once(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter()])
        (first,) = await received(queues, 1)
        await queues.put_back([first])
        async with asyncio.timeout(1.5):
            (again,) = await received(queues, 1)
        assert again.body == first.body

    async def test_what_is_buried_comes_no_more(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter()])
        await queues.bury(await received(queues, 1))
        for _ in range(3):
            assert await queues.receive(LANE, 1, wait_s=1.0) == []

    async def test_a_wait_ends_with_the_first_message(self, queues: Queues) -> None:
        waiting = asyncio.ensure_future(queues.receive(LANE, 5, wait_s=10.0))
        letter = a_letter()
        await queues.send(LANE, [letter])
        found = await asyncio.wait_for(waiting, 5)
        assert [message.body for message in found] == [letter.body]

    async def test_receivers_share_no_message(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter() for _ in range(40)])
        parts = await asyncio.gather(*(queues.receive(LANE, 10, wait_s=1.0) for _ in range(4)))
        bodies = [message.body for part in parts for message in part]
        assert bodies
        assert len(bodies) == len(set(bodies))

    async def test_messages_that_are_gone_may_be_named_again(self, queues: Queues) -> None:
        await queues.send(LANE, [a_letter()])
        found = await received(queues, 1)
        await queues.forget(found)
        await queues.forget(found)
        await queues.extend(found, HOLD_S)
        await queues.put_back(found)
        assert await queues.receive(LANE, 1, wait_s=1.0) == []
