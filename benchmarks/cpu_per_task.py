"""What does a no-op task over HTTP cost each of Swell's processes in CPU time?

CPU time moves far less than tasks per second when something else runs on the machine, so this is
the number to watch while making the hot path shorter. 1,000 / (the largest cost in ms) is the most
tasks per second that one backend process could do with cores to spare.
"""

from __future__ import annotations

import argparse
from typing import Any

import load
import processes
import swell_system
from machine import quiet, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4)
    asked = parser.parse_args()
    with quiet(), swell_system.up() as server:
        target = server.target()
        load.check(target)
        load.drive(target, asked.connections, 1)
        family = processes.family(server.pid)
        before = [processes.cpu_s(pid) for pid in family]
        seen = load.drive(target, asked.connections, asked.seconds)
        spent = [processes.cpu_s(pid) - was for pid, was in zip(family, before, strict=True)]
    each = [round(1000 * spent_s / seen.requests, 4) for spent_s in spent]
    names = ["backend", *(f"child_{number}" for number in range(1, len(each)))]
    detail: dict[str, Any] = {
        "cpu_ms": dict(zip(names, each, strict=True)),
        "tasks_per_s": round(seen.rate),
        "connections": asked.connections,
    }
    report(sum(each), detail, ok=not seen.bad)


if __name__ == "__main__":
    main()
