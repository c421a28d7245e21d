"""Which of the faults that independent tests found are back?

    python benchmarks/faults_found.py [NAME ...]

Each fault has regression tests: the table below names them. They run in one call of pytest, without
docker or podman on the path. A fault counts as back if one of its tests fails, is skipped, or no
longer exists. The last line is one JSON object; its value is the number of faults that are back.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import machine

#: Fault → pytest node ids, or files, of its regression tests.
FAULTS: dict[str, tuple[str, ...]] = {
    "tests-need-a-container-engine": (
        "tests/unit/test_autoscaling.py::test_a_worker_elsewhere_is_told_nothing_of_this_machine",
        "tests/unit/test_provider_factory.py::test_other_providers_hear_that_a_pool_may_be_taken_back_too",
    ),
}

#: Container engines, hidden from the tests.
HIDDEN = ("docker", "podman")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="all by default")
    chosen = parser.parse_args().names or list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory() as folder:
        results = run({node for name in chosen for node in FAULTS[name]}, Path(folder))
    back = {}
    for name in chosen:
        wrong = {node: why for node in FAULTS[name] if (why := verdict(node, results)) != "passed"}
        if wrong:
            back[name] = wrong
        machine.say(f"{'back' if wrong else 'gone'}: {name}")
    tests = sum(len(FAULTS[name]) for name in chosen)
    machine.report(float(len(back)), {"faults": len(chosen), "tests": tests, "back": back})
    return 1 if back else 0


def run(nodes: set[str], folder: Path) -> dict[str, str]:
    """Run tests and return what became of each case, by its node id."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    command += [
        f"--basetemp={folder / 'pytest'}",
        f"--junit-xml={report}",
        "-o",
        "junit_family=xunit1",
    ]
    subprocess.run(
        [*command, *sorted(nodes)],
        cwd=machine.ROOT,
        env=os.environ | {"PATH": path_without_engines(folder / "bin")},
        stdout=sys.stderr,
        check=False,
    )
    if not report.exists():
        return {}
    return {
        f"{case.get('file')}::{case.get('name')}": next(
            (each.tag for each in case if each.tag in ("failure", "error", "skipped")), "passed"
        )
        for case in ElementTree.parse(report).iter("testcase")
    }


def verdict(node: str, results: dict[str, str]) -> str:
    """Return `passed` if all cases of a test passed, else what became of the first other one."""
    cases = [
        result
        for case, result in results.items()
        if case == node or case.startswith((f"{node}[", f"{node}::"))
    ]
    return next((each for each in cases if each != "passed"), "passed") if cases else "not found"


def path_without_engines(folder: Path) -> str:
    """Return a search path on which every program is found but container engines."""
    folder.mkdir()
    kept = []
    for entry in os.environ["PATH"].split(os.pathsep):
        if any(shutil.which(name, path=entry) for name in HIDDEN):
            for program in Path(entry).iterdir():
                link = folder / program.name
                if program.name not in HIDDEN and not link.exists():
                    link.symlink_to(program)
        else:
            kept.append(entry)
    return os.pathsep.join([*kept, str(folder)])


if __name__ == "__main__":
    sys.exit(main())
