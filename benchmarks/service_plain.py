"""How quick is a plain typed function, beside dramatiq+Redis and a model that takes batches?

64 clients POST a task and wait for its result; one worker, a process of its own. The systems take
turns, each started fresh, and the medians over the rounds are compared.

Value: the smaller of the two ratios to what was promised: 3 times dramatiq's tasks per second, and
half of those of Swell's no-op model, which takes batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import plain_model
import swell_system
import systems
from load import Target
from machine import quiet, report
from service_throughput import in_turns, summary, swell_up

PROMISED = {"dramatiq": 3.0, "batching": 0.5}


@contextmanager
def plain_up() -> Iterator[Target]:
    with swell_system.up(str(Path(plain_model.__file__))) as running:
        target = running.target()
        yield replace(target, body={**target.body, "model": "demo/plain"})


def main() -> None:
    """Measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    compared = {
        "plain": plain_up,
        "batching": swell_up,
        "dramatiq": partial(systems.peer, "dramatiq"),
    }
    systems.peers_python()
    with quiet():
        seen = in_turns(compared, asked.connections, asked.seconds, asked.rounds)
    detail: dict[str, Any] = {name: summary(runs) for name, runs in seen.items()}
    rate = detail["plain"]["tasks_per_s"]
    ratios = {name: rate / detail[name]["tasks_per_s"] for name in PROMISED}
    detail["ratios"] = {name: round(ratio, 2) for name, ratio in ratios.items()}
    report(min(ratios[name] / wanted for name, wanted in PROMISED.items()), detail)


if __name__ == "__main__":
    main()
