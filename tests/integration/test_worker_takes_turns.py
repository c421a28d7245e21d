"""Several models on a device that holds one or two of them, with real model processes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_harness import dispatch, output_of, picture_of, working

from conformance.dispatch import MemoryDispatch
from swell.core.startup_phases import Phase, StartupKind, StartupState
from swell.core.task import Task, TaskState
from swell.protocol.worker_messages import Switches
from swell.sdk.context import Item
from swell.sdk.define import Definition
from swell.sdk.model import Model
from swell.sdk.model_loader import load_models

__all__ = ["dispatch"]

MODELS = '''
import numpy as np
import swell
from pydantic import BaseModel

SIDE = 768
#: Names of those whose weights are in memory.
HERE = set()

class Painter(swell.StepModel):
    """Draws with a matrix of its own; a row's result depends on that row alone."""

    Output = swell.Image
    number = 0
    memory_bytes = SIDE * SIDE * 4

    class Input(BaseModel):
        steps: int = 4

    def load(self, device):
        rng = np.random.default_rng(self.number)
        self.weights = rng.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5
        HERE.add(self.name)

    def warmup(self):
        self.denoise(np.zeros((2, 4, 8, 8), np.float32), np.zeros(2, np.float32), {})

    def prepare(self, item):
        return swell.Plan(sampler=swell.Sampler("flow_euler", item.input.steps), shape=(4, 8, 8))

    def denoise(self, x, t, conditions):
        wide = [np.resize(row, SIDE) for row in x]
        said = [np.tanh(self.weights @ row)[:256].reshape(4, 8, 8) for row in wide]
        return np.stack(said).astype(np.float32)

    def decode(self, latents, item):
        # Needs the device once more.
        shown = (self.weights[:256, :256] @ latents.reshape(256)).reshape(4, 8, 8)
        pixels = (shown[:3] * 60 + 128).clip(0, 255).astype(np.uint8)
        return swell.Image(pixels.transpose(1, 2, 0).copy())

class Kept(Painter):
    """Waits in the host's memory."""

    def load(self, device):
        super().load(device)
        self.copy = self.weights.copy()

    def offload(self):
        self.weights = None
        HERE.discard(self.name)
        return self.copy.nbytes

    def onload(self):
        self.weights = self.copy.copy()
        HERE.add(self.name)

class One(Kept):
    name, number = "test/one", 1

class Two(Kept):
    name, number = "test/two", 2

class Three(Painter):
    name, number = "test/three", 3

class Whole(swell.Model):
    """Runs whole requests."""

    name = "test/whole"
    memory_bytes = SIDE * SIDE * 4

    class Input(BaseModel):
        n: int = 1

    def load(self, device):
        self.factor = 2

    def run(self, items):
        return [item.input.n * self.factor for item in items]

class Whole2(Whole):
    name = "test/whole-2"

class Broken(Whole):
    name = "test/broken"

    def load(self, device):
        raise RuntimeError("no such weights")

class Greedy(Whole):
    """Finds no memory as long as others are there, whatever the budget says."""

    name = "test/greedy"
    memory_bytes = 1

    def load(self, device):
        super().load(device)
        if HERE:
            raise MemoryError("no memory left")
