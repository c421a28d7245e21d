"""Loads models in a separate process, because their code may do anything, and describes them.

The process runs in the models' environment and imports only modules that a model process imports.
Models without a separate environment are loaded in a fork, which starts with most modules imported
and runs while the build imports the rest.
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
    """Entry point: `python -m swell.containers.look REF`; writes one line of JSON."""
    out, sys.stdout = sys.stdout, sys.stderr
    out.write(json.dumps(_told(sys.argv[1])) + "\n")


class Fork:
    """A forked child that loads models while the parent continues.

    Args:
        ref: Reference for `load_models`.
    """

    def __init__(self, ref: str) -> None:
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns about numpy's threads, but numpy supports forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = os.fork()
        if self._child == 0:
            os.close(self._read)
            _tell_and_end(ref, write)
        os.close(write)

    def said(self, limit_s: float) -> str:
        """Return the JSON that the child writes; empty or incomplete if it died.

        Args:
            limit_s: Longest time without output, in seconds.

        Raises:
            TimeoutError: The child wrote nothing for longer.
        """
        said = b""
        while select.select([self._read], [], [], limit_s)[0]:
            if not (chunk := os.read(self._read, 65536)):
                return said.decode()
            said += chunk
        raise TimeoutError

    def end(self) -> None:
        """Kill the child. Idempotent."""
        if self._child:
            os.close(self._read)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


@contextlib.contextmanager
def looking(refs: Sequence[str], *, is_own: bool) -> Iterator[Mapping[str, Fork]]:
    """Load models in forks while the block runs; yield reference → fork.

    Args:
        refs: References for `load_models`.
        is_own: Whether the models have a separate environment; a fork would use the wrong one.
    """
    forks = {} if is_own else {ref: Fork(ref) for ref in dict.fromkeys(refs)}
    try:
        yield forks
    finally:
        for fork in forks.values():
            fork.end()


def _tell_and_end(ref: str, write: int) -> None:
    """Write the description and exit, so that the child never continues the parent's command."""
    code = 1
    # Imported modules stay in memory, so collecting garbage would only cost time.
    gc.disable()
    try:
        os.dup2(2, 1)
        with os.fdopen(write, "wb") as out:
            out.write(json.dumps(_told(ref)).encode())
        code = 0
    finally:
        os._exit(code)


def _told(ref: str) -> list[dict[str, Any]] | dict[str, str]:
    # Imported here so that the fork imports it, while the parent continues.
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
        # For example from argparse, which would parse the arguments of `swell build`.
        return {
            "refused": InvalidModel.code,
            "detail": f"importing {ref} exits the process (exit code {end.code!r}), as a "
            'script does: move its script part below if __name__ == "__main__":',
        }


if __name__ == "__main__":
    main()
