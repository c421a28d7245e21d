"""Samples with LoRAs in the loop that draws, with a real network and real files."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_painter import Painter, layers, lora_file, packed, weights
from manual_clock import ManualClock
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Item, Reject
from swell.sdk.media import LoRA
from swell.sdk.step_model import HostArrays, Plan, whole
from swell_models.simulated_gpu import CurveModel

INK = lora_file(layers(1))
CHALK = lora_file(layers(2, rank=3), "peft")
#: Touches the words alone.
ACCENT = lora_file(layers(3, only=("text.proj",)), kind="F16")
WEIGHTS = weights()
FOREIGN = packed({"no.lora_A.weight": np.ones((2, 8)), "no.lora_B.weight": np.ones((8, 2))})


class Timed(Painter):
    """Paints, shows its latents to the last bit, and takes time by a clock of its own."""

    swap_s, step_s = 0.05, 0.01

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.adapted_to: list[int] = []
        self.load("cpu")

    def adapt(self, loras: Sequence[LoRA]) -> None:
        self.adapted_to.append(len(loras))
        self.clock.advance(self.swap_s)
        super().adapt(loras)

    def denoise(self, x: Any, t: Any, conditions: Mapping[str, Any]) -> Any:
        self.clock.advance(self.step_s)
        return super().denoise(x, t, conditions)

    def decode(self, latents: Any, item: Item[Any]) -> bytes:
        return np.array(latents).tobytes()


class Studio:
    """A denoiser with the painter, and what became of its samples."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.model = Timed(self.clock)
        self.ended: dict[str, Any] = {}
        self.denoiser = StepEngine(self.clock, self.ended.__setitem__, **options)

    def add(self, name: str, loras: Sequence[LoRA] = (), **asked: Any) -> None:
        seed = asked.pop("seed", sum(name.encode()))
        checkpoint = asked.pop("checkpoint", None)
        item = Item(Painter.Input(loras=list(loras), **asked), seed=seed)
        self.denoiser.add([Request(id=name, model=self.model, item=item, checkpoint=checkpoint)])

    def finish(self) -> dict[str, Any]:
        for _ in range(10_000):
            if not self.denoiser.boundary():
                return self.ended
        raise AssertionError("it never ends")


def alone(name: str, loras: Sequence[LoRA] = (), **asked: Any) -> bytes:
    studio = Studio()
    studio.add(name, loras, **asked)
    result = studio.finish()[name]
    assert isinstance(result, bytes), result
    return result


def as_bits(mine: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: each.tobytes() for name, each in mine.items()}


# --- what a picture depends on -------------------------------------------------------------------

loras = st.builds(LoRA, st.sampled_from([INK, CHALK, ACCENT]), scale=st.sampled_from([1.0, 0.4]))
samples = st.fixed_dictionaries(
    {
        "loras": st.lists(loras, max_size=2),
        "steps": st.integers(1, 4),
        "guidance": st.sampled_from([None, 3.0]),
        "prompt": st.sampled_from(["a red fox", "a hare"]),
        "seed": st.integers(0, 5),
    }
)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.tuples(samples, st.integers(0, 6)), min_size=1, max_size=7),
    st.sampled_from([None, 1]),
)
def test_a_picture_depends_on_its_input_and_its_loras_alone(
    arriving: list[tuple[dict[str, Any], int]], bucket: int | None
) -> None:
    studio = Studio(bucket=bucket)
    for boundary in range(7):
        for number, (asked, when) in enumerate(arriving):
            if when == boundary:
                studio.add(str(number), **asked)
        studio.denoiser.boundary()
    ended = studio.finish()
    for number, (asked, _) in enumerate(arriving):
        assert ended[str(number)] == alone("a", **asked)
    studio.add("none")
    studio.finish()
    assert as_bits(studio.model.weights) == as_bits(weights())


def test_each_lora_makes_another_picture_and_its_scale_counts() -> None:
    sets = [
        [],
        [LoRA(INK)],
        [LoRA(INK, scale=0.5)],
        [LoRA(CHALK)],
        [LoRA(INK), LoRA(CHALK)],
        [LoRA(ACCENT)],
    ]
    assert len({alone("a", each) for each in sets}) == len(sets)
    assert alone("a", [LoRA(CHALK), LoRA(INK)]) == alone("a", [LoRA(INK), LoRA(CHALK)])
    assert alone("a", [LoRA(INK, scale=0)]) == alone("a")


def test_both_ways_of_naming_draw_the_same_picture() -> None:
    made = {layer: (up, down, float(down.shape[0])) for layer, (up, down, _) in layers(1).items()}
    kohya, peft = (lora_file(made, style) for style in ("kohya", "peft"))
    assert kohya != peft
    assert alone("a", [LoRA(kohya)]) == alone("a", [LoRA(peft)])


