"""Models that come to their device and leave it: what they hold is gone before others load."""

import gc
import random
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manual_clock import ManualClock
from swell.diffusion.step_runner import StepRunner
from swell.runtime.checkpoint_shm import CheckpointMemory, new_slate
from swell.runtime.ipc import Pipe
from swell.runtime.ipc_messages import Load, Order
from swell.runtime.model_residency import CannotLoad, Device
from swell.runtime.task_run import Reader
from swell.sdk.model_loader import load_models

MODELS = """
import weakref
import numpy as np
import swell
from pydantic import BaseModel
from swell.sdk.step_model import HostArrays
from swell.diffusion.solvers import Noise

class OtherArrays(HostArrays):
    pass

class Painter(swell.StepModel):
    memory_bytes = 100
    #: Those that were given weights and are still somewhere.
    loaded = weakref.WeakSet()
    #: Who was loaded, and of whom there were weights meanwhile.
    loads = []
    #: What goes wrong with the next ones, by name.
    errors = {}
    #: What was drawn, by model and seed.
    drawn = {}

    class Input(BaseModel):
        steps: int = 4

    def load(self, device):
        # Models are full of cycles.
        self.own = self
        self.loads.append((self.name, sorted(each.name for each in self.loaded)))
        self.loaded.add(self)
        errors = self.errors.get(self.name)
        if errors:
            raise errors.pop(0)
        self.gain = np.float32(0.5)

    def noise(self, seed, plan):
        assert self.own is self
        return Noise(seed)

    def begin(self):
        return np.full((2, 3), self.gain)

    def prepare(self, item):
        sampler = swell.Sampler("flow_euler", item.input.steps, skip=1)
        return swell.Plan(sampler=sampler, shape=(2, 3), start=self.begin)

    def denoise(self, x, t, conditions):
        return x * self.gain

    def decode(self, latents, item):
        self.drawn[self.name, item.seed] = (latents * self.gain).tobytes()
        return item.seed

class A(Painter):
    name = "test/a"

class B(Painter):
    name = "test/b"

class C(Painter):
    name = "test/c"

class Keeps(Painter):
    name = "test/keeps"

    def offload(self):
        raise RuntimeError("no room in the host's memory")

    def onload(self):
        pass
"""


class Atelier:
    """Models on a device with room for some of them, and who draws with them."""

    def __init__(
        self, folder: Path, *names: str, room: int, may_fail: tuple[str, ...] = ()
    ) -> None:
        path = folder / "painters.py"
        path.write_text(MODELS)
        self.clock = ManualClock()
        self.ours, self.theirs = socket.socketpair()
        self.slate = new_slate()
        pipe = Pipe(self.theirs, self.clock)
        every = {each.name: each for each in load_models(str(path))}
        definitions = [every[name] for name in names]
        load = Load([str(path)], "cpu", device_memory_bytes=100 * room)
        self.device = Device(definitions, load, pipe, self.clock, may_fail)
        painter: Any = type(self.device.model(names[0]))
        self.painter = painter
        for kept in (
            self.painter.loaded,
            self.painter.loads,
            self.painter.errors,
            self.painter.drawn,
        ):
            kept.clear()
        self.easels = {each.name: Reader(each, random.Random()) for each in definitions}
        self.pipe = pipe

    def drawer(self) -> StepRunner:
        return StepRunner(
            self.easels,
            self.pipe,
            CheckpointMemory(self.slate.fileno()),
            self.clock,
            device=self.device,
            exact=True,
            moved=lambda load_s: None,
        )

    def close(self) -> None:
        self.slate.close()
        self.ours.close()
        self.theirs.close()

    @property
    def there(self) -> list[str]:
        """Names of those that have weights somewhere; those that hang in cycles count."""
        return sorted(each.name for each in self.painter.loaded)


@pytest.fixture
def ateliers() -> Iterator[list[Atelier]]:
    opened: list[Atelier] = []
    # Whatever is in a cycle stays until a model is made anew. What was there before is looked at no
    # more: there is much of it, where all tests are.
    gc.freeze()
    gc.disable()
    yield opened
    gc.enable()
    for each in opened:
        each.close()
    gc.unfreeze()


def finish(drawer: StepRunner) -> None:
    for _ in range(1000):
        if not drawer.is_busy:
            return
        drawer.step()
    raise AssertionError("it never ends")


WISHES = [
    ("test/a", Order(1, b'{"steps":6}', seed=1, count=3)),
    ("test/a", Order(2, b'{"steps":3}', seed=11, count=2)),
    ("test/b", Order(3, b'{"steps":4}', seed=21, count=2)),
]


