"""`swell webhooks`: who is told of tasks by HTTP, and what became of that."""

from datetime import datetime
from typing import Annotated, Any

import typer

from swell.cli.keys import duration_s
from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, asks_server
from swell.clock import SystemClock
from swell.errors import InvalidRequest

__all__ = ["app"]

app = group("Webhooks: who is told of tasks, and what became of that.")

_Endpoint = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id from `swell webhooks ls`.")]


@app.command("ls")
@asks_server
def list_endpoints(server: Server) -> None:
    """List standing webhooks: this key's own, and all with an admin's key."""
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
    to: Annotated[str, typer.Argument(metavar="TO", help="URL that is told.")],
    event: Annotated[
        list[str], typer.Option(help="Only this event; may be repeated. Else how tasks end.")
    ] = [],
    model: Annotated[
        list[str], typer.Option(help="Only owner/name or owner/*; may be repeated.")
    ] = [],
    description: Annotated[str, typer.Option(help="For people.")] = "",
    all_keys: Annotated[
        bool, typer.Option("--all-keys", help="Tasks of all keys; with an admin's key only.")
    ] = False,
) -> None:
    """Make a standing webhook and print the secret that signs what it is told."""
    body: dict[str, Any] = {"url": to, "models": model, "description": description}
    body |= {"all_keys": all_keys}
    body |= {"events": event} if event else {}
    made = server.call(lambda remote: remote.post("/v1/webhooks", body))
    _show_secret(made["id"], made["secret"], made, server.as_json)


@app.command("delete")
@asks_server
def delete(server: Server, webhook: _Endpoint) -> None:
    """Delete a standing webhook; what waits for it fails."""
    gone = server.call(lambda remote: remote.delete(f"/v1/webhooks/{webhook}"))
    if server.as_json:
        print_json(gone)
    else:
        talk.print(f"{webhook} is deleted")


@app.command("pause")
@asks_server
def pause(server: Server, webhook: _Endpoint) -> None:
    """Send nothing to a webhook until it is resumed; what happens is kept for it."""
    _tell_state(server.call(lambda r: r.post(f"/v1/webhooks/{webhook}/pause", {})), server.as_json)


@app.command("resume")
@asks_server
def resume(server: Server, webhook: _Endpoint) -> None:
    """Go on with a webhook that was paused, or disabled since it had answered 410."""
    _tell_state(server.call(lambda r: r.post(f"/v1/webhooks/{webhook}/resume", {})), server.as_json)


@app.command("secret")
@asks_server
def secret(
    server: Server,
    webhook: Annotated[
        str | None, typer.Argument(metavar="[WEBHOOK]", help="Id from `swell webhooks ls`.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the key's secrets, for URLs that tasks name.")
    ] = "default",
) -> None:
    """Print what signs: for a standing webhook, or for the URLs that this key's tasks name."""
    path = f"/v1/webhooks/{webhook}/secret" if webhook else f"/v1/webhooks/secrets/{name}"
    shown = server.call(lambda remote: remote.get(path))
    if server.as_json:
        print_json(shown)
    else:
        stdout.print(shown["key"], markup=False)


@app.command("rotate")
@asks_server
def rotate(
    server: Server,
    webhook: Annotated[
        str | None, typer.Argument(metavar="[WEBHOOK]", help="Id from `swell webhooks ls`.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the key's secrets, for URLs that tasks name; a new one is made.")
    ] = "default",
    overlap: Annotated[
        Any,
        typer.Option(
            parser=duration_s, metavar="TIME", help="The secret before signs too for so long."
        ),
    ] = "24h",
) -> None:
    """Replace what signs, of a standing webhook or of this key, and print the new secret."""
    home = f"/v1/webhooks/{webhook}" if webhook else f"/v1/webhooks/secrets/{name}"
    made = server.call(lambda r: r.post(f"{home}/rotate", {"overlap_s": overlap}))
    _show_secret(webhook or name, made.get("secret") or made["key"], made, server.as_json)


@app.command("deliveries")
@asks_server
def deliveries(
    server: Server,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    webhook: Annotated[str | None, typer.Option(help="Only to this standing webhook.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only waiting, delivered, failed or skipped ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
) -> None:
    """List what was told and what became of it, newest first."""
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
            d["endpoint"] or "its own URL",
            ago(d["at"], now),
            d["state"],
            d["tries"],
            d["reason"],
        )
        for d in page["deliveries"]
    ]
    columns = ("DELIVERY", "EVENT", "TASK", "TO", "AGE", "STATE", "TRIES", "WHY")
    table(columns, rows, empty="nothing was told")


@app.command("replay")
@asks_server
def replay(
    server: Server,
    ids: Annotated[
        list[str], typer.Argument(metavar="[DELIVERY…]", help="Ids of deliveries.")
    ] = [],
    webhook: Annotated[
        str | None, typer.Option(help="All that failed for this standing webhook.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Of events from then on, in UTC; with --webhook.")
    ] = None,
) -> None:
    """Send deliveries again, or all that failed for a webhook since a moment."""
    if bool(ids) is (webhook is not None) or (webhook is not None and since is None):
        raise InvalidRequest("say which: ids of deliveries, or --webhook ID --since MOMENT")

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


def _tell_state(webhook: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(webhook)
    else:
        talk.print(f"{webhook['id']} is {webhook['state']}")


def _show_secret(name: str, text: str, made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    talk.print(f"{name} signs with:", markup=False)
    stdout.print(text, markup=False)
