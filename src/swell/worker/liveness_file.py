"""A worker that lives says so in a file, since it never listens: for `swell health`.

The file keeps its length and is written in place: once it is there, no disk is too full for it.
"""

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.clock import Clock

#: The file is written so often, in seconds.
BEAT_S: Final = 5.0

#: A worker whose file is older hangs or is gone, in seconds: its loop has missed several beats.
STALE_S: Final = 30.0

#: How long the file is: what it says, and spaces.
_SIZE_BYTES: Final = 128


class Pulse(msgspec.Struct, frozen=True):
    """What the file says.

    Args:
        pid: The worker's process.
        state: `starting` until its models are begun, then `working`, and `draining` at its end.
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
        said = path.read_bytes()
        # It may have been read while it was written.
        while said != (again := path.read_bytes()):
            said = again
        return msgspec.json.decode(said, type=Pulse)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, pulse: Pulse) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(file, msgspec.json.encode(pulse).ljust(_SIZE_BYTES), 0)
        os.ftruncate(file, _SIZE_BYTES)
    finally:
        os.close(file)


def _log() -> Any:
    # Imported when it is needed: a model process is to be asked for before that.
    return importlib.import_module("structlog").get_logger("swell.worker")
