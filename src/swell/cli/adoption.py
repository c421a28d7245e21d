"""`swell models canary`, `promote`, `rollback`, `retire` and `stages`: how versions are adopted."""

from typing import Annotated, Any

import typer

from swell.cli.output import ago, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, asks_server
from swell.clock import SystemClock

__all__ = [
    "add_to",
    "promote_version",
    "retire_version",
    "roll_back_version",
    "share_of",
    "show_stages",
    "start_canary",
]

Version = Annotated[str, typer.Argument(metavar="OWNER/NAME:VERSION", help="Which version.")]
Model = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Which model.")]


def share_of(text: str) -> float:
    """Return the part of all that such as `5%` or `0.05` says, 0 to 1.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0.0 < share < 1.0:
        raise typer.BadParameter(f"{text!r} is no part of the traffic: write such as 5% or 0.05")
    return share


@asks_server
def start_canary(
    server: Server,
    version: Version,
    share: Annotated[
        Any,
        typer.Option(parser=share_of, metavar="SHARE", help="Of the traffic: 5%, or 0.05."),
    ],
    by_key: Annotated[
        bool, typer.Option("--by-key", help="Keep all tasks of a key together, not of a user.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--rollback/--no-rollback", help="Roll it back by itself where it is worse."),
    ] = True,
) -> None:
    """Give a version a part of the traffic; again with another share, change how much."""
    model, name = _parted(version)
    body = {
        "version": name,
        "share": share,
        "sticky": "key" if by_key else "user",
        "rollback": {"automatic": watch},
    }
    found = _post(server, model, "canary", body)
    _tell(found, server.as_json, f"{name} gets {_percent(share)} of the traffic of {model}")


@asks_server
def promote_version(
    server: Server,
    version: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME[:VERSION]", help="Which version; without one, the canary."
        ),
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also one that was rolled back by itself.")
    ] = False,
) -> None:
    """Make a version live: the canary, where none is named."""
    model, _, name = version.partition(":")

    async def ask(remote: Remote) -> Any:
        body = {"version": name or None}
        if anyway or not name:
            stages = await remote.get(f"/v1/models/{model}/adoption")
            body |= {"edition": stages["edition"]}
        return await remote.post(f"/v1/models/{model}/promote", body)

    found = server.call(ask)
    _tell(found, server.as_json, f"{found['live']} of {model} is live")


@asks_server
def roll_back_version(
    server: Server,
    version: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME[:VERSION]",
            help="Which version is left; without one, the canary, or else the live one.",
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads it later.")] = "",
) -> None:
    """Take the traffic from the canary; without one, go back to the version live before."""
    model, _, name = version.partition(":")

    async def ask(remote: Remote) -> Any:
        left = name or _left_by_rollback(await remote.get(f"/v1/models/{model}/adoption"))
        body = {"version": left, "reason": reason}
        return await remote.post(f"/v1/models/{model}/rollback", body)

    found = server.call(ask)
    _tell(found, server.as_json, f"{found['live']} of {model} is live, and nothing is its canary")


@asks_server
def retire_version(server: Server, version: Version) -> None:
    """Give a version nothing any more, not even what names it."""
    model, name = _parted(version)
    found = _post(server, model, "retire", {"version": name})
    _tell(found, server.as_json, f"{name} of {model} is retired")


@asks_server
def show_stages(server: Server, model: Model) -> None:
    """Show how far the versions of a model are adopted, and what speaks against its canary."""
    found = server.call(lambda remote: remote.get(f"/v1/models/{model}/adoption"))
    if server.as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            each["version"],
            each["stage"],
            _percent(each["share"]) if each["share"] else "",
            each["workers"],
            ago(each["registered_at"], now),
        )
        for each in found["versions"]
    ]
    table(("VERSION", "STAGE", "TRAFFIC", "WORKERS", "REGISTERED"), rows, empty="no versions")
    if found["canary"]:
        stdout.print(_verdict(found["canary"]["evidence"]), markup=False)
    for each in found["history"][:10]:
        who = each["who"] or "by itself"
        why = f": {each['reason']}" if each["reason"] else ""
        line = f"{ago(each['at'], now)} ago: {each['action']} {each['version']} ({who}){why}"
        stdout.print(line, markup=False)
    if found["notice"]:
        talk.print(found["notice"], markup=False)


def add_to(app: typer.Typer) -> None:
    """Make these commands part of a group."""
    app.command("canary")(start_canary)
    app.command("promote")(promote_version)
    app.command("rollback")(roll_back_version)
    app.command("retire")(retire_version)
    app.command("stages")(show_stages)


def _parted(version: str) -> tuple[str, str]:
    model, _, name = version.partition(":")
    if not name:
        raise typer.BadParameter(f"{version!r} names no version: write {model}:VERSION")
    return model, name


def _left_by_rollback(adoption: Any) -> str:
    """Return the version that a rollback takes traffic from, as the versions stand."""
    return str((adoption["canary"] or {"version": adoption["live"]})["version"])


def _post(server: Server, model: str, what: str, body: dict[str, Any]) -> Any:
    return server.call(lambda remote: remote.post(f"/v1/models/{model}/{what}", body))


def _tell(found: Any, as_json: bool, done: str) -> None:
    if as_json:
        print_json(found)
        return
    talk.print(done, markup=False)
    if found["notice"]:
        talk.print(found["notice"], markup=False)


def _verdict(evidence: dict[str, Any]) -> str:
    fails, slow = evidence["failures_evidence"], evidence["slowness_evidence"]
    return (
        f"canary: {evidence['verdict']}; {evidence['reason']} (evidence {fails:.3g} : 1 of "
        f"failures, {slow:.3g} : 1 of times; {evidence['needed_evidence']:,.0f} : 1 rolls it back)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
