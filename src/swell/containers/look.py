"""What models say of themselves, in a process of its own: their code may do anything.

It runs in the environment of the models, and imports nothing that a model process does not import.
Models that run in Swell's own are looked at in a fork, which has all of that imported.
"""

import contextlib
import json
import os
import select
import signal
import sys
import warnings
from typing import Any

from swell.errors import SwellError
from swell.model import load_models

__all__ = ["look_in_fork", "main"]


def main() -> None:
    """Entry point: `python -m swell.containers.look REF`; tells one line of JSON."""
    out, sys.stdout = sys.stdout, sys.stderr
    out.write(json.dumps(_told(sys.argv[1])) + "\n")


def look_in_fork(ref: str, limit_s: float) -> str:
    """Return what `main` would write; nothing where the process died.

    Args:
        ref: As `load_models` takes it.
        limit_s: How long that may take.

    Raises:
        TimeoutError: It took longer.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Threads of numpy's are no hindrance: it knows of forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(read)
        _tell_and_end(ref, write)
    os.close(write)
    try:
        with os.fdopen(read, "rb", buffering=0) as answer:
            said = b""
            while select.select([answer], [], [], limit_s)[0]:
                if not (chunk := answer.read(65536)):
                    return said.decode()
                said += chunk
        raise TimeoutError
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _tell_and_end(ref: str, write: int) -> None:
    """Look, tell, and never return: nothing of the command is done twice."""
    code = 1
    try:
        os.dup2(2, 1)
        with os.fdopen(write, "wb") as out:
            out.write(json.dumps(_told(ref)).encode())
        code = 0
    finally:
        os._exit(code)


def _told(ref: str) -> list[dict[str, Any]] | dict[str, str]:
    try:
        return [
            {
                "name": each.name,
                "version": each.version(),
                "files": [str(path) for path in each.files],
                "samples": [str(path) for path in each.samples.values()],
            }
            for each in load_models(ref)
        ]
    except SwellError as error:
        return {"refused": error.code, "detail": error.detail}


if __name__ == "__main__":
    main()
