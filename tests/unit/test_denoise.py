"""The loop that draws samples step by step."""

import dataclasses
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from denoise_harness import (
    SAMPLERS,
    SHAPE,
    Ears,
    NoMemory,
    Studio,
    Toy,
    all_are_drawn_as_alone,
    alone,
    samples,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manual_clock import ManualClock
from swell.diffusion import conditioning_cache, device_models, step_engine
from swell.diffusion.batch_buffers import BatchBuffers, InvalidCheckpoint
from swell.diffusion.run_locally import Runs
from swell.diffusion.solvers import Noise
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.step_model import HostArrays, NoiseStream, Plan, Sampler, whole
from swell_models.simulated_gpu import CurveModel

#: Steps that are taken beyond those asked for: PLMS takes one twice.
STEPS = dict.fromkeys(SAMPLERS, 0) | {"plms": 1}


class Shown(Toy):
    """Has previews as well."""

    def preview(self, latents: np.ndarray, item: Any) -> bytes:
        return np.array(latents).tobytes()


# What a picture depends on


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(samples, st.integers(0, 12)), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sets(st.integers(0, 8), max_size=3),
    st.sampled_from([1, 2, 5, 99]),
)
def test_a_picture_depends_on_its_input_alone(
    arriving: list[tuple[dict[str, Any], int]],
    exact: bool,
    bucket: int,
    dropped: set[int],
    memory: int,
) -> None:
    studio = Studio(exact=exact, bucket=bucket if exact else None)
    studio.model.memory = memory
    all_are_drawn_as_alone(studio, arriving, dropped)


@pytest.mark.parametrize("exact", [True, False])
def test_steps_of_exact_mode_always_have_the_same_number_of_rows(exact: bool) -> None:
    studio = Studio(exact=exact)
    for number in range(5):
        studio.add(str(number), steps=2 + number)
        studio.denoiser.boundary()
    studio.finish()
    assert (set(studio.model.rows) == {4}) is exact


def test_a_plan_may_say_how_many_rows_its_steps_have() -> None:
    studio = Studio()
    studio.add("a", steps=2, bucket=1)
    studio.add("b", steps=2, bucket=3, shape=(4, 2))
    studio.add("c", steps=2)
    studio.finish()
    assert Counter(studio.model.rows) == {1: 2, 3: 2, 4: 2}
    overruled = Studio(bucket=5)
    overruled.add("a", steps=2, bucket=1)
    overruled.finish()
    assert overruled.model.rows == [5, 5]


def test_image_k_of_a_task_has_the_noise_of_its_seed_plus_k() -> None:
    studio = Studio()
    for index in range(3):
        studio.add(str(index), seed=40 + index, count=3)
    ended = studio.finish()
    assert [ended[str(i)] for i in range(3)] == [alone(seed=40 + i) for i in range(3)]
    assert len(set(ended.values())) == 3


# Joining and leaving


def test_a_variation_lies_between_the_noise_of_two_seeds() -> None:
    def drawn(seed: int, near: tuple[int, float] | None = None) -> np.ndarray:
        studio = Studio()
        asked = {"words": "a", "solver": "euler", "steps": 4, "options": {}, "near": near}
        studio.denoiser.add([Request(id="a", model=studio.model, item=Item(asked, seed=seed))])
        while studio.denoiser.boundary():
            pass
        return np.frombuffer(studio.ended["a"], np.float32)

    theirs, own = drawn(5), drawn(6)
    np.testing.assert_array_equal(drawn(6, (5, 0.0)), theirs)
    np.testing.assert_array_equal(drawn(6, (5, 1.0)), own)
    near, far = drawn(6, (5, 0.2)), drawn(6, (5, 0.7))
    assert 0 < np.abs(near - theirs).mean() < np.abs(far - theirs).mean()
    assert not np.array_equal(near, drawn(7, (5, 0.2)))


def test_a_variation_goes_on_from_its_checkpoint_to_the_same_picture() -> None:
    asked = {"words": "a", "solver": "euler_ancestral", "steps": 4, "options": {}, "near": (5, 0.3)}

    def request(studio: Studio, checkpoint: bytes | None = None) -> Request:
        item = Item(asked, seed=6)
        return Request(id="a", model=studio.model, item=item, checkpoint=checkpoint)

    whole, first, second = Studio(), Studio(), Studio()
    for studio in (whole, first):
        studio.denoiser.add([request(studio)])
    while first.denoiser.samples["a"].step < 2:
        assert first.denoiser.boundary()
    second.denoiser.add([request(second, first.denoiser.checkpoint("a"))])
    assert second.denoiser.samples["a"].step == 2
    for studio in (whole, second):
        while studio.denoiser.boundary():
            pass
    assert whole.ended["a"] == second.ended["a"]


def test_a_sample_joins_at_the_next_step_without_waiting() -> None:
    studio, first, second = Studio(bucket=2, progress_every_s=0), Ears(), Ears()
    studio.add("first", first, steps=6)
    studio.denoiser.boundary()
    studio.add("second", second, steps=2)
    studio.denoiser.boundary()
    studio.denoiser.boundary()
    assert (first.heard[-1][0], second.heard[-1]) == (3, (2, 2))
    assert studio.model.rows == [2, 2, 2]


def test_where_a_batch_gains_nothing_the_shorter_sample_goes_first() -> None:
    studio = Studio(bucket=1)
    studio.add("long", steps=9)
    studio.denoiser.boundary()
    studio.add("short", steps=2)
    studio.finish()
    assert list(studio.ended) == ["short", "long"]
    assert studio.ended["long"] == alone(seed=sum(b"long"), steps=9)


def test_a_cancelled_sample_is_gone_at_the_next_boundary() -> None:
    studio = Studio(bucket=1)
    for name in ("runs", "waits"):
        studio.add(name, steps=9)
    studio.denoiser.boundary()
    steps = len(studio.model.rows)
    studio.denoiser.cancel("runs")
    studio.denoiser.cancel("waits")
    studio.denoiser.cancel("never was here")
    assert not studio.denoiser.boundary()
    assert len(studio.model.rows) == steps
    assert all(isinstance(result, Cancelled) for result in studio.finish().values())


