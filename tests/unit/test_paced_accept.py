"""Connections of a shared socket are balanced between the processes that accept from it."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast

import pytest

from swell.server.paced_accept import PacedServer

#: Longest wait for something that must come, in seconds.
PATIENCE_S = 30.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        made.setblocking(False)
        yield made


class Process:
    """Stands for a process: a server and its open connections."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.open: set[asyncio.BaseTransport] = set()
        held = self.open

        class Kept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                held.add(transport)

            def shutdown(self) -> None:
                self.transport.close()

            def connection_lost(self, error: Exception | None) -> None:
                held.discard(self.transport)

        self.listener = listener.dup()
        self.listener.setblocking(False)
        self.server = PacedServer(self.listener, cast("Any", Kept), held.__len__, tls)

    async def end(self) -> None:
        self.server.close()
        await self.server.wait_closed()
        for transport in list(self.open):
            transport.close()
        self.listener.close()


async def connect(listener: socket.socket, n: int) -> list[asyncio.StreamWriter]:
    made = await asyncio.gather(
        *(asyncio.open_connection(*listener.getsockname()) for _ in range(n))
    )
    return [writer for _, writer in made]


async def until_open(n: int, *processes: Process) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(each.open) for each in processes) != n:
            await asyncio.sleep(0.005)
    return [len(each.open) for each in processes]


async def test_a_crowd_is_balanced(listener: socket.socket) -> None:
    both = [Process(listener) for _ in range(2)]
    clients = await connect(listener, 100)
    assert min(await until_open(100, *both)) >= 40
    # A process without connections accepts first.
    for transport in list(both[0].open):
        transport.close()
    [_, before] = await until_open(len(both[1].open), *both)
    clients += await connect(listener, 20)
    [fresh, other] = await until_open(before + 20, *both)
    assert fresh > other - before, (fresh, other, before)
    for each in both:
        await each.end()
    for client in clients:
        client.close()


async def test_a_process_alone_accepts_all(listener: socket.socket) -> None:
    first, second = Process(listener), Process(listener)
    await second.end()
    clients = await connect(listener, 200)
    assert await until_open(200, first) == [200]
    await first.end()
    for client in clients:
        client.close()


async def test_a_client_that_hangs_up_at_once_leaves_no_trace(listener: socket.socket) -> None:
    first = Process(listener)
    for client in await connect(listener, 20):
        client.transport.abort()
    [kept] = await connect(listener, 1)
    await until_open(1, first)
    await first.end()
    kept.close()


async def test_a_connection_that_comes_as_the_process_stops_is_closed(
    listener: socket.socket,
) -> None:
    first = Process(listener)
    client = socket.create_connection(listener.getsockname())
    async with asyncio.timeout(PATIENCE_S):
        while not first.server._arriving:
            await asyncio.sleep(0)
    assert not first.open
    first.server.close()
    await first.server.wait_closed()
    await until_open(0, first)
    assert client.recv(1) == b""
    first.listener.close()
    client.close()


@pytest.mark.slow
async def test_a_client_without_a_tls_hello_does_not_keep_the_process_from_stopping(
    listener: socket.socket,
) -> None:
    first = Process(listener, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    [client] = await connect(listener, 1)
    async with asyncio.timeout(PATIENCE_S):
        while not first.server._arriving:
            await asyncio.sleep(0)
        await first.end()
        while first.server._arriving:
            await asyncio.sleep(0.005)
    client.close()


async def test_accepting_goes_on_when_the_system_has_room_again(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.server.paced_accept._NO_ROOM_S", 0.01)
    first = Process(listener)
    refusals = [OSError(24, "Too many open files"), ConnectionAbortedError()]

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(first.listener, name)

        def accept(self) -> Any:
            if refusals:
                raise refusals.pop(0)
            return first.listener.accept()

    first.server._listener = cast("socket.socket", Full())
    [client] = await connect(listener, 1)
    assert await until_open(1, first) == [1]
    assert not refusals
    await first.end()
    client.close()
