"""The first process of a container: it starts the worker, forwards signals and reaps orphans.

The kernel makes this process the parent of every orphan, and drops signals that it does not handle.
If the worker were the first process, orphaned model processes would stay zombies, and a SIGTERM
that arrives while Python imports modules would be lost.

The worker has a separate process group in the terminal's foreground. So Ctrl-C reaches the worker
once, from the terminal, and this process does not forward it a second time.

This process records when the container started, and exits with the worker's exit code.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

#: Forwarded to the worker.
_PASSED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

#: Setting for the worker: start of the container, in seconds since the machine's boot.
_BEGAN: Final = "SWELL_WORKER__BEGAN_BOOT_S"


def run(command: Sequence[str]) -> int:
    """Run a command until it ends, and return the exit code: 128 + N after signal N."""
    with contextlib.suppress(OSError, AttributeError):
        # This clock cannot be set, and the worker reads the same clock.
        began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.environ[_BEGAN] = f"{began_s:.6f}"  # noqa: TID251 - inherited by the worker
    # Signals wait until the worker exists.
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
    """Move this process to a new process group, and make it the terminal's foreground group.

    Source: POSIX.1-2024, tcsetpgrp: a caller in the background gets SIGTTOU.
    """
    os.setpgid(0, 0)
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # Fails without a terminal, or with the terminal of another session.
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
