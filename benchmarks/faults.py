"""Does every accepted task end once under each kind of fault, and under all of them at once?

    python benchmarks/faults.py sqlite [--tasks 10200] [--seed 1] [--write]
    python benchmarks/faults.py postgres --only "everything at once" --tasks 1000

Clients submit tasks over HTTP and write down all that they are told, while one kind of fault after
another befalls the backends, the workers, the servers and the network between them; last come all
kinds at once. Each row is a system of its own. The history of each is checked against the store,
the API, the files and what the models wrote down. `--write` puts the rows into
benchmarks/results/faults.md; the totals in docs/guarantees.md are copied from it by hand.
The last line is one JSON object whose value is the number of broken promises.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos.engines import ENGINES
from chaos.faults import faults_of
from chaos.trial import EVERYTHING, Row, Trial, run_trial

PAGE = machine.ROOT / "benchmarks" / "results" / "faults.md"

#: Of all tasks, so many are asked for under each single kind of fault; the rest under all at once.
SINGLE_TASKS = 500
SINGLE_SPAN_S = 10.0
SINGLE_STRIKES = 5
#: A fault that lasts so long comes once.
LONG_S = 10.0

#: A row is not begun if less time is left.
MIN_ROW_S = 60.0

#: Under everything at once: tasks asked for, and faults begun, per second.
TASKS_PER_S = 45.0
STRIKES_PER_S = 0.7

COLUMNS = (
    "fault",
    "times",
    "accepted",
    "ended once",
    "lost",
    "changed",
    "other",
    "at once",
    "ready s",
    "next end s",
    "took s",
    "seed",
)


def main() -> int:
    asked = _arguments()
    # Whoever ends this must not leave servers and workers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ends_s = time.monotonic() + asked.seconds
    rows = []
    planned = trials(asked)
    for trial in planned:
        left_s = ends_s - time.monotonic()
        if left_s < MIN_ROW_S:
            machine.say(f"no time is left for {trial.fault}")
            break
        trial = replace(trial, limit_s=min(trial.limit_s, left_s))
        with machine.folder(f"faults-{asked.engine}") as folder:
            row = asyncio.run(run_trial(trial, folder))
        rows.append(row)
        machine.say(told(row))
        for violation in row.violations[:20]:
            machine.say(f"  VIOLATION {violation}")
    result = judged(asked.engine, rows, is_whole=len(rows) == len(planned))
    if asked.write:
        PAGE.write_text(with_table(PAGE.read_text(), asked.engine, rows, result))
    print(json.dumps(result), flush=True)
    return 0 if result["ok"] else 1


def trials(asked: argparse.Namespace) -> list[Trial]:
    """Return one trial for each kind of fault of an engine, and one for all of them."""
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    machine.say(f"seed {seed}")
    kinds = faults_of(ENGINES[asked.engine])
    names = [*kinds, EVERYTHING] if asked.only is None else [asked.only]
    single = min(SINGLE_TASKS, asked.tasks)
    found = []
    for number, name in enumerate(names):
        if name == EVERYTHING:
            tasks = max(single, asked.tasks - single * (len(names) - 1))
            span_s = max(SINGLE_SPAN_S, tasks / TASKS_PER_S)
            strikes = max(len(kinds), round(span_s * STRIKES_PER_S))
        else:
            tasks, span_s = single, SINGLE_SPAN_S
            strikes = 1 if kinds[name].lasts_s[0] >= LONG_S else SINGLE_STRIKES
        found.append(Trial(asked.engine, name, seed + number, tasks, strikes, span_s))
    return found


def told(row: Row) -> str:
    """One row, for the table and for people."""
    other = len(row.violations) - row.lost - row.changed
    next_end = "" if row.longest_next_end_s is None else f"{row.longest_next_end_s:.1f}"
    cells = (
        row.trial.fault,
        sum(row.faults.values()),
        f"{row.accepted:,}",
        f"{row.ended_once:,}",
        row.lost,
        row.changed,
        other,
        row.overlapping,
        f"{row.longest_ready_s:.1f}",
        next_end,
        f"{row.took_s:.0f}",
        row.trial.seed,
    )
    return f"| {' | '.join(map(str, cells))} |"


def judged(engine: str, rows: list[Row], *, is_whole: bool) -> dict[str, Any]:
    """Return the figure; it is ok if every row was run, as planned, and broke no promise."""
    violations = sum(len(row.violations) for row in rows)
    return {
        "figure": f"faults-{engine}",
        "value": violations,
        "target": 0,
        "ok": is_whole and violations == 0 and all(row.is_whole for row in rows),
        "detail": {
            "accepted": sum(row.accepted for row in rows),
            "ended_once": sum(row.ended_once for row in rows),
            "faults": sum(sum(row.faults.values()) for row in rows),
            "took_s": round(sum(row.took_s for row in rows)),
            "rows": [row.detail for row in rows],
        },
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def with_table(page: str, engine: str, rows: list[Row], result: dict[str, Any]) -> str:
    """Return the page with the rows of an engine between its marks.

    Raises:
        ValueError: The page has no such marks.
    """
    about, detail = result["machine"], result["detail"]
    lines = [
        f"<!-- faults-{engine}: written by benchmarks/faults.py -->",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *map(told, rows),
        "",
        f"{detail['accepted']:,} tasks accepted, {detail['ended_once']:,} ended once, under "
        f"{detail['faults']} faults; {result['at']}, commit {result['commit']}, {about['cpu']}, "
        f"{about['cores']} cores, Linux {about['kernel']}, Python {about['python']}.",
        f"<!-- end of faults-{engine} -->",
    ]
    marked = re.compile(
        rf"<!-- faults-{engine}: .*?-->.*?<!-- end of faults-{engine} -->", re.DOTALL
    )
    if not marked.search(page):
        raise ValueError(f"{PAGE.name} has no place for faults-{engine}")
    return marked.sub(lambda _: "\n".join(lines), page)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=list(ENGINES))
    parser.add_argument("--tasks", type=int, default=10_200)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--only", default=None, help="one row: the name of a fault")
    parser.add_argument("--seconds", type=float, default=1100.0, help="bound of all rows")
    parser.add_argument("--write", action="store_true", help="put the rows into results/faults.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
