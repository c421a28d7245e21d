"""The HTTP front that every task library gets: plain ASGI, one POST in, the task's result out.

Plain ASGI on uvicorn was the fastest front measured for one process, so no peer pays for a web
framework. A peer says how a text becomes a result (`call`) and how to run its worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn

Call = Callable[[str], Awaitable[str]]
Message = MutableMapping[str, Any]

WAIT_S = 30.0


class Asked(msgspec.Struct):
    """The body of a POST."""

    text: str


class Answered(msgspec.Struct):
    """The body of an answer: what the task returned."""

    output: str


@dataclass(frozen=True)
class Peer:
    """What a peer must offer to be measured.

    `opened` runs once in the front's event loop before the first request; `prepare` once before
    anything else, in a process of its own. `fill` puts n tasks into the queue; `ran_at` reads back
    when they ran (seconds since the epoch, in any order) from the peer's own store.
    """

    call: Call
    work: Callable[[], None]
    opened: Callable[[], Awaitable[None]]
    prepare: Callable[[], None] | None = None
    fill: Callable[[int], None] | None = None
    ran_at: Callable[[], list[float]] | None = None


class Waiting:
    """Callers that wait for a result, by task id.

    Guarantees: a result that comes before its caller waits is kept for it.
    """

    def __init__(self) -> None:
        self.futures: dict[str, asyncio.Future[str]] = {}

    def future(self, key: str) -> asyncio.Future[str]:
        found = self.futures.get(key)
        if found is None:
            found = self.futures[key] = asyncio.get_running_loop().create_future()
        return found

    def resolve(self, key: str, output: str) -> None:
        future = self.future(key)
        if not future.done():
            future.set_result(output)

    async def result(self, key: str) -> str:
        try:
            return await asyncio.wait_for(self.future(key), WAIT_S)
        finally:
            self.futures.pop(key, None)


class Front:
    """An ASGI application: `POST {"text": ...}` answers `{"output": ...}` when the task ended."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.read = msgspec.json.Decoder(Asked).decode
        self.write = msgspec.json.Encoder().encode

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        output = await self.peer.call(self.read(body).text)
        answer = self.write(Answered(output))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def live(self, receive: Any, send: Any) -> None:
        await receive()
        await self.peer.opened()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


def main(peer: Peer) -> None:
    """Runs one part of a peer: `prepare`, `front`, `work`, `fill` or `ran_at`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["prepare", "front", "work", "fill", "ran_at"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    asked = parser.parse_args()
    match asked.part:
        case "prepare" if peer.prepare is not None:
            peer.prepare()
        case "front":
            serve(peer, asked.port)
        case "work":
            peer.work()
        case "fill" if peer.fill is not None:
            peer.fill(asked.count)
        case "ran_at" if peer.ran_at is not None:
            print(json.dumps(sorted(peer.ran_at())))


def serve(peer: Peer, port: int) -> None:
    uvicorn.run(
        Front(peer),
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


def place(name: str) -> str:
    """Where the benchmark put this peer's data (PEER_DATA, a folder) or service (PEER_URL)."""
    return os.environ[name]
