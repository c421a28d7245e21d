"""Where a number was measured: the machine, the commit, and the quiet it asked for."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
RESULTS = ROOT / "benchmarks" / "results"
# Long jobs on the same machine may pause while this file is there.
QUIET = Path(tempfile.gettempdir()) / "swell-measure"


def describe() -> dict[str, Any]:
    """The machine that ran this, in the words that a reader needs to compare numbers."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "ram_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit measured; `+` marks sources that differ from it."""
    sources = ("src", "benchmarks", ":!benchmarks/results")
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--", *sources) else "")


def report(value: float | None, detail: dict[str, Any], ok: bool = True) -> None:
    """Prints a script's one line of JSON: the value, how it came about, and where."""
    line = {
        "value": None if value is None else round(value, 4),
        "ok": ok,
        "detail": detail,
        "machine": describe(),
        "commit": commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    print(json.dumps(line), flush=True)


def say(text: str) -> None:
    """Progress goes to stderr: stdout ends with the JSON."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Asks other jobs on this machine to pause while numbers are taken."""
    QUIET.touch()
    time.sleep(1.0)
    try:
        yield
    finally:
        QUIET.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """A fresh folder on the repository's own disk, so that fsync costs every system the same."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=BENCH))
    # PostgreSQL refuses to run as root, and its own user must get to its folder.
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() or ("none" if ran.returncode else "")
