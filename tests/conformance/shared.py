"""What every store with its broker must do that several backends share.

An adapter's author subclasses `SharedConformance` in a test file and gives it a fixture `pair` that
yields two `Delivery` of two backends on one fresh database, with one `ManualClock`.
"""

import asyncio
import random
from datetime import timedelta

from conformance.delivery import Delivery
from conformance.factories import (
    a_failure,
    a_lease_request,
    a_new_task,
    a_settlement,
    a_success,
    hold_of,
)
from swell.core.errors import IdempotencyMismatch, SwellError
from swell.core.store_types import Accepted
from swell.core.task import NewTask, Outcome, Released, Task, TaskState

#: Two backends.
Pair = tuple[Delivery, Delivery]

#: How long a word from one backend may take to the other, in seconds; far more than it does.
PATIENCE_S = 20.0


class SharedConformance:
    """The guarantees of the store and the broker, whichever backend is asked."""

    async def test_what_one_backend_accepts_the_other_reads(self, pair: Pair) -> None:
        one, two = pair
        (task,) = await one.submit(a_new_task(user="ann", seed=7))
        assert await two.get(task) == task

    async def test_what_one_backend_accepts_the_other_leases_and_the_first_settles(
        self, pair: Pair
    ) -> None:
        one, two = pair
        (task,) = await one.submit(a_new_task())
        (held,) = await two.lease()
        assert (held.id, held.attempt) == (task.id, 1)
        (ended,) = await one.settle(held, outcome=a_success(b'"DONE"'))
        assert ended is not None
        assert (await two.get(task)).state is TaskState.SUCCEEDED
        again = await two.store.settle([a_settlement(held, a_failure())])
        assert again == [ended]
        assert again.again == {0}

    async def test_leases_of_two_backends_share_no_task(self, pair: Pair) -> None:
        tasks = await pair[0].submit(*(a_new_task(key_id=f"key-{n % 3}") for n in range(120)))
        calls = [each.lease(7, worker_id=f"worker-{n}") for n in range(12) for each in pair]
        held = [task.id for got in await asyncio.gather(*calls) for task in got]
        while more := [task.id for each in pair for task in await each.lease(50)]:
            held += more
        assert len(held) == len(set(held))
        assert set(held) == {task.id for task in tasks}

    async def test_a_lease_that_another_backend_has_shortened_is_extended_and_settled(
        self, pair: Pair
    ) -> None:
        one, two = pair
        await one.submit(a_new_task())
        (held,) = await one.lease()
        one.clock.set_back(3600)
        assert await two.store.cap_waits(lease_s=30) == 1
        one.clock.advance(20)
        (state,) = await one.store.extend([hold_of(held)], lease_s=30)
        assert state.is_held
        one.clock.advance(20)
        assert await two.sweep() == []
        (ended,) = await one.settle(held)
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED

    async def test_a_waiting_lease_gets_what_the_other_backend_accepts(self, pair: Pair) -> None:
        one, two = pair
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(two.broker.lease(a_lease_request(5), until=until))
        for _ in range(5):
            await asyncio.sleep(0)
        (task,) = await one.submit(a_new_task())
        (held,) = await asyncio.wait_for(waiting, PATIENCE_S)
        assert (held.id, held.state, held.attempt) == (task.id, TaskState.RUNNING, 1)
        assert await one.get(task) == held

    async def test_a_waiting_lease_gets_what_the_other_backend_takes_back(self, pair: Pair) -> None:
        one, two = pair
        await one.submit(a_new_task())
        (held,) = await one.lease()
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(two.broker.lease(a_lease_request(), until=until))
        for _ in range(5):
            await asyncio.sleep(0)
        await one.settle(held, outcome=Released())
        (again,) = await asyncio.wait_for(waiting, PATIENCE_S)
        assert (again.id, again.attempt) == (held.id, 2)

    async def test_a_lease_is_extended_through_either_backend(self, pair: Pair) -> None:
        await pair[0].submit(a_new_task())
        (held,) = await pair[0].lease()
        for each in (*pair, *pair):
            each.clock.advance(20)
            (state,) = await each.store.extend([hold_of(held)], lease_s=30)
            assert state.is_held
            assert [await other.sweep() for other in pair] == [[], []]
        (ended,) = await pair[1].settle(held)
        assert ended is not None

    async def test_a_lease_that_one_backend_takes_back_is_not_held_at_the_other(
        self, pair: Pair
    ) -> None:
        one, two = pair
        await one.submit(a_new_task())
        (late,) = await one.lease()
        two.clock.advance(31)
        await two.sweep()
        assert await one.settle(late) == [None]
        (state,) = await one.store.extend([hold_of(late)], lease_s=30)
        assert not state.is_held

    async def test_a_sweep_of_both_at_once_counts_each_lost_lease_once(self, pair: Pair) -> None:
        await pair[0].submit(*(a_new_task() for _ in range(50)))
        held = await pair[0].lease(50)
        pair[0].clock.advance(31)
        swept = [task for got in await asyncio.gather(*(p.sweep() for p in pair)) for task in got]
        swept += [task for each in pair for task in await each.sweep()]
        assert sorted(task.id for task in swept) == sorted(task.id for task in held)
        assert {task.attempt for task in swept} == {1}

    async def test_a_cancellation_at_one_backend_reaches_the_holder_at_the_other(
        self, pair: Pair
    ) -> None:
        one, two = pair
        await one.submit(a_new_task())
        (held,) = await one.lease()
        await two.store.cancel([held.id])
        (state,) = await one.store.extend([hold_of(held)], lease_s=30)
        assert state.cancel_requested
        (ended,) = await one.settle(held, outcome=a_failure())
        assert ended is not None
        assert ended.state is TaskState.CANCELED

    async def test_one_idempotency_key_at_both_backends_at_once_makes_one_task(
        self, pair: Pair
    ) -> None:
        for turn in range(10):
            new = a_new_task(idempotency_key=f"k-{turn}", fingerprint=b"a")
            calls = [each.store.accept([new]) for each in pair for _ in range(3)]
            results = [result for (result,) in await asyncio.gather(*calls)]
            accepted = [result for result in results if isinstance(result, Accepted)]
            assert len(accepted) == len(results)
            assert len({each.task.id for each in accepted}) == 1
            assert [each.is_new for each in accepted].count(True) == 1

    async def test_two_bodies_under_one_key_at_both_backends_at_once_make_one_task(
        self, pair: Pair
    ) -> None:
        for turn in range(10):
            calls = [
                each.store.accept(
                    [a_new_task(idempotency_key=f"k-{turn}", fingerprint=body), a_new_task()]
                )
                for each, body in zip(pair, (b"a", b"b"), strict=True)
            ]
            results = [first for first, _ in await asyncio.gather(*calls)]
            refused = [result for result in results if isinstance(result, SwellError)]
            assert [type(result) for result in refused] == [IdempotencyMismatch]

    async def test_repeating_at_both_backends_at_once_makes_one_task(self, pair: Pair) -> None:
        (task,) = await pair[0].submit(a_new_task())
        await pair[0].store.cancel([task.id])
        again = await asyncio.gather(*(each.store.retry(task.id) for each in (*pair, *pair)))
        assert len({each.task.id for each in again}) == 1
        assert [each.is_new for each in again].count(True) == 1

    async def test_a_task_that_everybody_settles_cancels_and_loses_at_once_ends_once(
        self, pair: Pair
    ) -> None:
        for turn in range(20):
            (task,) = await pair[turn % 2].submit(a_new_task(max_attempts=1))
            (held,) = await pair[turn % 2].lease()
            pair[0].clock.advance(31)
            told = [a_settlement(held, a_success(b'"one"')), a_settlement(held, a_failure())]
            *ended, swept, also_swept = await asyncio.gather(
                pair[0].store.settle(told[:1]),
                pair[1].store.settle(told[1:]),
                pair[turn % 2].store.cancel([held.id]),
                pair[0].store.sweep(),
                pair[1].store.sweep(),
            )
            fresh = [task for each in ended if not each.again for task in each if task is not None]
            heard = [task for task in (*fresh, *swept, *also_swept) if task.state.is_terminal]
            assert [each.id for each in heard] == [task.id], "one call is told that it was new"
            ends = [await each.get(task) for each in pair for _ in range(2)]
            assert ends[0].state.is_terminal
            assert all(end == ends[0] for end in ends)
            if ends[0].state is TaskState.SUCCEEDED:
                assert ends[0].output is not None
                assert bytes(ends[0].output) == b'"one"'

    async def test_whatever_both_do_at_once_each_task_ends_and_each_attempt_has_one_holder(
        self, pair: Pair
    ) -> None:
        rng = random.Random(7)
        tasks: list[Task] = []
        leases: list[tuple[str, int]] = []

        async def submit(each: Delivery) -> None:
            tasks.extend(await each.submit(*(_any_task(rng) for _ in range(rng.randint(1, 6)))))

        async def work(each: Delivery) -> None:
            held = await each.lease(rng.randint(1, 8))
            leases.extend((task.id, task.attempt) for task in held)
            other = rng.choice(pair)
            outcomes: list[Outcome] = [a_success(), a_success(), a_failure(), Released()]
            for task in held:
                await other.settle(task, outcome=rng.choice(outcomes))

        for _ in range(15):
            doing = [rng.choice([submit, work, work])(rng.choice(pair)) for _ in range(8)]
            await asyncio.gather(*doing, *(each.sweep() for each in pair))
            pair[0].clock.advance(10)
        for _ in range(200):
            await asyncio.gather(*(work(each) for each in pair), *(each.sweep() for each in pair))
            pair[0].clock.advance(70)
            left = [task for task in tasks if not (await pair[0].get(task)).state.is_terminal]
            if not left:
                break
        assert left == []
        assert len(leases) == len(set(leases))

    async def test_users_of_one_key_take_turns_though_each_asks_another_backend(
        self, pair: Pair
    ) -> None:
        one, two = pair
        await one.submit(*(a_new_task(user="flood") for _ in range(60)))
        served = await two.lease(20)
        await two.submit(*(a_new_task(user="ann") for _ in range(20)))
        served = [task for each in (one, two, one, two) for task in await each.lease(5)]
        users = [task.user for task in served]
        assert users.count("ann") >= 5
        assert users.count("flood") >= 5

    async def test_keys_take_turns_at_each_backend(self, pair: Pair) -> None:
        one, two = pair
        await one.submit(*(a_new_task(key_id="key-1") for _ in range(40)))
        await two.submit(*(a_new_task(key_id="key-2") for _ in range(40)))
        keys = [task.key_id for each in (one, two) for task in await each.lease(10)]
        assert 8 <= keys.count("key-1") <= 12

    async def test_the_next_time_to_look_is_that_of_what_either_wrote(self, pair: Pair) -> None:
        one, two = pair
        await one.submit(a_new_task(start_by_s=10))
        assert await two.store.next_wake_at() == one.clock.now() + timedelta(seconds=10)


def _any_task(rng: random.Random) -> NewTask:
    return a_new_task(
        key_id=rng.choice(["key-1", "key-2", "key-3"]),
        user=rng.choice([None, "ann", "bob"]),
        priority=rng.choice([0, 1, 1, 2]),
        max_attempts=rng.choice([1, 2, 3]),
    )
