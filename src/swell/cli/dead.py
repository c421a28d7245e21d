"""`swell dead`: tasks that failed after their last attempt."""

from typing import Annotated, Any

import typer

from swell.cli.output import CommandFailed, ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, asks_server
from swell.clock import SystemClock
from swell.errors import InvalidRequest

__all__ = ["app"]

app = group("Dead letters: tasks that failed after their last attempt.")


@app.command("ls")
@asks_server
def list_dead(
    server: Server,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
) -> None:
    """List dead letters, newest first."""
    page = server.call(lambda remote: remote.get("/v1/dead", model=model, limit=limit))
    if server.as_json:
        print_json(page["tasks"])
        return
    now = SystemClock().now()
    rows = [
        (t["id"], t["model"], t["attempt"], ago(t["finished_at"], now), t["error"]["detail"])
        for t in page["tasks"]
    ]
    table(("TASK", "MODEL", "ATTEMPTS", "DIED", "WHY"), rows, empty="no dead letters")


@app.command("replay")
@asks_server
def replay_dead(
    server: Server,
    tasks: Annotated[
        list[str], typer.Argument(metavar="[TASK…]", help="Ids of dead letters.")
    ] = [],
    model: Annotated[str | None, typer.Option(help="All of this model's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Repeat dead letters as new tasks, up to 1,000 a call."""
    if sum((bool(tasks), model is not None, everything)) != 1:
        raise InvalidRequest("say which: ids of tasks, --model NAME, or --all")
    body: dict[str, Any] = {"ids": tasks} if tasks else {"model": model} if model else {}

    async def work(remote: Remote) -> list[dict[str, Any]]:
        answer = await remote.post("/v1/dead/replay", body)
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
        raise CommandFailed(f"{len(failed)} of {len(replayed)} dead letters were not replayed")
