"""`swell audit`: what operators did."""

from typing import Annotated

import typer

from swell.cli.output import ago, print_json, table
from swell.cli.remote import Server, asks_server
from swell.clock import SystemClock

__all__ = ["list_audit"]


@asks_server
def list_audit(
    server: Server,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only what came before this entry.")
    ] = None,
) -> None:
    """List what operators did, newest first: who, what, from where, and what came of it."""
    page = server.call(lambda remote: remote.get("/v1/audit", limit=limit, cursor=before))
    if server.as_json:
        print_json(page["entries"])
        return
    now = SystemClock().now()
    rows = [
        (ago(e["at"], now), e["key_name"], e["address"], e["action"], e["target"], e["status"])
        for e in page["entries"]
    ]
    table(("AGE", "KEY", "FROM", "WHAT", "TO", "STATUS"), rows, empty="nothing was done")
