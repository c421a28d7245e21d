"""The worker's engine with real model processes, over a backend in this process."""

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import PIL.Image
import psutil
import pytest
from worker_harness import PATIENCE_S, dispatch, output_of, over, picture_of, until, working

from conformance.dispatch import MemoryDispatch
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.errors import InvalidModel, InvalidRequest, NotFound, TooLarge, Unauthenticated
from swell.core.retry import RetryPolicy
from swell.core.task import Succeeded, TaskState
from swell.protocol.worker_messages import (
    Ask,
    Grant,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    Upload,
    Welcome,
)
from swell.runtime.ipc_messages import DEVICE_BROKEN
from swell.runtime.task_run import PREVIEW_EVERY_S
from swell.settings.worker_settings import WorkerSettings
from swell.worker.worker_loop import Worker

__all__ = ["dispatch"]

# --- results -------------------------------------------------------------------------------------


async def test_a_task_comes_back_with_its_output_and_a_seed(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/noop"):
        task = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "hé"}))
    assert output_of(task) == "hé"
    assert task.seed is not None
    assert task.timings is not None


async def test_thousands_of_tasks_come_back_in_batches(dispatch: MemoryDispatch) -> None:
    ids = [await dispatch.submit("demo/noop", {"text": str(n)}) for n in range(3000)]
    async with working(dispatch, "demo/noop"):
        for number, task_id in enumerate(ids):
            assert output_of(await dispatch.ended(task_id)) == str(number)
    assert len(dispatch.reports) < 100
    assert any(report.ask and report.settlements for report in dispatch.reports)


