"""Processes that may use a part of a core only, by a control group of Linux each. Needs root."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

#: How often the kernel gives a group its share, in microseconds: short, as on a slow core.
PERIOD_US = 5_000
_ROOT = Path("/sys/fs/cgroup")
_PATIENCE_S = 5.0


@contextlib.contextmanager
def held(pid: int, cores: float) -> Iterator[None]:
    """Lets a process and what it starts use `cores` of processor time per second, meanwhile.

    Raises:
      RuntimeError: where this machine has no control groups for the processor, or not for us.
    """
    quota_us = round(cores * PERIOD_US)
    is_unified = (_ROOT / "cgroup.controllers").exists()
    home = _ROOT if is_unified else _ROOT / "cpu"
    group = home / f"swell-bench-{os.getpid()}-{pid}"
    try:
        group.mkdir()
        if is_unified:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise RuntimeError(f"processes cannot be held to a part of a core here: {error}") from error
    try:
        yield
    finally:
        _let_go(group, home)


def _let_go(group: Path, home: Path) -> None:
    """Moves what is left of a group back and removes it."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (home / "cgroup.procs").write_text(pid)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
