"""uvicorn with our connection class, on a real socket: what becomes of idle connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn

from swell.api.app import create_app
from swell.api.settings import Backend
from swell.brokers.memory import MemoryBroker
from swell.buses.memory import MemoryBus
from swell.cli.connection import HttpConnection
from swell.clock import SystemClock
from swell.object_stores.memory import MemoryObjects
from swell.stores.memory import MemoryRegistry, MemoryStore

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]

IDLE_S = 1


@pytest.fixture
async def server() -> AsyncIterator[tuple[uvicorn.Server, int]]:
    clock = SystemClock()
    store = MemoryStore(clock)
    backend = Backend(
        store=store,
        broker=MemoryBroker(store),
        bus=MemoryBus(clock),
        objects=MemoryObjects(clock, b"secret"),
        registry=MemoryRegistry(),
        clock=clock,
    )
    config = uvicorn.Config(
        create_app(backend),
        http=HttpConnection,
        ws="none",
        port=0,
        log_config=None,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Signals are the test's.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def ask(wire: Wire, path: str, method: str = "GET") -> bytes:
    reader, writer = wire
    body = b"{}" if method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: swell.test\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    got = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in got.lower().split(b"\r\n") if line.startswith(b"content-length"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return got.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [("POST", "/v1/tasks", b"HTTP/1.1 401"), ("GET", "/health/live", b"HTTP/1.1 200")],
)
async def test_an_idle_connection_is_closed_after_a_while_and_a_busy_one_is_not(
    server: tuple[uvicorn.Server, int], method: str, path: str, said: bytes
) -> None:
    loop = asyncio.get_running_loop()
    wire = await asyncio.open_connection("127.0.0.1", server[1])
    begun_s = loop.time()
    while loop.time() - begun_s < 2 * IDLE_S:
        # Never idle for long, but for longer in all than an idle one may be.
        assert (await ask(wire, path, method)).startswith(said)
        await asyncio.sleep(0.02)
    idle_s = loop.time()
    assert await wire[0].read() == b""
    assert 0.9 * IDLE_S <= loop.time() - idle_s < 5 * IDLE_S
    wire[1].close()


async def test_a_closed_connection_leaves_nothing_behind(
    server: tuple[uvicorn.Server, int],
) -> None:
    wire = await asyncio.open_connection("127.0.0.1", server[1])
    await ask(wire, "/v1/tasks", "POST")
    (connection,) = server[0].server_state.connections
    assert connection.timeout_keep_alive_task is not None
    wire[1].close()
    while server[0].server_state.connections:
        await asyncio.sleep(0)
    assert connection.timeout_keep_alive_task is None
    assert not server[0].server_state.tasks
