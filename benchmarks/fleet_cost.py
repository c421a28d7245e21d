"""What does a fleet cost under Swell's policy, and others', over the least that it could cost?

Simulated time: V1, V2 and V3 (22 days that go viral), cold starts of 120, 300 and 600 s, five seeds
that nobody chose numbers by, one pool without limits. At equal service: no more than 5 % of samples
wait longer than 20 s. The least is the lower bound of `rivals`, which knows the future.

Swell's policy is run as it comes; where more than 5 % are late it is told to be more careful. Each
of the others has one setting for all traces: of its sweep, and of what lies between two neighbours,
the cheapest that serves all of them so well, chosen with hindsight for each cold start. The tables
also have the best setting for each trace and cold start, of Swell too.

    python benchmarks/fleet_cost.py              # value: geometric mean of cost over the least
    python benchmarks/fleet_cost.py --anchors    # value: Swell's cost over the best of the others
    python benchmarks/fleet_cost.py --anchors --write               # and the tables
    python benchmarks/fleet_cost.py --anchors --held-out --write    # the same on other traces

What was simulated is kept under .bench/fleet/ as long as the code is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import msgspec

import fleet_chart
import fleet_table
from fleet_table import Grid
from machine import BENCH, ROOT, quiet, report, say
from rivals import comparison
from rivals.anchors import ANCHORS, REFERENCES
from rivals.comparison import Anchored, Least, Piece, Ran, Told
from swell.simulator.traces import HELD_OUT, HELD_OUT_SEEDS, named

VIRAL = ("v1", "v2", "v3")
STARTS_S = (120.0, 300.0, 600.0)

#: Beside the others, Swell is also told that more may be late than it comes with.
LESS_CAREFUL = 0.15

#: Where too many are late, the policy is told to have fewer so, one after the other.
MORE_CAREFUL = (0.025, 0.015, 0.008, 0.003)

#: What the arithmetic of all of them is done with, and the least that a fleet could cost.
LIBRARIES = ("numpy", "scipy")

KEPT = BENCH / "fleet"
SOURCES = ROOT / "src" / "swell"

#: Modules that decide what comes of each kind of piece, besides its trace.
OF_ALL = ("simulator.arrivals", "rivals.comparison")
CODE = {
    Least: ("rivals.levels", "rivals.prices", "rivals.interior"),
    Anchored: ("rivals.fleets", "rivals.rules", "rivals.anchors", "simulator.waits"),
    Ran: ("core.kaplan_meier", "simulator.fluid", "simulator.pools", "simulator.waits"),
}


def code_of(kind: type[Piece]) -> str:
    names = [*OF_ALL, *CODE[kind]]
    if kind is Ran:
        # The policy, and whatever it has imported.
        names += sorted(
            name.removeprefix("swell.")
            for name in sys.modules
            if name.startswith("swell.autoscaler.")
        )
    digest = hashlib.sha256()
    for name in names:
        folder = ROOT / "benchmarks" if name.startswith("rivals.") else SOURCES
        digest.update((folder / f"{name.replace('.', '/')}.py").read_bytes())
    return digest.hexdigest()


def path_of(piece: Piece) -> Path:
    course = hashlib.sha256(named(piece.trace).per_s.tobytes()).hexdigest()
    key = msgspec.json.encode(piece) + f"{course} {code_of(type(piece))}".encode()
    return KEPT / f"{hashlib.sha256(key).hexdigest()[:32]}.json"


def weight(piece: Piece) -> float:
    """Which pieces take longest: they are begun first."""
    days = 14 if piece.trace == "v1" else 4
    return days * {Anchored: 6.0, Ran: 2.0, Least: 1.0}[type(piece)]


def done(pieces: Iterable[Piece], is_fresh: bool) -> dict[Piece, list[Told]]:
    """Does pieces in as many processes as there are cores."""
    KEPT.mkdir(parents=True, exist_ok=True)
    wanted = sorted(set(pieces), key=weight, reverse=True)
    found = {}
    for piece in wanted:
        path = path_of(piece)
        if path.exists() and not is_fresh:
            found[piece] = msgspec.json.decode(path.read_bytes(), type=list[Told])
    missing = [piece for piece in wanted if piece not in found]
    # Processes do their work side by side, each on one core.
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for piece, told in zip(missing, pool.map(comparison.run, missing), strict=True):
            found[piece] = told
            path_of(piece).write_bytes(msgspec.json.encode(told))
            say(f"{type(piece).__name__.lower()} {msgspec.structs.astuple(piece)}")
    return found


def policy_pieces(cells: Iterable[tuple[str, float]], late: float | None) -> list[Ran]:
    return [Ran(trace, seed, s, late) for trace, s in cells for seed in HELD_OUT_SEEDS]


def measured(traces: Sequence[str], with_anchors: bool, is_fresh: bool) -> Grid:
    cells = [(trace, start_s) for trace in traces for start_s in STARTS_S]
    pieces: list[Piece] = [Least(trace, seed, s) for trace, s in cells for seed in HELD_OUT_SEEDS]
    pieces += policy_pieces(cells, None)
    if with_anchors:
        pieces += policy_pieces(cells, LESS_CAREFUL)
        pieces += [
            Anchored(trace, anchor.name, HELD_OUT_SEEDS, STARTS_S)
            for trace in traces
            for anchor in (*ANCHORS, *REFERENCES)
        ]
    grid = Grid(traces, STARTS_S, HELD_OUT_SEEDS)
    grid.add(done(pieces, is_fresh))
    for late in MORE_CAREFUL:
        unmet = [cell for cell in cells if grid.swell(*cell) is None]
        if not unmet:
            break
        say(f"told to have {late:g} late: {unmet}")
        grid.add(done(policy_pieces(unmet, late), is_fresh))
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anchors", action="store_true", help="compare with what others do")
    parser.add_argument("--held-out", action="store_true", help="traces nobody has tuned for")
    parser.add_argument("--write", action="store_true", help="write results/autoscaling.md")
    parser.add_argument("--fresh", action="store_true", help="simulate again what is kept")
    chosen = parser.parse_args()
    traces = tuple(HELD_OUT) if chosen.held_out else VIRAL
    with quiet():
        grid = measured(traces, chosen.anchors, chosen.fresh)
    if chosen.write:
        fleet_table.write(grid, "held-out" if chosen.held_out else "viral")
        if not chosen.held_out:
            fleet_chart.draw(grid)
    detail = grid.detail() | {"versions": {name: metadata.version(name) for name in LIBRARIES}}
    value = grid.over_anchors() if chosen.anchors else grid.over_least()
    report(value, detail, ok=not detail["lost"] and not detail["not reached"])


if __name__ == "__main__":
    main()
