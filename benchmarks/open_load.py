"""Load of requests that take long: at given times whoever waits, or by clients that wait in turn.

Arrivals are Poisson, from a seed. Latency counts from the time that a request was to be sent, so a
load generator that comes late, or a system that makes it wait, hides nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

LIMIT_S = 300.0

Wish = Mapping[str, Any]
Ask = Callable[[aiohttp.ClientSession, Wish], Awaitable[bytes]]


@dataclass(frozen=True)
class Seen:
    """What came back, in the order of the requests."""

    latencies_s: tuple[float, ...]
    files: tuple[bytes, ...]
    #: From the first arrival to the last answer.
    seconds: float

    @property
    def images_per_s(self) -> float:
        return len(self.files) / self.seconds

    @property
    def p95_s(self) -> float:
        return percentile(self.latencies_s, 0.95)


def poisson(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Seconds at which requests arrive, the first at 0."""
    rng = random.Random(seed)
    at_s = [0.0]
    while len(at_s) < count:
        at_s.append(at_s[-1] + rng.expovariate(rate_per_s))
    return at_s


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


async def at_times(ask: Ask, wishes: Sequence[Wish], at_s: Sequence[float]) -> Seen:
    """Sends each request at its time, whether or not earlier ones were answered."""
    loop = asyncio.get_running_loop()

    async def one(wish: Wish, due_s: float) -> tuple[float, bytes]:
        await asyncio.sleep(due_s - loop.time())
        file = await ask(session, wish)
        return loop.time() - due_s, file

    async with _session() as session:
        begun_s = loop.time()
        answers = await asyncio.gather(
            *(one(wish, begun_s + due_s) for wish, due_s in zip(wishes, at_s, strict=True))
        )
        seconds = loop.time() - begun_s
    return _seen(answers, seconds)


async def by_clients(ask: Ask, wishes: Sequence[Wish], clients: int) -> Seen:
    """So many clients take one request after another until there are no more."""
    waiting: Iterator[tuple[int, Wish]] = iter(enumerate(wishes))
    answers: dict[int, tuple[float, bytes]] = {}

    async def client() -> None:
        for number, wish in waiting:
            begun_s = time.monotonic()
            file = await ask(session, wish)
            answers[number] = (time.monotonic() - begun_s, file)

    async with _session() as session:
        begun_s = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.monotonic() - begun_s
    return _seen([answers[number] for number in range(len(wishes))], seconds)


def _session() -> aiohttp.ClientSession:
    limit = aiohttp.ClientTimeout(total=LIMIT_S)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit)


def _seen(answers: Sequence[tuple[float, bytes]], seconds: float) -> Seen:
    latencies_s, files = zip(*answers, strict=True)
    return Seen(latencies_s, files, seconds)
