"""Conformance of a store and its broker, tested together as they are used.

An adapter's author subclasses `DeliveryConformance` in a test file and gives it a fixture
`delivery` that yields a fresh `Delivery` on a `ManualClock`.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from conformance.factories import (
    a_failure,
    a_lease_request,
    a_new_task,
    a_settlement,
    a_success,
    hold_of,
)
from manual_clock import ManualClock
from swell.core.broker_types import Backlog, ReadyTask
from swell.core.errors import Conflict, IdempotencyMismatch, InvalidRequest, NotFound, SwellError
from swell.core.fair_queueing import MOST_PASSED, MOST_URGENT
from swell.core.results import TaskWarning
from swell.core.store_types import Accepted, Expiry, Part, Start, TaskFilter
from swell.core.task import (
    THUMBNAIL_WIDTHS,
    Artifact,
    Canceled,
    NewTask,
    Outcome,
    Released,
    Succeeded,
    Task,
    TaskState,
    checkpoint_key,
    thumbnail_key,
)
from swell.db.task_store import Store
from swell.queues.table_broker import Broker


@dataclass(frozen=True)
class Delivery:
    """A store and a broker that belong together, and the clock that both read."""

    clock: ManualClock
    store: Store
    broker: Broker

    def publish(self, tasks: Sequence[Task]) -> None:
        """Do what the backend does after a commit; nothing without external queues."""

    async def submit(self, *tasks: NewTask) -> list[Task]:
        """Accept tasks, as the backend does."""
        accepted = [_expect(result) for result in await self.store.accept(tasks)]
        self.publish([one.task for one in accepted if one.is_new])
        return [one.task for one in accepted]

    async def lease(self, n: int = 1, **fields: object) -> list[Task]:
        """Lease as a worker does."""
        return await self.broker.lease(a_lease_request(n, **fields))  # type: ignore[arg-type]

    async def settle(self, *held: Task, outcome: Outcome | None = None) -> list[Task | None]:
        """Report one outcome for held tasks, as the backend does."""
        ended = await self.store.settle([a_settlement(task, outcome) for task in held])
        self.publish([task for task in ended if task is not None])
        return ended

    async def sweep(self) -> list[Task]:
        """Do what time demands, as the backend does."""
        changed = await self.store.sweep()
        self.publish(changed)
        return changed

    async def get(self, task: Task) -> Task:
        """Return a task as it is now."""
        (found,) = await self.store.get([task.id])
        assert found is not None
        return found


def _expect(result: Accepted | SwellError) -> Accepted:
    if isinstance(result, SwellError):
        raise result
    return result


#: How a task that was held comes back to its queue.
_WAYS_BACK = ("released", "backoff", "lost", "replayed")


class LifeConformance:
    """What becomes of a task, whoever hands it out."""

    # ---- accepting

    async def test_an_accepted_task_can_be_read_back_whole(self, delivery: Delivery) -> None:
        new = a_new_task(user="ann", seed=7, count=2, priority=3, finish_by_s=60, max_attempts=5)
        (task,) = await delivery.submit(new)
        assert task.state is TaskState.QUEUED
        assert await delivery.get(task) == task
        assert (task.user, task.seed, task.count, task.priority) == ("ann", 7, 2, 3)
        assert bytes(task.input) == b'{"text":"hello"}'

    async def test_a_trace_stays_with_its_task_and_not_with_the_one_that_repeats_it(
        self, delivery: Delivery
    ) -> None:
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        (task,) = await delivery.submit(a_new_task(traceparent=trace))
        assert (await delivery.get(task)).traceparent == trace
        (held,) = await delivery.lease()
        assert held.traceparent == trace
        (ended,) = await delivery.settle(held)
        assert ended is not None
        assert ended.traceparent == trace
        again = await delivery.store.retry(task.id)
        assert again.task.traceparent is None

    async def test_an_unknown_task_is_none(self, delivery: Delivery) -> None:
        assert await delivery.store.get(["0" * 32]) == [None]

    async def test_ids_are_unique_and_results_keep_their_order(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(*(a_new_task(seed=seed) for seed in range(100)))
        assert [task.seed for task in tasks] == list(range(100))
        assert len({task.id for task in tasks}) == 100

    async def test_the_same_idempotency_key_gives_the_same_task(self, delivery: Delivery) -> None:
        new = a_new_task(idempotency_key="k", fingerprint=b"a")
        (first,) = await delivery.submit(new)
        (again,) = await delivery.store.accept([new])
        assert isinstance(again, Accepted)
        assert again.task.id == first.id
        assert not again.is_new

    async def test_a_store_knows_the_keys_of_the_last_day(self, delivery: Delivery) -> None:
        assert not await delivery.store.knows("key-1", "k")
        await delivery.submit(a_new_task(idempotency_key="k", fingerprint=b"a"))
        assert await delivery.store.knows("key-1", "k")
        assert not await delivery.store.knows("key-2", "k")
        delivery.clock.advance(24 * 3600 + 1)
        assert not await delivery.store.knows("key-1", "k")

    async def test_tasks_of_a_key_are_open_until_they_end(self, delivery: Delivery) -> None:
        count_open = delivery.store.count_open
        assert await count_open([]) == []
        await delivery.submit(a_new_task(), a_new_task(finish_by_s=60), a_new_task())
        held, delayed, _ = await delivery.lease(n=3)
        (other,) = await delivery.submit(a_new_task(key_id="key-2"))
        assert await count_open(["key-2", "key-1", "key-3"]) == [1, 3, 0]
        await delivery.settle(delayed, outcome=a_failure(retryable=True))
        assert await count_open(["key-1"]) == [3]
        await delivery.settle(held)
        await delivery.store.cancel([other.id])
        assert await count_open(["key-1", "key-2"]) == [2, 0]

    async def test_a_key_repeated_within_one_call_gives_one_task(self, delivery: Delivery) -> None:
        new = a_new_task(idempotency_key="k", fingerprint=b"a")
        first, second = await delivery.submit(new, new)
        assert first.id == second.id

    async def test_an_idempotency_key_with_another_body_is_refused(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task(idempotency_key="k", fingerprint=b"a"))
        clash = a_new_task(idempotency_key="k", fingerprint=b"b")
        (refused,) = await delivery.store.accept([clash])
        assert isinstance(refused, IdempotencyMismatch)

    async def test_an_idempotency_key_belongs_to_one_api_key(self, delivery: Delivery) -> None:
        (mine,) = await delivery.submit(a_new_task(idempotency_key="k", fingerprint=b"a"))
        other = a_new_task(idempotency_key="k", fingerprint=b"b", key_id="key-2")
        (yours,) = await delivery.submit(other)
        assert mine.id != yours.id

    async def test_an_idempotency_key_is_forgotten_after_a_day(self, delivery: Delivery) -> None:
        new = a_new_task(idempotency_key="k", fingerprint=b"a")
        (first,) = await delivery.submit(new)
        delivery.clock.advance(24 * 3600 + 1)
        (second,) = await delivery.submit(new)
        assert first.id != second.id

    async def test_all_or_none_writes_nothing_beside_an_error(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(idempotency_key="k", fingerprint=b"a"))
        clash = a_new_task(idempotency_key="k", fingerprint=b"b")
        results = await delivery.store.accept([a_new_task(), clash])
        assert all(isinstance(result, SwellError) for result in results)
        assert len((await delivery.store.page(TaskFilter())).tasks) == 1

    async def test_two_bodies_under_one_key_in_one_call_write_nothing(
        self, delivery: Delivery
    ) -> None:
        one = a_new_task(idempotency_key="k", fingerprint=b"a")
        two = a_new_task(idempotency_key="k", fingerprint=b"b")
        results = await delivery.store.accept([one, two])
        assert all(isinstance(result, SwellError) for result in results)
        assert isinstance(results[1], IdempotencyMismatch)
        assert (await delivery.store.page(TaskFilter())).tasks == ()

    async def test_two_bodies_under_one_key_without_all_or_none_accept_the_first(
        self, delivery: Delivery
    ) -> None:
        one = a_new_task(idempotency_key="k", fingerprint=b"a")
        two = a_new_task(idempotency_key="k", fingerprint=b"b")
        first, second = await delivery.store.accept([one, two], all_or_none=False)
        assert isinstance(first, Accepted)
        assert isinstance(second, IdempotencyMismatch)

    async def test_without_all_or_none_the_good_ones_are_accepted(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(idempotency_key="k", fingerprint=b"a"))
        clash = a_new_task(idempotency_key="k", fingerprint=b"b")
        good, bad = await delivery.store.accept([a_new_task(), clash], all_or_none=False)
        assert isinstance(good, Accepted)
        assert isinstance(bad, IdempotencyMismatch)

    async def test_many_callers_at_once_lose_nothing(self, delivery: Delivery) -> None:
        calls = [delivery.submit(a_new_task(seed=seed)) for seed in range(200)]
        tasks = [task for (task,) in await asyncio.gather(*calls)]
        found = await delivery.store.get([task.id for task in tasks])
        assert [task.seed for task in found if task] == list(range(200))

    # ---- leasing and settling

    async def test_a_leased_task_runs_and_is_not_leased_twice(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        (held,) = await delivery.lease(5)
        assert held.id == task.id
        assert held.state is TaskState.RUNNING
        assert (held.attempt, held.worker_id, held.version) == (1, "worker-1", "v1")
        assert held.lease_token
        assert await delivery.lease(5) == []

    async def test_a_lease_gives_at_most_n(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task() for _ in range(10)))
        assert len(await delivery.lease(3)) == 3
        assert len(await delivery.lease(10)) == 7

    async def test_leases_at_the_same_time_share_no_task(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task() for _ in range(100)))
        calls = [delivery.lease(10, worker_id=f"worker-{k}") for k in range(12)]
        held = [task.id for tasks in await asyncio.gather(*calls) for task in tasks]
        assert len(held) == len(set(held)) == 100

    async def test_only_models_that_the_worker_has_are_leased(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task("demo/other"))
        assert await delivery.lease(5) == []

    async def test_a_pinned_version_waits_for_that_version(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(queue="demo/upper:v2"))
        assert await delivery.lease(5) == []
        (held,) = await delivery.lease(5, models={"demo/upper": "v2"})
        assert held.id == task.id

    async def test_a_worker_leases_from_the_queues_of_a_model_that_it_is_given(
        self, delivery: Delivery
    ) -> None:
        anybody, canary = await delivery.submit(
            a_new_task(), a_new_task(queue="demo/upper:~canary")
        )
        other = {"demo/upper": "v2"}
        named = {"demo/upper": ("demo/upper:v2",)}
        assert await delivery.lease(5, models=other, staged=named) == []
        both = {"demo/upper": ("demo/upper:v2", "demo/upper:~canary")}
        (held,) = await delivery.lease(5, models=other, staged=both)
        assert (held.id, held.version) == (canary.id, "v2")
        await delivery.settle(held, outcome=a_failure())
        delivery.clock.advance(60)
        await delivery.sweep()
        assert await delivery.lease(5, models=other, staged=named) == []
        whole = {"demo/upper": ("demo/upper", "demo/upper:v1", "demo/upper:~canary")}
        served = await delivery.lease(5, staged=whole)
        assert {task.id for task in served} == {anybody.id, canary.id}
        assert {task.version for task in served} == {"v1"}

    async def test_success_ends_the_task_with_its_output(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        delivery.clock.advance(2)
        (ended,) = await delivery.settle(held, outcome=a_success(b'"DONE"'))
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED
        assert ended.output is not None
        assert bytes(ended.output) == b'"DONE"'
        assert (await delivery.get(held)).finished_at == delivery.clock.now()

    async def test_all_attempts_of_a_task_and_its_repeat_have_the_same_seed(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task(max_attempts=2))
        assert task.seed is not None
        seeds = []
        for _ in range(2):
            (held,) = await delivery.lease()
            seeds.append(held.seed)
            await delivery.settle(held, outcome=a_failure())
            delivery.clock.advance(60)
            await delivery.sweep()
        ended = await delivery.get(task)
        assert (ended.state, seeds) == (TaskState.FAILED, [task.seed] * 2)
        again = (await delivery.store.retry(task.id)).task
        assert (ended.seed, again.seed) == (task.seed, task.seed)
        (named,) = await delivery.submit(a_new_task(seed=7))
        assert (await delivery.get(named)).seed == 7

    async def test_a_stranger_cannot_settle(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        wrong = a_settlement(held)
        forged = [
            type(wrong)(task_id=held.id, attempt=1, token="forged", outcome=a_success()),
            type(wrong)(
                task_id=held.id, attempt=2, token=held.lease_token or "", outcome=a_success()
            ),
            type(wrong)(task_id="0" * 32, attempt=1, token="x", outcome=a_success()),
        ]
        assert await delivery.store.settle(forged) == [None, None, None]
        assert (await delivery.get(held)).state is TaskState.RUNNING

    async def test_a_settlement_told_twice_changes_nothing(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        (first,) = await delivery.settle(held, outcome=a_success(b'"one"'))
        again = await delivery.store.settle([a_settlement(held, a_success(b'"two"'))])
        (second,) = again
        assert again.again == {0}
        assert first is not None
        assert second is not None
        assert second.output == first.output
        assert second.state is TaskState.SUCCEEDED

    async def test_a_settlement_twice_in_one_call_counts_once(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        told = [a_settlement(held, a_success(b'"one"')), a_settlement(held, a_failure())]
        assert (await delivery.store.settle(told)).again == {1}
        assert (await delivery.get(held)).state is TaskState.SUCCEEDED

    @pytest.mark.parametrize("outcome", [a_success(), a_failure(), Released(), Canceled()])
    async def test_of_many_who_tell_an_end_one_hears_that_it_was_new(
        self, delivery: Delivery, outcome: Outcome
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        told = [a_settlement(held, outcome)]
        calls = await asyncio.gather(*(delivery.store.settle(told) for _ in range(5)))
        assert sorted(len(each.again) for each in calls) == [0, 1, 1, 1, 1]
        assert all(each[0] is not None for each in calls)
        stale = [a_settlement(held, outcome), msgspec.structs.replace(told[0], token="other")]
        last = await delivery.store.settle(stale)
        assert last.again == {0}
        assert last[1] is None

    # ---- failing, retrying, losing

    async def test_a_failure_is_retried_after_a_delay(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        (waiting,) = await delivery.settle(held, outcome=a_failure())
        assert waiting is not None
        assert waiting.state is TaskState.QUEUED
        assert waiting.available_at is not None
        assert await delivery.lease() == []
        assert await delivery.store.next_wake_at() == waiting.available_at
        delivery.clock.advance(61)
        await delivery.sweep()
        (again,) = await delivery.lease()
        assert (again.id, again.attempt) == (held.id, 2)

    async def test_attempts_run_out_into_the_dead_letters(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(max_attempts=2))
        for _ in range(2):
            (held,) = await delivery.lease()
            await delivery.settle(held, outcome=a_failure())
            delivery.clock.advance(61)
            await delivery.sweep()
        ended = await delivery.get(task)
        assert ended.state is TaskState.FAILED
        assert ended.dead
        page = await delivery.store.page(TaskFilter(dead=True))
        assert [letter.id for letter in page.tasks] == [task.id]

    async def test_a_success_after_a_failed_attempt_has_no_error(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        await delivery.settle(held, outcome=a_failure())
        delivery.clock.advance(61)
        await delivery.sweep()
        (held,) = await delivery.lease()
        await delivery.settle(held)
        ended = await delivery.get(task)
        assert (ended.state, ended.error) == (TaskState.SUCCEEDED, None)

    async def test_a_failure_that_cannot_be_helped_ends_at_once(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        (ended,) = await delivery.settle(held, outcome=a_failure(retryable=False))
        assert ended is not None
        assert ended.state is TaskState.FAILED
        assert not ended.dead

    async def test_a_lease_that_runs_out_counts_as_an_attempt(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(max_attempts=2))
        for _ in range(2):
            assert len(await delivery.lease()) == 1
            delivery.clock.advance(31)
            await delivery.sweep()
            delivery.clock.advance(61)
            await delivery.sweep()
        ended = await delivery.get(task)
        assert ended.state is TaskState.FAILED
        assert ended.dead
        assert ended.error is not None
        assert ended.error.code == "worker_lost"

    async def test_a_lost_worker_can_no_longer_settle(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (late,) = await delivery.lease()
        delivery.clock.advance(31)
        await delivery.sweep()
        assert await delivery.settle(late) == [None]
        delivery.clock.advance(61)
        await delivery.sweep()
        (held,) = await delivery.lease(worker_id="worker-2")
        assert await delivery.settle(late) == [None]
        (ended,) = await delivery.settle(held)
        assert ended is not None
        assert ended.worker_id == "worker-2"

    async def test_an_extended_lease_lives_on(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        for _ in range(3):
            delivery.clock.advance(20)
            (state,) = await delivery.store.extend([hold_of(held)], lease_s=30)
            assert state.is_held
            assert await delivery.sweep() == []
        (ended,) = await delivery.settle(held)
        assert ended is not None

    async def test_a_lost_lease_cannot_be_extended(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        delivery.clock.advance(31)
        await delivery.sweep()
        (state,) = await delivery.store.extend([hold_of(held)], lease_s=30)
        assert not state.is_held

    async def test_a_lease_that_was_extended_is_looked_at_again_when_it_ends(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        delivery.clock.advance(20)
        await delivery.store.extend([hold_of(held)], lease_s=30)
        delivery.clock.advance(15)
        assert await delivery.sweep() == []
        ends_at = delivery.clock.now() + timedelta(seconds=15)
        assert await delivery.store.next_wake_at() == ends_at

    async def test_leases_that_were_extended_hide_no_task_that_is_due(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task(), a_new_task(), a_new_task(start_by_s=60))
        held = [hold_of(task) for task in await delivery.lease(2)]
        for _ in range(7):
            delivery.clock.advance(10)
            await delivery.store.extend(held, lease_s=30)
        swept = [*await delivery.store.sweep(limit=2), *await delivery.store.sweep(limit=2)]
        assert [task.state for task in swept] == [TaskState.EXPIRED]

    # ---- a clock that is set back

    async def test_a_clock_set_back_ends_a_lost_lease_that_was_extended_for_an_hour(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        for _ in range(360):
            delivery.clock.advance(10)
            await delivery.store.extend([hold_of(held)], lease_s=30)
            assert await delivery.sweep() == []
        delivery.clock.set_back(3600)
        assert await delivery.store.cap_waits(lease_s=30) == 1
        delivery.clock.advance(31)
        (lost,) = await delivery.sweep()
        assert (lost.state, lost.attempt) == (TaskState.QUEUED, 1)

    async def test_a_clock_set_back_ends_a_lost_lease_within_its_usual_length(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task(finish_by_s=7200))
        (late,) = await delivery.lease()
        delivery.clock.set_back(3600)
        assert await delivery.store.cap_waits(lease_s=30) == 1
        assert await delivery.store.cap_waits(lease_s=30) == 0
        capped = await delivery.get(task)
        assert capped.lease_expires_at == delivery.clock.now() + timedelta(seconds=30)
        assert await delivery.store.next_wake_at() == capped.lease_expires_at
        delivery.clock.advance(29)
        assert await delivery.sweep() == []
        delivery.clock.advance(2)
        (lost,) = await delivery.sweep()
        assert (lost.state, lost.attempt) == (TaskState.QUEUED, 1)
        assert await delivery.settle(late) == [None]
        delivery.clock.advance(61)
        await delivery.sweep()
        (again,) = await delivery.lease()
        assert (again.id, again.attempt) == (task.id, 2)

    async def test_a_clock_set_back_leaves_a_live_worker_its_lease(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        delivery.clock.set_back(3600)
        await delivery.store.cap_waits(lease_s=30)
        for _ in range(3):
            delivery.clock.advance(20)
            (state,) = await delivery.store.extend([hold_of(held)], lease_s=30)
            assert state.is_held
            assert await delivery.sweep() == []
        (ended,) = await delivery.settle(held)
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED

    async def test_a_clock_set_back_shortens_a_backoff_to_the_longest(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        await delivery.settle(held, outcome=a_failure())
        delivery.clock.set_back(3600)
        assert await delivery.store.cap_waits(lease_s=30) == 1
        delivery.clock.advance(61)
        await delivery.sweep()
        (again,) = await delivery.lease()
        assert (again.id, again.attempt) == (held.id, 2)

    async def test_waits_of_a_clock_that_was_not_set_back_stay_as_they_are(
        self, delivery: Delivery
    ) -> None:
        running, failed = await delivery.submit(a_new_task(), a_new_task())
        await delivery.submit(a_new_task(start_by_s=86_400, finish_by_s=90_000))
        held = {task.id: task for task in await delivery.lease(2)}
        await delivery.settle(held[failed.id], outcome=a_failure())
        before = [await delivery.get(task) for task in (running, failed)]
        # Clocks of backends differ a little.
        delivery.clock.set_back(5)
        assert await delivery.store.cap_waits(lease_s=30) == 0
        assert [await delivery.get(task) for task in (running, failed)] == before

    async def test_only_so_many_waits_are_shortened_at_once(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task() for _ in range(5)))
        assert len(await delivery.lease(5)) == 5
        delivery.clock.set_back(3600)
        assert [await delivery.store.cap_waits(lease_s=30, limit=2) for _ in range(4)] == [
            2,
            2,
            1,
            0,
        ]

    async def test_a_clock_set_back_changes_neither_listing_nor_idempotency(
        self, delivery: Delivery
    ) -> None:
        new = a_new_task(idempotency_key="once", fingerprint=b"1")
        (early,) = await delivery.submit(new)
        delivery.clock.set_back(3600)
        later = await delivery.submit(a_new_task(), a_new_task())
        assert [task.id for task in await delivery.submit(new)] == [early.id]
        assert await delivery.store.knows("key-1", "once")
        ids: list[str] = []
        cursor = None
        while cursor is not None or not ids:
            page = await delivery.store.page(TaskFilter(), limit=1, cursor=cursor)
            ids += [task.id for task in page.tasks]
            cursor = page.cursor
        assert ids == sorted({early.id, *(task.id for task in later)}, reverse=True)

    async def test_a_lease_handed_back_does_not_count(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(max_attempts=1))
        for turn in range(1, 4):
            (held,) = await delivery.lease()
            assert held.attempt == turn
            await delivery.settle(held, outcome=Released())
        (held,) = await delivery.lease()
        (ended,) = await delivery.settle(held)
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED

    # ---- handing over

    async def test_what_an_attempt_leaves_is_kept_with_the_task(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        assert held.checkpoint is None
        key = checkpoint_key(task.id, 1)
        (waiting,) = await delivery.settle(held, outcome=Released(checkpoint=key))
        assert waiting is not None
        assert (waiting.state, waiting.checkpoint) == (TaskState.QUEUED, key)
        assert (await delivery.get(task)).checkpoint == key
        (again,) = await delivery.lease(worker_id="worker-2")
        assert (again.attempt, again.checkpoint) == (2, key)
        assert await delivery.store.discarded() == []

    async def test_an_attempt_that_leaves_nothing_keeps_what_was_left_before(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task())
        key = checkpoint_key(task.id, 1)
        for outcome in (Released(checkpoint=key), Released()):
            (held,) = await delivery.lease()
            await delivery.settle(held, outcome=outcome)
        (held,) = await delivery.lease()
        delivery.clock.advance(31)
        await delivery.sweep()
        assert (await delivery.get(held)).checkpoint == key
        assert await delivery.store.discarded() == []

    async def test_only_the_holder_of_the_lease_leaves_something_and_under_its_own_key(
        self, delivery: Delivery
    ) -> None:
        first, second = await delivery.submit(a_new_task(), a_new_task())
        late, other = await delivery.lease(2)
        delivery.clock.advance(31)
        await delivery.sweep()
        delivery.clock.advance(61)
        await delivery.sweep()
        left = Released(checkpoint=checkpoint_key(late.id, 1))
        assert await delivery.settle(late, outcome=left) == [None]
        held = {task.id: task for task in await delivery.lease(2, worker_id="worker-2")}
        assert await delivery.settle(late, outcome=left) == [None]
        assert held[late.id].checkpoint is None
        for key in (checkpoint_key(other.id, 1), checkpoint_key(late.id, 2), "outputs/x/1/a.png"):
            stranger = Released(checkpoint=key)
            (waiting,) = await delivery.settle(held[other.id], outcome=stranger)
            assert waiting is not None
            assert waiting.checkpoint is None
            (held[other.id],) = await delivery.lease(worker_id="worker-2")
        assert {first.id, second.id} == held.keys()
        assert await delivery.store.discarded() == []

    async def test_what_a_newer_attempt_or_a_failure_replaces_is_discarded(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_task())
        keys = [checkpoint_key(task.id, attempt) for attempt in (1, 2)]
        for key in keys:
            (held,) = await delivery.lease()
            await delivery.settle(held, outcome=Released(checkpoint=key))
        assert await delivery.store.discarded() == keys[:1]
        (held,) = await delivery.lease()
        (failed,) = await delivery.settle(held, outcome=a_failure())
        assert failed is not None
        assert failed.checkpoint is None
        assert await delivery.store.discarded() == keys
        assert await delivery.store.discarded(limit=1) == keys[:1]

    async def test_a_failed_attempt_that_came_further_leaves_that(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(max_attempts=2))
        keys = [checkpoint_key(task.id, attempt) for attempt in (1, 2)]
        for key in keys:
            (held,) = await delivery.lease()
            failure = msgspec.structs.replace(a_failure(), checkpoint=key)
            (ended,) = await delivery.settle(held, outcome=failure)
            assert ended is not None
            assert ended.checkpoint == key
            delivery.clock.advance(61)
            await delivery.sweep()
        assert (await delivery.get(task)).dead
        assert await delivery.store.discarded() == keys

    @pytest.mark.parametrize("end", ["success", "failure", "cancel", "late cancel", "deadline"])
    async def test_what_was_left_is_discarded_once_when_the_task_ends(
        self, delivery: Delivery, end: str
    ) -> None:
        (task,) = await delivery.submit(a_new_task(finish_by_s=60))
        (held,) = await delivery.lease()
        key = checkpoint_key(task.id, 1)
        if end == "late cancel":
            await delivery.store.cancel([task.id])
        await delivery.settle(held, outcome=Released(checkpoint=key))
        if end in ("success", "failure"):
            (held,) = await delivery.lease()
            outcome = a_success() if end == "success" else a_failure(retryable=False)
            await delivery.settle(held, outcome=outcome)
            await delivery.settle(held, outcome=outcome)
        elif end == "cancel":
            await delivery.store.cancel([task.id])
        elif end == "deadline":
            delivery.clock.advance(61)
            await delivery.sweep()
        assert (await delivery.get(task)).state.is_terminal
        assert await delivery.store.discarded() == [key]
        await delivery.store.forget_discarded([key, "unknown"])
        assert await delivery.store.discarded() == []
        if end == "success":
            await delivery.store.retry(task.id)
            assert await delivery.store.discarded() == []

    # ---- repeating

    async def test_a_dead_letter_is_repeated_as_a_new_task(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(max_attempts=1))
        (held,) = await delivery.lease()
        await delivery.settle(held, outcome=a_failure())
        again = await delivery.store.retry(task.id)
        delivery.publish([again.task])
        assert again.is_new
        assert again.task.retry_of == task.id
        assert bytes(again.task.input) == bytes(task.input)
        assert (await delivery.get(task)).state is TaskState.FAILED
        assert (await delivery.store.page(TaskFilter(dead=True))).tasks == ()
        (held,) = await delivery.lease()
        assert held.id == again.task.id

    async def test_repeating_twice_gives_the_same_new_task(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        await delivery.store.cancel([task.id])
        first = await delivery.store.retry(task.id)
        second = await delivery.store.retry(task.id)
        assert (second.task.id, second.is_new) == (first.task.id, False)

    async def test_a_living_or_unknown_task_is_not_repeated(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        with pytest.raises(Conflict):
            await delivery.store.retry(task.id)
        with pytest.raises(NotFound):
            await delivery.store.retry("0" * 32)

    async def test_only_dead_letters_are_repeated_where_only_these_are_wanted(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(max_attempts=1) for _ in range(3)))
        dead, refused, good = await delivery.lease(3)
        await delivery.settle(dead, outcome=a_failure())
        await delivery.settle(refused, outcome=a_failure(retryable=False))
        await delivery.settle(good)
        for none in (refused, good):
            with pytest.raises(Conflict, match=f"POST /v1/tasks/{none.id}/retry"):
                await delivery.store.retry(none.id, only_dead=True)
        first = await delivery.store.retry(dead.id, only_dead=True)
        second = await delivery.store.retry(dead.id, only_dead=True)
        assert (first.is_new, second.is_new) == (True, False)
        assert first.task.id == second.task.id

    # ---- canceling

    async def test_a_queued_task_is_canceled_at_once(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        calls = await asyncio.gather(*(delivery.store.cancel([task.id]) for _ in range(3)))
        assert sorted(len(each.again) for each in calls) == [0, 1, 1]
        (canceled,) = calls[0]
        assert canceled is not None
        assert canceled.state is TaskState.CANCELED
        assert await delivery.lease() == []

    async def test_a_running_task_is_canceled_through_its_holder(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        (marked,) = await delivery.store.cancel([held.id])
        assert marked is not None
        assert marked.state is TaskState.RUNNING
        (state,) = await delivery.store.extend([hold_of(held)], lease_s=30)
        assert state.cancel_requested
        (ended,) = await delivery.settle(held, outcome=Canceled())
        assert ended is not None
        assert ended.state is TaskState.CANCELED

    async def test_a_canceled_task_is_not_retried(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        await delivery.store.cancel([held.id])
        (ended,) = await delivery.settle(held, outcome=a_failure())
        assert ended is not None
        assert ended.state is TaskState.CANCELED

    async def test_canceling_an_ended_or_unknown_task_changes_nothing(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        await delivery.settle(held)
        told = await delivery.store.cancel([held.id, "0" * 32])
        ended, unknown = told
        assert told.again == {0}
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED
        assert unknown is None

    # ---- deadlines

    async def test_a_task_past_its_start_by_is_not_run(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task(start_by_s=10))
        delivery.clock.advance(10)
        assert await delivery.lease() == []
        (expired,) = await delivery.sweep()
        assert expired.state is TaskState.EXPIRED
        assert (await delivery.get(task)).error is not None

    async def test_a_started_task_may_run_past_its_start_by(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(start_by_s=10))
        (held,) = await delivery.lease()
        delivery.clock.advance(20)
        assert await delivery.sweep() == []
        (ended,) = await delivery.settle(held)
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED

    async def test_a_running_task_past_its_finish_by_expires(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(finish_by_s=10))
        (held,) = await delivery.lease()
        delivery.clock.advance(10)
        (expired,) = await delivery.sweep()
        assert expired.state is TaskState.EXPIRED
        assert await delivery.settle(held) == [None]


class ExactOrderConformance:
    """Who is next, to the task."""

    async def test_one_flow_is_served_in_order(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(*(a_new_task() for _ in range(5)))
        held = [(await delivery.lease())[0] for _ in range(5)]
        assert [task.id for task in held] == [task.id for task in tasks]

    async def test_a_lower_priority_number_comes_first(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(priority=p) for p in (5, 1, 9, 0)))
        held = await delivery.lease(4)
        assert [task.priority for task in held] == [0, 1, 5, 9]

    async def test_what_is_less_urgent_gets_one_of_so_many(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(user=f"u{n}") for n in range(100)))
        await delivery.submit(*(a_new_task(priority=5, key_id="key-2") for _ in range(3)))
        # Whether one by one or many at a time.
        held = [(await delivery.lease())[0] for _ in range(MOST_URGENT + 1)]
        assert [task.priority for task in held].count(5) <= 1
        for n in (15, 20, 25):
            held += await delivery.lease(n)
        later = [place for place, task in enumerate(held) if task.priority == 5]
        assert len(later) == 3
        assert later[0] <= MOST_URGENT + 1
        assert later[2] <= 3 * (MOST_URGENT + 1) + 15, later

    async def test_a_less_urgent_model_is_not_starved_by_another(self, delivery: Delivery) -> None:
        models = {"demo/a": "v1", "demo/b": "v1"}
        await delivery.submit(*(a_new_task("demo/a", user=f"u{n}") for n in range(60)))
        await delivery.submit(*(a_new_task("demo/b", priority=5) for _ in range(3)))
        held = [(await delivery.lease(models=models))[0].model for _ in range(62)]
        later = [place for place, model in enumerate(held) if model == "demo/b"]
        assert len(later) >= 2
        assert later[0] <= MOST_URGENT + 1
        assert later[1] - later[0] <= MOST_URGENT + 1

    async def test_a_flood_of_one_user_does_not_delay_another(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(user="flood") for _ in range(100)))
        await delivery.lease(10)
        await delivery.submit(a_new_task(user="ann"))
        served = [task.user for task in await delivery.lease(2)]
        assert "ann" in served

    async def test_two_busy_users_take_turns(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(user="ann") for _ in range(10)))
        await delivery.submit(*(a_new_task(user="bob") for _ in range(10)))
        users = [task.user for task in await delivery.lease(10)]
        assert users.count("ann") == 5

    async def test_models_take_turns(self, delivery: Delivery) -> None:
        models = {"demo/a": "v1", "demo/b": "v1"}
        await delivery.submit(*(a_new_task("demo/a") for _ in range(20)))
        await delivery.submit(*(a_new_task("demo/b") for _ in range(2)))
        first = await delivery.lease(2, models=models)
        second = await delivery.lease(2, models=models)
        assert {task.model for task in first + second} == {"demo/a", "demo/b"}

    async def test_a_worker_is_given_the_models_that_it_has_at_hand_in_their_order(
        self, delivery: Delivery
    ) -> None:
        models = {f"demo/{name}": "v1" for name in "abcd"}
        await delivery.submit(*(a_new_task(model) for model in models for _ in range(2)))
        held = await delivery.lease(5, models=models, residents=["demo/c", "demo/b"])
        assert [task.model for task in held][:4] == ["demo/c"] * 2 + ["demo/b"] * 2

    async def test_a_model_is_passed_in_its_turn_so_often_and_no_more(
        self, delivery: Delivery
    ) -> None:
        models = {"demo/a": "v1", "demo/b": "v1", "demo/c": "v1"}
        await delivery.submit(*(a_new_task("demo/a") for _ in range(100)))
        await delivery.submit(*(a_new_task(model) for model in ("demo/b", "demo/c")))
        served = []
        for _ in range(MOST_PASSED + 3):
            served += await delivery.lease(1, models=models, residents=["demo/a"])
        names = [task.model for task in served]
        assert set(names[: MOST_PASSED - 1]) == {"demo/a"}
        assert {"demo/b", "demo/c"} < set(names)

    async def test_a_model_at_hand_does_not_pass_more_urgent_tasks_of_another(
        self, delivery: Delivery
    ) -> None:
        models = {"demo/a": "v1", "demo/b": "v1"}
        await delivery.submit(*(a_new_task("demo/a", priority=5) for _ in range(5)))
        await delivery.submit(a_new_task("demo/b"))
        (first,) = await delivery.lease(1, models=models, residents=["demo/a"])
        assert first.model == "demo/b"

    async def test_what_is_at_hand_changes_no_order_within_a_model(
        self, delivery: Delivery
    ) -> None:
        models = {"demo/a": "v1", "demo/b": "v1"}
        await delivery.submit(*(a_new_task("demo/a", key_id="key-1") for _ in range(20)))
        await delivery.submit(*(a_new_task("demo/a", key_id="key-2") for _ in range(20)))
        await delivery.submit(*(a_new_task("demo/b") for _ in range(20)))
        served = await delivery.lease(20, models=models, residents=["demo/a"])
        assert [task.key_id for task in served] == ["key-1", "key-2"] * 10

    async def test_a_key_that_names_many_users_gets_no_more_than_one_that_names_none(
        self, delivery: Delivery
    ) -> None:
        many = [a_new_task(key_id="key-1", user=f"user-{n}") for n in range(60)]
        await delivery.submit(*many, *many)
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(20)))
        keys = [task.key_id for _ in range(4) for task in await delivery.lease(5)]
        assert keys.count("key-2") == 10

    async def test_a_quiet_key_waits_for_one_task_of_each_other_key(
        self, delivery: Delivery
    ) -> None:
        for key_id in ("key-1", "key-2"):
            await delivery.submit(*(a_new_task(key_id=key_id, user=f"{n}") for n in range(50)))
        await delivery.lease(30)
        await delivery.submit(a_new_task(key_id="key-3"))
        assert "key-3" in [task.key_id for task in await delivery.lease(3)]

    async def test_keys_share_by_the_samples_that_they_ask(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", count=4) for _ in range(20)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(40)))
        served = await delivery.lease(25)
        samples = {
            key_id: sum(task.count for task in served if task.key_id == key_id)
            for key_id in ("key-1", "key-2")
        }
        assert abs(samples["key-1"] - samples["key-2"]) <= 4 + 1

    async def test_the_users_of_each_key_take_turns_whatever_other_keys_do(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", user="flood") for _ in range(50)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(50)))
        await delivery.lease(20)
        await delivery.submit(*(a_new_task(key_id="key-1", user="ann") for _ in range(50)))
        users = [task.user for task in await delivery.lease(20) if task.key_id == "key-1"]
        assert abs(users.count("ann") - users.count("flood")) <= 2

    async def test_urgent_tasks_of_one_key_do_not_starve_another(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", priority=0) for _ in range(50)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(50)))
        keys = [task.key_id for task in await delivery.lease(20)]
        assert keys.count("key-2") == 10

    async def test_urgent_tasks_of_one_model_do_not_starve_another(
        self, delivery: Delivery
    ) -> None:
        models = {"demo/a": "v1", "demo/b": "v1"}
        await delivery.submit(
            *(a_new_task("demo/a", key_id="key-1", priority=0) for _ in range(20))
        )
        await delivery.submit(a_new_task("demo/b", key_id="key-2"))
        served = await delivery.lease(1, models=models) + await delivery.lease(1, models=models)
        assert {task.model for task in served} == {"demo/a", "demo/b"}

    async def test_what_is_less_urgent_lets_all_keys_usual_tasks_go_first(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", priority=5) for _ in range(5)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(5)))
        keys = [task.key_id for task in await delivery.lease(10)]
        assert keys == ["key-2"] * 5 + ["key-1"] * 5

    async def test_a_lease_that_finds_only_expired_tasks_of_a_key_serves_the_others(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1", start_by_s=5) for _ in range(5)))
        await delivery.submit(*(a_new_task(key_id="key-2") for _ in range(2)))
        delivery.clock.advance(6)
        served = [task for _ in range(5) for task in await delivery.lease(2)]
        assert [task.key_id for task in served] == ["key-2"] * 2


class WaitingConformance:
    """What must be told of tasks that wait, and by calls that wait for tasks."""

    @pytest.mark.parametrize("seed", range(8))
    async def test_the_rank_of_a_new_task_is_the_one_that_it_gets(
        self, delivery: Delivery, seed: int
    ) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            await delivery.submit(*(_any_task(rng) for _ in range(rng.randint(1, 4))))
            await delivery.lease(rng.randint(1, 2))
            # Ids tell the age to the millisecond.
            delivery.clock.advance(1)
            new = _any_task(rng)
            told = await delivery.broker.rank_of_new(new)
            (task,) = await delivery.submit(new)
            assert await delivery.broker.ranks([await delivery.get(task)]) == [told]

    async def test_asking_for_a_rank_changes_no_order(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(key_id="key-1") for _ in range(3)))
        for _ in range(5):
            await delivery.broker.rank_of_new(a_new_task(key_id="key-2"))
        (task,) = await delivery.submit(a_new_task(key_id="key-2"))
        (rank,) = await delivery.broker.ranks([await delivery.get(task)])
        assert rank is not None
        assert rank.ahead == 1

    async def test_a_rank_counts_tasks_pinned_to_a_version(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(queue="demo/upper:v1", count=3) for _ in range(4)))
        rank = await delivery.broker.rank_of_new(a_new_task())
        assert (rank.ahead, rank.samples) == (4, 12)
        other = await delivery.broker.rank_of_new(a_new_task(queue="demo/upper:v2"))
        assert other.ahead == 0

    async def test_while_versions_share_a_model_only_what_the_same_workers_serve_comes_before(
        self, delivery: Delivery
    ) -> None:
        queues = {"demo/upper": 2, "demo/upper:v1": 3, "demo/upper:v2": 5, "demo/upper:~canary": 9}
        for queue, n in queues.items():
            await delivery.submit(*(a_new_task(queue=queue, count=2) for _ in range(n)))
        live = ("demo/upper", "demo/upper:v1")
        canary = ("demo/upper:v2", "demo/upper:~canary")
        served_with: dict[str, tuple[str, ...]] = {"demo/upper:v3": ("demo/upper:v3",)}
        served_with |= dict.fromkeys(live, live) | dict.fromkeys(canary, canary)
        for queue, ahead in {live[0]: 5, live[1]: 5, canary[1]: 14, "demo/upper:v3": 0}.items():
            new = a_new_task(queue=queue, count=2)
            rank = await delivery.broker.rank_of_new(new, served_with=served_with)
            assert (queue, rank.ahead, rank.samples) == (queue, ahead, 2 * ahead)
        (backlog,) = await delivery.broker.backlogs(["demo/upper"], 1, served_with=served_with)
        assert backlog == Backlog(equal=5, equal_samples=10)
        # Where nobody has the canary, its part is the live version's too.
        whole = (*live, canary[1])
        served_with |= dict.fromkeys(whole, whole) | {canary[0]: (canary[0],)}
        for queue, ahead in {live[0]: 14, canary[1]: 14, canary[0]: 5}.items():
            rank = await delivery.broker.rank_of_new(
                a_new_task(queue=queue), served_with=served_with
            )
            assert (queue, rank.ahead) == (queue, ahead)

    async def test_a_backlog_of_one_user_does_not_stand_before_others(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_task(user="flood") for _ in range(1000)))
        same = await delivery.broker.rank_of_new(a_new_task(user="flood"))
        user = await delivery.broker.rank_of_new(a_new_task(user="ann"))
        key = await delivery.broker.rank_of_new(a_new_task(key_id="key-2"))
        urgent = await delivery.broker.rank_of_new(a_new_task(user="flood", priority=0))
        patient = await delivery.broker.rank_of_new(a_new_task(key_id="key-2", priority=2))
        assert (same.ahead, same.samples) == (1000, 1000)
        assert (user.ahead, key.ahead, urgent.ahead, patient.ahead) == (1, 1, 0, MOST_URGENT)

    async def test_the_rank_behind_many_keys_is_told_by_estimate(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(key_id=f"key-{n % 500}") for n in range(1000)))
        quiet = await delivery.broker.rank_of_new(a_new_task(key_id="quiet"))
        patient = await delivery.broker.rank_of_new(a_new_task(key_id="quiet", priority=2))
        assert quiet.ahead == pytest.approx(500, rel=0.05)
        assert patient.ahead == MOST_URGENT

    async def test_the_rank_behind_long_lines_is_told_by_estimate(self, delivery: Delivery) -> None:
        for key_id in ("key-1", "key-2"):
            await delivery.submit(*(a_new_task(key_id=key_id, count=2) for _ in range(400)))
        rank = await delivery.broker.rank_of_new(a_new_task(key_id="key-1"))
        assert rank.ahead == pytest.approx(800, rel=0.05)
        assert rank.samples == pytest.approx(1600, rel=0.05)

    async def test_a_backlog_tells_what_is_as_urgent_and_what_is_more(
        self, delivery: Delivery
    ) -> None:
        for priority, key_id in ((0, "key-1"), (1, "key-2"), (5, "key-1")):
            await delivery.submit(*(a_new_task(priority=priority, key_id=key_id, count=3),) * 2)
        await delivery.submit(a_new_task(queue="demo/upper:v1"), a_new_task("demo/other"))
        broker = delivery.broker
        usual, none = await broker.backlogs(["demo/upper", "demo/none"], 1)
        assert usual == Backlog(equal=5, equal_samples=13)
        assert none == Backlog()
        assert await broker.backlogs(["demo/upper"], 5) == [
            Backlog(urgent=5, urgent_samples=13, equal=2, equal_samples=6)
        ]

    # ---- looking

    async def test_pages_list_newest_first_and_miss_nothing(self, delivery: Delivery) -> None:
        ids = []
        for _ in range(7):
            ids += [task.id for task in await delivery.submit(a_new_task())]
            delivery.clock.advance(1)
        seen: list[str] = []
        cursor = None
        for _ in range(4):
            page = await delivery.store.page(TaskFilter(), limit=2, cursor=cursor)
            seen += [task.id for task in page.tasks]
            cursor = page.cursor
        assert seen == ids[::-1]
        assert cursor is None

    async def test_pages_filter(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(user="ann"), a_new_task("demo/other", user="bob"))
        store = delivery.store
        assert len((await store.page(TaskFilter(user="ann"))).tasks) == 1
        assert len((await store.page(TaskFilter(model="demo/other"))).tasks) == 1
        assert len((await store.page(TaskFilter(state=TaskState.QUEUED))).tasks) == 2
        assert len((await store.page(TaskFilter(state=TaskState.FAILED))).tasks) == 0
        assert len((await store.page(TaskFilter(key_id="key-9"))).tasks) == 0

    async def test_a_cursor_from_elsewhere_is_refused(self, delivery: Delivery) -> None:
        with pytest.raises(InvalidRequest):
            await delivery.store.page(TaskFilter(), cursor="'; DROP TABLE tasks")

    async def test_depths_count_what_lies_in_the_queues(self, delivery: Delivery) -> None:
        await delivery.submit(*(a_new_task(count=2) for _ in range(5)))
        held = await delivery.lease(2)
        await delivery.settle(held[0], outcome=a_failure())
        (depth,) = await delivery.broker.depths()
        assert (depth.ready, depth.delayed, depth.running) == (3, 1, 1)
        assert depth.ready_samples == 6
        assert depth.oldest_ready_at is not None

    async def test_ranks_count_who_comes_before(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(*(a_new_task() for _ in range(5)))
        current = [await delivery.get(task) for task in tasks]
        ranks = await delivery.broker.ranks(current)
        assert [rank.ahead for rank in ranks if rank] == [0, 1, 2, 3, 4]
        (held,) = await delivery.lease()
        assert await delivery.broker.ranks([held]) == [None]

    @pytest.mark.parametrize("seed", range(4))
    async def test_tasks_started_by_their_ids_count_in_the_order(
        self, delivery: Delivery, seed: int
    ) -> None:
        rng = random.Random(seed)
        waiting: list[Task] = []
        for _ in range(6):
            for _ in range(rng.randint(1, 8)):
                waiting += await delivery.submit(
                    a_new_task(key_id=rng.choice("abc"), user=rng.choice("xyz"))
                )
            waiting = await _in_order(delivery, waiting)
            n = rng.randint(1, 4)
            starts = [
                Start(
                    task_id=task.id,
                    queue=task.queue,
                    worker_id="worker-1",
                    version="v1",
                    token=task.id,
                    lease_s=30,
                )
                for task in waiting[:n]
            ]
            assert None not in await delivery.store.start(starts)
            waiting = waiting[n:]
        waiting = await _in_order(delivery, waiting)
        served = await delivery.lease(len(waiting) + 1)
        assert [task.id for task in served] == [task.id for task in waiting]

    async def test_the_oldest_ready_tasks_of_a_queue(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(*(a_new_task(priority=n % 3, user="ann") for n in range(6)))
        await delivery.submit(a_new_task("demo/other"), a_new_task(queue="demo/upper:v1"))
        failed, running = await delivery.lease(2)
        await delivery.settle(failed, outcome=a_failure())
        ready = [task for task in tasks if task.id not in (failed.id, running.id)]
        # Tasks of one millisecond have no age between them.
        ready.sort(key=lambda task: task.id)
        found = await delivery.broker.oldest_ready("demo/upper", 3)
        assert [each.id for each in found] == [task.id for task in ready[:3]]
        assert found[0] == ReadyTask(
            id=ready[0].id,
            queue="demo/upper",
            key_id=ready[0].key_id,
            user="ann",
            priority=ready[0].priority,
        )
        assert len(await delivery.broker.oldest_ready("demo/upper", 100)) == 4

    async def test_a_waiting_lease_gets_what_comes(self, delivery: Delivery) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(delivery.broker.lease(a_lease_request(5), until=until))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        (task,) = await delivery.submit(a_new_task())
        (held,) = await asyncio.wait_for(waiting, 5)
        assert (held.id, held.state, held.attempt) == (task.id, TaskState.RUNNING, 1)
        assert await delivery.get(task) == held

    async def test_a_waiting_lease_takes_what_is_there(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_task())
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (held,) = await delivery.broker.lease(a_lease_request(5), until=until)
        assert held.id == task.id

    async def test_waiting_leases_share_no_task(self, delivery: Delivery) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = [
            asyncio.ensure_future(delivery.broker.lease(a_lease_request(2), until=until))
            for _ in range(4)
        ]
        await asyncio.sleep(0)
        tasks = await delivery.submit(*(a_new_task() for _ in range(5)))
        await delivery.submit(*(a_new_task() for _ in range(3)))
        held = [task.id for leased in await asyncio.gather(*waiting) for task in leased]
        assert len(held) == len(set(held))
        assert {task.id for task in tasks} <= set(held)

    async def test_a_waiting_lease_gets_what_is_ready_again(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(delivery.broker.lease(a_lease_request(), until=until))
        await asyncio.sleep(0)
        await delivery.settle(held, outcome=Released())
        (again,) = await asyncio.wait_for(waiting, 5)
        assert (again.id, again.attempt) == (held.id, 2)

    @pytest.mark.parametrize("way", ["~canary", "v1", "", *_WAYS_BACK])
    async def test_a_task_that_becomes_ready_wakes_one_of_those_who_wait_for_its_queue(
        self, delivery: Delivery, way: str
    ) -> None:
        held: list[Task] = []
        if way in _WAYS_BACK:
            await delivery.submit(a_new_task(max_attempts=1 if way == "replayed" else 3))
            held = await delivery.lease()
        if way in ("backoff", "replayed"):
            await delivery.settle(*held, outcome=a_failure())
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queues = ("demo/upper", "demo/upper:v1", "demo/upper:~canary")
        asked = [
            a_lease_request(models={"demo/other": "v1"}),
            *[a_lease_request(staged={"demo/upper": queues})] * 2,
        ]
        waiting = [
            asyncio.ensure_future(delivery.broker.lease(each, until=until)) for each in asked
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        if way in ("backoff", "lost"):
            for _ in range(2):
                delivery.clock.advance(61)
                await delivery.sweep()
        elif way == "released":
            await delivery.settle(*held, outcome=Released())
        elif way == "replayed":
            again = await delivery.store.retry(held[0].id, only_dead=True)
            delivery.publish([again.task])
        else:
            await delivery.submit(a_new_task(queue=f"demo/upper:{way}".rstrip(":")))
        await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        (woken,) = [place for place, each in enumerate(waiting) if each.done()]
        assert woken != 0
        for queue in ("demo/other", "demo/upper"):
            await delivery.submit(a_new_task(queue))
        got = await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert [task.model for (task,) in got] == ["demo/other", "demo/upper", "demo/upper"]

    async def test_a_lease_waits_no_longer_than_until(self, delivery: Delivery) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(delivery.broker.lease(a_lease_request(), until=until))
        await asyncio.sleep(0)
        until.set_result(None)
        assert await asyncio.wait_for(waiting, 5) == []
        await delivery.submit(a_new_task())
        assert len(await delivery.lease()) == 1

    async def test_a_lease_that_is_given_up_takes_nothing_more(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task())
        (held,) = await delivery.lease()
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(delivery.broker.lease(a_lease_request(), until=until))
        for _ in range(5):
            await asyncio.sleep(0)
        # In the same turn of the loop: who waits is not even awake when the task comes back.
        until.set_result(None)
        await delivery.settle(held, outcome=Released())
        assert await asyncio.wait_for(waiting, 5) == []
        assert [task.id for task in await delivery.lease()] == [held.id]

    # ---- warnings

    async def test_warnings_are_kept_until_what_they_may_quote_is_removed(
        self, delivery: Delivery
    ) -> None:
        warned = TaskWarning(code="unknown_subject", message="No é", suggestions=("fox", "cat"))
        await delivery.submit(a_new_task(), a_new_task())
        first, second = await delivery.lease(2)
        outcome = Succeeded(output=msgspec.Raw(b"1"), warnings=(warned,))
        (ended,) = await delivery.settle(first, outcome=outcome)
        await delivery.settle(second)
        assert ended is not None
        assert ended.warnings == (await delivery.get(first)).warnings == (warned,)
        assert (await delivery.get(second)).warnings == ()
        page = await delivery.store.page(TaskFilter())
        assert {task.id: task.warnings for task in page.tasks}[first.id] == (warned,)
        expiry = Expiry(part=Part.INPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 2
        assert (await delivery.get(first)).warnings == ()

    # ---- what is removed after the end

    async def test_outputs_are_removed_after_their_time_and_their_files_discarded(
        self, delivery: Delivery
    ) -> None:
        old, young = await _ended(delivery, [1]), await _ended(delivery, [2], after_s=60)
        before = delivery.clock.now() - timedelta(seconds=30)
        expiry = Expiry(part=Part.OUTPUTS, before=before)
        assert await delivery.store.retire(expiry) == 1
        found = await delivery.get(old)
        assert (found.outputs_removed, found.inputs_removed) == (True, False)
        assert (found.output, found.artifacts, found.state) == (None, (), TaskState.SUCCEEDED)
        assert bytes(found.input) == b'{"text":"hello"}'
        assert set(await delivery.store.discarded()) == _files_of(old)
        assert await delivery.get(young) == young
        assert await delivery.store.retire(expiry) == 0

    async def test_inputs_are_removed_with_what_may_quote_them(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task(metadata=msgspec.Raw(b'{"a":1}'), max_attempts=1))
        (held,) = await delivery.lease()
        await delivery.settle(held, outcome=a_failure())
        expiry = Expiry(part=Part.INPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 1
        found = await delivery.get(held)
        assert (bytes(found.input), found.metadata, found.inputs_removed) == (b"{}", None, True)
        assert found.error is not None
        assert (found.error.code, found.error.detail) == (a_failure().error.code, "")
        with pytest.raises(Conflict):
            await delivery.store.retry(held.id)
        assert await delivery.store.retire(expiry) == 0

    async def test_what_earlier_attempts_had_stored_goes_with_the_outputs(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_task(), a_new_task(max_attempts=1))
        first, second = await delivery.lease(2)
        await delivery.settle(first, outcome=Released())
        await delivery.settle(second, outcome=a_failure())
        (again,) = await delivery.lease()
        await delivery.settle(again)
        expiry = Expiry(part=Part.OUTPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 2
        folders = [f"outputs/{first.id}/1/", f"outputs/{second.id}/1/"]
        assert sorted(await delivery.store.discarded()) == sorted(folders)

    async def test_a_whole_task_is_removed_and_nothing_remembers_it(
        self, delivery: Delivery
    ) -> None:
        task = await _ended(delivery, [1])
        delivery.clock.advance(24 * 3600 + 1)
        expiry = Expiry(part=Part.TASK, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 1
        assert await delivery.store.get([task.id]) == [None]
        assert (await delivery.store.page(TaskFilter())).tasks == ()
        assert set(await delivery.store.discarded()) == _files_of(task)
        with pytest.raises(NotFound):
            await delivery.store.retry(task.id)
        assert await delivery.sweep() == []

    async def test_a_repeat_outlives_the_task_that_it_repeats(self, delivery: Delivery) -> None:
        task = await _ended(delivery, [1])
        again = await delivery.store.retry(task.id)
        delivery.clock.advance(24 * 3600 + 1)
        expiry = Expiry(part=Part.TASK, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 1
        assert (await delivery.get(again.task)).retry_of == task.id

    async def test_what_has_not_ended_is_never_removed(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(a_new_task(), a_new_task())
        (held,) = await delivery.lease()
        delivery.clock.advance(5)
        for part in Part:
            expiry = Expiry(part=part, before=delivery.clock.now())
            assert await delivery.store.retire(expiry) == 0
        for task in tasks:
            with pytest.raises(Conflict):
                await delivery.store.erase(task.id)
        assert await delivery.get(held) == held

    async def test_models_are_kept_apart_and_a_limit_is_kept(self, delivery: Delivery) -> None:
        for model in ("a/a", "a/a", "b/b", "c/c"):
            await _ended(delivery, [1], model=model)
        now = delivery.clock.now()
        own = Expiry(part=Part.OUTPUTS, before=now, models=("a/a", "b/b"))
        others = Expiry(part=Part.OUTPUTS, before=now, except_models=("a/a", "b/b"))
        assert await delivery.store.retire(others) == 1
        assert await delivery.store.retire(own, limit=2) == 2
        assert await delivery.store.retire(own) == 1
        assert await delivery.store.retire(Expiry(part=Part.OUTPUTS, before=now)) == 0

    async def test_many_tasks_are_removed_in_one_call(self, delivery: Delivery) -> None:
        tasks = await delivery.submit(*(a_new_task() for _ in range(250)))
        await delivery.store.cancel([task.id for task in tasks])
        expiry = Expiry(part=Part.INPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 250
        found = await delivery.store.get([task.id for task in tasks])
        assert all(task is not None and task.inputs_removed for task in found)

    async def test_an_erased_task_stays_without_its_data(self, delivery: Delivery) -> None:
        await delivery.store.note_upload("uploads/k/1")
        task = await _ended(delivery, [1, 2], files=("uploads/k/1",))
        assert set(await delivery.store.erase(task.id)) == {*_files_of(task), "uploads/k/1"}
        assert set(await delivery.store.discarded()) == {*_files_of(task), "uploads/k/1"}
        found = await delivery.get(task)
        assert (found.inputs_removed, found.outputs_removed) == (True, True)
        assert (bytes(found.input), found.output, found.artifacts) == (b"{}", None, ())
        assert await delivery.store.erase(task.id) == []
        with pytest.raises(NotFound):
            await delivery.store.erase("0" * 32)

    async def test_an_upload_that_no_task_uses_is_discarded_after_its_time(
        self, delivery: Delivery
    ) -> None:
        store = delivery.store
        for key in ("uploads/k/1", "uploads/k/2"):
            await store.note_upload(key)
        await delivery.submit(a_new_task(files=("uploads/k/2",)))
        noted_at = delivery.clock.now()
        delivery.clock.advance(60)
        await store.note_upload("uploads/k/1")
        await store.note_upload("uploads/k/3")
        assert await store.retire_uploads(noted_at - timedelta(seconds=1)) == 0
        assert await store.retire_uploads(noted_at) == 1
        assert await store.discarded() == ["uploads/k/1"]
        assert await store.retire_uploads(noted_at) == 0

    async def test_an_upload_stays_until_the_last_task_that_uses_it_lets_go(
        self, delivery: Delivery
    ) -> None:
        store = delivery.store
        await store.note_upload("uploads/k/1")
        first = await _ended(delivery, [], files=("uploads/k/1",))
        again = (await store.retry(first.id)).task
        assert await store.erase(first.id) == []
        assert await store.retire_uploads(delivery.clock.now()) == 0
        await store.cancel([again.id])
        assert await store.erase(again.id) == ["uploads/k/1"]
        assert await store.discarded() == ["uploads/k/1"]

    async def test_an_output_that_another_task_uses_stays_until_that_lets_go(
        self, delivery: Delivery
    ) -> None:
        store = delivery.store
        first = await _ended(delivery, [1])
        (artifact,) = first.artifacts
        second = await _ended(delivery, [], files=(artifact.key,))
        assert artifact.key not in await store.erase(first.id)
        assert artifact.key not in await store.discarded()
        assert await store.erase(second.id) == [artifact.key]
        assert artifact.key in await store.discarded()

    async def test_closing_ends_the_waiting(self, delivery: Delivery) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(delivery.broker.lease(a_lease_request(), until=until))
        await asyncio.sleep(0)
        await delivery.broker.close()
        assert await asyncio.wait_for(waiting, 5) == []


class DeliveryConformance(LifeConformance, ExactOrderConformance, WaitingConformance):
    """What every store must do, with a broker that knows the order to the task."""

    @pytest.mark.parametrize("seed", range(8))
    async def test_ranks_are_the_order_of_service(self, delivery: Delivery, seed: int) -> None:
        rng = random.Random(seed)
        waiting: list[Task] = []
        for _ in range(6):
            new = [_any_task(rng) for _ in range(rng.randint(1, 12))]
            waiting += await delivery.submit(*new)
            served = {task.id for task in await delivery.lease(rng.randint(0, 5) or 1)}
            waiting = [await delivery.get(task) for task in waiting if task.id not in served]
        ranks = await delivery.broker.ranks(waiting)
        assert None not in ranks
        assert [rank.samples for rank in ranks if rank] == [rank.ahead for rank in ranks if rank]
        told = {task.id: rank.ahead for task, rank in zip(waiting, ranks, strict=True) if rank}
        order = [task.id for task in await delivery.lease(len(waiting))]
        assert [told[task_id] for task_id in order] == list(range(len(order)))

    @pytest.mark.parametrize("seed", range(8))
    async def test_ranks_are_the_order_of_service_of_each_version_that_shares_a_model(
        self, delivery: Delivery, seed: int
    ) -> None:
        rng = random.Random(seed)
        live, canary = ("demo/upper", "demo/upper:v1"), ("demo/upper:v2", "demo/upper:~canary")
        served_with = dict.fromkeys(live, live) | dict.fromkeys(canary, canary)
        queues = [*live, *canary]
        new = [replace(_any_task(rng), queue=rng.choice(queues)) for _ in range(40)]
        waiting = await delivery.submit(*new)
        for version, served in rng.sample([("v1", live), ("v2", canary)], 2):
            own = [task for task in waiting if task.queue in served]
            ranks = await delivery.broker.ranks(own, served_with=served_with)
            told = {task.id: rank.ahead for task, rank in zip(own, ranks, strict=True) if rank}
            held = await delivery.lease(
                len(waiting), models={"demo/upper": version}, staged={"demo/upper": served}
            )
            assert [told[task.id] for task in held] == list(range(len(own)))


async def _in_order(delivery: Delivery, tasks: Sequence[Task]) -> list[Task]:
    """Return waiting tasks by rank."""
    ranks = await delivery.broker.ranks([await delivery.get(task) for task in tasks])
    told = {task.id: rank.ahead for task, rank in zip(tasks, ranks, strict=True) if rank}
    return sorted(tasks, key=lambda task: told[task.id])


def _any_task(rng: random.Random) -> NewTask:
    """Return a request of any of several keys, users and priorities."""
    return a_new_task(
        key_id=rng.choice(["key-1", "key-2", "key-3"]),
        user=rng.choice([None, "ann", "bob"]),
        priority=rng.choice([0, 1, 1, 1, 2]),
        queue=rng.choice(["demo/upper", "demo/upper", "demo/upper:v1"]),
    )


async def _ended(
    delivery: Delivery, pictures: Sequence[int], *, after_s: float = 0, **fields: object
) -> Task:
    """Return a task that has succeeded with pictures of these numbers."""
    delivery.clock.advance(after_s)
    (task,) = await delivery.submit(a_new_task(**fields))  # type: ignore[arg-type]
    (held,) = await delivery.lease(models={task.model: "v1"})
    artifacts = tuple(
        Artifact(
            key=f"outputs/{task.id}/1/{number}.png", content_type="image/png", bytes=3, width=1
        )
        for number in pictures
    )
    outcome = Succeeded(output=msgspec.Raw(b'{"a":1}'), artifacts=artifacts)
    (ended,) = await delivery.settle(held, outcome=outcome)
    assert ended is not None
    return ended


def _files_of(task: Task) -> set[str]:
    """Return every key under which something of a task's outputs may lie."""
    own = [artifact.key for artifact in task.artifacts]
    return {*own, *(thumbnail_key(key, width) for key in own for width in THUMBNAIL_WIDTHS)}
