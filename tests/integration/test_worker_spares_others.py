"""What goes wrong costs nobody else, and nothing that is done already."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from worker_harness import dispatch, output_of, restarted, until, working

from conformance.dispatch import MemoryDispatch
from swell.core.task import Failed, TaskState
from swell.worker import model_supervisor, task_runner
from swell.worker.worker_loop import Worker

__all__ = ["dispatch"]

MODELS = """
import os, pathlib, time
import PIL.Image
import swell
from pydantic import BaseModel

class Pictures(swell.Model):
    name = "test/pictures"

    class Input(BaseModel):
        side: int = 1024
        dies: bool = False
        s: float = 0.0

    def run(self, items):
        asked = items[0].input
        if asked.dies:
            os._exit(7)
        time.sleep(asked.s)
        return [PIL.Image.new("RGB", (asked.side, asked.side)) for _ in items]

class Other(swell.Model):
    name = "test/other"
    memory_bytes = 1000

    class Input(BaseModel):
        pass

    def run(self, items):
        return [1 for _ in items]

class Dies(Other):
    name = "test/dies"

    def load(self, device):
        time.sleep(4)

    def run(self, items):
        time.sleep(0.1)
        os._exit(3)

class Sizes(swell.Model):
    name = "test/sizes"
    batch = swell.Batch(max=8)

    class Input(BaseModel):
        file: swell.File | None = None
        waits: bool = False

    def run(self, items):
        while items[0].input.waits and not pathlib.Path(__file__).with_name("gate").exists():
            time.sleep(0.01)
        return [[len(items), len(item.input.file.read()) if item.input.file else 0]
                for item in items]
"""

OPTIONAL = """
import pathlib
import swell
from pydantic import BaseModel

class Optional(swell.Model):
    name = "test/optional"

    class Input(BaseModel):
        pass

    def load(self, device):
        here = pathlib.Path(__file__)
        if here.with_name("busy").exists():
            with here.with_name("refused").open("a") as file:
                file.write("x")
            raise RuntimeError("somebody else has the memory")

    def run(self, items):
        return [2 for _ in items]
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    return file


def ref(file: Path, name: str) -> str:
    return f"{file}:{name}"


async def at_work(worker: Worker) -> None:
    """Wait until the model process has something."""
    await until(lambda: worker.models.state.sent)