def test_a_listener_that_is_gone_stops_its_sample_only() -> None:
    studio, goes, stays = Studio(progress_every_s=0), Ears(stop_after=1), Ears()
    studio.add("goes", goes, steps=4)
    studio.add("stays", stays, steps=4)
    ended = studio.finish()
    assert isinstance(ended["goes"], Cancelled)
    assert ended["stays"] == alone(seed=sum(b"stays"), steps=4)
    assert goes.heard == [(1, 4)]
    assert stays.heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_finished_sample_is_not_decoded_for_nobody() -> None:
    studio = Studio()
    studio.add("by word", steps=1)
    studio.add("by ear", Ears(stop_after=1), steps=1)
    studio.denoiser.boundary()
    studio.denoiser.cancel("by word")
    ended = studio.finish()
    assert all(isinstance(result, Cancelled) for result in ended.values())
    assert studio.model.decoded == []


def test_two_samples_of_one_name_are_refused() -> None:
    studio = Studio()
    studio.add("a", steps=1)
    with pytest.raises(ValueError, match="already here"):
        studio.add("a")
    studio.denoiser.boundary()
    with pytest.raises(ValueError, match="already here"):
        studio.add("a")
    studio.finish()
    studio.add("b")


# Decoding


def order_of_decoding(decode_s: float) -> list[str]:
    """Four of one step, and one of six: a step takes 12 ms, and 11 when one is left."""
    order: list[str] = []
    studio = Studio()
    studio.model.decode_s = decode_s
    studio.model.at_step = lambda: order.append("step")
    studio.denoiser._ended = lambda name, result: order.append("result")
    for name in "abcd":
        studio.add(name, steps=1)
    studio.add("e", steps=6)
    studio.finish()
    return order


def test_there_is_one_decode_between_two_steps() -> None:
    order = order_of_decoding(0.004)
    assert order == ["step", *["result", "step"] * 4, "step", "step", "result"]


def test_decodes_that_take_next_to_nothing_are_not_spread_over_steps() -> None:
    three, one = ["result"] * 3, ["result"]
    assert order_of_decoding(0.001) == ["step", *three, "step", *one, *["step"] * 5, "result"]
    assert order_of_decoding(0.0001) == ["step", *["result"] * 4, *["step"] * 6, "result"]


@pytest.mark.parametrize(("decode_s", "most"), [(0.04, 8), (0.0, 8)])
def test_short_samples_do_not_pile_up_before_the_decoder(decode_s: float, most: int) -> None:
    studio = Studio(bucket=8)
    studio.model.decode_s = decode_s
    for number in range(200):
        studio.add(str(number), steps=1)
    waiting = 0
    while studio.denoiser.boundary():
        waiting = max(waiting, len(studio.denoiser._decoder.waiting))
    assert waiting <= 8 + most
    assert len(studio.ended) == 200


def test_of_a_large_batch_that_ends_at_once_one_is_decoded_after_the_other() -> None:
    studio = Studio(bucket=20)
    studio.model.decode_s = 0.04
    for number in range(20):
        studio.add(str(number), steps=2)
    for number in range(20):
        studio.add(f"next {number}", steps=30)
    for _ in range(2):
        studio.denoiser.boundary()
    assert studio.model.rows == [20, 20]
    for number in range(20):
        studio.denoiser.boundary()
        assert len(studio.model.decoded) == number + 1


class Later(Toy):
    """Decodes in a function."""

    def decode(self, latents: np.ndarray, item: Item[dict[str, Any]]) -> Any:
        return partial(super().decode, latents, item)


@pytest.mark.parametrize("together", [1, 8])
def test_a_function_is_left_to_another_thread(together: int) -> None:
    studio = Studio(Later(), bucket=8)
    for number in range(together):
        studio.add(str(number), steps=5)
    assert all(map(callable, studio.finish().values()))
    assert studio.model.decoded == []


def test_called_by_hand_what_is_left_to_another_thread_is_done_too() -> None:
    [result] = Later().run([Item({"steps": 2}, seed=1)])
    assert result == Toy().run([Item({"steps": 2}, seed=1)])[0]


# Failing


@pytest.mark.parametrize("solver", ["flow_euler", "euler_ancestral", "dpmpp_2m", "plms"])
@pytest.mark.parametrize("poisoned", [{"b"}, {"a", "d"}, set("abcd")])
def test_a_sample_that_breaks_the_network_fails_alone(solver: str, poisoned: set[str]) -> None:
    studio = Studio()
    for name in "abcd":
        poison = 1.0 if name in poisoned else 0.0
        studio.add(name, solver=solver, steps=3, poison=poison)
    ended = studio.finish()
    for name in "abcd":
        if name in poisoned:
            assert str(ended[name]) == "poison"
        else:
            assert ended[name] == alone(name, solver=solver, steps=3)
    assert set(studio.model.rows) == {4}


