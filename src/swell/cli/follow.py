"""Follows one task: shows its progress and times, and saves its files."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as BarTask
from rich.text import Text

from swell.cli.output import Exit, seconds, talk
from swell.cli.pictures import FOLDER, free_path, save, slug
from swell.cli.remote import Remote, ServerEvent

#: Kind of the last event → text next to the bar.
_WORDS = {"queued": "queued", "started": "running", "artifact": "saving"}

#: Interval of a bar that moves by time, in seconds, and its maximum.
_TICK_S = 0.2
_MOST_BY_TIME = 0.95

#: Without a terminal, steps are reported this often, in seconds.
_LINE_EVERY_S = 5.0


async def send(
    remote: Remote, request: Mapping[str, Any], *, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Submit a task.

    Args:
        remote: The server.
        request: `model`, `input` and optional members.
        idempotency_key: The same key gives the same task for a day.
    """
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    task: dict[str, Any] = await remote.post("/v1/tasks", request, headers=headers)
    return task


async def follow(
    remote: Remote, task_id: str, on_event: Callable[[ServerEvent], None] | None = None
) -> dict[str, Any]:
    """Show progress on stderr until the task ends, and return the task.

    A terminal gets a bar with the time left, other outputs a line at each change.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        _TimeLeft(),
    )
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
        bar = progress.add_task(f"{task_id[:12]}… queued", total=None, ends_s=None)
        shown = _Shown(progress, bar)
        ticking = asyncio.create_task(shown.tick())
        try:
            async for event in remote.events(task_id):
                if on_event is not None:
                    on_event(event)
                shown.take(event)
        finally:
            ticking.cancel()
    task: dict[str, Any] = await remote.get(f"/v1/tasks/{task_id}")
    return task


class _TimeLeft(ProgressColumn):
    """The time left by the server's estimate."""

    def render(self, task: BarTask) -> Text:
        ends_s = task.fields.get("ends_s")
        left_s = 0.0 if ends_s is None else ends_s - task.get_time()
        return Text(f"about {seconds(left_s)} left" if left_s >= 1 else "")


class _Shown:
    """Progress of one task, on a terminal or as lines."""

    def __init__(self, progress: Progress, bar: Any) -> None:
        self._progress = progress
        self._bar = bar
        self._begun_s = progress.get_time()
        self._ends_s: float | None = None
        self._has_steps = False
        self._said = ""
        self._said_at_s = float("-inf")

    async def tick(self) -> None:
        """Move the bar by time while the model reports no steps."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._ends_s is None or self._has_steps:
                continue
            total_s = max(self._ends_s - self._begun_s, _TICK_S)
            done_s = min(self._progress.get_time() - self._begun_s, _MOST_BY_TIME * total_s)
            self._progress.update(self._bar, total=total_s, completed=done_s)

    def take(self, event: ServerEvent) -> None:
        """Show an event."""
        now_s = self._progress.get_time()
        if eta := event.data.get("eta_s"):
            self._ends_s = now_s + eta["median"]
            self._progress.update(self._bar, ends_s=self._ends_s)
        if event.kind in _WORDS:
            words = _WORDS[event.kind]
            position = event.data.get("position")
            if event.kind == "queued" and position:
                words += f", number {position} in the queue"
            if event.data.get("stage"):
                words = f"{event.data['stage']}: {words}"
            self._progress.update(self._bar, description=words)
            self._say(words, now_s, is_news=words != self._said)
        elif event.kind == "progress" and event.data.get("steps"):
            self._has_steps = True
            step, steps = event.data["step"], event.data["steps"]
            self._progress.update(self._bar, description="running", total=steps, completed=step)
            self._say(f"step {step} of {steps}", now_s, is_news=False)

    def _say(self, words: str, now_s: float, *, is_news: bool) -> None:
        if talk.is_terminal or not (is_news or now_s - self._said_at_s >= _LINE_EVERY_S):
            return
        self._said, self._said_at_s = words, now_s
        left_s = 0.0 if self._ends_s is None else self._ends_s - now_s
        talk.print(words + (f", about {seconds(left_s)} left" if left_s >= 1 else ""))


async def save_artifacts(
    remote: Remote, task: Mapping[str, Any], *, folder: Path = FOLDER, stem: str | None = None
) -> list[Path]:
    """Download the files of a task, named after its prompt."""
    name = stem or slug(_first_text(task))
    saved = []
    for artifact in task["artifacts"]:
        content = await remote.download(artifact["url"])
        saved.append(save(free_path(name, artifact["content_type"], folder), content))
    return saved


def show_end(task: Mapping[str, Any]) -> None:
    """Print on stderr how a task ended."""
    state, error = task["state"], task.get("error")
    color = {"succeeded": "green", "failed": "red"}.get(state, "yellow")
    # Each stage of a pipeline counts as an attempt, so the number does not mean repeats.
    is_repeated = task["attempt"] > 1 and not task.get("stages")
    attempts = f" after {task['attempt']} attempts" if is_repeated else ""
    talk.print(f"{task['id']} [{color}]{state}[/]{attempts}")
    if error:
        talk.print(f"  {escape(error['title'])}: {escape(error['detail'])}")
    if state == "failed" and not task["artifacts"]:
        talk.print(f"  run it again: swell tasks retry {task['id']}")


def time_line(task: Mapping[str, Any], total_s: float | None = None) -> str:
    """Return the times of a task as one line."""
    timings = task.get("timings") or {}
    words = ("queue", "load", "run", "encode", "upload")
    parts = [f"{word} {seconds(timings.get(f'{word}_s', 0.0))}" for word in words]
    if total_s is not None:
        parts.append(f"total {seconds(total_s)}")
    return " · ".join(parts)


def exit_of(task: Mapping[str, Any]) -> Exit:
    """Return the exit code of a command that waited for this task."""
    return Exit.OK if task["state"] == "succeeded" else Exit.FAILED


def _first_text(task: Mapping[str, Any]) -> str:
    values = task.get("input") or {}
    if isinstance(values.get("prompt"), str):
        return str(values["prompt"])
    texts = (value for value in values.values() if isinstance(value, str))
    text = next((text for text in texts if not urlsplit(text).scheme), "")
    return text or str(task["model"]).rpartition("/")[2]
