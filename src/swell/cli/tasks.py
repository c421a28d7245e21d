"""`swell tasks`: submit, follow, list, retry and delete tasks."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from swell.cli.asking import Asked, asks_model
from swell.cli.follow import exit_of, follow, save_artifacts, send, show_end
from swell.cli.output import (
    CommandFailed,
    Exit,
    Refused,
    ago,
    group,
    print_json,
    seconds,
    table,
    talk,
)
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, ServerEvent, asks_server, talks_to_server
from swell.cli.telling import estimate_lines, spent_line, task_lines, told_lines
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest
from swell.core.task import TaskState
from swell.core.telemetry import printable

#: End of a worker's log that is searched for a failed task.
_LOG_TAIL_BYTES = 5_000_000

app = group("Submit, follow, list, cancel, retry and delete tasks.")

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of a task.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="TASK…", help="Ids of tasks.")]


@app.command("ls")
@asks_server
def list_tasks(
    server: Server,
    state: Annotated[TaskState | None, typer.Option(help="Only tasks in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only tasks of this model.")] = None,
    user: Annotated[str | None, typer.Option(help="Only tasks of this user.")] = None,
    dead: Annotated[
        bool,
        typer.Option("--dead", help="Only dead letters: failed after their last attempt, and why."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 20,
) -> None:
    """List tasks, newest first."""
    if dead:
        _list_dead(server, model, min(limit, 200))
        return

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
        (t["id"], t["model"], t["state"], _retries(t), ago(t["created_at"], now), _ran(t))
        for t in tasks
    ]
    table(("TASK", "MODEL", "STATE", "RETRIES", "AGE", "RAN"), rows, empty="no tasks")


def _list_dead(server: Server, model: str | None, limit: int) -> None:
    page = server.call(lambda remote: remote.get("/v1/dead", model=model, limit=limit))
    if server.as_json:
        print_json(page["tasks"])
        return
    now = SystemClock().now()
    rows = [
        (t["id"], t["model"], t["attempt"], ago(t["finished_at"], now), t["error"]["detail"])
        for t in page["tasks"]
    ]
    table(("TASK", "MODEL", "ATTEMPTS", "FAILED", "WHY"), rows, empty="no dead letters")


@app.command("show")
@asks_server
def show_task(server: Server, task: TaskId) -> None:
    """Show one task: input, state, times, cost, stages and files."""
    found = server.call(lambda remote: remote.get(f"/v1/tasks/{task}"))
    if server.as_json:
        print_json(found)
        return
    for name, words in task_lines(found, SystemClock().now()):
        stdout.print(f"{name:13} {printable(words)}", markup=False)
    _point_to_log(server, found)


@app.command("submit")
@asks_server
@asks_model
def submit_task(
    server: Server,
    asked: Asked,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key returns the same task, and creates no second.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait until the task ends, and save its files.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("pictures"),
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Submit nothing; show when the task would start and end, and its cost. The exit "
            "code is 4 if it would be refused.",
        ),
    ] = False,
) -> None:
    """Submit a task; with --watch, wait for it and save its files.

    With --finish-by-s or --start-by-s a task that would be late is refused, unless a --degrade
    option allows a change that makes it fit.
    """
    if estimate:
        if watch or idempotency_key is not None:
            raise InvalidRequest(
                "--estimate submits nothing: leave out --watch and --idempotency-key"
            )
        _estimate(server, asked)

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
        _print_result(server, task, saved)
    else:
        _say_told(task)
        talk.print(f"{task['state']}; watch it: swell tasks watch {task['id']}")
        stdout.print(task["id"])
    if watch:
        raise typer.Exit(exit_of(task))


def _estimate(server: Server, asked: Asked) -> None:
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
    out: Annotated[
        Path | None, typer.Option("--out", help="Save its files in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per event.")] = False,
) -> None:
    """Follow a task until it ends; the exit code is 0 if it succeeded."""

    def tell(event: ServerEvent) -> None:
        if as_json:
            print_json({"id": event.id, "event": event.kind, "data": event.data})

    async def work(remote: Remote) -> tuple[dict[str, Any], list[Path]]:
        found = await follow(remote, task, tell)
        return found, [] if out is None else await save_artifacts(remote, found, folder=out)

    found, saved = server.call(work)
    if not as_json:
        _print_result(server, found, saved)
    raise typer.Exit(exit_of(found))


@app.command("cancel")
@asks_server
def cancel_tasks(server: Server, tasks: TaskIds) -> None:
    """Cancel tasks that have not ended."""
    _for_each(server, tasks, "cancel")


@app.command("retry")
@asks_server
def retry_tasks(
    server: Server,
    tasks: Annotated[list[str], typer.Argument(metavar="[TASK…]", help="Ids of tasks.")] = [],
    dead: Annotated[
        bool, typer.Option("--dead", help="All dead letters, up to 1,000 in one call.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="With --dead: only dead letters of this model.")
    ] = None,
) -> None:
    """Run ended tasks again as new tasks, and print the new ids."""
    if dead is bool(tasks) or (model is not None and not dead):
        raise InvalidRequest("name the tasks, or --dead with or without --model NAME")
    if not dead:
        _for_each(server, tasks, "retry")
        return

    async def work(remote: Remote) -> list[dict[str, Any]]:
        answer = await remote.post("/v1/dead/replay", {"model": model} if model else {})
        return list(answer["replayed"])

    replayed = server.call(work)
    failed = [each for each in replayed if each["error"]]
    if server.as_json:
        print_json(replayed)
    else:
        for each in replayed:
            if each["error"]:
                talk.print(f"{each['id']}: {each['error']}", markup=False)
            else:
                stdout.print(each["new_id"])
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(replayed)} dead letters were not run again")


@app.command("delete")
@asks_server
def delete_tasks(
    server: Server,
    tasks: TaskIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete input, output and files of ended tasks permanently; state, times and costs stay."""

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
    """Ask for confirmation.

    Raises:
        InvalidRequest: stdin is not a terminal.
    """
    for task in tasks:
        talk.print(f"{task['id']}  {task['model']}  {task['state']}", markup=False)
    which = "this task" if len(tasks) == 1 else f"these {len(tasks)} tasks"
    if not sys.stdin.isatty():
        raise InvalidRequest(f"to delete all data of {which} without a terminal, add --yes")
    typer.confirm(f"Delete all data of {which} permanently?", abort=True, err=True)


