"""How fast does one worker process empty a full queue, against huey+SQLite?

The queue is filled while no worker runs; then one worker process starts. Its rate is the number of
tasks over the time from the first start to the last finish, as the system's own store has them.
Swell's times come from its tasks; a peer's no-op returns the time at which it ran as its result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import processes
import swell_system
import systems
from machine import quiet, report, say

DRAINABLE = ["huey", "dramatiq", "celery", "procrastinate"]
LEFT = """
SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND available_at IS NULL)
    OR EXISTS (SELECT 1 FROM tasks WHERE wake_at IS NOT NULL)
"""
TIMES = "SELECT count(*), min(started_at), max(finished_at) FROM tasks WHERE state = 'succeeded'"


def drain_swell(count: int) -> dict[str, Any]:
    """Fills and drains a Swell; also says when an outside reader saw the last commit."""
    with swell_system.serve() as server:
        filling = time.time()
        swell_system.submit(server, count)
        filled_s = time.time() - filling
        with swell_system.worker(server), swell_system.reading(server.store()) as rows:
            processes.until(lambda: not rows.execute(LEFT).fetchone()[0], 300, "an empty queue")
            seen_at = time.time()
            done, first_us, last_us = rows.execute(TIMES).fetchone()
    if done != count:
        raise RuntimeError(f"{done} of {count} tasks succeeded")
    return {
        "tasks_per_s": count / ((last_us - first_us) / 1e6),
        "last_commit_seen_s_after_last_finish": seen_at - last_us / 1e6,
        "enqueued_per_s": count / filled_s,
    }


def drain_peer(name: str, count: int) -> dict[str, Any]:
    """Fills and drains a peer."""
    with systems.peer_place(name) as (environment, log):
        filling = time.time()
        systems.peer_part(name, "fill", environment, "--count", str(count))
        filled_s = time.time() - filling
        ran_at: list[float] = []

        def all_ran() -> bool:
            time.sleep(2.0)  # reading the record costs the worker some of the machine
            ran_at[:] = json.loads(systems.peer_part(name, "ran_at", environment))
            return len(ran_at) >= count

        with systems.part(name, "work", environment, log):
            time.sleep(count / 3500)
            processes.until(all_ran, 300, "an empty queue", log)
    return {
        "tasks_per_s": count / (ran_at[-1] - ran_at[0]),
        "enqueued_per_s": count / filled_s,
    }


def in_turns(asked: dict[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Any]:
    """Drains A B A B; gives the median of every number."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for number in range(rounds):
        for name, drain in asked.items():
            seen[name].append(drain())
            say(f"round {number + 1} {name}: {seen[name][-1]['tasks_per_s']:.0f} tasks/s")
    return {
        name: {
            **{key: round(median(run[key] for run in runs), 3) for key in runs[0]},
            "each_round": [round(run["tasks_per_s"]) for run in runs],
        }
        for name, runs in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["huey"], choices=DRAINABLE)
    parser.add_argument("--only-peers", action="store_true")
    asked = parser.parse_args()
    drains: dict[str, Callable[[], dict[str, Any]]] = {}
    if not asked.only_peers:
        drains["swell"] = lambda: drain_swell(asked.tasks)
    for name in asked.peers:
        drains[name] = lambda name=name: drain_peer(name, asked.tasks)  # type: ignore[misc]
    systems.peers_python()
    with quiet():
        detail = in_turns(drains, asked.rounds)
    ours = detail.get("swell", {}).get("tasks_per_s")
    value = ours / detail["huey"]["tasks_per_s"] if ours and "huey" in detail else None
    about = {
        "versions": systems.peer_versions(),
        "settings": systems.peer_settings(asked.peers),
    }
    report(value, {"tasks": asked.tasks, **detail, **about})


if __name__ == "__main__":
    main()
