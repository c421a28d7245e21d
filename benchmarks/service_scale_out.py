"""What do two backends cost per task, against one, in CPU time of Swell and PostgreSQL together?

Each backend process has 64 clients that POST a no-op task and wait for its result, so two have
twice the load; two workers in both cases, one PostgreSQL that syncs every commit. Where the load
generator leaves cores free, two backends should do nearly twice the tasks of one. On a machine
whose cores are all busy with one backend that cannot be seen, but the cost per task can: if it does
not grow, twice the cores do twice the work. They take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import load
from machine import quiet, report, say
from scaled_system import scaled

WORKERS = 2
CLIENTS = 64


def measured(backends: int, clients: int, seconds: float) -> dict[str, Any]:
    """One round: tasks per second, and milliseconds of CPU per task in each part."""
    with scaled(backends=backends, workers=WORKERS) as running:
        target = running.target()
        load.check(target)
        load.drive(target, clients, 2)
        before = running.cpu_s()
        seen = load.drive(target, clients, seconds)
        spent = {name: now - before[name] for name, now in running.cpu_s().items()}
        load.check(target)
        states = running.states()
    if seen.bad or set(states) != {"succeeded"}:
        raise RuntimeError(f"{seen.bad} answers were bad, and the store holds {states}")
    each = {name: round(1000 * cpu_s / seen.requests, 4) for name, cpu_s in spent.items()}
    return {
        "tasks_per_s": round(seen.rate),
        "p50_ms": round(seen.p50_ms, 2),
        "cpu_ms": each,
        "cpu_ms_per_task": round(sum(each.values()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    arms = {
        "one": (1, CLIENTS),
        "two": (2, 2 * CLIENTS),
        # The load of two, on one: what more clients alone change.
        "one_with_the_load_of_two": (1, 2 * CLIENTS),
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    with quiet():
        for number in range(asked.rounds):
            for name, arm in arms.items():
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
    cost = {name: detail[name]["cpu_ms_per_task"] for name in arms}
    detail["tasks_two_over_one"] = round(
        detail["two"]["tasks_per_s"] / detail["one"]["tasks_per_s"], 3
    )
    detail["cost_at_the_same_load"] = round(cost["two"] / cost["one_with_the_load_of_two"], 3)
    report(cost["two"] / cost["one"], detail)


if __name__ == "__main__":
    main()
