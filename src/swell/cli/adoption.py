"""`swell models rollout`: shows and changes the version of a model that gets traffic."""

from typing import Annotated, Any

import typer

from swell.cli.output import ago, print_json, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, Server, asks_server
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest


def share_of(text: str) -> float:
    """Parse a share of traffic such as `5%` or `0.05` into a number between 0 and 1.

    Raises:
        typer.BadParameter: The text is not a share.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0.0 < share < 1.0:
        raise typer.BadParameter(f"{text!r} is no share of traffic: write such as 5% or 0.05")
    return share


@asks_server
def roll_out(
    server: Server,
    version: Annotated[
        str, typer.Argument(metavar="OWNER/NAME[:VERSION]", help="A model or one version of it.")
    ],
    canary: Annotated[
        Any,
        typer.Option(
            parser=share_of, metavar="SHARE", help="Give the version a share of traffic: 5%, 0.05."
        ),
    ] = None,
    by_key: Annotated[
        bool, typer.Option("--by-key", help="With --canary: keep all tasks of a key together.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch/--no-watch",
            help="With --canary: roll back automatically if the canary is worse.",
        ),
    ] = True,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the version live; without one, the canary.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Promote it even after an automatic rollback.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="Stop the canary; without one, return to the version live before."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="With --rollback: a note for the history.")] = "",
    retire: Annotated[
        bool, typer.Option("--retire", help="Send the version no tasks, even if they name it.")
    ] = False,
) -> None:
    """Show the versions of a model and their traffic, or change which version gets it."""
    model, _, name = version.partition(":")
    if sum((canary is not None, promote, rollback, retire)) > 1:
        raise InvalidRequest("give one of --canary, --promote, --rollback and --retire")
    if (canary is not None or retire) and not name:
        raise InvalidRequest(f"name the version: {model}:VERSION")
    if canary is not None:
        body = {
            "version": name,
            "share": canary,
            "sticky": "key" if by_key else "user",
            "rollback": {"automatic": watch},
        }
        found = _post(server, model, "canary", body)
        done = f"{name} gets {_percent(canary)} of the traffic of {model}"
    elif promote:
        found = server.call(lambda remote: _promote(remote, model, name, anyway=anyway))
        done = f"{found['live']} of {model} is live"
    elif rollback:
        found = server.call(lambda remote: _roll_back(remote, model, name, reason))
        done = f"{found['live']} of {model} is live, and there is no canary"
    elif retire:
        found = _post(server, model, "retire", {"version": name})
        done = f"{name} of {model} is retired"
    else:
        _show(server, model)
        return
    _tell(found, server.as_json, done)


async def _promote(remote: Remote, model: str, name: str, *, anyway: bool) -> Any:
    body: dict[str, Any] = {"version": name or None}
    if anyway or not name:
        stages = await remote.get(f"/v1/models/{model}/adoption")
        body |= {"edition": stages["edition"]}
    return await remote.post(f"/v1/models/{model}/promote", body)


async def _roll_back(remote: Remote, model: str, name: str, reason: str) -> Any:
    left = name or _left_by_rollback(await remote.get(f"/v1/models/{model}/adoption"))
    return await remote.post(f"/v1/models/{model}/rollback", {"version": left, "reason": reason})


def _show(server: Server, model: str) -> None:
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
        who = each["who"] or "automatic"
        why = f": {each['reason']}" if each["reason"] else ""
        line = f"{ago(each['at'], now)} ago: {each['action']} {each['version']} ({who}){why}"
        stdout.print(line, markup=False)
    if found["notice"]:
        talk.print(found["notice"], markup=False)


def _left_by_rollback(adoption: Any) -> str:
    """Return the version that a rollback takes traffic from: the canary, or else the live one."""
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
        f"canary: {evidence['verdict']}; {evidence['reason']} (evidence that it fails more "
        f"{fails:.3g} : 1, is slower {slow:.3g} : 1; {evidence['needed_evidence']:,.0f} : 1 rolls "
        "it back)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
