"""Does the simulator say what real processes do? Ten minutes of both, by the same policy.

    python benchmarks/fleet_sim_error.py [--task 2.0] [--seconds 600] [--record FILE | --from FILE]

A backend scales a pool of real worker processes that boot for half a minute, and tasks come as
those of independent people do: few, then six times as many for four minutes, then few again. Tasks
mostly sleep. The simulator gets the same arrivals, how long starts took in truth, and for how long
each task occupied its worker. Compared are the mean wait of tasks and the seconds for which workers
were there, the mean over five seeds of what the simulator draws. Value: the larger of the two
differences, as a share.

`--record` keeps what was measured of the real processes; `--from` simulates it again, by the policy
of now: errors are true only where that is the one of then.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from chaos import replayed

SECONDS = 600.0
TASK_S = 2.0
SEEDS = (1, 2, 3, 4, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", type=float, default=TASK_S, help="seconds of a task")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--record", type=Path, help="keep what was measured in this file")
    parser.add_argument("--from", type=Path, dest="kept", help="simulate what is in this file")
    chosen = parser.parse_args()
    if chosen.kept:
        record = replayed.Record.load(chosen.kept)
    else:
        course = replayed.Course(seconds=chosen.seconds, task_s=chosen.task)
        with machine.quiet(), machine.folder("fleet-sim-error") as folder:
            record = asyncio.run(replayed.real(folder, course))
        if chosen.record:
            record.keep(chosen.record)
    error = replayed.compare(record, SEEDS)
    machine.report(error.value, error.detail, ok=not record.wrong)


if __name__ == "__main__":
    main()
