"""How many more tasks per second does Swell do on PostgreSQL than procrastinate does, over HTTP?

64 clients POST a no-op task and wait for its result. One backend process, one worker process, and a
PostgreSQL on the same disk that syncs every commit (`fsync` and `synchronous_commit` on, as it is
without settings): the same server for both. The systems take turns, each started fresh, and the
medians over the rounds are compared.
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
from scaled_system import scaled
from service_throughput import in_turns, summary

PEER = "procrastinate"


@contextmanager
def swell_on_postgres() -> Iterator[Target]:
    with scaled() as running:
        yield running.target()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    compared = {"swell": swell_on_postgres, PEER: partial(systems.peer, PEER)}
    systems.peers_python()
    with quiet():
        seen = in_turns(compared, asked.connections, asked.seconds, asked.rounds)
    detail: dict[str, Any] = {name: summary(runs) for name, runs in seen.items()}
    detail["connections"] = asked.connections
    detail["versions"] = systems.peer_versions()
    detail["settings"] = systems.peer_settings([PEER])
    report(detail["swell"]["tasks_per_s"] / detail[PEER]["tasks_per_s"], detail)


if __name__ == "__main__":
    main()
