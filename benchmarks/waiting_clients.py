"""The client process of service_streams: holds event streams over raw sockets, and counts events.

Started with the port on its command line and one line of JSON on stdin: headers, paths, and the
word that ends a stream. Prints one line when all streams are open and one when the event reached
them all (or the time is over). Raw sockets, so that 10,000 streams cost the client little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import time
from dataclasses import dataclass, field

FILES = 20_000
AT_ONCE = 100
TAIL = 64


@dataclass
class Watch:
    """What all streams have seen together."""

    wanted: int
    ends: tuple[bytes, ...]
    opened: int = 0
    refused: int = 0
    reached: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def reach(self) -> None:
        self.last_at = time.time()
        self.first_at = self.first_at or self.last_at
        self.reached += 1
        if self.reached == self.wanted:
            self.done.set()


class Stream(asyncio.Protocol):
    """One event stream. It is open once its first event came."""

    __slots__ = ("ended", "is_open", "open", "request", "tail", "transport", "watch")

    def __init__(self, request: bytes, watch: Watch) -> None:
        self.request = request
        self.watch = watch
        self.open = asyncio.get_running_loop().create_future()
        self.is_open = self.ended = False
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        seen = self.tail + data
        if not self.is_open and b"event:" in seen:
            self.is_open = seen.startswith(b"HTTP/1.1 200")
            self.settle(self.is_open)
        if not self.ended and any(end in seen for end in self.watch.ends):
            self.ended = True
            self.watch.reach()
        self.tail = seen if not self.is_open else seen[-TAIL:]

    def connection_lost(self, error: Exception | None) -> None:
        self.settle(False)

    def settle(self, is_open: bool) -> None:
        if not self.open.done():
            self.watch.opened += is_open
            self.watch.refused += not is_open
            self.open.set_result(is_open)


async def hold(port: int, asked: dict[str, list[str]], limit_s: float) -> None:
    watch = Watch(len(asked["paths"]), tuple(word.encode() for word in asked["ends"]))
    room = asyncio.Semaphore(AT_ONCE)
    headers = "".join(f"{line}\r\n" for line in asked["headers"])
    streams: list[Stream] = []

    async def one(path: str) -> None:
        request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n".encode()
        async with room:
            loop = asyncio.get_running_loop()
            _, stream = await loop.create_connection(
                lambda: Stream(request, watch), "127.0.0.1", port
            )
            streams.append(stream)
            await asyncio.wait_for(stream.open, 30)

    started = time.time()
    await asyncio.gather(*(one(path) for path in asked["paths"]))
    tell({"opened": watch.opened, "refused": watch.refused, "opening_s": time.time() - started})
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(watch.done.wait(), limit_s)
    tell({"reached": watch.reached, "first_at": watch.first_at, "last_at": watch.last_at})


def tell(line: dict[str, float]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--limit-s", type=float, default=60)
    asked = parser.parse_args()
    raise_file_limit()
    asyncio.run(hold(asked.port, json.loads(sys.stdin.readline()), asked.limit_s))


def raise_file_limit() -> None:
    """Every stream is a file, here and in the server, which inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    main()
