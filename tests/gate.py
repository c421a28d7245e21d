"""Runs the static checks and the tiers of tests: `python tests/gate.py check|test|torch|all`.

A test that fails in a tier runs again after the tier, alone, at most twice. If it passes then, the
tier passes and the last lines of the output list the test as unstable. Static checks, errors of
collection, crashed test processes and more than ten failures get no second chance.

`pytest -p gate` loads this file as a plugin, which writes the failures of a run into a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
BIN = Path(sys.executable).parent

#: More failures than this in one tier are no accident.
MOST_UNSTABLE = 10

SECOND_CHANCES = 2

CORES = os.cpu_count() or 1


# --- the plugin ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures", help="file for the failures of the run, as JSON")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write each failed test with its first traceback, and whether all may run again."""
    failed: dict[str, str] = {}
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    for each in reports:
        failed.setdefault(each.nodeid, each.longreprtext)
    # Collection that fails, and a process of pytest-xdist that crashes, have phases of their own.
    are_of_tests = all(each.when in ("setup", "call", "teardown") for each in reports)
    Path(config.getoption("failures")).write_text(json.dumps([failed, are_of_tests]))


# --- tiers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tier:
    """One run of pytest."""

    name: str
    arguments: Sequence[str]
    bin: Path = BIN
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """Result of a step. `failed` and `unstable` map tests to their runs, e.g. "failed, passed"."""

    name: str
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    unstable: dict[str, str] = field(default_factory=dict)
    #: Test → its first traceback.
    tracebacks: dict[str, str] = field(default_factory=dict)
    may_run_again: bool = False


