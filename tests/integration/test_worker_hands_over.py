"""What one worker was drawing goes on in another one, with real model processes."""

import asyncio
import io
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from structlog.testing import capture_logs
from worker_harness import PATIENCE_S, until, working

from conformance.dispatch import MemoryDispatch
from swell.core.clock import SystemClock
from swell.core.errors import Unavailable
from swell.core.store_types import Hold
from swell.core.task import Task, TaskState, checkpoint_key
from swell.protocol.worker_messages import Upload
from swell.worker.worker_loop import Worker

#: Writes down each step that it begins: which sample, and where it is. Once there are so many as a
#: file says, it stands still, in that step, for as long as the file is there.
MODEL = """
import contextlib, os, pathlib, time
import numpy as np
import swell
from pydantic import BaseModel
from swell.diffusion import checkpoint_writer

# A checkpoint after each step, however short it is.
checkpoint_writer.CHECKPOINT_REST = 0

STEPS, HOLD = map(pathlib.Path(__file__).with_name, ("steps", "hold"))
LOG = os.open(STEPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def stand_still():
    with contextlib.suppress(FileNotFoundError):
        while STEPS.read_text().count("\\n") >= int(HOLD.read_text()):
            time.sleep(0.005)

class Draws(swell.StepModel):
    name = "test/draws"
    bucket = 4

    class Input(BaseModel):
        who: int = 0
        steps: int = 30
        step_s: float = 0.02
        solver: str = "euler_ancestral"
        seed: int | None = None

    def prepare(self, item):
        asked = item.input
        return swell.Plan(
            sampler=swell.Sampler(asked.solver, asked.steps),
            shape=(4, 4, 4),
            values={"step_s": asked.step_s, "who": float(100 * asked.who + item.index)},
        )

    def denoise(self, x, t, conditions):
        at = {(int(who), round(float(when), 3)) for who, when in zip(conditions["who"], t)}
        os.write(LOG, "".join(f"{who} {when}\\n" for who, when in sorted(at)).encode())
        time.sleep(float(conditions["step_s"].max()))
        stand_still()
        return x * np.float32(0.5)

    def decode(self, latents, item):
        return swell.Image((latents[:3].transpose(1, 2, 0) * 40 + 128).clip(0, 255).astype("u1"))
"""


class Studio:
    """A backend in this process, a model that writes its steps down, and its workers."""

    def __init__(self, folder: Path) -> None:
        self.dispatch = MemoryDispatch(SystemClock())
        self.model = folder / "draws.py"
        self.model.write_text(MODEL)
        self._steps = folder / "steps"
        self._hold = folder / "hold"

    async def submit(
        self,
        who: int,
        seed: int | None = None,
        count: int = 1,
        own_seed: int | None = None,
        **asked: Any,
    ) -> str:
        asked |= {"who": who, "seed": own_seed}
        return await self.dispatch.submit("test/draws", asked, seed=seed, count=count)

    def begun(self) -> Counter[tuple[str, str]]:
        """How often each step of each sample has begun."""
        lines = self._steps.read_text().splitlines() if self._steps.exists() else []
        return Counter((who, at) for who, at in (line.split() for line in lines))

    def redone(self) -> int:
        """How many steps more than once were begun, of the sample that is worst off."""
        extra: Counter[str] = Counter()
        for (who, _), times in self.begun().items():
            extra[who] += times - 1
        return max(extra.values(), default=0)

    def hold(self, after: int) -> int:
        """Have the model stand still once so many more steps have begun; return how many in all.

        To be said before there is anything to draw.
        """
        steps = self.begun().total() + after
        self._hold.write_text(str(steps))
        return steps

    def go_on(self) -> None:
        """Have the model stand still no longer."""
        self._hold.unlink()

    async def drawn(self, steps: int) -> None:
        """Wait until so many steps have begun."""
        await until(lambda: self.begun().total() >= steps)

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncIterator[tuple[Worker, "asyncio.Task[int]"]]:
        """A worker with more time to hand over than any test may take."""
        settings = {"handover_s": 1000} | settings
        async with working(self.dispatch, str(self.model), **settings) as made:
            yield made

    async def handed_over(self, after: int) -> None:
        """Have a worker draw so many steps, and then go at once."""
        steps = self.hold(after)
        async with self.worker() as (worker, running):
            await self.drawn(steps)
            worker.release()
            await asyncio.sleep(0)  # now the model process is told
            self.go_on()
            await gone(running)

    def files(self, tasks: Sequence[Task]) -> list[bytes]:
        return [self.dispatch.objects[file.key][0] for task in tasks for file in task.artifacts]

    def pictures(self, tasks: Sequence[Task]) -> list[PIL.Image.Image]:
        return [PIL.Image.open(io.BytesIO(file)) for file in self.files(tasks)]

    @property
    def checkpoints(self) -> list[str]:
        return [key for key in self.dispatch.objects if key.startswith("checkpoints/")]


