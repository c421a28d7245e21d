"""How often the model process leaves checkpoints, on a clock that stands still between steps."""

import gc
import itertools
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from manual_clock import ManualClock
from swell.diffusion.batch_buffers import SampleState
from swell.diffusion.checkpoint_writer import CHECKPOINT_EVERY_S
from swell.diffusion.step_runner import StepRunner
from swell.runtime.checkpoint_shm import CheckpointMemory, decode_checkpoint, new_slate, read_slate
from swell.runtime.ipc import Pipe
from swell.runtime.ipc_messages import (
    HEAD_BYTES,
    HandedOver,
    Load,
    Order,
    Part,
    Results,
    Step,
    decode_frame,
)
from swell.runtime.model_residency import Device
from swell.runtime.task_run import Reader
from swell.sdk.context import Cancelled, Item
from swell.sdk.model_loader import load_models
from swell.sdk.step_model import HostArrays, StepModel

MODEL = """
import numpy as np
import swell
from pydantic import BaseModel

class Draws(swell.StepModel):
    name = "test/draws"
    at_step = staticmethod(lambda: None)

    class Input(BaseModel):
        steps: int
        pictures: int | None = None
        seed: int | None = None

    def pack(self, asked):
        return None if asked.pictures is None else 12 // asked.pictures

    def prepare(self, item):
        sampler = swell.Sampler("flow_euler", item.input.steps, spacing="even")
        return swell.Plan(sampler=sampler, shape=(2, 3))

    def denoise(self, x, t, conditions):
        self.at_step()
        return x * np.float32(0.5)

    def decode(self, latents, item):
        return [item.index, item.count, item.seed]
"""

STEP_S = 0.1


class CostlyArrays(HostArrays):
    """To read them takes time."""

    def __init__(self, take: Callable[[], None]) -> None:
        self.take = take

    def get(self, array: Any) -> Any:
        self.take()
        return super().get(array)


class Atelier:
    """A drawer of one model, and the worker's end of its pipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.cost_s = 0.0
        #: When a checkpoint was left, and all that it took.
        self.left_s: list[float] = []
        self.spent_s = 0.0
        self._heard: list[Any] = []
        path = folder / "draws.py"
        path.write_text(MODEL)
        [definition] = load_models(str(path))
        easel = Reader(definition, random.Random())
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        self.pipe = Pipe(theirs, self.clock)
        self.slate = new_slate()
        device = Device([definition], Load([str(path)], "cpu"), self.pipe, self.clock)
        device.start()
        model = device.model("test/draws")
        assert isinstance(model, StepModel)
        self.model: Any = model
        model.arrays = CostlyArrays(self._read)
        model.at_step = lambda: self.clock.advance(STEP_S)  # type: ignore[attr-defined]
        self.drawer = StepRunner(
            {"test/draws": easel},
            self.pipe,
            CheckpointMemory(self.slate.fileno()),
            self.clock,
            device=device,
            exact=True,
            moved=lambda load_s: None,
        )

    def kept(self, handle: int) -> dict[int, bytes]:
        """Return the checkpoints of a task's samples."""
        return {each.index: each.checkpoint for each in read_slate(self.slate.fileno(), [handle])}

    def close(self) -> None:
        self.slate.close()
        self.ours.close()
        self.theirs.close()

    def _read(self) -> None:
        self.left_s.append(self.clock.monotonic_s())
        self.spent_s += self.cost_s
        self.clock.advance(self.cost_s)

    def draw(self, steps: int) -> None:
        """Draw one sample of so many steps to its end."""
        self.drawer.add("test/draws", [Order(1, b'{"steps":%d}' % steps)])
        while self.drawer.is_busy:
            self.drawer.step()
            self.frames()

    def frames(self) -> list[Any]:
        """Return what was told since."""
        frames, self._heard = self._heard + self._hear(), []
        return frames

    def _hear(self) -> list[Any]:
        self.ours.setblocking(False)
        told = b""
        try:
            while chunk := self.ours.recv(1 << 16):
                told += chunk
        except BlockingIOError:
            pass
        frames = []
        while told:
            end = HEAD_BYTES + int.from_bytes(told[:HEAD_BYTES], "big")
            frames.append(decode_frame(told[HEAD_BYTES:end]))
            told = told[end:]
        return frames

    def told_until(self, kind: type) -> list[Any]:
        """Return what was told up to a frame of this kind, which must come; later ones stay."""
        while not any(isinstance(frame, kind) for frame in self._heard):
            self._heard += self._hear()
        end = 1 + next(n for n, frame in enumerate(self._heard) if isinstance(frame, kind))
        frames, self._heard = self._heard[:end], self._heard[end:]
        return frames


