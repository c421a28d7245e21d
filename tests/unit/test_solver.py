"""From noise to picture: closed forms, batches, and the bits where diffusers ended.

`data/solver_golden.json` comes from `python benchmarks/engine_solver.py --write-golden`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swell.diffusion import solvers as solver
from swell.diffusion.solvers import (
    Noise,
    Sigmas,
    Solver,
    Table,
    advance,
    alpha_bars,
    ddim,
    ddim_bars,
    dpmpp_2m,
    dpmpp_sigmas,
    euler,
    euler_ancestral,
    euler_sigmas,
    first_step,
    flow_euler,
    flow_sigmas,
    gather,
    guide,
    lcm,
    lcm_bars,
    noise,
    plms,
    plms_bars,
    scale_input,
)

GOLDEN = json.loads((Path(__file__).parent / "data" / "solver_golden.json").read_text())
SHAPE = (2, 3, 4)
BARS = alpha_bars()

#: Every solver with every prediction, for a number of steps.
KINDS: dict[str, Callable[[int], Table]] = {
    "euler": lambda n: euler(euler_sigmas(BARS, n)),
    "euler v": lambda n: euler(euler_sigmas(BARS, n, spacing="trailing"), prediction="v"),
    "euler karras": lambda n: euler(euler_sigmas(BARS, n, karras=True)),
    "ancestral": lambda n: euler_ancestral(euler_sigmas(BARS, n)),
    "ancestral v": lambda n: euler_ancestral(euler_sigmas(BARS, n), prediction="v"),
    "flow": lambda n: flow_euler(flow_sigmas(n, shift=3.0)),
    "flow mu": lambda n: flow_euler(flow_sigmas(n, mu=0.63, spacing="even")),
    "ddim": lambda n: ddim(ddim_bars(BARS, n)),
    "ddim eta": lambda n: ddim(ddim_bars(BARS, n, offset=1), eta=0.6),
    "lcm": lambda n: lcm(lcm_bars(BARS, n)),
    "plms": lambda n: plms(plms_bars(BARS, n, clean_end=True)),
    "plms v": lambda n: plms(plms_bars(BARS, n, offset=1), prediction="v"),
    "dpm++": lambda n: dpmpp_2m(dpmpp_sigmas(BARS, n)),
    "dpm++ v": lambda n: dpmpp_2m(dpmpp_sigmas(BARS, n), prediction="v"),
    "dpm++ karras": lambda n: dpmpp_2m(dpmpp_sigmas(BARS, n, karras=True)),
}
kinds = st.sampled_from(sorted(KINDS))
counts = st.integers(1, 50)


# --- the bits where diffusers ended --------------------------------------------------------------


def table_of(case: dict[str, Any], steps: int) -> Table:
    (schedule, schedule_options), (name, options) = case["schedule"], case["solver"]
    bars = [] if schedule == "flow_sigmas" else [alpha_bars(**case["betas"])]
    plan = getattr(solver, schedule)(*bars, steps, **schedule_options)
    if case["partial"]:
        plan = plan.start(steps // 3)
    table: Table = getattr(solver, name)(plan, **options)
    return table


class Arena:
    """Samples that join one batch one after another and leave it when they are done."""

    def __init__(self, tables: list[Table], shape: tuple[int, ...], *, partial: bool) -> None:
        self.tables = tables
        self.streams = [Noise(seed) for seed in range(len(tables))]
        self.x = np.stack(
            [self._first(seed, shape, partial=partial) for seed in range(len(tables))]
        )
        self.h = np.zeros((len(tables), tables[0].solver.history, *shape), np.float32)
        self.done = [0] * len(tables)
        self.pattern = noise(GOLDEN["pattern_seed"], shape)

    def _first(self, seed: int, shape: tuple[int, ...], *, partial: bool) -> Any:
        table, fresh = self.tables[seed], self.streams[seed].draw(shape)
        if not partial:
            return fresh * np.float32(table.from_noise)
        picture, share = (np.float32(scale) for scale in table.from_image)
        return picture * noise(1000 + seed, shape) + share * fresh

    def run(self) -> Any:
        tick = 0
        while any(at < len(table) for at, table in zip(self.done, self.tables, strict=True)):
            rows = [i for i, table in enumerate(self.tables) if self.done[i] < len(table)]
            self.step([i for i in rows if i <= tick])
            tick += 1
        return self.x

    def step(self, rows: list[int]) -> None:
        if not rows:
            return
        tables = [self.tables[i] for i in rows]
        steps = [self.done[i] for i in rows]
        k = gather(tables, steps)
        x, h, z = self.x[rows], self.h[rows], np.zeros_like(self.x[rows])
        for row, i in enumerate(rows):
            if tables[row].draws[steps[row]]:
                self.streams[i].fill(z[row])
        m = np.empty_like(x)
        scale_input(tables[0].solver, x, k, m)
        heard = np.array([t.timesteps[at] for t, at in zip(tables, steps, strict=True)], np.float32)
        np.clip(m * np.float32(1.25), -1, 1, out=m)
        m += self.pattern * (heard.reshape(-1, 1, 1, 1) * np.float32(0.001))
        advance(tables[0].solver, x, m, k, z=z, h=h)
        self.x[rows], self.h[rows] = x, h
        for i in rows:
            self.done[i] += 1


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_a_batch_of_six_step_counts_ends_at_the_bits_of_diffusers(name: str) -> None:
    case = GOLDEN["cases"][name]
    tables = [table_of(case, steps) for steps in case["steps"]]
    ends = Arena(tables, tuple(GOLDEN["shape"]), partial=case["partial"]).run()
    np.testing.assert_allclose([end.ravel()[:3] for end in ends], case["first_values"], rtol=1e-6)
    found = [hashlib.sha256(end.astype("<f4").tobytes()).hexdigest() for end in ends]
    assert found == case["sha256"]


def test_golden_cases_cover_every_solver_and_prediction() -> None:
    covered = {
        (case["solver"][0], case["solver"][1].get("prediction", "epsilon"))
        for case in GOLDEN["cases"].values()
    }
    made = {(make(2).solver.name, make(2).solver.prediction) for make in KINDS.values()}
    assert covered == made


def test_a_seed_gives_the_noise_that_it_gave_when_the_golden_values_were_made() -> None:
    found = noise(GOLDEN["pattern_seed"], tuple(GOLDEN["shape"])).ravel()[:8]
    assert [float(value) for value in found] == GOLDEN["pattern_first_values"]


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.slow
@given(kind=kinds, mix=st.lists(counts, min_size=1, max_size=8), seed=st.integers(0, 99))
def test_a_sample_ends_at_the_same_bits_alone_and_among_any_others(
    kind: str, mix: list[int], seed: int
) -> None:
    tables = [KINDS[kind](n) for n in mix]
    steps = [(seed + 7 * row) % len(table) for row, table in enumerate(tables)]
    k = gather(tables, steps)
    x, m, z = (noise(4 * seed + part, (len(mix), *SHAPE)) for part in range(3))
    h = noise(4 * seed + 3, (len(mix), tables[0].solver.history, *SHAPE))
    alone = []
    for row in range(len(mix)):
        one = slice(row, row + 1)
        xs, ms, zs, hs = (array[one].copy() for array in (x, m, z, h))
        advance(tables[0].solver, xs, ms, k[one], z=zs, h=hs)
        alone.append((xs[0].tobytes(), hs[0].tobytes()))
    advance(tables[0].solver, x, m, k, z=z, h=h, scratch=np.empty_like(x))
    assert [(x[row].tobytes(), h[row].tobytes()) for row in range(len(mix))] == alone


@given(kind=kinds, mix=st.lists(st.integers(1, 12), min_size=2, max_size=5))
@settings(max_examples=30)
def test_whole_trajectories_do_not_depend_on_who_else_is_there(kind: str, mix: list[int]) -> None:
    tables = [KINDS[kind](n) for n in mix]
    together = Arena(tables, SHAPE, partial=False)
    alone = Arena(tables, SHAPE, partial=False)
    together.run()
    for row, table in enumerate(tables):
        for _ in range(len(table)):
            alone.step([row])
    assert together.x.tobytes() == alone.x.tobytes()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_networks_input_is_scaled_and_the_latents_are_left_alone(
    kind: str,
) -> None:
    table = KINDS[kind](4)
    x, m = noise(1, (1, *SHAPE)), np.empty((1, *SHAPE), np.float32)
    before = x.copy()
    scale_input(table.solver, x, gather([table], [1]), m)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(m, before * table.c_in[1], rtol=1e-6)


# --- what solvers lead to ------------------------------------------------------------------------


@pytest.mark.slow
@given(kind=kinds, n=counts, seed=st.integers(0, 9))
def test_a_network_that_knows_the_picture_is_led_to_it_by_every_solver(
    kind: str, n: int, seed: int
) -> None:
    # What v says changes on the way even then, and PLMS foresees it from what v said before.
    assume(kind != "plms v")
    table, stream, picture = KINDS[kind](n), Noise(seed), noise(seed + 100, SHAPE)
    with_image, with_noise = table.from_image
    x = (with_image * picture + with_noise * stream.draw(SHAPE))[None]
    h = np.zeros((1, table.solver.history, *SHAPE), np.float32)
    for step in range(len(table)):
        said = _said(table, step, x, picture)
        z = stream.draw(SHAPE)[None]
        advance(table.solver, x, said, gather([table], [step]), z=z, h=h)
    np.testing.assert_allclose(x[0], picture, atol=2e-4)


def _said(table: Table, step: int, x: Any, picture: Any) -> Any:
    """What a network says that knows the picture: noise, v or velocity."""
    if table.solver.name == "flow_euler":
        return ((x - picture) / (table.timesteps[step] / 1000)).astype(np.float32)
    if table.solver.name in ("ddim", "lcm", "dpmpp_2m", "plms"):
        root = float(table.coefficients[step, 14 if table.solver.name == "plms" else 2])
    else:
        root = float(table.c_in[step])
        x = x * root
    rest = (1 - root**2) ** 0.5
    fresh = (x - root * picture) / rest
    if table.solver.prediction == "v":
        fresh = root * fresh - rest * picture
    return fresh.astype(np.float32)


# --- schedules -----------------------------------------------------------------------------------

sigma_plans = st.one_of(
    st.builds(
        euler_sigmas,
        st.just(BARS),
        counts,
        spacing=st.sampled_from(["leading", "trailing", "linspace"]),
        karras=st.booleans(),
    ),
    st.builds(
        dpmpp_sigmas,
        st.just(BARS),
        counts,
        spacing=st.sampled_from(["leading", "trailing", "linspace"]),
        karras=st.booleans(),
    ),
    st.builds(flow_sigmas, counts, shift=st.floats(0.2, 12)),
    st.builds(flow_sigmas, counts, mu=st.floats(-1, 3), spacing=st.sampled_from(["train", "even"])),
)


@given(sigma_plans)
def test_sigmas_fall_to_exactly_zero(plan: Sigmas) -> None:
    assert plan.sigmas[-1] == 0
    assert (np.diff(plan.sigmas) < 0).all()
    assert len(plan.sigmas) == len(plan) + 1
    # Two shifts in float32, as diffusers does them, may end a rounding above all noise.
    assert ((plan.timesteps >= 0) & (plan.timesteps < 1000.01)).all()


@given(n=counts, spacing=st.sampled_from(["leading", "linspace"]))
def test_ddim_and_lcm_end_without_noise(n: int, spacing: Any) -> None:
    for plan in (ddim_bars(BARS, n, spacing=spacing), lcm_bars(BARS, n)):
        assert plan.next_bars[-1] == 1
        assert (plan.next_bars > plan.bars).all()
    dirty = ddim_bars(BARS, n, spacing=spacing, clean_end=False)
    assert dirty.next_bars[-1] == BARS[0]


@given(n=counts)
def test_trailing_ddim_ends_without_noise_if_its_stride_is_whole(n: int) -> None:
    plan = ddim_bars(BARS, n, spacing="trailing")
    assert plan.timesteps[0] == 999
    assert plan.next_bars[-1] == 1 or (1000 % n and plan.next_bars[-1] > 0.99)


@given(kind=kinds, n=counts)
def test_tables_are_finite_and_nobody_may_write_into_them(kind: str, n: int) -> None:
    table = KINDS[kind](n)
    assert len(table) == n + (table.solver.name == "plms" and n > 1)
    for array in (table.coefficients, table.c_in, table.timesteps):
        assert np.isfinite(array).all()
        assert len(array) == len(table)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@given(kind=st.sampled_from(["ancestral", "ancestral v", "lcm"]), n=counts)
def test_the_last_step_of_a_stochastic_solver_adds_no_noise(kind: str, n: int) -> None:
    table = KINDS[kind](n)
    assert table.draws.tolist() == [True] * (n - 1) + [False]


@given(n=counts, eta=st.floats(0.01, 1))
def test_ddim_draws_noise_only_with_eta(n: int, eta: float) -> None:
    assert not ddim(ddim_bars(BARS, n)).draws.any()
    table = ddim(ddim_bars(BARS, n), eta=eta)
    assert table.draws.tolist() == (table.coefficients[:, 5] > 0).tolist()


@pytest.mark.slow
@given(n=st.integers(2, 50), data=st.data())
def test_a_partial_start_takes_the_last_rows_of_the_whole(n: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, n - 1))
    for plan, make in (
        (euler_sigmas(BARS, n), euler),
        (euler_sigmas(BARS, n), euler_ancestral),
        (flow_sigmas(n), flow_euler),
        (ddim_bars(BARS, n), ddim),
        (lcm_bars(BARS, n), lcm),
    ):
        whole, part = make(plan), make(plan.start(step))
        np.testing.assert_array_equal(part.coefficients, whole.coefficients[step:])
        np.testing.assert_array_equal(part.timesteps, whole.timesteps[step:])


@given(n=st.integers(2, 50), data=st.data())
def test_dpmpp_does_not_look_back_on_its_first_step_wherever_it_starts(
    n: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, n - 1))
    table = dpmpp_2m(dpmpp_sigmas(BARS, n).start(step))
    looks_back = table.coefficients[:, 6] != 0
    assert looks_back.tolist() == [0 < i < len(table) - 1 for i in range(len(table))]


@given(n=counts, strength=st.floats(0.001, 1))
def test_strength_leaves_its_share_of_steps_and_at_least_one(n: int, strength: float) -> None:
    left = n - first_step(n, strength)
    assert 1 <= left <= n
    assert left == max(1, int(n * strength))


def test_betas_of_training_end_in_almost_pure_noise() -> None:
    for bars in (alpha_bars(), alpha_bars("linear", start=1e-4, end=0.02)):
        assert bars.shape == (1000,)
        assert (np.diff(bars) < 0).all()
        assert bars[0] > 0.999
        assert bars[-1] < 0.005


# --- clipping, guidance, noise -------------------------------------------------------------------


@given(seed=st.integers(0, 99), limit=st.floats(0.1, 2))
def test_a_clipped_picture_stays_within_its_limit(seed: int, limit: float) -> None:
    for table in (
        ddim(ddim_bars(BARS, 4), clip=limit),
        lcm(lcm_bars(BARS, 4), clip=limit),
    ):
        assert table.solver.clip == limit
        x, m, z = (9 * noise(3 * seed + part, (1, *SHAPE)) for part in range(3))
        at = 3 if table.solver.name == "ddim" else 0
        k = gather([table], [at])
        if table.solver.name == "lcm":
            # With the noise and the rest of the latents taken away.
            k[:, [4, 6]] = 0
        advance(table.solver, x, m, k, z=z)
        assert abs(x).max() <= limit * (1 + 1e-6)


@given(n=st.integers(1, 6), data=st.data(), seed=st.integers(0, 99))
def test_guidance_touches_only_samples_with_an_unconditional_row(
    n: int, data: st.DataObject, seed: int
) -> None:
    guided = data.draw(st.integers(0, n))
    m = noise(seed, (n + guided, *SHAPE))
    g = np.linspace(1, 9, guided, dtype=np.float32)
    said, without = m[:guided].copy(), m[n:].copy()
    rest = m[guided:].copy()
    guide(m, n, g)
    expected = without + g[:, None, None, None] * (said - without)
    assert m[:guided].tobytes() == expected.tobytes()
    assert m[guided:].tobytes() == rest.tobytes()


@given(seed=st.integers(0, 2**63 - 1))
def test_a_seed_has_one_stream_and_fill_and_draw_read_it_alike(seed: int) -> None:
    drawn, filled = Noise(seed), Noise(seed)
    first, second = drawn.draw(SHAPE), drawn.draw(SHAPE)
    out = np.empty((2, *SHAPE), np.float32)
    for row in out:
        filled.fill(row)
    assert out.tobytes() == first.tobytes() + second.tobytes()
    assert first.tobytes() == noise(seed, SHAPE).tobytes()
    assert first.tobytes() != second.tobytes()
    assert first.tobytes() != noise(seed + 1, SHAPE).tobytes()


def test_noise_has_mean_0_and_deviation_1() -> None:
    values = noise(3, (100_000,))
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


# --- impossible settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda: euler_sigmas(BARS, 0), "steps=0: use 1 to 1000"),
        (lambda: euler_sigmas(BARS, 1001), "steps=1001: use 1 to 1000"),
        (lambda: dpmpp_sigmas(BARS, 1000), "steps=1000: use 1 to 999"),
        (lambda: flow_sigmas(0), "steps=0: use 1 or more"),
        (lambda: lcm_bars(BARS, 51), "steps=51: use 1 to 50"),
        (lambda: lcm_bars(BARS, 5, original_steps=0), "original_steps=0: use 1 to 1000"),
        (lambda: lcm_bars(BARS, 5, strength=0.0), "strength=0.0: use more than 0"),
        (lambda: ddim_bars(BARS, 4, spacing="even"), "'leading', 'trailing', 'linspace'"),
        (lambda: ddim_bars(BARS, 1000, offset=1), "offset=1: use 0 to 0 with 1000 steps"),
        (lambda: ddim_bars(BARS, 10, offset=-1), "offset=-1: use 0 to 99"),
        (lambda: flow_sigmas(4, spacing="leading"), "'train', 'even'"),
        (lambda: flow_sigmas(4, shift=0), "shift=0: use more than 0"),
        (lambda: flow_sigmas(4, terminal=1.0), "terminal=1.0: use None"),
        (lambda: flow_sigmas(1, terminal=0.1), "needs more than one step"),
        (lambda: alpha_bars("cosine"), "'scaled_linear', 'linear'"),
        (lambda: alpha_bars(start=0.0), "use 0 < start <= end < 1"),
        (lambda: alpha_bars(train_steps=1), "train_steps=1: use 2 or more"),
        (lambda: ddim(ddim_bars(BARS, 4), eta=-0.1), "eta=-0.1: use 0 to 1"),
        (lambda: ddim(ddim_bars(BARS, 4), clip=0.0), "clip=0.0: use None"),
        (lambda: lcm(lcm_bars(BARS, 4), clip=-1.0), "clip=-1.0: use None"),
        (lambda: euler(euler_sigmas(BARS, 4), prediction="x0"), "'epsilon', 'v'"),
        (lambda: dpmpp_2m(dpmpp_sigmas(BARS, 4), prediction="x0"), "'epsilon', 'v'"),
        (lambda: euler_sigmas(BARS, 4).start(4), "start at step 4: use 0 to 3"),
        (lambda: ddim_bars(BARS, 4).start(-1), "start at step -1: use 0 to 3"),
        (lambda: first_step(4, 1.5), "strength=1.5"),
        (lambda: first_step(0, 0.5), "steps=0"),
        (lambda: Noise(-1), "seed=-1: use 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(attempt: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        attempt()


def test_solvers_that_may_share_a_batch_are_equal() -> None:
    assert KINDS["ddim"](4).solver == KINDS["ddim eta"](30).solver
    assert KINDS["euler"](4).solver == KINDS["euler karras"](9).solver
    assert KINDS["euler"](4).solver != KINDS["euler v"](4).solver
    assert ddim(ddim_bars(BARS, 4), clip=1.0).solver == Solver("ddim", clip=1.0)
