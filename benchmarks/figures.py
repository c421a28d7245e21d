"""Runs the figures of figures.toml and writes docs/figures.md from what the runs printed.

    python benchmarks/figures.py list
    python benchmarks/figures.py run service-throughput
    python benchmarks/figures.py all
    python benchmarks/figures.py page

`run` ends with one line of JSON: figure, value, target, ok, detail. Runs are kept under
.bench/results/, and the page is made from them: no number on it is typed in by hand. A figure that
was not run here keeps what the page says of it, as long as its question is the same.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machine import RESULTS, ROOT, say

HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "figures.md"


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
    """Runs a figure's command and keeps what came of it."""
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
    (RESULTS / f"{figure.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def judged(figure: Figure, code: int, printed: str) -> dict[str, Any]:
    """What a command's exit and output say about its figure."""
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


def page(known: dict[str, Figure]) -> str:
    """The page of figures, from the kept runs; a figure that was not run says so."""
    before = PAGE.read_text() if PAGE.exists() else ""
    results = {name: kept(name) or told(figure, before) for name, figure in known.items()}
    lines = [
        "# Figures",
        "",
        "Written by `python benchmarks/figures.py all` from its runs. Each row can be repeated:",
        "`python benchmarks/figures.py run NAME`.",
        "",
        "| figure | question | value | target | holds | command |",
        "|---|---|---|---|---|---|",
        *(row(figure, results[name]) for name, figure in known.items()),
        "",
        "## Where and when",
        "",
        *(where(name, result) for name, result in results.items()),
        "",
        "## What the runs said",
        "",
    ]
    for name, result in results.items():
        if result is not None:
            detail = json.dumps(result["detail"], indent=2, ensure_ascii=False)
            lines += [f"### {name}", "", "```json", detail, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def row(figure: Figure, result: dict[str, Any] | None) -> str:
    value, ok = "not run", ""
    if result is not None:
        measured = result["value"]
        value = "failed" if measured is None else f"{measured:.4g}"
        ok = "yes" if result["ok"] else "no"
    question = figure.question.replace("|", "\\|")
    command = f"`python benchmarks/{figure.command}`"
    return f"| {figure.name} | {question} | {value} | {figure.aim} | {ok} | {command} |"


def where(name: str, result: dict[str, Any] | None) -> str:
    if result is None:
        return f"- {name}: not run"
    if "where" in result:
        return str(result["where"])
    about = result.get("machine", {})
    on = (
        f"{about['cpu']}, {about['cores']} cores, {about['ram_gib']} GiB, Linux {about['kernel']}, "
        f"Python {about['python']}"
        if {"cpu", "cores", "ram_gib", "kernel", "python"} <= about.keys()
        else "machine not told"
    )
    return (
        f"- {name}: {result.get('at', 'time not told')}, commit {result.get('commit', '?')}, {on}"
    )


def told(figure: Figure, text: str) -> dict[str, Any] | None:
    """What the page says of a figure that was not run here; None if it asked something else."""
    question = figure.question.replace("|", "\\|")
    row = re.search(rf"^\| {figure.name} \| {re.escape(question)} \| ([\d.e+-]+) \|", text, re.M)
    place = re.search(rf"^- {figure.name}: \d.*$", text, re.M)
    said = re.search(rf"^### {figure.name}\n\n```json\n(.*?)\n```$", text, re.M | re.S)
    if row is None or place is None or said is None:
        return None
    value = float(row[1])
    held = text[row.start() : text.index("\n", row.start())].split(" | ")[-2].strip()
    return {
        "value": value,
        "ok": held == "yes",
        "detail": json.loads(said[1]),
        "where": place[0],
    }


def kept(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


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
    results = [run(known[name]) for name in chosen]
    if asked.what != "run":
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(known))
    for result in results:
        print(json.dumps(result), flush=True)
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
