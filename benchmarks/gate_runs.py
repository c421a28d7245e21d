"""How long do the commands of the gate take, and do all tests pass each time?

    python benchmarks/gate_runs.py time
    python benchmarks/gate_runs.py stable --runs 5 --busy 3

`time` runs `make test` and `make check` in a fresh clone and `.ci/run` in another. The packages of
Debian and the caches of package managers are those of the machine. Value: the longest command over
its limit.

`stable` runs `.ci/run` several times in one clone, the last of them while a process keeps one core
busy. Value: the tests that failed and failed again, over all runs; it does not hold with more than
three unstable tests either.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import BENCH, ROOT, report, say

LIMITS_S = {"make check": 90.0, "make test": 1200.0, ".ci/run": 1800.0}
MOST_UNSTABLE = 3


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


def run(command: str, folder: Path) -> dict[str, Any]:
    """Run a command of the gate; return its time and what its last lines say."""
    say(f"{command} in {folder}")
    variables = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    started_s = time.monotonic()
    ran = subprocess.run(
        command.split(),
        cwd=folder,
        env=variables | {"CI": "true"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = round(time.monotonic() - started_s)
    (BENCH / f"gate-{time.time():.0f}.txt").write_text(ran.stdout)
    tiers = re.findall(r"^ *(\d+) s  (.+)$", ran.stdout, re.MULTILINE)
    found = {
        "seconds": seconds,
        "exit": ran.returncode,
        "tiers_s": {name: int(tier_s) for tier_s, name in tiers},
        "unstable": re.findall(r"^unstable: (.+)$", ran.stdout, re.MULTILINE),
        "failed": re.findall(r"^failed: (.+)$", ran.stdout, re.MULTILINE),
    }
    say(str(found))
    return found


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def measure_time(folder: Path) -> None:
    first, second = clone(folder / "first"), clone(folder / "second")
    found = {each: run(each, first) for each in ("make test", "make check")}
    found[".ci/run"] = run(".ci/run", second)
    value = max(found[each]["seconds"] / limit_s for each, limit_s in LIMITS_S.items())
    report(
        value, {"limits_s": LIMITS_S, **found}, all(each["exit"] == 0 for each in found.values())
    )


def measure_stability(folder: Path, runs: int, busy: int) -> None:
    checkout, found = clone(folder / "clone"), []
    for n in range(runs):
        with busy_core() if n >= runs - busy else contextlib.nullcontext():
            found.append(run(".ci/run", checkout))
    # A run that failed without naming a test counts as one.
    failed = sum(max(len(each["failed"]), each["exit"] != 0) for each in found)
    unstable = sum(len(each["unstable"]) for each in found)
    detail = {"unstable": unstable, "with_a_busy_core": busy, "runs": found}
    report(failed, detail, unstable <= MOST_UNSTABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["time", "stable"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=3)
    chosen = parser.parse_args()
    BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="swell-gate-") as folder:
        if chosen.what == "time":
            measure_time(Path(folder))
        else:
            measure_stability(Path(folder), chosen.runs, chosen.busy)


if __name__ == "__main__":
    main()
