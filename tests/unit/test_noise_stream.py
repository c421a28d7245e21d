"""Models that bring their own stream of noise, and pictures that are looked at late."""

from typing import Any

import numpy as np
import pytest

import swell
from swell.diffusion import solvers as solver
from swell.diffusion.batch_buffers import BatchKey, Drawn, InvalidCheckpoint, SampleState, table_of
from swell.diffusion.run_locally import Runs
from swell.diffusion.solvers import Noise
from swell.sdk.context import Item
from swell.sdk.step_model import HostArrays, Plan, Sampler

SHAPE = (2, 3)
ARRAYS = HostArrays()
ANCESTRAL = Sampler("euler_ancestral", 5)


def checkpoint(sample: SampleState, x: Any) -> bytes:
    return Drawn(sample, sample.step, False, ARRAYS, x, None, True).checkpoint()


class Counting:
    """Numbers from a seed on, one after the other: what was drawn can be read from it."""

    def __init__(self, seed: int) -> None:
        self.next = seed

    def draw(self, shape: tuple[int, ...]) -> Any:
        out = np.empty(shape, np.float32)
        self.fill(out)
        return out

    def fill(self, out: Any) -> None:
        count = out.size
        out[...] = np.arange(self.next, self.next + count, dtype=np.float32).reshape(out.shape)
        self.next += count


def state(sampler: Sampler = ANCESTRAL, *, stream: Any = None, **plan: Any) -> SampleState:
    made = Plan(sampler=sampler, shape=SHAPE, **plan)
    table = table_of(sampler)
    key = BatchKey("test/toy", SHAPE, table.solver)
    return SampleState("a", Item(None, seed=7), made, key, table, stream=stream)


def own(seed: int, plan: Plan) -> Counting:
    return Counting(seed)


def test_latents_begin_with_the_models_own_noise() -> None:
    one = state(stream=own)
    expected = np.arange(7, 13, dtype=np.float32).reshape(SHAPE) * np.float32(one.table.from_noise)
    np.testing.assert_array_equal(one.begin(ARRAYS), expected)
    out = np.empty(SHAPE, np.float32)
    assert one.noise is not None
    one.noise.fill(out)
    np.testing.assert_array_equal(out, np.arange(13, 19, dtype=np.float32).reshape(SHAPE))


def test_without_one_the_noise_is_swells() -> None:
    one = state()
    np.testing.assert_array_equal(
        one.begin(ARRAYS), Noise(7).draw(SHAPE) * np.float32(one.table.from_noise)
    )


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_resumed_sample_goes_on_in_its_own_stream(step: int) -> None:
    one = state(stream=own)
    x = one.begin(ARRAYS)
    out = np.empty(SHAPE, np.float32)
    for _ in range(step):
        assert one.noise is not None
        one.noise.fill(out)
        one.step += 1
    again = state(stream=own)
    again.resume(checkpoint(one, x), ARRAYS)
    mine, theirs = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.float32)
    assert one.noise is not None
    one.noise.fill(mine)
    assert again.noise is not None
    again.noise.fill(theirs)
    np.testing.assert_array_equal(mine, theirs)


def test_a_picture_to_start_from_may_be_made_late_and_once() -> None:
    calls = []

    def start() -> Any:
        calls.append(1)
        return np.full(SHAPE, 2.0, np.float32)

    sampler = Sampler("flow_euler", 4, strength=0.5)
    one = state(sampler, start=start, stream=own)
    assert not calls
    one.look()
    late = one.begin(ARRAYS)
    assert calls == [1]
    at_once = state(sampler, start=np.full(SHAPE, 2.0, np.float32), stream=own).begin(ARRAYS)
    np.testing.assert_array_equal(late, at_once)


def test_a_resumed_sample_does_not_look_at_its_picture_again() -> None:
    def never() -> Any:
        raise AssertionError("it has begun")

    sampler = Sampler("flow_euler", 4, strength=0.5)
    one = state(sampler, start=np.zeros(SHAPE, np.float32))
    x = one.begin(ARRAYS)
    one.step = 1
    again = state(sampler, start=never)
    again.resume(checkpoint(one, x), ARRAYS)
    again.look()
    assert again.step == 1
    with pytest.raises(InvalidCheckpoint):
        state(Sampler("flow_euler", 5)).resume(checkpoint(one, x), ARRAYS)


@pytest.mark.parametrize(("strength", "skip"), [(0.5, 5), (0.3, 7), (1.0, 0)])
def test_skip_says_strength_in_steps(strength: float, skip: int) -> None:
    first = table_of(Sampler("euler", 10, strength=strength))
    second = table_of(Sampler("euler", 10, skip=skip))
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert first.from_image == second.from_image


def test_skip_leaves_out_steps_of_a_consistency_model_too() -> None:
    whole, later = table_of(Sampler("lcm", 4)), table_of(Sampler("lcm", 4, skip=1))
    np.testing.assert_array_equal(whole.timesteps[1:], later.timesteps)
    with pytest.raises(ValueError, match="start at step 4"):
        table_of(Sampler("lcm", 4, skip=4))


class Painter(swell.StepModel):
    """Says nothing; its picture is its noise."""

    name = "test/still"

    def noise(self, seed: int, plan: Plan) -> Counting:
        return Counting(seed + len(plan.shape))

    def prepare(self, item: Item[Any]) -> Plan:
        fails = item.index == 1
        sampler = Sampler("flow_euler", 2, strength=0.5) if fails else Sampler("flow_euler", 2)
        return Plan(sampler=sampler, shape=SHAPE, start=self.broken if fails else None)

    def broken(self) -> Any:
        raise ValueError("no such picture")

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        return x * 0

    def decode(self, latents: Any, item: Item[Any]) -> Any:
        return latents.tolist()


def test_the_engine_asks_the_model_for_its_noise() -> None:
    [result] = Runs(Painter())([Item(None, seed=5)])
    assert result == [[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]


def test_a_picture_that_cannot_be_made_fails_its_sample_alone() -> None:
    good, bad = Runs(Painter())([Item(None, seed=5), Item(None, seed=5, index=1)])
    assert good == [[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]
    assert isinstance(bad, ValueError)
    assert str(bad) == "no such picture"


def test_ddim_takes_networks_that_say_the_velocity() -> None:
    """With what v says put into noise, the step is that of a network that says noise."""
    bars = solver.ddim_bars(solver.alpha_bars(), 6)
    plain, v_table = solver.ddim(bars), solver.ddim(bars, prediction="v")
    rng = np.random.default_rng(1)
    for step in range(6):
        a = bars.bars[step]
        picture, noise = rng.standard_normal((2, 1, 4))
        x = np.sqrt(a) * picture + np.sqrt(1 - a) * noise
        v = np.sqrt(a) * noise - np.sqrt(1 - a) * picture
        ends = []
        for table, said in ((plain, noise), (v_table, v)):
            moved = x.astype(np.float32)
            k = table.coefficients[step : step + 1]
            solver.advance(table.solver, moved, said.astype(np.float32), k)
            ends.append(moved)
        np.testing.assert_allclose(*ends, rtol=2e-4, atol=2e-4)
