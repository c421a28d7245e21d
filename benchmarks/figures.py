"""Runs the figures of figures.toml and writes the table of docs/benchmarks.md from their results.

    python benchmarks/figures.py list
    python benchmarks/figures.py run service-throughput
    python benchmarks/figures.py all
    python benchmarks/figures.py page

`run` ends with one line of JSON: figure, value, target, ok, detail, machine, commit, at. It is kept
in benchmarks/results/NAME.json, and `page` writes the table from these files only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machine import RESULTS, ROOT, say

HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by benchmarks/figures.py -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True)
class Figure:
    """One entry of figures.toml."""

    name: str
    question: str
    command: str
    target: float
    better: Literal["higher", "lower"]
    unit: str
    limit_s: float

    def holds(self, value: float) -> bool:
        return value >= self.target if self.better == "higher" else value <= self.target

    @property
    def aim(self) -> str:
        return f"{'≥' if self.better == 'higher' else '≤'} {self.target:g} {self.unit}"


def figures() -> dict[str, Figure]:
    entries = tomllib.loads((HERE / "figures.toml").read_text())
    return {name: Figure(name=name, **entry) for name, entry in entries.items()}


def run(figure: Figure) -> dict[str, Any]:
    """Runs a figure's command and keeps its result."""
    say(f"{figure.name}: {figure.command}")
    script, *arguments = shlex.split(figure.command)
    try:
        ran = subprocess.run(
            [sys.executable, str(HERE / script), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=figure.limit_s,
            check=False,
        )
        result = judged(figure, ran.returncode, ran.stdout)
    except subprocess.TimeoutExpired:
        result = failed(figure, f"not done within {figure.limit_s:g} s")
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (RESULTS / f"{figure.name}.json").write_text(f"{text}\n")
    return result


def judged(figure: Figure, code: int, printed: str) -> dict[str, Any]:
    """The result of a figure, from the exit code and output of its command."""
    last = printed.strip().rpartition("\n")[2]
    try:
        said = json.loads(last)
        value = said["value"]
    except (ValueError, TypeError, KeyError):
        return failed(figure, f"exit {code}, and no JSON with a value on the last line: {last!r}")
    ok = code == 0 and said.get("ok", True) and value is not None and figure.holds(value)
    return {
        "figure": figure.name,
        "value": value,
        "target": figure.target,
        "ok": bool(ok),
        "detail": said.get("detail", {}),
        **{key: said[key] for key in ("machine", "commit", "at") if key in said},
    }


def failed(figure: Figure, why: str) -> dict[str, Any]:
    return {
        "figure": figure.name,
        "value": None,
        "target": figure.target,
        "ok": False,
        "detail": {"failed": why},
    }


def results() -> dict[str, dict[str, Any]]:
    """The kept result of each figure that was run."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def table(known: dict[str, Figure], kept: dict[str, dict[str, Any]]) -> str:
    """One row for each figure; a figure without a result is `not run`."""
    rows = [
        "| figure | question | value | target | holds | date |",
        "|---|---|---|---|---|---|",
        *(row(figure, kept.get(name)) for name, figure in known.items()),
    ]
    return f"{BEGIN}\n" + "\n".join(rows) + f"\n{END}"


def row(figure: Figure, result: dict[str, Any] | None) -> str:
    value, ok, date = "not run", "", ""
    if result is not None:
        measured = result["value"]
        value = "failed" if measured is None else f"{measured:.4g}"
        ok = "yes" if result["ok"] else "no"
        date = str(result.get("at", ""))[:10]
    return f"| `{figure.name}` | {figure.question} | {value} | {figure.aim} | {ok} | {date} |"


def replaced(page: str, begin: str, end: str, section: str) -> str:
    """A page with the lines from `begin` to `end` replaced by `section`.

    Raises:
      ValueError: when one of the two lines is missing.
    """
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{PAGE.name} lacks the lines {begin} and {end}")
    return before + section + after


def with_table(page: str) -> str:
    return replaced(page, BEGIN, END, table(figures(), results()))


def main() -> int:
    known = figures()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["list", "run", "all", "page"])
    parser.add_argument("name", nargs="?", choices=list(known))
    asked = parser.parse_args()
    if asked.what == "list":
        for figure in known.values():
            print(f"{figure.name}: {figure.question} Target: {figure.aim}.")
        return 0
    if asked.what == "run" and asked.name is None:
        parser.error("run needs the name of a figure")
    chosen = {"run": [asked.name], "all": list(known), "page": []}[asked.what]
    done = [run(known[name]) for name in chosen]
    if asked.what != "run":
        PAGE.write_text(with_table(PAGE.read_text()))
    for result in done:
        print(json.dumps(result), flush=True)
    return 0 if all(result["ok"] for result in done) else 1


if __name__ == "__main__":
    sys.exit(main())
