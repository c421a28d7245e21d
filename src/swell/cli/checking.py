"""`swell models check`: each model in a process of its own, which may hang or die.

What happens in the process is in `swell.worker.examine`.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from swell.cli.output import CommandFailed
from swell.cli.outputs import misfit
from swell.clock import Clock
from swell.errors import NotFound
from swell.media import Attachment, Audio, File, Image, Video
from swell.model import InvalidModel
from swell.worker.examine import PROBE
from swell.worker.run import Home, describe_exit

__all__ = ["Terms", "check"]

#: How long a process that has been told to end may take to do so, in seconds.
_GRACE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How models are checked."""

    #: What they are loaded on.
    device: str
    #: How long each may take, its import included, in seconds.
    limit_s: float
    #: How long a look at what it lacks may take of that, in seconds; 0 for none.
    probe_s: float
    #: Which Python they run in.
    home: Home


def check(ref: str, terms: Terms, clock: Clock) -> list[dict[str, Any]]:
    """Check every model that `ref` names.

    What is wrong with one is in its report under `error`, and what it lacks under `hints`.

    Args:
        ref: A file, a module, or a built-in model.
        terms: Where, and for how long.
        clock: Tells whether it took longer.

    Raises:
        NotFound: There is no such file, module or model.
        InvalidModel: It cannot be imported.
    """
    reports: list[dict[str, Any]] = []
    names = [ref]
    while len(reports) < len(names):
        told = _run(ref, len(reports), terms, clock)
        if "refused" in told:
            kinds = {kind.code: kind for kind in (NotFound, InvalidModel)}
            raise kinds.get(told["refused"], CommandFailed)(told["detail"])
        if "models" not in told:
            raise InvalidModel(f"importing {ref} failed: {told['died']}")
        names = told["models"]
        report = {"model": names[len(reports)], "version": None, "error": None, "hints": []}
        report |= told["report"]
        if "died" in told and told["stage"] == PROBE and told["is_late"]:
            report["not_looked_at"] = ["whatever would take longer"]
        elif "died" in told:
            trying = f", while it tried {told['trying']}" if "trying" in told else ""
            report["error"] = {"stage": told["stage"], "detail": told["died"] + trying}
        report["error"] = _misfit(told) or report["error"]
        if "kept" in told and not report["error"]:
            report["kept"] = told["kept"]
        reports.append(report)
    return reports


def _run(ref: str, index: int, terms: Terms, clock: Clock) -> dict[str, Any]:
    """Check one model, and return all that its process told, and how it died if it did."""
    limit_s = terms.limit_s
    command = [terms.home.python, "-m", "swell.worker.examine"]
    with tempfile.TemporaryFile() as file:
        arguments = [str(file.fileno()), ref, str(index), terms.device, str(limit_s)]
        arguments.append(str(terms.probe_s))
        started_s = clock.monotonic_s()
        process = subprocess.Popen(
            command + arguments,
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=terms.home.variables,
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
        told["is_late"] = took_s >= limit_s
        if told["is_late"]:
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