class Mute(Toy):
    """Has no noise for some seeds."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        if seed == 13:
            raise self.error("no noise")
        return Noise(seed)


@pytest.mark.parametrize("error", [ValueError, MemoryError])
@pytest.mark.parametrize("guidance", [None, 3.0])
def test_a_sample_that_cannot_begin_fails_alone(
    error: type[Exception], guidance: float | None
) -> None:
    studio = Studio(Mute(error), bucket=4)
    studio.add("a", guidance=3.0, steps=6)
    studio.denoiser.boundary()
    studio.add("b", guidance=guidance, seed=13, steps=9)
    ended = studio.finish()
    assert str(ended["b"]) == "no noise"
    assert ended["a"] == alone("a", guidance=3.0, steps=6)


def test_an_error_that_does_not_come_back_costs_nobody_anything() -> None:
    studio, failures = Studio(), iter([RuntimeError("once")])

    def fail_once() -> None:
        for error in failures:
            raise error

    for name in "abc":
        studio.add(name, solver="euler_ancestral")
    studio.denoiser.boundary()
    studio.model.at_step = fail_once
    assert studio.finish() == {name: alone(name, solver="euler_ancestral") for name in "abc"}


@pytest.mark.parametrize("error", [NoMemory, MemoryError])
def test_no_memory_means_fewer_rows_from_then_on(error: type[Exception]) -> None:
    studio = Studio(exact=False)
    studio.model.out_of_memory = (NoMemory,) if error is NoMemory else ()

    def limit() -> None:
        if studio.model.rows[-1] > 2:
            raise error

    studio.model.at_step = limit
    for number in range(8):
        studio.add(str(number), steps=8)
    ended = studio.finish()
    assert ended == {str(n): alone(seed=sum(str(n).encode()), steps=8) for n in range(8)}
    assert sum(rows > 2 for rows in studio.model.rows) <= 2


@pytest.mark.parametrize("limit", ["network", "rows"])
@pytest.mark.parametrize("is_alike", [False, True])
def test_what_had_fewer_rows_than_exact_mode_has_is_known(limit: str, is_alike: bool) -> None:
    class Asks(Studio):
        def end(self, name: str, result: Any) -> None:
            super().end(name, self.denoiser.samples[name].is_narrowed)

    studio = Asks()
    studio.add("before")
    assert studio.finish() == {"before": False}
    studio.model.batch_invariant = is_alike  # type: ignore[misc]
    if limit == "network":
        studio.model.memory = 2
    else:
        studio.model.arrays = Tight(2)
    studio.add("during", bucket=4, shape=(4, 4))
    studio.add("fits", bucket=2)
    ended = studio.finish()
    assert ended == {"before": False, "during": not is_alike, "fits": False}
    assert studio.model.rows[-1] == 2


def test_no_memory_and_a_broken_sample_at_once_fail_the_broken_one_only() -> None:
    studio = Studio(bucket=4)
    studio.model.memory = 2
    for name in "abcd":
        studio.add(name, poison=float(name == "c"))
    ended = studio.finish()
    assert str(ended.pop("c")) == "poison"
    assert ended == {name: alone(name) for name in "abd"}


def test_memory_that_ends_amid_the_search_leaves_everybody_where_they_are() -> None:
    studio = Studio(bucket=4)
    calls = iter([RuntimeError("spoilt"), None, NoMemory()])

    def fail() -> None:
        error = next(calls, None)
        if error is not None:
            raise error

    studio.model.at_step = fail
    for name in "abcd":
        studio.add(name, solver="euler_ancestral")
    assert studio.finish() == {name: alone(name, solver="euler_ancestral") for name in "abcd"}


class Tight(HostArrays):
    """Has room for so many rows of one array."""

    def __init__(self, most: int) -> None:
        self.most = most

    def rows(self, like: Any, count: int) -> Any:
        if count > self.most:
            raise NoMemory(f"{count} rows")
        return super().rows(like, count)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("most", [2, 3, 7])
def test_rows_that_memory_has_no_room_for_are_fewer_from_then_on(most: int, exact: bool) -> None:
    studio = Studio(exact=exact)
    studio.model.arrays = Tight(most)
    for name in "abcde":
        studio.add(name, steps=300)
    ended = studio.finish()
    assert {name: ended[name] for name in "abcde"} == {
        name: alone(name, steps=300) for name in "abcde"
    }
    assert max(studio.model.rows) <= most


def test_rows_of_a_key_with_nothing_to_draw_make_room_for_those_of_another() -> None:
    studio = Studio(exact=False)
    arrays = studio.model.arrays = Tight(99)
    studio.add("a")
    studio.finish()
    [key] = studio.denoiser.models.keys.values()
    make_room = studio.denoiser.models._drop_buffers
    arrays.most = 0

    def drop(keys: Any) -> bool:
        arrays.most = 99
        return make_room(keys)

    studio.denoiser.models._drop_buffers = drop  # type: ignore[method-assign]
    studio.add("b", shape=(4, 4))
    assert isinstance(studio.finish()["b"], bytes)
    assert key.buffers is None
    assert key.most_rows == 8


def test_a_key_for_which_there_is_not_a_single_row_fails_its_samples() -> None:
    studio = Studio()
    studio.model.arrays = Tight(1)
    studio.add("a")
    assert isinstance(studio.finish()["a"], NoMemory)


def test_a_sample_for_which_not_a_single_row_fits_fails() -> None:
    studio = Studio()
    studio.model.memory = 0
    studio.add("a")
    studio.add("b", guidance=2.0)
    ended = studio.finish()
    assert [type(result) for result in ended.values()] == [NoMemory, NoMemory]


def test_with_guidance_a_bucket_of_one_row_is_run_twice() -> None:
    studio = Studio()
    studio.model.memory = 1
    studio.add("a", guidance=2.0)
    assert studio.finish()["a"] == alone("a", guidance=2.0)


class Crowded(Toy):
    """Has no memory while more conditions are alive than there is room for, in one of its tasks."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.given: list[weakref.ref[Any]] = []
        self.room = 99
        #: Tasks that found none.
        self.lacked: list[str] = []

    def look(self, where: str) -> None:
        if where == self.where and sum(each() is not None for each in self.given) > self.room:
            self.lacked.append(where)
            raise NoMemory(where)

    def prepare(self, item: Item[dict[str, Any]]) -> Plan:
        plan = super().prepare(item)
        sampler = Sampler("flow_euler", 4, strength=0.75)
        return dataclasses.replace(plan, sampler=sampler, start=self.start)

    def start(self) -> np.ndarray:
        self.look("start")
        return np.ones(SHAPE, np.float32)

    def encode(self, words: list[str]) -> list[Mapping[str, np.ndarray]]:
        self.look("encode")
        made = super().encode(words)
        self.given += [weakref.ref(each["words"]) for each in made]
        return made

    def denoise(self, x: np.ndarray, t: np.ndarray, conditions: Mapping[str, Any]) -> np.ndarray:
        self.look("denoise")
        return super().denoise(x, t, conditions)

    def decode(self, latents: np.ndarray, item: Item[dict[str, Any]]) -> Any:
        self.look("decode")
        return super().decode(latents, item)


def crowded(where: str, *, room: int, **asked: Any) -> Studio:
    """Return a studio that remembers three prompts, and has memory for so many from now on."""
    studio = Studio(model := Crowded(where), bucket=4)
    for words in ("fox", "cat", "sea"):
        studio.add(words, words=words, **asked)
        studio.finish()
    studio.ended.clear()
    model.room, model.rows = room, []
    return studio


