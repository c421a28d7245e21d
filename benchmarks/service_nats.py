"""How many more tasks per second does Swell do with NATS than taskiq with Redis streams, over HTTP?

64 clients POST a no-op task and wait for its result. Swell: one backend and one worker process,
tasks in PostgreSQL (every commit synced), their ids in NATS JetStream, events over NATS. What NATS
holds can be lost without losing a task, so it syncs as it does by itself; so does Redis, once a
second, and there what is lost are tasks. The systems take turns, each started fresh, and the
medians over the rounds are compared. With SQLite instead of PostgreSQL for comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import systems
from load import Target
from machine import quiet, report
from scaled_system import Scaled, scaled
from service_throughput import in_turns, summary

PEER = "taskiq"


@contextmanager
def swell_on(store: str, travelled: list[float]) -> Iterator[Target]:
    """Swell with one store; `travelled` gets the share of tasks whose id went through NATS."""
    with scaled(store=store, with_nats=True) as running:
        yield running.target()
        travelled.append(share_sent(running))


def share_sent(running: Scaled) -> float:
    """Of all tasks, those of which an id was put into JetStream: its last number tells how many."""
    return round(running.ids_sent() / sum(running.states().values()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    sent: dict[str, list[float]] = {"postgres": [], "sqlite": []}
    compared = {
        f"swell_{store}": partial(swell_on, store, shares) for store, shares in sent.items()
    }
    compared[PEER] = partial(systems.peer, PEER)
    systems.peers_python()
    with quiet():
        seen = in_turns(compared, asked.connections, asked.seconds, asked.rounds)
    detail: dict[str, Any] = {name: summary(runs) for name, runs in seen.items()}
    for store, shares in sent.items():
        detail[f"swell_{store}"]["ids_through_nats_per_task"] = shares
    detail["connections"] = asked.connections
    detail["versions"] = systems.peer_versions()
    detail["settings"] = systems.peer_settings([PEER])
    report(detail["swell_postgres"]["tasks_per_s"] / detail[PEER]["tasks_per_s"], detail)


if __name__ == "__main__":
    main()
