"""Conformance of an outbox, together with the store and the broker that it belongs to.

An adapter's author subclasses `OutboxConformance` in a test file and gives it a fixture `post` that
yields a fresh `PostOffice` on a `ManualClock`.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from conformance.delivery import Delivery as Rig
from conformance.factories import a_failure, a_lease_request, a_new_task, a_settlement
from manual_clock import ManualClock
from swell.core.errors import InvalidRequest
from swell.core.outbox import (
    OVERTAKEN,
    AttemptResult,
    Delivery,
    DeliveryFilter,
    DeliveryState,
    Try,
    Watch,
)
from swell.core.store_types import Expiry, Part
from swell.core.task import Canceled, NewTask, Outcome, Released, Task
from swell.core.webhook import ENDS, EVENTS, Webhook
from swell.db.webhook_deliveries import Outbox

URL = "https://hooks.example/in?token=t"


@dataclass(frozen=True)
class PostOffice:
    """An outbox with its store and broker."""

    rig: Rig
    outbox: Outbox

    @property
    def clock(self) -> ManualClock:
        """The clock that all of them read."""
        return self.rig.clock

    async def running(self, new: NewTask | None = None) -> Task:
        """Submit a task and lease it."""
        await self.rig.submit(new or a_hooked_task())
        (task,) = await self.rig.lease()
        return task

    async def ended(self, new: NewTask | None = None, outcome: Outcome | None = None) -> Task:
        """Submit a task, lease it, and settle it."""
        (task,) = await self.rig.settle(await self.running(new), outcome=outcome)
        assert task is not None
        return task

    async def due(self, **wanted: Any) -> list[Delivery]:
        """Return what is due, at most a hundred of each place unless told otherwise."""
        return await self.outbox.due(**({"per_place": 100} | wanted))

    async def all(self, **where: Any) -> list[Delivery]:
        """Return all deliveries, oldest first."""
        page = await self.outbox.page(DeliveryFilter(**where))
        return list(reversed(page.deliveries))

    async def told(
        self,
        delivery: Delivery,
        *,
        again_s: float | None = None,
        inputs_removed: bool = False,
        outputs_removed: bool = False,
    ) -> Delivery:
        """Tell that an attempt succeeded, or that it failed and another comes; return what is.

        Args:
            delivery: Of which.
            again_s: When it is due again, in seconds; None where it succeeded.
            inputs_removed: Whether what was asked was gone when the task was told of.
            outputs_removed: Whether what came of it was.
        """
        now = self.clock.now()
        is_good = again_s is None
        await self.outbox.record_attempts(
            [
                AttemptResult(
                    id=delivery.id,
                    tries=delivery.tries,
                    attempt=Try(at=now, took_s=0.5, status=200 if is_good else 500),
                    answer="thanks" if is_good else "broken",
                    state=DeliveryState.DELIVERED if is_good else DeliveryState.WAITING,
                    due_at=None if again_s is None else now + timedelta(seconds=again_s),
                    inputs_removed=inputs_removed,
                    outputs_removed=outputs_removed,
                )
            ]
        )
        return await self.get(delivery)

    async def get(self, delivery: Delivery) -> Delivery:
        """Return a delivery as it is now."""
        found = await self.outbox.get(delivery.id)
        assert found is not None
        return found


def a_hooked_task(*events: str, **fields: Any) -> NewTask:
    """Return a request that wants to be told of these events, or of its end."""
    return a_new_task(webhook=Webhook(url=URL, events=events or ENDS), **fields)


def _events(deliveries: list[Delivery]) -> list[str]:
    return [each.event for each in deliveries]


class OutboxConformance:
    """What every outbox promises."""

    # ---- what is written with the task

    async def test_a_webhook_stays_with_its_task_and_with_the_one_that_repeats_it(
        self, post: PostOffice
    ) -> None:
        hook = Webhook(url=URL, events=("started", "failed"), format="other", secret="mine")
        task = await post.ended(a_new_task(webhook=hook))
        assert (await post.rig.get(task)).webhook == task.webhook == hook
        again = await post.rig.store.retry(task.id)
        assert again.task.webhook == hook

    async def test_a_task_that_wants_nothing_is_not_told_of(self, post: PostOffice) -> None:
        await post.ended(a_new_task())
        assert await post.all() == []

    async def test_an_end_is_due_as_soon_as_the_task_has_ended(self, post: PostOffice) -> None:
        task = await post.running()
        assert await post.due() == []
        await post.rig.settle(task)
        (delivery,) = await post.due()
        assert (delivery.task_id, delivery.event) == (task.id, "succeeded")
        assert (delivery.key_id, delivery.endpoint, delivery.attempt) == ("key-1", "", 1)
        assert delivery.at == delivery.due_at == post.clock.now()
        assert delivery.place == "key-1 https://hooks.example"
        assert delivery.id.startswith("msg_")
        assert await post.get(delivery) == delivery

    async def test_a_start_says_who_has_it_and_comes_before_the_end(self, post: PostOffice) -> None:
        await post.ended(a_hooked_task("started", "succeeded"))
        started, ended = await post.all()
        assert _events([started, ended]) == ["started", "succeeded"]
        assert started.data is not None
        assert msgspec.json.decode(started.data) == {"worker": "worker-1"}
        assert await post.due() == [started]
        await post.told(started)
        assert await post.due() == [ended]

    async def test_a_start_is_told_where_a_worker_was_waiting(self, post: PostOffice) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lease = post.rig.broker.lease(a_lease_request(), until=until)
        waiting = asyncio.ensure_future(lease)
        await asyncio.sleep(0)
        await post.rig.submit(a_hooked_task("started"))
        (task,) = await waiting
        assert [each.task_id for each in await post.all()] == [task.id]

    async def test_every_end_is_told_once(self, post: PostOffice) -> None:
        failed = await post.ended(outcome=a_failure(retryable=False))
        stopped = await post.running()
        await post.rig.store.cancel([stopped.id])
        await post.rig.settle(stopped, outcome=Canceled())
        (queued,) = await post.rig.submit(a_hooked_task())
        await post.rig.store.cancel([queued.id])
        await post.rig.store.cancel([queued.id])
        (late,) = await post.rig.submit(a_hooked_task(start_by_s=5))
        post.clock.advance(6)
        await post.rig.sweep()
        told = [(each.task_id, each.event) for each in await post.all()]
        assert told == [
            (failed.id, "failed"),
            (stopped.id, "canceled"),
            (queued.id, "canceled"),
            (late.id, "expired"),
        ]

    async def test_attempts_that_are_repeated_are_no_end(self, post: PostOffice) -> None:
        new = a_hooked_task("started", *ENDS, max_attempts=2)
        await post.rig.settle(await post.running(new), outcome=a_failure())
        post.clock.advance(60)
        await post.rig.sweep()
        (second,) = await post.rig.lease()
        await post.rig.settle(second, outcome=Released())
        (third,) = await post.rig.lease()
        post.clock.advance(60)
        await post.rig.sweep()
        found = [(each.event, each.attempt) for each in await post.all()]
        assert found == [("started", 1), ("started", 2), ("started", 3), ("failed", 3)]
        assert third.attempt == 3

    async def test_what_is_not_taken_is_not_told(self, post: PostOffice) -> None:
        task = await post.running()
        stale = msgspec.structs.replace(a_settlement(task), token="another")
        assert await post.rig.store.settle([stale]) == [None]
        assert await post.all() == []
        await post.rig.settle(task)
        await post.rig.settle(task)
        assert _events(await post.all()) == ["succeeded"]

    async def test_whoever_waits_for_deliveries_is_woken(self, post: PostOffice) -> None:
        woken: list[int] = []
        post.outbox.on_post(lambda: woken.append(1))
        await post.ended(a_new_task())
        assert woken == []
        await post.ended()
        assert woken == [1]

    # ---- standing endpoints

    async def test_a_standing_endpoint_is_told_of_what_it_wants(self, post: PostOffice) -> None:
        post.outbox.watch(
            [
                Watch(endpoint="own", key_id="key-1", events=("succeeded",), place="p-own"),
                Watch(endpoint="other", key_id="key-2", events=EVENTS),
                Watch(endpoint="all", key_id=None, events=("started",)),
                Watch(endpoint="model", key_id=None, events=ENDS, models=("demo/other",)),
                Watch(endpoint="owner", key_id=None, events=ENDS, models=("demo/*",)),
            ]
        )
        await post.ended(a_new_task())
        found = {each.endpoint: (each.event, each.place) for each in await post.all()}
        assert found == {
            "all": ("started", ""),
            "own": ("succeeded", "p-own"),
            "owner": ("succeeded", ""),
        }
        post.outbox.watch([])
        await post.ended(a_new_task())
        assert len(await post.all()) == 3

    async def test_a_slow_receiver_holds_up_no_other_of_the_same_task(
        self, post: PostOffice
    ) -> None:
        post.outbox.watch([Watch(endpoint="e", key_id=None, events=("started", "succeeded"))])
        await post.ended(a_hooked_task("started", "succeeded"))
        own, standing = [each for each in await post.due() if each.event == "started"]
        await post.told(standing)
        assert [(each.endpoint, each.event) for each in await post.due()] == [
            ("", "started"),
            ("e", "succeeded"),
        ]
        assert own.endpoint == ""

    # ---- attempts

    async def test_what_was_delivered_is_over(self, post: PostOffice) -> None:
        await post.ended()
        (delivery,) = await post.due()
        after = await post.told(delivery)
        assert after.state is DeliveryState.DELIVERED
        assert after.ended_at == post.clock.now()
        assert after.due_at is None
        assert [(each.status, each.took_s) for each in after.log] == [(200, 0.5)]
        assert after.answers == ("thanks",)
        assert await post.due() == []

    async def test_what_failed_is_due_again_when_it_was_said(self, post: PostOffice) -> None:
        await post.ended()
        (delivery,) = await post.due()
        after = await post.told(delivery, again_s=5)
        assert (after.state, after.tries, after.answers) == (DeliveryState.WAITING, 1, ("broken",))
        post.clock.advance(4.9)
        assert await post.due() == []
        post.clock.advance(0.1)
        assert await post.due() == [after]

    async def test_an_attempt_that_was_overtaken_writes_nothing(self, post: PostOffice) -> None:
        await post.ended()
        (delivery,) = await post.due()
        once = await post.told(delivery, again_s=5)
        assert await post.told(delivery) == once

    async def test_a_start_that_failed_gives_way_to_what_is_newer(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("started", "succeeded"))
        (started,) = await post.due()
        await post.told(started, again_s=3600)
        assert await post.due() == []
        await post.rig.settle(task)
        assert _events(await post.due()) == ["succeeded"]
        assert (await post.get(started)).state is DeliveryState.SKIPPED

    async def test_a_start_that_failed_gives_way_to_progress(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("started", "progress"))
        (started,) = await post.due()
        await post.told(started, again_s=3600)
        for done in (0.25, 0.5):
            await post.outbox.post(task.id, task.attempt, "progress", {"done": done})
        (progress,) = await post.due()
        assert progress.data == msgspec.Raw(b'{"done":0.5}')
        after = await post.get(started)
        assert (after.state, after.reason) == (DeliveryState.SKIPPED, OVERTAKEN)

    async def test_a_start_that_fails_while_something_newer_waits_is_skipped(
        self, post: PostOffice
    ) -> None:
        await post.ended(a_hooked_task("started", "succeeded"))
        (started,) = await post.due()
        after = await post.told(started, again_s=3600)
        assert after.state is DeliveryState.SKIPPED
        assert after.reason
        assert _events(await post.due()) == ["succeeded"]

    async def test_a_start_gives_way_only_where_something_newer_is_wanted(
        self, post: PostOffice
    ) -> None:
        post.outbox.watch([Watch(endpoint="e", key_id=None, events=ENDS)])
        task = await post.running(a_hooked_task("started"))
        (started,) = await post.due()
        await post.told(started, again_s=3600)
        await post.rig.settle(task)
        assert (await post.get(started)).state is DeliveryState.WAITING

    async def test_an_end_is_never_skipped(self, post: PostOffice) -> None:
        await post.ended()
        (delivery,) = await post.due()
        for _ in range(12):
            delivery = await post.told(delivery, again_s=0)
        assert (delivery.state, delivery.tries) == (DeliveryState.WAITING, 12)

    async def test_a_success_counts_though_it_was_skipped_meanwhile(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("started", "succeeded"))
        (started,) = await post.due()
        once = await post.told(started, again_s=0)
        await post.rig.settle(task)
        assert (await post.get(started)).state is DeliveryState.SKIPPED
        assert (await post.told(once)).state is DeliveryState.DELIVERED

    async def test_each_place_has_its_share(self, post: PostOffice) -> None:
        for _ in range(5):
            await post.ended()
        other = Webhook(url="https://other.example/in")
        task = await post.ended(a_new_task(webhook=other))
        found = await post.due(per_place=2)
        assert len(found) == 3
        assert found[-1].task_id == task.id
        assert len(await post.due(limit=4)) == 4
        without = await post.due(without=["key-1 https://hooks.example"])
        assert [each.task_id for each in without] == [task.id]
        places = ["key-1 https://hooks.example", "key-1 https://other.example"]
        assert await post.due(without=places) == []

    # ---- what passes by

    async def _progress(self, post: PostOffice, task: Task, step: int, event: str) -> None:
        await post.outbox.post(task.id, task.attempt, event, {"step": step})

    async def test_of_progress_the_newest_is_told(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("progress", "succeeded"))
        for step in (1, 2):
            await self._progress(post, task, step, "progress")
        (progress,) = await post.due()
        assert progress.data is not None
        assert msgspec.json.decode(progress.data) == {"step": 2}
        await post.told(progress)
        await self._progress(post, task, 3, "progress")
        assert len(await post.all()) == 2

    async def test_artifacts_do_not_replace_each_other(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("artifact"))
        for number in (1, 2):
            await self._progress(post, task, number, "artifact")
        assert len(await post.all()) == 2

    async def test_progress_that_nobody_wants_is_not_told(self, post: PostOffice) -> None:
        await self._progress(post, await post.running(), 1, "progress")
        await self._progress(post, await post.running(a_new_task()), 1, "progress")
        assert await post.all() == []

    async def test_the_end_takes_the_place_of_what_passed_by(self, post: PostOffice) -> None:
        task = await post.running(a_hooked_task("progress", "succeeded"))
        await self._progress(post, task, 1, "progress")
        await post.rig.settle(task)
        assert _events(await post.due()) == ["succeeded"]
        await self._progress(post, task, 2, "progress")
        assert _events(await post.all()) == ["succeeded"]

    async def test_progress_of_an_attempt_before_is_not_told(self, post: PostOffice) -> None:
        first = await post.running(a_hooked_task("progress"))
        await post.rig.settle(first, outcome=Released())
        await post.rig.lease()
        await self._progress(post, first, 1, "progress")
        assert await post.all() == []

    # ---- looking and replaying

    async def test_deliveries_are_listed_by_what_they_are(self, post: PostOffice) -> None:
        post.outbox.watch([Watch(endpoint="e", key_id=None, events=ENDS)])
        one = await post.ended()
        post.clock.advance(60)
        two = await post.ended(a_new_task(key_id="key-2"))
        first, of_endpoint, other = await post.all()
        await post.told(first)
        first = await post.get(first)
        assert await post.all(task_id=one.id) == [first, of_endpoint]
        assert await post.all(task_id=two.id) == [other]
        assert await post.all(endpoint="e") == [of_endpoint, other]
        assert await post.all(endpoint="e", key_id="key-2") == [other]
        assert await post.all(endpoint="e", task_id=one.id) == [of_endpoint]
        assert await post.all(key_id="key-1") == [first, of_endpoint]
        assert await post.all(state=DeliveryState.DELIVERED) == [first]
        assert await post.all(key_id="key-1", state=DeliveryState.WAITING) == [of_endpoint]

    async def test_pages_go_on_where_they_ended(self, post: PostOffice) -> None:
        for _ in range(5):
            await post.ended()
        found: list[Delivery] = []
        cursor: str | None = None
        while True:
            page = await post.outbox.page(DeliveryFilter(), limit=2, cursor=cursor)
            found += page.deliveries
            cursor = page.cursor
            if cursor is None:
                break
        assert found == list(reversed(await post.all()))
        with pytest.raises(InvalidRequest):
            await post.outbox.page(DeliveryFilter(), cursor="msg_none")

    async def test_what_has_ended_can_be_replayed(self, post: PostOffice) -> None:
        await post.ended()
        (delivery,) = await post.due()
        assert await post.outbox.replay([delivery.id]) == 0
        await post.told(delivery)
        woken: list[int] = []
        post.outbox.on_post(lambda: woken.append(1))
        assert await post.outbox.replay([delivery.id, "msg_none"]) == 1
        assert woken == [1]
        (again,) = await post.due()
        assert (again.id, again.tries, len(again.log)) == (delivery.id, 0, 1)
        assert len((await post.told(again)).log) == 2

    async def test_failed_deliveries_of_an_endpoint_can_be_replayed(self, post: PostOffice) -> None:
        post.outbox.watch([Watch(endpoint="e", key_id=None, events=ENDS)])
        first_at = post.clock.now()
        await post.ended()
        post.clock.advance(60)
        await post.ended()
        assert await post.outbox.replay_failed("e", first_at) == 0
        assert await post.outbox.give_up("e", "it is gone") == 2
        assert await post.outbox.replay_failed("other", first_at) == 0
        assert await post.outbox.replay_failed("", first_at) == 0
        assert await post.outbox.replay_failed("e", post.clock.now()) == 1
        first, second = await post.all(endpoint="e")
        assert (first.state, second.state) == (DeliveryState.FAILED, DeliveryState.WAITING)
        assert await post.outbox.replay_failed("e", first_at) == 1

    async def test_all_that_waits_for_an_endpoint_can_be_given_up(self, post: PostOffice) -> None:
        post.outbox.watch([Watch(endpoint="e", key_id=None, events=ENDS)])
        await post.ended()
        (standing,) = await post.all(endpoint="e")
        assert await post.outbox.give_up("e", "it is gone", but=standing.id) == 0
        assert (await post.all(endpoint="e"))[0].state is DeliveryState.WAITING
        assert await post.outbox.give_up("e", "it is gone", but="msg_other") == 1
        assert await post.outbox.give_up("e", "it is gone") == 0
        assert await post.outbox.give_up("", "it is gone") == 0
        (own,) = await post.due()
        assert own.endpoint == ""
        (given_up,) = await post.all(endpoint="e")
        assert (given_up.state, given_up.reason) == (DeliveryState.FAILED, "it is gone")

    async def test_what_ended_long_ago_is_forgotten(self, post: PostOffice) -> None:
        for _ in range(3):
            await post.ended()
        first, second, third = await post.due()
        await post.told(first)
        await post.told(second)
        assert await post.outbox.retire(post.clock.now(), limit=1) == 1
        assert await post.outbox.retire(post.clock.now() - timedelta(seconds=1)) == 0
        assert await post.outbox.retire(post.clock.now()) == 1
        assert await post.all() == [third]

    async def test_the_backlog_is_what_waits(self, post: PostOffice) -> None:
        assert (await post.outbox.backlog()).waiting == 0
        await post.ended()
        begun_at = post.clock.now()
        post.clock.advance(9)
        await post.ended()
        backlog = await post.outbox.backlog()
        assert (backlog.waiting, backlog.oldest_at) == (2, begun_at)

    # ---- data that is removed

    async def test_what_quotes_a_task_goes_with_its_data(self, post: PostOffice) -> None:
        task = await post.ended(a_hooked_task("started", "succeeded"))
        (started,) = await post.due()
        await post.told(started)
        await post.rig.store.erase(task.id)
        started, ended = await post.all()
        assert (started.answers, started.data) == ((), None)
        assert len(started.log) == 1
        assert ended.state is DeliveryState.WAITING
        told = await post.told(ended, again_s=0, inputs_removed=True, outputs_removed=True)
        assert told.answers == ("broken",)

    async def test_an_answer_that_may_quote_what_was_removed_meanwhile_is_not_kept(
        self, post: PostOffice
    ) -> None:
        task = await post.ended(a_hooked_task("started", "succeeded"))
        (started,) = await post.due()
        # An attempt is under way while its task's data is removed.
        await post.rig.store.erase(task.id)
        told = await post.told(started)
        assert (told.state, told.answers) == (DeliveryState.DELIVERED, ("",))
        assert [each.status for each in told.log] == [200]
        (ended,) = await post.due()
        assert (await post.told(ended, inputs_removed=True)).answers == ("",)

    async def test_deliveries_are_forgotten_with_their_task(self, post: PostOffice) -> None:
        await post.ended()
        post.clock.advance(24 * 3600 + 1)
        other = await post.ended()
        before = post.clock.now() - timedelta(hours=24)
        assert await post.rig.store.retire(Expiry(part=Part.TASK, before=before)) == 1
        assert [each.task_id for each in await post.all()] == [other.id]
