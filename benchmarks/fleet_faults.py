"""Is a running task ended, or any task lost, when providers and stores have bad days?

    python benchmarks/fleet_faults.py [--only "taken back"]

Each day is a system of its own with real worker processes: a provider that refuses, a machine that
is taken back with notice, a spot region that vanishes, a database that says nothing, backends that
say nothing. The last line is one JSON object whose value is the number of broken promises.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos.bad_days import DAYS, Day, run_day


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(DAYS), default=None)
    asked = parser.parse_args()
    days: list[Day] = []
    for name in DAYS if asked.only is None else [asked.only]:
        with machine.folder("fleet-faults") as folder:
            days.append(asyncio.run(run_day(name, folder)))
        machine.say(f"{name}: {json.dumps(told(days[-1]))}")
        for wrong in days[-1].outcome.wrong[:20]:
            machine.say(f"WRONG {wrong}")
    violations = sum(len(day.outcome.wrong) for day in days)
    line = {
        "figure": "fleet-faults",
        "value": violations,
        "target": 0,
        "ok": violations == 0 and (asked.only is not None or len(days) == len(DAYS)),
        "detail": {day.name: told(day) for day in days},
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    print(json.dumps(line), flush=True)
    return 0 if line["ok"] else 1


def told(day: Day) -> dict[str, object]:
    """What came of a day."""
    outcome = day.outcome
    return {
        "accepted": outcome.accepted,
        "succeeded": outcome.succeeded,
        "machines": outcome.instances,
        "runs_that_ended_with_their_machine": outcome.interrupted,
        "wait_p95_s": round(outcome.wait_p95_s, 1),
        "took_s": round(outcome.took_s, 1),
        **day.detail,
    }


if __name__ == "__main__":
    sys.exit(main())
