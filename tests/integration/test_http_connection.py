"""uvicorn with our connection class, on a real socket: idle, endless, broken and halved ones."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from manual_clock import in_fast_time, time_skipper
from sqlite_rig import SqliteRig
from swell.core.clock import SystemClock
from swell.core.records import Scope
from swell.core.store_types import TaskFilter
from swell.objects.folder import TemporaryObjects
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import App, create_app
from swell.server.auth import create_key
from swell.server.dependencies import ApiSettings, Backend
from swell.server.uvicorn_guard import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    GuardedProtocol,
    guarded_protocol,
)
from swell.settings.backend_settings import LogSettings, ServerSettings

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]

IDLE_S = 1

#: For the tests of what does not come, in the time of a loop that skips.
LIMIT_S = 60.0

GET = b"GET /health/live HTTP/1.1\r\nHost: swell.test\r\n"
POST = b"POST /v1/tasks HTTP/1.1\r\nHost: swell.test\r\n"


@pytest.fixture
async def server() -> AsyncIterator[tuple[uvicorn.Server, int]]:
    async with a_server(GuardedProtocol) as running:
        yield running


@pytest.fixture
async def port(server: tuple[uvicorn.Server, int]) -> int:
    return server[1]


@pytest.fixture
async def hasty() -> AsyncIterator[tuple[int, bytes]]:
    """A server with timeouts of its own: its port, and the header of a key."""
    protocol = guarded_protocol(LIMIT_S, LIMIT_S)
    async with a_server_with_key(protocol, idle_s=3600) as (_, port, secret):
        yield port, b"Authorization: Bearer %s\r\n" % secret.encode()


def app_of(server: uvicorn.Server) -> App:
    app = server.config.app
    assert isinstance(app, App)
    return app


@contextlib.asynccontextmanager
async def a_server(
    protocol: type[GuardedProtocol],
    settings: ApiSettings | None = None,
    idle_s: int = IDLE_S,
) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    clock = SystemClock()
    rig = SqliteRig(clock)
    backend = Backend(
        store=rig.store,
        broker=rig.broker,
        outbox=rig.outbox,
        bus=MemoryBus(clock),
        objects=TemporaryObjects(clock, b"secret"),
        registry=rig.registry,
        clock=clock,
        settings=settings or ApiSettings(),
    )
    config = uvicorn.Config(
        create_app(backend),
        http=protocol,
        ws="none",
        port=0,
        log_config=None,
        timeout_keep_alive=idle_s,
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
    ("method", "path"),
    [("POST", "/v1/tasks"), ("POST", "/worker/v1/lease"), ("GET", "/v1/tasks")],
)
async def test_the_line_of_a_request_tells_who_asked(method: str, path: str) -> None:
    async with a_server(GuardedProtocol, ApiSettings(log=LogSettings(requests="info"))) as (
        _,
        port,
    ):
        wire = await asyncio.open_connection("127.0.0.1", port)
        with capture_logs() as lines:
            await ask(wire, path, method)
            # The answer may be there before its line.
            while not (told := [line for line in lines if line["event"] == "request"]):
                await asyncio.sleep(0.005)
        assert [(line["route"], line["address"]) for line in told] == [(path, "127.0.0.1")]
        wire[1].close()


async def test_an_idle_connection_is_closed_after_a_while_and_a_busy_one_is_not() -> None:
    loop, skip = asyncio.get_running_loop(), time_skipper()

    async def is_closed(port: int, method: str, path: str, said: bytes) -> None:
        wire = await asyncio.open_connection("127.0.0.1", port)
        begun_s = loop.time()
        while loop.time() - begun_s < 1.5 * LIMIT_S:
            # Never idle for long, but for longer in all than an idle one may be.
            asked_s = loop.time()
            assert (await ask(wire, path, method)).startswith(said)
            skip(2.0)
        assert await in_fast_time(wire[0].read(), skip) == b""
        assert 0.9 * LIMIT_S <= loop.time() - asked_s < 5 * LIMIT_S
        wire[1].close()

    async with a_server(GuardedProtocol, idle_s=round(LIMIT_S)) as (_, port):
        await asyncio.gather(
            is_closed(port, "POST", "/v1/tasks", b"HTTP/1.1 401"),
            is_closed(port, "GET", "/health/live", b"HTTP/1.1 200"),
        )


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


async def test_a_connection_answered_before_the_body_came_is_closed_when_idle(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + b"Content-Length: 1\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
    writer.write(b"x")
    async with asyncio.timeout(60):
        await reader.read()
    writer.close()


# ---- what is refused


async def answers(port: int, *parts: bytes, eof: bool = False) -> list[tuple[int, Any]]:
    """Send, and return every answer (status, JSON) until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # What is refused may be closed while the rest is still being sent.
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    if eof:
        writer.write_eof()
    found = []
    while status := await reader.readline():
        headers = dict(
            line.split(b": ", 1)
            for line in (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            if line
        )
        body = await reader.readexactly(int(headers[b"content-length"]))
        found.append((int(status.split()[1]), {"head": headers, "json": json.loads(body)}))
    writer.close()
    return found


async def refusal(port: int, *parts: bytes, status: int, code: str, eof: bool = False) -> Any:
    """Send what is refused, and return the problem."""
    [(got, answer)] = await answers(port, *parts, eof=eof)
    problem = answer["json"]
    assert (got, problem["status"], problem["code"]) == (status, status, code), problem
    assert answer["head"][b"content-type"] == b"application/problem+json"
    assert answer["head"][b"connection"] == b"close"
    assert answer["head"][b"x-request-id"].decode() == problem["request_id"]
    return problem


LINES = [b"x-%d: 1\r\n" % number for number in range(2 * MAX_HEADERS)]

FAT = b"a: " + b"x" * 1000 + b"\r\n"


@pytest.mark.parametrize("start", [GET, POST])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"a: " + b"x" * 10_000] * 100, id="a value without end"),
        pytest.param([b"x" * 10_000] * 100, id="a name without end"),
        pytest.param([FAT] * 1000, id="lines without end"),
        pytest.param([b"a: " + b"x" * 1_000_000], id="in one piece"),
        pytest.param([FAT * 70, b"\r\n"], id="a little too large, in one piece"),
        pytest.param([*[FAT] * 70, b"\r\n"], id="a little too large, in pieces"),
        pytest.param([*LINES, b"\r\n"], id="too many lines"),
        pytest.param([b"".join(LINES)], id="too many lines in one piece"),
    ],
)
async def test_a_head_without_end_is_refused(port: int, start: bytes, parts: list[bytes]) -> None:
    await refusal(port, start, *parts, status=431, code="head_too_large")


