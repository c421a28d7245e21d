"""A process that uses a store as hard as it can, and says each thing once it is told that it holds.

    python -m chaos.hammer DATABASE ROUND

Its lines are JSON, written with one system call each, so that a SIGKILL cuts off no more than what
was never said: `["asking", name]`, `["accepted", name, id]` and `["seen", id, attempt, state,
output]`.
"""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

import msgspec

from swell.core.broker_types import LeaseRequest
from swell.core.clock import SystemClock
from swell.core.retry import RetryPolicy
from swell.core.store_types import Accepted
from swell.core.task import Failed, NewTask, Released, Settlement, Succeeded, Task, TaskError
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.queues.table_broker import Broker

MODEL = "chaos/hammer"
ASKERS = 16
WORKERS = 3
LEASE_S = 0.5


def say(*line: Any) -> None:
    os.write(1, msgspec.json.encode(line) + b"\n")


def a_new_task(name: str) -> NewTask:
    return NewTask(
        model=MODEL,
        queue=MODEL,
        input=msgspec.Raw(b"{}"),
        key_id="key",
        user=name[-1],
        metadata=msgspec.Raw(msgspec.json.encode({"ask": name})),
        max_attempts=1_000,
        idempotency_key=name,
        fingerprint=name.encode(),
    )


async def ask(store: Store, round_: int, asker: int, rng: random.Random) -> None:
    """Ask for new tasks, and now and then for those of the round before again."""
    number = 0
    while True:
        of_round = round_ if rng.random() < 0.7 else max(0, round_ - 1)
        names = [f"{of_round}-{asker}-{number + n}" for n in range(rng.randint(1, 4))]
        number += len(names)
        for name in names:
            say("asking", name)
        for name, accepted in zip(
            names, await store.accept([a_new_task(name) for name in names]), strict=True
        ):
            assert isinstance(accepted, Accepted)
            say("accepted", name, accepted.task.id)
        # Slower than the workers, so that a round does not leave everything to the last one.
        await asyncio.sleep(rng.uniform(0.0, 0.02))


async def work(
    store: Store, broker: Broker, worker_id: str, rng: random.Random, *, is_last: bool
) -> None:
    """Lease and settle; in the last round until nothing is left."""
    while True:
        request = LeaseRequest(worker_id=worker_id, queues={MODEL: "1"}, n=20, lease_s=LEASE_S)
        tasks = await broker.lease(request)
        said(tasks)
        settled = await store.settle([settlement(task, rng, is_last) for task in tasks])
        said([task for task in settled if task is not None])
        swept = await store.sweep()
        said(swept)
        # Whoever makes a task ready looks for it once more: the others may have gone.
        if not tasks and not swept:
            if is_last and await store.next_wake_at() is None:
                return
            await asyncio.sleep(0.01)


def settlement(task: Task, rng: random.Random, is_last: bool) -> Settlement:
    outcome: Succeeded | Failed | Released
    chance = 1.0 if is_last else rng.random()
    if chance < 0.1:
        error = TaskError(code="model_error", title="The model failed", detail="as asked")
        outcome = Failed(error=error)
    elif chance < 0.2:
        outcome = Released()
    else:
        # No two attempts give the same, so that an outcome written twice would show.
        outcome = Succeeded(output=msgspec.Raw(msgspec.json.encode(task.lease_token)))
    return Settlement(
        task_id=task.id, attempt=task.attempt, token=task.lease_token or "", outcome=outcome
    )


def said(tasks: list[Task]) -> None:
    for task in tasks:
        output = None if task.output is None else bytes(task.output).decode()
        say("seen", task.id, task.attempt, task.state.value, output)


async def main(database: Path, round_: int) -> None:
    """Hammer until killed; a negative round asks for nothing and ends when all have ended."""
    rng = random.Random(round_)
    opened = SqliteDatabase.open(database, SystemClock())
    store = Store(opened, RetryPolicy(base_s=0.02, cap_s=0.1, floor_s=0.01))
    broker = Broker(opened)
    is_last = round_ < 0
    async with asyncio.TaskGroup() as group:
        for worker in range(WORKERS):
            worker_id = f"{round_}-{worker}"
            group.create_task(work(store, broker, worker_id, rng, is_last=is_last))
        for asker in range(0 if is_last else ASKERS):
            group.create_task(ask(store, round_, asker, rng))
    await opened.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
