"""Redirects the output of models to stderr, so that stdout holds only the command's data."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stdout_for_data() -> Iterator[None]:
    """Redirect stdout to stderr while the block runs.

    The file descriptor is redirected, so output of C code and child processes is included.
    """
    python = sys.stdout
    python.flush()
    try:
        kept = os.dup(1)
    except OSError:
        # stdout is closed.
        yield
        return
    try:
        _turn_to_stderr()
        yield
    finally:
        # Flush buffered output of the block to stderr before stdout is restored.
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
        # stderr is closed too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