async def test_a_url_without_end_is_refused(port: int) -> None:
    problem = await refusal(
        port, b"GET /v1/tasks?cursor=", b"x" * MAX_URL_BYTES, status=414, code="url_too_long"
    )
    assert problem["instance"] == "/v1/tasks"
    await refusal(port, b"GET /" + b"x" * 1_000_000, status=414, code="url_too_long")


async def test_large_heads_within_the_limits_are_read(port: int) -> None:
    end = b"Connection: close\r\n\r\n"
    for parts in (
        [b"".join(LINES[: MAX_HEADERS - 2])],
        LINES[: MAX_HEADERS - 2],
        [b"a: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n"],
        [FAT] * 60,
    ):
        [(status, _)] = await answers(port, GET, *parts, end)
        assert status == 200
    # The budget is a request's own.
    assert len(await answers(port, *[GET + FAT * 40 + b"\r\n"] * 5, GET + end)) == 6


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([b"1;", *[b"x" * 10_000] * 20], id="an extension without end"),
        pytest.param([b"1\r\n{\r\n0\r\n", b"a: ", *[b"x" * 10_000] * 20], id="a trailer"),
        pytest.param([b"1\r\n{\r\n0\r\n", b"".join(LINES)], id="trailers without end"),
    ],
)
async def test_chunk_extensions_and_trailers_count_too(body: list[bytes]) -> None:
    async with a_server_with_key() as (_, port, secret):
        key = b"Authorization: Bearer %s\r\n" % secret.encode()
        head = POST + key + b"Transfer-Encoding: chunked\r\n\r\n"
        await refusal(port, head, *body, status=431, code="head_too_large")


async def test_a_long_body_in_small_chunks_is_no_head(port: int) -> None:
    chunks = b"1\r\nx\r\n" * 50_000
    end = b"0\r\n\r\n" + GET + b"Connection: close\r\n\r\n"
    got = await answers(port, CHUNKED, chunks, end)
    assert [status for status, _ in got] == [401, 200]