async def gone(running: "asyncio.Task[int]") -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert await running == 0


@pytest.fixture
async def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


async def finished(studio: Studio, ids: Sequence[str]) -> list[Task]:
    tasks = [await studio.dispatch.ended(task_id) for task_id in ids]
    assert {task.state for task in tasks} == {TaskState.SUCCEEDED}, [task.error for task in tasks]
    return tasks


async def test_what_a_worker_was_drawing_ends_at_the_same_bits_in_others_with_no_step_redone(
    studio: Studio,
) -> None:
    ids = [
        await studio.submit(1, seed=3),
        await studio.submit(2, seed=4, count=3, solver="dpmpp_2m"),
        await studio.submit(3),
        await studio.submit(4, own_seed=11),
    ]
    for kill in range(3):
        await studio.handed_over(after=random.Random(kill).randint(5, 20))
        held = [await studio.dispatch.task(task_id) for task_id in ids]
        assert {task.state for task in held} == {TaskState.QUEUED}
        assert {task.attempts_left for task in held} == {3}
        # Those of earlier attempts are gone.
        assert sorted(studio.checkpoints) == sorted(t.checkpoint for t in held if t.checkpoint)
    assert any(key.endswith("-3.bin") for key in studio.checkpoints)
    async with studio.worker():
        tasks = await finished(studio, ids)
        assert studio.redone() == 0
        assert studio.checkpoints == []
        again = [
            await studio.submit(1, seed=3),
            await studio.submit(2, seed=4, count=3, solver="dpmpp_2m"),
            await studio.submit(3, seed=tasks[2].seed),
            await studio.submit(4, own_seed=11),
        ]
        through = await finished(studio, again)
    assert studio.files(tasks) == studio.files(through)


async def test_a_finished_sample_of_a_task_is_only_decoded_again(studio: Studio) -> None:
    # Five samples of four rows: one comes last.
    task_id = await studio.submit(1, seed=5, count=5, steps=10)
    await studio.handed_over(after=4 * 10 + 3)
    async with studio.worker():
        tasks = await finished(studio, [task_id])
        assert studio.redone() == 0
        through = await finished(studio, [await studio.submit(1, seed=5, count=5, steps=10)])
    assert studio.files(tasks) == studio.files(through)
    done = [each.data for each in studio.dispatch.progress if each.kind == "progress"]
    assert max(data["fraction"] for data in done) == 1


async def test_at_most_one_step_is_redone_when_the_model_process_is_killed(studio: Studio) -> None:
    asked = {"steps": 15}
    async with studio.worker() as (worker, _):
        drawn = []
        for who in (1, 3, 5):
            steps = studio.hold(3 * random.Random(who).randint(2, 12))
            ids = [
                await studio.submit(who, seed=3, **asked),
                await studio.submit(who + 1, seed=4, count=2, **asked),
            ]
            await studio.drawn(steps)
            os.kill(worker.models.process.pid, signal.SIGKILL)
            studio.go_on()
            drawn.append(await finished(studio, ids))
            assert {task.attempt for task in drawn[-1]} == {1}
            assert studio.redone() <= 1
        again = [
            await studio.submit(9, seed=3, **asked),
            await studio.submit(9, seed=4, count=2, **asked),
        ]
        through = await finished(studio, again)
    told = [[picture.tobytes() for picture in studio.pictures(tasks)] for tasks in drawn]
    assert told == [[picture.tobytes() for picture in studio.pictures(through)]] * 3


async def test_a_task_that_is_alone_goes_on_too_though_it_loses_the_attempt(studio: Studio) -> None:
    steps = studio.hold(after=7)
    task_id = await studio.submit(1, seed=3, steps=15)
    async with studio.worker() as (worker, _):
        await studio.drawn(steps)
        os.kill(worker.models.process.pid, signal.SIGKILL)
        studio.go_on()
        [task] = await finished(studio, [task_id])
        assert (task.attempt, task.attempts_left) == (2, 1)
        assert studio.redone() <= 1
        assert studio.checkpoints == []
        [through] = await finished(studio, [await studio.submit(1, seed=3, steps=15)])
    assert studio.files([task]) == studio.files([through])


