"""`swell tasks`: what users asked, and what became of it."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from swell.cli.asking import Asked, asks_model
from swell.cli.follow import exit_of, follow, save_artifacts, send, show_end
from swell.cli.output import Exit, Refused, ago, group, print_json, seconds, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, ServerEvent, asks_server, talks_to_server
from swell.cli.telling import estimate_lines, spent_line, told_lines
from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.task import TaskState

__all__ = ["app"]

app = group("Submit tasks, and see what became of them.")

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of a task.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="TASK…", help="Ids of tasks.")]


@app.command("ls")
@asks_server
def list_tasks(
    server: Server,
    state: Annotated[TaskState | None, typer.Option(help="Only these.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List tasks, newest first."""

    async def work(remote: Remote) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while len(found) < limit:
            page = await remote.get(
                "/v1/tasks",
                state=None if state is None else state.value,
                model=model,
                user=user,
                cursor=cursor,
                limit=min(200, limit - len(found)),
            )
            found += page["tasks"]
            cursor = page["cursor"]
            if cursor is None:
                break
        return found

    tasks = server.call(work)
    if server.as_json:
        print_json(tasks)
        return
    now = SystemClock().now()
    rows = [
        (t["id"], t["model"], t["state"], t["attempt"], ago(t["created_at"], now), _ran(t))
        for t in tasks
    ]
    table(("TASK", "MODEL", "STATE", "ATTEMPT", "AGE", "RAN"), rows, empty="no tasks")


@app.command("show")
@asks_server
def show_task(server: Server, task: TaskId) -> None:
    """Show one task: what was changed of it, and what became of each stage, in words."""
    found = server.call(lambda remote: remote.get(f"/v1/tasks/{task}"))
    if server.as_json:
        print_json(found)
        return
    for name, value in found.items():
        if value not in (None, [], {}) and name not in ("urls", "degraded", "stages"):
            stdout.print(f"{name:13} {value}", markup=False)
    for name, words in told_lines(found):
        stdout.print(f"{name:13} {words}", markup=False)


