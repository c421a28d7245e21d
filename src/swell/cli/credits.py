"""`swell credits`: what keys and their users have paid before."""

from datetime import datetime
from typing import Annotated, Any

import typer

from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.quotas import KeyId, micros_of
from swell.cli.remote import Server, asks_server
from swell.clock import SystemClock

__all__ = ["app"]

app = group("Credits of keys and their users.")


def _dollars(micros: int) -> str:
    return f"{'-' if micros < 0 else ''}${abs(micros) / 1e6:,.4f}"


@app.command("ls")
@asks_server
def list_credits(
    server: Server,
    key_id: Annotated[
        str | None, typer.Argument(metavar="[KEY_ID]", help="Of this key only.")
    ] = None,
) -> None:
    """List accounts and what was granted last."""
    query = {} if key_id is None else {"key_id": key_id}
    found = server.call(lambda remote: remote.get("/v1/credits", **query))
    if server.as_json:
        print_json(found)
        return
    sums = ("granted_micros", "spent_micros", "held_micros", "left_micros")
    accounts = [
        (each["key_id"], each["user"] or "", *(_dollars(each[name]) for name in sums))
        for each in found["accounts"]
    ]
    table(("KEY", "USER", "GRANTED", "SPENT", "HELD", "LEFT"), accounts, empty="no credits")
    now: datetime = SystemClock().now()
    entries = [
        (
            each["id"],
            each["key_id"],
            each["user"] or "",
            _dollars(each["micros"]),
            ago(each["at"], now),
            each["note"],
        )
        for each in found["entries"]
    ]
    if entries:
        table(("GRANT", "KEY", "USER", "AMOUNT", "AGE", "NOTE"), entries, empty="")


@app.command("add")
@asks_server
def add_credits(
    server: Server,
    key_id: KeyId,
    amount: Annotated[
        Any,
        typer.Argument(
            parser=micros_of, metavar="DOLLARS", help="Such as 5 or 2.50; after -- less than 0."
        ),
    ],
    user: Annotated[
        str | None, typer.Option(help="A user of the key; else the key itself.")
    ] = None,
    grant_id: Annotated[
        str | None,
        typer.Option("--id", help="Such as of the payment: the same is granted once."),
    ] = None,
    note: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Grant credits to a key or one of its users, or take them back."""
    body = {"key_id": key_id, "user": user, "micros": amount, "id": grant_id, "note": note}
    found = server.call(lambda remote: remote.post("/v1/credits", body))
    if server.as_json:
        print_json(found)
        return
    left = _dollars(found["account"]["left_micros"])
    talk.print(f"there are {left} left" if found["is_new"] else f"granted before; {left} left")
