"""Files that go out before their task ends, by a worker over a backend in this process."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from worker_harness import dispatch, output_of, picture_of, working

from conformance.dispatch import MemoryDispatch
from swell.core.errors import TooLarge
from swell.core.task import Task, TaskState
from swell.protocol.worker_messages import Grant, Progress, Upload

__all__ = ["dispatch"]

MODELS = """
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL.Image
import swell
from pydantic import BaseModel, Field
from swell import ui


class Album(swell.Model):
    name = "test/album"
    Output = list[swell.Image]

    class Input(BaseModel):
        colours: list[str]
        how: str = "whole"

    def run(self, items):
        return [self._one(item) for item in items]

    def _one(self, item):
        album = []
        for colour in item.input.colours:
            time.sleep(0.06)
            album.append(swell.Image(PIL.Image.new("RGB", (8, 8), colour)))
            item.ready(album[-1])
        return album[::-1] if item.input.how == "other" else album


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


@swell.model("test/series")
def series(ctx: swell.Context) -> swell.Image:
    time.sleep(0.06)
    if ctx.index == 1:
        wait_for(Path(__file__).with_name("told"))
    return swell.Image(PIL.Image.new("RGB", (48, 48), (ctx.index, 0, 0)))


@swell.model("test/frail")
def frail(ctx: swell.Context) -> swell.Image:
    time.sleep(0.06)
    path = Path(__file__).with_name("died")
    if ctx.index == 2 and not path.exists():
        wait_for(path.with_name("told"))
        path.touch()
        import os
        os.kill(os.getpid(), 9)
    return swell.Image(PIL.Image.new("RGB", (8, 8), (ctx.seed % 256, ctx.index, 0)))


@swell.model("test/scenes")
def scenes(
    colours: Annotated[list[str], Field(min_length=1, max_length=4), ui.pack()],
    sides: Annotated[list[int], Field(min_length=1, max_length=4), ui.pack()] = [8],
    ctx: swell.Context | None = None,
) -> swell.Image:
    time.sleep(0.06)
    (colour,), (side,) = colours, sides
    return swell.Image(PIL.Image.new("RGB", (side, side), colour))


class Draws(swell.StepModel):
    name = "test/draws"

    class Input(BaseModel):
        levels: Annotated[list[float], Field(min_length=1, max_length=4), ui.pack()]

    def prepare(self, item):
        (item.kept,) = item.input.levels
        return swell.Plan(sampler=swell.Sampler("euler", 3), shape=(2, 2))

    def denoise(self, x, t, conditions):
        time.sleep(0.02)
        return x * np.float32(0.5)

    def decode(self, latents, item):
        return swell.Image(np.full((4, 4, 3), 255 * item.kept, np.uint8))


@swell.model("test/notes")
def notes(text: str) -> dict:
    time.sleep(0.06)
    return {"text": text, "file": swell.File(text.encode(), name="note.txt")}
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    return str(path)


def files_told(dispatch: MemoryDispatch) -> list[Progress]:
    return [each for each in dispatch.progress if each.kind == "artifact"]


def told_as_given(dispatch: MemoryDispatch, task: Task) -> bool:
    """Whether what was told early is what the task has in the same places."""
    return all(
        msgspec.convert(
            {name: value for name, value in each.data.items() if name not in ("index", "seed")},
            type(task.artifacts[0]),
        )
        == task.artifacts[each.data["index"]]
        for each in files_told(dispatch)
    )


@pytest.mark.parametrize("enclose_bytes", [0, 1 << 20])
async def test_pictures_of_a_task_go_out_one_by_one_and_each_once(
    dispatch: MemoryDispatch, models: str, tmp_path: Path, enclose_bytes: int
) -> None:
    dispatch.enclose_bytes = enclose_bytes
    async with working(dispatch, models):
        task_id = await dispatch.submit("test/series", count=4, seed=5)
        await dispatch.until(lambda: files_told(dispatch))
        first = files_told(dispatch)[0]
        assert (await dispatch.task(task_id)).state is TaskState.RUNNING
        assert first.data["key"] in dispatch.objects
        (tmp_path / "told").touch()
        task = await dispatch.ended(task_id)
    told = files_told(dispatch)
    assert [(each.data["index"], each.data["seed"]) for each in told] == [(0, 5), (1, 6), (2, 7)]
    assert told_as_given(dispatch, task)
    assert output_of(task) == [{"$artifact": n} for n in range(4)]
    assert [each.key for each in task.artifacts] == [
        f"outputs/{task_id}/1/{n}.png" for n in range(4)
    ]
    assert [picture_of(dispatch, task, n).size for n in range(4)] == [(48, 48)] * 4
    places = [each.place for each in dispatch.progress]
    assert places == sorted(set(places))


async def test_one_picture_is_told_with_its_task_alone(dispatch: MemoryDispatch) -> None:
    wish = {"steps": 2, "step_s": 0.06}
    async with working(dispatch, "demo/echo-picture"):
        await dispatch.ended(await dispatch.submit("demo/echo-picture", wish))
    assert not files_told(dispatch)


