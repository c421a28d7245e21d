"""`swell keys`: who may ask."""

from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, Key, Url
from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import call
from swell.cli.tasks import client_settings
from swell.clock import SystemClock
from swell.registry import Scope

__all__ = ["app"]

app = group("API keys.")


@app.command("ls")
def list_keys(
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """List keys; their secrets are not kept and cannot be shown."""
    settings = client_settings(config, data, url, key)
    found = call(settings, lambda remote: remote.get("/v1/keys"))["keys"]
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            k["id"],
            k["name"],
            ", ".join(k["scopes"]),
            ago(k["created_at"], now),
            "revoked" if k["revoked_at"] else "good",
        )
        for k in found
    ]
    table(("KEY", "NAME", "SCOPES", "AGE", "STATE"), rows, empty="no keys")


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be repeated.")] = [
        Scope.CLIENT
    ],
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Make a key and print it; it is never shown again."""
    body = {"name": name, "scopes": [each.value for each in scope]}
    settings = client_settings(config, data, url, key)
    made = call(settings, lambda remote: remote.post("/v1/keys", body))
    if as_json:
        print_json(made)
        return
    talk.print(f"key {made['id']}; write it down, it is not shown again:")
    stdout.print(made["key"])


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `swell keys ls`.")],
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Make a key useless. Its tasks go on."""
    settings = client_settings(config, data, url, key)
    revoked = call(settings, lambda remote: remote.delete(f"/v1/keys/{key_id}"))
    if as_json:
        print_json(revoked)
        return
    talk.print(f"key {key_id} is revoked")
