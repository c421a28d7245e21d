"""By how much does one user who sends 10,000 tasks at once delay the single task of another?

    python benchmarks/fairness_flood.py [--tasks 10000] [--rounds 12]

A real server and one real worker that draws one picture at a time, each of which takes a fifth of a
second; on SQLite, and on PostgreSQL. While 10,000 tasks of one user wait, others send one task
each, now with the same key, now with another one. Each is compared with what such a task takes on
an idle server. Value: the longest of all delays, in times of a task. It fails if a task did not
succeed, or nothing of the flood waited any more.

The disk is part of it: each task is synced. While large files are copied to the same disk, a single
`fdatasync` took up to 0.6 s, three times a task, and 3 of 244 tasks were later than two task times.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import services
from machine import folder, quiet, report, say
from swell_system import Swell, started

MODEL = "demo/echo-picture"
STEP_S = 0.2


def task(user: str) -> dict[str, Any]:
    given = {"prompt": user, "steps": 1, "step_s": STEP_S, "width": 16, "height": 16}
    return {"model": MODEL, "user": user, "input": given}


@contextlib.contextmanager
def served(store: str) -> Iterator[Swell]:
    with contextlib.ExitStack() as stack:
        data: Path = stack.enter_context(folder("flood"))
        settings = {}
        if store == "postgres":
            server = stack.enter_context(services.postgres_server(data))
            settings["SWELL_STORE__URL"] = server.url
        options = ["--workers", "1", "--models", MODEL]
        yield stack.enter_context(started("up", data, *options, settings=settings))


def took_s(server: Swell, user: str) -> float:
    """How long one task took from when it was sent until its end was told."""
    connection = dataclasses.replace(server)
    begun_s = time.monotonic()
    made = connection.ask("POST", "/v1/tasks", task(user))
    while made["state"] in ("queued", "running"):
        time.sleep(0.005)
        made = connection.ask("GET", f"/v1/tasks/{made['id']}")
    if made["state"] != "succeeded":
        raise RuntimeError(f"a task {made['state']}: {made['error']}")
    return time.monotonic() - begun_s


def flood(server: Swell, n: int) -> None:
    batch = [task("flood")] * 1000
    for begun in range(0, n, 1000):
        server.ask("POST", "/v1/tasks/batch", {"tasks": batch[: n - begun]})


def waiting(server: Swell) -> int:
    queues = server.ask("GET", "/v1/queues")["queues"]
    return sum(queue["ready"] for queue in queues)


def measured(store: str, n: int, rounds: int) -> dict[str, Any]:
    with served(store) as server:
        other = server.ask("POST", "/v1/keys", {"name": "other", "scopes": ["client"]})
        stranger = dataclasses.replace(server, key=other["key"])
        took_s(server, "first")
        alone_s = statistics.median(took_s(server, "alone") for _ in range(5))
        flood(server, n)
        delays: dict[str, list[float]] = {"user": [], "key": []}
        for number in range(rounds):
            # Wherever in a task of the flood it comes.
            time.sleep(alone_s * (1 + number / rounds))
            kind, sender = [("user", server), ("key", stranger)][number % 2]
            delays[kind].append((took_s(sender, f"one-{number}") - alone_s) / alone_s)
        left = waiting(server)
    say(f"{store}: {delays}")
    longest = {kind: round(max(each), 2) for kind, each in delays.items()}
    return {
        "alone_s": round(alone_s, 4),
        "longest": longest,
        "median": round(statistics.median([*delays["user"], *delays["key"]]), 2),
        "waited_still": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=12)
    chosen = parser.parse_args()
    with quiet():
        found = {
            store: measured(store, chosen.tasks, chosen.rounds) for store in ("sqlite", "postgres")
        }
    value = max(max(each["longest"].values()) for each in found.values())
    ok = all(each["waited_still"] > chosen.tasks * 0.9 for each in found.values())
    report(value, found, ok=ok)


if __name__ == "__main__":
    main()
