"""`swell queues` and `swell workers`: what waits, and who works."""

from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, Key, Url
from swell.cli.output import ago, print_json, seconds, table
from swell.cli.remote import call
from swell.cli.tasks import client_settings
from swell.clock import SystemClock

__all__ = ["list_queues", "list_workers"]


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
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show who works."""
    settings = client_settings(config, data, url, key)
    query = {"gone": True} if gone else {}
    found = call(settings, lambda remote: remote.get("/v1/workers", **query))["workers"]
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    rows = [
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
    columns = ("WORKER", "NAME", "POOL", "STATE", "HELD", "DEVICE", "MODELS", "SWITCHES", "SEEN")
    table(columns, rows, empty="no workers: start one with `swell worker`")