async def test_a_picture_that_is_done_is_kept_while_the_backend_is_away(
    dispatch: MemoryDispatch, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    uploads = dispatch.uploads

    async def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await uploads(*args)

    monkeypatch.setattr(dispatch, "uploads", counted)
    monkeypatch.setattr("swell.worker.task_results.MAX_TRIES", 2)
    dispatch.enclose_bytes = 0
    async with working(dispatch, ref(models, "Pictures")) as (worker, _):
        task_id = await dispatch.submit("test/pictures", {"s": 0.5}, max_attempts=1)
        await at_work(worker)
        dispatch.is_away = True
        await until(lambda: asked >= 4)
        dispatch.is_away = False
        task = await dispatch.ended(task_id)
    assert task.state is TaskState.SUCCEEDED, task.error


async def test_who_had_finished_is_not_to_blame_for_the_death_of_the_next(
    dispatch: MemoryDispatch, models: Path
) -> None:
    async with working(dispatch, ref(models, "Pictures"), slots=4) as (worker, _):
        for _ in range(3):
            # Quick ones, after which it gets two at once.
            for _ in range(3):
                await dispatch.ended(await dispatch.submit("test/pictures", {"side": 16}))
            good, bad = [
                await dispatch.submit("test/pictures", {"dies": dies}, max_attempts=1)
                for dies in (False, True)
            ]
            assert (await dispatch.ended(good)).state is TaskState.SUCCEEDED
            assert (await dispatch.ended(bad)).state is TaskState.FAILED
            await until(lambda: worker.runner.can_run)


async def test_time_of_a_load_is_not_charged_to_who_dies_after_it(
    dispatch: MemoryDispatch, models: Path
) -> None:
    refs = ref(models, "Other"), ref(models, "Dies")
    async with working(dispatch, *refs, device_memory_bytes=1500):
        await dispatch.ended(await dispatch.submit("test/other"))
        task_id = await dispatch.submit("test/dies", max_attempts=1)
        assert (await dispatch.ended(task_id)).state is TaskState.FAILED
    [outcome] = [
        each.outcome
        for report in dispatch.reports
        for each in report.settlements
        if each.task_id == task_id
    ]
    assert isinstance(outcome, Failed)
    assert outcome.timings.device_s is not None
    assert outcome.timings.device_s < 4


async def test_a_model_that_was_left_out_and_loads_now_is_left_to_the_next_worker(
    dispatch: MemoryDispatch, models: Path, tmp_path: Path
) -> None:
    optional = tmp_path / "optional.py"
    optional.write_text(OPTIONAL)
    (tmp_path / "busy").touch()
    refs = ref(models, "Other"), str(optional)
    async with working(dispatch, *refs, optional=[str(optional)]) as (worker, running):
        (tmp_path / "busy").unlink()
        await restarted(worker)
        task = await dispatch.ended(await dispatch.submit("test/other"))
        assert output_of(task) == 1
        assert not running.done()


async def test_a_model_that_does_not_load_at_once_is_tried_again(
    dispatch: MemoryDispatch, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_supervisor, "MAX_BOOT_DEATHS", 50)
    optional = tmp_path / "optional.py"
    optional.write_text(OPTIONAL)
    refs = ref(models, "Other"), str(optional)
    async with working(dispatch, *refs, optional=[str(optional)]) as (worker, running):
        (tmp_path / "busy").touch()
        os.kill(worker.models.process.pid, signal.SIGKILL)
        refused = tmp_path / "refused"
        await until(lambda: refused.exists() and len(refused.read_text()) >= 2)
        (tmp_path / "busy").unlink()
        task = await dispatch.ended(await dispatch.submit("test/optional"))
        assert output_of(task) == 2
        assert not running.done()


async def test_files_of_a_task_that_was_cancelled_are_held_no_longer(
    dispatch: MemoryDispatch, models: Path
) -> None:
    url = "data:application/octet-stream;base64,AAAA"
    async with working(dispatch, ref(models, "Sizes"), slots=2) as (worker, _):
        long = await dispatch.submit("test/sizes", {"waits": True})
        await at_work(worker)
        task_id = await dispatch.submit("test/sizes", {"file": url})
        await until(lambda: task_id in worker.tasks.held and worker.runner._queue)
        held = worker.tasks.held[task_id]
        held.files = {"https://files.example/a": (b"bytes", "text/plain")}
        await dispatch.cancel(task_id)
        await until(lambda: task_id not in worker.tasks.held)
        assert held.files == {}
        models.with_name("gate").touch()
        assert output_of(await dispatch.ended(long)) == [1, 0]


async def test_of_a_batch_only_so_many_go_together_as_their_files_have_room(
    dispatch: MemoryDispatch, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "MAX_INPUT_FILES_BYTES", 7000)
    async with working(dispatch, ref(models, "Sizes"), slots=9) as (worker, _):
        first = await dispatch.submit("test/sizes", {"waits": True})
        await at_work(worker)
        ids = [await dispatch.submit("test/sizes", {}) for _ in range(5)]
        await until(lambda: worker.tasks.held.keys() >= set(ids))
        for task_id in ids:
            worker.tasks.held[task_id].files = {"x": (bytes(3000), "text/plain")}
        models.with_name("gate").touch()
        await dispatch.ended(first)
        ended = [output_of(await dispatch.ended(task_id)) for task_id in ids]
    assert [count for count, _ in ended] == [2, 2, 2, 2, 1]
