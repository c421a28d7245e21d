"""`swell queues`, `workers`, `pools` and `ledger`: what waits, who works, and what that takes."""

from typing import Annotated, Any

import typer

from swell.cli.options import Config, Data, Json, Key, Url
from swell.cli.output import ago, print_json, seconds, table
from swell.cli.remote import Remote, call
from swell.cli.tasks import client_settings
from swell.clock import SystemClock

__all__ = ["list_ledger", "list_pools", "list_queues", "list_workers"]

#: The most entries of the ledger that come at once.
_PAGE = 500


def list_queues(
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show what waits, queue by queue."""
    settings = client_settings(config, data, url, key)
    found = call(settings, lambda remote: remote.get("/v1/queues"))["queues"]
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (
            q["queue"],
            q["ready"],
            q["delayed"],
            q["running"],
            ago(q["oldest_ready_at"], now),
            seconds((q["eta_s"] or {}).get("median")),
        )
        for q in found
    ]
    table(("QUEUE", "READY", "DELAYED", "RUNNING", "OLDEST", "ETA"), rows, empty="nothing waits")


def list_workers(
    gone: Annotated[bool, typer.Option("--gone", help="Also those that have gone.")] = False,
    phases: Annotated[
        bool,
        typer.Option(
            "--phases",
            help="How each came to be at work, phase by phase, and those that are under way.",
        ),
    ] = False,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show who works."""
    settings = client_settings(config, data, url, key)
    query = {"gone": True} if gone else {}
    answer = call(settings, lambda remote: remote.get("/v1/workers", **query))
    found = answer["workers"]
    if phases:
        started = [w["startup"] | {"name": w["name"]} for w in found if w["startup"]]
        _show_phases([*started, *answer["starting"]], as_json)
        return
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows: list[tuple[object, ...]] = [
        (
            w["id"],
            w["name"],
            w["pool"],
            w["state"],
            f"{w['held']}/{w['slots']}",
            w["device"],
            ", ".join(w["models"]),
            sum(each["disk"] + each["host"] for each in w["switches"].values()),
            ago(w["seen_at"], now),
        )
        for w in found
    ]
    rows += [
        (
            each["id"],
            each["host"],
            each["pool"],
            each["state"],
            None,
            None,
            ", ".join(each["models"]),
            None,
            ago(each["seen_at"], now),
        )
        for each in answer["starting"]
    ]
    columns = ("WORKER", "NAME", "POOL", "STATE", "HELD", "DEVICE", "MODELS", "SWITCHES", "SEEN")
    table(columns, rows, empty="no workers: start one with `swell worker`")


def _show_phases(startups: list[dict[str, Any]], as_json: bool) -> None:
    """Print cold starts with the intervals of their phases, in seconds since each began."""
    if as_json:
        print_json(startups)
        return
    rows = [
        (
            each.get("name") or f"{each['host']} {each['pid'] or ''}".strip() or each["id"],
            each["pool"],
            each["state"],
            seconds(each["ready_s"]),
            span["phase"],
            span["model"] or "",
            seconds(span["start_s"]),
            seconds(span["end_s"]) if span["end_s"] is not None else "not over",
            span["from"],
        )
        for each in startups
        for span in each["spans"]
    ]
    columns = ("WORKER", "POOL", "STATE", "READY", "PHASE", "MODEL", "FROM_S", "TO_S", "BY")
    table(columns, rows, empty="no worker has told how it started")


def list_pools(
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show pools, and how long their workers and models take to start, phase by phase."""
    settings = client_settings(config, data, url, key)
    found = call(settings, lambda remote: remote.get("/v1/pools"))["pools"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            pool["pool"],
            ", ".join(f"{n} {state}" for state, n in sorted(pool["workers"].items())),
            pool["starting"],
            f"{pool['held']}/{pool['slots']}",
        )
        for pool in found
    ]
    table(("POOL", "WORKERS", "STARTING", "HELD"), rows, empty="no pools")
    times = [
        (
            pool["pool"],
            each["kind"],
            each["model"],
            each["phase"],
            *(_at_least(each, share) for share in ("p50", "p90", "p99")),
            each["observed"],
            each["not_over"],
        )
        for pool in found
        for each in pool["times"]
    ]
    if times:
        columns = ("POOL", "KIND", "MODEL", "PHASE", "P50", "P90", "P99", "SEEN", "NOT OVER")
        table(columns, times, empty="")


def _at_least(times: dict[str, Any], share: str) -> str | None:
    told = seconds(times[f"{share}_s"])
    return f">{told}" if share in times["at_least"] else told


def list_ledger(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show what machine time went into, the newest first."""

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

    found = call(client_settings(config, data, url, key), work)
    if as_json:
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
    table(columns, rows, empty="nothing was charged yet")