@pytest.fixture
def atelier(tmp_path: Path) -> Iterator[Atelier]:
    atelier = Atelier(tmp_path)
    yield atelier
    atelier.close()


def test_a_checkpoint_that_costs_next_to_nothing_is_left_after_each_step(atelier: Atelier) -> None:
    atelier.cost_s = STEP_S / 200
    atelier.draw(50)
    assert len(atelier.left_s) == 50


@pytest.mark.parametrize("part", [0.02, 0.05, 0.15])
def test_leaving_them_takes_about_a_hundredth_of_the_time(atelier: Atelier, part: float) -> None:
    atelier.cost_s = STEP_S * part
    began_s = atelier.clock.monotonic_s()
    atelier.draw(600)
    share = atelier.spent_s / (atelier.clock.monotonic_s() - began_s)
    assert 0.005 < share < 0.0125


def test_one_that_costs_much_is_still_left_every_two_seconds(atelier: Atelier) -> None:
    atelier.cost_s = 0.5
    atelier.draw(200)
    gaps = [after - before for before, after in itertools.pairwise(atelier.left_s)]
    assert max(gaps) <= CHECKPOINT_EVERY_S + atelier.cost_s + 2 * STEP_S


def test_one_that_took_long_by_chance_keeps_none_of_the_next_ones(
    atelier: Atelier,
) -> None:
    atelier.cost_s = STEP_S / 200
    atelier.draw(20)
    atelier.cost_s = 1.0
    atelier.drawer.add("test/draws", [Order(2, b'{"steps":50}')])
    atelier.drawer.step()
    atelier.cost_s = STEP_S / 200
    before = len(atelier.left_s)
    for _ in range(5):
        atelier.drawer.step()
    assert len(atelier.left_s) == before + 5


def test_of_a_sample_that_did_not_move_the_checkpoint_is_left_once(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}')])
    atelier.drawer.step()
    atelier.drawer.hand_over()
    atelier.told_until(HandedOver)
    assert len(atelier.left_s) == 1
    assert atelier.kept(1).keys() == {0}
    assert not atelier.drawer.is_busy


def test_a_sample_that_only_came_back_is_kept_once_it_has_moved(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}', seed=1)])
    atelier.drawer.step()
    order = Order(2, b'{"steps":9}', seed=1, checkpoints=atelier.kept(1))
    assert order.checkpoints.keys() == {0}
    atelier.drawer.add("test/draws", [order])
    atelier.drawer.hand_over()
    atelier.told_until(HandedOver)
    assert atelier.kept(2) == {}


def test_latents_that_lie_at_hand_are_left_as_they_are_after_each_step(atelier: Atelier) -> None:
    atelier.model.arrays = HostArrays()
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":6}'), Order(2, b'{"steps":3}')])
    steps = []
    while atelier.drawer.is_busy:
        atelier.drawer.step()
        for handle in (1, 2):
            name, kept = f"{handle}.0", atelier.kept(handle)
            if name in atelier.drawer.engine.samples and handle in atelier.drawer._jobs:
                assert kept[0] == atelier.drawer.engine.checkpoint(name)
                steps.append((handle, decode_checkpoint(kept[0]).step))
    assert [step for handle, step in steps if handle == 1][:6] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_nobody_holds_a_sample_that_has_ended(atelier: Atelier) -> None:
    def samples() -> int:
        return sum(isinstance(each, SampleState) for each in gc.get_objects())

    atelier.model.arrays = HostArrays()
    gc.collect()
    gc.disable()
    try:
        before = samples()
        atelier.drawer.add("test/draws", [Order(1, b'{"steps":3}', count=2)])
        assert samples() == before + 2
        while atelier.drawer.is_busy:
            atelier.drawer.step()
            atelier.frames()
        assert samples() == before
    finally:
        gc.enable()