@pytest.mark.parametrize(
    "parts",
    [
        [b"BREW /pot HTTP/1.1\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        [GET, b"no colon\r\n\r\n"],
        [POST, b"Content-Length: many\r\n\r\n"],
        [b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n"],
        [b"GET /\xff HTTP/1.1\r\n\r\n"],
        [CHUNKED, b"wrong\r\n"],
    ],
)
async def test_what_is_not_http_is_refused_with_a_problem(port: int, parts: list[bytes]) -> None:
    problem = await refusal(port, *parts, status=400, code="invalid_request")
    assert "check its method" in problem["detail"]


async def test_what_was_asked_before_is_answered_before_the_refusal(port: int) -> None:
    got = await answers(port, GET + b"\r\n" + GET + b"\r\n" + b"BREW / HTTP/1.1\r\n\r\n")
    assert [status for status, _ in got] == [200, 200, 400]


#: Stands for the header of a key.
KEY = b"KEY"


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /heal"],
        [GET],
        [GET + b"\r\n", GET],
        [POST, KEY, b"Content-Length: 10\r\n\r\n"],
        [POST, KEY, b"Content-Length: 10\r\n\r\n", b"{"],
        [POST, KEY, b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n"],
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_refused(
    hasty: tuple[int, bytes], parts: list[bytes]
) -> None:
    port, key = hasty
    parts = [key if part is KEY else part for part in parts]
    loop, skip = asyncio.get_running_loop(), time_skipper()
    begun_s = loop.time()
    *before, (status, answer) = await in_fast_time(answers(port, *parts), skip)
    assert (status, answer["json"]["code"]) == (408, "request_timeout")
    assert answer["head"][b"connection"] == b"close"
    assert [status for status, _ in before] == [200] * len(before)
    assert 0.9 * LIMIT_S <= loop.time() - begun_s < 5 * LIMIT_S


async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    hasty: tuple[int, bytes],
) -> None:
    assert await in_fast_time(answers(hasty[0]), time_skipper()) == []


async def test_a_body_that_comes_slowly_is_waited_for(hasty: tuple[int, bytes]) -> None:
    port, key = hasty
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + key + b"Content-Length: 30\r\n\r\n")
    skip = time_skipper()
    for _ in range(30):
        await asyncio.sleep(0.005)
        skip(0.1 * LIMIT_S)
        writer.write(b"x")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


# ---- what two programs may read differently


@contextlib.asynccontextmanager
async def a_server_with_key(
    protocol: type[GuardedProtocol] = GuardedProtocol, idle_s: int = IDLE_S
) -> AsyncIterator[tuple[uvicorn.Server, int, str]]:
    async with a_server(protocol, idle_s=idle_s) as (server, port):
        registry = app_of(server).backend.registry
        scopes = frozenset({Scope.CLIENT, Scope.WORKER})
        yield server, port, (await create_key(registry, SystemClock(), "k", scopes)).secret


def _chunked(path: str, trailers: list[str], *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", *headers, "Transfer-Encoding: chunked", "Connection: close"]
    return "\r\n".join((*head, "", "2", "{}", "0", *trailers, "", "")).encode()


@pytest.mark.parametrize("path", ["/v1/tasks", "/worker/v1/lease", "/v1/tasks/batch"])
async def test_a_key_in_a_trailer_is_no_key(path: str) -> None:
    async with a_server_with_key() as (_, port, secret):
        key = f"Authorization: Bearer {secret}"
        [(status, _)] = await answers(port, _chunked(path, [], "Host: x", key))
        assert status in (404, 422)
        [(status, _)] = await answers(port, _chunked(path, [key], "Host: x"))
        assert status == 401


async def test_an_idempotency_key_in_a_trailer_is_none() -> None:
    async with a_server_with_key() as (server, port, secret):
        key = f"Authorization: Bearer {secret}"
        card = {"name": "demo/upper", "version": "1", "input_schema": {"type": "object"}}
        worker = {"name": "w", "models": [card], "slots": 1}
        await answers(port, _request("/worker/v1/register", worker, secret, b"Connection: close"))
        task = json.dumps({"model": "demo/upper", "input": {}})
        wire = _chunked("/v1/tasks", ["Idempotency-Key: a"], "Host: x", key)
        wire = wire.replace(b"2\r\n{}", b"%x\r\n%s" % (len(task), task.encode()))
        for _ in range(2):
            [(status, _)] = await answers(port, wire)
            assert status == 202
        assert len((await app_of(server).backend.store.page(TaskFilter())).tasks) == 2


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
async def test_a_host_in_a_trailer_is_none(path: str) -> None:
    async with a_server(
        GuardedProtocol, ApiSettings(server=ServerSettings(hosts=("swell.test",)))
    ) as (_, port):
        wire = _chunked(path, ["Host: swell.test"])
        await refusal(port, wire, status=400, code="invalid_request")


HEALTH = b"GET /health/live HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        pytest.param(HEALTH, "0 Host headers", id="no Host"),
        pytest.param(
            POST.replace(b"Host: swell.test\r\n", b""), "0 Host", id="no Host, with a body"
        ),
        pytest.param(GET + b"Host: other\r\n", "2 Host headers", id="two Hosts"),
        pytest.param(GET + b"host: swell.test\r\n", "2 Host headers", id="the same Host twice"),
        pytest.param(POST + b"Host: other\r\n", "2 Host headers", id="two Hosts, with a body"),
        pytest.param(
            HEALTH.replace(b"1.1", b"1.0") + b"Host: a\r\nHost: b\r\n", "2 Host", id="HTTP/1.0"
        ),
        pytest.param(
            POST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
            "more than one Authorization",
            id="two keys",
        ),
        pytest.param(
            b"GET http://other/health/live HTTP/1.1\r\nHost: swell.test\r\n",
            "not the Host header",
            id="another host in the URL",
        ),
        pytest.param(
            b"GET http://me@swell.test/health/live HTTP/1.1\r\nHost: swell.test\r\n",
            "not the Host header",
            id="a user in the URL",
        ),
        pytest.param(
            b"POST /v1/tasks HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
            "no Transfer-Encoding",
            id="chunks in HTTP/1.0",
        ),
    ],
)
async def test_a_head_that_two_programs_read_differently_is_refused(
    port: int, wire: bytes, says: str
) -> None:
    problem = await refusal(port, wire + b"\r\n", status=400, code="invalid_request")
    assert says in problem["detail"]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(HEALTH.replace(b"1.1", b"1.0"), id="HTTP/1.0 without a Host"),
        pytest.param(
            b"GET HTTP://Swell.Test/health/live HTTP/1.1\r\nHost: swell.test\r\n", id="a proxy's"
        ),
        pytest.param(
            b"GET http://swell.test:80/health/live HTTP/1.1\r\nHost: swell.test\r\n", id="its port"
        ),
        pytest.param(GET.replace(b"swell.test", b""), id="an empty Host"),
    ],
)
async def test_a_head_that_all_programs_read_alike_is_answered(port: int, wire: bytes) -> None:
    [(status, _)] = await answers(port, wire + b"Connection: close\r\n\r\n")
    assert status == 200


