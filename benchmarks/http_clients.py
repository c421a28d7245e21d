"""Which HTTP client costs a worker least per call?

One connection POSTs a report-sized body, call after call, to a bare server in a process of its own.
What counts is the client's own CPU time, since the worker shares its cores with everybody else.
Prints one JSON object: microseconds of CPU and of waiting per call, by client and body size.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import aiohttp
import httpx2
import uvloop

from swell.protocol.http1_client import Http1Client

CALLS = 1500
ROUNDS = 5
HEADERS = {"authorization": "Bearer swell_0123456789", "content-type": "application/json"}
SIZES = {"one task": 220, "256 tasks": 48_000}
Post = Callable[[bytes], Awaitable[bytes]]


class Bare(asyncio.Protocol):
    """Answers each POST with a body of 200 bytes, and knows no more of HTTP than that."""

    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n"

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self.buffer = body[length:]
            self.transport.write(self.answer + b"x" * 200)


def serve(port: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Bare, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    uvloop.run(main())


@asynccontextmanager
async def with_httpx2(url: str) -> Any:
    async with httpx2.AsyncClient(headers=HEADERS, timeout=30) as client:

        async def post(body: bytes) -> bytes:
            return (await client.post(url, content=body)).content

        yield post


@asynccontextmanager
async def with_aiohttp(url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=30)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout, cookie_jar=jar) as client:

        async def post(body: bytes) -> bytes:
            async with client.post(url, data=body) as answer:
                return await answer.read()

        yield post


@asynccontextmanager
async def with_http1(url: str) -> Any:
    client = Http1Client(url.removesuffix("/r"), HEADERS)

    async def post(body: bytes) -> bytes:
        return (await client.post("/r", body, timeout_s=30)).body

    yield post
    client.close()


async def measure(client: Any, url: str, size: int) -> tuple[float, float]:
    async with client(url) as post:
        body = b"x" * size
        for _ in range(100):
            assert len(await post(body)) == 200
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(CALLS):
            await post(body)
        return (
            (time.process_time() - cpu) / CALLS * 1e6,
            (time.perf_counter() - wall) / CALLS * 1e6,
        )


def main() -> None:
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port.value}/r"
    clients = {"httpx2": with_httpx2, "aiohttp": with_aiohttp, "http1": with_http1}
    seen: dict[str, Any] = {}
    for label, size in SIZES.items():
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                rounds[name].append(uvloop.run(measure(client, url, size)))
        seen[label] = {
            name: {
                "cpu_us": round(median(cpu for cpu, _ in found)),
                "wait_us": round(median(wall for _, wall in found)),
            }
            for name, found in rounds.items()
        }
    server.kill()
    versions = {name: importlib.metadata.version(name) for name in ("httpx2", "aiohttp", "uvloop")}
    print(json.dumps({"per_call": seen, "versions": versions}))


if __name__ == "__main__":
    main()
