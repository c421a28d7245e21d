"""The cost of charging a task: in sums, as in pools without a price, and with a row each.

CPU time, the minimum of many repeats, since a busy machine only adds to it. Compare it with the
whole cost of a task (`cpu_per_task.py`).
"""

from __future__ import annotations

import asyncio
import time
import timeit
from types import SimpleNamespace
from typing import Any

import msgspec

from machine import folder, report
from swell.core.clock import SystemClock
from swell.core.records import WorkerInfo
from swell.core.store_types import Ended
from swell.core.task import NewTask, Settlement, Succeeded, Task, Timings, accept, new_id
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase
from swell.protocol.worker_messages import Report
from swell.server.billing.attempt_costs import Charges
from swell.server.metrics import Metrics
from swell.server.workers import worker_reports

CLOCK = SystemClock()
IN_A_REPORT = 8
WRITTEN = 4_000


def some_tasks(n: int) -> tuple[list[Task], Report]:
    """Return tasks that have run, and the report of their worker."""
    now = CLOCK.now()
    new = NewTask(model="demo/noop", queue="demo/noop", input=msgspec.Raw(b"{}"), key_id="k" * 16)
    tasks = [accept(new, task_id=new_id(now), now=now) for _ in range(n)]
    outcome = Succeeded(timings=Timings(run_s=1e-4))
    told = [Settlement(task_id=task.id, attempt=1, token="t", outcome=outcome) for task in tasks]
    return tasks, Report(worker_id="w", settlements=told)


def charged(service: Any, info: WorkerInfo, tasks: list[Task], told: Report) -> None:
    """Charge the attempts of a report."""
    told = worker_reports._with_costs(service, info, told)
    service.charges.settled(info, told.settlements, Ended(tasks))


def noting_us(service: Any, info: WorkerInfo) -> float:
    tasks, told = some_tasks(IN_A_REPORT)
    n = 2_000
    seconds = min(
        timeit.repeat(
            lambda: charged(service, info, tasks, told),
            setup=service.charges._entries.clear,
            timer=time.process_time,
            number=n,
            repeat=15,
        )
    )
    service.charges._entries.clear()
    return 1e6 * seconds / n / IN_A_REPORT


async def writing_us(service: Any, info: WorkerInfo) -> float:
    best = float("inf")
    for _ in range(7):
        charged(service, info, *some_tasks(WRITTEN))
        begun_s = time.process_time()
        await service.charges.keep()
        best = min(best, time.process_time() - begun_s)
    return 1e6 * best / WRITTEN


async def measure() -> dict[str, float]:
    with folder("charging") as path:
        database = SqliteDatabase.open(path / "swell.db", CLOCK)
        charges = Charges(Registry(database), CLOCK, Metrics())
        tariffs = SimpleNamespace(hour_micros=lambda info: info.hour_micros)
        service = SimpleNamespace(clock=CLOCK, charges=charges, tariffs=tariffs)
        now = CLOCK.now()
        free = WorkerInfo(
            id="w" * 32, name="w", pool="p", models={}, registered_at=now, seen_at=now
        )
        priced = msgspec.structs.replace(free, hour_micros=3_600_000)
        found = {
            "sum_us": noting_us(service, free),
            "row_us": noting_us(service, priced),
            "row_written_us": await writing_us(service, priced),
        }
        await database.close()
    return found


def main() -> None:
    found = asyncio.run(measure())
    report(found["sum_us"], {name: round(us, 2) for name, us in found.items()})


if __name__ == "__main__":
    main()
