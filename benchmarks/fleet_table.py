"""The results of `fleet_cost.py` as numbers, and as tables of benchmarks/results/autoscaling.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from machine import RESULTS
from rivals.anchors import ANCHORS, REFERENCES
from rivals.comparison import Anchored, Least, Piece, Told
from rivals.score import Served, at_equal_service, for_all, geometric_mean, pooled

PAGE = RESULTS / "autoscaling.md"
SWELL = "Swell"

#: So many may wait longer than wanted.
LATE = 0.05

Cell = tuple[str, float]


class Grid:
    """All that was simulated, by trace and cold start."""

    def __init__(
        self, traces: Sequence[str], starts_s: Sequence[float], seeds: Sequence[int]
    ) -> None:
        self.traces, self.starts_s, self.seeds = traces, starts_s, seeds
        self.cells = [(trace, start_s) for trace in traces for start_s in starts_s]
        self._least: dict[tuple[str, float, int], float] = {}
        #: Who, and trace → what was told of each run.
        self._told: dict[tuple[str, str], list[Told]] = defaultdict(list)

    def add(self, done: Mapping[Piece, Sequence[Told]]) -> None:
        for piece, told in done.items():
            if isinstance(piece, Least):
                self._least[piece.trace, piece.start_s, piece.seed] = told[0].worker_s
            else:
                name = piece.anchor if isinstance(piece, Anchored) else SWELL
                self._told[name, piece.trace] += told

    @property
    def names(self) -> list[str]:
        """Whom there are results of, Swell first, then by their mean, references last."""
        known = {name for name, _ in self._told}
        anchors = [each.name for each in ANCHORS if each.name in known]
        anchors.sort(key=lambda name: (self.mean(name) is None, self.mean(name) or 0.0, name))
        return [SWELL, *anchors, *(each.name for each in REFERENCES if each.name in known)]

    def served(self, name: str, trace: str, start_s: float) -> list[Served]:
        """Every setting of somebody, over all seeds."""
        settings: dict[tuple[str, float], list[Told]] = defaultdict(list)
        for told in self._told[name, trace]:
            if told.start_s == start_s:
                settings[told.curve, told.knob].append(told)
        return [
            pooled([self._served(trace, told) for told in runs], [told.samples for told in runs])
            for runs in settings.values()
        ]

    def _served(self, trace: str, told: Told) -> Served:
        return Served(
            curve=told.curve,
            knob=told.knob,
            times=told.worker_s / self._least[trace, told.start_s, told.seed],
            late=told.late,
            p95_s=told.p95_s,
            is_default=told.is_default,
        )

    def times(self, name: str, trace: str, start_s: float) -> float | None:
        """What somebody costs at equal service, over the least."""
        return at_equal_service(self.served(name, trace, start_s))

    def swell(self, trace: str, start_s: float) -> float | None:
        """What Swell costs as it comes, over the least; where too many are late, more careful."""
        served = [each for each in self.served(SWELL, trace, start_s) if each.late <= LATE]
        as_it_comes = next((each.times for each in served if each.is_default), None)
        if as_it_comes is not None:
            return as_it_comes
        # Less is asked for to be late than as it comes, so the last that serves well enough.
        return max(served, key=lambda each: each.knob).times if served else None

    def default(self, name: str, trace: str, start_s: float) -> Served | None:
        served = self.served(name, trace, start_s)
        return next((each for each in served if each.is_default), None)

    def mean(self, name: str, trace: str | None = None) -> float | None:
        """Geometric mean over traces and cold starts; None where one is not reached."""
        cells = [cell for cell in self.cells if trace in (None, cell[0])]
        found = [self.times(name, *cell) for cell in cells]
        reached = [each for each in found if each is not None]
        return geometric_mean(reached) if len(reached) == len(found) else None

    def in_common(self, name: str, start_s: float) -> list[float] | None:
        """What one setting for all traces costs on each, over the least."""
        return for_all([self.served(name, trace, start_s) for trace in self.traces])

    def mean_in_common(self, name: str) -> float | None:
        """Geometric mean where one setting serves all traces; of Swell, as it comes."""
        if name == SWELL:
            return self.over_least()
        found = [self.in_common(name, start_s) for start_s in self.starts_s]
        costs = [each for reached in found if reached is not None for each in reached]
        return geometric_mean(costs) if len(costs) == len(self.cells) else None

    def over_best_in_common(self) -> dict[str, float]:
        """Trace → Swell's mean over that of the best anchor with one setting for all traces."""
        means: dict[str, list[float]] = {trace: [] for trace in self.traces}
        for anchor in ANCHORS:
            found = [self.in_common(anchor.name, start_s) for start_s in self.starts_s]
            reached = [costs for costs in found if costs is not None]
            if len(reached) == len(found):
                for number, trace in enumerate(self.traces):
                    means[trace].append(geometric_mean([costs[number] for costs in reached]))
        mine = {trace: self.over_least(trace) for trace in self.traces}
        return {
            trace: own / min(means[trace])
            for trace, own in mine.items()
            if own is not None and means[trace]
        }

    # --- what is reported ---

    def over_least(self, trace: str | None = None) -> float | None:
        """Geometric mean of what Swell costs as it comes."""
        found = [self.swell(*cell) for cell in self.cells if trace in (None, cell[0])]
        reached = [each for each in found if each is not None]
        return geometric_mean(reached) if len(reached) == len(found) else None

    def over_anchors(self) -> float | None:
        """The largest, over traces, of Swell's cost over that of anchors with one setting."""
        shares = self.over_best_in_common()
        return max(shares.values()) if len(shares) == len(self.traces) else None

    def best(self, trace: str) -> tuple[str, float] | None:
        """The best anchor on a trace, and its mean over cold starts."""
        anchors = [each.name for each in ANCHORS if (each.name, trace) in self._told]
        means = [(name, self.mean(name, trace)) for name in anchors]
        reached = [(name, mean) for name, mean in means if mean is not None]
        return min(reached, key=lambda pair: pair[1], default=None)

    def detail(self) -> dict[str, Any]:
        runs = [told for (name, _), all_ in self._told.items() if name == SWELL for told in all_]
        cells = {f"{trace} {s:g} s": self.swell(trace, s) for trace, s in self.cells}
        found: dict[str, Any] = {
            "cost over the least": {cell: rounded(times) for cell, times in cells.items()},
            "not reached": [cell for cell, times in cells.items() if times is None],
            "lost": sum(told.lost for told in runs),
            "as it comes": {
                f"{trace} {s:g} s": {
                    "times": rounded(served.times),
                    "late": rounded(served.late),
                    "p95_s": round(served.p95_s, 1),
                }
                for trace, s in self.cells
                if (served := self.default(SWELL, trace, s)) is not None
            },
        }
        if self.best(self.traces[0]) is not None:
            found["best anchor"] = {trace: self._versus(trace) for trace in self.traces}
            found["anchors"] = {name: rounded(self.mean(name)) for name in self.names}
            found["one setting for all traces"] = {
                name: rounded(self.mean_in_common(name)) for name in self.names
            }
            found["cheaper than Swell"] = self.losses()
            found["over the best with one setting for all traces"] = {
                trace: rounded(share) for trace, share in self.over_best_in_common().items()
            }
            found["over the best with the best setting for each"] = {
                trace: rounded(best[1] and (self.mean(SWELL, trace) or 0.0) / best[1])
                for trace in self.traces
                if (best := self.best(trace)) is not None
            }
        return found

    def _versus(self, trace: str) -> dict[str, Any]:
        best, mine = self.best(trace), self.mean(SWELL, trace)
        assert best is not None
        return {"name": best[0], "times": rounded(best[1]), "swell": rounded(mine)}

    def losses(self) -> list[str]:
        """Where somebody is cheaper than Swell at equal service."""
        found = []
        for trace, start_s in self.cells:
            mine = self.times(SWELL, trace, start_s)
            for name in self.names[1:]:
                times = self.times(name, trace, start_s)
                if name in {each.name for each in REFERENCES} or times is None:
                    continue
                if mine is None or times < mine:
                    ours = "not reached" if mine is None else f"{mine:.2f}"
                    found.append(f"{name}, {trace}, {start_s:g} s: {times:.2f} (Swell {ours})")
        return found


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- tables ---


