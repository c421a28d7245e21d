"""How many more tasks per second does Swell do than huey+SQLite and dramatiq+Redis, over HTTP?

64 clients POST a no-op task and wait for its result; the worker is a process of its own. The
systems take turns, each started fresh, and the medians over the rounds are compared. LitServe, a
model server that keeps nothing, is measured beside them; nothing was promised of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from statistics import median
from typing import Any

import load
import swell_system
import systems
from load import Load, Target
from machine import quiet, report, say

PROMISED = {"huey": 8.0, "dramatiq": 3.0}
BESIDE = ("litserve",)
AIM_PER_S = 10_000
WARM_UP_S = 1.0

System = Callable[[], AbstractContextManager[Target]]


def measured(system: System, connections: int, seconds: float) -> Load:
    """One round of one system, started for it; its answers are read in full before and after.

    Raises:
      RuntimeError: when an answer was bad, or the store does not hold a succeeded task for each.
    """
    with system() as target:
        read = load.check(target)
        warm = load.drive(target, connections, WARM_UP_S)
        seen = load.drive(target, connections, seconds)
        read += load.check(target)
        states = dict(target.states()) if target.states is not None else None
    if seen.bad or warm.bad:
        raise RuntimeError(f"{seen.bad + warm.bad} answers were bad: {seen}")
    answered = read + warm.requests + seen.requests
    if states is not None and (set(states) != {"succeeded"} or states["succeeded"] < answered):
        raise RuntimeError(f"{answered} answers, but the store holds {states}")
    return seen


@contextmanager
def swell_up() -> Iterator[Target]:
    with swell_system.up() as running:
        yield running.target()


def in_turns(
    asked: dict[str, System], connections: int, seconds: float, rounds: int
) -> dict[str, list[Load]]:
    """Measures systems A B C A B C, so that a disturbance meets all of them."""
    seen: dict[str, list[Load]] = {name: [] for name in asked}
    for number in range(rounds):
        for name, system in asked.items():
            seen[name].append(measured(system, connections, seconds))
            last = seen[name][-1]
            say(f"round {number + 1} {name}: {last.rate:.0f}/s, p50 {last.p50_ms:.2f} ms")
    return seen


def summary(seen: list[Load]) -> dict[str, Any]:
    return {
        "tasks_per_s": round(median(run.rate for run in seen), 1),
        "each_round": [round(run.rate, 1) for run in seen],
        "p50_ms": round(median(run.p50_ms for run in seen), 3),
        "p99_ms": round(median(run.p99_ms for run in seen), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", nargs="*", default=[*PROMISED, *BESIDE], choices=list(systems.PEER)
    )
    parser.add_argument("--only-peers", action="store_true")
    asked = parser.parse_args()
    compared: dict[str, System] = {} if asked.only_peers else {"swell": swell_up}
    compared |= {name: partial(systems.peer, name) for name in asked.peers}
    systems.peers_python()
    with quiet():
        seen = in_turns(compared, asked.connections, asked.seconds, asked.rounds)
    detail: dict[str, Any] = {name: summary(runs) for name, runs in seen.items()}
    detail["connections"] = asked.connections
    detail["versions"] = systems.peer_versions()
    detail["settings"] = systems.peer_settings(asked.peers)
    value = None
    if not asked.only_peers:
        ours = detail["swell"]["tasks_per_s"]
        ratios = {name: ours / detail[name]["tasks_per_s"] for name in asked.peers}
        detail["ratios"] = {name: round(ratio, 2) for name, ratio in ratios.items()}
        detail["aim_tasks_per_s"] = AIM_PER_S
        value = min(ratios[name] / wanted for name, wanted in PROMISED.items() if name in ratios)
    report(value, detail)


if __name__ == "__main__":
    main()
