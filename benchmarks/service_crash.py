"""Is every accepted task kept, and ended once, while everything that can be killed is killed?

    python benchmarks/service_crash.py [--tasks 5000] [--kills 66] [--seed 1] [--seconds 900]

Clients submit tasks over HTTP and write down all that they are told; the backend, three workers and
their model processes are killed with SIGKILL by a seeded plan and started again. At the end the
history is checked against the store's file and the API. The last line is one JSON object whose
value is the number of broken promises.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import Any

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos.crash import Verdict, run_crash
from chaos.plan import make_plan

NAME = "service-crash"

#: Mean pause between two kills, in seconds: long enough that work goes on in between.
PAUSE_S = 2.0


def main() -> int:
    asked = _arguments()
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    plan = make_plan(
        seed,
        tasks=asked.tasks,
        kills=asked.kills,
        span_s=asked.span or max(5.0, PAUSE_S * asked.kills),
        workers=asked.workers,
        poisons=max(1, asked.tasks // 600),
    )
    with machine.folder("crash") as folder:
        verdict = asyncio.run(run_crash(plan, folder, workers=asked.workers, limit_s=asked.seconds))
    tell(verdict)
    is_whole = sum(verdict.kills.values()) >= asked.kills
    is_ok = is_whole and not verdict.violations
    print(json.dumps(result(verdict, is_ok)), flush=True)
    return 0 if is_ok else 1


def tell(verdict: Verdict) -> None:
    """The history check, for people."""
    print(f"history check, seed {verdict.seed}, {verdict.took_s:.0f} s")
    for name, value in (("kills", verdict.kills), *verdict.counts.items()):
        text = value
        if isinstance(value, dict):
            text = ", ".join(f"{key}: {number}" for key, number in value.items()) or "none"
        print(f"  {name.replace('_', ' ')}: {text}")
    for violation in verdict.violations[:50]:
        print(f"  VIOLATION {violation}")
    print(f"  violations: {len(verdict.violations)}")


def result(verdict: Verdict, is_ok: bool) -> dict[str, Any]:
    return {
        "figure": NAME,
        "value": len(verdict.violations),
        "target": 0,
        "ok": is_ok,
        "detail": verdict.detail,
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=66)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--seconds", type=float, default=900.0, help="bound of the whole run")
    parser.add_argument("--span", type=float, default=None, help="seconds of asking and killing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