'''

ONE_MODEL = 768 * 768 * 4


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "residents.py"
    path.write_text(MODELS)
    return path


def refs(models: Path, *names: str) -> list[str]:
    return [f"{models}:{name}" for name in names]


def made(definition: Definition) -> Model:
    model = definition.make()
    model.load("cpu")
    return model


def alone(model: Model, wish: dict[str, Any], seed: int) -> np.ndarray:
    """What the model draws by itself."""
    item = Item(model.Input(**wish), seed=seed)
    (result,) = model.run([item])
    return np.asarray(result.pil())


def drawn(dispatch: MemoryDispatch, task: Task) -> np.ndarray:
    assert task.state is TaskState.SUCCEEDED, task.error
    return np.asarray(picture_of(dispatch, task))


def switches(dispatch: MemoryDispatch) -> dict[str, Switches]:
    """What the worker has told by now."""
    told = [report.switches for report in dispatch.reports if report.switches]
    return {each.model: each for each in told[-1]} if told else {}


def count(told: dict[str, Switches]) -> int:
    return sum(each.disk + each.host for each in told.values())


@pytest.mark.parametrize("fit", [1, 2])
async def test_pictures_are_the_same_bits_and_models_change_less_often_than_tasks(
    dispatch: MemoryDispatch, models: Path, fit: int
) -> None:
    names = ["test/one", "test/two", "test/three"]
    wishes = [(names[n % 3], {"steps": 2 + n % 4}, n) for n in range(30)]
    ids = [await dispatch.submit(name, wish, seed=seed) for name, wish, seed in wishes]
    paths = refs(models, "One", "Two", "Three")
    async with working(dispatch, *paths, device_memory_bytes=fit * ONE_MODEL) as (worker, _):
        assert len(worker.models.residents) == fit
        tasks = [await dispatch.ended(task_id) for task_id in ids]
    by_name = {each.name: made(each) for path in paths for each in load_models(path)}
    for task, (name, wish, seed) in zip(tasks, wishes, strict=True):
        assert (drawn(dispatch, task) == alone(by_name[name], wish, seed)).all()
    told = switches(dispatch)
    # In order of arrival each task but the first would change the model, with room for one.
    assert 3 - fit <= count(told) <= len(ids) // 3
    assert not (told.get("test/three") or Switches(model="")).host
    waited = [task.timings.load_s for task in tasks if task.timings]
    assert max(waited) > 0


async def test_a_model_comes_back_from_the_host_where_it_can_wait_there(
    dispatch: MemoryDispatch, models: Path
) -> None:
    paths = refs(models, "One", "Two")
    async with working(dispatch, *paths, device_memory_bytes=ONE_MODEL):
        for name in ("test/one", "test/two", "test/one", "test/two"):
            drawn(dispatch, await dispatch.ended(await dispatch.submit(name, {})))
        await dispatch.ended(await dispatch.submit("test/two", {}))
    told = switches(dispatch)
    assert told["test/one"] == Switches(model="test/one", host=1)
    assert told["test/two"] == Switches(model="test/two", disk=1, host=1)
    assert {tuple(report.residents or ()) for report in dispatch.reports} == {
        ("test/one",),
        ("test/two",),
    }


async def test_each_switch_is_told_with_its_phases_and_apart_from_the_cold_start(
    dispatch: MemoryDispatch, models: Path
) -> None:
    paths = refs(models, "One", "Two", "Broken")
    async with working(dispatch, *paths, device_memory_bytes=ONE_MODEL, optional=paths[2:]) as (
        worker,
        _,
    ):
        for name in ("test/one", "test/two", "test/one", "test/broken"):
            await dispatch.ended(await dispatch.submit(name, {}))
        assert worker.runner.can_run
    told = {each.id: each for report in dispatch.reports for each in report.startups}
    [cold] = [each for each in told.values() if each.kind is StartupKind.COLD]
    assert cold.state is StartupState.DONE
    assert {s.model for s in cold.spans if s.phase == Phase.LOAD} == {"test/one"}
    assert cold.id == dispatch.startups[0].id
    told_of = [
        (each.models, each.state, [(s.phase, s.source, s.end_s is None) for s in each.spans])
        for each in told.values()
        if each.kind is StartupKind.SWITCH
    ]
    done, died = StartupState.DONE, StartupState.DIED
    # Three attempts.
    broken = (["test/broken"], died, [(Phase.LOAD, "disk", True)])
    assert told_of == [
        (["test/two"], done, [(Phase.LOAD, "disk", False), (Phase.WARM, "", False)]),
        (["test/one"], done, [(Phase.LOAD, "host", False)]),
        *[broken] * 3,
    ]
    for each in told.values():
        assert all(0 <= s.start_s <= (s.end_s or each.age_s) <= each.age_s for s in each.spans)


async def test_a_model_is_loaded_anew_where_the_host_has_no_room_for_it(
    dispatch: MemoryDispatch, models: Path
) -> None:
    paths = refs(models, "One", "Two")
    budgets = {"device_memory_bytes": ONE_MODEL, "host_memory_bytes": 0}
    async with working(dispatch, *paths, **budgets):
        for name in ("test/two", "test/one", "test/two", "test/two"):
            drawn(dispatch, await dispatch.ended(await dispatch.submit(name, {})))
    assert switches(dispatch)["test/two"] == Switches(model="test/two", disk=2)


async def test_batches_and_steps_take_turns_on_a_device_that_holds_one_model(
    dispatch: MemoryDispatch, models: Path
) -> None:
    paths = refs(models, "One", "Whole", "Whole2")
    names = ["test/whole", "test/one", "test/whole-2"]
    async with working(dispatch, *paths, device_memory_bytes=ONE_MODEL):
        ids = [await dispatch.submit(names[n % 3], {}) for n in range(30)]
        tasks = [await dispatch.ended(task_id) for task_id in ids]
    by_state = Counter(task.state for task in tasks)
    assert by_state == {TaskState.SUCCEEDED: 30}
    assert {output_of(task) for task in tasks if task.model != "test/one"} == {2}
    assert count(switches(dispatch)) < 30


@pytest.mark.parametrize(("bad", "good"), [("Broken", "One"), ("Broken", "Whole")])
async def test_a_model_that_cannot_be_loaded_fails_its_own_tasks_only(
    dispatch: MemoryDispatch, models: Path, bad: str, good: str
) -> None:
    fine = {"One": "test/one", "Whole": "test/whole"}[good]
    paths = refs(models, good, bad)
    async with working(dispatch, *paths, device_memory_bytes=ONE_MODEL) as (worker, running):
        pid = worker.models.process.pid
        failing = [await dispatch.submit("test/broken", {}, max_attempts=1) for _ in range(3)]
        working_ids = [await dispatch.submit(fine, {}) for _ in range(3)]
        failed = [await dispatch.ended(task_id) for task_id in failing]
        assert {(await dispatch.ended(each)).state for each in working_ids} == {TaskState.SUCCEEDED}
        assert not running.done()
        assert worker.models.process.pid == pid
    for task in failed:
        assert task.error is not None
        assert task.error.code == "model_load_failed"
        assert "no such weights" in task.error.detail


async def test_where_the_device_has_less_memory_than_was_said_one_more_leaves(
    dispatch: MemoryDispatch, models: Path
) -> None:
    paths = refs(models, "One", "Greedy")
    async with working(dispatch, *paths, device_memory_bytes=10 * ONE_MODEL) as (worker, _):
        assert worker.models.residents == ["test/one"]
        assert output_of(await dispatch.ended(await dispatch.submit("test/greedy", {"n": 4}))) == 8
        drawn(dispatch, await dispatch.ended(await dispatch.submit("test/one", {})))
        await dispatch.ended(await dispatch.submit("test/one", {}))
    assert switches(dispatch)["test/greedy"] == Switches(model="test/greedy", disk=1)
    assert switches(dispatch)["test/one"].host == 1


async def test_a_run_limit_does_not_count_what_loading_takes(
    dispatch: MemoryDispatch, models: Path
) -> None:
    slow = (
        MODELS
        + """
class Slow(Whole):
    name = "test/slow"

    def load(self, device):
        super().load(device)
        import time
        time.sleep(3.1)
"""
    )
    models.write_text(slow)
    paths = refs(models, "Whole", "Slow")
    limits = {"device_memory_bytes": ONE_MODEL, "run_limit_s": 3.0, "cancel_grace_s": 0.05}
    async with working(dispatch, *paths, **limits) as (worker, _):
        pid = worker.models.process.pid
        task = await dispatch.ended(await dispatch.submit("test/slow", {"n": 3}))
        assert worker.models.process.pid == pid
    assert output_of(task) == 6
    assert task.timings is not None
    assert task.timings.load_s >= 3
    assert task.timings.run_s < 3


async def test_without_a_budget_all_models_stay(dispatch: MemoryDispatch, models: Path) -> None:
    async with working(dispatch, *refs(models, "One", "Two", "Three")) as (worker, _):
        assert set(worker.models.residents) == {"test/one", "test/two", "test/three"}
        for name in ("test/one", "test/two", "test/three"):
            drawn(dispatch, await dispatch.ended(await dispatch.submit(name, {})))
    assert {report.residents for report in dispatch.reports} == {None}
    assert switches(dispatch) == {}


async def test_the_built_in_model_shares_its_device_with_another(
    dispatch: MemoryDispatch, models: Path
) -> None:
    pytest.importorskip("onnxruntime")
    wish = {"prompt": "a red fox in the snow", "steps": 3, "size": 128}
    paths = [*refs(models, "One"), "swell/icons"]
    async with working(dispatch, *paths, device_memory_bytes=ONE_MODEL):
        icons = [await dispatch.submit("swell/icons", wish, seed=seed) for seed in (1, 2)]
        others = [await dispatch.submit("test/one", {}, seed=seed) for seed in (1, 2)]
        pictures = [drawn(dispatch, await dispatch.ended(each)) for each in icons]
        for each in others:
            drawn(dispatch, await dispatch.ended(each))
    (definition,) = load_models("swell/icons")
    model = made(definition)
    for seed, picture in zip((1, 2), pictures, strict=True):
        assert (picture == alone(model, wish, seed)).all()
    assert 1 <= count(switches(dispatch)) <= 2
