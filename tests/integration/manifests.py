"""What deploy/ becomes in a cluster: kustomize and Helm themselves say, and nobody else."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["CHART", "KUSTOMIZE", "HelmRefused", "Manifest", "charted", "kustomized", "linted"]

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "swell"
HELM = ROOT / ".venv" / "helm"

Manifest = dict[str, Any]

#: Renders or lints a chart, in a process of its own: the library is Go's, and stays once loaded.
_ASK = """
import json, sys
path, work, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
from helm_python.chart import Chart, lint
if work == "lint":
    print(json.dumps(lint(path, values, strict=True)))
else:
    with Chart.load(path) as chart:
        print(json.dumps(chart.render(values, name="shop", namespace="art", is_install=True)))
"""


class HelmRefused(Exception):
    """Helm takes no such values."""


@functools.cache
def kustomized(path: Path) -> tuple[Manifest, ...]:
    """Return what `kustomize build` makes of a folder."""
    if shutil.which("kustomize") is None:
        _missing("kustomize is missing: apt-get install kustomize")
    done = subprocess.run(["kustomize", "build", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return _documents(done.stdout)


def charted(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what Helm makes of the chart: manifests, and NOTES.txt by this name."""
    rendered = _helm("render", json.dumps(values or {}))
    notes = [text for name, text in rendered.items() if name.endswith("NOTES.txt")]
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    made = tuple(each for text in texts for each in _documents(text))
    return {"manifests": made, "notes": "".join(notes)}


def linted(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what `helm lint --strict` finds."""
    return _helm("lint", json.dumps(values or {}))


@functools.cache
def _helm(work: str, values: str) -> dict[str, Any]:
    if not (HELM / "helm_python").exists():
        _missing("Helm's SDK is missing: .ci/services installs it")
    done = subprocess.run(
        [sys.executable, "-c", _ASK, CHART, work, values],
        env=os.environ | {"PYTHONPATH": str(HELM)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HelmRefused(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _documents(text: str) -> tuple[Manifest, ...]:
    return tuple(each for each in yaml.safe_load_all(text) if each)


def _missing(why: str) -> None:
    pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