def test_words_learnt_under_other_loras_are_not_taken() -> None:
    studio = Studio()
    for name, each in (("plain", []), ("accent", [LoRA(ACCENT)]), ("again", [])):
        studio.add(name, each, seed=1)
        studio.finish()
    assert studio.ended["accent"] == alone("a", [LoRA(ACCENT)], seed=1)
    assert studio.ended["again"] == studio.ended["plain"] == alone("a", seed=1)


# --- whose turn it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", [None, 1])
def test_sets_take_turns_by_gain_rather_than_step_by_step(bucket: int | None) -> None:
    studio = Studio(bucket=bucket)
    names = [f"{number}" for number in range(24)]
    for number, name in enumerate(names):
        studio.add(name, [[], [LoRA(INK)], [LoRA(CHALK)]][number % 3], steps=4)
    studio.finish()
    swaps = studio.denoiser.models.swaps["test/painter"]
    # In the order of their arrival, or step by step, it would be 23 or more.
    assert swaps.count == len(studio.model.adapted_to) == 2
    assert swaps.seconds == pytest.approx(2 * Timed.swap_s)


@pytest.mark.slow
@pytest.mark.parametrize("bucket", [None, 1])
def test_where_a_swap_takes_longer_than_a_sample_most_samples_come_without_one(
    bucket: int | None,
) -> None:
    studio, number = Studio(bucket=bucket), 0
    while number < 100:
        # One comes as often as one can be drawn; the three sets one after the other.
        while number < 100 and studio.clock.monotonic_s() >= 0.045 * number:
            studio.add(str(number), [[], [LoRA(INK)], [LoRA(CHALK)]][number % 3], steps=4)
            number += 1
        if not studio.denoiser.boundary():
            studio.clock.advance(0.005)
    studio.finish()
    swaps = studio.denoiser.models.swaps["test/painter"]
    assert len(studio.ended) == 100
    assert 2 <= swaps.count <= 50, "each has another set than the one before"


def test_nobody_waits_for_ever_for_a_swap() -> None:
    studio = Studio(bucket=1)
    studio.add("base 0", steps=20)
    studio.denoiser.boundary()
    studio.add("ink", [LoRA(INK)], steps=2)
    number = 0
    while "ink" not in studio.ended:
        # Always somebody else whose weights are there.
        if len(studio.denoiser) < 3:
            number += 1
            studio.add(f"base {number}", steps=20)
        studio.denoiser.boundary()
        assert number < 200
    assert studio.ended["ink"] == alone("ink", [LoRA(INK)], steps=2)


def test_samples_of_one_set_share_their_steps() -> None:
    studio = Studio()
    for name in "abcd":
        studio.add(name, [LoRA(INK, scale=0.5)], steps=3)
    steps_s = studio.clock.monotonic_s()
    studio.finish()
    assert studio.clock.monotonic_s() - steps_s == pytest.approx(3 * Timed.step_s + Timed.swap_s)


def test_what_a_step_costs_is_known_for_every_set() -> None:
    studio = Studio()
    studio.add("a", [LoRA(INK)], steps=4)
    studio.finish()
    costs = dict(studio.denoiser.models.step_costs)
    [known] = costs.values()
    assert known.measured
    studio.add("b", [LoRA(CHALK)], steps=1)
    assert studio.denoiser.models.step_costs == costs, "the new set begins with it"


# --- failing -------------------------------------------------------------------------------------


def test_a_lora_for_another_model_fails_its_samples_alone() -> None:
    studio = Studio()
    studio.add("good", [LoRA(INK)])
    studio.add("bad", [LoRA(FOREIGN)])
    studio.add("bad too", [LoRA(FOREIGN)], prompt="a hare")
    studio.add("plain")
    ended = studio.finish()
    for name in ("bad", "bad too"):
        assert isinstance(ended[name], Reject)
        assert "for another model" in str(ended[name])
    assert ended["good"] == alone("good", [LoRA(INK)])
    assert ended["plain"] == alone("plain")


def test_a_file_that_is_gone_fails_its_samples_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    studio = Studio()
    studio.add("gone", [LoRA(path, digest="0" * 64)])
    studio.add("plain")
    ended = studio.finish()
    assert isinstance(ended["gone"], FileNotFoundError)
    assert ended["plain"] == alone("plain")


def test_after_a_failure_the_weights_are_set_right() -> None:
    studio = Studio()
    studio.add("ink", [LoRA(INK)])
    studio.finish()
    studio.add("bad", [LoRA(FOREIGN)])
    studio.finish()
    studio.add("again", [LoRA(INK)], seed=1)
    assert studio.finish()["again"] == alone("again", [LoRA(INK)], seed=1)


def test_a_model_that_cannot_adapt_refuses_loras() -> None:
    class Sleeper(CurveModel):
        def prepare(self, item: Item[Any]) -> Plan:
            return Plan(sampler=super().prepare(item).sampler, shape=(4, 8, 8), loras=[LoRA(INK)])

    ended: dict[str, Any] = {}
    denoiser = StepEngine(ManualClock(), ended.__setitem__)
    denoiser.add([Request(id="a", model=Sleeper(), item=Item(CurveModel.Input()))])
    assert isinstance(ended["a"], Reject)
    assert "draws without LoRAs" in str(ended["a"])