def run_pytest(
    tier: Tier, arguments: Sequence[str], output: Any = None
) -> tuple[dict[str, str], bool]:
    """Return failed tests with their tracebacks, and whether they may run again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "failures.json")
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        code = subprocess.run(
            [tier.bin / "pytest", "-p", "gate", f"--failures={path}", *arguments],
            env=os.environ | tier.variables | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
        failed, are_of_tests = json.loads(path.read_text()) if path.exists() else ({}, False)
    # 1 says that tests failed; anything else is pytest's own failure, or that there are no tests.
    if code > 1 or code < 0 or (code and not failed):
        failed[f"pytest itself, exit code {code}"] = ""
        are_of_tests = False
    return failed, are_of_tests


def first_run(tier: Tier, output: Any = None) -> Outcome:
    started_s = time.monotonic()
    found, are_of_tests = run_pytest(tier, tier.arguments, output)
    failed, seconds = dict.fromkeys(found, "failed"), time.monotonic() - started_s
    may_run_again = are_of_tests and len(failed) <= MOST_UNSTABLE
    return Outcome(tier.name, seconds, failed, tracebacks=found, may_run_again=may_run_again)


def give_second_chance(tier: Tier, outcome: Outcome) -> None:
    """Run the failed tests of a tier again, one after the other."""
    started_s = time.monotonic()
    for _ in range(SECOND_CHANCES):
        if not (outcome.failed and outcome.may_run_again):
            break
        print(f"\n== {tier.name}: {len(outcome.failed)} failed and run again, alone", flush=True)
        found, outcome.may_run_again = run_pytest(tier, list(outcome.failed))
        if outcome.may_run_again:
            for test, runs in list(outcome.failed.items()):
                if test in found:
                    outcome.failed[test] = f"{runs}, failed"
                else:
                    outcome.unstable[test] = f"{outcome.failed.pop(test)}, passed"
    outcome.seconds += time.monotonic() - started_s


def run_tiers(tiers: Sequence[Tier]) -> list[Outcome]:
    """Run tiers at the same time; second chances come when all have ended."""
    print(f"\n== {', '.join(tier.name for tier in tiers)}", flush=True)
    with tempfile.TemporaryFile("w+") as later, ThreadPoolExecutor() as pool:
        outputs = [None, *[later] * (len(tiers) - 1)]
        outcomes = list(pool.map(first_run, tiers, outputs))
        later.seek(0)
        print(later.read(), end="", flush=True)
    for tier, outcome in zip(tiers, outcomes, strict=True):
        give_second_chance(tier, outcome)
    return outcomes


def run_checks(commands: Sequence[Sequence[str]]) -> Outcome:
    """Run the static checks, one for each core at a time, and all of them even if one fails."""
    started_s = time.monotonic()

    def run(command: Sequence[str]) -> bool:
        ran = subprocess.run(
            [BIN / command[0], *command[1:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"== {' '.join(command)}\n{ran.stdout}", end="", flush=True)
        return ran.returncode == 0

    with ThreadPoolExecutor(CORES) as pool:
        are_good = list(pool.map(run, commands))
    failed = [" ".join(each) for each, good in zip(commands, are_good, strict=True) if not good]
    seconds = time.monotonic() - started_s
    return Outcome("static checks", seconds, dict.fromkeys(failed, "failed"))


def report(outcomes: Sequence[Outcome]) -> bool:
    """Print the time of each step, then the names of unstable and failed tests.

    Returns whether the gate passes.
    """
    for each in outcomes:
        for test in each.unstable:
            print(f"\n== unstable: {test}\n{each.tracebacks[test]}")
    print()
    for each in outcomes:
        print(f"{each.seconds:6.0f} s  {each.name}{': failed' if each.failed else ''}")
    for each in outcomes:
        for test, runs in each.unstable.items():
            print(f"unstable: {test} ({runs})")
    for each in outcomes:
        for test, runs in each.failed.items():
            print(f"failed: {test} ({runs})")
    return not any(each.failed for each in outcomes)


# --- the gate of Swell ---------------------------------------------------------------------------

CHECKS = [
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["lint-imports", "--no-logo"],
    ["mypy"],
]

MORE_CHECKS = [
    ["python", "web/build.py", "--check"],
    ["mypy", "--config-file", "benchmarks/mypy.ini"],
]

UNIT = ["tests/unit", "tests/conformance"]


def services() -> list[str]:
    """Return the folders whose tests start whole services."""
    folders = (path for path in TESTS.iterdir() if path.is_dir() and path.name[0] not in "._")
    return sorted(f"tests/{path.name}" for path in folders if f"tests/{path.name}" not in UNIT)


def torch_tier() -> Tier:
    """Return the tests of what needs torch, in an environment that has it."""
    listed = subprocess.check_output(["git", "ls-files", "tests/*test_*torch*.py"], cwd=ROOT)
    return Tier(
        "torch",
        ["-n", str(CORES), "--dist", "loadfile", *listed.decode().split()],
        ROOT / ".venv-torch" / "bin",
        {"OMP_NUM_THREADS": "1"},
    )


def gate(what: str) -> list[Outcome]:
    """Run the steps of `what`; stop early if one of the quick ones fails."""
    if what == "torch":
        return run_tiers([torch_tier()])
    outcomes = [run_checks(CHECKS if what == "check" else CHECKS + MORE_CHECKS)]
    if outcomes[-1].failed:
        return outcomes
    # Some of what is quick waits for a clock or a file: one process more than there are cores.
    quick = ["-n", str(CORES + 1)]
    if what == "check":
        quick += ["-m", "not server and not slow"]
    outcomes += run_tiers([Tier("unit and conformance", [*quick, *UNIT])])
    if what == "check" or outcomes[-1].failed:
        return outcomes
    # Most of it is waiting: two files for each core.
    many = ["-n", str(2 * CORES), "--dist", "loadfile", "-m", "not alone"]
    tiers = [Tier("services", [*many, *services()]), *([torch_tier()] if what == "all" else [])]
    outcomes += run_tiers(tiers)
    return outcomes + run_tiers([Tier("alone", ["-m", "alone", *services()])])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["check", "test", "torch", "all"])
    return 0 if report(gate(parser.parse_args().what)) else 1


if __name__ == "__main__":
    sys.exit(main())
