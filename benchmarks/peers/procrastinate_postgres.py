"""Procrastinate on PostgreSQL with its default fsync: concurrency 30, LISTEN/NOTIFY, async tasks.

Procrastinate keeps no results: the front asks for the status of all its waiting jobs in one query
each 2 ms and, when a job has succeeded, answers the text that the task would have returned.
"""

from __future__ import annotations

import asyncio

from front import Peer, Waiting, main, place
from procrastinate import App, PsycopgConnector

CONCURRENCY = 30
POLL_S = 0.002
SUCCEEDED = "SELECT id FROM procrastinate_jobs WHERE id = ANY(%(ids)s) AND status = 'succeeded'"
RAN_AT = """
SELECT extract(epoch FROM at)::float AS at FROM procrastinate_events WHERE type = 'succeeded'
"""

app = App(connector=PsycopgConnector(conninfo=place("PEER_URL"), min_size=4, max_size=16))
waiting = Waiting()


@app.task(name="noop")
async def noop(text: str) -> str:
    return text


async def call(text: str) -> str:
    job_id = await noop.defer_async(text=text)
    await waiting.result(str(job_id))
    return text


async def poll() -> None:
    while True:
        await asyncio.sleep(POLL_S)
        if waiting.futures:
            ids = [int(key) for key in waiting.futures]
            for row in await app.connector.execute_query_all_async(SUCCEEDED, ids=ids):
                waiting.resolve(str(row["id"]), "")


async def opened() -> None:
    await app.open_async()
    opened.poller = asyncio.create_task(poll())  # type: ignore[attr-defined]


def prepare() -> None:
    with app.open():
        app.schema_manager.apply_schema()


def work() -> None:
    app.run_worker(concurrency=CONCURRENCY, listen_notify=True)


def fill(count: int) -> None:
    async def defer() -> None:
        async with app.open_async():
            for start in range(0, count, 500):
                size = min(500, count - start)
                await noop.batch_defer_async(*({"text": "hello"} for _ in range(size)))

    asyncio.run(defer())


def ran_at() -> list[float]:
    async def read() -> list[float]:
        async with app.open_async():
            return [row["at"] for row in await app.connector.execute_query_all_async(RAN_AT)]

    return asyncio.run(read())


if __name__ == "__main__":
    main(Peer(call, work, opened, prepare, fill, ran_at))
