"""Formats tasks and estimates as named lines.

Members that an older server does not send are left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from swell.cli.follow import time_line
from swell.cli.output import ago, seconds
from swell.core.billing.money_format import dollars

#: Longest value of an input or output, in characters.
_LONG = 200


def task_lines(task: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    """Yield a line for each member of a task that has a value."""
    yield "id", task["id"]
    yield "model", f"{task['model']}:{task['version']}"
    yield "state", _state(task)
    yield from _value_lines("input", task["input"])
    for name in ("seed", "user", "metadata", "trace_id"):
        if task.get(name) is not None:
            yield from _value_lines(name.removesuffix("_id"), task[name])
    yield from _time_lines(task, now)
    if task["error"]:
        yield "error", f"{task['error']['title']}: {task['error']['detail']}"
    yield from told_lines(task)
    yield from _result_lines(task)
    if task.get("webhook"):
        yield "webhook", _shown(task["webhook"].get("url", task["webhook"]))
    if task["data_removed"]:
        yield "deleted", ", ".join(task["data_removed"])


def _time_lines(task: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    for name in ("created", "started", "finished"):
        if moment := task.get(f"{name}_at"):
            at = datetime.fromisoformat(moment).astimezone(UTC)
            yield name, f"{at:%Y-%m-%d %H:%M:%S} UTC ({ago(moment, now)} ago)"
    if task["timings"]:
        yield "time", time_line(task)
    if task.get("cost_micros") is not None:
        yield "cost", dollars(task["cost_micros"])


def _result_lines(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not task["artifacts"] and task["output"] is not None:
        yield from _value_lines("output", task["output"])
    for file in task["artifacts"]:
        size = f", {file['width']} x {file['height']}" if file.get("width") else ""
        yield "file", f"{file['content_type']}{size}, {file['bytes']:,} bytes: {file['url']}"


def _state(task: Mapping[str, Any]) -> str:
    words = [task["state"]]
    if task.get("position"):
        words.append(f"number {task['position']} in the queue")
    if task.get("eta_s"):
        words.append(f"ends in {_range(task['eta_s'])}")
    if not task.get("stages") and task["attempt"] > 1:
        words.append(f"attempt {task['attempt']} of {task['max_attempts']}")
    return ", ".join(words)


def _value_lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield a value; an object gets one line per member, below its name."""
    if not isinstance(value, Mapping):
        yield name, _shown(value)
        return
    for place, (key, each) in enumerate(value.items()):
        yield ("" if place else name), f"{key}: {_shown(each)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def told_lines(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a task's warnings, changed fields, stages and notes."""
    warnings = task.get("warnings") or ()
    for warning in warnings:
        yield "warning", warning_text(warning["message"], warning.get("suggestions") or ())
    for change in task.get("degraded") or ():
        yield "changed", _change(change)
    for stage in task.get("stages") or ():
        yield "stage", _stage(stage)
    for part in (*(task.get("stages") or ()), task):
        output = part.get("output")
        note = output.get("note") if isinstance(output, dict) else None
        if isinstance(note, str) and note and note not in (each["message"] for each in warnings):
            yield "note", note


def warning_text(message: str, suggestions: Sequence[str]) -> str:
    """Return a warning with its suggestions."""
    return message + (f" Try: {', '.join(suggestions)}." if suggestions else "")


def spent_line(task: Mapping[str, Any]) -> str:
    """Return the times of a task or stage, and its cost if known."""
    cost = task.get("cost_micros")
    return time_line(task) + ("" if cost is None else f" · {dollars(cost)}")


def estimate_lines(estimate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield an estimate: whether a task would be accepted, when it would end, and its cost."""
    refusal = estimate.get("refusal")
    if estimate["is_accepted"]:
        yield "accepted", "yes, with changes" if estimate.get("degraded") else "yes"
    else:
        yield "accepted", "no"
    if refusal is not None:
        yield "refusal", f"{refusal['title']}: {refusal['detail']}"
        if refusal.get("retry_after_s") is not None:
            yield "retry in", f"{refusal['retry_after_s']:,.0f} s"
    yield "model", f"{estimate['model']}:{estimate['version']}"
    for change in estimate.get("degraded") or ():
        yield "changed", _change(change)
    yield "position", str(estimate["position"])
    yield "starts in", _range(estimate.get("start_s"))
    yield "ends in", _range(estimate.get("finish_s"))
    cost = estimate.get("cost_micros")
    yield "cost", "unknown" if cost is None else dollars(cost)
    yield "workers", str(estimate["workers"])


def _change(change: Mapping[str, Any]) -> str:
    """Return a changed field of a request, such as `steps 40 → 22`."""
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
        return "0 s"
    low, median, high = (seconds(eta[name]) for name in ("low", "median", "high"))
    return f"about {median} ({low} to {high})"
