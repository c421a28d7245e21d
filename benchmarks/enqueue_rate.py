"""How many tasks per second does Swell make durable, submitted one by one and in batches?

Nobody waits for results and no worker runs: an answer means that the task is committed
(synchronous=FULL). The store must hold every task that was answered.
"""

from __future__ import annotations

import argparse
from typing import Any

import load
import swell_system
from load import Target
from machine import quiet, report
from swell_system import Swell


def batches(server: Swell, size: int) -> Target:
    return Target(
        port=server.port,
        path="/v1/tasks/batch",
        body={"tasks": [swell_system.task()] * size},
        answer=lambda status, said: status < 300,
        headers=server.headers,
    )


def submitted(target: Target, server: Swell, connections: int, seconds: float, each: int) -> Any:
    """Loads one way of submitting, and compares what was answered with what is stored."""
    before = sum(server.states().values())
    seen = load.drive(target, connections, seconds)
    stored = sum(server.states().values()) - before
    if seen.bad or stored < seen.requests * each:
        raise RuntimeError(f"{stored} stored of {seen.requests} x {each}; {seen.bad} bad answers")
    return {
        "tasks_per_s": round(seen.rate * each),
        "connections": connections,
        "p50_ms": round(seen.p50_ms, 3),
        "p99_ms": round(seen.p99_ms, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--batch", type=int, default=1000)
    asked = parser.parse_args()
    detail: dict[str, Any] = {}
    with quiet(), swell_system.serve() as server:
        single, batch = server.target(wait_s=None), batches(server, asked.batch)
        for connections in (1, 64):
            name = f"single_{connections}"
            detail[name] = submitted(single, server, connections, asked.seconds, 1)
        detail["batch"] = submitted(batch, server, 2, asked.seconds, asked.batch)
    report(detail["single_64"]["tasks_per_s"], detail)


if __name__ == "__main__":
    main()
