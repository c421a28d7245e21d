"""Runs a figure's script with the Python that has torch and diffusers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

from machine import ROOT


def run(measure: Callable[[], None]) -> int:
    """Measure in `.venv-torch`, which is made on first use; return the exit code.

    The script calls this from `__main__`, and again in the other Python.
    """
    script = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=(script.__doc__ or "").partition("\n")[0])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().inside:
        measure()
        return 0
    subprocess.run([ROOT / ".ci" / "venv", "torch"], check=True)
    python = ROOT / ".venv-torch" / "bin" / "python"
    variables = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [python, str(script.__file__), "--inside"]
    return subprocess.run(command, env=variables, check=False).returncode
