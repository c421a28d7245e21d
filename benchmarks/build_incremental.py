"""How long does an image take after a change of the model's code, over the first one?

`swell build` makes an image of a model of one's own that uses numpy, ONNX Runtime and Pillow. The
first build begins with a base image that no layer was made of, and with an empty cache of pip; the
base's own making is left out. Then the model's code is changed, round after round, and once Swell's
own: the wheel that goes into the image is of a copy of its source with one line more.

Value: median of the rebuilds after a change of the model's code, over the first build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, quiet, report, say

sys.path.insert(0, str(ROOT / "tests" / "containers"))

from container_rig import BASE, build_options, podman, why_not

TAG = "localhost/swell-bench-incremental:latest"
FRESH = "localhost/swell-bench-base:latest"
ROUNDS = 5

MODEL = '''
import numpy
import onnxruntime
import PIL.Image

import swell

from colours import RED


@swell.model("bench/poster")
def poster(text: str) -> str:
    """Says what it would draw."""
    return f"{text} {RED} {numpy.zeros(1)[0]} {onnxruntime.__name__} {PIL.Image.__name__}"
'''


def fresh_base() -> None:
    """Give the base another identity, so that no layer of an earlier run fits it."""
    commit = ["buildah", "commit", "--quiet"]
    made = subprocess.run(["buildah", "from", BASE], capture_output=True, text=True, check=True)
    name = made.stdout.strip()
    label = f"made={time.time_ns()}"
    subprocess.run(["buildah", "config", "--label", label, name], check=True)
    subprocess.run([*commit, "--rm", name, FRESH], check=True, stdout=subprocess.DEVNULL)


def built_s(folder: Path, source: Path, temporary: Path, *options: str) -> float:
    """Build, and return how long that took, in seconds."""
    command = [sys.executable, "-m", "swell", "build", "poster.py", "--tag", TAG, "--json"]
    # Caches of buildah lie below the first, the code of Swell below the second.
    variables = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(source)}
    # Installed packages have bytecode, whatever this environment sets.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    begun_s = time.perf_counter()
    done = subprocess.run(
        [*command, *build_options(FRESH), *options],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    took_s = time.perf_counter() - begun_s
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return took_s


def measure(folder: Path, rounds: int) -> dict[str, object]:
    source, temporary, models = folder / "source", folder / "temporary", folder / "models"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    temporary.mkdir()
    models.mkdir()
    (models / "poster.py").write_text(MODEL)
    (models / "colours.py").write_text("RED = 0\n")
    # Python compiles what the command imports.
    built_s(models, source, temporary, "--context", str(folder / "context"))
    fresh_base()
    first_s = built_s(models, source, temporary)
    say(f"first {first_s:.1f} s")
    again = []
    for number in range(1, rounds + 1):
        (models / "colours.py").write_text(f"RED = {number}\n")
        again.append(built_s(models, source, temporary))
        say(f"the model's code changed: {again[-1]:.1f} s")
    unchanged_s = built_s(models, source, temporary)
    with (source / "swell" / "core" / "clock.py").open("a") as file:
        file.write("\n# One line more.\n")
    swell_s = built_s(models, source, temporary)
    say(f"nothing changed: {unchanged_s:.1f} s; Swell's own code: {swell_s:.1f} s")
    return {
        "first_s": round(first_s, 2),
        "model_changed_s": [round(each, 2) for each in again],
        "nothing_changed_s": round(unchanged_s, 2),
        "swell_changed_s": round(swell_s, 2),
        "swell_changed_over_first": round(swell_s / first_s, 3),
    }


def main() -> None:
    """Build again and again; report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    if why := why_not():
        report(None, {"error": why}, ok=False)
        return
    with tempfile.TemporaryDirectory(prefix="swell-incremental-") as folder, quiet():
        told = measure(Path(folder), rounds)
    changed = told["model_changed_s"]
    assert isinstance(changed, list)
    podman("rmi", "--force", TAG, FRESH)
    report(statistics.median(changed) / float(str(told["first_s"])), told)


if __name__ == "__main__":
    main()
