"""The client processes of service_streams_15k: hold event streams, and note when each one ended.

Started with the port on the command line and one line of JSON on stdin: headers and paths. Prints
one line when all streams are open, and one with the time (seconds since the epoch) at which each
path's end came, in the order of the paths, null where none did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time

import uvloop

from waiting_clients import AT_ONCE, raise_file_limit

END = b"event: succeeded"
TAIL = len(END)


class Stream(asyncio.Protocol):
    """One event stream. It is open once its first event came."""

    __slots__ = ("done", "ended_at", "opened", "request", "tail")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended_at: float | None = None
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        seen = self.tail + data
        if END in seen and self.ended_at is None:
            self.ended_at = time.time()
            self.settle()
        elif b"event:" in seen and not self.opened.done():
            self.opened.set_result(seen.startswith(b"HTTP/1.1 200"))
        self.tail = seen if not self.opened.done() else seen[-TAIL:]

    def connection_lost(self, error: Exception | None) -> None:
        self.settle()

    def settle(self) -> None:
        if not self.opened.done():
            self.opened.set_result(False)
        if not self.done.done():
            self.done.set_result(None)


async def hold(port: int, asked: dict[str, list[str]], limit_s: float) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    headers = "".join(f"{line}\r\n" for line in asked["headers"])
    loop = asyncio.get_running_loop()

    async def one(path: str) -> Stream:
        request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n".encode()
        async with room:
            _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", port)
            await asyncio.wait_for(asyncio.shield(stream.opened), 60)
            return stream

    started_s = time.monotonic()
    streams = await asyncio.gather(*(one(path) for path in asked["paths"]))
    opened = sum(stream.opened.result() for stream in streams)
    tell({"opened": opened, "opening_s": round(time.monotonic() - started_s, 2)})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(stream.done for stream in streams))
    tell({"ended_at": [stream.ended_at for stream in streams]})


def tell(line: object) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--limit-s", type=float, default=120)
    asked = parser.parse_args()
    raise_file_limit()
    uvloop.run(hold(asked.port, json.loads(sys.stdin.readline()), asked.limit_s))


if __name__ == "__main__":
    main()