async def test_one_worker_serves_several_models(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/noop", "demo/upper"):
        upper = await dispatch.submit("demo/upper", {"text": "a"})
        noop = await dispatch.submit("demo/noop", {"text": "a"})
        assert output_of(await dispatch.ended(upper)) == "A"
        assert output_of(await dispatch.ended(noop)) == "a"


@pytest.mark.parametrize("enclose_bytes", [0, 1 << 20])
async def test_a_picture_is_stored_before_its_outcome_is_told(
    dispatch: MemoryDispatch, enclose_bytes: int
) -> None:
    dispatch.enclose_bytes = enclose_bytes
    async with working(dispatch, "demo/echo-picture"):
        wish = {"prompt": "fox", "width": 64, "height": 32}
        task = await dispatch.ended(await dispatch.submit("demo/echo-picture", wish, seed=7))
    assert output_of(task) == {"$artifact": 0}
    assert any(each.enclosures for each in dispatch.reports) is (enclose_bytes > 0)
    artifact = task.artifacts[0]
    assert artifact.key == f"outputs/{task.id}/1/0.png"
    assert (artifact.content_type, artifact.width, artifact.height) == ("image/png", 64, 32)
    assert artifact.bytes == len(dispatch.objects[artifact.key][0])
    told = json.loads(picture_of(dispatch, task).text["swell"])
    assert told["seed"] == 7
    assert told["input"] == wish
    assert told["model"] == "demo/echo-picture"
    assert task.timings is not None
    assert task.timings.encode_s > 0


async def test_the_same_seed_gives_the_same_picture(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/echo-picture"):
        ids = [
            await dispatch.submit("demo/echo-picture", {"prompt": "fox"}, seed=seed)
            for seed in (1, 1, 2)
        ]
        tasks = [await dispatch.ended(task_id) for task_id in ids]
    one, again, other = [picture_of(dispatch, task).tobytes() for task in tasks]
    assert one == again != other


async def test_picture_k_of_a_task_has_the_seed_plus_k(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/echo-picture"):
        wish = {"prompt": "fox", "steps": 1}
        several = await dispatch.submit("demo/echo-picture", wish, seed=5, count=3)
        alone = await dispatch.submit("demo/echo-picture", wish, seed=7)
        several_task, alone_task = await dispatch.ended(several), await dispatch.ended(alone)
    assert output_of(several_task) == [{"$artifact": 0}, {"$artifact": 1}, {"$artifact": 2}]
    third, seventh = picture_of(dispatch, several_task, 2), picture_of(dispatch, alone_task)
    assert third.tobytes() == seventh.tobytes()


@pytest.mark.parametrize(("kind", "media"), [("webp", "image/webp"), ("jpeg", "image/jpeg")])
async def test_the_input_may_ask_for_a_format(
    dispatch: MemoryDispatch, kind: str, media: str
) -> None:
    async with working(dispatch, "demo/echo-picture"):
        wish = {"prompt": "a “fox”", "output_format": kind}
        task = await dispatch.ended(await dispatch.submit("demo/echo-picture", wish, seed=3))
    assert task.artifacts[0].content_type == media
    exif = picture_of(dispatch, task).getexif()
    assert json.loads(exif[0x010E])["input"]["prompt"] == "a “fox”"


async def test_progress_and_previews_are_told_in_order(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/echo-picture"):
        wish = {"steps": 20, "step_s": 0.06}
        await dispatch.ended(await dispatch.submit("demo/echo-picture", wish))
    steps = [each.data["step"] for each in dispatch.progress if each.kind == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 20
    assert len(steps) > 3
    places = [each.place for each in dispatch.progress]
    assert places == sorted(set(places))
    preview = next(each for each in dispatch.progress if each.kind == "preview")
    data = base64.b64decode(preview.data["image"].removeprefix("data:image/jpeg;base64,"))
    assert PIL.Image.open(io.BytesIO(data)).size == (64, 64)


async def test_input_files_are_fetched_before_the_model_runs(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "sizes.py"
    file.write_text(
        "import swell\n"
        "@swell.model('test/size')\n"
        "def size(image: swell.Image, more: list[swell.Image] | None = None) -> list[int]:\n"
        "    return [image.pil().width, *(each.pil().width for each in more or [])]\n"
    )
    for width in (3, 5):
        target = io.BytesIO()
        PIL.Image.new("RGB", (width, 4)).save(target, "PNG")
        dispatch.inputs[f"https://example.com/{width}.png"] = (target.getvalue(), "image/png")
    three, five = dispatch.inputs
    uri = "data:image/png;base64," + base64.b64encode(dispatch.inputs[three][0]).decode()
    async with working(dispatch, str(file)):
        good = await dispatch.submit("test/size", {"image": three, "more": [five, uri]})
        gone = await dispatch.submit("test/size", {"image": "https://example.com/no.png"})
        broken = await dispatch.submit("test/size", {"image": "data:image/png;base64,AAAA"})
        assert output_of(await dispatch.ended(good)) == [3, 5, 3]
        missing = await dispatch.ended(gone)
        assert missing.error is not None
        assert missing.error.code == "input_unavailable"
        unreadable = await dispatch.ended(broken)
        assert unreadable.error is not None
        assert unreadable.error.code == "invalid_input"


# --- failures ------------------------------------------------------------------------------------


async def test_a_bad_input_fails_at_once_and_alone(dispatch: MemoryDispatch) -> None:
    bad = await dispatch.submit("demo/noop", {"txt": "a"})
    good = await dispatch.submit("demo/noop", {"text": "a"})
    async with working(dispatch, "demo/noop"):
        failed = await dispatch.ended(bad)
        assert output_of(await dispatch.ended(good)) == "a"
    assert failed.state is TaskState.FAILED
    assert failed.attempt == 1
    assert not failed.dead
    assert failed.error is not None
    assert failed.error.code == "invalid_input"
    assert "/txt" in failed.error.detail


@pytest.mark.parametrize("how", ["raise", "wrong-result"])
async def test_an_exception_is_tried_again_and_ends_among_the_dead(
    dispatch: MemoryDispatch, how: str
) -> None:
    bad = await dispatch.submit("demo/crash", {"how": how, "text": "boom"})
    good = await dispatch.submit("demo/crash", {"how": "not", "text": "fine"})
    async with working(dispatch, "demo/crash"):
        failed = await dispatch.ended(bad)
        assert output_of(await dispatch.ended(good)) == "fine"
    assert failed.attempt == 3
    assert failed.dead
    assert failed.error is not None
    assert failed.error.code == "model_error"
    assert "Traceback" not in failed.error.detail


async def test_an_exception_that_is_raised_fails_the_whole_batch_but_not_its_retries(
    dispatch: MemoryDispatch,
) -> None:
    bad = await dispatch.submit("demo/crash", {"how": "raise-all"})
    good = await dispatch.submit("demo/crash", {"how": "not", "text": "fine"})
    async with working(dispatch, "demo/crash"):
        assert (await dispatch.ended(bad)).dead
        assert output_of(await dispatch.ended(good)) == "fine"


async def test_a_rejected_input_is_not_tried_again(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/crash"):
        wish = {"how": "reject", "text": "no faces, please"}
        task = await dispatch.ended(await dispatch.submit("demo/crash", wish))
    assert task.attempt == 1
    assert task.error is not None
    assert (task.error.code, task.error.detail) == ("rejected", "no faces, please")


@pytest.mark.parametrize("how", ["die", "exit"])
async def test_a_poison_task_ends_among_the_dead_while_its_neighbours_succeed(
    dispatch: MemoryDispatch, how: str
) -> None:
    before = [await dispatch.submit("demo/crash", {"how": "not", "text": str(n)}) for n in range(3)]
    poison = await dispatch.submit("demo/crash", {"how": how})
    after = [await dispatch.submit("demo/crash", {"how": "not", "text": str(n)}) for n in range(9)]
    async with working(dispatch, "demo/crash"):
        neighbours = [await dispatch.ended(task_id) for task_id in before + after]
        dead = await dispatch.ended(poison)
    assert dead.dead
    assert dead.attempt == dead.max_attempts
    assert dead.error is not None
    assert dead.error.code == "model_process_died"
    assert {task.state for task in neighbours} == {TaskState.SUCCEEDED}
    assert {task.attempt for task in neighbours} == {1}


async def test_an_idle_model_process_that_is_killed_is_started_again(
    dispatch: MemoryDispatch,
) -> None:
    async with working(dispatch, "demo/noop") as (worker, _):
        os.kill(worker.models.process.pid, signal.SIGKILL)
        task = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "still"}))
    assert output_of(task) == "still"
    # It may have been handed over to the process before the death was noticed.
    assert task.attempt <= 2


class Gated(MemoryDispatch):
    """Answers who registers only once it is opened."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()

    async def register(self, registration: Registration) -> Welcome:
        self.asked.set()
        await self.opened.wait()
        return await super().register(registration)


async def test_a_model_process_that_dies_while_its_worker_registers_is_started_again() -> None:
    dispatch = Gated()
    worker = Worker(WorkerSettings(name="t"), dispatch, ["demo/noop"], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    await dispatch.asked.wait()
    pid = worker.models.process.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(pid))
    dispatch.opened.set()
    task = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "still"}))
    assert (output_of(task), task.attempt) == ("still", 1)
    worker.release()
    assert await running == 0


async def test_a_worker_whose_models_cannot_be_started_again_ends_before_it_takes_anything(
    tmp_path: Path,
) -> None:
    dispatch = Gated()
    file = tmp_path / "picky.py"
    file.write_text(PICKY)
    worker = Worker(WorkerSettings(name="t"), dispatch, [str(file)], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    await dispatch.asked.wait()
    file.write_text(PICKY + "# other\n")
    os.kill(worker.models.process.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        assert await running == 1
    assert dispatch.leases == []


async def test_no_work_is_asked_for_while_the_model_process_is_started_again(
    dispatch: MemoryDispatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    file = tmp_path / "gated.py"
    file.write_text(GATED.format(gate=str(gate)))
    asked: list[bool] = []
    lease = dispatch.lease

    async def noted(ask: Ask) -> Grant:
        if ask.n:
            asked.append(worker.runner.can_run)
        return await lease(ask)

    async with working(dispatch, str(file), slots=1) as (worker, _):
        monkeypatch.setattr(dispatch, "lease", noted)
        gate.unlink()
        first = await dispatch.submit("test/gated", max_attempts=1)
        await until(lambda: worker.models.state.sent)
        os.kill(worker.models.process.pid, signal.SIGKILL)
        second = await dispatch.submit("test/gated")
        # The report that makes room for the second one does not ask for it either.
        assert (await dispatch.ended(first)).dead
        assert (await dispatch.task(second)).state is TaskState.QUEUED
        gate.touch()
        assert output_of(await dispatch.ended(second)) == "ok"
    assert asked
    assert all(asked)


GATED = """
import os
import time
import swell
from pydantic import BaseModel

class Gated(swell.Model):
    name = "test/gated"

    class Input(BaseModel):
        pass

    def load(self, device):
        while not os.path.exists({gate!r}):
            time.sleep(0.01)

    def run(self, items):
        self.load(None)
        return ["ok" for item in items]
"""

FORKING = """
import os
import time
import swell
from pydantic import BaseModel

class Forking(swell.Model):
    name = "test/forking"

    class Input(BaseModel):
        pass

    def load(self, device):
        self.child = os.fork()
        if self.child == 0:
            time.sleep(1000)

    def run(self, items):
        return [self.child for item in items]
"""


async def test_a_death_is_noticed_while_something_it_forked_lives_and_that_dies_too(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "forking.py"
    file.write_text(FORKING)
    async with working(dispatch, str(file)) as (worker, _):
        first = output_of(await dispatch.ended(await dispatch.submit("test/forking")))
        os.kill(worker.models.process.pid, signal.SIGKILL)
        second = output_of(await dispatch.ended(await dispatch.submit("test/forking")))
        assert first != second
        await over(first)
    await over(second)


UNLOADABLE = """
import swell
from pydantic import BaseModel


class Bad(swell.Model):
    name = "test/bad"

    class Input(BaseModel):
        pass

    def load(self, device):
        raise RuntimeError("no weights here")

    def run(self, items):
        return items
"""


async def test_models_that_cannot_be_loaded_end_the_worker_with_the_reason(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import swell\nraise RuntimeError('no weights here')\n")
    worker = Worker(WorkerSettings(name="t"), dispatch, [str(file)], SystemClock())
    with pytest.raises(InvalidModel, match=r"no weights here \(line 2 of broken.py\)"):
        await worker.run(handle_signals=False)
    assert dispatch.registrations == []


async def test_a_model_that_may_fail_and_cannot_be_loaded_is_left_out_of_what_is_served(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(UNLOADABLE)
    settings = WorkerSettings(name="t", optional=[str(file)])
    worker = Worker(settings, dispatch, [str(file), "demo/upper"], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    await worker.is_up.wait()
    [registration] = dispatch.registrations
    assert [card.name for card in registration.models] == ["demo/upper"]
    first = worker.models.process.pid
    os.kill(first, signal.SIGKILL)
    task = await dispatch.ended(await dispatch.submit("demo/upper", {"text": "again"}))
    assert output_of(task) == "AGAIN", "so it is after its process has died"
    worker.drain()
    assert await running == 0


# --- cancel and deadlines ------------------------------------------------------------------------


async def test_a_task_stops_at_a_step_and_its_model_process_lives_on(
    dispatch: MemoryDispatch,
) -> None:
    settings = {"slots": 1, "cancel_grace_s": 600}
    async with working(dispatch, "demo/echo-picture", **settings) as (worker, _):
        pid = worker.models.process.pid
        # All its steps would take 100 s.
        wish = {"steps": 1000, "step_s": 0.1}
        task_id = await dispatch.submit("demo/echo-picture", wish)
        await dispatch.until(lambda: dispatch.progress)
        await dispatch.cancel(task_id)
        task = await dispatch.ended(task_id)
        assert worker.models.process.pid == pid
    assert task.state is TaskState.CANCELED


async def test_a_task_that_waits_behind_another_is_cancelled_at_once(
    dispatch: MemoryDispatch,
) -> None:
    async with working(dispatch, "demo/echo-picture", slots=2) as (worker, _):
        wish = {"steps": 1000, "step_s": 0.1}
        first = await dispatch.submit("demo/echo-picture", wish)
        second = await dispatch.submit("demo/echo-picture", wish)
        await dispatch.until(lambda: dispatch.progress)
        await until(lambda: len(worker.tasks.held) == 2)
        await dispatch.cancel(second)
        assert (await dispatch.ended(second)).state is TaskState.CANCELED
        assert (await dispatch.task(first)).state is TaskState.RUNNING
        await dispatch.cancel(first)
        await dispatch.ended(first)


async def test_a_task_that_nobody_cancelled_is_not_canceled_by_being_stopped(
    dispatch: MemoryDispatch,
) -> None:
    async with working(dispatch, "demo/echo-picture", slots=1):
        wish = {"steps": 20, "step_s": 0.02}
        task_id = await dispatch.submit("demo/echo-picture", wish)
        await dispatch.until(lambda: dispatch.progress)
        await dispatch.tell_to_stop(task_id)
        task = await dispatch.ended(task_id)
    assert task.state is TaskState.SUCCEEDED
    assert (task.attempt, task.handed_back) == (2, 1)


async def test_leases_of_a_long_task_are_extended(deaf: str) -> None:
    dispatch = MemoryDispatch(SystemClock(), lease_s=6)
    async with working(dispatch, deaf):
        task_id = await dispatch.submit("test/deaf", {"s": 1000})
        await dispatch.until(lambda: dispatch.progress)
        leased = await dispatch.task(task_id)
        held = [each for each in dispatch.reports if each.holds]
        await dispatch.until(lambda: sum(bool(each.holds) for each in dispatch.reports) > len(held))
        extended = await dispatch.task(task_id)
        let_go(deaf)
        task = await dispatch.ended(task_id)
    assert task.state is TaskState.SUCCEEDED
    assert task.attempt == 1
    assert leased.lease_expires_at is not None
    assert extended.lease_expires_at is not None
    assert extended.lease_expires_at > leased.lease_expires_at


DEAF = """
import pathlib
import time
import swell
from pydantic import BaseModel

LET_GO = pathlib.Path(__file__).with_name("let-go")

class Deaf(swell.Model):
    name = "test/deaf"
    batch = swell.Batch(max=4)

    class Input(BaseModel):
        s: float = 0.0
        text: str = ""

    def run(self, items):
        for item in items:
            item.progress(1, 2)
        end_s = time.monotonic() + max(item.input.s for item in items)
        while time.monotonic() < end_s and not LET_GO.exists():
            time.sleep(0.01)
        return [item.input.text for item in items]

class Looks(Deaf):
    name = "test/looks"

    def run(self, items):
        for item in items:
            item.progress(1, 2)
        end_s = time.monotonic() + max(item.input.s for item in items)
        while time.monotonic() < end_s and not LET_GO.exists():
            time.sleep(0.01)
            # As the documentation writes it: the first that goes on ends the question.
            if all(item.cancelled for item in items) and not items[0].input.text:
                break
        return [item.input.text for item in items]

class Checks(Deaf):
    name = "test/checks"

    def run(self, items):
        while True:
            time.sleep(0.01)
            for item in items:
                item.check()
                item.progress(1, 2)
            if LET_GO.exists():
                break
        return [item.input.text for item in items]

@swell.model("test/deaf-function", batch=swell.Batch(max=8))
def deaf(s: float) -> float:
    time.sleep(s)
    return s
"""


@pytest.fixture
def deaf(tmp_path: Path) -> str:
    """A file with models that never look whether they are to stop."""
    file = tmp_path / "deaf.py"
    file.write_text(DEAF)
    return str(file)


def let_go(deaf: str) -> None:
    """Have these models end what they run, and all that comes after, at once."""
    Path(deaf).with_name("let-go").touch()


async def test_a_model_that_does_not_stop_is_killed_and_its_neighbours_lose_nothing(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    ids = [await dispatch.submit("test/deaf", {"s": s, "text": "x"}) for s in (1000, 0, 0, 0)]
    async with working(dispatch, deaf, cancel_grace_s=0.2) as (worker, _):
        await dispatch.until(lambda: len(dispatch.progress) >= 4)
        pid = worker.models.process.pid
        await dispatch.cancel(ids[0])
        assert (await dispatch.ended(ids[0])).state is TaskState.CANCELED
        for task_id in ids[1:]:
            task = await dispatch.ended(task_id)
            assert (output_of(task), task.attempt) == ("x", 1)
        assert worker.models.process.pid != pid


async def test_a_model_that_has_looked_goes_on_for_the_others_of_its_batch(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    ids = [await dispatch.submit("test/looks", {"s": 1000, "text": f"{n}"}) for n in range(3)]
    async with working(dispatch, deaf, cancel_grace_s=2.0) as (worker, _):
        await dispatch.until(lambda: len(dispatch.progress) >= 3)
        pid = worker.models.process.pid
        await dispatch.cancel(ids[2])
        assert (await dispatch.ended(ids[2])).state is TaskState.CANCELED
        assert (await dispatch.task(ids[0])).state is TaskState.RUNNING
        let_go(deaf)
        for number, task_id in enumerate(ids[:2]):
            task = await dispatch.ended(task_id)
            assert (output_of(task), task.attempt) == (str(number), 1)
        assert worker.models.process.pid == pid


async def test_a_model_that_has_looked_is_killed_when_nobody_wants_its_run_any_more(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    ids = [await dispatch.submit("test/looks", {"s": 1000, "text": "x"}) for _ in range(2)]
    async with working(dispatch, deaf, cancel_grace_s=0.1) as (worker, _):
        await dispatch.until(lambda: len(dispatch.progress) >= 2)
        pid = worker.models.process.pid
        for task_id in ids:
            await dispatch.cancel(task_id)
            assert (await dispatch.ended(task_id)).state is TaskState.CANCELED
        assert output_of(await dispatch.ended(await dispatch.submit("test/deaf"))) == ""
        assert worker.models.process.pid != pid


async def test_a_check_that_ends_a_run_cancels_nobody_else(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    ids = [await dispatch.submit("test/checks", {"text": f"{n}"}) for n in range(3)]
    async with working(dispatch, deaf) as (worker, _):
        await dispatch.until(lambda: len(dispatch.progress) >= 3)
        pid = worker.models.process.pid
        await dispatch.cancel(ids[0])
        assert (await dispatch.ended(ids[0])).state is TaskState.CANCELED
        let_go(deaf)
        for number, task_id in enumerate(ids[1:], 1):
            task = await dispatch.ended(task_id)
            assert (output_of(task), task.attempt) == (str(number), 1)
        assert worker.models.process.pid == pid


async def test_a_model_that_goes_on_after_its_deadline_is_killed_too(deaf: str) -> None:
    clock = ManualClock()
    # The shorter leases are, the more often the worker asks whether it still holds them.
    dispatch = MemoryDispatch(clock, lease_s=1)
    async with working(dispatch, deaf, slots=1, cancel_grace_s=0.1):
        late = await dispatch.submit("test/deaf", {"s": 1000}, finish_by_s=3600)
        await dispatch.until(lambda: dispatch.progress)
        next_one = await dispatch.submit("test/deaf", {"text": "x"})
        clock.advance(3600)
        await dispatch.sweep()
        assert (await dispatch.task(late)).state is TaskState.EXPIRED
        assert output_of(await dispatch.ended(next_one)) == "x"


async def test_a_task_that_was_sent_but_not_begun_is_cancelled_at_once(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    async with working(dispatch, deaf, slots=2) as (worker, _):
        # Quick runs make the worker send the next batch ahead.
        for _ in range(3):
            await dispatch.ended(await dispatch.submit("test/deaf"))
        seen = len(dispatch.progress)
        first = await dispatch.submit("test/deaf", {"s": 1000})
        await dispatch.until(lambda: len(dispatch.progress) > seen)
        second = await dispatch.submit("test/deaf")
        await until(lambda: len(worker.tasks.held) == 2)
        await dispatch.cancel(second)
        assert (await dispatch.ended(second)).state is TaskState.CANCELED
        assert (await dispatch.task(first)).state is TaskState.RUNNING
        let_go(deaf)
        assert (await dispatch.ended(first)).attempt == 1


async def test_a_run_that_takes_too_long_fails_its_task_alone(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    hung = await dispatch.submit("test/deaf", {"s": 1000}, max_attempts=1)
    others = [await dispatch.submit("test/deaf", {"text": "x"}) for _ in range(3)]
    async with working(dispatch, deaf, run_limit_s=2.0):
        for task_id in others:
            task = await dispatch.ended(task_id)
            assert (output_of(task), task.attempt) == ("x", 1)
        failed = await dispatch.ended(hung)
    assert failed.dead
    assert failed.error is not None
    assert failed.error.code == "model_timeout"
    assert "than 2 s" in failed.error.detail


async def test_the_limit_is_for_one_run_and_not_for_all_runs_of_a_batch_or_a_task(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    # Fifteen runs of the batch, and, with four samples each, as many of the task.
    ids = [await dispatch.submit("test/deaf-function", {"s": 0.15}, count=3) for _ in range(5)]
    several = await dispatch.submit("test/deaf", {"s": 0.15}, count=60)
    async with working(dispatch, deaf, run_limit_s=2.0, slots=6):
        for task_id in [*ids, several]:
            task = await dispatch.ended(task_id)
            assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 1)


# --- going away ----------------------------------------------------------------------------------


async def test_a_draining_worker_finishes_what_it_holds_and_takes_nothing_new(
    dispatch: MemoryDispatch,
) -> None:
    async with working(dispatch, "demo/echo-picture", slots=1) as (worker, running):
        held = await dispatch.submit("demo/echo-picture", {"steps": 20, "step_s": 0.02})
        await dispatch.until(lambda: dispatch.progress)
        left = await dispatch.submit("demo/echo-picture", {})
        worker.drain()
        assert (await dispatch.ended(held)).state is TaskState.SUCCEEDED
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 0
    assert (await dispatch.task(left)).state is TaskState.QUEUED
    assert dispatch.reports[-1].goodbye


async def test_an_idle_worker_drains_when_the_backend_says_so(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/noop") as (_, running):
        dispatch.drain()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 0
    assert dispatch.reports[-1].goodbye


async def test_a_worker_told_to_go_at_once_hands_its_leases_back(deaf: str) -> None:
    # It waits neither for its tasks, nor for their leases, nor for all the time that it has.
    dispatch = MemoryDispatch(SystemClock(), lease_s=1000)
    async with working(dispatch, deaf, slots=3, handover_s=1000) as (worker, running):
        ids = [await dispatch.submit("test/deaf", {"s": 1000}) for _ in range(3)]
        await dispatch.until(lambda: dispatch.progress)
        worker.drain()
        worker.release()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 0
    tasks = [await dispatch.task(task_id) for task_id in ids]
    assert {task.state for task in tasks} == {TaskState.QUEUED}
    assert {task.attempts_left for task in tasks} == {3}


class Crossing(MemoryDispatch):
    """Hands out a task just before it hears the worker's goodbye."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.crossed = asyncio.Event()
        self.granted: list[LeasedTask] = []

    async def lease(self, ask: Ask) -> Grant:
        if not ask.n:
            return await super().lease(ask)
        await self.crossed.wait()
        return Grant(tasks=self.granted)

    async def report(self, report: Report) -> ReportAnswer:
        if report.goodbye and not self.crossed.is_set():
            self.granted = await self._lease(report.worker_id, self._known(report.worker_id), 1)
            answer = await super().report(report)
            self.crossed.set()
            return answer
        return await super().report(report)


async def test_a_task_that_crosses_the_goodbye_of_its_worker_is_handed_back() -> None:
    dispatch = Crossing()
    async with working(dispatch, "demo/noop") as (worker, running):
        task_id = await dispatch.submit("demo/noop", {"text": "a"})
        worker.release()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 0
    task = await dispatch.task(task_id)
    assert (task.state, task.attempts_left) == (TaskState.QUEUED, task.max_attempts)
    assert dispatch.crossed.is_set()
    assert dispatch.reports[-1].goodbye


class Slow(MemoryDispatch):
    """Has reports arrive late, goodbyes at once, and answers those late."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.is_told = asyncio.Event()

    async def report(self, report: Report) -> ReportAnswer:
        if not report.goodbye:
            self.is_told.set()
            await asyncio.sleep(0.1)
            return await super().report(report)
        answer = await super().report(report)
        await asyncio.sleep(0.3)
        return answer


async def test_a_worker_that_goes_while_a_report_is_open_does_not_register_again() -> None:
    dispatch = Slow()
    async with working(dispatch, "demo/echo-picture") as (worker, running):
        await dispatch.submit("demo/echo-picture", {"steps": 1000, "step_s": 0.001})
        await dispatch.is_told.wait()
        worker.release()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 0
    assert dispatch.reports[-1].goodbye
    assert len(dispatch.registrations) == 1


# --- an unreliable backend -----------------------------------------------------------------------


async def test_results_are_kept_while_the_backend_is_away(
    dispatch: MemoryDispatch, deaf: str
) -> None:
    async with working(dispatch, deaf) as (worker, _):
        task_id = await dispatch.submit("test/deaf", {"s": 1000})
        await dispatch.until(lambda: dispatch.progress)
        dispatch.is_away = True
        let_go(deaf)
        await until(lambda: not worker.tasks.held)
        assert (await dispatch.task(task_id)).state is TaskState.RUNNING
        dispatch.is_away = False
        task = await dispatch.ended(task_id)
    assert task.state is TaskState.SUCCEEDED
    assert task.attempt == 1


async def test_a_report_whose_answer_got_lost_is_told_again(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/noop"):
        dispatch.answers_to_lose = 2
        first = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "1"}))
        second = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "2"}))
    assert (output_of(first), output_of(second)) == ("1", "2")
    assert dispatch.stale == []


class Choosy(MemoryDispatch):
    """Refuses reports that are too large, or that hold what it does not like."""

    def __init__(self, *, limit_bytes: int = 10**9, dislikes: bytes = b"nothing at all") -> None:
        super().__init__(SystemClock())
        self.limit_bytes = limit_bytes
        self.dislikes = dislikes
        self.refused = 0

    async def report(self, report: Report) -> ReportAnswer:
        body = msgspec.json.encode(report)
        if len(body) > self.limit_bytes:
            self.refused += 1
            raise TooLarge(f"at most {self.limit_bytes} bytes are taken")
        if self.dislikes in body:
            self.refused += 1
            raise InvalidRequest("who would say such a thing")
        return await super().report(report)


async def test_a_lease_that_is_told_twice_is_run_once(
    dispatch: MemoryDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = dispatch.lease

    async def twice(ask: Ask) -> Grant:
        grant = await lease(ask)
        return msgspec.structs.replace(grant, tasks=[*grant.tasks, *grant.tasks])

    monkeypatch.setattr(dispatch, "lease", twice)
    async with working(dispatch, "demo/echo-picture"):
        task = await dispatch.ended(await dispatch.submit("demo/echo-picture", {"prompt": "fox"}))
    assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 1)
    told = [each for report in dispatch.reports for each in report.settlements]
    assert [each.outcome.__class__ for each in told] == [Succeeded]


@pytest.mark.parametrize(
    ("limit_bytes", "dislikes", "code", "told"),
    [
        (4000, b"nothing at all", "output_too_large", "at most 4000 bytes"),
        (10**9, b"xxxxx", "output_refused", "such a thing"),
    ],
)
async def test_an_outcome_that_the_backend_refuses_fails_its_task_alone(
    limit_bytes: int, dislikes: bytes, code: str, told: str
) -> None:
    dispatch = Choosy(limit_bytes=limit_bytes, dislikes=dislikes)
    texts = ["a"] * 5 + ["x" * 5000] + ["b"] * 5
    ids = [await dispatch.submit("demo/noop", {"text": text}) for text in texts]
    async with working(dispatch, "demo/noop"):
        tasks = [await dispatch.ended(task_id) for task_id in ids]
        after = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "c"}))
    assert dispatch.refused
    bad = tasks.pop(5)
    assert bad.error is not None
    assert (bad.error.code, bad.attempt, bad.dead) == (code, 1, False)
    assert told in bad.error.detail
    assert {task.attempt for task in tasks} == {1}
    assert [output_of(task) for task in [*tasks, after]] == [*"aaaaabbbbb", "c"]


async def test_an_outcome_that_cannot_be_told_in_any_way_does_not_end_the_worker() -> None:
    dispatch = Choosy()
    hated = await dispatch.submit("demo/noop", {"text": "a"})
    dispatch.dislikes = hated.encode()
    async with working(dispatch, "demo/noop"):
        task = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "b"}))
        assert output_of(task) == "b"
        assert (await dispatch.task(hated)).state is TaskState.RUNNING
        assert dispatch.refused >= 2


async def test_a_worker_whose_token_is_revoked_stops() -> None:
    class Revoking(MemoryDispatch):
        async def report(self, report: Report) -> ReportAnswer:
            raise Unauthenticated("this key is revoked")

    dispatch = Revoking(SystemClock())
    worker = Worker(WorkerSettings(name="t"), dispatch, ["demo/noop"], SystemClock())
    await dispatch.submit("demo/noop", {"text": "a"})
    with pytest.raises(Unauthenticated, match="revoked"):
        await worker.run(handle_signals=False)


async def test_a_file_that_the_backend_finds_too_large_fails_its_task_for_good() -> None:
    class Small(MemoryDispatch):
        async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
            raise TooLarge(f"at most 9 bytes are taken, and these are {len(data)}")

    dispatch = Small(SystemClock())
    dispatch.enclose_bytes = 0
    async with working(dispatch, "demo/echo-picture"):
        task = await dispatch.ended(await dispatch.submit("demo/echo-picture", {"steps": 1}))
    assert task.error is not None
    assert (task.error.code, task.attempt, task.dead) == ("output_too_large", 1, False)
    assert "at most 9 bytes" in task.error.detail


async def test_a_worker_that_was_forgotten_registers_again(dispatch: MemoryDispatch) -> None:
    async with working(dispatch, "demo/noop"):
        dispatch.forget_workers()
        task = await dispatch.ended(await dispatch.submit("demo/noop", {"text": "1"}))
        assert output_of(task) == "1"
    assert len(dispatch.registrations) == 2


async def test_a_worker_without_a_valid_token_stops() -> None:
    class Closed(MemoryDispatch):
        async def register(self, registration: Registration) -> Welcome:
            raise Unauthenticated("this key is not known; make one with `swell keys create`")

    worker = Worker(WorkerSettings(name="t"), Closed(SystemClock()), ["demo/noop"], SystemClock())
    with pytest.raises(Unauthenticated, match="not known"):
        await worker.run(handle_signals=False)


async def test_a_model_that_does_not_exist_ends_the_worker(dispatch: MemoryDispatch) -> None:
    worker = Worker(WorkerSettings(name="t"), dispatch, ["demo/nothing"], SystemClock())
    with pytest.raises(NotFound, match="demo/upper"):
        await worker.run(handle_signals=False)


async def test_a_model_that_keeps_dying_is_started_again_ever_later() -> None:
    dispatch = MemoryDispatch(SystemClock(), retry_policy=RetryPolicy(base_s=0.01, floor_s=0.0))
    async with working(dispatch, "demo/crash"):
        ids = [
            await dispatch.submit("demo/crash", {"how": "exit"}, max_attempts=1) for _ in range(3)
        ]
        for task_id in ids:
            assert (await dispatch.ended(task_id)).dead
        task = await dispatch.ended(await dispatch.submit("demo/crash", {"how": "not"}))
        assert task.state is TaskState.SUCCEEDED


BROKEN = """
from pathlib import Path

import swell
from swell.sdk.model import DeviceBroken

@swell.model("test/broken")
def run(text: str) -> str:
    deaths = Path("{deaths}")
    if len(deaths.read_text()) < {times}:
        deaths.write_text(deaths.read_text() + "x")
        raise DeviceBroken("CUDA error: an illegal memory access was encountered")
    return text
"""


async def test_a_broken_device_is_no_tasks_fault(dispatch: MemoryDispatch, tmp_path: Path) -> None:
    file, deaths = tmp_path / "broken.py", tmp_path / "deaths"
    deaths.touch()
    file.write_text(BROKEN.format(deaths=deaths, times=1))
    async with working(dispatch, str(file)):
        ids = [
            await dispatch.submit("test/broken", {"text": text}, max_attempts=1) for text in "ab"
        ]
        ended = [await dispatch.ended(task_id) for task_id in ids]
    assert [(output_of(task), task.attempt) for task in ended] == [("a", 1), ("b", 1)]
    assert deaths.read_text() == "x"


async def test_a_worker_whose_device_stays_broken_hands_its_tasks_back_and_ends(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file, deaths = tmp_path / "broken.py", tmp_path / "deaths"
    deaths.touch()
    file.write_text(BROKEN.format(deaths=deaths, times=1000))
    ids = [await dispatch.submit("test/broken", {"text": text}) for text in "abcd"]
    worker = Worker(WorkerSettings(name="t"), dispatch, [str(file)], SystemClock())
    async with asyncio.timeout(PATIENCE_S):
        assert await worker.run(handle_signals=False) == DEVICE_BROKEN
    assert deaths.read_text() == "xxx"
    tasks = await dispatch.store.get(ids)
    assert [task.state for task in tasks if task is not None] == [TaskState.QUEUED] * 4


async def test_a_task_that_breaks_the_device_each_time_runs_alone_and_fails(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file, deaths = tmp_path / "broken.py", tmp_path / "deaths"
    deaths.touch()
    file.write_text(BROKEN.format(deaths=deaths, times=2))
    async with working(dispatch, str(file)):
        task_id = await dispatch.submit("test/broken", {"text": "a"}, max_attempts=1)
        task = await dispatch.ended(task_id)
        assert task.dead
        assert task.error is not None
        assert task.error.code == "model_process_died"
        other = await dispatch.ended(await dispatch.submit("test/broken", {"text": "b"}))
    assert output_of(other) == "b"
    assert deaths.read_text() == "xx"


async def test_a_worker_told_to_go_while_it_still_loads_goes_at_once(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "gated.py"
    file.write_text(GATED.format(gate=str(tmp_path / "never")))
    worker = Worker(WorkerSettings(name="t"), dispatch, [str(file)], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    await asyncio.sleep(0)
    worker.drain()
    async with asyncio.timeout(PATIENCE_S):
        assert await running == 0
    assert dispatch.registrations == []


async def test_a_worker_told_to_go_while_the_backend_is_away_goes_at_once() -> None:
    dispatch = Gated()
    dispatch.opened.set()
    dispatch.is_away = True
    worker = Worker(WorkerSettings(name="t"), dispatch, ["demo/noop"], SystemClock())
    running = asyncio.create_task(worker.run(handle_signals=False))
    await dispatch.asked.wait()
    worker.drain()
    async with asyncio.timeout(PATIENCE_S):
        assert await running == 0


PICKY = """
import os
import swell
from pydantic import BaseModel

class Picky(swell.Model):
    name = "test/picky"
    batch = swell.Batch(max=8)

    class Input(BaseModel):
        image: swell.Image
        dies: bool = False

    def run(self, items):
        for item in items:
            if item.input.dies:
                os._exit(1)
            item.preview(lambda: 1 / 0)
        return [item.input.image.pil().width for item in items]
"""


async def test_neighbours_of_a_poison_task_keep_their_input_files(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "picky.py"
    file.write_text(PICKY)
    target = io.BytesIO()
    PIL.Image.new("RGB", (9, 4)).save(target, "PNG")
    dispatch.inputs["https://example.com/a.png"] = (target.getvalue(), "image/png")
    wish = {"image": "https://example.com/a.png"}
    good = [await dispatch.submit("test/picky", wish) for _ in range(3)]
    poison = await dispatch.submit("test/picky", {**wish, "dies": True}, max_attempts=1)
    async with working(dispatch, str(file)):
        for task_id in good:
            # That its preview breaks does not matter either.
            assert output_of(await dispatch.ended(task_id)) == 9
        assert (await dispatch.ended(poison)).dead


async def test_a_model_whose_file_has_changed_is_not_served_under_its_old_version(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "picky.py"
    file.write_text(PICKY)
    async with working(dispatch, str(file)) as (worker, running):
        file.write_text(PICKY + "# other\n")
        os.kill(worker.models.process.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            assert await running == 1
    assert dispatch.reports[-1].goodbye


# --- models that draw in steps -------------------------------------------------------------------


DRAWS = """
import os, pathlib, signal, time
import numpy as np
import swell
from pydantic import BaseModel
from swell.diffusion import checkpoint_writer

# A checkpoint after each step, however short it is.
checkpoint_writer.CHECKPOINT_REST = 0

HOLD = pathlib.Path(__file__).with_name("hold")

class Draws(swell.StepModel):
    name = "test/draws"
    bucket = 4
    rows = 0

    class Input(BaseModel):
        steps: int = 4
        step_s: float = 0.0
        text: str = ""
        poison: float = 0.0

    def prepare(self, item):
        if item.input.text == "wrong":
            raise swell.Reject("no such words")
        return swell.Plan(
            sampler=swell.Sampler("flow_euler", item.input.steps, spacing="even"),
            shape=(2, 3),
            values={"step_s": item.input.step_s, "poison": item.input.poison},
        )

    def denoise(self, x, t, conditions):
        self.rows = max(self.rows, len(set(x[:, 0, 0].tolist())))
        time.sleep(float(conditions["step_s"].max()))
        poison = conditions["poison"]
        if (poison == 5).any():
            pathlib.Path(__file__).with_name("begun").touch()
        if (poison == 1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (poison == 2).any():
            raise ValueError("cannot be drawn")
        if ((poison == 3) & (t < 300)).any():
            pathlib.Path(__file__).with_name("hangs").touch()
            time.sleep(1000)
        while (((poison == 4) & (t < 500)) | (poison == 5)).any() and HOLD.exists():
            time.sleep(0.01)
        return x * np.float32(0.5)

    def decode(self, latents, item):
        pixels = np.full((4, 4, 3), 128 + 50 * latents[0, 0]).clip(0, 255).astype(np.uint8)
        if item.input.text == "picture":
            return swell.Image(pixels)
        return [item.seed, item.index, self.rows, latents.ravel().tolist()]

    def preview(self, latents, item):
        return np.full((4, 4, 3), 128, np.uint8)

@swell.model("test/naps")
def naps(s: float, text: str = "") -> str:
    time.sleep(s)
    return text
"""


@pytest.fixture
def draws(tmp_path: Path) -> str:
    """A file with a model that draws in steps, and one that does not."""
    file = tmp_path / "draws.py"
    file.write_text(DRAWS)
    return str(file)


WARNS = """
import numpy as np
import swell
from pydantic import BaseModel

class Plain(swell.Model):
    name = "test/plain"
    batch = swell.Batch(max=4)

    class Input(BaseModel):
        text: str

    def run(self, items):
        for item in items:
            item.warn("unknown_subject", f"It knows no {item.input.text}.", ["fox"])
        if len(items) > 1:
            raise ValueError("one by one")
        return [item.input.text for item in items]

class Drawn(swell.StepModel):
    name = "test/drawn"

    class Input(BaseModel):
        text: str

    def prepare(self, item):
        item.warn("unknown_subject", f"It knows no {item.input.text}.", ["fox"])
        return swell.Plan(sampler=swell.Sampler("flow_euler", 2, spacing="even"), shape=(2,))

    def denoise(self, x, t, conditions):
        return x

    def decode(self, latents, item):
        item.warn("picture", f"Picture {item.index}: " + "a" * 300)
        return swell.Image(np.zeros((4, 4, 3), np.uint8))
"""


async def test_a_task_keeps_each_warning_of_its_model_once(
    dispatch: MemoryDispatch, tmp_path: Path
) -> None:
    file = tmp_path / "warns.py"
    file.write_text(WARNS)
    async with working(dispatch, str(file)):
        plain = [await dispatch.submit("test/plain", {"text": text}) for text in ("a", "b")]
        drawn = await dispatch.submit("test/drawn", {"text": "é"}, count=2)
        found = [(await dispatch.ended(each)).warnings for each in (*plain, drawn)]
    assert [[each.message for each in some] for some in found[:2]] == [
        ["It knows no a."],
        ["It knows no b."],
    ]
    unknown, *pictures = found[2]
    assert (unknown.message, unknown.suggestions) == ("It knows no é.", ("fox",))
    assert [each.message[:10] for each in pictures] == ["Picture 0:", "Picture 1:"]
    assert {len(each.message) for each in pictures} == {300}


@contextlib.asynccontextmanager
async def held_up(dispatch: MemoryDispatch, draws: str, steps: int) -> AsyncIterator[str]:
    """A task that stands still in its first step until the end of the block, and 20 ms in each."""
    hold, begun = (Path(draws).with_name(name) for name in ("hold", "begun"))
    hold.touch()
    wish = {"steps": steps, "step_s": 0.02, "poison": 5}
    task_id = await dispatch.submit("test/draws", wish)
    await until(begun.exists)
    yield task_id
    hold.unlink()


async def test_tasks_of_many_are_drawn_together_and_join_between_two_steps(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws, cancel_grace_s=600) as (worker, _):
        async with held_up(dispatch, draws, steps=5000) as long:
            short = [await dispatch.submit("test/draws", {"steps": 5}) for _ in "ab"]
            await until(lambda: len(worker.models.state.sent) == 3)
        rows = [output_of(await dispatch.ended(task_id))[2] for task_id in short]
        assert rows[1] == 3
        assert (await dispatch.task(long)).state is TaskState.RUNNING
        await dispatch.cancel(long)
        assert (await dispatch.ended(long)).state is TaskState.CANCELED


async def test_sample_k_is_drawn_with_the_seed_plus_k_whoever_is_drawn_beside_it(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws):
        several = await dispatch.submit("test/draws", {}, seed=5, count=3)
        others = [await dispatch.submit("test/draws", {"steps": n}, seed=n) for n in range(1, 7)]
        drawn = output_of(await dispatch.ended(several))
        for task_id in others:
            await dispatch.ended(task_id)
        alone = output_of(await dispatch.ended(await dispatch.submit("test/draws", {}, seed=7)))
    assert [sample[:2] for sample in drawn] == [[5, 0], [6, 1], [7, 2]]
    assert drawn[2][3] == alone[3]
    assert drawn[1][3] != alone[3]


async def test_a_picture_of_several_tells_its_own_seed_and_all_settings(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws):
        wish = {"text": "picture", "steps": 2}
        task = await dispatch.ended(await dispatch.submit("test/draws", wish, seed=5, count=2))
    told = [json.loads(picture_of(dispatch, task, n).text["swell"]) for n in range(2)]
    assert [each["seed"] for each in told] == [5, 6]
    assert told[1]["input"] == wish
    assert told[1]["settings"] == {"step_s": 0.0, "poison": 0.0}


async def test_progress_of_a_drawn_task_counts_all_its_samples(
    dispatch: MemoryDispatch, draws: str
) -> None:
    hold = Path(draws).with_name("hold")
    hold.touch()
    async with working(dispatch, draws) as (worker, _):
        # It stands still halfway until the model process was told that it is watched.
        wish = {"steps": 12, "step_s": 0.06, "poison": 4}
        task_id = await dispatch.submit("test/draws", wish, count=3)
        state = worker.models.state
        await until(lambda: any(state.is_watched(handle) for handle in state.sent))
        hold.unlink()
        task = await dispatch.ended(task_id)
    told = [each.data for each in dispatch.progress if each.kind == "progress"]
    assert {each["steps"] for each in told} == {36}
    assert [each["step"] for each in told] == sorted(each["step"] for each in told)
    assert told[-1]["fraction"] == 1
    previews = [each.data for each in dispatch.progress if each.kind == "preview"]
    assert task.timings is not None
    assert 1 <= len(previews) <= 1 + task.timings.run_s / PREVIEW_EVERY_S


async def test_many_quick_tasks_tell_no_progress(dispatch: MemoryDispatch, draws: str) -> None:
    ids = [await dispatch.submit("test/draws") for _ in range(100)]
    async with working(dispatch, draws):
        for task_id in ids:
            output_of(await dispatch.ended(task_id))
    assert len(dispatch.progress) < 10


async def test_what_is_wrong_with_one_drawn_task_is_its_own(
    dispatch: MemoryDispatch, draws: str
) -> None:
    inputs = [{"text": "wrong"}, {"poison": 2}, {"odd": 1}, {}, {"steps": 9}]
    ids = [await dispatch.submit("test/draws", each, count=2, max_attempts=1) for each in inputs]
    async with working(dispatch, draws) as (worker, _):
        tasks = [await dispatch.ended(task_id) for task_id in ids]
        pid = worker.models.process.pid
        assert output_of(await dispatch.ended(await dispatch.submit("test/draws", {})))
        assert worker.models.process.pid == pid
    codes = [task.error and task.error.code for task in tasks]
    assert codes == ["rejected", "model_error", "invalid_input", None, None]


@pytest.mark.parametrize("slots", [None, 30])
async def test_a_drawn_task_that_kills_the_model_process_is_found_alone(
    dispatch: MemoryDispatch, draws: str, slots: int | None
) -> None:
    inputs = [{"steps": 5, "step_s": 0.01, "text": str(n)} for n in range(8)]
    ids = [await dispatch.submit("test/draws", each) for each in inputs]
    poison = await dispatch.submit("test/draws", {"poison": 1}, max_attempts=2)
    ids += [await dispatch.submit("test/draws", each) for each in inputs]
    async with working(dispatch, draws, slots=slots):
        tasks = [await dispatch.ended(task_id) for task_id in ids]
        dead = await dispatch.ended(poison)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.SUCCEEDED, 1)}
    assert dead.dead
    assert dead.attempt == 2
    assert dead.error is not None
    assert dead.error.code == "model_process_died"


def steps_of(dispatch: MemoryDispatch, task_id: str) -> list[int]:
    """How far a task was, each time that it was told."""
    return [
        each.data["step"]
        for each in dispatch.progress
        if each.task_id == task_id and each.kind == "progress"
    ]


async def test_a_sample_goes_on_from_its_checkpoint_when_the_model_process_was_killed(
    dispatch: MemoryDispatch, draws: str
) -> None:
    hold = Path(draws).with_name("hold")
    hold.touch()
    async with working(dispatch, draws) as (worker, _):
        # Steps of which each is told, and that stand still halfway until the process was killed.
        wish = {"steps": 12, "step_s": 0.12, "poison": 4}
        task_id = await dispatch.submit("test/draws", wish, seed=3)
        other = await dispatch.submit("test/draws", wish)
        await dispatch.until(lambda: steps_of(dispatch, task_id)[-1:] >= [4])
        at = len(steps_of(dispatch, task_id))
        os.kill(worker.models.process.pid, signal.SIGKILL)
        hold.unlink()
        drawn = output_of(await dispatch.ended(task_id))
        # The step that was in flight is drawn again, and none that was told.
        told = steps_of(dispatch, task_id)
        assert min(told[at:]) >= told[at - 1]
        await dispatch.ended(other)
        through = await dispatch.submit("test/draws", {"steps": 12}, seed=3)
        assert output_of(await dispatch.ended(through))[3] == drawn[3]


async def test_a_step_that_takes_too_long_fails_its_task_alone(
    dispatch: MemoryDispatch, draws: str
) -> None:
    hung = await dispatch.submit("test/draws", {"poison": 3, "steps": 4}, max_attempts=1)
    others = [await dispatch.submit("test/draws", {"step_s": 0.01}) for _ in range(3)]
    async with working(dispatch, draws, run_limit_s=2.0):
        for task_id in others:
            assert (await dispatch.ended(task_id)).attempt == 1
        failed = await dispatch.ended(hung)
    assert failed.error is not None
    assert failed.error.code == "model_timeout"


async def test_a_step_that_does_not_end_after_a_cancellation_is_killed(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws, cancel_grace_s=0.2) as (worker, _):
        pid = worker.models.process.pid
        hung = await dispatch.submit("test/draws", {"poison": 3, "steps": 10, "step_s": 0.02})
        other = await dispatch.submit("test/draws", {"steps": 40})
        await until(Path(draws).with_name("hangs").exists)
        await dispatch.cancel(hung)
        assert (await dispatch.ended(hung)).state is TaskState.CANCELED
        task = await dispatch.ended(other)
        assert (output_of(task)[1], task.attempt) == (0, 1)
        assert worker.models.process.pid != pid


async def test_batches_and_steps_take_turns_in_one_process(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws, slots=20) as (worker, _):
        async with held_up(dispatch, draws, steps=50) as drawn:
            naps = [await dispatch.submit("test/naps", {"s": 0.5}) for _ in range(20)]
            await until(lambda: len(worker.models.state.sent) > 1)
        await dispatch.ended(drawn)
    order = [each.task_id for report in dispatch.reports for each in report.settlements]
    # Half of the time was the steps': naps of ten seconds were not over before a second of steps.
    assert order.index(naps[0]) < order.index(drawn)
    assert naps[-1] not in order[: order.index(drawn)]


async def test_who_dies_in_a_batch_is_blamed_and_not_who_is_drawn_beside_it(
    dispatch: MemoryDispatch, draws: str
) -> None:
    async with working(dispatch, draws, "demo/crash"):
        drawn = await dispatch.submit("test/draws", {"steps": 60, "step_s": 0.02})
        await dispatch.until(lambda: dispatch.progress)
        poison = await dispatch.submit("demo/crash", {"how": "die"}, max_attempts=1)
        dead = await dispatch.ended(poison)
        task = await dispatch.ended(drawn)
    assert dead.error is not None
    assert dead.error.code == "model_process_died"
    assert (task.state, task.attempt) == (TaskState.SUCCEEDED, 1)