def test_of_a_task_that_has_ended_nothing_is_kept(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":2}'), Order(2, b'{"steps":900}')])
    atelier.drawer.step()
    assert atelier.kept(1).keys() == {0}
    while 1 in atelier.drawer._jobs:
        atelier.drawer.step()
    atelier.told_until(Results)
    atelier.pipe.flush()
    atelier.drawer.step()
    assert atelier.kept(1) == {}
    assert atelier.kept(2).keys() == {0}


@pytest.mark.parametrize("count", [1, 2])
def test_a_task_is_kept_until_its_result_has_left_the_process(atelier: Atelier, count: int) -> None:
    """What is decoded in another thread would be drawn anew if this process died meanwhile."""
    may_make, names = threading.Event(), set()

    def decode(latents: np.ndarray, item: Item[Any]) -> Any:
        def late() -> list[float]:
            names.add(threading.current_thread().name)
            assert may_make.wait(20)
            return list(latents.tolist())

        return late

    atelier.model.decode = decode
    orders = [Order(1, b'{"steps":2}', count=count), Order(2, b'{"steps":900}')]
    atelier.drawer.add("test/draws", orders)
    for _ in range(200):
        atelier.drawer.step()
        if 1 not in atelier.drawer._jobs:
            break
    assert atelier.kept(1).keys() == set(range(count))
    may_make.set()
    atelier.told_until(Results)
    atelier.pipe.flush()
    atelier.drawer.step()
    assert atelier.kept(1) == {}
    assert names == {"send"}


def decodes_later(atelier: Atelier) -> threading.Event:
    """Draw until one task is finished and another one is not; return when it may be decoded."""
    may_make = threading.Event()

    def late() -> bool:
        return may_make.wait(20)

    atelier.model.decode = lambda latents, item: late
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":1}'), Order(2, b'{"steps":900}')])
    while 1 in atelier.drawer._jobs:
        atelier.drawer.step()
    return may_make


def test_what_is_decoded_later_is_told_before_all_is_handed_over(atelier: Atelier) -> None:
    may_make = decodes_later(atelier)
    threading.Timer(0.05, may_make.set).start()
    atelier.drawer.hand_over()
    told = atelier.told_until(HandedOver)
    assert [type(frame) for frame in told if isinstance(frame, Results | HandedOver)] == [
        Results,
        HandedOver,
    ]


def test_what_was_said_of_a_task_while_its_result_was_on_its_way_is_forgotten(
    atelier: Atelier,
) -> None:
    decodes_later(atelier).set()
    atelier.pipe.stopped.add(1)
    atelier.told_until(Results)
    atelier.pipe.flush()
    atelier.drawer.step()
    assert atelier.pipe.stopped == set()


def test_a_sample_that_ended_before_others_of_its_task_is_kept_to_its_last_step(
    atelier: Atelier,
) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}', seed=1)])
    for _ in range(4):
        atelier.drawer.step()
    orders = [Order(2, b'{"steps":9}', seed=0, count=2, checkpoints={1: atelier.kept(1)[0]})]
    atelier.drawer.add("test/draws", orders)
    for _ in range(7):
        atelier.drawer.step()
    steps = {index: decode_checkpoint(raw).step for index, raw in atelier.kept(2).items()}
    assert steps[1] == 9
    assert 0 < steps[0] < 9


