"""How much of its rate does Swell keep with 100,000 ready tasks, on PostgreSQL and on SQLite?

At the store, without HTTP: 64 clients accept a task each and go on when a task ends; one worker
leases up to 64 tasks and settles them. The backlog is of 1,000 keys, or of one key with 1,000
users, and its length stays as it is. The same clients run without a backlog; all take turns. Both
databases sync every commit.

Value: the smallest of the four ratios (two databases, two backlogs) of tasks per second with a
backlog to tasks per second without one, each the median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import msgspec

import services
from machine import folder, quiet, report, say
from swell.core.broker_types import LeaseRequest
from swell.core.clock import SystemClock
from swell.core.task import NewTask, Settlement, Succeeded
from swell.db.postgres import PostgresDatabase
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

MODEL = "demo/echo"
SOURCES = 1_000
CLIENTS = 64
BATCH = 500
WARM_UP_S = 1.0


class Arm:
    """A store with its worker and clients, with a backlog or without."""

    def __init__(self, store: Any, broker: Any, kind: str) -> None:
        self._store = store
        self._broker = broker
        self._kind = kind
        self._numbers = itertools.count()
        self._ended = 0
        self._until: asyncio.Future[None] | None = None
        #: A permit for each client whose task, or another, has ended.
        self._permits = asyncio.Semaphore(0)

    def _task(self, n: int) -> NewTask:
        one_of = f"{n % SOURCES:04}"
        key_id, user = (one_of, None) if self._kind == "keys" else ("key", one_of)
        text = msgspec.Raw(b'{"text":"hello"}')
        return NewTask(model=MODEL, queue=MODEL, input=text, key_id=key_id, user=user)

    async def fill(self, n: int) -> None:
        """Accept a backlog."""
        for start in range(0, n, BATCH):
            tasks = [self._task(each) for each in range(start, min(n, start + BATCH))]
            await self._store.accept(tasks)

    async def run(self, seconds: float) -> float:
        """Run clients and a worker; return tasks per second."""
        self._until = asyncio.get_running_loop().create_future()
        running = [asyncio.ensure_future(self._work())]
        running += [asyncio.ensure_future(self._submit()) for _ in range(CLIENTS)]
        await asyncio.sleep(WARM_UP_S)
        ended, began_s = self._ended, time.monotonic()
        await asyncio.sleep(seconds)
        rate = (self._ended - ended) / (time.monotonic() - began_s)
        self._until.set_result(None)
        await asyncio.gather(*running)
        return rate

    async def _submit(self) -> None:
        assert self._until is not None
        rng = random.Random(next(self._numbers))
        while not self._until.done():
            await self._store.accept([self._task(rng.randrange(SOURCES))])
            await self._permits.acquire()

    async def _work(self) -> None:
        assert self._until is not None
        asked = LeaseRequest(worker_id="worker", queues={MODEL: "1"}, n=CLIENTS, lease_s=30.0)
        outcome = Succeeded(output=msgspec.Raw(b'"HELLO"'))
        while tasks := await self._broker.lease(asked, until=self._until):
            settlements = [
                Settlement(
                    task_id=task.id,
                    attempt=task.attempt,
                    token=task.lease_token or "",
                    outcome=outcome,
                )
                for task in tasks
            ]
            if not all(await self._store.settle(settlements)):
                raise RuntimeError("a task was lost")
            self._ended += len(tasks)
            for _ in tasks:
                self._permits.release()
        for _ in range(CLIENTS):
            self._permits.release()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


@contextlib.asynccontextmanager
async def arms(place: Path, backlog: int) -> AsyncIterator[dict[tuple[str, str, int], Arm]]:
    """Return (database, kind, backlog) → what runs there."""
    found: dict[tuple[str, str, int], Arm] = {}
    with services.postgres_server(place) as server:
        for kind, n in itertools.product(("keys", "users"), (0, backlog)):
            name = f"{kind}_{n}"
            first = await asyncpg.connect(server.url)
            await first.execute(f"CREATE DATABASE {name}")
            await first.close()
            url = server.url.removesuffix("/postgres") + f"/{name}"
            postgres = await PostgresDatabase.open(url, SystemClock())
            found["postgresql", kind, n] = Arm(Store(postgres), Broker(postgres), kind)
            sqlite = SqliteDatabase.open(place / f"{name}.db", SystemClock())
            found["sqlite", kind, n] = Arm(Store(sqlite), Broker(sqlite), kind)
        for (database, kind, n), arm in found.items():
            say(f"{database}: {n} tasks of {SOURCES} {kind}")
            await arm.fill(n)
        yield found
        for arm in found.values():
            await arm.close()


async def measured(place: Path, backlog: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Run all arms in turns; return the ratios and the rates."""
    rates: dict[tuple[str, str, int], list[float]] = {}
    cpu_ms: dict[tuple[str, str, int], list[float]] = {}
    async with arms(place, backlog) as found:
        for _ in range(rounds):
            for name, arm in found.items():
                spent_s = time.process_time()
                rate = await arm.run(seconds)
                spent_s = time.process_time() - spent_s
                rates.setdefault(name, []).append(rate)
                cpu_ms.setdefault(name, []).append(1e3 * spent_s / (rate * (seconds + WARM_UP_S)))
                say(f"{name}: {rate:.0f} tasks/s")
    return {
        f"{database}_{kind}": {
            "ratio": median(
                full / empty
                for full, empty in zip(
                    rates[database, kind, backlog], rates[database, kind, 0], strict=True
                )
            ),
            "tasks_per_s": [round(median(rates[database, kind, n])) for n in (0, backlog)],
            "python_ms": [round(median(cpu_ms[database, kind, n]), 4) for n in (0, backlog)],
        }
        for database, kind, n in rates
        if n
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    asked = parser.parse_args()
    with quiet(), folder("backlog") as place:
        seen = asyncio.run(measured(place, asked.backlog, asked.rounds, asked.seconds))
    report(min(each["ratio"] for each in seen.values()), seen)


if __name__ == "__main__":
    main()
