"""What models print is talk: it goes to stderr, so that stdout holds our data alone."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stdout_for_data() -> Iterator[None]:
    """Send to stderr whatever is written to stdout while the block runs.

    Also what C code and child processes write, since it is the file descriptor that is turned.
    """
    python = sys.stdout
    python.flush()
    try:
        kept = os.dup(1)
    except OSError:
        # It is closed: there is nothing to keep clean.
        yield
        return
    try:
        _turn_to_stderr()
        yield
    finally:
        # Whatever is still in a buffer was written before our data.
        for stream in {sys.stdout, python}:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        ctypes.CDLL(None).fflush(None)
        sys.stdout = python
        os.dup2(kept, 1)
        os.close(kept)


def _turn_to_stderr() -> None:
    try:
        os.dup2(2, 1)
    except OSError:
        # No stderr either: nobody wants to hear it.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
