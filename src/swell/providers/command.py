"""Runs the command-line tools of providers, with a timeout."""

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

#: Wait for a killed command at most this long, in seconds.
_GONE_S: Final = 1.0


def environment_or_ours(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return the given environment, or that of this process without Swell's settings."""
    if environment is not None:
        return dict(environment)
    return process_environment(without_settings=True)


class Ran(msgspec.Struct, frozen=True):
    """Result of a command."""

    code: int
    out: str
    #: Standard error.
    said: str


async def run(
    *words: str,
    environment: Mapping[str, str],
    patience_s: float | None = None,
    goes_on: bool = False,
) -> Ran:
    """Run a command, and return its result.

    The command leads its own session, so that Ctrl-C in the terminal does not interrupt it.

    Args:
        words: The program and its arguments.
        environment: The complete environment.
        patience_s: Timeout in seconds; None for no limit.
        goes_on: Whether the command continues when the caller is cancelled or times out. By default
            it is killed.

    Raises:
        Unavailable: The command cannot be run, or times out.
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
    """Kill a command and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_S):
            await process.communicate()