@pytest.mark.parametrize("key", [(), "another"])
@pytest.mark.parametrize(("where", "room"), [("encode", 0), ("start", 5), ("denoise", 5)])
def test_memory_runs_out_for_nobody_as_long_as_something_can_be_given_up(
    where: str, room: int, key: Any
) -> None:
    studio = crowded(where, room=room, key=key)
    assert isinstance(studio.model, Crowded)
    for words in "abcd":
        studio.add(words, words=words * 5)
    ended = studio.finish()
    assert studio.model.lacked == [where]
    assert set(studio.model.rows) == {4}, "no step had fewer rows"
    roomy = crowded(where, room=99)
    for words in "abcd":
        roomy.add(words, words=words * 5)
    assert ended == roomy.finish()


def test_what_is_decoded_last_has_the_room_of_all_that_was_remembered() -> None:
    studio = crowded("decode", room=0)
    assert isinstance(studio.model, Crowded)
    studio.add("a")
    assert isinstance(studio.finish()["a"], bytes)
    assert studio.model.lacked == ["decode"]


@pytest.mark.parametrize("where", ["encode", "start", "decode"])
def test_what_finds_no_memory_a_second_time_fails_its_sample(where: str) -> None:
    studio = crowded(where, room=-1)
    assert isinstance(studio.model, Crowded)
    studio.add("a")
    assert isinstance(studio.finish()["a"], NoMemory)
    assert studio.model.lacked == [where, where]
    # Now nothing is left to be given up.
    studio.add("b")
    assert isinstance(studio.finish()["b"], NoMemory)


def test_steps_have_fewer_rows_once_nothing_can_be_given_up() -> None:
    studio = Studio(bucket=8)
    studio.add("fox", words="fox")
    studio.finish()
    studio.model.memory, studio.model.rows = 2, []
    for name in "abcdefgh":
        studio.add(name)
    ended = studio.finish()
    assert {name: ended[name] for name in "abcdefgh"} == {name: alone(name) for name in "abcdefgh"}
    assert studio.model.rows[:4] == [8, 8, 4, 2]
    assert set(studio.model.rows[3:]) == {2}


def test_words_of_those_who_are_here_outlast_a_lack_of_memory() -> None:
    studio = crowded("decode", room=1)
    assert isinstance(studio.model, Crowded)
    studio.add("a", words="rain")
    studio.denoiser.boundary()
    studio.denoiser.models.make_room()
    studio.add("b", words="rain")
    studio.add("c", words="fox")
    studio.model.encoded.clear()
    studio.finish()
    assert studio.model.encoded == [["fox"]]


def test_inputs_that_cannot_be_planned_end_at_once() -> None:
    studio = Studio()
    studio.add("rejected", wrong="no")
    studio.add("stepless", steps=0)
    studio.add("unknown", solver="none")
    studio.add("unhashable", words=[])
    ended = studio.ended
    assert isinstance(ended["rejected"], Reject)
    assert "steps=0" in str(ended["stepless"])
    assert "'none'" in str(ended["unknown"])
    assert isinstance(ended["unhashable"], TypeError)
    assert not studio.denoiser.boundary()


def test_a_decode_that_fails_fails_its_sample() -> None:
    studio = Studio()
    studio.add("a", broken=True)
    studio.add("b")
    ended = studio.finish()
    assert str(ended["a"]) == "broken"
    assert ended["b"] == alone("b")


def spoil(model: Toy) -> Toy:
    """Have the network add what a sample's `poison` says."""
    heard = model.denoise

    def denoise(x: np.ndarray, t: np.ndarray, conditions: Mapping[str, Any]) -> np.ndarray:
        poison = conditions["poison"]
        said = heard(x, t, {**conditions, "poison": np.zeros_like(poison)})
        return said + poison[:, None, None]

    model.denoise = denoise  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_samples_drawn_together_the_one_that_is_not_a_number_fails(value: float) -> None:
    studio = Studio(spoil(Toy()))
    studio.add("a")
    studio.add("bad", steps=1, poison=value)
    ended = studio.finish()
    assert isinstance(ended["bad"], FloatingPointError)
    assert "half precision" in str(ended["bad"])
    assert ended["a"] == alone("a")


def test_an_update_that_fails_fails_its_samples_and_no_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studio = Studio(bucket=2)

    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError

    for name in "abc":
        studio.add(name)
    with monkeypatch.context() as patch:
        patch.setattr("swell.diffusion.batch_buffers.solvers.advance", broken)
        studio.denoiser.boundary()
    ended = studio.finish()
    assert [type(ended[name]) for name in "ab"] == [MemoryError, MemoryError]
    assert ended["c"] == alone("c")


# Words


def test_words_are_encoded_once_and_together() -> None:
    studio = Studio()
    studio.add("a", words="fox", without="ugly", guidance=2.0)
    studio.add("b", words="cat", without="ugly", guidance=2.0)
    studio.denoiser.boundary()
    assert studio.model.encoded == [["fox", "ugly", "cat"]]
    studio.add("c", words="fox")
    studio.finish()
    assert len(studio.model.encoded) == 1


def test_words_that_cannot_be_encoded_fail_their_sample_only() -> None:
    studio = Studio()
    for name, words in (("a", "fox"), ("b", "unspeakable"), ("c", "cat")):
        studio.add(name, words=words)
    ended = studio.finish()
    assert str(ended["b"]) == "unspeakable"
    assert ended["a"] == alone("a", words="fox")
    assert ended["c"] == alone("c", words="cat")


@pytest.mark.parametrize(("most", "count"), [("MOST_TEXTS", 2), ("MOST_TEXTS_BYTES", 2 * 8)])
def test_the_oldest_words_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, most: str, count: int
) -> None:
    monkeypatch.setattr(conditioning_cache, most, count)
    studio = Studio()
    for name in ("x", "y", "x", "z", "x", "y"):
        studio.add(name, words=name)
        studio.finish()
        studio.ended.clear()
    assert studio.model.encoded == [["x"], ["y"], ["z"], ["y"]]


@pytest.mark.parametrize(("most", "count"), [("MOST_TEXTS", 1), ("MOST_TEXTS_BYTES", 8)])
def test_words_are_not_forgotten_before_those_who_need_them_are_gone(
    monkeypatch: pytest.MonkeyPatch, most: str, count: int
) -> None:
    monkeypatch.setattr(conditioning_cache, most, count)
    studio = Studio(bucket=4)
    for name, steps in (("a", 9), ("b", 6), ("c", 9)):
        studio.add(name, words=name * 3, steps=steps)
    studio.denoiser.boundary()
    studio.add("d", words="aaa")
    studio.add("e", words="ccc", steps=1)
    studio.denoiser.boundary()
    assert [sorted(words) for words in studio.model.encoded] == [["aaa", "bbb", "ccc"]]
    studio.denoiser.cancel("c")
    studio.finish()
    [resident] = studio.denoiser.models.by_name.values()
    assert len(resident.conditions._known) == 1


