"""Blocks of pages, and processes that run them as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

from commandline import PATIENCE_S, clean_environment

__all__ = ["ROOT", "block", "ran"]

ROOT = Path(__file__).resolve().parents[2]


def block(page: str, holding: str, language: str = "python") -> str:
    """Return the block of a page, named from the root, that has these words in it."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    [found] = [each for each in blocks if holding in each]
    return found


def ran(script: str, folder: Path, patience_s: float = PATIENCE_S) -> str:
    """Run a script in a folder and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
