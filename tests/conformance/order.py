"""Conformance of a store's own broker as the order for brokers that carry ids elsewhere.

An adapter's author subclasses `OrderConformance` beside `DeliveryConformance`, with the same
fixture `delivery`, where the broker is an `Order`.
"""

import random
from collections.abc import Sequence
from typing import cast

import pytest

from conformance.delivery import Delivery
from conformance.factories import a_new_task
from swell.broker import Offered, Order
from swell.store import Start
from swell.task import Task

_QUEUE = "demo/upper"


def offered(task: Task) -> Offered:
    """Return a task as one that lies in a queue elsewhere."""
    return Offered(
        task_id=task.id,
        key_id=task.key_id,
        user=task.user,
        priority=task.priority,
        cost=task.count,
    )


async def _next(
    delivery: Delivery, n: int, besides: Sequence[Task] = (), *, is_usual: bool = True
) -> list[Task]:
    order = cast("Order", delivery.broker)
    return await order.next_ready(
        _QUEUE, n, is_usual=is_usual, besides=[offered(task) for task in besides]
    )


async def _start(delivery: Delivery, tasks: Sequence[Task]) -> list[Task]:
    """Start tasks as a broker does that carries ids."""
    starts = [
        Start(
            task_id=task.id,
            queue=task.queue,
            worker_id="worker-1",
            version="v1",
            token=task.id,
            lease_s=30,
        )
        for task in tasks
    ]
    started = [task for task in await delivery.store.start(starts) if task is not None]
    await delivery.broker.started(started)
    return started


class OrderConformance:
    """What the broker of a store must tell one that carries ids elsewhere."""

    async def test_who_is_next_is_told_in_the_order_of_service_and_changes_nothing(
        self, delivery: Delivery
    ) -> None:
        for key_id in ("key-1", "key-2"):
            await delivery.submit(*(a_new_task(key_id=key_id, user=f"{n % 3}") for n in range(9)))
        told = await _next(delivery, 18)
        assert await _next(delivery, 7) == told[:7]
        served = await delivery.lease(18)
        assert [task.id for task in told] == [task.id for task in served]

    async def test_tasks_that_lie_elsewhere_are_left_out_and_have_had_their_turns(
        self, delivery: Delivery
    ) -> None:
        flood = await delivery.submit(*(a_new_task(key_id="key-1") for _ in range(20)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(5)))
        told = await _next(delivery, 8, flood[:4])
        # Who comes now has saved nothing up, and has lost nothing.
        assert told[0].key_id == "key-2"
        assert [task.key_id for task in told].count("key-2") == 4
        assert not {task.id for task in flood[:4]} & {task.id for task in told}
        assert len(await _next(delivery, 100, flood[:4])) == 21

    async def test_what_is_less_urgent_is_told_apart_the_most_urgent_band_first(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(priority=p) for p in (5, 1, 0, 9, 2)))
        assert [task.priority for task in await _next(delivery, 9)] == [0, 1]
        later = await _next(delivery, 9, is_usual=False)
        assert [task.priority for task in later] == [2, 5, 9]

    async def test_only_what_waits_in_that_queue_and_could_run_is_told(
        self, delivery: Delivery
    ) -> None:
        (expired,) = await delivery.submit(a_new_task(start_by_s=5))
        await delivery.submit(a_new_task("demo/other"), a_new_task(queue="demo/upper:v1"))
        (running,) = await delivery.submit(a_new_task(priority=0))
        (ready,) = await delivery.submit(a_new_task())
        assert [task.id for task in await _start(delivery, [running])] == [running.id]
        delivery.clock.advance(6)
        told = await _next(delivery, 9)
        assert ready.id in [task.id for task in told]
        assert running.id not in [task.id for task in told]
        assert await _start(delivery, [expired]) == []

    @pytest.mark.parametrize("seed", range(4))
    async def test_tasks_started_past_the_broker_count_in_the_order(
        self, delivery: Delivery, seed: int
    ) -> None:
        rng = random.Random(seed)
        waiting: list[Task] = []
        for _ in range(6):
            for _ in range(rng.randint(1, 8)):
                waiting += await delivery.submit(
                    a_new_task(key_id=rng.choice("abc"), user=rng.choice("xyz"))
                )
            started = await _start(delivery, await _next(delivery, rng.randint(1, 4)))
            waiting = [task for task in waiting if task.id not in {each.id for each in started}]
        ranks = await delivery.broker.ranks([await delivery.get(task) for task in waiting])
        told = {task.id: rank.ahead for task, rank in zip(waiting, ranks, strict=True) if rank}
        order = await _next(delivery, len(waiting))
        assert [told[task.id] for task in order] == list(range(len(order)))
