"""The liveness file of a worker, for `swell health`: workers have no port.

The file has a fixed length and is written in place, so a full disk does not matter.
"""

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.clock import Clock

#: Time between two writes, in seconds.
BEAT_S: Final = 5.0

#: Age of the file of a worker that hangs or has ended, in seconds.
STALE_S: Final = 30.0

#: Length of the file, padded with spaces.
_SIZE_BYTES: Final = 128


class Pulse(msgspec.Struct, frozen=True):
    """Content of the file.

    Args:
        pid: The worker's process.
        state: `starting` until its model process runs, then `working`, and `draining` at its end.
        at_s: Time of the write, by the machine's monotonic clock.
    """

    pid: int
    state: str
    at_s: float


async def keep_pulse(path: Path, clock: Clock, state: Callable[[], str]) -> None:
    """Write the file periodically; remove it when cancelled.

    Args:
        path: The file.
        clock: The time.
        state: Returns the state of the worker.
    """
    has_told = False
    try:
        while True:
            try:
                _write(path, Pulse(os.getpid(), state(), clock.monotonic_s()))
            except OSError as error:
                # The worker itself is all right.
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
    """Return the last content; None if there is no valid file."""
    try:
        said = path.read_bytes()
        # It may be read during a write.
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
    # Imported late, so that the model process can be started first.
    return importlib.import_module("structlog").get_logger("swell.worker")