def _removed(before: dict[str, Any]) -> str:
    """Describe the data that a task had before its deletion."""
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


def _print_result(server: Server, task: dict[str, Any], saved: list[Path]) -> None:
    show_end(task)
    talk.print(f"  {spent_line(task)}")
    _say_told(task)
    _point_to_log(server, task)
    if saved:
        for path in saved:
            stdout.print(str(path))
    elif task["artifacts"]:
        for artifact in task["artifacts"]:
            stdout.print(artifact["url"])
    elif task["output"] is not None:
        print_json(task["output"])


def _point_to_log(server: Server, task: dict[str, Any]) -> None:
    """Print the path of a failed task's log, if a worker of this data folder ran it."""
    if task["state"] != "failed":
        return
    for path in sorted((server.settings.data_dir / "logs").glob("*.log"), reverse=True):
        if task["id"].encode() in path.read_bytes()[-_LOG_TAIL_BYTES:]:
            talk.print(f"  log of its worker: {path}", markup=False)
            return


def _say_told(task: dict[str, Any]) -> None:
    for name, words in told_lines(task):
        talk.print(f"  {name} {words}", markup=False)


def _retries(task: dict[str, Any]) -> int:
    """Return the number of retries, without the first attempt of each stage of a pipeline."""
    attempts = [stage["attempts"] for stage in task.get("stages") or ()] or [task["attempt"]]
    return sum(max(0, each - 1) for each in attempts)


def _ran(task: dict[str, Any]) -> str | None:
    return seconds((task["timings"] or {}).get("run_s"))
