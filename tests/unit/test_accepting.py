"""Connections of a socket that processes share go to the one that has the fewest."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator

import pytest

from swell.cli.accepting import AWAY, Acceptor, Connection, Counts, Turns
from swell.clock import Clock, ManualClock, SystemClock

#: Longest wait for something that must come, in seconds.
PATIENCE_S = 30.0


def turns(*beats: int) -> Turns:
    made = Turns(0, 0.0)
    made.look(beats, 0.0)
    return made


@pytest.mark.parametrize(
    ("counts", "n"),
    [
        ([0, 0], 1),
        ([3, 7], 5),  # So that it has one more than the other.
        ([7, 3], 0),
        ([7, 9, 3], 0),
        ([7, AWAY], 64),
        ([7, 9, AWAY], 3),
    ],
)
def test_whoever_has_the_fewest_takes_what_waits(counts: list[int], n: int) -> None:
    assert turns(*[0] * len(counts)).may_take(counts, 0.1) == n


def test_what_is_left_for_long_is_taken_bit_by_bit() -> None:
    made = turns(0, 0)
    assert [made.may_take([9, 3], 0.1 + at_s) for at_s in (0.0, 0.03, 0.06, 0.062, 0.064)] == [
        0,
        0,
        1,
        3,
        7,
    ]
    made.nothing_waits()
    assert made.may_take([9, 3], 0.07) == 0
    assert made.is_left


def test_to_be_the_one_with_the_fewest_ends_the_patience() -> None:
    made = turns(0, 0)
    assert made.may_take([9, 3], 0.1) == 0
    assert made.may_take([9, 9], 0.16) == 1
    assert not made.is_left
    assert made.may_take([10, 9], 0.17) == 0


def test_a_process_that_hangs_is_left_nothing() -> None:
    made = turns(5, 5)
    made.look([6, 6], 0.1)
    made.look([7, 6], 0.5)
    assert made.may_take([9, 3], 0.5) == 0
    assert made.may_take([9, 3], 0.65) == 64
    made.look([8, 7], 0.7)
    assert made.may_take([9, 3], 0.7) == 0


# ---- with sockets


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def counts() -> Iterator[Counts]:
    made = Counts.of(3)
    yield made
    made.close()


class Process:
    """Stands for one: an acceptor with what it has taken."""

    def __init__(
        self,
        listener: socket.socket,
        counts: Counts,
        place: int,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.held: set[asyncio.BaseTransport] = set()
        held = self.held

        class Kept(Connection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                held.add(transport)

            def shutdown(self) -> None:
                assert isinstance(self.transport, asyncio.Transport)
                self.transport.close()

            def connection_lost(self, error: Exception | None) -> None:
                held.discard(self.transport)
                acceptor.tell()

        self.listener = listener.dup()
        self.listener.setblocking(False)
        acceptor = Acceptor(
            self.listener, counts, place, Kept, lambda: len(held), clock or SystemClock(), tls
        )
        self.acceptor = acceptor
        acceptor.tick()

    async def end(self) -> None:
        self.acceptor.close()
        await self.acceptor.wait_closed()
        for transport in list(self.held):
            transport.close()
        self.listener.close()


async def connect(listener: socket.socket, n: int) -> list[asyncio.StreamWriter]:
    made = await asyncio.gather(
        *(asyncio.open_connection(*listener.getsockname()) for _ in range(n))
    )
    return [writer for _, writer in made]


async def until_held(n: int, *processes: Process) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(each.held) for each in processes) != n:
            for each in processes:
                each.acceptor.tick()
            await asyncio.sleep(0.005)
    return [len(each.held) for each in processes]


async def test_a_crowd_is_shared_evenly(listener: socket.socket, counts: Counts) -> None:
    # Whose turn it is never takes too long: a clock that stands still.
    both = [Process(listener, counts, place, clock=ManualClock()) for place in (0, 1)]
    clients = await connect(listener, 100)
    held = await until_held(100, *both)
    # What one has just taken, the other may not have seen yet.
    assert abs(held[0] - held[1]) <= 4
    for transport in list(both[0].held):
        transport.close()
    await until_held(held[1], *both)
    clients += await connect(listener, 40)
    assert await until_held(held[1] + 40, *both) == [40, held[1]]
    for each in both:
        await each.end()
    for client in clients:
        client.close()


async def test_who_takes_none_is_left_none(listener: socket.socket, counts: Counts) -> None:
    first, second = (Process(listener, counts, place) for place in (0, 1))
    await second.end()
    clients = await connect(listener, 30)
    assert await until_held(30, first) == [30]
    await first.end()
    for client in clients:
        client.close()


async def test_who_hangs_keeps_nobody_waiting(listener: socket.socket, counts: Counts) -> None:
    first = Process(listener, counts, 0)
    # It would take some, and never does; nor does it tell that it lives.
    counts.put(1, 0)
    clients = await connect(listener, 200)
    assert await until_held(200, first) == [200]
    await first.end()
    assert counts.all()[0] == [AWAY, 0, AWAY]
    for client in clients:
        client.close()


async def test_who_hangs_up_at_once_leaves_no_trace(
    listener: socket.socket, counts: Counts
) -> None:
    first = Process(listener, counts, 0)
    for client in await connect(listener, 20):
        client.transport.abort()
    [kept] = await connect(listener, 1)
    await until_held(1, first)
    async with asyncio.timeout(PATIENCE_S):
        while first.acceptor.count != 1:
            await asyncio.sleep(0.005)
    await first.end()
    kept.close()


async def test_who_comes_as_the_process_stops_is_not_kept(
    listener: socket.socket, counts: Counts
) -> None:
    first = Process(listener, counts, 0)
    client = socket.create_connection(listener.getsockname())
    async with asyncio.timeout(PATIENCE_S):
        while not first.acceptor.count:
            await asyncio.sleep(0)
    assert not first.held
    first.acceptor.close()
    await first.acceptor.wait_closed()
    async with asyncio.timeout(PATIENCE_S):
        while first.acceptor.count:
            await asyncio.sleep(0.005)
    assert client.recv(1) == b""
    first.listener.close()
    client.close()


@pytest.mark.slow
async def test_who_never_says_hello_keeps_no_process_from_ending(
    listener: socket.socket, counts: Counts
) -> None:
    first = Process(listener, counts, 0, tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    [client] = await connect(listener, 1)
    async with asyncio.timeout(PATIENCE_S):
        while not first.acceptor.count:
            await asyncio.sleep(0)
        await first.end()
        while first.acceptor.count:
            await asyncio.sleep(0.005)
    client.close()


def test_counts_are_seen_by_who_inherits_them(counts: Counts) -> None:
    heir = Counts.inherited(os.dup(counts.descriptor))
    counts.put(2, 17)
    heir.live(2)
    assert heir.all() == ([AWAY, AWAY, 17], [0, 0, 1])
    assert counts.all() == heir.all()
    heir.close()
    assert counts.all()[0][2] == 17
