"""How many more tasks per second do two backends on one PostgreSQL do than one, with free cores?

On two cores one backend, its database, a worker and the load keep both busy, so a second backend
has nothing to run on (service_scale_cost.py looks at the cost per task there). Here each backend
process may use a part of a core only, which the kernel sees to (held.py), so that backends are what
tasks wait for and the rest has cores to spare, as where hosts are as slow as that. Each backend has
64 clients that POST a no-op task and wait for its result; PostgreSQL syncs every commit.

Both take turns. Said as well: how much of the machine was used, and of their share by the backends.
It is no answer unless the backends used up theirs, and the machine had an eighth left.

Value: tasks per second with two backends over those with one, medians of rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from statistics import median
from typing import Any

import load
import processes
from held import held
from machine import quiet, report, say
from scaled_system import Scaled, scaled

CLIENTS = 64
#: Each asks one backend, as it comes; so many that every backend has some.
WORKERS = 6
WARM_UP_S = 3.0
#: Of the machine's processor time, so much is left at least, and backends use so much of theirs.
LEAST_LEFT = 0.125
LEAST_USED = 0.9


def measured(backends: int, cores: float, seconds: float) -> dict[str, Any]:
    """One round: tasks per second, and how much processor time who used."""
    with scaled(backends=backends, workers=WORKERS) as running, contextlib.ExitStack() as limits:
        serving = backend_pids(running, backends)
        for pid in serving:
            limits.enter_context(held(pid, cores))
        load.check(running.target())
        load.drive(running.target(), CLIENTS * backends, WARM_UP_S)
        busy, used, began = machine_busy_s(), running.cpu_s(), time.monotonic()
        seen = load.drive(running.target(), CLIENTS * backends, seconds)
        took_s = time.monotonic() - began
        spent = {name: now_s - used[name] for name, now_s in running.cpu_s().items()}
        busy = (machine_busy_s() - busy) / took_s / (os.cpu_count() or 1)
        load.check(running.target())
        if seen.bad or set(running.states()) != {"succeeded"}:
            raise RuntimeError(f"{seen.bad} answers were bad; the store holds {running.states()}")
    return {
        "tasks_per_s": round(seen.rate),
        "p50_ms": round(seen.p50_ms, 1),
        "machine_busy": round(busy, 3),
        "backends_used": round(spent["backends"] / took_s / (cores * backends), 3),
        "cpu_ms_per_task": {
            name: round(1000 * total_s / seen.requests, 4) for name, total_s in spent.items()
        },
    }


def backend_pids(running: Scaled, backends: int) -> list[int]:
    """The processes that serve HTTP: the one that was started, or those that it started.

    Raises:
      RuntimeError: when there are not as many as were asked for.
    """
    started, *below = processes.family(running.parts["backends"])
    serving = [started] if backends == 1 else below
    if len(serving) != backends:
        raise RuntimeError(f"{len(serving)} processes serve where {backends} were asked for")
    return serving


def machine_busy_s() -> float:
    """The processor time that the machine has used since it started, all cores together."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, *rest = map(int, file.readline().split()[1:])
    return (user + nice + system + sum(rest[:2])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=float, default=0.4, help="That each backend may use.")
    asked = parser.parse_args()
    rounds: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with quiet():
        for number in range(asked.rounds):
            for backends, seen in rounds.items():
                seen.append(measured(backends, asked.cores, asked.seconds))
                say(f"round {number + 1}, {backends}: {seen[-1]}")
    rate = {n: median(each["tasks_per_s"] for each in seen) for n, seen in rounds.items()}
    busiest = max(median(each["machine_busy"] for each in seen) for seen in rounds.values())
    used = min(median(each["backends_used"] for each in seen) for seen in rounds.values())
    detail = {
        "cores_of_each_backend": asked.cores,
        "one": {"tasks_per_s": rate[1], "each_round": rounds[1]},
        "two": {"tasks_per_s": rate[2], "each_round": rounds[2]},
        "machine_busy": busiest,
        "backends_used_of_their_share": used,
    }
    told = busiest <= 1 - LEAST_LEFT and used >= LEAST_USED
    report(rate[2] / rate[1], detail, ok=told)


if __name__ == "__main__":
    main()