# ---- clients that hang up


@pytest.mark.parametrize("path", ["/v1/tasks", "/worker/v1/lease"])
async def test_a_client_that_closes_one_direction_has_hung_up(path: str) -> None:
    async with a_server_with_key() as (server, port, secret):
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.sendall(_request(path, {}, secret)[:-1])
            while not server.server_state.tasks:
                await asyncio.sleep(0)
            wire.shutdown(socket.SHUT_WR)
            while server.server_state.connections or server.server_state.tasks:
                await asyncio.sleep(0)
            assert wire.recv(100) == b""


def _request(path: str, body: Any, secret: str, *lines: bytes) -> bytes:
    data = json.dumps(body).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d" % (
        path.encode(),
        secret.encode(),
        len(data),
    )
    return b"\r\n".join((head, *lines, b"", data))


@pytest.mark.parametrize("more", [(), (b"Expect: 100-continue",)])
async def test_a_task_whose_client_hangs_up_stays_accepted(more: tuple[bytes, ...]) -> None:
    async with a_server_with_key() as (server, port, secret):
        backend = app_of(server).backend
        card = {"name": "demo/upper", "version": "1", "input_schema": {"type": "object"}}
        worker = {"name": "w", "models": [card], "slots": 1}
        await answers(port, _request("/worker/v1/register", worker, secret, b"Connection: close"))
        task = {"model": "demo/upper", "input": {}}
        async with asyncio.timeout(60):
            for n in (1, 2):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(_request("/v1/tasks", task, secret, b"Prefer: wait=50", *more))
                while len((await backend.store.page(TaskFilter())).tasks) < n:
                    await asyncio.sleep(0.001)
                writer.close()
                while server.server_state.connections:
                    await asyncio.sleep(0.001)
        assert len((await backend.store.page(TaskFilter())).tasks) == 2
        await backend.bus.close()


# ---- the server stops


async def test_as_the_server_stops_a_new_connection_is_answered_once(
    server: tuple[uvicorn.Server, int],
) -> None:
    state, port = server[0].server_state, server[1]
    wires = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    (asking, begun), idle = wires[1], wires[2]
    await ask(idle, "/health/live")
    begun.write(GET)
    # The idle one and the one that has begun have sent a URL.
    while sum(bool(getattr(each, "url", b"")) for each in state.connections) < 2:
        await asyncio.sleep(0.001)
    for connection in list(state.connections):
        connection.shutdown()
    assert await idle[0].read() == b""
    begun.write(b"\r\n")
    wires[0][1].write(GET + b"\r\n")
    for reader in (asking, wires[0][0]):
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
    for _, writer in wires:
        writer.close()
