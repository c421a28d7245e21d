"""`swell webhooks`: standing webhooks, their secrets, and their deliveries."""

from datetime import datetime
from typing import Annotated, Any

import typer

from swell.cli.keys import duration_s
from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, asks_server
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest

app = group("Webhooks, their secrets and their deliveries.")


@app.command("ls")
@asks_server
def list_endpoints(server: Server) -> None:
    """List the webhooks of this key; with an admin key, all webhooks."""
    found = server.call(lambda remote: remote.get("/v1/webhooks"))["webhooks"]
    if server.as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            w["id"],
            w["url"],
            ", ".join(w["events"]),
            ", ".join(w["models"]) or "all",
            ago(w["created_at"], now),
            f"{w['state']} ({w['reason']})" if w["reason"] else w["state"],
        )
        for w in found
    ]
    table(("WEBHOOK", "URL", "EVENTS", "MODELS", "AGE", "STATE"), rows, empty="no webhooks")


@app.command("create")
@asks_server
def create(
    server: Server,
    to: Annotated[str, typer.Argument(metavar="TO", help="URL that receives the events.")],
    event: Annotated[
        list[str],
        typer.Option(help="Only this event; may be repeated. Without it, the ends of tasks."),
    ] = [],
    model: Annotated[
        list[str], typer.Option(help="Only tasks of owner/name or owner/*; may be repeated.")
    ] = [],
    description: Annotated[str, typer.Option(help="A description.")] = "",
    all_keys: Annotated[
        bool, typer.Option("--all-keys", help="Tasks of all keys; needs an admin key.")
    ] = False,
) -> None:
    """Create a webhook, and print the secret that signs its deliveries."""
    body: dict[str, Any] = {"url": to, "models": model, "description": description}
    body |= {"all_keys": all_keys}
    body |= {"events": event} if event else {}
    made = server.call(lambda remote: remote.post("/v1/webhooks", body))
    _show_secret(made["id"], made["secret"], made, server.as_json)


@app.command("set")
@asks_server
def change(
    server: Server,
    webhook: Annotated[
        str | None, typer.Argument(metavar="[WEBHOOK]", help="Id from `swell webhooks ls`.")
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Send nothing until --resume; events are kept.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Send again, also after an answer 410 disabled it."),
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it; its waiting deliveries fail.")
    ] = False,
    secret: Annotated[bool, typer.Option("--secret", help="Print its signing secret.")] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Replace its signing secret, and print the new one.")
    ] = False,
    name: Annotated[
        str, typer.Option(help="Name of a secret of this key, for URLs that tasks name.")
    ] = "default",
    overlap: Annotated[
        Any,
        typer.Option(
            parser=duration_s, metavar="TIME", help="With --rotate: how long the old one signs too."
        ),
    ] = "24h",
) -> None:
    """Pause, resume or delete a webhook, or print or replace its signing secret.

    Without WEBHOOK, --secret and --rotate are about the secret that signs deliveries to URLs that
    tasks of this key name.
    """
    home = f"/v1/webhooks/{webhook}" if webhook else f"/v1/webhooks/secrets/{name}"
    actions = {"pause": pause, "resume": resume, "delete": delete, "secret": secret}
    chosen = [each for each, is_given in (actions | {"rotate": rotate}).items() if is_given]
    if len(chosen) != 1 or (webhook is None and chosen[0] not in ("secret", "rotate")):
        raise InvalidRequest(
            "give one of --pause, --resume, --delete, --secret and --rotate; the first three need "
            "a WEBHOOK"
        )
    [action] = chosen

    async def work(remote: Remote) -> dict[str, Any]:
        if action == "secret":
            found = await remote.get(f"{home}/secret" if webhook else home)
        elif action == "delete":
            found = await remote.delete(home)
        else:
            body = {"overlap_s": overlap} if rotate else {}
            found = await remote.post(f"{home}/{action}", body)
        return dict(found)

    found = server.call(work)
    if server.as_json:
        print_json(found)
    elif action == "secret":
        stdout.print(found["key"], markup=False)
    elif action == "rotate":
        _show_secret(webhook or name, found.get("secret") or found["key"], found, False)
    else:
        talk.print(f"{webhook} is {'deleted' if delete else found['state']}")


@app.command("deliveries")
@asks_server
def deliveries(
    server: Server,
    ids: Annotated[
        list[str], typer.Argument(metavar="[DELIVERY…]", help="With --replay: ids of deliveries.")
    ] = [],
    task: Annotated[str | None, typer.Option(help="Only deliveries about this task.")] = None,
    webhook: Annotated[str | None, typer.Option(help="Only deliveries to this webhook.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only waiting, delivered, failed or skipped ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most rows.")] = 50,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Send deliveries again: those named, or all that failed for --webhook since "
            "--since.",
        ),
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(help="With --replay and --webhook: first moment, in UTC.")
    ] = None,
) -> None:
    """List deliveries, newest first, or send them again."""
    if replay:
        _replay(server, ids, webhook, since)
        return
    if ids or since is not None:
        raise InvalidRequest("ids of deliveries and --since are for --replay: add it")
    query = {"task": task, "endpoint": webhook, "state": state, "limit": limit}
    page = server.call(lambda remote: remote.get("/v1/webhooks/deliveries", **query))
    if server.as_json:
        print_json(page["deliveries"])
        return
    now = SystemClock().now()
    rows = [
        (
            d["id"],
            d["event"],
            d["task"],
            d["endpoint"] or "the URL of the task",
            ago(d["at"], now),
            d["state"],
            d["tries"],
            d["reason"],
        )
        for d in page["deliveries"]
    ]
    columns = ("DELIVERY", "EVENT", "TASK", "TO", "AGE", "STATE", "TRIES", "WHY")
    table(columns, rows, empty="no deliveries")


def _replay(server: Server, ids: list[str], webhook: str | None, since: datetime | None) -> None:
    if bool(ids) is (webhook is not None) or (webhook is not None and since is None):
        raise InvalidRequest("name ids of deliveries, or --webhook ID --since MOMENT")

    async def work(remote: Remote) -> Any:
        if webhook is not None and since is not None:
            body = {"since": f"{since.isoformat()}Z"}
            return await remote.post(f"/v1/webhooks/{webhook}/replay", body)
        again = [await remote.post(f"/v1/webhooks/deliveries/{each}/replay", {}) for each in ids]
        return {"replayed": len(again)}

    told = server.call(work)
    if server.as_json:
        print_json(told)
    else:
        talk.print(f"{told['replayed']} are sent again")


def _show_secret(name: str, text: str, made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    talk.print(f"signing secret of {name}:", markup=False)
    stdout.print(text, markup=False)
