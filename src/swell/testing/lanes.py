"""Conformance of queues elsewhere, as brokers that carry ids use them.

An adapter's author subclasses `LanesConformance` with a fixture `queues` that holds messages for
two seconds. Real servers have no clock but the real one, so the tests wait by asking.
"""

import asyncio
import secrets

from swell.brokers.lanes import Lane, Letter, Message, Queues

__all__ = ["LANE", "LanesConformance", "a_letter", "received"]

LANE = Lane("demo/upper", True)

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


class LanesConformance:
    """What every kind of queue elsewhere must do."""

    async def test_what_is_sent_is_received_and_held(self, queues: Queues) -> None:
        letters = [a_letter() for _ in range(25)]
        await queues.send(LANE, letters)
        found = await received(queues, 25)
        assert sorted(message.body for message in found) == sorted(each.body for each in letters)
        assert {(message.lane, message.times) for message in found} == {(LANE, 1)}
        assert await queues.receive(LANE, 25, wait_s=0.0) == []

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
        await queues.send(LANE, [a_letter()])
        (first,) = await received(queues, 1)
        for _ in range(4):
            await queues.extend([first], 2.0)
            assert await queues.receive(LANE, 1, wait_s=1.0) == []
        (again,) = await received(queues, 1)
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
        await queues.extend(found, 2.0)
        await queues.put_back(found)
        assert await queues.receive(LANE, 1, wait_s=1.0) == []
