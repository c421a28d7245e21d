"""`swell models check`: checks each model in a separate process, which may hang or die.

`swell.runtime.model_check` runs in the process.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swell.cli.output import CommandFailed
from swell.cli.outputs import misfit
from swell.core.clock import Clock
from swell.core.errors import InvalidModel, NotFound
from swell.runtime.model_check import PROBE
from swell.runtime.model_process_client import describe_exit
from swell.runtime.venvs import Home
from swell.sdk.media import Attachment, Audio, File, Image, Video

#: Time to end after the limit, before the process is killed, in seconds.
_GRACE_S: Final = 3.0

#: Interval for reading the process's messages, in seconds.
_LISTEN_EVERY_S: Final = 0.2

#: Called with a model's name (None while unknown) and a description of the current stage.
Tell = Callable[[str | None, str], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """Options of a check."""

    #: Device of the models.
    device: str
    #: Time limit for each model, including its import, in seconds.
    limit_s: float
    #: Part of the limit for the hints, in seconds; 0 for no hints.
    probe_s: float
    #: The Python that runs the models.
    home: Home


def check(
    ref: str, terms: Terms, clock: Clock, tell: Tell = lambda name, doing: None
) -> list[dict[str, Any]]:
    """Check every model that `ref` names.

    A report has the model's failure under `error`, and suggestions under `hints`.

    Args:
        ref: A file, a module, or a built-in model.
        terms: Options of the check.
        clock: The time.
        tell: Called at the start of each long stage.

    Raises:
        NotFound: The file, module or model does not exist.
        InvalidModel: The model cannot be imported.
    """
    reports: list[dict[str, Any]] = []
    names = [ref]
    while len(reports) < len(names):
        told = _run(ref, len(reports), terms, clock, tell)
        if "refused" in told:
            kinds = {kind.code: kind for kind in (NotFound, InvalidModel)}
            raise kinds.get(told["refused"], CommandFailed)(told["detail"])
        if "models" not in told:
            raise InvalidModel(f"importing {ref} failed: {told['died']}")
        names = told["models"]
        report = {"model": names[len(reports)], "version": None, "error": None, "hints": []}
        report |= told["report"]
        if "died" in told and told["stage"] == PROBE and told["is_late"]:
            report["not_looked_at"] = ["everything that takes longer"]
        elif "died" in told:
            trying = f", while trying {told['trying']}" if "trying" in told else ""
            report["error"] = {"stage": told["stage"], "detail": told["died"] + trying}
        report["error"] = _misfit(told) or report["error"]
        if "kept" in told and not report["error"]:
            report["kept"] = told["kept"]
        reports.append(report)
    return reports


def _run(ref: str, index: int, terms: Terms, clock: Clock, tell: Tell) -> dict[str, Any]:
    """Check one model, and return its process's messages, with `died` if the process died."""
    limit_s = terms.limit_s
    command = [terms.home.python, "-m", "swell.runtime.model_check"]
    with tempfile.TemporaryFile() as file:
        arguments = [str(file.fileno()), ref, str(index), terms.device, str(limit_s)]
        arguments.append(str(terms.probe_s))
        heard = _Heard(file.fileno(), index, _doings(terms), tell)
        started_s = clock.monotonic_s()
        process = subprocess.Popen(
            command + arguments,
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=terms.home.variables,
            pass_fds=[file.fileno()],
            # A session, so that `killpg` below also kills its children.
            start_new_session=True,
        )
        try:
            while clock.monotonic_s() - started_s < limit_s + _GRACE_S:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LISTEN_EVERY_S)
                    break
                heard.listen()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        took_s = clock.monotonic_s() - started_s
        heard.listen()
    told = heard.told
    if not told.get("is_done"):
        told["died"] = f"the process {describe_exit(code)}"
        told["is_late"] = took_s >= limit_s
        if told["is_late"]:
            told["died"] = (
                f"not done after {limit_s:g} s: the stack above shows where it was; allow more "
                "time with --limit-s"
            )
    return told


def _doings(terms: Terms) -> dict[str, str]:
    """Return stage → description, for the stages that may take long."""
    return {
        "import": "importing",
        "version": "reading files for the version",
        "load": f"loading on {terms.device}, and warming up",
        "run": "running the example",
        "batch of two": "running a batch of two",
        PROBE: f"running with other seeds and inputs for the hints, up to {terms.probe_s:g} s",
    }


class _Heard:
    """Collects the messages of a process.

    Args:
        fd: File with the messages, one JSON object per line; read without moving its position.
        index: Index of the model that the process checks.
        doings: Stage → description, for `tell`.
        tell: Called at the start of a stage in `doings`.
    """

    def __init__(self, fd: int, index: int, doings: Mapping[str, str], tell: Tell) -> None:
        self.told: dict[str, Any] = {"report": {}}
        self._fd = fd
        self._index = index
        self._doings = doings
        self._tell = tell
        self._read_bytes = 0
        self._rest = b""

    def listen(self) -> None:
        """Read the new messages."""
        while chunk := os.pread(self._fd, 1 << 16, self._read_bytes):
            self._read_bytes += len(chunk)
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # incomplete: the process died, or a full disk
                self._take(json.loads(line))

    def _take(self, each: dict[str, Any]) -> None:
        self.told["report"] |= each.pop("report", {})
        self.told |= each
        doing = self._doings.get(each.get("stage", ""))
        if doing is not None:
            names = self.told.get("models", [])
            self._tell(names[self._index] if names else None, doing)


def _misfit(told: dict[str, Any]) -> dict[str, str] | None:
    """Return the error if a result does not match the declared output, or None."""
    kinds: dict[str, type[Attachment]] = {
        each.__name__: each for each in (Image, Audio, Video, File)
    }
    for stage, results in told.get("returned", {}).items():
        for result in results:
            files = [kinds.get(kind, File)(b"") for kind in result["kinds"]]
            why = misfit(result["output"], files, told["schema"])
            if why:
                detail = f"the result does not match the declared output: {why}"
                return {"stage": stage, "detail": detail}
    return None