# --- elsewhere -----------------------------------------------------------------------------------


def test_a_sample_goes_on_from_its_checkpoint_only_with_its_loras() -> None:
    studio = Studio()
    studio.add("a", [LoRA(INK)], steps=4)
    studio.denoiser.boundary()
    studio.denoiser.boundary()
    kept = studio.denoiser.checkpoint("a")
    assert kept is not None
    other = Studio()
    other.add("b", [LoRA(INK)], steps=4, seed=sum(b"a"), checkpoint=kept)
    other.add("c", [LoRA(CHALK)], steps=4, seed=sum(b"a"), checkpoint=kept)
    ended = other.finish()
    assert ended["b"] == alone("a", [LoRA(INK)], steps=4)
    assert "a checkpoint of" in str(ended["c"])


def test_a_model_that_was_made_anew_is_told_its_loras_again() -> None:
    studio = Studio()
    studio.add("a", [LoRA(INK)], steps=4)
    studio.denoiser.boundary()
    fresh = Timed(studio.clock)
    studio.denoiser.replace(fresh)
    studio.denoiser.set_residency(fresh, loaded=True, load_s=0.5)
    assert studio.finish()["a"] == alone("a", [LoRA(INK)], steps=4)
    assert fresh.adapted_to == [0, 1]


def test_weights_that_came_back_without_loras_get_them_though_nobody_told_of_it() -> None:
    def load(name: str) -> None:
        for tensor, weight in WEIGHTS.items():
            np.copyto(studio.model.weights[tensor], weight)

    studio = Studio(load=load)
    studio.add("a", [LoRA(INK)], steps=4)
    studio.denoiser.boundary()
    studio.denoiser.set_residency(studio.model, loaded=False, load_s=0.5)
    assert studio.finish()["a"] == alone("a", [LoRA(INK)], steps=4)


def test_a_model_that_was_brought_back_is_told_its_loras_again() -> None:
    brought = []

    def load(name: str) -> None:
        brought.append(name)
        studio.model.weights.update(weights())
        studio.model.adapted.moved(studio.model.weights)

    studio = Studio(load=load)
    studio.add("a", [LoRA(INK)], steps=4)
    studio.denoiser.boundary()
    studio.denoiser.set_residency(studio.model, loaded=False, load_s=0.5)
    ended = studio.finish()
    assert brought == ["test/painter"]
    assert ended["a"] == alone("a", [LoRA(INK)], steps=4)
    studio.denoiser.set_residency(studio.model, loaded=False, load_s=0.5)
    studio.add("b")
    assert studio.finish()["b"] == alone("b")


def test_a_model_that_comes_back_has_swapped_nothing_where_nobody_wants_a_lora() -> None:
    studio = Studio(load=lambda name: None)
    for name in "abc":
        studio.add(name)
        studio.finish()
        studio.denoiser.set_residency(studio.model, loaded=False, load_s=0.5)
    assert studio.model.adapted_to == [0, 0]
    assert studio.denoiser.models.swaps == {}
    studio.add("d", [LoRA(INK)])
    studio.finish()
    studio.add("e")
    studio.finish()
    swaps = studio.denoiser.models.swaps["test/painter"]
    # On, after what came back without was told so, and off.
    assert studio.model.adapted_to == [0, 0, 0, 1, 0]
    assert (swaps.count, swaps.seconds) == (2, pytest.approx(3 * Timed.swap_s))


class Marks(HostArrays):
    """A device that is told what to do, and does it when somebody waits for it."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.count = 0

    def mark(self) -> Any:
        self.count += 1
        self.open.add(self.count)
        return SimpleNamespace(wait=partial(self.open.discard, self.count))


def test_weights_are_not_changed_under_steps_that_a_device_still_has_to_do() -> None:
    studio = Studio()
    studio.model.arrays = marks = Marks()
    adapt, seen = studio.model.adapt, []

    def watched(loras: Sequence[LoRA]) -> None:
        seen.append((marks.count, set(marks.open)))
        adapt(loras)

    studio.model.adapt = watched  # type: ignore[method-assign]
    for name, each in (("a", []), ("b", [LoRA(INK)]), ("c", [LoRA(CHALK)])):
        studio.add(name, each)
    ended = studio.finish()
    assert len(seen) == 2
    assert all(count and not left for count, left in seen)
    assert whole(ended["c"]) == alone("c", [LoRA(CHALK)])


def test_who_calls_run_gets_pictures_with_loras_too() -> None:
    model = Timed(ManualClock())
    items = [
        Item(Painter.Input(loras=each), seed=3) for each in ([], [LoRA(INK)], [LoRA(CHALK)], [])
    ]
    plain, ink, chalk, again = model.run(items)
    assert plain == again == alone("a", seed=3)
    assert (ink, chalk) == (alone("a", [LoRA(INK)], seed=3), alone("a", [LoRA(CHALK)], seed=3))
