"""How long does one client wait for a no-op task over HTTP, against celery+Redis?

One connection, one task at a time, so nothing queues: what is left is the way from the request
through the store and the worker process and back.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import systems
from machine import quiet, report
from service_throughput import System, in_turns, summary, swell_up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-peers", action="store_true")
    asked = parser.parse_args()
    compared: dict[str, System] = {} if asked.only_peers else {"swell": swell_up}
    compared["celery"] = partial(systems.peer, "celery")
    systems.peers_python()
    with quiet():
        seen = in_turns(compared, 1, asked.seconds, asked.rounds)
    detail: dict[str, Any] = {name: summary(runs) for name, runs in seen.items()}
    detail["versions"] = systems.peer_versions()
    detail["settings"] = systems.peer_settings(["celery"])
    ours = detail.get("swell", {}).get("p50_ms")
    report(ours and ours / detail["celery"]["p50_ms"], detail)


if __name__ == "__main__":
    main()
