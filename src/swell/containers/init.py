"""The first process of a container: it starts the worker, passes signals on, and buries orphans.

The kernel gives the first process every orphan of the container, and keeps signals from it that it
does not handle. A worker is neither made for the one nor always ready for the other: a model
process whose parent was killed would stay as a zombie, and a SIGTERM that comes while Python still
imports would be lost.

The worker has a process group of its own, and a terminal's foreground where there is one: what a
terminal sends to all of a group, such as SIGINT for Ctrl-C, then comes to the worker once, and not
again from here.

It notes when the container began, imports little, and ends as the worker ends.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

#: Passed on as they come.
_PASSED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

#: Tells the worker when its container began, in seconds since the machine was booted.
_BEGAN: Final = "SWELL_WORKER__BEGAN_BOOT_S"


def run(command: Sequence[str]) -> int:
    """Run a command until it ends, and return the code to end with: 128 and more after a signal."""
    with contextlib.suppress(OSError, AttributeError):
        # Nobody sets this clock, and the worker has the same.
        began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.environ[_BEGAN] = f"{began_s:.6f}"  # noqa: TID251 - of the process to come
    # What comes before there is somebody to pass it to waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
    child = os.fork()
    if child == 0:
        _take_the_foreground()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED)
        try:
            os.execvp(command[0], list(command))
        except OSError as error:
            print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(127)
    for number in _PASSED:
        signal.signal(number, lambda number, _: _pass(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _take_the_foreground() -> None:
    """Give this process a group of its own, which the terminal that it reads from sends signals to.

    Source: POSIX.1-2024, tcsetpgrp: who is not in the foreground gets SIGTTOU for it.
    """
    os.setpgid(0, 0)
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # No terminal, or not the one of this session.
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)


def _pass(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def main() -> None:
    """Entry point: `python -m swell.containers.init COMMAND…`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
