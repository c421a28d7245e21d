"""Taskiq on Redis streams: one process, 100 async tasks at once, results in Redis.

The front reads the results of all its waiting callers by one command each 2 ms, instead of a
polling coroutine per caller. TASKIQ_POLL_S and TASKIQ_TASKS measure others.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import redis.asyncio
from front import Peer, Waiting, main, place
from taskiq import TaskiqResult
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

POLL_S = float(os.environ.get("TASKIQ_POLL_S", "0.002"))
TASKS = os.environ.get("TASKIQ_TASKS", "100")

url = place("PEER_URL")
results: RedisAsyncResultBackend[str] = RedisAsyncResultBackend(redis_url=url)
broker = RedisStreamBroker(url=url).with_result_backend(results)
waiting = Waiting()


@broker.task(task_name="noop")
async def noop(text: str) -> str:
    return text


@broker.task(task_name="moment")
async def moment() -> float:
    return time.time()


def decoded(stored: bytes) -> TaskiqResult[str]:
    return TaskiqResult[str].model_validate(results.serializer.loadb(stored))


async def call(text: str) -> str:
    task = await noop.kiq(text)
    return await waiting.result(task.task_id)


async def poll() -> None:
    client = redis.asyncio.Redis.from_url(url)
    while True:
        await asyncio.sleep(POLL_S)
        keys = list(waiting.futures)
        if not keys:
            continue
        for key, stored in zip(keys, await client.mget(keys), strict=True):
            if stored is not None:
                waiting.resolve(key, decoded(stored).return_value)


async def opened() -> None:
    await broker.startup()
    opened.poller = asyncio.create_task(poll())  # type: ignore[attr-defined]


def prepare() -> None:
    """The consumer group, which must be there before the first task."""

    async def declare() -> None:
        await broker.startup()
        await broker.shutdown()

    asyncio.run(declare())


def work() -> None:
    command = [sys.executable, "-m", "taskiq", "worker", "taskiq_streams:broker"]
    size = ["--workers", "1", "--max-async-tasks", TASKS, "--log-level", "WARNING"]
    os.execv(sys.executable, [*command, *size])


if __name__ == "__main__":
    main(Peer(call, work, opened, prepare))
