"""Does a task that kills whatever runs it take anybody with it?

    python benchmarks/service_poison.py [--tasks 200] [--seconds 300]

Every twentieth of the tasks kills its model process with SIGKILL; the others were submitted with
them and share their batches. The last line is one JSON object whose value is the part of the
neighbours that succeeded; it is ok only if every poison also lies among the dead letters after
exactly its attempts, can be replayed, and no worker died.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos.poison import run_poison


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0, help="bound of the whole run")
    asked = parser.parse_args()
    with machine.folder("poison") as folder:
        harm = asyncio.run(run_poison(folder, tasks=asked.tasks, limit_s=asked.seconds))
    for wrong in harm.wrong[:50]:
        print(f"WRONG {wrong}")
    is_ok = harm.fraction == 1.0 and not harm.wrong
    line = {
        "figure": "service-poison",
        "value": round(harm.fraction, 4),
        "target": 1.0,
        "ok": is_ok,
        "detail": {
            "neighbours": harm.neighbours,
            "neighbours_succeeded": harm.neighbours_succeeded,
            "neighbours_attempts_lost": harm.neighbours_attempts_lost,
            "poisons": harm.poisons,
            "wrong": harm.wrong[:20],
            "took_s": round(harm.took_s, 1),
        },
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    print(json.dumps(line), flush=True)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
