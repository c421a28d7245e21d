"""How many more tasks per second do two backends on one PostgreSQL do than one, with free cores?

On two cores one backend, its database, a worker and the load keep both busy, so a second backend
has nothing to run on (service_scale_cost.py looks at the cost per task there). Here each backend
process may use a part of a core only, which the kernel sees to (held.py), so that backends are what
tasks wait for and the rest has cores to spare, as where hosts are as slow as that. Each backend has
64 clients that POST a no-op task and wait for its result; PostgreSQL syncs every commit.

Both are up, and take turns of a few seconds, the other one first each time: how fast a machine is
that is shared changes within a minute, by a quarter and more. Said as well: how much of the machine
was used, and of their share by the backends. It is no answer unless the backends used up theirs,
and the machine had an eighth left.

Value: tasks per second with two backends over those with one, the median over the pairs of turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
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


@contextlib.contextmanager
def held_system(backends: int, cores: float) -> Iterator[Scaled]:
    """A system that is warm, each backend of which may use so much of a core."""
    with scaled(backends=backends, workers=WORKERS) as running, contextlib.ExitStack() as limits:
        for pid in backend_pids(running, backends):
            limits.enter_context(held(pid, cores))
        load.check(running.target())
        load.drive(running.target(), CLIENTS * backends, WARM_UP_S)
        yield running
        load.check(running.target())
        if set(running.states()) != {"succeeded"}:
            raise RuntimeError(f"the store holds {running.states()}")


def turn(running: Scaled, backends: int, cores: float, seconds: float) -> dict[str, Any]:
    """One turn: tasks per second, and how much processor time who used."""
    busy, used, began = machine_busy_s(), running.cpu_s(), time.monotonic()
    seen = load.drive(running.target(), CLIENTS * backends, seconds)
    took_s = time.monotonic() - began
    spent = {name: now_s - used[name] for name, now_s in running.cpu_s().items()}
    busy = (machine_busy_s() - busy) / took_s / (os.cpu_count() or 1)
    if seen.bad:
        raise RuntimeError(f"{seen.bad} answers were bad")
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
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--cores", type=float, default=0.4, help="That each backend may use.")
    asked = parser.parse_args()
    turns: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with (
        quiet(),
        held_system(1, asked.cores) as one,
        held_system(2, asked.cores) as two,
    ):
        for number in range(asked.pairs):
            order = [(1, one), (2, two)]
            for backends, running in order if number % 2 == 0 else reversed(order):
                turns[backends].append(turn(running, backends, asked.cores, asked.seconds))
            rates = [seen[-1]["tasks_per_s"] for seen in turns.values()]
            say(f"pair {number + 1}: {rates[0]}/s, {rates[1]}/s, {rates[1] / rates[0]:.2f} times")
    ratios = [
        many["tasks_per_s"] / few["tasks_per_s"]
        for few, many in zip(turns[1], turns[2], strict=True)
    ]
    busiest = max(median(each["machine_busy"] for each in seen) for seen in turns.values())
    used = min(median(each["backends_used"] for each in seen) for seen in turns.values())
    detail = {
        "cores_of_each_backend": asked.cores,
        "ratios": [round(each, 3) for each in ratios],
        "one": {"tasks_per_s": rate_of(turns[1]), "each_turn": turns[1]},
        "two": {"tasks_per_s": rate_of(turns[2]), "each_turn": turns[2]},
        "machine_busy": busiest,
        "backends_used_of_their_share": used,
    }
    told = busiest <= 1 - LEAST_LEFT and used >= LEAST_USED
    report(median(ratios), detail, ok=told)


def rate_of(seen: list[dict[str, Any]]) -> float:
    return median(each["tasks_per_s"] for each in seen)


if __name__ == "__main__":
    main()