async def test_a_model_tells_pictures_of_its_list_as_they_are_made(
    dispatch: MemoryDispatch, models: str
) -> None:
    async with working(dispatch, models):
        wish = {"colours": ["red", "blue", "lime"]}
        task = await dispatch.ended(await dispatch.submit("test/album", wish, seed=1, count=2))
    told = [(each.data["index"], each.data["seed"]) for each in files_told(dispatch)]
    # The last may come with the result alone: nothing waits for it to be told early.
    assert told in (made := [(n, 1 + n // 3) for n in range(6)], made[:5])
    assert told_as_given(dispatch, task)
    first, second = output_of(task)
    assert (first, second) == (
        [{"$artifact": n} for n in range(3)],
        [{"$artifact": n} for n in range(3, 6)],
    )
    colours = [picture_of(dispatch, task, n).getpixel((0, 0)) for n in range(3)]
    assert colours == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


async def test_each_element_of_a_pack_is_a_sample_of_its_own(
    dispatch: MemoryDispatch, models: str
) -> None:
    async with working(dispatch, models):
        wish = {"colours": ["red", "blue"], "sides": [8, 6]}
        task_id = await dispatch.submit("test/scenes", wish, seed=5, count=2)
        task = await dispatch.ended(task_id)
        wrong = await dispatch.ended(await dispatch.submit("test/scenes", {"colours": []}))
    told = [(each.data["index"], each.data["seed"]) for each in files_told(dispatch)]
    assert told == [(n, 5 + n) for n in range(7)]
    files = [{"$artifact": n} for n in range(8)]
    assert output_of(task) == [files[:4], files[4:]]
    seen = [picture_of(dispatch, task, n) for n in range(4)]
    assert [(each.size, each.getpixel((0, 0))) for each in seen] == [
        *(((8, 8), (255, 0, 0)), ((6, 6), (255, 0, 0))),
        *(((8, 8), (0, 0, 255)), ((6, 6), (0, 0, 255))),
    ]
    assert (wrong.state, wrong.error and wrong.error.code) == (TaskState.FAILED, "invalid_input")


async def test_a_pack_that_is_drawn_in_steps_is_a_list_of_one_picture_too(
    dispatch: MemoryDispatch, models: str
) -> None:
    async with working(dispatch, models):
        task = await dispatch.ended(await dispatch.submit("test/draws", {"levels": [0, 1]}))
        one = await dispatch.ended(await dispatch.submit("test/draws", {"levels": [1]}))
    seen = [picture_of(dispatch, task, n).getpixel((0, 0)) for n in range(2)]
    assert seen == [(0, 0, 0), (255, 255, 255)]
    assert output_of(one) == [{"$artifact": 0}]


async def test_a_result_without_what_was_told_before_fails(
    dispatch: MemoryDispatch, models: str
) -> None:
    async with working(dispatch, models):
        wish = {"colours": ["red", "blue"], "how": "other"}
        task = await dispatch.ended(await dispatch.submit("test/album", wish, max_attempts=1))
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert "ready()" in task.error.detail


async def test_what_a_model_process_makes_again_is_not_told_again(
    dispatch: MemoryDispatch, models: str, tmp_path: Path
) -> None:
    async with working(dispatch, models):
        task_id = await dispatch.submit("test/frail", count=4)
        await dispatch.until(lambda: len(files_told(dispatch)) == 2)
        (tmp_path / "told").touch()
        task = await dispatch.ended(task_id)
    # Alone in the process, it is to blame: the next attempt makes its own.
    assert task.attempt == 2
    told = [(each.attempt, each.data["index"]) for each in files_told(dispatch)]
    assert told == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert all("/2/" in each.key for each in task.artifacts)
    seeds = {picture_of(dispatch, task, n).getpixel((0, 0))[0] - n for n in range(4)}  # type: ignore[index]
    assert {seed % 256 for seed in seeds} == {(task.seed or 0) % 256}


async def test_what_is_no_list_of_files_comes_with_its_task_under_names_of_its_own(
    dispatch: MemoryDispatch, models: str
) -> None:
    async with working(dispatch, models):
        task = await dispatch.ended(await dispatch.submit("test/notes", {"text": "a"}, count=3))
    assert not files_told(dispatch)
    assert [each.key.rpartition("/")[2] for each in task.artifacts] == [
        *("note.txt", "1-note.txt", "2-note.txt")
    ]


class _Full(MemoryDispatch):
    """A backend that takes no second file."""

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        if upload.key.endswith("/1.png"):
            raise TooLarge("too large on purpose")
        await super().put(upload, data, content_type)


async def test_a_file_that_cannot_be_stored_fails_the_task_and_nothing_after_it_is_told(
    dispatch: MemoryDispatch,
) -> None:
    full = _Full(dispatch.clock)
    full.enclose_bytes = 0
    async with working(full, "demo/echo-picture"):
        wish = {"steps": 1, "step_s": 0.25, "width": 48, "height": 48}
        task = await full.ended(await full.submit("demo/echo-picture", wish, count=4))
    assert (task.state, task.error and task.error.code) == (TaskState.FAILED, "output_too_large")
    assert [each.data["index"] for each in files_told(full)] == [0]


class _Staged(MemoryDispatch):
    """A backend whose tasks are stages of pipelines."""

    async def lease(self, ask: Any) -> Grant:
        grant = await super().lease(ask)
        tasks = [msgspec.structs.replace(each, is_stage=True) for each in grant.tasks]
        return msgspec.structs.replace(grant, tasks=tasks)


async def test_files_of_a_stage_go_out_and_are_not_told(dispatch: MemoryDispatch) -> None:
    staged = _Staged(dispatch.clock)
    async with working(staged, "demo/echo-picture"):
        wish = {"steps": 2, "step_s": 0.04}
        task = await staged.ended(await staged.submit("demo/echo-picture", wish, count=3))
    assert len(task.artifacts) == 3
    assert not files_told(staged)
