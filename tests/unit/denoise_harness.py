"""A model that needs no time, a denoiser with it, and what its samples have to be."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from manual_clock import ManualClock
from swell.core.results import TaskWarning
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.step_model import Plan, Sampler, StepModel

__all__ = [
    "SAMPLERS",
    "SHAPE",
    "Arriving",
    "Ears",
    "NoMemory",
    "Studio",
    "Toy",
    "all_are_drawn_as_alone",
    "alone",
    "samples",
]

SHAPE = (2, 3)
SAMPLERS = {
    name: Sampler(name, 1).solver
    for name in ("flow_euler", "euler", "euler_ancestral", "dpmpp_2m", "plms", "ddim", "lcm")
}


class NoMemory(Exception):
    """What a device says."""


class Toy(StepModel):
    """Wants dictionaries as inputs: what to draw, and how to fail."""

    name = "test/toy"
    bucket = 4
    most_rows = 8
    out_of_memory = (NoMemory,)

    def __init__(self, clock: ManualClock | None = None, name: str = "test/toy") -> None:
        self.name = name  # type: ignore[misc]
        self.clock = clock or ManualClock()
        #: Rows and seeds of each step, and words of each encode.
        self.rows: list[int] = []
        self.encoded: list[list[str]] = []
        self.decoded: list[int] = []
        self.decode_s = 0.0
        #: Rows that fit, and what is done at each step.
        self.memory = 99
        self.at_step: Callable[[], None] = lambda: None

    def prepare(self, item: Item[dict[str, Any]]) -> Plan:
        asked = {"steps": 3, "words": "a", "solver": "flow_euler", "options": {}} | item.input
        if asked.get("wrong"):
            raise Reject(asked["wrong"])
        return Plan(
            sampler=Sampler(asked["solver"], asked["steps"], **asked["options"]),
            shape=asked.get("shape", SHAPE),
            words=asked["words"],
            without=asked.get("without"),
            guidance=asked.get("guidance"),
            values={"poison": asked.get("poison", 0.0)},
            key=asked.get("key", ()),
            bucket=asked.get("bucket"),
            near=asked.get("near"),
        )

    def encode(self, words: list[str]) -> list[Mapping[str, np.ndarray]]:
        self.encoded.append(list(words))
        if "unspeakable" in words:
            raise ValueError("unspeakable")
        lengths = [3 if one == "long" else 2 for one in words]
        return [
            {"words": np.full(length, float(len(one)), np.float32)}
            for one, length in zip(words, lengths, strict=True)
        ]

    def denoise(self, x: np.ndarray, t: np.ndarray, conditions: Mapping[str, Any]) -> np.ndarray:
        self.rows.append(len(x))
        self.spend(len(x))
        self.at_step()
        if len(x) > self.memory:
            raise NoMemory
        said = np.sin(x + conditions["words"][:, :1, None]) + t[:, None, None] / 1000
        poison = conditions["poison"]
        if (poison > 0).any():
            raise RuntimeError("poison")
        return said.astype(np.float32)

    def spend(self, rows: int) -> None:
        self.clock.advance(0.01 + 0.001 * rows)

    def decode(self, latents: np.ndarray, item: Item[dict[str, Any]]) -> Any:
        self.decoded.append(item.seed)
        self.clock.advance(self.decode_s)
        if item.input.get("broken"):
            raise ValueError("broken")
        return np.array(latents).tobytes()


class Ears:
    """Hears what becomes of a sample, and may stop it."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.heard: list[tuple[int, int]] = []
        self.previews: list[Callable[[], Any]] = []
        self.warnings: list[TaskWarning] = []
        self.stop_after = stop_after

    def progress(self, done: int, total: int) -> None:
        self.heard.append((done, total))

    def preview(self, make: Callable[[], Any]) -> None:
        self.previews.append(make)

    def warn(self, warning: TaskWarning) -> None:
        self.warnings.append(warning)

    def is_cancelled(self) -> bool:
        return self.stop_after is not None and len(self.heard) >= self.stop_after


class Studio:
    """A denoiser with one model, and what became of its samples."""

    def __init__(self, model: Toy | None = None, **options: Any) -> None:
        self.model = model or Toy()
        self.ended: dict[str, Any] = {}
        self.denoiser = StepEngine(self.model.clock, self.end, **options)

    def end(self, name: str, result: Any) -> None:
        assert name not in self.ended, "a sample ends once"
        self.ended[name] = result

    def add(self, name: str, ears: Ears | None = None, **asked: Any) -> None:
        self.denoiser.add([self.request(name, ears, **asked)])

    def request(self, name: str, ears: Ears | None = None, **asked: Any) -> Request:
        seed = asked.pop("seed", sum(name.encode()))
        count, kept = asked.pop("count", 1), asked.pop("checkpoint", None)
        item = Item(asked, seed=seed, count=count, listener=ears or Ears())
        return Request(id=name, model=self.model, item=item, checkpoint=kept)

    def finish(self) -> dict[str, Any]:
        for _ in range(10_000):
            if not self.denoiser.boundary():
                return self.ended
        raise AssertionError("it never ends")


def alone(name: str = "a", **asked: Any) -> bytes:
    """What a sample is if nobody else is there."""
    studio = Studio(exact=False)
    studio.add(name, **asked)
    result = studio.finish()[name]
    assert isinstance(result, bytes), result
    return result


#: What may be asked for, and what may go wrong.
samples = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(sorted(SAMPLERS)),
        "steps": st.integers(1, 6),
        "words": st.sampled_from(["", "a", "red fox"]),
        "guidance": st.sampled_from([None, 0.0, 3.0]),
        "without": st.sampled_from([None, "", "ugly"]),
        "seed": st.integers(0, 9),
        "poison": st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0]),
    }
)

#: Samples, and the boundary at which each comes.
Arriving = list[tuple[dict[str, Any], int]]


def all_are_drawn_as_alone(studio: Studio, arriving: Arriving, dropped: set[int]) -> None:
    """Draw samples that come at some boundaries; these are dropped two boundaries later."""
    for boundary in range(13):
        for number, (asked, when) in enumerate(arriving):
            if when == boundary:
                studio.add(str(number), **asked)
            elif when == boundary - 2 and number in dropped:
                studio.denoiser.cancel(str(number))
        studio.denoiser.boundary()
    ended = studio.finish()
    assert ended.keys() == {str(number) for number in range(len(arriving))}
    for number, (asked, _) in enumerate(arriving):
        result = ended[str(number)]
        if isinstance(result, Cancelled):
            assert number in dropped
        elif asked["poison"]:
            assert str(result) == "poison"
        else:
            assert result == alone(**asked)
    assert len(studio.denoiser) == 0
