"""`swell costs`: what was paid for what."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from swell.cli.output import print_json, table, talk
from swell.cli.remote import Server, asks_server

__all__ = ["show_costs"]


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
        typer.Option("--from", help="The first day (UTC), such as 2026-11-01; 30 days without it."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="The last day, which counts too; today without it.")
    ] = None,
    by: Annotated[_By, typer.Option(help="What is told apart.")] = _By.MODEL,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the dearest.")] = 20,
) -> None:
    """Show what things cost, with their share of idle time, cold starts and waste."""
    asked = {"from": since, "to": until, "by": by.value, "limit": limit}
    found = server.call(lambda remote: remote.get("/v1/costs", **asked))
    if server.as_json:
        print_json(found)
        return
    rows = [_row(each, each["name"] or "(nobody)") for each in found["costs"]]
    if found["others"] is not None:
        rows.append(_row(found["others"], "(others)"))
    if rows:
        rows.append(_row(found["total"], "total"))
    columns = (
        *(by.value.upper(), "IMAGES", "HOURS", "ATTEMPTS", "FAILED", "IDLE", "COLD", "WASTED"),
        *("USD", "USD/IMAGE", "LOADED"),
    )
    table(columns, rows, empty="nothing was charged in these days")
    if found["api_image_micros"] is not None and found["total"]["micros"] is not None:
        elsewhere = found["total"]["api_micros"] / 1e6
        talk.print(
            f"as many images at {found['api_image_micros'] / 1e6:g} $ each: {elsewhere:.2f} $"
        )


def _row(cost: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Return a line: shares of the time in percent, and money where there is a price."""
    seconds, micros = cost["seconds"], cost["micros"]
    kinds = ("attempts", "failed", "idle", "cold", "wasted")
    shares = [f"{100 * seconds[kind] / (seconds['total'] or 1):.0f} %" for kind in kinds]
    money = "" if micros is None else f"{micros['total'] / 1e6:.4f}"
    each = [_dollars(cost["image_micros"]), _dollars(cost["loaded_image_micros"])]
    return (name, cost["images"], f"{seconds['total'] / 3600:.2f}", *shares, money, *each)


def _dollars(micros: float | None) -> str:
    return "" if micros is None else f"{micros / 1e6:.6f}"