def write(grid: Grid, part: str) -> None:
    """Writes the tables of a grid."""
    body = "\n\n".join([in_common(grid), equal(grid), comes(grid), served_by_swell(grid)])
    put(body, part, "benchmarks/fleet_cost.py")


def put(body: str, part: str, script: str) -> None:
    """Writes something between its markers."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {part}: written by {script} -->", f"<!-- end of {part} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no {begin} … {end}")
    PAGE.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def heading(grid: Grid, last: str) -> list[str]:
    cells = [f"{short(trace)} {start_s:g}" for trace, start_s in grid.cells]
    return [f"| | {' | '.join(cells)} | {last} |", f"|---|{'---|' * (len(cells) + 1)}"]


def short(trace: str) -> str:
    return trace.removeprefix("held-out-")


def shown(times: float | None) -> str:
    return "no" if times is None else f"{times:.2f}"


def equal(grid: Grid) -> str:
    lines = [
        "With the best setting of each, Swell included, for each trace and each cold start:",
        "",
    ]
    lines += heading(grid, "mean")
    for name in grid.names:
        cells = [shown(grid.times(name, *cell)) for cell in grid.cells]
        lines.append(f"| {bold(name)} | {' | '.join(cells)} | {shown(grid.mean(name))} |")
    return "\n".join(lines)


def in_common(grid: Grid) -> str:
    lines = [
        "With one setting of each for all traces, the best for each cold start; Swell as it comes:",
        "",
    ]
    lines += heading(grid, "mean")
    for name in grid.names:
        columns = {start_s: grid.in_common(name, start_s) for start_s in grid.starts_s}
        if name == SWELL:
            found = [grid.swell(*cell) for cell in grid.cells]
        else:
            found = [
                None if (costs := columns[start_s]) is None else costs[grid.traces.index(trace)]
                for trace, start_s in grid.cells
            ]
        reached = [each for each in found if each is not None]
        mean = geometric_mean(reached) if len(reached) == len(found) else None
        lines.append(f"| {bold(name)} | {' | '.join(map(shown, found))} | {shown(mean)} |")
    return "\n".join(lines)


def comes(grid: Grid) -> str:
    lines = ["As each comes, cost over the least and the 95th percentile of waits:", ""]
    lines += [line.replace(" mean |", "").removesuffix("---|") for line in heading(grid, "mean")]
    for name in grid.names:
        found = [grid.default(name, *cell) for cell in grid.cells]
        cells = [f"{x.times:.2f}, {x.p95_s:.0f} s" if x else "no" for x in found]
        lines.append(f"| {bold(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def served_by_swell(grid: Grid) -> str:
    lines = [
        "Swell as it comes, means over seeds, the longest wait and peak over all:",
        "",
        "| trace | cold start | late | p50 | p95 | p99 | longest | launched | gone within 15 min | "
        "peak | time paid for starts | lost |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for trace, start_s in grid.cells:
        runs = [
            told for told in grid._told[SWELL, trace] if told.start_s == start_s and told.is_default
        ]

        def mean(name: str, runs: list[Told] = runs) -> float:
            return sum(getattr(told, name) for told in runs) / len(runs)

        boots = sum(told.boot_s for told in runs) / sum(told.worker_s for told in runs)
        lines.append(
            f"| {short(trace)} | {start_s:g} s | {mean('late'):.1%} | {mean('p50_s'):.0f} s | "
            f"{mean('p95_s'):.0f} s | {mean('p99_s'):.0f} s | "
            f"{max(told.most_s for told in runs):.0f} s | {mean('launches'):,.0f} | "
            f"{mean('flaps'):,.0f} | {max(told.peak for told in runs):,} | {boots:.1%} | "
            f"{sum(told.lost for told in runs):g} |"
        )
    return "\n".join(lines)


def bold(name: str) -> str:
    return f"**{name}**" if name == SWELL else name