def test_conditions_without_names_fail_their_sample() -> None:
    studio = Studio()
    studio.model.encode = lambda words: [3 for _ in words]  # type: ignore[method-assign,return-value]
    studio.add("a")
    assert isinstance(studio.finish()["a"], AttributeError)


def test_conditions_of_another_shape_belong_to_another_key() -> None:
    studio = Studio()
    studio.add("a", words="fox")
    studio.add("b", words="long")
    studio.add("c", words="long", key=3)
    studio.denoiser.boundary()
    ended = studio.finish()
    assert "Plan.key" in str(ended["b"])
    assert all(isinstance(ended[name], bytes) for name in "ac")


# Keys


def test_samples_of_other_shapes_and_solvers_never_share_a_step() -> None:
    studio, seen = Studio(bucket=8), []
    studio.model.at_step = lambda: seen.append(1)
    studio.add("a", steps=2)
    studio.add("b", steps=2, shape=(4, 2))
    studio.add("c", steps=2, solver="euler")
    ended = studio.finish()
    assert len(seen) == 6
    assert ended["a"] == alone("a", steps=2)


def test_step_costs_are_kept_also_for_forgotten_keys() -> None:
    studio = Studio()
    for number in range(30):
        studio.add(str(number), key=number, steps=4)
        studio.finish()
    costs = studio.denoiser.models.step_costs
    assert len(costs) == 30
    assert len(studio.denoiser.models.keys) <= device_models.MOST_IDLE_KEYS + 1
    assert all(cost.measured == (4,) for cost in costs.values())


def test_of_unused_keys_the_latest_step_costs_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_models, "MOST_COSTS", 5)
    studio = Studio()
    for number in [*range(20), 9, 20, 21]:
        studio.ended.clear()
        studio.add("a", key=number, steps=1)
        studio.finish()
    names = [name.split()[-1] for name in studio.denoiser.models.step_costs]
    assert names == ["18", "19", "9", "20", "21"]


@pytest.mark.slow
def test_what_a_finished_sample_heard_is_held_by_nobody_else() -> None:
    studio = Studio(exact=False)
    crowd = studio.model = Crowded("")
    studio.add("short", words="short", guidance=2.0, steps=2)
    studio.add("long", words="long", guidance=2.0, steps=9)
    while "short" not in studio.ended:
        studio.denoiser.boundary()
    studio.denoiser.models.by_name[crowd.name].conditions.evict_all_but(frozenset())
    gc.collect()
    # Those of the long one, which the rows of the batch go on to hear.
    assert sum(each() is not None for each in crowd.given) < len(crowd.given)
    studio.finish()
    assert set(studio.ended) == {"short", "long"}


def test_a_model_that_is_not_there_is_brought_when_it_is_its_turn() -> None:
    brought: list[str] = []
    studio = Studio(load=brought.append)
    other = Toy(studio.model.clock, "test/other")
    studio.add("a", steps=3)
    studio.denoiser.set_residency(other, loaded=False, load_s=0.5)
    studio.denoiser.add([Request(id="b", model=other, item=Item({"steps": 3}, seed=1))])
    assert brought == []
    assert set(studio.finish()) == {"a", "b"}
    assert brought == ["test/other"]


def away(studio: Studio, other: Toy, *names: str) -> None:
    """Let another model's samples come while it is not on the device."""
    studio.denoiser.set_residency(other, loaded=False, load_s=0.5)
    for name in names:
        item = Item({"steps": 3}, seed=1)
        studio.denoiser.add([Request(id=name, model=other, item=item)])


def test_a_model_that_cannot_be_brought_fails_its_own_samples_only() -> None:
    def load(name: str) -> None:
        raise ValueError(f"no {name}")

    studio = Studio(load=load)
    studio.add("a", steps=3)
    away(studio, Toy(studio.model.clock, "test/other"), "b", "c")
    ended = studio.finish()
    assert isinstance(ended["a"], bytes)
    assert [str(ended[name]) for name in "bc"] == ["no test/other"] * 2


def test_what_waits_to_be_decoded_is_decoded_before_another_model_is_brought() -> None:
    decoded: list[int] = []
    studio = Studio(load=lambda name: decoded.append(len(studio.model.decoded)))
    for name in ("a", "b", "c", "d"):
        studio.add(name, steps=3)
    away(studio, Toy(studio.model.clock, "test/other"), "e")
    assert len(studio.finish()) == 5
    assert decoded == [4]


def test_a_sample_goes_on_to_the_same_picture_after_its_model_was_made_anew() -> None:
    studio = Studio()
    studio.add("a", steps=9)
    for _ in range(3):
        studio.denoiser.boundary()
    fresh = Toy(studio.model.clock)
    studio.denoiser.replace(fresh)
    studio.denoiser.set_residency(fresh, loaded=False, load_s=0.1)
    assert studio.finish()["a"] == alone("a", steps=9)
    assert fresh.decoded


class Changed(Toy):
    """Takes no more of what was taken before."""

    def prepare(self, item: Item[dict[str, Any]]) -> Plan:
        raise Reject("no longer")


def test_a_sample_that_waits_is_asked_about_anew_when_its_model_was_made_anew() -> None:
    fresh = Changed(name="test/other")

    def load(name: str) -> None:
        studio.denoiser.replace(fresh)
        studio.denoiser.set_residency(fresh, loaded=False, load_s=0.5)

    studio = Studio(load=load)
    studio.add("a", steps=3)
    away(studio, Toy(studio.model.clock, "test/other"), "b", "c")
    ended = studio.finish()
    assert ended["a"] == alone("a", steps=3)
    assert [str(ended[name]) for name in "bc"] == ["no longer"] * 2
    assert not fresh.encoded


def test_two_models_of_one_name_are_refused() -> None:
    studio = Studio()
    studio.add("a")
    studio.denoiser.add([Request(id="b", model=Toy(), item=Item({"key": 1}))])
    assert "already here" in str(studio.ended["b"])