@pytest.mark.parametrize("spoiled", ["broken", "empty", "missing", "other seed"])
async def test_what_cannot_be_used_is_drawn_anew_and_no_task_fails(
    studio: Studio, spoiled: str
) -> None:
    task_id = await studio.submit(1, seed=3)
    other = await studio.submit(2, seed=4)
    await studio.handed_over(after=10)
    objects = studio.dispatch.objects
    key = checkpoint_key(task_id, 1)
    data, kind = objects.pop(key)
    if spoiled == "broken":
        objects[key] = (data[:-1] + bytes([data[-1] ^ 1]), kind)
    elif spoiled == "empty":
        objects[key] = (b"", kind)
    elif spoiled == "other seed":
        objects[key] = objects[checkpoint_key(other, 1)]
    with capture_logs() as logs:
        async with studio.worker():
            [task, _] = await finished(studio, [task_id, other])
            [through] = await finished(studio, [await studio.submit(1, seed=3)])
    assert [each["task_id"] for each in logs if "drawing again" in each["event"]] == [task_id]
    assert task.attempt == 2
    assert studio.files([task]) == studio.files([through])


async def test_a_worker_with_another_version_of_the_model_draws_anew(studio: Studio) -> None:
    task_id = await studio.submit(1, seed=3)
    await studio.handed_over(after=10)
    studio.model.write_text(MODEL + "# other\n")
    async with studio.worker():
        [task] = await finished(studio, [task_id])
    assert task.attempt == 2
    assert studio.redone() >= 9


class Clogged(MemoryDispatch):
    """Takes no files, or does not even answer who asks where to put them."""

    def __init__(self, how: str) -> None:
        super().__init__(SystemClock())
        self._how = how

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        if self._how == "hangs":
            await asyncio.Event().wait()
        return await super().uploads(worker_id, hold, keys)

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        if upload.key.startswith("checkpoints/"):
            raise Unavailable("the disk is full")
        await super().put(upload, data, content_type)


@pytest.mark.parametrize("how", ["full", "hangs"])
async def test_leases_are_handed_back_in_time_where_nothing_can_be_stored(
    studio: Studio, how: str
) -> None:
    studio.dispatch = Clogged(how)
    task_id = await studio.submit(1, seed=3, steps=1000)
    async with studio.worker(handover_s=0.5) as (worker, running):
        await studio.drawn(5)
        worker.release()
        # It would be tried for ever.
        await gone(running)
    task = await studio.dispatch.task(task_id)
    assert (task.state, task.checkpoint) == (TaskState.QUEUED, None)
    assert task.attempts_left == task.max_attempts


async def test_a_step_that_takes_too_long_is_not_waited_for_and_what_was_told_is_left(
    studio: Studio,
) -> None:
    steps = studio.hold(after=2)
    task_id = await studio.submit(1, seed=3, steps=3)
    # Half of the time is for the step, which takes for ever.
    async with studio.worker(handover_s=3.0) as (worker, running):
        await studio.drawn(steps)
        worker.release()
        await gone(running)
    studio.go_on()
    assert studio.checkpoints == [checkpoint_key(task_id, 1)]
    async with studio.worker():
        await finished(studio, [task_id])
    assert studio.redone() == 1


async def test_a_draining_worker_hands_over_when_its_time_is_over(studio: Studio) -> None:
    task_id = await studio.submit(1, steps=1000, step_s=0.2)
    async with studio.worker(drain_s=0.2) as (worker, running):
        await studio.drawn(2)
        worker.drain()
        await gone(running)
    task = await studio.dispatch.task(task_id)
    assert (task.state, task.checkpoint) == (TaskState.QUEUED, checkpoint_key(task_id, 1))


async def test_a_task_that_is_canceled_while_it_waits_leaves_nothing(studio: Studio) -> None:
    task_id = await studio.submit(1)
    await studio.handed_over(after=5)
    assert studio.checkpoints
    await studio.dispatch.cancel(task_id)
    assert await studio.dispatch.store.discarded() == studio.checkpoints


async def test_a_worker_that_goes_before_it_draws_leaves_what_was_there(studio: Studio) -> None:
    task_id = await studio.submit(1, seed=3)
    await studio.handed_over(after=5)
    dispatch = studio.dispatch
    fetched = asyncio.Event()

    async def fetch(url: str) -> tuple[bytes, str]:
        fetched.set()
        return await asyncio.Future()

    reading, dispatch.fetch = dispatch.fetch, fetch  # type: ignore[method-assign]
    async with studio.worker() as (worker, running):
        await fetched.wait()
        worker.release()
        await gone(running)
    dispatch.fetch = reading  # type: ignore[method-assign]
    task = await dispatch.task(task_id)
    assert (task.attempt, task.checkpoint) == (2, checkpoint_key(task_id, 1))
    async with studio.worker():
        await finished(studio, [task_id])
    assert studio.redone() == 0