def undisturbed(folder: Path, ateliers: list[Atelier]) -> dict[tuple[str, int], bytes]:
    """Return what is drawn of `WISHES` where there is room for everybody."""
    atelier = Atelier(folder, "test/a", "test/b", room=2)
    ateliers.append(atelier)
    atelier.device.start()
    drawer = atelier.drawer()
    for name, order in WISHES:
        drawer.add(name, [order])
    finish(drawer)
    assert len(atelier.painter.drawn) == 7
    return dict(atelier.painter.drawn)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 1, 3, 8])
def test_a_model_that_is_dropped_holds_nothing_while_another_loads(
    tmp_path: Path, ateliers: list[Atelier], steps: int
) -> None:
    expected = undisturbed(tmp_path, ateliers)
    atelier = Atelier(tmp_path, "test/a", "test/b", room=1)
    ateliers.append(atelier)
    atelier.device.start()
    drawer = atelier.drawer()
    for name, order in WISHES:
        drawer.add(name, [order])
    for _ in range(steps):
        drawer.step()
    # As where batches take their turn.
    for name in ("test/b", "test/a", "test/b"):
        drawer.clear()
        atelier.device.bring(name, ())
        drawer.look()
    finish(drawer)
    assert atelier.painter.drawn == expected
    names = [name for name, _ in atelier.painter.loads]
    assert len(names) >= 3
    assert atelier.painter.loads == [(name, []) for name in names]


@pytest.mark.slow
def test_a_task_that_starts_from_a_picture_waits_for_a_model_that_finds_memory_at_last(
    tmp_path: Path, ateliers: list[Atelier]
) -> None:
    expected = undisturbed(tmp_path, ateliers)
    atelier = Atelier(tmp_path, "test/a", "test/b", room=2)
    ateliers.append(atelier)
    atelier.painter.errors["test/b"] = [MemoryError(), MemoryError()]
    atelier.device.start()
    drawer = atelier.drawer()
    for name, order in WISHES:
        drawer.add(name, [order])
    finish(drawer)
    assert not atelier.painter.errors["test/b"]
    assert atelier.painter.drawn == expected


@pytest.mark.slow
def test_what_found_no_memory_is_gone_before_it_is_tried_again(
    tmp_path: Path, ateliers: list[Atelier]
) -> None:
    atelier = Atelier(tmp_path, "test/a", "test/c", "test/b", room=9)
    ateliers.append(atelier)
    atelier.painter.errors["test/b"] = [MemoryError(), MemoryError(), MemoryError()]
    atelier.device.start()
    assert atelier.there == ["test/a", "test/c"]
    atelier.device.use("test/c")
    atelier.device.bring("test/b", ())
    assert atelier.painter.loads == [
        ("test/a", []),
        ("test/c", ["test/a"]),
        *[("test/b", ["test/a", "test/c"])] * 2,
        ("test/b", ["test/c"]),
        ("test/b", []),
    ]
    assert atelier.there == ["test/b"]


@pytest.mark.slow
def test_a_model_that_is_left_out_holds_nothing_while_others_load(
    tmp_path: Path, ateliers: list[Atelier]
) -> None:
    names = ("test/a", "test/b", "test/c")
    atelier = Atelier(tmp_path, *names, room=9, may_fail=("test/b",))
    ateliers.append(atelier)
    atelier.painter.errors["test/b"] = [ValueError("no such weights")]
    atelier.device.start()
    assert atelier.device.left_out == {"test/b": "ValueError: no such weights"}
    assert atelier.painter.loads[-1] == ("test/c", ["test/a"])


@pytest.mark.slow
def test_a_model_that_cannot_wait_in_the_hosts_memory_is_gone_before_another_loads(
    tmp_path: Path, ateliers: list[Atelier]
) -> None:
    atelier = Atelier(tmp_path, "test/keeps", "test/b", room=1)
    ateliers.append(atelier)
    atelier.device.start()
    atelier.device.bring("test/b", ())
    assert atelier.painter.loads == [("test/keeps", []), ("test/b", [])]


@pytest.mark.slow
def test_who_knows_why_a_model_cannot_be_loaded_holds_nothing_of_it(
    tmp_path: Path, ateliers: list[Atelier]
) -> None:
    atelier = Atelier(tmp_path, "test/a", "test/b", room=1)
    ateliers.append(atelier)
    atelier.painter.errors["test/b"] = [ValueError("no such weights")]
    atelier.device.start()
    with pytest.raises(CannotLoad, match="no such weights") as known:
        atelier.device.bring("test/b", ())
    assert atelier.there == []
    told = "".join(traceback.format_exception(known.value))
    assert "in load" in told
    assert "raise errors.pop(0)" in told
