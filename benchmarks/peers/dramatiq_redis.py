"""Dramatiq on Redis: 1 process, 8 threads, results in Redis, 128 messages prefetched.

The front reads the results of all its waiting callers in one pipeline each 2 ms. Tried against it
with less success: a thread per caller in `get_result(block=True)`, a blocking Redis command per
caller, and a result backend that also publishes. 128 did more than the default prefetch of 16.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from front import Peer, Waiting, main, place

PROCESSES = 1
THREADS = 8
PREFETCH = 128
POLL_S = 0.002

url = place("PEER_URL")
broker = RedisBroker(url=url)
results = RedisBackend(url=url)
broker.add_middleware(Results(backend=results))
dramatiq.set_broker(broker)
waiting = Waiting()


@dramatiq.actor(actor_name="noop", store_results=True)
def noop(text: str) -> str:
    return text


@dramatiq.actor(actor_name="moment", store_results=True)
def moment() -> float:
    return time.time()


def decoded(stored: bytes) -> Any:
    return results.unwrap_result(results.encoder.decode(stored))


async def call(text: str) -> str:
    message = noop.send(text)
    return await waiting.result(results.build_message_key(message))


async def poll() -> None:
    while True:
        await asyncio.sleep(POLL_S)
        keys = list(waiting.futures)
        if not keys:
            continue
        with results.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.lindex(key, 0)
            stored = pipeline.execute()
        for key, value in zip(keys, stored, strict=True):
            if value is not None:
                waiting.resolve(key, decoded(value))


async def opened() -> None:
    opened.poller = asyncio.create_task(poll())  # type: ignore[attr-defined]


def work() -> None:
    command = [sys.executable, "-m", "dramatiq", "dramatiq_redis:broker"]
    size = ["-p", str(PROCESSES), "-t", str(THREADS)]
    environment = {**os.environ, "dramatiq_queue_prefetch": str(PREFETCH)}
    os.execve(sys.executable, [*command, *size], environment)


def fill(count: int) -> None:
    for _ in range(count):
        moment.send()


def ran_at() -> list[float]:
    lists = results.client.scan_iter(count=1000, _type="list")
    keys = [key for key in lists if not key.startswith(b"dramatiq:")]
    with results.client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.lindex(key, 0)
        return [decoded(value) for value in pipeline.execute()]


if __name__ == "__main__":
    main(Peer(call, work, opened, fill=fill, ran_at=ran_at))