# Telling


def test_progress_is_told_now_and_then_and_always_at_the_end() -> None:
    studio, ears = Studio(), Ears()
    studio.add("a", ears, steps=40)
    studio.finish()
    took_s = studio.model.clock.monotonic_s()
    assert ears.heard[-1] == (40, 40)
    assert ears.heard == sorted(set(ears.heard))
    assert len(ears.heard) <= took_s / step_engine.PROGRESS_EVERY_S + 2


def test_previews_are_offered_now_and_then_and_made_by_who_wants_them() -> None:
    studio, ears = Studio(Shown()), Ears()
    studio.add("a", ears, steps=80)
    studio.finish()
    took_s = studio.model.clock.monotonic_s()
    assert 1 < len(ears.previews) <= took_s / step_engine.PREVIEW_EVERY_S + 1
    pictures = [make() for make in ears.previews]
    assert len(set(pictures)) == len(pictures)


def test_the_last_preview_is_the_picture() -> None:
    studio, ears = Studio(Shown(), preview_every_s=0), Ears()
    studio.add("a", ears, steps=5)
    ended = studio.finish()
    assert len(ears.previews) == 5
    last = np.frombuffer(ears.previews[-1](), np.float32)
    assert np.allclose(last, np.frombuffer(ended["a"], np.float32), atol=1e-5)


def test_a_preview_that_finds_no_memory_is_left_out_and_its_sample_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studio, ears = Studio(Shown()), Ears()
    studio.add("idle", key="other")
    studio.finish()  # leaves rows that can be given up

    def lacks(arena: BatchBuffers, sample: Any) -> Any:
        raise NoMemory

    monkeypatch.setattr(BatchBuffers, "foreseen", lacks)
    studio.add("a", ears)
    assert studio.finish()["a"] == alone("a")
    assert not ears.previews


def test_a_model_that_replaces_its_function_is_asked_by_the_new_one_at_once() -> None:
    studio, asked = Studio(), []
    studio.add("a", steps=4)
    studio.denoiser.boundary()

    def denoise(*given: Any) -> np.ndarray:
        asked.append(1)
        return Toy.denoise(studio.model, *given)

    studio.model.denoise = denoise  # type: ignore[method-assign]
    assert studio.finish() == {"a": alone("a", steps=4)}
    assert len(asked) == 3


def test_a_model_without_previews_offers_none() -> None:
    studio, ears = Studio(preview_every_s=0), Ears()
    studio.add("a", ears)
    studio.finish()
    assert ears.previews == []


# Leaving for elsewhere


@pytest.mark.parametrize("solver", sorted(SAMPLERS))
def test_a_sample_goes_on_elsewhere_from_any_step(solver: str) -> None:
    asked = {"solver": solver, "steps": 4, "guidance": 2.0, "seed": 5}
    for steps in range(1, 5):
        here, there = Studio(bucket=2), Studio()
        here.add("a", **asked)
        here.add("later", solver=solver, steps=9)
        for _ in range(steps):
            here.denoiser.boundary()
        kept = here.denoiser.checkpoint("a")
        assert kept is not None
        there.add("a", **asked, checkpoint=kept)
        assert there.finish()["a"] == alone("a", **asked)
        assert len(there.model.rows) == STEPS[solver] + 4 - steps


def test_paused_samples_are_kept_as_well_and_new_ones_need_nothing() -> None:
    studio = Studio(bucket=1)
    studio.add("long", steps=6)
    studio.denoiser.boundary()
    studio.add("short", steps=3)
    studio.add("new", steps=5)
    studio.denoiser.boundary()
    kept = {name: studio.denoiser.checkpoint(name) for name in studio.denoiser.samples}
    assert {name for name, raw in kept.items() if raw} == {"long", "short"}
    assert studio.denoiser.checkpoint("nobody") is None
    there = Studio()
    there.add("long", steps=6, checkpoint=kept["long"])
    assert there.finish()["long"] == alone("long", steps=6)


def test_a_checkpoint_survives_another_one_of_the_same_finished_sample() -> None:
    here, there = Studio(), Studio()
    here.add("a", steps=1)
    here.denoiser.boundary()
    there.add("a", steps=1, checkpoint=here.denoiser.checkpoint("a"))
    again = Studio()
    again.add("a", steps=1, checkpoint=there.denoiser.checkpoint("a"))
    assert again.finish()["a"] == alone("a", steps=1)


@pytest.mark.parametrize("solver", sorted(SAMPLERS))
def test_a_checkpoint_may_be_made_later_and_is_of_then(solver: str) -> None:
    asked = {"solver": solver, "steps": 6, "seed": 5}
    here, there = Studio(OnDevice()), Studio()
    here.add("a", **asked)
    for _ in range(3):
        here.denoiser.boundary()
    assert here.model.device.left_s > 0
    assert here.denoiser.samples["a"].step == 3
    drawn = here.denoiser.drawn_since("a", 0)
    assert drawn is not None
    assert (drawn.step, drawn.is_at_hand) == (3, False)
    assert here.denoiser.drawn_since("a", 3) is None
    here.denoiser.boundary()
    there.add("a", **asked, checkpoint=drawn.checkpoint())
    assert there.finish()["a"] == alone("a", **asked)
    assert len(there.model.rows) == STEPS[solver] + 3


@pytest.mark.parametrize("leaves", [False, True])
def test_who_hears_that_a_sample_has_ended_can_still_ask_for_its_checkpoint(leaves: bool) -> None:
    """Also where it is decoded because its model leaves the device."""
    here, there = Studio(), Studio()
    kept = {}

    def ended(name: str, result: Any) -> None:
        kept[name] = here.denoiser.checkpoint(name)

    here.denoiser._ended = ended
    here.add("a", steps=3)
    while leaves and here.denoiser.samples["a"].step < 3:
        here.denoiser.boundary()
    here.denoiser.decode_finished()
    here.finish()
    assert here.denoiser.checkpoint("a") is None
    there.add("a", steps=3, checkpoint=kept["a"])
    assert there.finish()["a"] == alone("a", steps=3)
    assert there.model.rows == []


def test_a_checkpoint_of_another_sample_ends_with_that_reason() -> None:
    here = Studio()
    here.add("a", seed=1)
    here.denoiser.boundary()
    there = Studio()
    there.add("a", seed=2, checkpoint=here.denoiser.checkpoint("a"))
    assert isinstance(there.ended["a"], InvalidCheckpoint)


