"""Swell beside its peers in one table, the rows in which a peer is ahead included.

    python benchmarks/bench.py run     measures all that is compared, and writes both pages
    python benchmarks/bench.py page    writes the table anew from docs/figures.md

Each comparison is a figure (figures.toml) that runs Swell and its peers in turns in one run. The
table stands in docs/benchmarks.md between two marks; its numbers are those of docs/figures.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from machine import ROOT, say

FIGURES = ROOT / "docs" / "figures.md"
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
            "huey with SQLite, synced": ("huey", "tasks_per_s"),
            "dramatiq with Redis": ("dramatiq", "tasks_per_s"),
            "LitServe, which keeps nothing": ("litserve", "tasks_per_s"),
        },
        {
            "huey with SQLite, synced": "huey",
            "dramatiq with Redis": "dramatiq",
            "LitServe, which keeps nothing": "litserve",
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
            "The same; tasks in PostgreSQL, and NATS for what no worker waits for",
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
        {"huey with SQLite, synced": ("huey", "tasks_per_s")},
        {"huey with SQLite, synced": "huey"},
    ),
    Row(
        *("engine-peers", "Pictures of 4 to 30 steps, with a backlog", "pictures/s"),
        *("higher", ("swell", "images_per_s")),
        _engine("images_per_s"),
        _ENGINES,
    ),
    Row(
        *("engine-peers", "The same, at 0.9 of what a bare loop bears; p95", "s"),
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
        *("engine-cold", "First picture of a worker, 1 GB of weights in the page cache", "s"),
        *("lower", ("median_s", "nothing")),
        {"a script with `from_pretrained`": ("median_s", "plain")},
    ),
    Row(
        *("engine-cold", "The same where an earlier worker left a fork server", "s"),
        *("lower", ("median_s", "warm")),
        {"a script with `from_pretrained`": ("median_s", "plain")},
    ),
    Row(
        *("cold-start", "First picture of an empty machine, 2 GB in a bucket beside it", "s"),
        *("lower", ("median_s", "first")),
        {"download, import, `from_pretrained`": ("median_s", "naive")},
    ),
    Row(
        *("cold-start-bucket", "The same, with 90 MB/s for each connection", "s"),
        *("lower", ("median_s", "first")),
        {"download, import, `from_pretrained`": ("median_s", "naive")},
    ),
)


def table(figures: str) -> str:
    """The rows of the comparison, from the text of docs/figures.md."""
    lines = [
        "| what | Swell | beside it | Swell over it | ahead | figure |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        lines += _lines(row, details_of(row.figure, figures))
    return "\n".join(lines)


def details_of(figure: str, figures: str) -> dict[str, Any]:
    """What docs/figures.md tells of one figure's run.

    Raises:
      LookupError: when the figure was not run.
    """
    said = re.search(rf"^### {figure}\n\n```json\n(.*?)\n```$", figures, re.M | re.S)
    if said is None:
        raise LookupError(f"docs/figures.md has no run of {figure}: figures.py run {figure}")
    found: dict[str, Any] = json.loads(said[1])
    return found


def _lines(row: Row, details: dict[str, Any]) -> Iterator[str]:
    if (why := details.get("failed")) is not None:
        cells = [row.what, f"failed: {why}".replace("|", "\\|"), "", "", "", f"`{row.figure}`"]
        yield f"| {' | '.join(cells)} |"
        return
    ours = _at(details, row.swell)
    versions = details.get("versions", {})
    for peer, path in row.peers.items():
        theirs = _at(details, path)
        version = versions.get(row.versions.get(peer, ""), "")
        name = f"{peer} {version}".strip()
        if theirs is None:
            beside = [f"{name}: did not keep the promised wait", "", "Swell"]
        else:
            ratio = ours / theirs
            number = f"{name}: {_number(theirs)} {row.unit}"
            beside = [number, f"{ratio:.2f}", ahead(ratio, row.better, peer)]
        cells = [row.what, f"{_number(ours)} {row.unit}", *beside, f"`{row.figure}`"]
        yield f"| {' | '.join(cells)} |"


def ahead(ratio: float, better: Literal["higher", "lower"], peer: str) -> str:
    """Who is ahead where Swell's number is `ratio` of the peer's."""
    if abs(ratio - 1) < SAME:
        return "neither"
    return "Swell" if (ratio > 1) == (better == "higher") else f"**{peer}**"


def _at(details: Any, path: Keys) -> Any:
    for key in path:
        details = details[key]
    return details


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def runs(figures: str) -> str:
    """When and where each compared figure was run, with what, as docs/figures.md tells."""
    return "\n".join(_run(name, figures) for name in dict.fromkeys(row.figure for row in ROWS))


def _run(figure: str, figures: str) -> str:
    details = details_of(figure, figures)
    if (why := details.get("failed")) is not None:
        return f"- {figure}: failed: {why}"
    found = re.search(rf"^- {figure}: \d.*$", figures, re.M)
    return f"{found[0] if found else f'- {figure}: time not told'}{_with(details)}"


def _with(details: Mapping[str, Any]) -> str:
    """Versions and settings of a run, where its figure tells them."""
    told = [f"{name} {version}" for name, version in details.get("versions", {}).items()]
    lines = [f"  - with {', '.join(told)}"] if told else []
    for name, setting in details.get("settings", {}).items():
        each = setting if isinstance(setting, dict) else {"": setting}
        said = "; ".join(f"{what}: {how}" if what else str(how) for what, how in each.items())
        lines.append(f"  - {name}: {said}")
    return "".join(f"\n{line}" for line in lines)


def section(figures: str) -> str:
    """What stands between the marks of docs/benchmarks.md."""
    return f"{BEGIN}\n{table(figures)}\n\n{runs(figures)}\n{END}"


def with_section(page: str, figures: str) -> str:
    """A page with its comparison written anew.

    Raises:
      ValueError: when the page has not both marks.
    """
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"{PAGE.name} has not the lines {BEGIN} and {END}")
    return before + section(figures) + after


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
        subprocess.run([*me, "page"], check=True)
    PAGE.write_text(with_section(PAGE.read_text(), FIGURES.read_text()))
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
