"""`swell keys`: who may ask, and how much."""

import re
import sys
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from swell.api.messages import LEAST_RATE
from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Server, asks_server
from swell.clock import SystemClock
from swell.registry import Scope

__all__ = ["app", "duration_s", "rate_per_s"]

app = group("API keys.")

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|min|h|d)")


def duration_s(text: str) -> float:
    """Return the seconds in such as `90s`, `15m`, `24h` or `30d`; `0` is none.

    Raises:
        typer.BadParameter: It is nothing of the kind.
    """
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write such as 90s, 15m, 24h or 30d")
    return float(found[1]) * _UNITS[found[2]]


def rate_per_s(text: str) -> float:
    """Return how many a second are such as `10/s` or `600/min`; `0` means no limit.

    Raises:
        typer.BadParameter: It is nothing of the kind.
    """
    if text == "0":
        return 0.0
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no rate: write such as 10/s or 600/min")
    rate = float(found[1]) / _UNITS[found[2]]
    if 0 < rate < LEAST_RATE:
        raise typer.BadParameter(f"{text!r} is less than 0.00001/s: write more, or 0 for no limit")
    return rate


def _state(key: dict[str, Any], now: datetime) -> str:
    if key["revoked_at"]:
        return "revoked"
    if key["expires_at"] and datetime.fromisoformat(key["expires_at"]) <= now:
        return "expired"
    if key["old_until"] and datetime.fromisoformat(key["old_until"]) > now:
        return "good, and the secret before"
    return "good"


@app.command("ls")
@asks_server
def list_keys(server: Server) -> None:
    """List keys; their secrets are not kept and cannot be shown."""
    found = server.call(lambda remote: remote.get("/v1/keys"))["keys"]
    if server.as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            k["id"],
            k["name"],
            ", ".join(k["scopes"]),
            ago(k["created_at"], now),
            ago(k["used_at"], now) or "never",
            _state(k, now),
        )
        for k in found
    ]
    table(("KEY", "NAME", "SCOPES", "AGE", "USED", "STATE"), rows, empty="no keys")


@app.command("create")
@asks_server
def create_key(
    server: Server,
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be repeated.")] = [
        Scope.CLIENT
    ],
    expires: Annotated[
        Any,
        typer.Option(
            parser=duration_s, metavar="TIME", help="How long it works, such as 30d; else for ever."
        ),
    ] = None,
    pool: Annotated[
        list[str], typer.Option(help="Only pool of its workers; may be repeated.")
    ] = [],
    model: Annotated[
        list[str],
        typer.Option(help="owner/name or owner/*: all its workers may have; may be repeated."),
    ] = [],
    rate: Annotated[
        Any,
        typer.Option(
            parser=rate_per_s, metavar="RATE", help="Requests, such as 10/s; 0 for no limit."
        ),
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, help="Requests that may come at once.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Tasks that have not ended; 0 for no limit.")
    ] = None,
    per_day: Annotated[
        int | None, typer.Option(min=0, help="Tasks per day; 0 for no limit.")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=0, help="Event streams open at each process; 0 for no limit."),
    ] = None,
    classes: Annotated[
        list[str],
        typer.Option(
            "--class", help="Priority class that it may use, the usual one first; may be repeated."
        ),
    ] = [],
) -> None:
    """Make a key and print it; it is never shown again.

    Limits that are not given are those of the server's settings.
    """
    body = {
        "name": name,
        "scopes": [each.value for each in scope],
        "expires_in_s": expires,
        "pools": pool,
        "models": model,
        "rate_per_s": rate,
        "burst": burst,
        "tasks_in_flight": concurrency,
        "tasks_per_day": per_day,
        "streams": streams,
        "classes": classes,
    }
    made = server.call(lambda remote: remote.post("/v1/keys", body))
    _show(made, server.as_json)


def _show(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    if sys.stdout.isatty():
        talk.print(f"Key {made['id']}. Store it now: it is not shown again.")
    stdout.print(made["key"], markup=False)


@app.command("rotate")
@asks_server
def rotate_key(
    server: Server,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `swell keys ls`.")],
    overlap: Annotated[
        Any,
        typer.Option(
            parser=duration_s, metavar="TIME", help="The secret before works for so long."
        ),
    ] = "24h",
) -> None:
    """Give a key a new secret and print it; id, scopes, limits and tasks stay."""
    body = {"overlap_s": overlap}
    _show(
        server.call(lambda remote: remote.post(f"/v1/keys/{key_id}/rotate", body)), server.as_json
    )


@app.command("rotate-signing")
@asks_server
def rotate_signing(
    server: Server,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="Make all URLs void that were signed before: after a leak."),
    ] = False,
) -> None:
    """Change the secret that signs URLs of files; earlier URLs stay good until they expire."""
    body = {"revoke": revoke}
    made = server.call(lambda remote: remote.post("/v1/signing/rotate", body))
    if server.as_json:
        print_json(made)
        return
    until = made["others_until"]
    talk.print(f"URLs signed before are good until {until}" if until else "they are void now")


@app.command("revoke")
@asks_server
def revoke_key(
    server: Server,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `swell keys ls`.")],
) -> None:
    """Make a key useless. Its tasks go on."""
    revoked = server.call(lambda remote: remote.delete(f"/v1/keys/{key_id}"))
    if server.as_json:
        print_json(revoked)
        return
    talk.print(f"key {key_id} is revoked")
