"""Huey on SQLite with `fsync=True`: WAL, synchronous=FULL, 8 worker threads, as in its manual.

The worker polls each millisecond without back-off. The front reads the results of all its waiting
callers in one query per millisecond on a connection of its own, which is kinder than
Huey's own `Result.get` (a write transaction per result). Results are kept, as Swell keeps its own.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from front import Peer, Waiting, main, place
from huey import SqliteHuey

THREADS = 8
POLL_S = 0.001

database = str(Path(place("PEER_DATA")) / "huey.db")
huey = SqliteHuey(filename=database, fsync=True)
reader = SqliteHuey(filename=database, fsync=True, create_tables=False)
waiting = Waiting()
enqueuer = ThreadPoolExecutor(1)


@huey.task(name="noop")
def noop(text: str) -> str:
    return text


@huey.task(name="moment")
def moment() -> float:
    return time.time()


async def call(text: str) -> str:
    enqueued = await asyncio.get_running_loop().run_in_executor(enqueuer, noop, text)
    return await waiting.result(enqueued.id)


async def poll() -> None:
    while True:
        await asyncio.sleep(POLL_S)
        if waiting.futures:
            found = reader.storage.peek_many(list(waiting.futures))
            for key, value in found.items():
                waiting.resolve(key, huey.serializer.deserialize(value))


async def opened() -> None:
    opened.poller = asyncio.create_task(poll())  # type: ignore[attr-defined]


def work() -> None:
    consumer = huey.create_consumer(
        workers=THREADS,
        initial_delay=POLL_S,
        max_delay=POLL_S,
        backoff=1.0,
        periodic=False,
        check_worker_health=False,
    )
    consumer.run()


def fill(count: int) -> None:
    for _ in range(count):
        moment()


def ran_at() -> list[float]:
    return [huey.serializer.deserialize(v) for v in huey.storage.result_items().values()]


if __name__ == "__main__":
    main(Peer(call, work, opened, fill=fill, ran_at=ran_at))
