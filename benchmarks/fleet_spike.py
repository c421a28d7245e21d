"""Does a crowd on real workers, ten times as many within a moment, lose or leave anything?

    python benchmarks/fleet_spike.py [--engine sqlite] [--times 10]

A pool sleeps. Tasks come; its workers, which are real processes that boot slowly, are launched by
the autoscaler. Then ten times as many come. Meanwhile a worker that is at work is killed, and so is
the process that scales (the backend itself with SQLite, `swell autoscale` with PostgreSQL), which
starts again a second later. When all is over, the pool sleeps again. The last line is one JSON
object whose value is the number of broken promises: tasks lost, refused or with a wrong outcome,
work that scaling has ended, machines launched twice, machines or processes that are left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos.engines import Engine, PostgresEngine
from chaos.spike import Crowd, Outcome, run_spike, summary

ENGINES: dict[str, type[Engine] | None] = {"sqlite": None, "postgres": PostgresEngine}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="all")
    parser.add_argument("--times", type=float, default=10.0, help="as many at the peak")
    parser.add_argument("--peak", type=float, default=30.0, help="how long it lasts, in seconds")
    asked = parser.parse_args()
    names = list(ENGINES) if asked.engine == "all" else [asked.engine]
    outcomes: dict[str, Outcome] = {}
    for name in names:
        crowd = Crowd(times=asked.times, peak_s=asked.peak, before_s=10.0, after_s=5.0)
        with machine.folder(f"fleet-spike-{name}") as folder:
            kind = ENGINES[name]
            engine = None if kind is None else kind(folder)
            outcomes[name] = asyncio.run(run_spike(folder, crowd, engine))
        for wrong in outcomes[name].wrong[:20]:
            machine.say(f"WRONG {name}: {wrong}")
        machine.say(f"{name}: {json.dumps(summary(outcomes[name]))}")
    violations = sum(len(each.wrong) for each in outcomes.values())
    line = {
        "figure": "fleet-spike",
        "value": violations,
        "target": 0,
        "ok": violations == 0,
        "detail": {name: summary(each) for name, each in outcomes.items()},
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    print(json.dumps(line), flush=True)
    return 0 if violations == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
