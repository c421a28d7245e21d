"""Tasks and estimates in words, each a line with its name: what was changed, stages, notes, costs.

Members that an older server does not tell are passed over.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from swell.cli.follow import time_line
from swell.cli.output import seconds
from swell.money.amounts import dollars

__all__ = ["estimate_lines", "spent_line", "told_lines"]


def told_lines(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was changed of a task so that it could be accepted, its stages and their notes."""
    for change in task.get("degraded") or ():
        yield "changed", _change(change)
    for stage in task.get("stages") or ():
        yield "stage", _stage(stage)
    for part in (*(task.get("stages") or ()), task):
        output = part.get("output")
        if isinstance(output, dict) and isinstance(note := output.get("note"), str) and note:
            yield "note", note


def spent_line(task: Mapping[str, Any]) -> str:
    """Return where the time of a task or stage went, and what it cost where that is known."""
    cost = task.get("cost_micros")
    return time_line(task) + ("" if cost is None else f" · {dollars(cost)}")


def estimate_lines(estimate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what would become of a task."""
    refusal = estimate.get("refusal")
    if estimate["is_accepted"]:
        yield "accepted", "yes, with what is changed" if estimate.get("degraded") else "yes"
    else:
        yield "accepted", "no"
    if refusal is not None:
        yield "refusal", f"{refusal['title']}: {refusal['detail']}"
        if refusal.get("retry_after_s") is not None:
            yield "again in", f"{refusal['retry_after_s']:,.0f} s"
    yield "model", f"{estimate['model']}:{estimate['version']}"
    for change in estimate.get("degraded") or ():
        yield "changed", _change(change)
    yield "position", str(estimate["position"])
    yield "starts in", _range(estimate.get("start_s"))
    yield "ends in", _range(estimate.get("finish_s"))
    cost = estimate.get("cost_micros")
    yield "cost", "not known" if cost is None else dollars(cost)
    yield "workers", str(estimate["workers"])


def _change(change: Mapping[str, Any]) -> str:
    """Return what was changed of a request, such as `steps 40 → 22`."""
    name = change["field"].removeprefix("/input").removeprefix("/")
    return f"{name} {change['from']} → {change['to']}"


def _stage(stage: Mapping[str, Any]) -> str:
    words = f"{stage['name']} ({stage['model']}) {stage['state'].replace('_', ' ')}"
    if stage["attempts"] > 1:
        words += f" after {stage['attempts']} attempts"
    return words if stage["timings"] is None else f"{words}: {spent_line(stage)}"


def _range(eta: Mapping[str, float] | None) -> str:
    if eta is None:
        return "not measured yet"
    if eta["high"] <= 0.0:
        return "at once"
    low, median, high = (seconds(eta[name]) for name in ("low", "median", "high"))
    return f"about {median} ({low} to {high} for eight in ten)"
