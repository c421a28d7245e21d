"""Writes docs/gpu.md from docs/gpu.json; without a result, the page says that nothing was measured.

PYTHONPATH=benchmarks python -m gpu.gpu_page
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu.catalog import STAGES, Stage

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gpu.md"
RESULT = ROOT / "docs" / "gpu.json"

_HEAD = """# Measured on a GPU

<!-- Written by `make gpu`. -->

{summary}

`make gpu` runs {count} stages in at most ten minutes, without a network. SDXL, SD 3.5 Large and
FLUX.1 dev have their true size and random weights, so times and memory are those of the published
models, and pictures are noise. `make gpu GPU=--continue` runs the stages for which there was no
time. `make gpu GPU="--tiny --device cpu"` runs all of it in miniature on a CPU, to test the
measurement itself, and writes to `.bench/gpu/`.

{facts}

## Stages

{stages}
"""

_NOTHING = (
    "**Nothing was measured on a GPU yet.** Every stage below is empty until `make gpu` has run on "
    "a machine with CUDA."
)
_TINY = (
    "**This is the miniature, not a measurement.** Networks and pictures are tiny; the numbers "
    "show only that the stages run."
)


def read(path: Path = RESULT) -> dict[str, Any] | None:
    """Return a kept result; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def page(result: Mapping[str, Any] | None, stages: Sequence[Stage] = STAGES) -> str:
    """Return the page of a result; of None, a page that says that nothing was measured."""
    kept = (result or {}).get("stages", {})
    nothing = {"status": "not run", "why": "nothing was measured yet", "rows": []}
    outcomes = {stage.name: kept.get(stage.name, nothing) for stage in stages}
    overview = [["stage", "question", "status", "seconds"]]
    for stage in stages:
        outcome = outcomes[stage.name]
        overview.append(
            [f"`{stage.name}`", stage.question, _status(outcome), _cell(outcome.get("took_s"))]
        )
    head = _HEAD.format(
        summary=_summary(result, outcomes),
        count=len(stages),
        facts=_table(_facts(result or {})),
        stages=_table(overview),
    )
    sections = [_section(stage, outcomes[stage.name]) for stage in stages]
    return "\n".join([head, *sections])


def _summary(result: Mapping[str, Any] | None, outcomes: Mapping[str, Any]) -> str:
    if result is None:
        return _NOTHING
    if result.get("miniature"):
        return _TINY
    done = sum(each["status"] == "measured" for each in outcomes.values())
    card = result.get("machine", {}).get("card", "unknown card")
    missing = "" if done == len(outcomes) else " The table says why each of the others is missing."
    return f"Measured on one {card}: {done} of {len(outcomes)} stages are complete.{missing}"


def _facts(result: Mapping[str, Any]) -> list[list[str]]:
    machine, versions = result.get("machine", {}), result.get("versions", {})
    memory = machine.get("memory_gib")
    host = machine.get("host_memory_gib")
    rows = [
        ["", ""],
        ["card", _known(machine.get("card"))],
        ["GPU memory", _known(f"{memory} GiB" if memory else None)],
        ["driver", _known(machine.get("driver"))],
        ["CPU cores", _known(machine.get("cpu_cores"))],
        ["host memory", _known(f"{host} GiB" if host else None)],
        ["date", _known(result.get("at"))],
        ["commit of Swell", _known(result.get("commit"))],
    ]
    names = ("swell", "torch", "CUDA of torch", "diffusers", "transformers", "torchao", "python")
    return rows + [[name, _known(versions.get(name))] for name in names]


def _section(stage: Stage, outcome: Mapping[str, Any]) -> str:
    parts = [f"## {stage.name}: {stage.question}", ""]
    if outcome["status"] != "measured":
        status = _status(outcome)
        parts += [f"{status[0].upper()}{status[1:]}.", ""]
    if outcome["rows"]:
        parts += [_table(_rows(outcome["rows"])), ""]
    return "\n".join(parts)


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table with the columns of all rows, in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = ["" if name == "what" else name for name in columns]
    return [head, *([_cell(row.get(name)) for name in columns] for row in rows)]


def _status(outcome: Mapping[str, Any]) -> str:
    why = outcome.get("why")
    return f"{outcome['status']}: {why}" if why else str(outcome["status"])


def _known(value: Any) -> str:
    return "not known" if value is None else _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int | float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


if __name__ == "__main__":
    PAGE.write_text(page(read()))
