"""`swell quotas`: how much keys and their users may use in a day and a month."""

from typing import Annotated, Any, Final

import typer

from swell.cli.output import group, print_json, table, talk
from swell.cli.remote import Server, asks_server

__all__ = ["app", "micros_of"]

app = group("Quotas of keys and their users.")

_USER_HELP: Final = "A user of the key; * for each without a quota of his own; else the key itself."
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `swell keys ls`.")]
User = Annotated[str | None, typer.Option(help=_USER_HELP)]
Amount = int | None


def micros_of(text: str) -> int:
    """Return millionths of a dollar in such as `2.50` or `$2.50`.

    Raises:
        typer.BadParameter: It is no amount.
    """
    try:
        return round(float(text.strip().removeprefix("$")) * 1e6)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no amount: write dollars, such as 2.50") from None


def _amount(limit: int | None, unit: str) -> str:
    if limit is None:
        return ""
    return f"${limit / 1e6:,.2f}" if unit == "micros" else f"{limit:,}"


@app.command("ls")
@asks_server
def list_quotas(server: Server) -> None:
    """List quotas, and what is left of them."""
    found = server.call(lambda remote: remote.get("/v1/quotas"))["quotas"]
    if server.as_json:
        print_json(found)
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


def _money(unit: str) -> str:
    return "micros" if unit == "credits" else unit


@app.command("set")
@asks_server
def set_quota(
    server: Server,
    key_id: KeyId,
    user: User = None,
    tasks_per_day: Annotated[Amount, typer.Option(min=0, help="Tasks in a day.")] = None,
    tasks_per_month: Annotated[Amount, typer.Option(min=0, help="Tasks in a month.")] = None,
    samples_per_day: Annotated[Amount, typer.Option(min=0, help="Pictures in a day.")] = None,
    samples_per_month: Annotated[Amount, typer.Option(min=0, help="Pictures in a month.")] = None,
    cost_per_day: Annotated[
        Any, typer.Option(parser=micros_of, metavar="DOLLARS", help="Cost in a day.")
    ] = None,
    cost_per_month: Annotated[
        Any, typer.Option(parser=micros_of, metavar="DOLLARS", help="Cost in a month.")
    ] = None,
    prepaid: Annotated[
        bool, typer.Option("--prepaid", help="Accept nothing that credits do not cover.")
    ] = False,
) -> None:
    """Set how much may be used, in place of what was set before; days and months are UTC."""
    body = {
        "key_id": key_id,
        "user": user,
        "tasks_per_day": tasks_per_day,
        "tasks_per_month": tasks_per_month,
        "samples_per_day": samples_per_day,
        "samples_per_month": samples_per_month,
        "micros_per_day": cost_per_day,
        "micros_per_month": cost_per_month,
        "is_prepaid": prepaid,
    }
    found = server.call(lambda remote: remote.put("/v1/quotas", body))
    if server.as_json:
        print_json(found)
        return
    whose = f"user {user} of key {key_id}" if user else f"key {key_id}"
    talk.print(f"the quota of {whose} is set")


@app.command("drop")
@asks_server
def drop_quota(server: Server, key_id: KeyId, user: User = None) -> None:
    """Forget a quota: any amount may be used from then on."""
    query = {"key_id": key_id} | ({} if user is None else {"user": user})
    found = server.call(lambda remote: remote.delete("/v1/quotas", **query))
    if server.as_json:
        print_json(found)
        return
    talk.print("the quota is forgotten")
