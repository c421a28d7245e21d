"""`swell quotas`: quotas and prepaid credits of keys and their users."""

from datetime import datetime
from typing import Annotated, Any, Final

import typer

from swell.cli.output import ago, print_json, table, talk
from swell.cli.remote import Remote, Server, asks_server
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest

Amount = int | None


def micros_of(text: str) -> int:
    """Parse an amount such as `2.50` or `$2.50` into millionths of a dollar.

    Raises:
        typer.BadParameter: The text is not an amount.
    """
    try:
        return round(float(text.strip().removeprefix("$")) * 1e6)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no amount: write dollars, such as 2.50") from None


_DOLLARS: Final[dict[str, Any]] = {"parser": micros_of, "metavar": "DOLLARS"}


@asks_server
def quotas(
    server: Server,
    key_id: Annotated[
        str | None, typer.Argument(metavar="[KEY_ID]", help="Id from `swell keys ls`.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            help="A user of the key, or * for each user without an own quota; else the key itself."
        ),
    ] = None,
    tasks_per_day: Annotated[Amount, typer.Option(min=0, help="Tasks per day.")] = None,
    tasks_per_month: Annotated[Amount, typer.Option(min=0, help="Tasks per month.")] = None,
    samples_per_day: Annotated[Amount, typer.Option(min=0, help="Pictures per day.")] = None,
    samples_per_month: Annotated[Amount, typer.Option(min=0, help="Pictures per month.")] = None,
    cost_per_day: Annotated[Any, typer.Option(**_DOLLARS, help="Cost per day.")] = None,
    cost_per_month: Annotated[Any, typer.Option(**_DOLLARS, help="Cost per month.")] = None,
    prepaid: Annotated[
        bool, typer.Option("--prepaid", help="Refuse tasks that credits do not cover.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the quota.")] = False,
    credit: Annotated[
        Any,
        typer.Option(**_DOLLARS, help="Grant credits, such as 2.50; less than 0 takes them back."),
    ] = None,
    grant_id: Annotated[
        str | None,
        typer.Option("--id", help="Id of the grant, such as of the payment; it counts once."),
    ] = None,
    note: Annotated[str, typer.Option(help="Note of the grant.")] = "",
) -> None:
    """Show quotas and credits; with limits, set the quota of a key or user.

    Limits replace those set before. Days and months are UTC. --credit grants credits and leaves
    the quota as it is.
    """
    limits = {
        "tasks_per_day": tasks_per_day,
        "tasks_per_month": tasks_per_month,
        "samples_per_day": samples_per_day,
        "samples_per_month": samples_per_month,
        "micros_per_day": cost_per_day,
        "micros_per_month": cost_per_month,
    }
    is_set = prepaid or any(value is not None for value in limits.values())
    if is_set + drop + (credit is not None) > 1:
        raise InvalidRequest("give limits, --drop or --credit: one of them in a call")
    if not (is_set or drop or credit is not None):
        _show(server, key_id)
        return
    if key_id is None:
        raise InvalidRequest("name the KEY_ID: `swell keys ls` lists them")
    whose = f"user {user} of key {key_id}" if user else f"key {key_id}"
    if credit is not None:
        body = {"key_id": key_id, "user": user, "micros": credit, "id": grant_id, "note": note}
        found = server.call(lambda remote: remote.post("/v1/credits", body))
        left = _dollars(found["account"]["left_micros"])
        said = f"{left} left" if found["is_new"] else f"granted before; {left} left"
    elif drop:
        query = {"key_id": key_id} | ({} if user is None else {"user": user})
        found = server.call(lambda remote: remote.delete("/v1/quotas", **query))
        said = f"the quota of {whose} is removed"
    else:
        body = {"key_id": key_id, "user": user, "is_prepaid": prepaid, **limits}
        found = server.call(lambda remote: remote.put("/v1/quotas", body))
        said = f"the quota of {whose} is set"
    if server.as_json:
        print_json(found)
    else:
        talk.print(said, markup=False)


def _show(server: Server, key_id: str | None) -> None:
    """Print quotas, accounts and the last grants, of one key or of all."""

    async def work(remote: Remote) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        found = (await remote.get("/v1/quotas"))["quotas"]
        query = {} if key_id is None else {"key_id": key_id}
        own = [each for each in found if key_id in (None, each["key_id"])]
        return own, await remote.get("/v1/credits", **query)

    found, credit = server.call(work)
    if server.as_json:
        print_json({"quotas": found, **credit})
        return
    units = ("tasks", "samples", "micros")
    rows = [
        (
            quota["key_id"],
            quota["user"] or "",
            *(
                " / ".join(
                    _amount(quota[f"{unit}_per_{period}"], unit) or "-"
                    for period in ("day", "month")
                )
                for unit in units
            ),
            "yes" if quota["is_prepaid"] else "",
            ", ".join(
                f"{each['name']} {_amount(each['left'], _money(each['unit']))}"
                for each in quota["left"]
            ),
        )
        for quota in found
    ]
    heads = ("KEY", "USER", "TASKS day/month", "SAMPLES", "COST", "PREPAID", "LEFT")
    table(heads, rows, empty="no quotas")
    sums = ("granted_micros", "spent_micros", "held_micros", "left_micros")
    accounts = [
        (each["key_id"], each["user"] or "", *(_dollars(each[name]) for name in sums))
        for each in credit["accounts"]
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
        for each in credit["entries"]
    ]
    if entries:
        table(("GRANT", "KEY", "USER", "AMOUNT", "AGE", "NOTE"), entries, empty="")


def _amount(limit: int | None, unit: str) -> str:
    if limit is None:
        return ""
    return f"${limit / 1e6:,.2f}" if unit == "micros" else f"{limit:,}"


def _money(unit: str) -> str:
    return "micros" if unit == "credits" else unit


def _dollars(micros: int) -> str:
    return f"{'-' if micros < 0 else ''}${abs(micros) / 1e6:,.4f}"
