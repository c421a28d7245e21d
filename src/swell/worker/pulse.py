"""A worker that lives says so in a file, since it never listens: for `swell health`.

The file is replaced whole, so that who reads it never sees half of it.
"""

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.clock import Clock

__all__ = ["BEAT_S", "STALE_S", "Pulse", "keep_pulse", "read_pulse"]

#: The file is written so often, in seconds.
BEAT_S: Final = 5.0

#: A worker whose file is older hangs or is gone, in seconds: its loop has missed several beats.
STALE_S: Final = 30.0


class Pulse(msgspec.Struct, frozen=True):
    """What the file says.

    Args:
        pid: The worker's process.
        state: `starting` until its models are begun, then `working`.
        at_s: When, on the machine's monotonic clock, which no change of the time moves.
    """

    pid: int
    state: str
    at_s: float


async def keep_pulse(path: Path, clock: Clock, state: Callable[[], str]) -> None:
    """Write the file again and again, until cancelled; then it is removed.

    Args:
        path: Where.
        clock: For its time and the waits.
        state: Tells what the worker does.
    """
    has_told = False
    try:
        while True:
            try:
                _write(path, Pulse(os.getpid(), state(), clock.monotonic_s()))
            except OSError as error:
                # A worker that works is no worse for it.
                if not has_told:
                    _log().error(
                        "the health file cannot be written", file=str(path), why=str(error)
                    )
                has_told = True
            await clock.sleep(BEAT_S)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_pulse(path: Path) -> Pulse | None:
    """Return what a worker said last; None where none says anything."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pulse)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, pulse: Pulse) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(pulse))
    fresh.replace(path)


def _log() -> Any:
    # Imported when it is needed: a model process is to be asked for before that.
    return importlib.import_module("structlog").get_logger("swell.worker")
