"""Rows of samples that run together."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.diffusion import solvers as solver
from swell.diffusion.batch_buffers import (
    BatchBuffers,
    BatchKey,
    Drawn,
    InvalidCheckpoint,
    SampleState,
    table_of,
)
from swell.sdk.context import Item
from swell.sdk.step_model import HostArrays, Plan, Sampler

SHAPE = (2, 3)
ARRAYS = HostArrays()
FLOW = Sampler("flow_euler", 4)
LONG = Sampler("flow_euler", 8)
LOOKS_BACK = Sampler("dpmpp_2m", 4)
LOOKS_BACK_LONG = Sampler("dpmpp_2m", 8)
DRAWS = Sampler("euler_ancestral", 4)
REPEATS = Sampler("plms", 4)


def state(name: str = "a", *, sampler: Sampler = FLOW, **plan: Any) -> SampleState:
    made = Plan(sampler=sampler, shape=SHAPE, **plan)
    table = table_of(sampler)
    one = SampleState(name, Item(None, seed=7), made, key(sampler), table)
    one.with_words = {"words": np.full(2, float(ord(name)), np.float32)}
    if one.is_guided:
        one.without_words = {"words": np.zeros(2, np.float32)}
    return one


def key(sampler: Sampler = FLOW) -> BatchKey:
    return BatchKey("test/toy", SHAPE, table_of(sampler).solver)


def arena(rows: int = 8, sampler: Sampler = FLOW) -> BatchBuffers:
    return BatchBuffers(key(sampler), ARRAYS, rows, {"words": np.zeros(2, np.float32)})


def said(x: np.ndarray, t: np.ndarray, conditions: Any) -> np.ndarray:
    return np.sin(x + conditions["words"][:, :1, None]) + t[:, None, None] / 1000


def step(rows: BatchBuffers, *states: SampleState, bucket: int = 8) -> None:
    rows.place(states)
    rows.load(bucket)
    rows.forward(said)
    rows.advance()


def latents(rows: BatchBuffers, one: SampleState) -> np.ndarray:
    rows.take(one)
    assert one.x is not None
    return np.array(one.x)


# Tables


@pytest.mark.parametrize(
    ("sampler", "table"),
    [
        (
            Sampler("euler", 5, spacing="trailing", karras=True, prediction="v"),
            solver.euler(
                solver.euler_sigmas(solver.alpha_bars(), 5, spacing="trailing", karras=True),
                prediction="v",
            ),
        ),
        (
            Sampler("ddim", 5, betas="linear", beta_start=0.001, beta_end=0.02, eta=0.5, clip=1.0),
            solver.ddim(
                solver.ddim_bars(solver.alpha_bars("linear", start=0.001, end=0.02), 5),
                eta=0.5,
                clip=1.0,
            ),
        ),
        (
            Sampler("euler", 5, train_steps=500),
            solver.euler(solver.euler_sigmas(solver.alpha_bars(train_steps=500), 5)),
        ),
        (
            Sampler("flow_euler", 5, mu=0.7, spacing="even", train_steps=10),
            solver.flow_euler(solver.flow_sigmas(5, mu=0.7, spacing="even", train_steps=10)),
        ),
        (
            Sampler("dpmpp_2m", 8, strength=0.5),
            solver.dpmpp_2m(solver.dpmpp_sigmas(solver.alpha_bars(), 8).start(4)),
        ),
        (
            Sampler("plms", 8, strength=0.5, offset=1),
            solver.plms(solver.plms_bars(solver.alpha_bars(), 8, offset=1).start(4)),
        ),
        (
            Sampler("lcm", 4, strength=0.5, timestep_scaling=5.0),
            solver.lcm(solver.lcm_bars(solver.alpha_bars(), 4, strength=0.5), timestep_scaling=5.0),
        ),
    ],
    ids=str,
)
def test_a_sampler_says_by_name_what_the_solver_takes(
    sampler: Sampler, table: solver.Table
) -> None:
    made = table_of(sampler)
    assert made.solver == table.solver
    assert np.array_equal(made.timesteps, table.timesteps)
    assert np.array_equal(made.coefficients, table.coefficients)
    assert made.from_noise == table.from_noise


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (Sampler("heun", 4), "heun"),
        (Sampler("euler", 4, shift=3.0), "shift"),
        (Sampler("flow_euler", 4, betas="linear"), "betas"),
        (Sampler("euler", 0), "steps=0"),
        (Sampler("euler", 4, spacing="odd"), "odd"),
        (Sampler("euler", 4, strength=0.0), "strength"),
    ],
)
def test_what_no_solver_knows_is_named(sampler: Sampler, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        table_of(sampler)


def test_equal_samplers_share_one_table() -> None:
    one, other = (
        Sampler("euler", 9, offset=1, karras=True),
        Sampler("euler", 9, karras=True, offset=1),
    )
    assert one == other
    assert table_of(one) is table_of(other)
    assert one != Sampler("euler", 9, offset=1)


def test_a_batch_key_has_a_name_that_tells_it_from_others() -> None:
    other = BatchKey("test/toy", (2, 4), key().solver)
    own = BatchKey("test/toy", SHAPE, key().solver, own=("lora", 77))
    assert len({str(key()), str(other), str(own), str(key(DRAWS))}) == 4
    assert str(key()) == str(key())


# Rows


def test_samples_with_guidance_have_the_first_rows() -> None:
    rows = arena()
    plain, one, two = state("a"), state("b", guidance=2.0), state("c", guidance=3.0)
    step(rows, plain, one, two)
    assert plain.row == 2
    assert {one.row, two.row} == {0, 1}


def test_the_last_sample_takes_the_row_of_a_finished_one_and_others_stay() -> None:
    rows = arena()
    states = [state(name) for name in "abcd"]
    step(rows, *states)
    before = {one.id: one.row for one in states}
    rows.take(states[1])
    step(rows, states[0], states[2], states[3])
    assert {one.id: one.row for one in states} == {**before, "b": -1, "d": before["b"]}


@pytest.mark.slow
@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1, max_size=4), max_size=8))
def test_whoever_is_paused_goes_on_where_it_was(plan: list[set[str]]) -> None:
    guided = {"b", "e"}
    states = {
        name: state(name, sampler=LOOKS_BACK_LONG, guidance=3.0 if name in guided else None)
        for name in "abcdef"
    }
    rows = arena(sampler=LOOKS_BACK_LONG)
    for names in plan:
        step(rows, *(states[name] for name in sorted(names)))
        used = sorted(one.row for one in states.values() if one.row >= 0)
        assert used == list(range(len(names)))
    for name, one in states.items():
        if one.step:
            alone = state(name, sampler=LOOKS_BACK_LONG, guidance=one.plan.guidance)
            own = arena(sampler=LOOKS_BACK_LONG)
            for _ in range(one.step):
                step(own, alone, bucket=2)
            assert np.array_equal(latents(rows, one), latents(own, alone))


def test_whoever_sits_hears_and_sees_the_same_whatever_bucket_comes_next() -> None:
    buckets = (8, 8, 2, 4, 4, 1)
    both = [state("a", guidance=3.0, sampler=LONG), state("b", sampler=LONG)]
    rows = arena(sampler=LONG)
    for bucket in buckets:
        step(rows, *both, bucket=bucket)
    for one in both:
        own = arena(sampler=LONG)
        other = state(one.id, guidance=one.plan.guidance, sampler=LONG)
        for _ in buckets:
            step(own, other, bucket=2)
        assert np.array_equal(latents(rows, one), latents(own, other))


def test_what_could_not_be_written_down_is_written_the_next_time() -> None:
    class Once:
        """Rows of conditions that have no room at first."""

        def __init__(self, rows: Any) -> None:
            self.rows, self.failed = rows, False

        def __setitem__(self, row: int, value: Any) -> None:
            if not self.failed:
                self.failed = True
                raise MemoryError
            self.rows[row] = value

        def __getitem__(self, rows: Any) -> Any:
            return self.rows[rows]

    one, two, rows = state("a"), state("a"), arena()
    step(rows, one)
    rows._conditions = {name: Once(values) for name, values in rows._conditions.items()}
    rows._row_conditions[0] = None
    rows.place([one])
    with pytest.raises(MemoryError):
        rows.load(4)
    step(rows, one, bucket=8)
    own = arena()
    for _ in range(2):
        step(own, two)
    assert np.array_equal(latents(rows, one), latents(own, two))


def test_a_sample_with_guidance_can_run_in_a_bucket_of_one() -> None:
    one, other = state(guidance=4.0), state(guidance=4.0)
    narrow, wide = arena(rows=1), arena()
    step(narrow, one, bucket=1)
    step(wide, other, bucket=8)
    assert np.array_equal(latents(narrow, one), latents(wide, other))


def test_guidance_leans_from_the_row_without_words_to_the_one_with_them() -> None:
    one = state(guidance=4.0)
    rows = arena()
    rows.place([one])
    rows.load(8)
    start = np.array(rows.latents(one)[0])
    rows.forward(said)
    rows.advance()
    t = np.array([one.table.timesteps[0]], np.float32)
    c = said(start[None], t, {"words": one.with_words["words"][None]})
    u = said(start[None], t, {"words": one.without_words["words"][None]})
    b = one.table.coefficients[0, 1]
    assert np.allclose(latents(rows, one), start + b * (u + 4 * (c - u))[0], atol=1e-6)


def test_a_sample_that_starts_from_a_picture_begins_with_part_of_it() -> None:
    picture = np.full(SHAPE, 5.0, np.float32)
    sampler = Sampler("flow_euler", 4, strength=0.5)
    one = state(sampler=sampler, start=picture)
    keep, add = one.table.from_image
    assert len(one.table) == 2
    assert 0 < keep < 1
    begun = one.begin(ARRAYS)
    assert np.array_equal(begun, solver.noise(7, SHAPE) * np.float32(add) + picture * keep)


def test_nothing_moves_before_the_network_has_said_something_sensible() -> None:
    one = state(sampler=DRAWS)
    rows = arena(sampler=DRAWS)
    rows.place([one])
    rows.load(8)
    before = np.array(rows.latents(one)[0])
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        rows.forward(lambda x, t, c: x[:1])
    assert np.array_equal(rows.latents(one)[0], before)
    assert one.step == 0


def test_padding_holds_nothing_of_who_was_there_before() -> None:
    rows, seen = arena(), []

    def looks(x: np.ndarray, t: np.ndarray, conditions: Any) -> np.ndarray:
        seen.append((x, t, conditions["words"]))
        return said(x, t, conditions)

    one, others = state("a"), [state(name, guidance=2.0) for name in "bcd"]
    step(rows, one, *others)
    rows.place([one])
    rows.load(8)
    rows.forward(looks)
    for values in seen[0]:
        assert len(values) == 8
        assert all(np.array_equal(values[0], value) for value in values)


def test_conditions_of_other_shapes_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"Plan\.key"):
        arena().check({"words": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"Plan\.key"):
        arena().check({})


@pytest.mark.parametrize(
    "sampler",
    [FLOW, LOOKS_BACK, Sampler("euler", 4), Sampler("euler", 4, prediction="v"), DRAWS,
     Sampler("ddim", 4, eta=1.0), Sampler("dpmpp_2m", 4, prediction="v")],
    ids=str,
)  # fmt: skip
def test_what_is_foreseen_before_the_last_step_is_what_it_ends_at(sampler: Sampler) -> None:
    one, rows = state(sampler=sampler), arena(sampler=sampler)
    for _ in range(3):
        step(rows, one)
    rows.place([one])
    rows.load(8)
    rows.forward(said)
    foreseen = rows.foreseen(one)
    rows.advance()
    assert np.allclose(latents(rows, one), foreseen(), atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("after", range(5))
def test_plms_foresees_by_what_it_hears_now(prediction: str, after: int) -> None:
    sampler = Sampler("plms", 4, prediction=prediction)
    one, rows = state(sampler=sampler), arena(sampler=sampler)
    for _ in range(after):
        step(rows, one)
    rows.place([one])
    rows.load(8)
    x = np.array(rows.latents(one)[0])
    rows.forward(said)
    t = one.table.timesteps[after : after + 1]
    m = said(x[None], t, {"words": one.with_words["words"][None]})[0]
    a = solver.alpha_bars()[int(t[0])]
    fresh = m if prediction == "epsilon" else np.sqrt(a) * m + np.sqrt(1 - a) * x
    promised = (x - np.sqrt(1 - a) * fresh) / np.sqrt(a)
    assert np.allclose(rows.foreseen(one)(), promised, rtol=1e-3, atol=1e-4)


def test_a_consistency_model_foresees_a_picture_of_its_own() -> None:
    sampler = Sampler("lcm", 4)
    one, rows = state(sampler=sampler), arena(sampler=sampler)
    rows.place([one])
    rows.load(8)
    x = np.array(rows.latents(one)[0])
    rows.forward(said)
    m = said(x[None], one.table.timesteps[:1], {"words": one.with_words["words"][None]})[0]
    a = solver.alpha_bars()[int(one.table.timesteps[0])]
    assert np.allclose(rows.foreseen(one)(), (x - np.sqrt(1 - a) * m) / np.sqrt(a), rtol=1e-3)


# Checkpoints


def checkpoint(rows: BatchBuffers, sample: SampleState) -> bytes:
    x, h = rows.latents(sample)
    return Drawn(sample, sample.step, sample.is_narrowed, ARRAYS, x, h, True).checkpoint()


@pytest.mark.parametrize(
    "sampler", [FLOW, LOOKS_BACK, DRAWS, REPEATS, Sampler("ddim", 4, eta=0.5)], ids=str
)
@pytest.mark.parametrize("after", [1, 3])
def test_a_checkpoint_goes_on_elsewhere_with_the_same_bits(sampler: Sampler, after: int) -> None:
    stays, goes, rows = state(sampler=sampler), state(sampler=sampler), arena(sampler=sampler)
    while not stays.is_finished:
        step(rows, stays)
    for _ in range(after):
        step(rows, goes)
    kept = checkpoint(rows, goes)
    comes, elsewhere = state(sampler=sampler), arena(sampler=sampler)
    comes.resume(kept, ARRAYS)
    assert comes.step == after
    while not comes.is_finished:
        step(elsewhere, comes)
    assert np.array_equal(latents(elsewhere, comes), latents(rows, stays))


def test_a_checkpoint_of_something_else_is_refused() -> None:
    one, rows = state(), arena()
    step(rows, one)
    kept = checkpoint(rows, one)
    for raw in (b"", b"nonsense", kept[:-1], kept[:20]):
        with pytest.raises(InvalidCheckpoint):
            state().resume(raw, ARRAYS)
    for other in (state(seed=8), state(sampler=Sampler("flow_euler", 5)), state(sampler=DRAWS)):
        with pytest.raises(InvalidCheckpoint, match="seed"):
            other.resume(kept, ARRAYS)
