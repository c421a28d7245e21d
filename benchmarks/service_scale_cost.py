"""What do two backends on one PostgreSQL cost in CPU time per task, against one?

Each backend process has 64 clients that POST a no-op task and wait for its result; PostgreSQL syncs
every commit. Where cores are free, two backends should do nearly twice the tasks of one. Here one
backend with its database, its worker and the load keeps most of two cores busy, so that cannot be
seen. What can is the CPU time of Swell and PostgreSQL per task: if sharing a database costs none,
twice the cores do twice the work.

CPU time per task also grows when more runs on the same cores, whatever it is. How much of the ratio
that is tells a third arm: two services on the same machine under the same load, each with a
database of its own. All take turns, and medians are compared.

Value: CPU time per task with two backends over that with one.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import load
from machine import quiet, report, say
from scaled_system import Scaled, scaled

CLIENTS = 64
WORKERS = 2
WARM_UP_S = 2.0

#: Name → (services, backends of each).
ARMS = {"one": (1, 1), "two": (1, 2), "two_apart": (2, 1)}


def measured(services: int, backends: int, seconds: float) -> dict[str, Any]:
    """One round: tasks per second, and milliseconds of CPU per task in each part."""
    with contextlib.ExitStack() as started:
        running = [
            started.enter_context(scaled(backends=backends, workers=WORKERS // services))
            for _ in range(services)
        ]
        with ThreadPoolExecutor(services) as pool:

            def drive(server: Scaled, for_s: float) -> load.Load:
                return load.drive(server.target(), CLIENTS * backends, for_s)

            for server in running:
                load.check(server.target())
            list(pool.map(drive, running, [WARM_UP_S] * services))
            before = cpu_s(running)
            seen = list(pool.map(drive, running, [seconds] * services))
            spent = cpu_s(running) - before
        for server in running:
            load.check(server.target())
            if set(server.states()) != {"succeeded"}:
                raise RuntimeError(f"the store holds {server.states()}")
    if any(each.bad for each in seen):
        raise RuntimeError(f"answers were bad: {seen}")
    tasks = sum(each.requests for each in seen)
    return {
        "tasks_per_s": round(sum(each.rate for each in seen)),
        "p50_ms": round(median(each.p50_ms for each in seen), 2),
        "cpu_ms": {name: round(1000 * total / tasks, 4) for name, total in spent.items()},
        "cpu_ms_per_task": round(1000 * sum(spent.values()) / tasks, 4),
    }


def cpu_s(running: list[Scaled]) -> Counter[str]:
    """The CPU time that each kind of part has used, in all services together."""
    found: Counter[str] = Counter()
    for server in running:
        for name, used_s in server.cpu_s().items():
            found[name.partition("_")[0]] += used_s  # type: ignore[assignment]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    with quiet():
        for number in range(asked.rounds):
            for name, arm in ARMS.items():
                rounds[name].append(measured(*arm, asked.seconds))
                say(f"round {number + 1} {name}: {rounds[name][-1]}")
    detail: dict[str, Any] = {
        name: {
            "tasks_per_s": median(each["tasks_per_s"] for each in seen),
            "cpu_ms_per_task": median(each["cpu_ms_per_task"] for each in seen),
            "each_round": seen,
        }
        for name, seen in rounds.items()
    }
    cost = {name: detail[name]["cpu_ms_per_task"] for name in ARMS}
    rate = {name: detail[name]["tasks_per_s"] for name in ARMS}
    detail["cost_of_two_over_two_apart"] = round(cost["two"] / cost["two_apart"], 3)
    detail["cost_of_two_apart_over_one"] = round(cost["two_apart"] / cost["one"], 3)
    detail["tasks_of_two_over_one"] = round(rate["two"] / rate["one"], 3)
    report(cost["two"] / cost["one"], detail)


if __name__ == "__main__":
    main()
