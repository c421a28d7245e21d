"""Conformance of brokers whose queues lie elsewhere and hold only a window of ids.

Their order is fair up to the window. An adapter's author subclasses `WindowedConformance` with a
fixture `delivery` whose window is at least 8, and `ExactOrderConformance` with one of a single id.
"""

import asyncio
from collections.abc import Sequence

from conformance.delivery import Delivery, LifeConformance, WaitingConformance
from conformance.factories import a_lease_request, a_new_task
from swell.broker import Rank
from swell.fairness import MOST_URGENT
from swell.task import Released, Task


async def _served(delivery: Delivery, n: int, at_once: int = 8) -> list[Task]:
    """Lease so many tasks, some at a time, and feed as a backend does."""
    served: list[Task] = []
    while len(served) < n:
        leased = await delivery.lease(min(at_once, n - len(served)))
        assert leased, f"nothing comes after {len(served)} of {n}"
        served += leased
        await delivery.broker.feed(is_leader=True)
    return served


def _window(delivery: Delivery) -> int:
    assert delivery.window is not None, "this suite is for queues that hold a window"
    return delivery.window


class WindowedConformance(LifeConformance, WaitingConformance):
    """What holds where ids lie in queues elsewhere, and with which bound."""

    async def test_more_tasks_than_the_window_are_all_handed_out_once(
        self, delivery: Delivery
    ) -> None:
        n = 3 * _window(delivery) + 5
        tasks = await delivery.submit(*(a_new_task(user=f"{k % 3}") for k in range(n)))
        served = await _served(delivery, n)
        assert sorted(task.id for task in served) == sorted(task.id for task in tasks)
        assert await delivery.lease(5) == []

    async def test_a_flood_delays_another_user_by_no_more_than_the_window(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(user="flood") for _ in range(2000)))
        await _served(delivery, 5)
        (ann,) = await delivery.submit(a_new_task(user="ann"))
        served = await _served(delivery, _window(delivery) + 2)
        assert ann.id in [task.id for task in served]

    async def test_a_flood_delays_another_key_by_no_more_than_the_window(
        self, delivery: Delivery
    ) -> None:
        many = (a_new_task(user=f"user-{n % 50}", priority=n % 2) for n in range(2000))
        await delivery.submit(*many)
        await _served(delivery, 5)
        (quiet,) = await delivery.submit(a_new_task(key_id="key-2"))
        served = await _served(delivery, _window(delivery) + 2)
        assert quiet.id in [task.id for task in served]

    async def test_behind_the_window_keys_and_their_users_take_turns(
        self, delivery: Delivery
    ) -> None:
        window = _window(delivery)
        for key_id in ("key-1", "key-2"):
            for user in ("ann", "bob"):
                new = a_new_task(key_id=key_id, user=user)
                await delivery.submit(*(new for _ in range(2 * window)))
        served = await _served(delivery, 6 * window)
        # What lies in the queue belongs to whoever came first, and may be handed out at any time;
        # of all that comes, nobody gets more than that before others, however long it goes on.
        for n in range(window, 6 * window + 1, window):
            keys = [task.key_id for task in served[:n]]
            assert abs(keys.count("key-1") - keys.count("key-2")) <= window + 2
        for key_id in ("key-1", "key-2"):
            users = [task.user for task in served if task.key_id == key_id]
            assert abs(users.count("ann") - users.count("bob")) <= 2

    async def test_no_task_comes_later_than_told_by_more_than_the_window_and_a_turn_of_each(
        self, delivery: Delivery
    ) -> None:
        window = _window(delivery)
        tasks: list[Task] = []
        for n in range(6):
            new = a_new_task(key_id=f"key-{n % 3}", user=f"{n % 2}")
            tasks += await delivery.submit(*(new for _ in range(window)))
        ranks: Sequence[Rank | None] = await delivery.broker.ranks(tasks)
        told = {task.id: rank.ahead for task, rank in zip(tasks, ranks, strict=True) if rank}
        served = await _served(delivery, len(tasks))
        assert len(told) == len(served)
        late = max(place - told[task.id] for place, task in enumerate(served))
        assert late <= window + 6

    async def test_less_urgent_tasks_wait_for_many_of_everybody_elses_even_behind_the_window(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", priority=5) for _ in range(5)))
        usual = 2 * _window(delivery)
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(usual)))
        keys = [task.key_id for task in await _served(delivery, usual + 5)]
        first = min(usual, MOST_URGENT)
        assert keys[:first] == ["key-2"] * first
        assert keys.count("key-1") == 5

    async def test_tasks_pinned_to_a_version_are_not_starved_by_the_others(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task() for _ in range(20)))
        (pinned,) = await delivery.submit(a_new_task(queue="demo/upper:v1"))
        await delivery.submit(*(a_new_task() for _ in range(60)))
        served = [task.id for task in await _served(delivery, 21 + _window(delivery), at_once=1)]
        assert pinned.id in served

    async def test_what_was_accepted_and_never_offered_is_found(self, delivery: Delivery) -> None:
        # A backend died between the two writes.
        (accepted,) = await delivery.store.accept([a_new_task()])
        await delivery.broker.feed(is_leader=True)
        (held,) = await delivery.lease()
        assert not isinstance(accepted, Exception)
        assert held.id == accepted.task.id

    async def test_what_is_offered_again_and_again_is_handed_out_once(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task())
        for _ in range(3):
            await delivery.broker.offer([task])
            await delivery.broker.feed(is_leader=True)
        assert [held.id for held in await delivery.lease(4)] == [task.id]
        await delivery.broker.offer([task])
        assert await delivery.lease(4) == []

    async def test_a_task_that_comes_back_is_not_forgotten_with_its_old_message(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task())
        for attempt in range(1, 6):
            (held,) = await delivery.lease()
            assert (held.id, held.attempt) == (task.id, attempt)
            await delivery.settle(held, outcome=Released())
        (held,) = await delivery.lease()
        await delivery.settle(held)
        assert await delivery.lease() == []

    async def test_canceled_tasks_leave_room_for_others(self, delivery: Delivery) -> None:
        window = _window(delivery)
        tasks = await delivery.submit(*(a_new_task() for _ in range(window)))
        await delivery.submit(*(a_new_task(seed=1) for _ in range(window)))
        ended = await delivery.store.cancel([task.id for task in tasks])
        await delivery.broker.ack([task for task in ended if task is not None])
        served = await _served(delivery, window)
        assert {task.seed for task in served} == {1}

    async def test_waiting_calls_are_given_what_comes_behind_the_window(
        self, delivery: Delivery
    ) -> None:
        n = 2 * _window(delivery)
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = [
            asyncio.ensure_future(delivery.broker.lease(a_lease_request(n), until=until))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        tasks = await delivery.submit(*(a_new_task() for _ in range(n)))
        first = await asyncio.wait_for(next(asyncio.as_completed(waiting)), 10)
        assert first
        until.set_result(None)
        held = [task.id for leased in await asyncio.gather(*waiting) for task in leased]
        while len(held) < n:
            more = await delivery.lease(n)
            assert more, f"nothing comes after {len(held)} of {n}"
            held += [task.id for task in more]
        assert sorted(held) == sorted(task.id for task in tasks)