def test_progress_goes_on_where_a_sample_came_back(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}', seed=1)])
    for _ in range(6):
        atelier.drawer.step()
    orders = [Order(2, b'{"steps":9}', seed=0, count=2, checkpoints={1: atelier.kept(1)[0]})]
    atelier.drawer.add("test/draws", orders)
    atelier.drawer.step()
    atelier.drawer.hand_over()
    told = [
        frame.done
        for frame in atelier.told_until(HandedOver)
        if isinstance(frame, Step) and frame.handle == 2
    ]
    assert told[0] >= 7


# Bits


def batching(atelier: Atelier) -> list[str]:
    """Draw all that is there, and return what the files of a task say."""
    while atelier.drawer.is_busy:
        atelier.drawer.step()
    files: list[Any] = []
    for frame in atelier.told_until(Results):
        if isinstance(frame, Part):
            files.append(frame.file)
        elif isinstance(frame, Results):
            files += [file for done in frame.done for file in done.files]
    return [json.loads(file.metadata)["engine"]["batching"] for file in files]


def draw_with_little_memory(atelier: Atelier) -> None:
    """Let memory have no room for the rows of exact mode in the fourth step, nor later."""
    calls = itertools.count(1)

    def find_none() -> None:
        atelier.clock.advance(STEP_S)
        if next(calls) == 4:
            raise MemoryError

    atelier.model.at_step = find_none


def test_a_file_says_that_memory_had_no_room_for_the_rows_of_exact_mode(atelier: Atelier) -> None:
    atelier.model.decode = lambda latents, item: PIL.Image.new("RGB", (8, 8))
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":3}')])
    assert batching(atelier) == ["exact"]
    draw_with_little_memory(atelier)
    atelier.drawer.add("test/draws", [Order(2, b'{"steps":9}', count=2)])
    assert batching(atelier) == ["fast", "fast"]
    atelier.drawer.add("test/draws", [Order(3, b'{"steps":3}')])
    assert batching(atelier) == ["fast"]


def test_a_checkpoint_says_that_memory_had_no_room_for_the_rows_of_exact_mode(
    atelier: Atelier,
) -> None:
    draw_with_little_memory(atelier)
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}', seed=7)])
    for _ in range(3):
        atelier.drawer.step()
    exact = atelier.kept(1)
    for _ in range(3):
        atelier.drawer.step()
    atelier.drawer.hand_over()
    atelier.told_until(HandedOver)
    for checkpoints, said in ((exact, "exact"), (atelier.kept(1), "fast")):
        there = Atelier(atelier.folder)
        there.model.decode = lambda latents, item: PIL.Image.new("RGB", (8, 8))
        order = Order(2, b'{"steps":9}', seed=7, checkpoints=checkpoints)
        there.drawer.add("test/draws", [order])
        began_s = there.clock.monotonic_s()
        assert batching(there) == [said]
        assert there.clock.monotonic_s() - began_s < 9 * STEP_S
        there.close()


def test_a_grey_picture_of_what_is_not_a_number_fails_its_task(atelier: Atelier) -> None:
    grey = np.full((8, 8), np.nan, np.float32)
    atelier.model.decode = lambda latents, item: PIL.Image.fromarray(grey)
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":2}')])
    [fault] = results(atelier).faults
    assert (fault.code, fault.retryable) == ("model_error", True)
    assert "not numbers (NaN" in fault.detail


