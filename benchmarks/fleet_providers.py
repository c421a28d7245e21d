"""Do all providers keep to their contract, whatever happens to what they launch?

    python benchmarks/fleet_providers.py

Runs the suite of `tests/conformance/provider.py` and each adapter's own tests: processes and, where
this machine can run some, containers; Amazon EC2 by moto with its bad days before it, Kubernetes by
kmock, Google Compute Engine and Azure by servers on loopback, SkyPilot by a program that takes its
words; start-up scripts of machines in a real shell; and manifests against the schemas of Kubernetes
and KEDA. What is injected: refusals, quotas, fewer than were wanted, throttling, lost answers,
lists that are late or in pages, machines that end behind our back, tokens that are taken back.

The last line is one JSON object whose value is the number of tests that did not pass. A test that
was skipped is no violation, but nothing is ok then: its reason is told.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import xml.etree.ElementTree as Et
from collections import Counter
from pathlib import Path
from typing import Any

import machine

TESTS = (
    "tests/conformance/test_provider.py",
    "tests/conformance/test_provider_aws.py",
    "tests/conformance/test_provider_azure.py",
    "tests/conformance/test_provider_gcp.py",
    "tests/conformance/test_provider_kubernetes.py",
    "tests/conformance/test_provider_skypilot.py",
    "tests/containers/test_launched.py",
    "tests/integration/test_kubernetes_manifests.py",
    "tests/unit/test_cloud_init.py",
    "tests/unit/test_container_provider.py",
    "tests/unit/test_external_pools.py",
    "tests/unit/test_kubeconfig.py",
    "tests/unit/test_provider_factory.py",
    "tests/unit/test_provider_marks.py",
    "tests/unit/test_provider_secrets.py",
    "tests/docs/test_providers.py",
)
LEAST = 300


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with machine.folder("providers") as folder:
        report = folder / "report.xml"
        code = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("--basetemp", folder / "t", "--junitxml", report, *TESTS),
            ],
            cwd=machine.ROOT,
            stdout=sys.stderr,
            check=False,
        ).returncode
        detail = counted(report)
    violations = len(detail["wrong"])
    is_ok = code in (0, 1) and detail["passed"] >= LEAST and not detail["skipped"]
    machine.report(float(violations), detail, ok=is_ok and not violations)
    return 0 if is_ok and not violations else 1


def counted(report: Path) -> dict[str, Any]:
    """Count what a report of pytest has."""
    by_file: Counter[str] = Counter()
    wrong, skipped = [], Counter[str]()
    for case in Et.parse(report).getroot().iter("testcase"):
        place = case.get("classname", "").split(".")
        name = next((part for part in place if part.startswith("test_")), "?")
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            wrong.append(f"{name}: {case.get('name')}: {(bad.get('message') or '')[:200]}")
        elif skip is not None:
            skipped[f"{name}: {(skip.get('message') or '')[:200]}"] += 1
        else:
            by_file[name.removeprefix("test_")] += 1
    return {
        "passed": sum(by_file.values()),
        "by_part": dict(sorted(by_file.items())),
        "wrong": wrong[:50],
        "skipped": dict(skipped),
    }


if __name__ == "__main__":
    sys.exit(main())
