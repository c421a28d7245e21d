"""Following one task: progress for the eye, pictures to a file, and where the time went."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from swell.cli.output import Exit, seconds, talk
from swell.cli.pictures import FOLDER, free_path, save, slug
from swell.cli.remote import Remote, ServerEvent

__all__ = [
    "exit_of",
    "follow",
    "save_artifacts",
    "send",
    "show_end",
    "time_line",
]

#: Shown beside the bar until something else happens.
_WORDS = {"queued": "waits", "started": "runs", "artifact": "delivers"}


async def send(
    remote: Remote, request: Mapping[str, Any], *, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Submit a task.

    Args:
        remote: The server.
        request: `model`, `input` and whatever else is asked.
        idempotency_key: The same key gives the same task for a day.
    """
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    task: dict[str, Any] = await remote.post("/v1/tasks", request, headers=headers)
    return task


async def follow(
    remote: Remote, task_id: str, on_event: Callable[[ServerEvent], None] | None = None
) -> dict[str, Any]:
    """Show progress on stderr until the task has ended, and return it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
        bar = progress.add_task(f"{task_id[:12]}… waits", total=None)
        async for event in remote.events(task_id):
            if on_event is not None:
                on_event(event)
            _show(progress, bar, event)
    task: dict[str, Any] = await remote.get(f"/v1/tasks/{task_id}")
    return task


async def save_artifacts(
    remote: Remote, task: Mapping[str, Any], *, folder: Path = FOLDER, stem: str | None = None
) -> list[Path]:
    """Download what a task brought forth, named after its prompt."""
    name = stem or slug(_first_text(task))
    saved = []
    for artifact in task["artifacts"]:
        content = await remote.download(artifact["url"])
        saved.append(save(free_path(name, artifact["content_type"], folder), content))
    return saved


def show_end(task: Mapping[str, Any]) -> None:
    """Say on stderr how a task ended."""
    state, error = task["state"], task.get("error")
    color = {"succeeded": "green", "failed": "red"}.get(state, "yellow")
    # Each stage of a pipeline is an attempt of its own: their number says nothing of repeats.
    is_repeated = task["attempt"] > 1 and not task.get("stages")
    attempts = f" after {task['attempt']} attempts" if is_repeated else ""
    talk.print(f"{task['id']} [{color}]{state}[/]{attempts}")
    if error:
        talk.print(f"  {escape(error['title'])}: {escape(error['detail'])}")
    if state == "failed" and not task["artifacts"]:
        talk.print(f"  try it again: swell tasks retry {task['id']}")


def time_line(task: Mapping[str, Any], total_s: float | None = None) -> str:
    """Return where the time of a task went, as one line for people."""
    timings = task.get("timings") or {}
    words = ("queue", "load", "run", "encode", "upload")
    parts = [f"{word} {seconds(timings.get(f'{word}_s', 0.0))}" for word in words]
    if total_s is not None:
        parts.append(f"in all {seconds(total_s)}")
    return " · ".join(parts)


def exit_of(task: Mapping[str, Any]) -> Exit:
    """Return the exit code of a command that waited for this task."""
    return Exit.OK if task["state"] == "succeeded" else Exit.FAILED


def _show(progress: Progress, bar: Any, event: ServerEvent) -> None:
    if event.kind in _WORDS:
        words = _WORDS[event.kind]
        position = event.data.get("position")
        if event.kind == "queued" and position:
            words += f", number {position} in line"
        if event.data.get("stage"):
            words = f"{event.data['stage']} {words}"
        progress.update(bar, description=words)
    elif event.kind == "progress" and event.data.get("steps"):
        progress.update(
            bar, description="runs", total=event.data["steps"], completed=event.data["step"]
        )


def _first_text(task: Mapping[str, Any]) -> str:
    values = task.get("input") or {}
    if isinstance(values.get("prompt"), str):
        return str(values["prompt"])
    texts = (value for value in values.values() if isinstance(value, str))
    text = next((text for text in texts if not urlsplit(text).scheme), "")
    return text or str(task["model"]).rpartition("/")[2]
