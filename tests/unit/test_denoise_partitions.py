"""Samples of a device that is apart into partitions, each with steps of its own."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from denoise_harness import (
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

from swell.sdk.context import Cancelled, Item
from swell.worker import denoise
from swell.worker.denoise import Request

WAIT_S = 20.0
#: What `poison` is of those whose steps wait for a gate.
HELD = -1.0


class Partitioned(Toy):
    """A model on processors that can be apart."""

    batch_invariant = True
    padded = False

    def __init__(self, partitions: int = 2) -> None:
        super().__init__()
        self.partitions = partitions
        #: Rows of the steps of partitions, as they began; and whether those that are held may end.
        self.apart: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def denoise_in_partition(
        self, x: np.ndarray, t: np.ndarray, conditions: Mapping[str, Any]
    ) -> np.ndarray:
        self.apart.append(len(x))
        if (conditions["poison"] == HELD).any():
            assert self.gate.wait(WAIT_S)
        with self._lock:
            rows, self.rows = self.rows, []
            try:
                return self.denoise(x, t, conditions)
            finally:
                self.rows = rows


class Divided(Studio):
    """A denoiser with such a model, which knows that larger steps pay."""

    model: Partitioned

    def __init__(self, partitions: int = 2, **options: Any) -> None:
        super().__init__(Partitioned(partitions), **options)
        self.denoiser.set_residency(self.model, loaded=True, load_s=0.0)
        # What steps take is looked at before any of them is apart.
        self.add("first", steps=4, guidance=3.0)
        self.finish()
        while self.denoiser.learn():
            pass
        self.ended.clear()
        self.model.rows.clear()

    def add_held(self, name: str, ears: Ears | None = None, **asked: Any) -> None:
        self.model.gate.clear()
        self.add(name, ears, poison=HELD, **asked)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(samples, st.integers(0, 12)), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from([2, 3]),
    st.sets(st.integers(0, 8), max_size=3),
    st.sampled_from([1, 2, 5, 99]),
)
def test_in_whatever_partition_a_picture_depends_on_its_input_alone(
    arriving: list[tuple[dict[str, Any], int]],
    exact: bool,
    partitions: int,
    dropped: set[int],
    memory: int,
) -> None:
    studio = Divided(partitions, exact=exact)
    studio.model.memory = memory
    all_are_drawn_as_alone(studio, arriving, dropped)


def test_one_sample_has_the_whole_device_and_two_have_a_partition_each() -> None:
    studio = Divided()
    studio.add("a", steps=4, guidance=3.0)
    studio.denoiser.boundary()
    assert (studio.model.rows, studio.model.apart) == ([2], [])
    studio.add("b", steps=2, guidance=3.0)
    studio.finish()
    # When the shorter one is done, the other one has both partitions again.
    assert set(studio.model.apart) == {2}
    assert len(studio.model.apart) in (3, 4, 5)
    assert studio.model.rows == [2] * (6 - len(studio.model.apart))


def test_a_partition_that_takes_long_holds_up_nobody_in_another() -> None:
    studio, ears = Divided(progress_every_s=0), Ears()
    studio.add_held("slow", ears, steps=3, guidance=3.0)
    studio.add("quick", steps=5, guidance=3.0)
    for _ in range(7):
        studio.denoiser.boundary()
        if "quick" in studio.ended:
            break
    assert (list(studio.ended), ears.heard) == (["quick"], [])
    studio.model.gate.set()
    assert studio.finish()["slow"] == alone("slow", steps=3, guidance=3.0)


def test_partitions_share_who_is_there() -> None:
    studio = Divided()
    for name in "abcd":
        studio.add(name, steps=3, guidance=3.0)
    studio.denoiser.boundary()
    studio.denoiser.settle()
    assert studio.model.apart == [4, 4]
    assert studio.finish() == {name: alone(name, steps=3, guidance=3.0) for name in "abcd"}


def test_who_comes_while_a_partition_is_idle_begins_at_once() -> None:
    studio = Divided()
    studio.add_held("slow", steps=1, guidance=3.0)
    studio.add("quick", steps=1, guidance=3.0)
    for _ in range(3):
        studio.denoiser.boundary()
        if studio.ended:
            break
    studio.add("new", steps=2, guidance=3.0)
    for _ in range(4):
        studio.denoiser.boundary()
        if "new" in studio.ended:
            break
    assert list(studio.ended) == ["quick", "new"]
    studio.model.gate.set()
    studio.finish()


def test_whoever_is_cancelled_amid_a_step_is_dropped_when_it_has_landed() -> None:
    studio = Divided()
    studio.add_held("slow", steps=3, guidance=3.0)
    studio.add("quick", steps=3, guidance=3.0)
    studio.denoiser.boundary()
    studio.denoiser.cancel("slow")
    studio.denoiser.boundary()
    assert "slow" not in studio.ended
    studio.model.gate.set()
    ended = studio.finish()
    assert isinstance(ended["slow"], Cancelled)
    assert ended["quick"] == alone("quick", steps=3, guidance=3.0)


def test_amid_a_step_a_checkpoint_is_of_the_step_before() -> None:
    studio = Divided()
    asked: dict[str, Any] = {"steps": 4, "guidance": 3.0}
    studio.add_held("a", **asked)
    studio.denoiser.boundary()
    studio.add("b", **asked)
    for _ in range(2):
        studio.denoiser.boundary()
    kept, step = studio.denoiser.checkpoint("a"), studio.denoiser.step_of("a")
    assert (kept is not None, step, studio.denoiser.step_of("b")) == (True, 1, 1)
    studio.model.gate.set()
    studio.finish()
    other = Studio()
    other.add("a", checkpoint=kept, **asked)
    assert other.denoiser.step_of("a") == 1
    assert other.finish()["a"] == alone("a", **asked)


def test_another_batch_key_ends_the_partitions_and_all_are_drawn() -> None:
    studio = Divided()
    for name in "abc":
        studio.add(name, steps=4, guidance=3.0)
    studio.denoiser.boundary()
    studio.add("other", steps=4, shape=(4, 2))
    for _ in range(4):
        studio.denoiser.boundary()
    assert len(studio.model.apart) == 2
    ended = studio.finish()
    assert ended == {
        **{name: alone(name, steps=4, guidance=3.0) for name in "abc"},
        "other": alone("other", steps=4, shape=(4, 2)),
    }


def test_before_a_model_leaves_its_partitions_have_landed() -> None:
    studio = Divided()
    for name in "ab":
        studio.add(name, steps=4, guidance=3.0)
    studio.denoiser.boundary()
    studio.denoiser.set_residency(studio.model, loaded=False, load_s=1.0)
    assert [studio.denoiser.step_of(name) for name in "ab"] == [1, 1]
    assert studio.finish() == {name: alone(name, steps=4, guidance=3.0) for name in "ab"}


def test_no_memory_in_one_partition_means_fewer_rows_in_all() -> None:
    studio = Divided()
    lacking, both_run = [NoMemory(), NoMemory()], threading.Barrier(2)

    def lacks(*given: Any) -> np.ndarray:
        if lacking:
            error = lacking.pop()
            both_run.wait(10)
            raise error
        return Partitioned.denoise_in_partition(studio.model, *given)

    studio.model.denoise_in_partition = lacks  # type: ignore[method-assign]
    for number in range(8):
        studio.add(str(number), steps=3)
    ended = studio.finish()
    assert ended == {str(n): alone(str(n), steps=3) for n in range(8)}
    # Both found it out, of one step each.
    (key,) = studio.denoiser._keys
    assert studio.denoiser._schedule.memory(key).rows == 4
    assert max(studio.model.apart) == 2


def test_what_finds_no_memory_beside_another_one_is_tried_alone() -> None:
    studio = Divided()

    def lacks(*given: Any) -> np.ndarray:
        raise NoMemory

    studio.model.denoise_in_partition = lacks  # type: ignore[method-assign]
    for name in "ab":
        studio.add(name, steps=3)
    assert studio.finish() == {name: alone(name, steps=3) for name in "ab"}


def test_a_model_moves_away_only_once_its_partitions_have_landed() -> None:
    other, kept = Studio(Toy(name="test/other")), []
    other.denoiser._ended = lambda name, result: kept.append(other.denoiser.checkpoint(name))
    other.add("b", steps=2)
    other.finish()
    flights: list[int] = []
    studio = Divided(load=lambda name: flights.append(len(studio.denoiser._flights)))
    studio.denoiser.set_residency(other.model, loaded=False, load_s=1.0)
    for name in "ac":
        studio.add(name, steps=4, guidance=3.0)
    studio.denoiser.boundary()
    item = Item({"steps": 2}, seed=sum(b"b"))
    studio.denoiser.add([Request(id="b", model=other.model, item=item, checkpoint=kept[0])])
    ended = studio.finish()
    assert flights == [0]
    assert ended["b"] == alone("b", steps=2)


def test_nothing_of_those_who_are_gone_is_heard_in_any_partition() -> None:
    studio = Divided()
    for number in range(6):
        studio.add(str(number), steps=2 + number, guidance=3.0, words=str(number))
    studio.finish()
    (known,) = studio.denoiser._keys.values()
    assert len(known.arenas) == 2
    heard = [one for arena in known.arenas.values() for one in arena._hearers]
    assert not any(one is not None for one in heard)


def test_the_same_model_made_anew_may_have_other_partitions() -> None:
    studio = Divided(3)
    for number in range(8):
        studio.add(str(number), steps=4)
    studio.denoiser.boundary()
    studio.model = Partitioned(2)
    studio.denoiser.replace(studio.model)
    studio.denoiser.set_residency(studio.model, loaded=True, load_s=0.0)
    assert studio.finish() == {str(n): alone(str(n), steps=4) for n in range(8)}
    assert studio.model.apart


def test_where_memory_has_no_room_for_partitions_there_are_none() -> None:
    studio = Divided()
    studio.model.memory = 1
    for name in "abc":
        studio.add(name, steps=2)
    ended = studio.finish()
    assert ended == {name: alone(name, steps=2) for name in "abc"}
    assert not any(isinstance(result, NoMemory) for result in ended.values())


def test_where_there_is_no_room_for_rows_of_a_partition_all_share_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studio = Divided()
    expected = {name: alone(name, steps=3, guidance=3.0) for name in "abc"}

    def refuse(*_: Any) -> None:
        raise NoMemory

    monkeypatch.setattr(denoise, "Arena", refuse)
    for name in "abc":
        studio.add(name, steps=3, guidance=3.0)
    assert studio.finish() == expected
    assert len(studio.model.apart) == 1  # that of the first one, which has rows


def test_shares_of_partitions_are_no_more_than_the_device_has_worked() -> None:
    studio, shares = Divided(), {}

    def end(name: str, result: Any) -> None:
        studio.end(name, result)
        shares[name] = studio.denoiser.take_share(name)

    studio.denoiser._ended = end
    begun_s = studio.model.clock.monotonic_s()
    for name in "abcd":
        studio.add(name, steps=6, guidance=3.0)
    studio.finish()
    # All of it, but for the time in which one of them has no step while the other one has.
    worked_s = studio.model.clock.monotonic_s() - begun_s
    assert 0.4 * worked_s < sum(shares.values()) <= worked_s


def test_who_writes_only_denoise_anew_has_no_partitions() -> None:
    class Louder(Partitioned):
        def denoise(self, x: np.ndarray, t: np.ndarray, conditions: Mapping[str, Any]) -> Any:
            return 2 * super().denoise(x, t, conditions)

    studio = Divided()
    louder = Studio(Louder())
    louder.denoiser.set_residency(louder.model, loaded=True, load_s=0.0)
    (key,) = studio.denoiser._keys
    for each in (studio, louder):
        each.add("a", steps=2)
        each.finish()
    assert studio.denoiser._schedule._keys[key].partitions == 2
    assert louder.denoiser._schedule._keys[key].partitions == 1


def test_called_by_hand_a_model_with_partitions_gives_what_others_give() -> None:
    items = [Item({"steps": 2 + n, "guidance": 3.0}, seed=n) for n in range(5)]
    expected, model = Toy().run(items), Partitioned()
    # It has to find out that larger steps pay.
    for _ in range(50):
        assert model.run(items) == expected
        if model.apart:
            break
    assert model.apart