# Without an owner


def test_run_gives_one_result_or_error_per_item_in_order() -> None:
    model = Toy()
    runs = Runs(model, model.clock)
    asked: list[dict[str, Any]] = [{"steps": 5}, {"wrong": "no"}, {"steps": 1}, {"poison": 1.0}]
    for _ in range(2):
        results = runs([Item(one, seed=3) for one in asked])
        assert results[0] == alone(steps=5, seed=3)
        assert isinstance(results[1], Reject)
        assert results[2] == alone(steps=1, seed=3)
        assert str(results[3]) == "poison"
    assert runs([]) == []
    assert Counter(map(tuple, model.encoded)) == {("a",): 1}


def test_a_listener_that_stops_a_run_leaves_nothing_behind() -> None:
    class Gone(Ears):
        def progress(self, done: int, total: int) -> None:
            raise ConnectionError

    model = Toy()
    runs = Runs(model, model.clock)
    with pytest.raises(ConnectionError):
        runs([Item({}, seed=3, listener=Gone()), Item({}, seed=4)])
    assert runs([Item({}, seed=3)]) == [alone(seed=3)]


def test_a_step_model_can_be_run_as_any_other() -> None:
    model = Toy()
    assert model.run([Item({}, seed=3)]) == [alone(seed=3)]
    assert model.run([Item({}, seed=4)]) == [alone(seed=4)]
    assert model.encoded == [["a"]]


# The model that takes its time


def test_the_curve_model_sleeps_as_long_as_its_rows_take(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("swell_models.simulated_gpu.time.sleep", slept.append)
    model = CurveModel()
    for asked, rows, seconds in (
        ({"steps": 2}, 8, 0.425),
        ({"steps": 2}, 6, 0.3325),
        ({"steps": 2, "size": 1024}, 4, 0.948),
        ({"steps": 2, "curve": {2: 0.5}}, 3, 0.5),
    ):
        denoiser = StepEngine(ManualClock(), lambda name, result: None, bucket=rows)
        item = Item(CurveModel.Input(speed=100, decode_s=3.0, **asked), seed=1)
        denoiser.add([Request(id="a", model=model, item=item)])
        while denoiser.boundary():
            pass
        assert slept == [pytest.approx(seconds / 100), pytest.approx(seconds / 100), 3.0]
        slept.clear()


def test_the_curve_model_runs_samples_of_one_curve_together() -> None:
    model = CurveModel()
    plans = [
        model.prepare(Item(CurveModel.Input(**asked), seed=4, index=2))
        for asked in ({}, {"steps": 9, "seed": 5}, {"curve": {1: 0.1}}, {"size": 1024})
    ]
    assert plans[0].key == plans[1].key
    assert len({plan.key for plan in plans}) == 3
    assert [plan.seed for plan in plans] == [4, 7, 4, 4]
    for wrong in ({"size": 640}, {"curve": {0: 1.0}}, {"curve": {}}):
        with pytest.raises(ValidationError):
            CurveModel.Input(**wrong)


def test_rows_that_are_alike_in_any_company_need_no_padding() -> None:
    model = Toy()
    model.batch_invariant = True
    studio = Studio(model)
    studio.add("a", steps=2)
    studio.denoiser.boundary()
    studio.add("b", steps=1, bucket=4)
    studio.finish()
    # The plan of the second one has a bucket of its own, and so a batch key.
    assert sorted(model.rows) == [1, 1, 4]


def test_rows_that_need_no_padding_are_as_many_as_run() -> None:
    model = Toy()
    model.padded = False
    studio = Studio(model, exact=False)
    for name in "abcde":
        studio.add(name, steps=1)
    studio.finish()
    assert sum(model.rows) == 5


# Devices that work by themselves


class Device:
    """Does what it is told, one thing after another, and has a clock to be late by."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.free_s = 0.0
        self.is_broken = False

    def tell(self, seconds: float) -> None:
        self.free_s = max(self.free_s, self.clock.monotonic_s()) + seconds

    @property
    def left_s(self) -> float:
        return max(0.0, self.free_s - self.clock.monotonic_s())


class Place:
    def __init__(self, device: Device) -> None:
        self.device, self.at_s = device, device.free_s

    def wait(self) -> None:
        if self.device.is_broken:
            raise RuntimeError("the device is broken")
        self.device.clock.advance(max(0.0, self.at_s - self.device.clock.monotonic_s()))


class DeviceArrays(HostArrays):
    def __init__(self, device: Device) -> None:
        self.device = device

    def mark(self) -> Place:  # type: ignore[override]
        return Place(self.device)


class OnDevice(Toy):
    """A step takes 0.1 s of the device, and decoding 0.3 s; telling it takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.device = Device(self.clock)
        self.arrays = DeviceArrays(self.device)
        #: What the device had to do when it was told of each step.
        self.left_s: list[float] = []

    def spend(self, rows: int) -> None:
        self.left_s.append(self.device.left_s)
        self.device.tell(0.1)

    def decode(self, latents: np.ndarray, item: Item[dict[str, Any]]) -> Callable[[], bytes]:
        self.device.tell(0.3)
        picture = super().decode(latents, item)
        return partial(bytes, picture)


def test_a_device_is_told_one_step_while_it_runs_another() -> None:
    studio = Studio(OnDevice())
    studio.add("a", steps=20)
    studio.finish()
    # It never waits for the host but at first, and never has more than two steps to do.
    assert studio.model.left_s[0] == 0
    assert studio.model.left_s[1:] == pytest.approx([0.1] * 19)


def test_what_is_not_a_number_on_a_device_fails_when_its_file_is_made() -> None:
    studio = Studio(spoil(OnDevice()))
    studio.add("a")
    studio.add("bad", poison=np.nan)
    ended = studio.finish()
    assert whole(ended["a"]) == alone("a")
    with pytest.raises(FloatingPointError, match="not numbers"):
        whole(ended["bad"])


def test_a_device_that_is_told_when_it_is_due_has_no_gap_and_who_comes_joins_soon() -> None:
    model = OnDevice()
    studio = Studio(model)
    studio.add("a", steps=30)
    for step in range(30):
        if step == 20:
            studio.add("b", steps=1)
        studio.denoiser.boundary()
        if step == 20:
            # Its step was told behind the little that was left of the one before.
            assert studio.denoiser.checkpoint("b") is not None
            assert model.left_s[-1] < 0.02
        model.clock.advance(max(0.0, studio.denoiser.due_s - model.clock.monotonic_s()))
    studio.finish()
    # The device always has something to do, and hardly ever more than that.
    assert min(model.left_s[1:]) > 0
    assert max(model.left_s[6:20]) < 0.02


def test_steps_of_a_device_count_what_they_took_there() -> None:
    studio = Studio(OnDevice())
    for number in range(3):
        studio.add(str(number), steps=10 + number)
    studio.finish()
    (cost,) = studio.denoiser.models.step_costs.values()
    assert cost.measured == (4,)
    assert cost.seconds(4) == pytest.approx(0.1)
    assert len(studio.denoiser) == 0


def test_progress_is_told_when_the_device_is_there() -> None:
    model, heard_s = OnDevice(), []

    class Watch(Ears):
        def progress(self, done: int, total: int) -> None:
            super().progress(done, total)
            heard_s.append(model.clock.monotonic_s())

    studio, ears = Studio(model, progress_every_s=0), Watch()
    studio.add("a", ears, steps=5)
    began_s = model.clock.monotonic_s()
    studio.finish()
    assert ears.heard == [(n, 5) for n in range(1, 6)]
    assert [at - began_s for at in heard_s] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(samples, st.integers(0, 6)), min_size=1, max_size=6))
