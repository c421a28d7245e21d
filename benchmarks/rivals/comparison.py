"""Runs of the comparison as independent pieces for parallel processes.

A piece consists of plain values, so that its result can be cached under its name.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rivals import least_s
from rivals.anchors import ANCHORS, REFERENCES, Setting
from rivals.fleets import Case, Fleets, Result
from swell.autoscaler.policy import plan
from swell.autoscaler.policy_settings import PolicySettings
from swell.simulator import fluid, traces
from swell.simulator.arrivals import arrivals
from swell.simulator.pools import Pool

#: Samples per second of one worker, and target wait in seconds.
RATE: Final = 0.5
WAIT_S: Final = 20.0

#: V1 has a million concurrent users (16,600 workers): simulate a tenth.
SCALES: Final[Mapping[str, float]] = {"v1": 0.1}


class Least(msgspec.Struct, frozen=True, tag=True):
    """Lower bound of a trace."""

    trace: str
    seed: int
    start_s: float


class Ran(msgspec.Struct, frozen=True, tag=True):
    """Swell's policy on a trace."""

    trace: str
    seed: int
    start_s: float
    #: Share of samples that may be late, as the policy's setting; None for its default.
    late: float | None = None


class Anchored(msgspec.Struct, frozen=True, tag=True):
    """All settings of one autoscaler on a trace, with all seeds and cold starts."""

    trace: str
    anchor: str
    seeds: tuple[int, ...]
    starts_s: tuple[float, ...]


Piece = Least | Ran | Anchored


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one run; a lower bound has only its worker time."""

    start_s: float
    seed: int
    samples: float
    worker_s: float
    curve: str = ""
    knob: float = 0.0
    is_default: bool = False
    late: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0
    most_s: float = 0.0
    boot_s: float = 0.0
    launches: int = 0
    flaps: int = 0
    peak: int = 0
    left: float = 0.0
    lost: float = 0.0


def run(piece: Piece) -> list[Told]:
    """Run a piece."""
    match piece:
        case Least():
            return [_least(piece)]
        case Ran():
            return [_ran(piece)]
        case Anchored():
            return _anchored(piece)


@lru_cache(maxsize=8)
def _came(trace: str, seed: int) -> NDArray[np.float64]:
    return arrivals(traces.named(trace).scaled(SCALES.get(trace, 1.0)), seed)


def _least(piece: Least) -> Told:
    came = _came(piece.trace, piece.seed)
    paid_s = least_s(came, rate=RATE, start_s=piece.start_s, wait_s=WAIT_S)
    samples = float(np.sum(came))
    return Told(start_s=piece.start_s, seed=piece.seed, samples=samples, worker_s=paid_s)


def _ran(piece: Ran) -> Told:
    settings = PolicySettings(wait_s=WAIT_S)
    if piece.late is not None:
        settings = msgspec.structs.replace(settings, late_share=piece.late)
    pools = [Pool(rate=RATE, start_s=piece.start_s)]
    done = fluid.simulate(
        _came(piece.trace, piece.seed),
        lambda seen, state: plan(seen, settings, state),
        pools,
        seed=piece.seed,
    )
    told = _told(done, piece.start_s, piece.seed)
    return msgspec.structs.replace(
        told,
        curve="late_share",
        knob=settings.late_share,
        is_default=piece.late is None,
        lost=done.lost,
    )


def _anchored(piece: Anchored) -> list[Told]:
    anchor = next(each for each in (*ANCHORS, *REFERENCES) if each.name == piece.anchor)
    came = np.stack([_came(piece.trace, seed) for seed in piece.seeds], axis=1)
    grid = [
        (setting, start_s, course)
        for setting in anchor.settings
        for start_s in piece.starts_s
        for course in range(len(piece.seeds))
    ]
    cases = [Case(course, start_s) for _, start_s, course in grid]
    results = Fleets(came, cases, RATE, piece.seeds[0]).run(anchor.rule(_numbers(grid)))
    return [
        _as_set(_told(result, start_s, piece.seeds[course]), setting)
        for result, (setting, start_s, course) in zip(results, grid, strict=True)
    ]


def _numbers(grid: Sequence[tuple[Setting, float, int]]) -> dict[str, NDArray[np.float64]]:
    names = grid[0][0].numbers
    return {name: np.array([float(s.numbers[name]) for s, _, _ in grid]) for name in names}


def _as_set(told: Told, setting: Setting) -> Told:
    return msgspec.structs.replace(
        told, curve=setting.curve, knob=setting.knob, is_default=setting.is_default
    )


def _told(done: fluid.Outcome | Result, start_s: float, seed: int) -> Told:
    return Told(
        start_s=start_s,
        seed=seed,
        samples=done.samples,
        worker_s=done.worker_s,
        late=done.waits.late_share(WAIT_S),
        p50_s=done.waits.quantile(0.5),
        p95_s=done.waits.quantile(0.95),
        p99_s=done.waits.quantile(0.99),
        most_s=done.waits.most_s,
        boot_s=done.boot_s,
        launches=done.launches,
        flaps=done.flaps,
        peak=done.peak,
        left=done.left,
    )
