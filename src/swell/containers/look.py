"""What models say of themselves, in a process of its own: their code may do anything.

It runs in the environment of the models, and imports nothing that a model process does not import.
Models that run in Swell's own are looked at in a fork, which has much of that imported, and begins
before the rest of a build is imported.
"""

import contextlib
import gc
import json
import os
import select
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swell.core.errors import InvalidModel, SwellError


def main() -> None:
    """Entry point: `python -m swell.containers.look REF`; tells one line of JSON."""
    out, sys.stdout = sys.stdout, sys.stderr
    out.write(json.dumps(_told(sys.argv[1])) + "\n")


class Fork:
    """Begins to look at once, beside whoever goes on.

    Args:
        ref: As `load_models` takes it.
    """

    def __init__(self, ref: str) -> None:
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            # Threads of numpy's are no hindrance: it knows of forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = os.fork()
        if self._child == 0:
            os.close(self._read)
            _tell_and_end(ref, write)
        os.close(write)

    def said(self, limit_s: float) -> str:
        """Return what `main` would write; nothing where the process died.

        Args:
            limit_s: How long silence may last.

        Raises:
            TimeoutError: It lasted longer.
        """
        said = b""
        while select.select([self._read], [], [], limit_s)[0]:
            if not (chunk := os.read(self._read, 65536)):
                return said.decode()
            said += chunk
        raise TimeoutError

    def end(self) -> None:
        """End it. Idempotent."""
        if self._child:
            os.close(self._read)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


@contextlib.contextmanager
def looking(refs: Sequence[str], *, is_own: bool) -> Iterator[Mapping[str, Fork]]:
    """Have models looked at beside what comes in the block; give the forks by reference.

    Args:
        refs: As `load_models` takes them.
        is_own: Whether they run in an environment of their own, where a fork would be wrong.
    """
    forks = {} if is_own else {ref: Fork(ref) for ref in dict.fromkeys(refs)}
    try:
        yield forks
    finally:
        for fork in forks.values():
            fork.end()


def _tell_and_end(ref: str, write: int) -> None:
    """Look, tell, and never return: nothing of the command is done twice."""
    code = 1
    # What a model imports stays: looking for garbage in it is lost time.
    gc.disable()
    try:
        os.dup2(2, 1)
        with os.fdopen(write, "wb") as out:
            out.write(json.dumps(_told(ref)).encode())
        code = 0
    finally:
        os._exit(code)


def _told(ref: str) -> list[dict[str, Any]] | dict[str, str]:
    # A fork imports this itself, beside whoever began it.
    from swell.sdk.model_loader import load_models  # noqa: PLC0415

    try:
        return [
            {
                "name": each.name,
                "version": each.version(),
                "files": [str(path) for path in each.files],
                "samples": [str(path) for path in each.samples.values()],
                "source": str(each.source or ""),
            }
            for each in load_models(ref)
        ]
    except SwellError as error:
        return {"refused": error.code, "detail": error.detail}
    except SystemExit as end:
        # As of argparse, which has read the words of another command.
        return {
            "refused": InvalidModel.code,
            "detail": f"importing {ref} exits the process (exit code {end.code!r}), as a "
            'script does: move its script part below if __name__ == "__main__":',
        }


if __name__ == "__main__":
    main()
