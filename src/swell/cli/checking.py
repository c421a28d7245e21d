"""`swell models check`: each model in a process of its own, which may hang or die.

What happens in the process is in `swell.worker.examine`.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from typing import Any, BinaryIO, Final

from swell.cli.output import CommandFailed
from swell.cli.outputs import misfit
from swell.clock import Clock
from swell.errors import NotFound
from swell.media import Attachment, Audio, File, Image, Video
from swell.model import InvalidModel
from swell.worker.run import Home, describe_exit

__all__ = ["check"]

#: How long a process that has been told to end may take to do so, in seconds.
_GRACE_S: Final = 3.0


def check(ref: str, device: str, limit_s: float, clock: Clock, home: Home) -> list[dict[str, Any]]:
    """Check every model that `ref` names; what is wrong with one is in its report, under `error`.

    Args:
        ref: A file, a module, or a built-in model.
        device: What to load them on.
        limit_s: How long each may take, its import included.
        clock: Tells whether it took longer.
        home: Which Python they run in.

    Raises:
        NotFound: There is no such file, module or model.
        InvalidModel: It cannot be imported.
    """
    reports: list[dict[str, Any]] = []
    names = [ref]
    while len(reports) < len(names):
        told = _run(ref, len(reports), device, limit_s, clock, home)
        if "refused" in told:
            kinds = {kind.code: kind for kind in (NotFound, InvalidModel)}
            raise kinds.get(told["refused"], CommandFailed)(told["detail"])
        if "models" not in told:
            raise InvalidModel(f"importing {ref} failed: {told['died']}")
        names = told["models"]
        report = {"model": names[len(reports)], "version": None, "error": None} | told["report"]
        if "died" in told:
            report["error"] = {"stage": told["stage"], "detail": told["died"]}
        report["error"] = _misfit(told) or report["error"]
        reports.append(report)
    return reports


def _run(
    ref: str, index: int, device: str, limit_s: float, clock: Clock, home: Home
) -> dict[str, Any]:
    """Check one model, and return all that its process told, and how it died if it did."""
    command = [home.python, "-m", "swell.worker.examine"]
    with tempfile.TemporaryFile() as file:
        arguments = [str(file.fileno()), ref, str(index), device, str(limit_s)]
        started_s = clock.monotonic_s()
        process = subprocess.Popen(
            command + arguments,
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=home.variables,
            pass_fds=[file.fileno()],
            # What it starts ends with it.
            start_new_session=True,
        )
        try:
            process.wait(limit_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        took_s = clock.monotonic_s() - started_s
        told = _read(file)
    if not told.get("is_done"):
        told["died"] = f"the process {describe_exit(code)}"
        if took_s >= limit_s:
            told["died"] = (
                f"it was not done after {limit_s:g} s: see above where it stood, or allow more "
                "with --limit-s"
            )
    return told


def _read(file: BinaryIO) -> dict[str, Any]:
    told: dict[str, Any] = {"report": {}}
    file.seek(0)
    for line in file:
        with contextlib.suppress(ValueError):  # it died while it wrote
            each = json.loads(line)
            told["report"] |= each.pop("report", {})
            told |= each
    return told


def _misfit(told: dict[str, Any]) -> dict[str, str] | None:
    """Return the error of a model that does not return what it promises; None if it does."""
    kinds: dict[str, type[Attachment]] = {
        each.__name__: each for each in (Image, Audio, Video, File)
    }
    for stage, results in told.get("returned", {}).items():
        for result in results:
            files = [kinds.get(kind, File)(b"") for kind in result["kinds"]]
            why = misfit(result["output"], files, told["schema"])
            if why:
                detail = f"the result is not what the model says that it returns: {why}"
                return {"stage": stage, "detail": detail}
    return None