@app.command("submit")
@asks_server
@asks_model
def submit_task(
    server: Server,
    asked: Asked,
    idempotency_key: Annotated[str | None, typer.Option(help="Same key, same task.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait, and save the files.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("pictures"),
) -> None:
    """Submit a task; with --watch, wait for it and save what it brings.

    With --finish-by-s or --start-by-s a task that would be too late is refused, unless --degrade-…
    says what may be changed.
    """

    async def work(remote: Remote) -> tuple[dict[str, Any], list[Path]]:
        request = await asked.request(remote)
        task = await send(remote, request, idempotency_key=idempotency_key)
        if not watch:
            return task, []
        task = await follow(remote, task["id"])
        return task, await save_artifacts(remote, task, folder=out)

    task, saved = server.call(work)
    if server.as_json:
        print_json(task | ({"saved": [str(path) for path in saved]} if watch else {}))
    elif watch:
        _print_result(task, saved)
    else:
        _say_told(task)
        talk.print(f"{task['state']}; watch it: swell tasks watch {task['id']}")
        stdout.print(task["id"])
    if watch:
        raise typer.Exit(exit_of(task))


@app.command("estimate")
@asks_server
@asks_model
def estimate_task(server: Server, asked: Asked) -> None:
    """Tell what would become of a task, and submit none; the exit code is 4 if it were refused."""

    async def work(remote: Remote) -> dict[str, Any]:
        request = await asked.request(remote)
        found: dict[str, Any] = await remote.post("/v1/estimate", request, is_repeatable=True)
        return found

    estimate = server.call(work)
    if server.as_json:
        print_json(estimate)
    else:
        for name, words in estimate_lines(estimate):
            stdout.print(f"{name:13} {words}", markup=False)
    raise typer.Exit(Exit.OK if estimate["is_accepted"] else Exit.REFUSED)


@app.command("watch")
@talks_to_server
def watch_task(
    server: Server,
    task: TaskId,
    out: Annotated[Path | None, typer.Option("--out", help="Save its files here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line an event.")] = False,
) -> None:
    """Follow a task until it ends; the exit code tells how."""

    def tell(event: ServerEvent) -> None:
        if as_json:
            print_json({"id": event.id, "event": event.kind, "data": event.data})

    async def work(remote: Remote) -> tuple[dict[str, Any], list[Path]]:
        found = await follow(remote, task, tell)
        return found, [] if out is None else await save_artifacts(remote, found, folder=out)

    found, saved = server.call(work)
    if not as_json:
        _print_result(found, saved)
    raise typer.Exit(exit_of(found))


@app.command("cancel")
@asks_server
def cancel_tasks(server: Server, tasks: TaskIds) -> None:
    """Cancel tasks; those that have ended stay as they are."""
    _for_each(server, tasks, "cancel")


@app.command("retry")
@asks_server
def retry_tasks(server: Server, tasks: TaskIds) -> None:
    """Repeat ended tasks as new ones, whose ids are printed."""
    _for_each(server, tasks, "retry")


@app.command("delete")
@asks_server
def delete_tasks(
    server: Server,
    tasks: TaskIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove input, output and files of ended tasks for ever; their state, times and costs stay."""

    async def look(remote: Remote) -> list[dict[str, Any]]:
        return [await remote.get(f"/v1/tasks/{task}") for task in dict.fromkeys(tasks)]

    found = server.call(look)
    if not yes:
        _confirm(found)
    erased: list[dict[str, Any]] = []

    async def erase(remote: Remote) -> Refused | None:
        for task in found:
            try:
                erased.append(await remote.delete(f"/v1/tasks/{task['id']}"))
            except Refused as refused:
                return refused
        return None

    refused = server.call(erase)
    if server.as_json:
        print_json(erased)
    else:
        for before, _ in zip(found, erased, strict=False):
            talk.print(f"{before['id']}: {_removed(before)}", markup=False)
    if refused is not None:
        raise refused


def _confirm(tasks: list[dict[str, Any]]) -> None:
    """Ask a person whether this is meant.

    Raises:
        InvalidRequest: There is nobody to ask.
    """
    for task in tasks:
        talk.print(f"{task['id']}  {task['model']}  {task['state']}", markup=False)
    which = "this task" if len(tasks) == 1 else f"these {len(tasks)} tasks"
    if not sys.stdin.isatty():
        raise InvalidRequest(f"nobody can be asked whether {which} may lose all data: add --yes")
    typer.confirm(f"Remove all data of {which}, for ever?", abort=True, err=True)


def _removed(before: dict[str, Any]) -> str:
    """Return in words what a task lost that was like this."""
    gone, files = before["data_removed"], before["artifacts"]
    parts = [] if "inputs" in gone else ["input and its files"]
    if files:
        size = sum(each["bytes"] for each in files)
        n = "1 file" if len(files) == 1 else f"{len(files)} files"
        parts.append(f"output with {n} ({size:,} bytes)")
    elif before["output"] is not None:
        parts.append("output")
    return f"removed {' and '.join(parts)}" if parts else "nothing was left to remove"


def _for_each(server: Server, ids: list[str], verb: str) -> None:
    async def work(remote: Remote) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(remote.post(f"/v1/tasks/{i}/{verb}") for i in ids)))

    found = server.call(work)
    if server.as_json:
        print_json(found)
        return
    for task in found:
        talk.print(f"{task['id']} is {task['state']}")
        stdout.print(task["id"])


def _print_result(task: dict[str, Any], saved: list[Path]) -> None:
    show_end(task)
    talk.print(f"  {spent_line(task)}")
    _say_told(task)
    if saved:
        for path in saved:
            stdout.print(str(path))
    elif task["artifacts"]:
        for artifact in task["artifacts"]:
            stdout.print(artifact["url"])
    elif task["output"] is not None:
        print_json(task["output"])


def _say_told(task: dict[str, Any]) -> None:
    for name, words in told_lines(task):
        talk.print(f"  {name} {words}", markup=False)


def _ran(task: dict[str, Any]) -> str | None:
    return seconds((task["timings"] or {}).get("run_s"))
