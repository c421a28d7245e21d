"""Writes the table that compares Swell with its peers, including the rows that Swell loses.

    python benchmarks/bench.py run     measures every comparison and writes docs/benchmarks.md
    python benchmarks/bench.py page    writes docs/benchmarks.md from benchmarks/results

Each comparison is a figure (figures.toml) that runs Swell and its peers in turns in one run. The
table is between two marks of docs/benchmarks.md; its numbers come from benchmarks/results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from figures import replaced, results, with_table
from machine import ROOT, say

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- peers: written by benchmarks/bench.py -->"
END = "<!-- end of peers -->"
#: Closer than this, neither is called ahead: what runs of the same thing differ by here.
SAME = 0.01

#: The way to a number in a figure's details.
Keys = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One comparison: where a figure's details have Swell's number and each peer's.

    `versions` names a peer as the details' `versions` do, where it has one.
    """

    figure: str
    what: str
    unit: str
    better: Literal["higher", "lower"]
    swell: Keys
    peers: Mapping[str, Keys]
    versions: Mapping[str, str] = field(default_factory=dict)


def _engine(key: str) -> dict[str, Keys]:
    return {name: (peer, key) for name, peer in _ENGINES.items()}


_ENGINES = {"LitServe": "litserve", "mosec": "mosec", "Ray Serve": "ray"}
_SCALERS = (
    *("KEDA", "Knative", "SkyServe", "Ray Serve", "AWS target tracking", "RunPod"),
    *("SkyPilot pool", "static peak"),
)

ROWS = (
    Row(
        *("service-throughput", "No-op tasks over HTTP, 64 clients that wait; SQLite", "tasks/s"),
        *("higher", ("swell", "tasks_per_s")),
        {
            "huey with SQLite (synced)": ("huey", "tasks_per_s"),
            "dramatiq with Redis": ("dramatiq", "tasks_per_s"),
            "LitServe (stores nothing)": ("litserve", "tasks_per_s"),
        },
        {
            "huey with SQLite (synced)": "huey",
            "dramatiq with Redis": "dramatiq",
            "LitServe (stores nothing)": "litserve",
        },
    ),
    Row(
        *("service-throughput-postgres", "The same; PostgreSQL", "tasks/s"),
        *("higher", ("swell", "tasks_per_s")),
        {"procrastinate": ("procrastinate", "tasks_per_s")},
        {"procrastinate": "procrastinate"},
    ),
    Row(
        *(
            "service-throughput-nats",
            "The same; tasks in PostgreSQL, NATS as broker",
            "tasks/s",
        ),
        *("higher", ("swell_postgres", "tasks_per_s")),
        {"taskiq with Redis streams": ("taskiq", "tasks_per_s")},
        {"taskiq with Redis streams": "taskiq"},
    ),
    Row(
        *("service-latency", "A no-op task over HTTP, one client; median", "ms"),
        *("lower", ("swell", "p50_ms")),
        {"Celery with Redis": ("celery", "p50_ms")},
        {"Celery with Redis": "celery"},
    ),
    Row(
        *("service-drain", "50,000 waiting no-op tasks, one worker", "tasks/s"),
        *("higher", ("swell", "tasks_per_s")),
        {"huey with SQLite (synced)": ("huey", "tasks_per_s")},
        {"huey with SQLite (synced)": "huey"},
    ),
    Row(
        *("engine-peers", "Pictures of 4 to 30 steps, with a backlog", "pictures/s"),
        *("higher", ("swell", "images_per_s")),
        _engine("images_per_s"),
        _ENGINES,
    ),
    Row(
        *("engine-peers", "The same at 90 % of a bare loop's capacity; p95", "s"),
        *("lower", ("swell", "p95_s")),
        _engine("p95_s"),
        _ENGINES,
    ),
    Row(
        *("fleet-anchors", "Cost of a viral night over the least possible, nine cases", "times"),
        *("lower", ("one setting for all traces", "Swell")),
        {name: ("one setting for all traces", name) for name in _SCALERS},
    ),
    Row(
        *("cold-start", "First picture of an empty machine, 2 GB in a local bucket", "s"),
        *("lower", ("median_s", "first")),
        {"download, import, `from_pretrained`": ("median_s", "naive")},
    ),
    Row(
        *("cold-start-bucket", "The same with 90 MB/s for each connection", "s"),
        *("lower", ("median_s", "first")),
        {"download, import, `from_pretrained`": ("median_s", "naive")},
    ),
)


#: The kept results, by figure.
Results = Mapping[str, Mapping[str, Any]]


def table(kept: Results) -> str:
    """The rows of the comparison, from the kept results."""
    lines = [
        "| what | Swell | peer | Swell / peer | ahead | figure | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        lines += _lines(row, result_of(row.figure, kept))
    return "\n".join(lines)


def result_of(figure: str, kept: Results) -> Mapping[str, Any]:
    """The kept result of a figure.

    Raises:
      LookupError: when the figure was not run.
    """
    if figure not in kept:
        raise LookupError(f"benchmarks/results has no run of {figure}: figures.py run {figure}")
    return kept[figure]


def _lines(row: Row, result: Mapping[str, Any]) -> Iterator[str]:
    details = result["detail"]
    about = [f"`{row.figure}`", str(result.get("at", ""))[:10]]
    if (why := details.get("failed")) is not None:
        cells = [row.what, f"failed: {why}".replace("|", "\\|"), "", "", "", *about]
        yield f"| {' | '.join(cells)} |"
        return
    ours = _at(details, row.swell)
    versions = details.get("versions", {})
    for peer, path in row.peers.items():
        theirs = _at(details, path)
        version = versions.get(row.versions.get(peer, ""), "")
        name = f"{peer} {version}".strip()
        if theirs is None:
            beside = [f"{name}: missed the promised wait", "", "Swell"]
        else:
            ratio = ours / theirs
            number = f"{name}: {_number(theirs)} {row.unit}"
            beside = [number, f"{ratio:.2f}", ahead(ratio, row.better, peer)]
        cells = [row.what, f"{_number(ours)} {row.unit}", *beside, *about]
        yield f"| {' | '.join(cells)} |"


def ahead(ratio: float, better: Literal["higher", "lower"], peer: str) -> str:
    """Name whose number is better; `ratio` is Swell's over the peer's."""
    if abs(ratio - 1) < SAME:
        return "neither"
    return "Swell" if (ratio > 1) == (better == "higher") else f"**{peer}**"


def _at(details: Any, path: Keys) -> Any:
    for key in path:
        details = details[key]
    return details


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def section(kept: Results) -> str:
    """The lines between the marks of docs/benchmarks.md."""
    return f"{BEGIN}\n{table(kept)}\n{END}"


def with_section(page: str, kept: Results) -> str:
    """A page with its comparison written from the kept results."""
    return replaced(page, BEGIN, END, section(kept))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "page"])
    asked = parser.parse_args()
    code = 0
    if asked.what == "run":
        me = [sys.executable, str(Path(__file__).with_name("figures.py"))]
        for name in dict.fromkeys(row.figure for row in ROWS):
            # That a figure misses its target is no reason to leave it out of the table.
            code |= subprocess.run([*me, "run", name], check=False).returncode
    PAGE.write_text(with_section(with_table(PAGE.read_text()), results()))
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
