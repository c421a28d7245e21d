"""`swell costs`: costs by model, user, key, pool or day, and the entries of the ledger."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from swell.cli.output import ago, print_json, seconds, table, talk
from swell.cli.remote import Remote, Server, asks_server
from swell.core.clock import SystemClock

#: Most entries of the ledger per request.
_PAGE = 500


class _By(StrEnum):
    MODEL = "model"
    USER = "user"
    KEY = "key"
    POOL = "pool"
    DAY = "day"


@asks_server
def show_costs(
    server: Server,
    since: Annotated[
        str | None,
        typer.Option("--from", help="First day (UTC), such as 2026-11-01; 30 days ago without it."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Last day, included; today without it.")
    ] = None,
    by: Annotated[_By, typer.Option(help="Group the costs.")] = _By.MODEL,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="Most rows; the most expensive come first.")
    ] = 20,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="List the entries of machine time, newest first.")
    ] = False,
) -> None:
    """Show costs, with the shares of idle time, cold starts and waste."""
    if ledger:
        _show_ledger(server, limit)
        return
    asked = {"from": since, "to": until, "by": by.value, "limit": limit}
    found = server.call(lambda remote: remote.get("/v1/costs", **asked))
    if server.as_json:
        print_json(found)
        return
    rows = [_row(each, each["name"] or "(none)") for each in found["costs"]]
    if found["others"] is not None:
        rows.append(_row(found["others"], "(others)"))
    if rows:
        rows.append(_row(found["total"], "total"))
    columns = (
        *(by.value.upper(), "IMAGES", "HOURS", "ATTEMPTS", "FAILED", "IDLE", "COLD", "WASTED"),
        *("USD", "USD/IMAGE", "LOADED"),
    )
    table(columns, rows, empty="no costs on these days")
    if found["api_image_micros"] is not None and found["total"]["micros"] is not None:
        elsewhere = found["total"]["api_micros"] / 1e6
        talk.print(
            f"the same images at {found['api_image_micros'] / 1e6:g} $ each: {elsewhere:.2f} $"
        )


def _row(cost: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Return a row: shares of the time in percent, and money if there is a price."""
    times, micros = cost["seconds"], cost["micros"]
    kinds = ("attempts", "failed", "idle", "cold", "wasted")
    shares = [f"{100 * times[kind] / (times['total'] or 1):.0f} %" for kind in kinds]
    money = "" if micros is None else f"{micros['total'] / 1e6:.4f}"
    each = [_dollars(cost["image_micros"]), _dollars(cost["loaded_image_micros"])]
    return (name, cost["images"], f"{times['total'] / 3600:.2f}", *shares, money, *each)


def _dollars(micros: float | None) -> str:
    return "" if micros is None else f"{micros / 1e6:.6f}"


def _show_ledger(server: Server, limit: int) -> None:
    async def work(remote: Remote) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while len(found) < limit:
            size = min(_PAGE, limit - len(found))
            page = await remote.get("/v1/ledger", limit=size, cursor=cursor)
            found += page["entries"]
            cursor = page["cursor"]
            if cursor is None:
                break
        return found

    found = server.call(work)
    if server.as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            ago(each["at"], now),
            each["kind"],
            each["outcome"],
            each["pool"],
            ", ".join(each["models"]),
            seconds(each["seconds"]),
            "" if each["cost_micros"] is None else f"{each['cost_micros'] / 1e6:.6f}",
        )
        for each in found
    ]
    columns = ("WHEN", "KIND", "OUTCOME", "POOL", "MODELS", "TIME", "USD")
    table(columns, rows, empty="no entries yet")
