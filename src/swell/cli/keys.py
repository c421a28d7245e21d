"""`swell keys`: API keys, their limits, and the audit log."""

import re
import sys
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from swell.cli.output import ago, group, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Server, asks_server
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest
from swell.core.records import Scope
from swell.server.admin.admin_schemas import LEAST_RATE

app = group("Create, list, rotate and revoke API keys.")

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|min|h|d)")


def duration_s(text: str) -> float:
    """Parse a duration such as `90s`, `15m`, `24h`, `30d` or `0` into seconds.

    Raises:
        typer.BadParameter: The text is not a duration.
    """
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write such as 90s, 15m, 24h or 30d")
    return float(found[1]) * _UNITS[found[2]]


def rate_per_s(text: str) -> float:
    """Parse a rate such as `10/s` or `600/min` into requests per second; `0` means no limit.

    Raises:
        typer.BadParameter: The text is not a rate.
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
        return "good, old secret too"
    return "good"


@app.command("ls")
@asks_server
def list_keys(
    server: Server,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="List the audit log: which key did what, newest first."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most entries of the audit log.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only older entries of the audit log.")
    ] = None,
) -> None:
    """List keys, or with --audit what operators did with them.

    Secrets are stored as hashes and cannot be shown again.
    """
    if audit:
        _show_audit(server, limit, before)
        return
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


def _show_audit(server: Server, limit: int, before: str | None) -> None:
    page = server.call(lambda remote: remote.get("/v1/audit", limit=limit, cursor=before))
    if server.as_json:
        print_json(page["entries"])
        return
    now = SystemClock().now()
    rows = [
        (ago(e["at"], now), e["key_name"], e["address"], e["action"], e["target"], e["status"])
        for e in page["entries"]
    ]
    table(("AGE", "KEY", "FROM", "ACTION", "TARGET", "STATUS"), rows, empty="no entries")


@app.command("create")
@asks_server
def create_key(
    server: Server,
    name: Annotated[str, typer.Argument(help="A name, such as the application that uses the key.")],
    scope: Annotated[list[Scope], typer.Option(help="Permission; may be repeated.")] = [
        Scope.CLIENT
    ],
    expires: Annotated[
        Any,
        typer.Option(
            parser=duration_s, metavar="TIME", help="Lifetime, such as 30d; without it, no end."
        ),
    ] = None,
    pool: Annotated[
        list[str], typer.Option(help="Pool that its workers may join; may be repeated.")
    ] = [],
    model: Annotated[
        list[str],
        typer.Option(
            help="Model that its workers may serve, owner/name or owner/*; may be repeated."
        ),
    ] = [],
    rate: Annotated[
        Any,
        typer.Option(
            parser=rate_per_s, metavar="RATE", help="Rate limit, such as 10/s; 0 for none."
        ),
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests allowed at once.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Tasks in progress; 0 for no limit.")
    ] = None,
    per_day: Annotated[
        int | None, typer.Option(min=0, help="Tasks per day; 0 for no limit.")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=0, help="Open event streams per backend process; 0 for no limit."),
    ] = None,
    classes: Annotated[
        list[str],
        typer.Option(
            "--class", help="Priority class that it may use, the default first; may be repeated."
        ),
    ] = [],
) -> None:
    """Create a key and print it; it is never shown again.

    Limits that are not given come from the settings of the server. In a pipe only the key is
    printed: `KEY=$(swell keys create NAME)`.
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
    key_id: Annotated[
        str | None, typer.Argument(metavar="[KEY_ID]", help="Id from `swell keys ls`.")
    ] = None,
    overlap: Annotated[
        Any, typer.Option(parser=duration_s, metavar="TIME", help="How long the old secret works.")
    ] = "24h",
    signing: Annotated[
        bool, typer.Option("--signing", help="Replace the secret that signs URLs of files.")
    ] = False,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="With --signing: void all URLs signed before, after a leak."),
    ] = False,
) -> None:
    """Replace a key's secret and print the new one; id, scopes, limits and tasks stay.

    With --signing it replaces the secret that signs URLs of files. URLs signed before work until
    they expire.
    """
    if signing is (key_id is not None) or (revoke and not signing):
        raise InvalidRequest("name a KEY_ID, or --signing with or without --revoke")
    if not signing:
        path, body = f"/v1/keys/{key_id}/rotate", {"overlap_s": overlap}
        _show(server.call(lambda remote: remote.post(path, body)), server.as_json)
        return
    made = server.call(lambda remote: remote.post("/v1/signing/rotate", {"revoke": revoke}))
    if server.as_json:
        print_json(made)
        return
    until = made["others_until"]
    talk.print(f"URLs signed before work until {until}" if until else "URLs signed before are void")


@app.command("revoke")
@asks_server
def revoke_key(
    server: Server,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `swell keys ls`.")],
) -> None:
    """Revoke a key. Its tasks continue."""
    revoked = server.call(lambda remote: remote.delete(f"/v1/keys/{key_id}"))
    if server.as_json:
        print_json(revoked)
        return
    talk.print(f"key {key_id} is revoked")
