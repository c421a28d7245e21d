"""`swell audit`: what operators did."""

from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, Key, Url
from swell.cli.output import ago, print_json, table
from swell.cli.remote import call
from swell.cli.tasks import client_settings
from swell.clock import SystemClock

__all__ = ["list_audit"]


def list_audit(
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only what came before this entry.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """List what operators did, newest first: who, what, from where, and what came of it."""
    settings = client_settings(config, data, url, key)
    page = call(settings, lambda remote: remote.get("/v1/audit", limit=limit, cursor=before))
    if as_json:
        print_json(page["entries"])
        return
    now = SystemClock().now()
    rows = [
        (ago(e["at"], now), e["key_name"], e["address"], e["action"], e["target"], e["status"])
        for e in page["entries"]
    ]
    table(("AGE", "KEY", "FROM", "WHAT", "TO", "STATUS"), rows, empty="nothing was done")