def test_on_a_device_pictures_are_the_same(arriving: list[tuple[dict[str, Any], int]]) -> None:
    here, there = Studio(), Studio(OnDevice())
    for boundary in range(7):
        for number, (asked, when) in enumerate(arriving):
            if when == boundary:
                here.add(str(number), **asked)
                there.add(str(number), **asked)
        here.denoiser.boundary()
        there.denoiser.boundary()
    wanted = {name: str(result) for name, result in here.finish().items()}
    assert {name: str(whole(result)) for name, result in there.finish().items()} == wanted


def test_a_device_that_breaks_takes_the_loop_with_it() -> None:
    studio = Studio(OnDevice())
    studio.add("a", steps=9)
    studio.denoiser.boundary()
    studio.model.device.is_broken = True
    with pytest.raises(RuntimeError, match="broken"):
        studio.finish()


def test_called_by_hand_a_decode_that_returns_a_function_gives_its_result() -> None:
    class Late(Toy):
        def decode(self, latents: np.ndarray, item: Item[dict[str, Any]]) -> Callable[[], str]:
            def result() -> str:
                if item.input.get("broken"):
                    raise ValueError("late")
                return "picture"

            return result

    fine, wrong = Late().run([Item({"steps": 2}), Item({"steps": 2, "broken": True})])
    assert fine == "picture"
    assert str(wrong) == "late"


# Whose time it was


class Weighed(Studio):
    """Notes what each sample had of the device, as it ends."""

    def __init__(self, model: Toy | None = None, **options: Any) -> None:
        self.share_s: dict[str, float] = {}
        super().__init__(model, **options)

    def end(self, name: str, result: Any) -> None:
        super().end(name, result)
        self.share_s[name] = self.denoiser.device_s(name)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([None, 2.0]), st.integers(0, 20)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([1, 2, 4]),
)
def test_shares_of_samples_are_the_time_that_the_device_has_worked(
    arriving: list[tuple[int, float | None, int]], bucket: int
) -> None:
    model = Toy()
    model.decode_s = 0.02
    studio, clock = Weighed(model, bucket=bucket), model.clock
    worked_s = 0.0
    for number, (steps, guidance, later) in enumerate(arriving):
        studio.add(str(number), steps=steps, guidance=guidance)
        for _ in range(later):
            begun_s = clock.monotonic_s()
            studio.denoiser.boundary()
            worked_s += clock.monotonic_s() - begun_s
            clock.advance(0.005)  # of the host, which is nobody's
    begun_s = clock.monotonic_s()
    studio.finish()
    worked_s += clock.monotonic_s() - begun_s
    assert set(studio.share_s) == {str(number) for number in range(len(arriving))}
    assert all(share_s > 0 for share_s in studio.share_s.values())
    assert sum(studio.share_s.values()) == pytest.approx(worked_s)


def test_who_draws_beside_others_pays_for_its_rows_alone() -> None:
    studio = Weighed(bucket=4)
    studio.add("a", steps=8)
    studio.add("b", steps=8, guidance=2.0)
    studio.finish()
    assert studio.share_s["b"] == pytest.approx(2 * studio.share_s["a"])


def test_a_sample_that_is_dropped_has_had_what_it_had() -> None:
    studio = Weighed(bucket=1)
    studio.add("a", steps=9)
    studio.denoiser.boundary()
    had_s = studio.denoiser.device_s("a")
    assert had_s == pytest.approx(0.011)
    studio.denoiser.cancel("a")
    studio.finish()
    assert studio.share_s == {"a": had_s}
    assert studio.denoiser.device_s("a") == 0.0


def test_shares_of_a_device_that_works_by_itself_are_its_time_too() -> None:
    model = OnDevice()
    studio = Weighed(model)
    worked_s = 0.0
    for number in range(40):
        studio.add(str(number), steps=10)
        for _ in range(12):
            studio.denoiser.boundary()
    studio.finish()
    # One after another, each has ten steps and a decoding; how long these take is learnt.
    worked_s = 40 * (10 * 0.1 + 0.3)
    told_s = sum(studio.share_s.values())
    assert told_s == pytest.approx(worked_s, rel=0.03)
    later = [studio.share_s[str(number)] for number in range(10, 40)]
    assert later == pytest.approx([1.3] * 30, rel=0.02)


def test_shares_of_a_crowd_on_a_device_that_works_by_itself_are_its_time_too() -> None:
    model = OnDevice()
    studio = Weighed(model, bucket=2)
    for number in range(60):
        studio.add(str(number), steps=3 + number % 7)
        for _ in range(3):
            studio.denoiser.boundary()
    studio.finish()
    worked_s = 0.1 * len(model.left_s) + 0.3 * 60
    assert sum(studio.share_s.values()) == pytest.approx(worked_s, rel=0.03)
