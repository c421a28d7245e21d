"""How close is the batched solver to diffusers, bit for bit?

Six samples with six step counts, that join a batch one after another, take whole trajectories
through a toy network; each is compared with one scheduler of diffusers that runs it alone, in
float32, with the same noise. The batch is run on numpy arrays and on torch tensors.

torch's square roots on a CPU may be wrong in the last bit, where IEEE 754 wants them rounded
(`torch_wrong_roots` says of how many in a thousand). So diffusers runs twice: as installed, and
with roots, logarithms and exponentials taken in double precision and rounded to single. `bit_equal`
and `largest_relative` are told of the second, `as_installed` of the first.

Value: cases that break what is promised. Equal bits for Euler, flow matching, DDIM, LCM and PLMS;
one part in a million for the others; and 1e-5 as installed for all.

`--write-golden` keeps where diffusers ended in tests/unit/data/solver_golden.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from machine import BENCH, ROOT, quiet, report, say

VENV = BENCH / "diffusers-venv"
PACKAGES = ["torch", "diffusers", "numpy"]
GOLDEN = ROOT / "tests" / "unit" / "data" / "solver_golden.json"
SHAPE = (4, 8, 8)
LARGE = (4, 128, 128)
PATTERN_SEED = 7
LONG, SHORT = (3, 5, 8, 20, 30, 50), (1, 2, 3, 4, 6, 8)
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"betas": "linear", "start": 0.0001, "end": 0.02}


@dataclass(frozen=True)
class Case:
    """One solver with its settings, in our words and in those of diffusers."""

    name: str
    schedule: str
    solver: str
    scheduler: str
    schedule_options: dict[str, Any] = field(default_factory=dict)
    solver_options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    betas: dict[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = LONG
    #: Start from a picture, after a third of the steps.
    partial: bool = False
    #: Largest relative difference allowed; 0 for equal bits.
    allowed: float = 0.0


def cases() -> list[Case]:
    return [*_eulers(), *_flows(), *_bars(), *_plms(), *_dpmpps()]


def _eulers() -> list[Case]:
    def one(name: str, solver: str, theirs: str, **more: Any) -> Case:
        options = more.pop("options", {"spacing": "leading", "offset": 1})
        config = {"timestep_spacing": options["spacing"], "steps_offset": options.get("offset", 0)}
        config |= {"use_karras_sigmas": True} if options.get("karras") else {}
        return Case(
            name,
            "euler_sigmas",
            solver,
            theirs,
            schedule_options=options,
            config=STABLE | config | more.pop("config", {}),
            **more,
        )

    plain, ancestral = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
    v = {"solver_options": {"prediction": "v"}, "config": {"prediction_type": "v_prediction"}}
    return [
        one("euler", "euler", plain),
        one("euler, partial", "euler", plain, partial=True),
        one("euler, trailing", "euler", plain, options={"spacing": "trailing"}),
        one("euler, linspace", "euler", plain, options={"spacing": "linspace"}),
        one("euler, karras", "euler", plain, options={"spacing": "linspace", "karras": True}),
        one("euler, v", "euler", plain, allowed=1e-6, **v),
        one("euler ancestral", "euler_ancestral", ancestral, allowed=1e-6),
        one("euler ancestral, v", "euler_ancestral", ancestral, allowed=1e-6, **v),
    ]


def _flows() -> list[Case]:
    def one(name: str, options: dict[str, Any], config: dict[str, Any], **more: Any) -> Case:
        theirs = "FlowMatchEulerDiscreteScheduler"
        return Case(name, "flow_sigmas", "flow_euler", theirs, options, config=config, **more)

    dynamic = {"use_dynamic_shifting": True}
    return [
        one("flow", {}, {}),
        one("flow, shift 3", {"shift": 3.0}, {"shift": 3.0}),
        one("flow, shift 3, partial", {"shift": 3.0}, {"shift": 3.0}, partial=True),
        one("flow, mu", {"mu": 0.9}, dynamic),
        one("flow, mu, even", {"mu": 1.15, "spacing": "even"}, dynamic),
        one(
            "flow, mu, even, terminal",
            {"mu": 0.7, "spacing": "even", "terminal": 0.02},
            dynamic | {"shift_terminal": 0.02},
        ),
    ]


def _bars() -> list[Case]:
    def ddim(name: str, eta: float, clip: float | None = None, **more: Any) -> Case:
        options = more.pop("options", {"spacing": "leading", "offset": 1, "clean_end": False})
        config = {
            "timestep_spacing": options["spacing"],
            "steps_offset": options.get("offset", 0),
            "set_alpha_to_one": options.get("clean_end", True),
            "clip_sample": clip is not None,
            "clip_sample_range": clip or 1.0,
        }
        config = more.pop("config", STABLE) | config
        ours: dict[str, Any] = {"eta": eta, "clip": clip}
        return Case(name, "ddim_bars", "ddim", "DDIMScheduler", options, ours, config, **more)

    linear = {"betas": LINEAR, "config": {}}
    lcm = ("lcm_bars", "lcm", "LCMScheduler")
    return [
        ddim("ddim", 0.0),
        ddim("ddim, partial", 0.0, partial=True),
        ddim("ddim, eta 0.7", 0.7),
        ddim("ddim, trailing, eta 1", 1.0, options={"spacing": "trailing"}),
        ddim("ddim, linear, clipped", 0.3, 1.0, options={"spacing": "linspace"}, **linear),
        Case("lcm", *lcm, steps=SHORT),
        Case("lcm, partial", *lcm, steps=SHORT, partial=True),
        Case(
            "lcm, clipped",
            *lcm,
            solver_options={"clip": 1.0},
            config={"clip_sample": True},
            steps=SHORT,
        ),
    ]


def _plms() -> list[Case]:
    def one(name: str, options: dict[str, Any], **more: Any) -> Case:
        config = {
            "timestep_spacing": options["spacing"],
            "steps_offset": options.get("offset", 0),
            "set_alpha_to_one": options.get("clean_end", False),
            "skip_prk_steps": True,
        }
        config = STABLE | config | more.pop("config", {})
        return Case(name, "plms_bars", "plms", "PNDMScheduler", options, config=config, **more)

    v = {"solver_options": {"prediction": "v"}, "config": {"prediction_type": "v_prediction"}}
    leading = {"spacing": "leading", "offset": 1}
    return [
        one("plms", leading),
        one("plms, partial", leading, partial=True),
        one("plms, few", leading, steps=SHORT),
        one("plms, few, partial", leading, steps=SHORT, partial=True),
        one("plms, linspace, clean", {"spacing": "linspace", "clean_end": True}),
        one("plms, trailing", {"spacing": "trailing"}),
        one("plms, v", leading, **v),
    ]


def _dpmpps() -> list[Case]:
    def one(name: str, options: dict[str, Any], **more: Any) -> Case:
        config = {
            "timestep_spacing": options["spacing"],
            "steps_offset": options.get("offset", 0),
            "use_karras_sigmas": options.get("karras", False),
        }
        theirs = "DPMSolverMultistepScheduler"
        config = STABLE | config | more.pop("config", {})
        allowed = 1e-6
        return Case(
            name,
            "dpmpp_sigmas",
            "dpmpp_2m",
            theirs,
            options,
            config=config,
            allowed=allowed,
            **more,
        )

    v = {"solver_options": {"prediction": "v"}, "config": {"prediction_type": "v_prediction"}}
    leading = {"spacing": "leading", "offset": 1}
    return [
        one("dpm++ 2m", leading),
        one("dpm++ 2m, partial", leading, partial=True),
        one("dpm++ 2m, linspace", {"spacing": "linspace"}),
        one("dpm++ 2m, trailing", {"spacing": "trailing"}),
        one("dpm++ 2m, karras", leading | {"karras": True}),
        one("dpm++ 2m, v", leading, **v),
    ]


# --- the environment -----------------------------------------------------------------------------


def environment() -> Path:
    """The Python that has torch and diffusers, made on first use."""
    python = VENV / "bin" / "python"
    mark = VENV / "installed"
    wanted = " ".join(PACKAGES)
    if mark.exists() and mark.read_text() == wanted:
        return python
    say("making the environment of diffusers")
    BENCH.mkdir(exist_ok=True)
    venv.create(VENV, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-q", *PACKAGES]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    mark.write_text(wanted)
    return python


def load_solver() -> ModuleType:
    """Swell's solver alone: it needs numpy only, and the rest of Swell is not installed here."""
    path = ROOT / "src" / "swell" / "diffusion" / "solvers.py"
    spec = importlib.util.spec_from_file_location("solver", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solver"] = module
    spec.loader.exec_module(module)
    return module


# --- both sides ----------------------------------------------------------------------------------


class Bench:
    """What runs trajectories; made only where torch is."""

    def __init__(self) -> None:
        self.torch, self.diffusers, self.numpy = map(importlib.import_module, PACKAGES)
        self.torch.set_num_threads(1)
        self.diffusers.utils.logging.set_verbosity_error()
        self.solver = load_solver()

    # The toy network has nothing in it that two libraries could round differently.

    def network(self, seen: Any, timestep: Any) -> Any:
        """The same sums for numpy and torch. Shapes: seen (..., C, H, W), timestep (..., 1)."""
        return (seen * 1.25).clip(-1.0, 1.0) + self.pattern(seen) * (timestep * 0.001)

    def pattern(self, like: Any) -> Any:
        values = self.solver.noise(PATTERN_SEED, like.shape[-3:])
        return values if isinstance(like, self.numpy.ndarray) else self.torch.from_numpy(values)

    def table(self, case: Case, steps: int) -> Any:
        arguments = [steps]
        if case.schedule != "flow_sigmas":
            arguments = [self.solver.alpha_bars(**case.betas), steps]
        schedule = getattr(self.solver, case.schedule)(*arguments, **case.schedule_options)
        if case.partial:
            schedule = schedule.start(steps // 3)
        return getattr(self.solver, case.solver)(schedule, **case.solver_options)

    def first(self, case: Case, table: Any, stream: Any, seed: int) -> Any:
        fresh = stream.draw(SHAPE)
        if not case.partial:
            return fresh * self.numpy.float32(table.from_noise)
        picture, share = (self.numpy.float32(scale) for scale in table.from_image)
        return picture * self.picture(seed) + share * fresh

    def picture(self, seed: int) -> Any:
        return self.solver.noise(1000 + seed, SHAPE)

    def together(self, case: Case, convert: Callable[[Any], Any]) -> list[Any]:
        """Where six samples end that join one batch, one at each step. Float32 arrays."""
        np = self.numpy
        tables = [self.table(case, steps) for steps in case.steps]
        streams = [self.solver.Noise(seed) for seed in range(len(tables))]
        x = [
            convert(self.first(case, *pair, seed))
            for seed, pair in enumerate(zip(tables, streams, strict=True))
        ]
        h = [convert(np.zeros((t.solver.history, *SHAPE), np.float32)) for t in tables]
        done = [0] * len(tables)
        tick = 0
        while any(at < len(table) for at, table in zip(done, tables, strict=True)):
            alive = [i for i in range(len(tables)) if i <= tick and done[i] < len(tables[i])]
            tick += 1
            if alive:
                self._step(alive, tables, streams, done, x, h, convert)
        return [np.asarray(value) for value in x]

    def _step(
        self, alive: list[int], tables: Any, streams: Any, done: Any, x: Any, h: Any, convert: Any
    ) -> None:
        np, solver = self.numpy, tables[0].solver
        rows = [(tables[i], done[i]) for i in alive]
        k = convert(self.solver.gather(*zip(*rows, strict=True)))
        batch, past = (convert(np.stack([np.asarray(part[i]) for i in alive])) for part in (x, h))
        z = np.zeros((len(alive), *SHAPE), np.float32)
        for row, i in enumerate(alive):
            if tables[i].draws[done[i]]:
                streams[i].fill(z[row])
        seen, scratch = convert(np.empty_like(z)), convert(np.empty_like(z))
        self.solver.scale_input(solver, batch, k, seen)
        heard = np.array([table.timesteps[at] for table, at in rows], np.float32)
        m = self.network(seen, convert(heard.reshape(-1, 1, 1, 1)))
        wants_noise = any(table.draws.any() for table, _ in rows) or solver.needs_noise
        self.solver.advance(
            solver, batch, m, k, z=convert(z) if wants_noise else None, h=past, scratch=scratch
        )
        for row, i in enumerate(alive):
            x[i], h[i] = batch[row], past[row]
            done[i] += 1

    def alone(self, case: Case, steps: int, seed: int) -> Any:
        """Where diffusers brings the same sample."""
        torch = self.torch
        scheduler = self.scheduler(case, steps)
        timesteps = scheduler.timesteps[steps // 3 if case.partial else 0 :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(steps - len(timesteps))
        stream = self.solver.Noise(seed)
        fresh = torch.from_numpy(stream.draw(SHAPE))
        if case.partial:
            mix = getattr(scheduler, "add_noise", None) or (
                lambda image, noise, t: scheduler.scale_noise(image, t, noise)
            )
            image = torch.from_numpy(self.picture(seed))
            x = mix(image[None], fresh[None], timesteps[:1])[0]
        else:
            x = fresh * getattr(scheduler, "init_noise_sigma", 1.0)
        more = self.extra(case, lambda: torch.from_numpy(stream.draw(SHAPE)))
        for t in timesteps:
            seen = (
                scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            )
            m = self.network(seen, t.to(torch.float32))
            x = scheduler.step(m, t, x, return_dict=False, **more())[0]
        return x.numpy()

    def scheduler(self, case: Case, steps: int) -> Any:
        betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
        config = (betas if case.betas else {}) | case.config
        scheduler = getattr(self.diffusers, case.scheduler)(**config)
        more = {}
        if "mu" in case.schedule_options:
            more["mu"] = case.schedule_options["mu"]
        if case.schedule_options.get("spacing") == "even":
            more["sigmas"] = self.numpy.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(steps, **more)
        return scheduler

    def extra(self, case: Case, draw: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
        """What to hand each `step`, so that its noise is what `draw` gives."""
        module = sys.modules[getattr(self.diffusers, case.scheduler).__module__]
        if case.solver == "ddim":
            eta = case.solver_options["eta"]
            return lambda: {"eta": eta, "variance_noise": draw() if eta else None}
        if hasattr(module, "randn_tensor"):
            vars(module)["randn_tensor"] = lambda *_, **__: draw()
        return dict

    @contextlib.contextmanager
    def rounded(self) -> Iterator[None]:
        """Roots, logarithms and exponentials of float32 rounded once."""
        torch, np = self.torch, self.numpy
        power, root, log = torch.Tensor.__pow__, torch.Tensor.sqrt, np.log

        def by_double(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda value: function(value.double()).to(value.dtype)

        def to_power(value: Any, exponent: Any) -> Any:
            if isinstance(exponent, float) and exponent == 0.5:
                return by_double(root)(value)
            return power(value, exponent)

        def numpy_log(value: Any) -> Any:
            wide = log(np.asarray(value, np.float64))
            is_single = getattr(value, "dtype", None) == np.float32
            return wide.astype(np.float32) if is_single else wide

        kept = {name: getattr(torch, name) for name in ("sqrt", "log", "exp")}
        torch.Tensor.__pow__, torch.Tensor.sqrt = to_power, by_double(root)
        vars(np)["log"] = numpy_log
        for name, function in kept.items():
            setattr(torch, name, by_double(function))
        try:
            yield
        finally:
            torch.Tensor.__pow__, torch.Tensor.sqrt = power, root
            vars(np)["log"] = log
            for name, function in kept.items():
                setattr(torch, name, function)

    def compare(self, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
        """How far apart both sides end, and the golden entry of this case."""
        np, torch = self.numpy, self.torch
        with self.rounded():
            exact = [self.alone(case, steps, seed) for seed, steps in enumerate(case.steps)]
            heard = [self.scheduler(case, steps).timesteps for steps in case.steps]
        installed = [self.alone(case, steps, seed) for seed, steps in enumerate(case.steps)]
        on_numpy = self.together(case, lambda value: value)
        on_torch = self.together(case, torch.from_numpy)
        apart = max(_apart(np, on_numpy, exact), _apart(np, on_torch, exact))
        equal = all(
            a.tobytes() == b.tobytes() == c.tobytes()
            for a, b, c in zip(on_numpy, on_torch, exact, strict=True)
        )
        tables = [self.table(case, steps) for steps in case.steps]
        timesteps_apart = max(
            float(np.abs(table.timesteps - t[-len(table) :].numpy().astype(np.float64)).max())
            for table, t in zip(tables, heard, strict=True)
        )
        as_installed = _apart(np, on_torch, installed)
        kept = equal if case.allowed == 0 else apart <= case.allowed
        found = {
            "bit_equal": equal,
            "largest_relative": apart,
            "timesteps_apart": timesteps_apart,
            "as_installed": as_installed,
            "kept": kept and timesteps_apart == 0 and as_installed <= 1e-5,
        }
        return found, self.golden(case, exact)

    def wrong_roots(self) -> float:
        """How many in a thousand of torch's square roots are not what IEEE 754 asks for."""
        torch = self.torch
        values = torch.from_numpy(self.solver.noise(5, (100_000,))).abs()
        wrong = values.sqrt() != values.double().sqrt().float()
        return round(1000 * wrong.double().mean().item(), 1)

    def golden(self, case: Case, ends: list[Any]) -> dict[str, Any]:
        return {
            "schedule": [case.schedule, case.schedule_options],
            "solver": [case.solver, case.solver_options],
            "betas": case.betas,
            "steps": list(case.steps),
            "partial": case.partial,
            "first_values": [[float(value) for value in end.ravel()[:3]] for end in ends],
            "sha256": [hashlib.sha256(end.astype("<f4").tobytes()).hexdigest() for end in ends],
        }

    # --- time ------------------------------------------------------------------------------------

    def time_of(self, case: Case, rounds: int) -> dict[str, float]:
        """Milliseconds for 8 samples at 4 x 128 x 128: 8 calls of `step`, or one update."""
        torch = self.torch
        steps = max(case.steps)
        schedulers = [self.scheduler(case, steps) for _ in range(8)]
        fresh = torch.from_numpy(self.solver.noise(1, LARGE))
        more = self.extra(case, lambda: fresh)
        x, m = (torch.from_numpy(self.solver.noise(seed, (8, *LARGE))) for seed in (2, 3))
        spent = []
        for turn in range(rounds):
            if turn % (steps - 1) == 0:
                schedulers = [self.scheduler(case, steps) for _ in range(8)]
                for scheduler in schedulers:
                    if hasattr(scheduler, "scale_model_input"):
                        scheduler.scale_model_input(x[0], scheduler.timesteps[0])
            begun = time.perf_counter()
            for row, scheduler in enumerate(schedulers):
                t = scheduler.timesteps[turn % (steps - 1)]
                scheduler.step(m[row], t, x[row], return_dict=False, **more())
            spent.append(time.perf_counter() - begun)
        found = {"diffusers_ms": _median_ms(spent)}
        for name, convert in (("numpy", lambda value: value), ("torch", torch.from_numpy)):
            found[f"swell_{name}_ms"] = _median_ms(self._spent(case, steps, rounds, convert))
        found["times"] = round(found["diffusers_ms"] / found["swell_torch_ms"], 2)
        return found

    def _spent(self, case: Case, steps: int, rounds: int, convert: Any) -> list[float]:
        np, solver = self.numpy, self.solver
        tables = [self.table(case, steps) for _ in range(8)]
        x, m, z = (convert(solver.noise(seed, (8, *LARGE))) for seed in (2, 3, 4))
        now, said, fresh, scratch = (convert(np.zeros((8, *LARGE), np.float32)) for _ in range(4))
        h = convert(np.zeros((8, tables[0].solver.history, *LARGE), np.float32))
        has_noise = bool(tables[0].draws.any())
        spent = []
        for turn in range(rounds):
            now[...], said[...], fresh[...] = x, m, z
            begun = time.perf_counter()
            k = convert(solver.gather(tables, [turn % (steps - 1)] * 8))
            solver.advance(
                tables[0].solver, now, said, k, z=fresh if has_noise else None, h=h, scratch=scratch
            )
            spent.append(time.perf_counter() - begun)
        return spent


def _apart(np: Any, ours: list[Any], theirs: list[Any]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _median_ms(spent: list[float]) -> float:
    return round(1000 * statistics.median(spent), 4)


# --- the report ----------------------------------------------------------------------------------


def measure(write_golden: bool, rounds: int) -> None:
    bench = Bench()
    found, golden = {}, {}
    for case in cases():
        found[case.name], golden[case.name] = bench.compare(case)
        say(f"{case.name}: {found[case.name]}")
    timed = [
        "euler",
        "euler, v",
        "euler ancestral",
        "flow, shift 3",
        "ddim",
        "lcm",
        "plms",
        "dpm++ 2m",
    ]
    with quiet():
        times = {case.name: bench.time_of(case, rounds) for case in cases() if case.name in timed}
    versions = {
        "torch": bench.torch.__version__,
        "diffusers": bench.diffusers.__version__,
        "numpy": bench.numpy.__version__,
    }
    broken = [name for name, entry in found.items() if not entry["kept"]]
    if write_golden and not broken:
        first = bench.solver.noise(PATTERN_SEED, SHAPE).ravel()[:8]
        entry = {
            "made_with": versions,
            "shape": list(SHAPE),
            "pattern_seed": PATTERN_SEED,
            "pattern_first_values": [float(value) for value in first],
            "cases": golden,
        }
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(entry, indent=1) + "\n")
    detail = {
        "broken": broken,
        "solvers": found,
        "time_8_samples": times,
        "torch_wrong_roots": bench.wrong_roots(),
        "versions": versions,
    }
    report(len(broken), detail, ok=not broken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-golden", action="store_true")
    parser.add_argument("--rounds", type=int, default=200, help="updates timed per solver")
    asked = parser.parse_args()
    if Path(sys.prefix) != VENV:
        python = environment()
        sys.stdout.flush()
        os.execv(python, [str(python), *sys.argv])
    measure(asked.write_golden, asked.rounds)


if __name__ == "__main__":
    main()
