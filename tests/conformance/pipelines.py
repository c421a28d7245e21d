"""Conformance of a store and its broker with pipelines: one task, one stage after the other.

An adapter's author adds `PipelineConformance` to the class that has the fixture `delivery`, and
`SharedPipelineConformance` to the one that has `pair`, where several backends share it.
"""

import asyncio
from typing import Any

import msgspec
import pytest

from conformance.delivery import Delivery
from conformance.factories import (
    a_failure,
    a_lease_request,
    a_new_task,
    a_settlement,
    hold_of,
)
from conformance.shared import Pair
from swell.core.errors import Conflict
from swell.core.pipeline_stages import Pipeline, Run, Stage, begin
from swell.core.results import TaskWarning
from swell.core.store_types import Expiry, Onward, Part, Start, TaskFilter
from swell.core.task import (
    Artifact,
    Canceled,
    NewTask,
    Outcome,
    Released,
    Succeeded,
    Task,
    TaskState,
    Timings,
    checkpoint_key,
    warnings_of,
)

#: Workers of one model each.
A = {"demo/a": "v1"}
B = {"demo/b": "v2"}
C = {"demo/c": "v3"}

#: What the three stages are, unless a test says otherwise.
STAGES = (
    Stage(name="first", queue="demo/a", take={"text": "input.text"}),
    Stage(name="second", queue="demo/b", take={"text": "stages.first.output.text"}),
    Stage(name="third", queue="demo/c", take={"text": "stages.second.output.text"}),
)


def a_new_run(
    *stages: Stage, output: Any = "", asked: bytes = b'{"text":"hello"}', **fields: Any
) -> NewTask:
    """Return a request for a pipeline of these stages."""
    pipeline = Pipeline(stages=stages or STAGES, output=output)
    run = begin(pipeline, "p1", msgspec.Raw(asked))
    assert run is not None, "a stage runs"
    return a_new_task(
        "demo/chain", queue=run.stage.queue, run=run, input=msgspec.Raw(asked), **fields
    )


def _text(words: str, **fields: Any) -> Succeeded:
    """Return a good outcome that later stages refer to."""
    return Succeeded(output=msgspec.Raw(msgspec.json.encode({"text": words})), **fields)


def _picture_of(task: Task, name: str = "0.png") -> Artifact:
    """Return a file that a running attempt has made."""
    key = f"outputs/{task.id}/{task.attempt}/{name}"
    return Artifact(key=key, content_type="image/png", bytes=9)


def _run_of(task: Task | None) -> Run:
    """Return where a task is in its pipeline."""
    assert task is not None
    assert task.run is not None
    return task.run


def _onward(models: dict[str, str], n: int = 1) -> Onward:
    """Return who goes on at once."""
    wish = a_lease_request(n, models=models)
    return Onward(worker_id=wish.worker_id, versions=wish.queues, n=n, lease_s=wish.lease_s)


async def _pass_stage(
    delivery: Delivery, models: dict[str, str], outcome: Outcome | None = None
) -> Task:
    """Have the next task of a model run, and return what became of it."""
    (held,) = await delivery.lease(models=models)
    (settled,) = await delivery.settle(held, outcome=outcome or _text("more"))
    assert settled is not None
    return settled


