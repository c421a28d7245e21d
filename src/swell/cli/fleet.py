"""`swell queues`, `swell workers` and `swell pools`."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from swell.cli.output import ago, print_json, seconds, table, talk
from swell.cli.remote import Server, asks_server
from swell.core.clock import SystemClock


@asks_server
def list_queues(server: Server) -> None:
    """Show the queues: tasks ready, delayed and running, and the time until done."""
    found = server.call(lambda remote: remote.get("/v1/queues"))["queues"]
    if server.as_json:
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
    table(
        ("QUEUE", "READY", "DELAYED", "RUNNING", "OLDEST", "ETA"), rows, empty="no tasks are queued"
    )


@asks_server
def list_workers(
    server: Server,
    gone: Annotated[bool, typer.Option("--gone", help="Include workers that have ended.")] = False,
    phases: Annotated[
        bool,
        typer.Option(
            "--phases",
            help="Show the phases of each start, also of workers that are starting.",
        ),
    ] = False,
) -> None:
    """Show workers: state, tasks held, device and models."""
    query = {"gone": True} if gone else {}
    answer = server.call(lambda remote: remote.get("/v1/workers", **query))
    found = answer["workers"]
    if phases:
        started = [w["startup"] | {"name": w["name"]} for w in found if w["startup"]]
        _show_phases([*started, *answer["starting"]], server.as_json)
        return
    if server.as_json:
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
    """Print cold starts with their phases, in seconds since the start."""
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
            seconds(span["end_s"]) if span["end_s"] is not None else "running",
            span["from"],
        )
        for each in startups
        for span in each["spans"]
    ]
    columns = ("WORKER", "POOL", "STATE", "READY", "PHASE", "MODEL", "FROM_S", "TO_S", "BY")
    table(columns, rows, empty="no worker has reported its start")


@asks_server
def list_pools(
    server: Server,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Show the autoscaler's last decisions and reasons.")
    ] = False,
    phases: Annotated[
        bool, typer.Option("--phases", help="Show how long each phase of a start takes.")
    ] = False,
) -> None:
    """Show pools and how they are scaled."""
    if decisions:
        _show_decisions(server)
        return
    found = server.call(lambda remote: remote.get("/v1/pools"))["pools"]
    if server.as_json:
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
    _show_scaling([pool for pool in found if pool["scaling"]])
    if not phases:
        return
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
    columns = ("POOL", "KIND", "MODEL", "PHASE", "P50", "P90", "P99", "MEASURED", "UNFINISHED")
    table(columns, times, empty="no start was measured yet")


def _price_lines(scaling: dict[str, Any]) -> list[str]:
    """Return lines with date and source of a pool's price."""
    lines = []
    if told_at := scaling.get("price_told_at"):
        at = datetime.fromisoformat(told_at).astimezone(UTC)
        lines.append(f"price of {at:%Y-%m-%d %H:%M} UTC ({scaling['price_source']})")
    elif scaling["price_read_on"]:
        lines.append(f"price of {scaling['price_read_on']} ({scaling['price_source']})")
    if scaling.get("price_note"):
        lines.append(f"the price is out of date: {scaling['price_note']}")
    return lines


def _show_scaling(pools: list[dict[str, Any]]) -> None:
    """Print the state of pools that the autoscaler scales, with reasons."""
    rows = []
    for pool in pools:
        own = pool["scaling"]
        price = "" if own["hour_micros"] is None else f"{own['hour_micros'] / 1e6:.3f}"
        counts = (own["desired"], own["ready"], own["busy"], own["booting"], own["draining"])
        limits = f"{own['least']}-{own['most']}"
        spot = "spot" if own["spot"] else ""
        where = " ".join(filter(None, (own["provider"], own["location"], spot)))
        rows.append((pool["pool"], where, *counts, limits, price, seconds(own["start_p50_s"])))
    if not rows:
        return
    columns = ("POOL", "BY", "DESIRED", "READY", "BUSY", "BOOTING", "DRAINING", "LIMITS", "USD/H")
    table((*columns, "START"), rows, empty="")
    for pool in pools:
        own = pool["scaling"]
        for line in _price_lines(own):
            talk.print(f"  {pool['pool']}: {line}", markup=False)
        for reason in own["reasons"]:
            talk.print(f"  {pool['pool']}: {reason}", markup=False)
        if own["closed_s"]:
            why = own["why_closed"] or "the provider refused"
            talk.print(
                f"  {pool['pool']}: no launches for {own['closed_s']:.0f} s ({why})",
                markup=False,
            )
        if told := own.get("decision"):
            talk.print(f"  {pool['pool']}: {_in_words(told)}", markup=False)


def _in_words(decision: dict[str, Any]) -> str:
    n = f" {decision['n']}" if decision["n"] else ""
    when = ago(decision["at"], SystemClock().now())
    return f"last decision, {when} ago: {decision['what']}{n} ({'; '.join(decision['why'])})"


def _show_decisions(server: Server) -> None:
    found = server.call(lambda remote: remote.get("/v1/scaling", limit=200))["decisions"]
    if server.as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
        (ago(each["at"], now), each["about"], each["what"], each["n"] or "", "; ".join(each["why"]))
        for each in found
    ]
    table(("WHEN", "ABOUT", "WHAT", "N", "WHY"), rows, empty="no decisions yet")


def _at_least(times: dict[str, Any], share: str) -> str | None:
    told = seconds(times[f"{share}_s"])
    return f">{told}" if share in times["at_least"] else told
