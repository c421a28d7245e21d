"""Celery on Redis: prefork pool of 1, prefetch multiplier 128, results in Redis.

The front hears results as Celery publishes them, through one pattern subscription instead of a
subscription and a waiting thread per task: 674 instead of 515 tasks/s, and 1.8 instead of 2.9 ms,
when this was chosen. The solo pool did less (607 tasks/s, 1.9 ms). CELERY_POOL=solo measures it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import redis.asyncio
from celery import Celery
from front import Peer, Waiting, main, place

POOL = os.environ.get("CELERY_POOL", "prefork")

url = place("PEER_URL")
app = Celery("celery_redis", broker=url, backend=url)
app.conf.update(
    worker_prefetch_multiplier=128,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    task_send_sent_event=False,
)
waiting = Waiting()


@app.task(name="noop")
def noop(text: str) -> str:
    return text


@app.task(name="moment")
def moment() -> float:
    return time.time()


async def call(text: str) -> str:
    return await waiting.result(noop.delay(text).id)


async def listen() -> None:
    subscriber = redis.asyncio.Redis.from_url(url).pubsub()
    await subscriber.psubscribe("celery-task-meta-*")
    async for message in subscriber.listen():
        if message["type"] == "pmessage":
            meta = json.loads(message["data"])
            waiting.resolve(meta["task_id"], meta["result"])


def no_subscription_per_task() -> None:
    """The front's one pattern subscription stands for them; nobody else would read them."""
    app.backend.on_task_call = lambda *_: None


async def opened() -> None:
    no_subscription_per_task()
    opened.listener = asyncio.create_task(listen())  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)


def work() -> None:
    command = [sys.executable, "-m", "celery", "-A", "celery_redis", "worker"]
    pool = ["--pool", POOL, "--concurrency", "1", "--loglevel", "WARNING"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.execv(sys.executable, [*command, *pool, *quiet])


def fill(count: int) -> None:
    no_subscription_per_task()
    for _ in range(count):
        moment.delay()


def ran_at() -> list[float]:
    keys = list(app.backend.client.scan_iter("celery-task-meta-*", count=1000))
    return [json.loads(value)["result"] for value in app.backend.client.mget(keys)] if keys else []


if __name__ == "__main__":
    main(Peer(call, work, opened, fill=fill, ran_at=ran_at))