class LateArrays(HostArrays):
    """Their device works by itself, and is later than the thread that sends."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def mark(self) -> "LateArrays":  # type: ignore[override]
        return self

    def wait(self) -> None:
        self.pipe.flush()


def test_the_last_step_of_a_task_may_be_heard_of_when_its_results_are_gone(
    atelier: Atelier,
) -> None:
    atelier.model.arrays = LateArrays(atelier.pipe)
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9}')])
    while atelier.drawer.is_busy:
        atelier.drawer.step()
    told = atelier.told_until(Results)
    assert [frame.done for frame in told if isinstance(frame, Step)] == [1, 7]
    atelier.pipe.flush()
    assert not any(isinstance(frame, Step) for frame in atelier.frames())


# Packs


def results(atelier: Atelier) -> Results:
    """Draw all that is there, and return what came of it."""
    while atelier.drawer.is_busy:
        atelier.drawer.step()
    return next(frame for frame in atelier.told_until(Results) if isinstance(frame, Results))


def outputs(atelier: Atelier) -> list[Any]:
    return [json.loads(done.output) for done in results(atelier).done]


def test_of_one_input_a_whole_pack_is_drawn_each_with_a_seed_of_its_own(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":3,"pictures":4}', seed=7)])
    assert outputs(atelier) == [[[0, 3, 7], [1, 3, 8], [2, 3, 9]]]


def test_a_pack_of_one_is_a_list_too(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":3,"pictures":12}', seed=7)])
    assert outputs(atelier) == [[[0, 1, 7]]]


def test_a_task_may_ask_for_several_packs(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":3,"pictures":6}', seed=7, count=2)])
    assert outputs(atelier) == [[[[0, 4, 7], [1, 4, 8]], [[2, 4, 9], [3, 4, 10]]]]


def test_the_last_seed_of_a_pack_must_be_one_that_can_be_recorded(atelier: Atelier) -> None:
    asked = b'{"steps":3,"pictures":4,"seed":%d}'
    orders = [Order(1, asked % (2**63 - 2)), Order(2, asked % (2**63 - 3))]
    atelier.drawer.add("test/draws", orders)
    [fault] = results(atelier).faults
    assert (fault.handle, fault.code) == (1, "invalid_input")
    assert f"less than or equal to {2**63 - 3}" in fault.detail


def test_a_model_that_cannot_count_a_pack_fails_that_task_alone(atelier: Atelier) -> None:
    orders = [Order(1, b'{"steps":3,"pictures":0}'), Order(2, b'{"steps":3}', seed=7)]
    atelier.drawer.add("test/draws", orders)
    told = results(atelier)
    assert [(fault.handle, fault.code) for fault in told.faults] == [(1, "model_error")]
    assert outputs(atelier) == [[0, 1, 7]]


def test_a_pack_goes_on_from_checkpoints_of_all_its_pictures(atelier: Atelier) -> None:
    atelier.drawer.add("test/draws", [Order(1, b'{"steps":9,"pictures":6}', seed=7)])
    for _ in range(4):
        atelier.drawer.step()
    atelier.drawer.hand_over()
    atelier.told_until(HandedOver)
    latest = atelier.kept(1)
    assert latest.keys() == {0, 1}
    second = Atelier(atelier.folder)
    second.drawer.add(
        "test/draws",
        [Order(2, b'{"steps":9,"pictures":6}', seed=7, checkpoints={**latest, 5: b"of nobody"})],
    )
    began_s = second.clock.monotonic_s()
    assert outputs(second) == [[[0, 2, 7], [1, 2, 8]]]
    assert second.clock.monotonic_s() - began_s < 9 * STEP_S
    second.close()


def test_a_model_run_by_hand_returns_packs_as_lists(atelier: Atelier) -> None:
    model = atelier.model
    packed, plain = (model.Input(steps=3, pictures=6), model.Input(steps=2))
    found = model.run([Item(packed, seed=5), Item(plain, seed=1), Item(packed, seed=9, index=1)])
    assert found == [[[0, 2, 5], [1, 2, 6]], [0, 1, 1], [[2, 2, 10], [3, 2, 11]]]


def test_a_pack_that_is_cancelled_is_no_list(atelier: Atelier) -> None:
    class Stops:
        def progress(self, done: int, total: int) -> None: ...
        def preview(self, make: Callable[[], Any]) -> None: ...
        def is_cancelled(self) -> bool:
            return True

    model = atelier.model
    [ended] = model.run([Item(model.Input(steps=3, pictures=6), listener=Stops())])
    assert isinstance(ended, Cancelled)
