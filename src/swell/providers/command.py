"""Commands that providers ask: bounded in time, and none is left behind by whoever gives up."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from swell.core.errors import Unavailable
from swell.settings.environment import process_environment

#: What was killed is gone within so long, in seconds, or is left to the kernel.
_GONE_S: Final = 1.0


def environment_or_ours(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return what commands get: as it was given, or that of this process without its settings."""
    if environment is not None:
        return dict(environment)
    return process_environment(without_settings=True)


class Ran(msgspec.Struct, frozen=True):
    """What came of a command."""

    code: int
    out: str
    #: What it said besides, on its standard error.
    said: str


async def run(
    *words: str,
    environment: Mapping[str, str],
    patience_s: float | None = None,
    goes_on: bool = False,
) -> Ran:
    """Run a command, and return what came of it.

    A Ctrl-C in the terminal is not for it: what it began would be half done.

    Args:
        words: The program and its arguments.
        environment: All of its variables.
        patience_s: It hangs if it takes longer, in seconds; None to wait as long as it takes.
        goes_on: Whether it is left to itself when nobody waits any more, instead of being killed.

    Raises:
        Unavailable: It cannot be run, or hangs.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"cannot run {words[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(patience_s):
            out, said = await process.communicate()
    except TimeoutError as error:
        told = " ".join((Path(words[0]).name, *words[1:2]))
        raise Unavailable(f"{told} does not answer within {patience_s:g} s") from error
    finally:
        if process.returncode is None and not goes_on:
            await _kill(process)
    return Ran(process.returncode or 0, out.decode(errors="replace"), said.decode(errors="replace"))


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a command with all that it has started: it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_S):
            await process.communicate()
