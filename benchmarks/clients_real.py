"""Do the clients of Replicate, OpenAI, fal and LibreTranslate work unmodified against Swell?

    python benchmarks/clients_real.py

Runs tests/clients: each client as it is published, in an environment with nothing of ours in it,
against a `swell up` over TLS on this machine. Pictures and texts are made, uploaded, edited,
streamed, waited for, canceled, refused and asked for again after lost answers, and webhooks are
verified as the clients' users do.

The last line is one JSON object whose value is the number of tests that did not pass; `packages`
has the versions that were driven. A test that was skipped is no violation, but nothing is ok then:
its reason is told.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys

import machine
from fleet_providers import counted

TESTS = "tests/clients"
LEAST = 70

#: Packages that are clients; the others are what these need.
PYTHON = ("replicate", "openai", "fal_client", "libretranslatepy")


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with machine.folder("clients") as folder:
        report = folder / "report.xml"
        code = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("--basetemp", folder / "t", "--junitxml", report, TESTS),
            ],
            cwd=machine.ROOT,
            stdout=sys.stderr,
            check=False,
        ).returncode
        detail = counted(report)
    detail["packages"] = packages()
    violations = len(detail["wrong"])
    is_ok = code in (0, 1) and detail["passed"] >= LEAST and not detail["skipped"]
    machine.report(float(violations), detail, ok=is_ok and not violations)
    return 0 if is_ok and not violations else 1


def packages() -> dict[str, list[str]]:
    """Return the versions that tests/clients pins, and so installs, by language."""
    home = machine.ROOT / TESTS
    lines = [
        line
        for each in sorted(home.glob("requirements/*.txt"))
        for line in each.open(encoding="utf-8")
    ]
    pinned = [re.fullmatch(r"([\w.-]+)==(\S+)", line.strip()) for line in lines]
    named = json.loads((home / "node" / "package.json").read_text("utf-8"))["dependencies"]
    return {
        "python": [each[0] for each in pinned if each and each[1] in PYTHON],
        "npm": [f"{name}@{version}" for name, version in named.items()],
    }


if __name__ == "__main__":
    sys.exit(main())