class PipelineConformance:
    """What becomes of a task whose model is a pipeline."""

    # ---- from stage to stage

    async def test_a_pipeline_goes_through_the_queue_of_each_stage(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_run())
        assert await delivery.get(task) == task
        assert (task.model, task.queue, _run_of(task).at) == ("demo/chain", "demo/a", 0)
        assert await delivery.lease(models=B) == []
        (held,) = await delivery.lease(models=A)
        assert (held.id, held.attempt, held.version) == (task.id, 1, "v1")
        (passed,) = await delivery.settle(held, outcome=_text("one"))
        assert passed is not None
        assert (passed.state, passed.queue, _run_of(passed).at) == (
            TaskState.QUEUED,
            "demo/b",
            1,
        )
        assert await delivery.get(task) == passed
        assert await delivery.lease(models=A) == []
        (held,) = await delivery.lease(models=B)
        assert (held.id, held.attempt, held.version) == (task.id, 2, "v2")
        await delivery.settle(held, outcome=_text("two"))
        ended = await _pass_stage(delivery, C, _text("three"))
        assert (ended.id, ended.state, ended.error) == (task.id, TaskState.SUCCEEDED, None)
        assert ended.output == msgspec.Raw(b'{"text":"three"}')
        assert await delivery.get(task) == ended
        done = _run_of(ended).done
        assert [(each.name, each.model, each.version, each.attempt) for each in done] == [
            ("first", "demo/a", "v1", 1),
            ("second", "demo/b", "v2", 2),
            ("third", "demo/c", "v3", 3),
        ]
        for models in (A, B, C):
            assert await delivery.lease(models=models) == []

    async def test_what_stages_give_may_be_large(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        await _pass_stage(delivery, A, _text("x" * 100_000))
        passed = await _pass_stage(delivery, B, _text("y" * 100_000))
        assert [len(bytes(each.output)) for each in _run_of(passed).done] == [100_011] * 2
        ended = await _pass_stage(delivery, C, _text("z"))
        assert (ended.id, ended.state) == (task.id, TaskState.SUCCEEDED)

    async def test_what_waits_between_stages_is_counted_where_it_waits(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run(), a_new_run())
        await _pass_stage(delivery, A)
        depths = {depth.queue: depth.ready for depth in await delivery.broker.depths()}
        assert depths == {"demo/a": 1, "demo/b": 1}

    async def test_a_worker_that_waits_for_the_next_stage_gets_it(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        (held,) = await delivery.lease(models=A)
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = a_lease_request(models=B, worker_id="worker-2")
        waiting = asyncio.ensure_future(delivery.broker.lease(request, until=until))
        for _ in range(5):
            await asyncio.sleep(0)
        await delivery.settle(held, outcome=_text("one"))
        (found,) = await asyncio.wait_for(waiting, 20)
        assert (found.id, found.attempt, found.worker_id) == (task.id, 2, "worker-2")

    async def test_a_stage_whose_condition_does_not_hold_is_passed_over(
        self, delivery: Delivery
    ) -> None:
        stages = (
            STAGES[0],
            Stage(name="second", queue="demo/b", when="input.more"),
            Stage(
                name="third",
                queue="demo/c",
                take={"text": "stages.second.output.text or stages.first.output.text"},
            ),
        )
        (task,) = await delivery.submit(a_new_run(*stages))
        passed = await _pass_stage(delivery, A)
        assert (passed.queue, _run_of(passed).at) == ("demo/c", 2)
        ended = await _pass_stage(delivery, C)
        assert (ended.id, ended.state) == (task.id, TaskState.SUCCEEDED)
        assert [each.name for each in _run_of(ended).done] == ["first", "third"]

    async def test_what_a_stage_gave_may_end_the_task(self, delivery: Delivery) -> None:
        stages = (
            Stage(
                name="check",
                queue="demo/a",
                reject="not stages.check.output.allowed",
                reason="stages.check.output.why",
            ),
            STAGES[1],
        )
        await delivery.submit(a_new_run(*stages))
        verdict = Succeeded(output=msgspec.Raw(b'{"allowed":false,"why":"not that"}'))
        ended = await _pass_stage(delivery, A, verdict)
        assert (ended.state, ended.dead) == (TaskState.FAILED, False)
        assert ended.error is not None
        assert (ended.error.code, ended.error.detail) == ("rejected", "not that")
        assert await delivery.lease(models=B) == []

    async def test_the_output_may_come_from_several_stages(self, delivery: Delivery) -> None:
        output = {"picture": "stages.second.output", "words": "stages.first.output.text"}
        await delivery.submit(a_new_run(*STAGES[:2], output=output))
        await _pass_stage(delivery, A, _text("one"))
        (held,) = await delivery.lease(models=B)
        picture = _picture_of(held)
        drawn = Succeeded(output=msgspec.Raw(b'{"$artifact":0}'), artifacts=(picture,))
        (ended,) = await delivery.settle(held, outcome=drawn)
        assert ended is not None
        assert msgspec.json.decode(ended.output or b"") == {
            "picture": {"$artifact": 0},
            "words": "one",
        }
        assert ended.artifacts == (picture,)

    async def test_times_and_costs_of_the_stages_add_up(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run(*STAGES[:2]))
        delivery.clock.advance(2)
        one = Timings(run_s=1.0, cost_micros=10)
        await _pass_stage(delivery, A, _text("one", timings=one))
        delivery.clock.advance(3)
        two = Timings(run_s=4.0, cost_micros=7, device_s=2.0)
        ended = await _pass_stage(delivery, B, _text("two", timings=two))
        assert ended.timings == Timings(queue_s=5.0, run_s=5.0, cost_micros=17, device_s=2.0)
        assert [each.timings.queue_s for each in _run_of(ended).done] == [2.0, 3.0]

    # ---- going on at once

    async def test_who_has_the_next_model_goes_on_in_the_same_write(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run())
        both = A | B
        (held,) = await delivery.lease(models=both)
        told = a_settlement(held, _text("one"))
        (running,) = await delivery.store.settle([told], _onward(both))
        assert running is not None
        assert (running.state, running.attempt, running.version) == (TaskState.RUNNING, 2, "v2")
        assert running.worker_id == held.worker_id
        assert running.lease_token != held.lease_token
        assert await delivery.get(running) == running
        # It was never in that queue, and told again it is what it is.
        assert await delivery.lease(models=both) == []
        assert await delivery.store.settle([told], _onward(both)) == [running]
        (passed,) = await delivery.settle(running, outcome=_text("two"))
        assert passed is not None
        assert (passed.state, passed.queue) == (TaskState.QUEUED, "demo/c")

    async def test_who_has_no_room_does_not_go_on(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run(), a_new_run())
        held = await delivery.lease(2, models=A | B)
        told = [a_settlement(task, _text("one")) for task in held]
        settled = await delivery.store.settle(told, _onward(A | B, n=1))
        states = [task.state for task in settled if task is not None]
        assert states == [TaskState.RUNNING, TaskState.QUEUED]

    async def test_who_lacks_the_version_does_not_go_on(self, delivery: Delivery) -> None:
        pinned = Stage(name="second", queue="demo/b:v9")
        await delivery.submit(a_new_run(STAGES[0], pinned))
        (held,) = await delivery.lease(models=A | B)
        (passed,) = await delivery.store.settle([a_settlement(held)], _onward(A | B))
        assert passed is not None
        assert (passed.state, passed.queue) == (TaskState.QUEUED, "demo/b:v9")
        delivery.publish([passed])
        assert await delivery.lease(models=B) == []
        (found,) = await delivery.lease(models={"demo/b": "v9"})
        assert found.id == held.id

    async def test_only_a_stage_goes_on_at_once_and_no_other_task(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_task("demo/a"))
        (held,) = await delivery.lease(models=A)
        (again,) = await delivery.store.settle([a_settlement(held, Released())], _onward(A | B))
        assert again is not None
        assert again.state is TaskState.QUEUED

    async def test_who_hears_late_of_a_stage_starts_no_other(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        await _pass_stage(delivery, A)
        wish = Start(
            task_id=task.id,
            queue="demo/a",
            worker_id="worker-1",
            version="v1",
            token="t",
            lease_s=30,
        )
        assert await delivery.store.start([wish]) == [None]
        (started,) = await delivery.store.start([msgspec.structs.replace(wish, queue="demo/b")])
        assert started is not None
        assert started.attempt == 2

    # ---- attempts

    async def test_a_stage_that_fails_is_repeated_and_not_those_before(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run(max_attempts=2))
        await _pass_stage(delivery, A, _text("one"))
        failed = await _pass_stage(delivery, B, a_failure())
        assert (failed.state, failed.queue, failed.attempts_left) == (
            TaskState.QUEUED,
            "demo/b",
            1,
        )
        delivery.clock.advance(60)
        await delivery.sweep()
        (held,) = await delivery.lease(models=B)
        assert held.attempt == 3
        assert [each.name for each in _run_of(held).done] == ["first"]

    async def test_each_stage_has_its_own_attempts(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run(*STAGES[:2], max_attempts=2))
        for models in (A, B):
            await _pass_stage(delivery, models, a_failure())
            delivery.clock.advance(60)
            await delivery.sweep()
            await _pass_stage(delivery, models)
        tasks = (await delivery.store.page(TaskFilter())).tasks
        assert [(task.state, task.attempt) for task in tasks] == [(TaskState.SUCCEEDED, 4)]
        assert [each.tries for each in _run_of(tasks[0]).done] == [2, 2]

    async def test_a_stage_whose_attempts_are_used_up_ends_the_task_as_a_dead_letter(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run(max_attempts=1))
        await _pass_stage(delivery, A, _text("one"))
        ended = await _pass_stage(delivery, B, a_failure())
        assert (ended.state, ended.dead, _run_of(ended).at) == (TaskState.FAILED, True, 1)
        assert _run_of(ended).done[0].output == msgspec.Raw(b'{"text":"one"}')

    async def test_a_lost_worker_costs_the_stage_alone(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run(max_attempts=2))
        await _pass_stage(delivery, A)
        (held,) = await delivery.lease(models=B)
        delivery.clock.advance(31)
        (lost,) = await delivery.sweep()
        assert (lost.state, lost.queue) == (TaskState.QUEUED, "demo/b")
        assert await delivery.settle(held) == [None]
        delivery.clock.advance(60)
        await delivery.sweep()
        passed = await _pass_stage(delivery, B)
        assert (passed.queue, passed.attempt) == ("demo/c", 3)

    async def test_a_settlement_told_twice_passes_a_stage_once(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run())
        (held,) = await delivery.lease(models=A)
        told = a_settlement(held, _text("one"))
        (passed,) = await delivery.settle(held, outcome=_text("one"))
        assert await delivery.store.settle([told]) == [passed]
        (next_one,) = await delivery.lease(models=B)
        assert await delivery.store.settle([told]) == [next_one]
        assert len(_run_of(await delivery.get(next_one)).done) == 1
        # Another's word for the same attempt is not taken.
        (stale,) = await delivery.store.settle([msgspec.structs.replace(told, token="other")])
        assert stale is None

    async def test_a_checkpoint_goes_with_its_stage(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        (held,) = await delivery.lease(models=A)
        key = checkpoint_key(task.id, 1)
        await delivery.settle(held, outcome=Released(checkpoint=key))
        passed = await _pass_stage(delivery, A)
        assert passed.checkpoint is None
        assert await delivery.store.discarded() == [key]

    # ---- the end from outside

    async def test_a_pipeline_is_canceled_between_stages(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        await _pass_stage(delivery, A, _text("one"))
        (canceled,) = await delivery.store.cancel([task.id])
        assert canceled is not None
        assert canceled.state is TaskState.CANCELED
        assert await delivery.lease(models=B) == []
        assert [each.name for each in _run_of(canceled).done] == ["first"]

    async def test_a_stage_that_succeeds_after_a_cancellation_is_the_last(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run())
        (held,) = await delivery.lease(models=A | B)
        await delivery.store.cancel([held.id])
        (ended,) = await delivery.store.settle([a_settlement(held, _text("one"))], _onward(A | B))
        assert ended is not None
        assert ended.state is TaskState.CANCELED
        assert [each.name for each in _run_of(ended).done] == ["first"]

    async def test_the_last_stage_that_succeeds_stands_against_a_cancellation(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run(STAGES[0]))
        (held,) = await delivery.lease(models=A)
        await delivery.store.cancel([held.id])
        (ended,) = await delivery.settle(held, outcome=_text("one"))
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED

    async def test_a_stage_that_is_canceled_ends_the_task(self, delivery: Delivery) -> None:
        await delivery.submit(a_new_run())
        await _pass_stage(delivery, A)
        (held,) = await delivery.lease(models=B)
        await delivery.store.cancel([held.id])
        (state,) = await delivery.store.extend([hold_of(held)], lease_s=30)
        assert state.cancel_requested
        (ended,) = await delivery.settle(held, outcome=Canceled())
        assert ended is not None
        assert ended.state is TaskState.CANCELED

    async def test_start_by_is_for_the_first_stage_and_finish_by_for_all(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(a_new_run(start_by_s=10, finish_by_s=100))
        await _pass_stage(delivery, A)
        delivery.clock.advance(20)
        assert await delivery.sweep() == []
        delivery.clock.advance(80)
        (expired,) = await delivery.sweep()
        assert expired.state is TaskState.EXPIRED
        assert await delivery.lease(models=B) == []

    # ---- repeating

    async def test_a_retry_goes_on_at_the_stage_that_failed(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run(*STAGES[:2]))
        await _pass_stage(delivery, A, _text("one", timings=Timings(run_s=5, cost_micros=5)))
        await _pass_stage(delivery, B, a_failure(retryable=False))
        again = (await delivery.store.retry(task.id)).task
        assert (again.queue, again.attempt, again.retry_of) == ("demo/b", 0, task.id)
        delivery.publish([again])
        assert await delivery.lease(models=A) == []
        (held,) = await delivery.lease(models=B)
        assert (held.id, held.attempts_left) == (again.id, 2)
        two = _text("two", timings=Timings(run_s=1, cost_micros=2))
        (ended,) = await delivery.settle(held, outcome=two)
        assert ended is not None
        assert ended.output == msgspec.Raw(b'{"text":"two"}')
        assert [each.name for each in _run_of(ended).done] == ["first", "second"]
        # What the first stage cost was told by the task that failed.
        assert ended.timings is not None
        assert (ended.timings.run_s, ended.timings.cost_micros) == (1, 2)
        assert (await delivery.get(task)).state is TaskState.FAILED

    async def test_a_check_that_said_no_is_asked_again_by_a_retry(self, delivery: Delivery) -> None:
        check = Stage(name="check", queue="demo/b", reject="stages.check.output.bad")
        (task,) = await delivery.submit(a_new_run(STAGES[0], check))
        await _pass_stage(delivery, A)
        await _pass_stage(delivery, B, Succeeded(output=msgspec.Raw(b'{"bad":true}')))
        again = (await delivery.store.retry(task.id)).task
        delivery.publish([again])
        ended = await _pass_stage(delivery, B, Succeeded(output=msgspec.Raw(b'{"bad":false}')))
        assert (ended.id, ended.state) == (again.id, TaskState.SUCCEEDED)

    async def test_a_pipeline_that_has_succeeded_is_repeated_whole(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_run(STAGES[0]))
        await _pass_stage(delivery, A)
        again = (await delivery.store.retry(task.id)).task
        assert (again.queue, _run_of(again).at, _run_of(again).done) == ("demo/a", 0, ())

    # ---- warnings

    async def test_warnings_of_stages_are_the_tasks_and_go_with_its_inputs(
        self, delivery: Delivery
    ) -> None:
        one = TaskWarning(code="typo", message="Read as dragon.")
        two = TaskWarning(code="unknown_subject", message="Nothing known.")
        (task,) = await delivery.submit(a_new_run(*STAGES[:2]))
        passed = await _pass_stage(delivery, A, _text("one", warnings=(one,)))
        assert warnings_of(passed) == warnings_of(await delivery.get(task)) == (one,)
        await _pass_stage(delivery, B, _text("two", warnings=(one, two)))
        assert warnings_of(await delivery.get(task)) == (one, two)
        expiry = Expiry(part=Part.INPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 1
        assert warnings_of(await delivery.get(task)) == ()

    # ---- files

    async def test_files_of_all_stages_go_with_the_outputs(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run(*STAGES[:2]))
        (held,) = await delivery.lease(models=A)
        picture = _picture_of(held)
        await delivery.settle(held, outcome=_text("one", artifacts=(picture,)))
        await _pass_stage(delivery, B)
        await delivery.store.erase(task.id)
        assert picture.key in await delivery.store.discarded()
        bare = await delivery.get(task)
        assert [each.output for each in _run_of(bare).done] == [msgspec.Raw(b"null")] * 2
        assert all(not each.artifacts for each in _run_of(bare).done)
        with pytest.raises(Conflict):
            await delivery.store.retry(task.id)

    async def test_files_that_a_retry_goes_on_from_stay_as_long_as_it(
        self, delivery: Delivery
    ) -> None:
        (task,) = await delivery.submit(a_new_run(*STAGES[:2]))
        (held,) = await delivery.lease(models=A)
        picture = _picture_of(held)
        await delivery.settle(held, outcome=_text("one", artifacts=(picture,)))
        await _pass_stage(delivery, B, a_failure(retryable=False))
        again = (await delivery.store.retry(task.id)).task
        expiry = Expiry(part=Part.OUTPUTS, before=delivery.clock.now())
        assert await delivery.store.retire(expiry) == 1
        gone = await delivery.store.discarded()
        assert picture.key not in gone
        assert not any(picture.key.startswith(each) for each in gone if each.endswith("/"))
        delivery.publish([again])
        await _pass_stage(delivery, B)
        await delivery.store.erase(again.id)
        assert await delivery.store.retire_uploads(delivery.clock.now()) in (0, 1)
        assert picture.key in await delivery.store.discarded()


class PipelineOrderConformance:
    """Which stage is next, to the task."""

    async def test_who_is_half_done_comes_before_what_came_later(self, delivery: Delivery) -> None:
        (task,) = await delivery.submit(a_new_run())
        await delivery.submit(*(a_new_task("demo/b") for _ in range(3)))
        await _pass_stage(delivery, A)
        (held,) = await delivery.lease(models=B)
        assert held.id == task.id

    async def test_the_model_of_a_stage_takes_turns_with_another_model(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_run(Stage(name="only", queue="demo/z")) for _ in range(20)))
        await delivery.submit(*(a_new_task("demo/a") for _ in range(20)))
        both = {"demo/a": "v1", "demo/z": "v1"}
        leases = [await delivery.lease(2, models=both) for _ in range(6)]
        served = [[task.stage_model for task in tasks] for tasks in leases]
        assert served == [["demo/a"] * 2, ["demo/z"] * 2] * 3

    async def test_a_user_with_many_pipelines_delays_nobody_at_a_later_stage(
        self, delivery: Delivery
    ) -> None:
        await delivery.submit(*(a_new_run(user="flood") for _ in range(6)))
        for _ in range(6):
            await _pass_stage(delivery, A)
        await delivery.submit(a_new_task("demo/b", user="ann"))
        served = [(await delivery.lease(models=B))[0].user for _ in range(2)]
        assert "ann" in served


class SharedPipelineConformance:
    """The same, whichever of two backends is asked."""

    async def test_a_stage_that_one_backend_settles_the_other_hands_on(self, pair: Pair) -> None:
        one, two = pair
        (task,) = await one.submit(a_new_run())
        (held,) = await two.lease(models=A)
        (passed,) = await one.settle(held, outcome=_text("one"))
        assert passed is not None
        (held,) = await two.lease(models=B)
        assert (held.id, held.attempt, held.version) == (task.id, 2, "v2")
        assert await one.get(task) == held
        await two.settle(held, outcome=_text("two"))
        (held,) = await one.lease(models=C)
        (ended,) = await two.settle(held, outcome=_text("three"))
        assert ended is not None
        assert ended.state is TaskState.SUCCEEDED
        assert await one.get(task) == await two.get(task) == ended

    async def test_who_goes_on_at_one_backend_is_held_at_the_other(self, pair: Pair) -> None:
        one, two = pair
        await one.submit(a_new_run())
        (held,) = await one.lease(models=A | B)
        told = a_settlement(held, _text("one"))
        (running,) = await two.store.settle([told], _onward(A | B))
        assert running is not None
        assert (running.state, running.attempt) == (TaskState.RUNNING, 2)
        # What the first remembers of it is old, and is not written over that.
        assert await one.store.settle([told], _onward(A | B)) == [running]
        assert await one.lease(models=A | B) == []
        (passed,) = await one.settle(running, outcome=_text("two"))
        assert passed is not None
        assert [each.name for each in _run_of(passed).done] == ["first", "second"]

    async def test_of_two_that_settle_one_stage_at_once_it_is_passed_once(self, pair: Pair) -> None:
        one, two = pair
        tasks = await one.submit(*(a_new_run() for _ in range(10)))
        held = await two.lease(10, models=A)
        told = [a_settlement(task, _text("one")) for task in held]
        await asyncio.gather(*(each.store.settle(told) for each in (one, two)))
        for task in tasks:
            now = await two.get(task)
            assert (now.queue, len(_run_of(now).done)) == ("demo/b", 1)
