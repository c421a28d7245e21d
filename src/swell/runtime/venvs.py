"""Environments for models with needs of their own: made once, kept, and used without a network.

An environment is a folder whose name is a digest of all that it depends on: what the model's file
asks for, what a model process of Swell needs, the version of Python, the platform. Whoever needs it
first makes it, with uv where that is at hand and else with venv and pip. Its last file says that it
is whole; one without that file is made anew. The makers of one take turns at a lock, which the
installer holds as well: as long as it goes on, even without who started it, nobody else begins.

Swell itself is not installed there. A folder that holds a link to its source comes first on the
path, so that an environment outlives upgrades of Swell.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Final

import swell
from swell.core.errors import InvalidModel
from swell.runtime.pep723 import Needs, allows, distribution, is_older

#: What a model process of Swell imports, and the oldest versions that it has been run with. Where a
#: file names one of them itself, its own word holds.
BARE: Final = ("msgspec>=0.18.6", "numpy>=1.26", "pillow>=10.1", "psutil>=5.9", "pydantic>=2.7")

#: Without which no model's input can be read, whatever its file says.
_PYDANTIC: Final = (2, 7)

#: What Swell itself needs.
_OLDEST: Final = (3, 11)

#: Changed where environments that are there can be used no more.
_FORMAT: Final = 1

#: The file that is written last.
_WHOLE: Final = "swell.json"

#: So many lines of what the installer said last are shown.
_LAST_LINES: Final = 8

#: Of each no more than this is shown, in characters: pip names all versions that there are.
_LONG_LINE: Final = 300

#: Longest wait for an interpreter to tell its version, in seconds.
_LOOK_S: Final = 20.0

_TELL_VERSION: Final = (
    "import json, sys, venv; print(json.dumps([sys.executable, *sys.version_info[:3]]))"
)

#: What wheels are called, and what they can be built from.
_WHEEL: Final = ".whl"
_SOURCES: Final = (".tar.gz", ".zip")

#: What is said of requirements that no installer understands.
_MISWRITTEN: Final = "not written as installers read them"

#: What an installer says if there is no fitting wheel, or no index.
_NO_WHEEL: Final = "no package fits|do not go together"
_NO_INDEX: Final = r"Connection|connection|cannot be reached|Temporary failure|timed out"

#: What an installer says, and what to do about it; the first that fits is told.
_REASONS: Final = (
    (
        r"Invalid requirement: |Failed to parse: ",
        f"one of its requirements is {_MISWRITTEN}: correct it in its `# /// script` block, as in "
        '"name>=1.2"',
    ),
    (
        r"No matching distribution|Could not find a version|was not found in|not found in the "
        r"(provided|package)|no versions? of|there is no version of|only .* (is|are) available",
        "no package fits one of its requirements: check names and versions in its `# /// script` "
        "block, and that the package index can be reached, or give a folder of wheels with "
        "worker.wheels_dir",
    ),
    (
        r"conflicting dependencies|ResolutionImpossible|conclude that|incompatible",
        "its requirements do not go together: loosen one of them in its `# /// script` block",
    ),
    (
        r"Failed to build|[Ff]ailed building|build backend|subprocess-exited-with-error|"
        r"metadata-generation-failed",
        "a package could not be built from its source: require a version that has a wheel, or "
        "install the compiler and headers that it asks for",
    ),
    (
        r"Connection|connection|resolve|timed out|offline|SSL|[Nn]etwork",
        "the package index cannot be reached: connect this machine, or give a folder of wheels "
        "with worker.wheels_dir",
    ),
    (
        r"ensurepip",
        "this Python cannot make environments: install its venv package (python3-venv), or uv",
    ),
    (r"No space left", "the disk is full: make room in the data folder"),
)


class EnvironmentFailed(InvalidModel):
    """What a model's file asks for cannot be had here; the text says why, and what to do."""

    code, title = "environment_failed", "The environment of a model cannot be made"


class Environments:
    """Makes environments, and finds those that are there. Everything here blocks.

    Args:
        folder: Where they lie; made if it is not there.
        variables: The process environment, for the installer and for model processes.
        wheels: Folder of wheels to install from, and from nowhere else; None for the package index.
    """

    def __init__(
        self, folder: Path, variables: Mapping[str, str], wheels: Path | None = None
    ) -> None:
        self._folder = folder.absolute()
        self._variables = dict(variables)
        self._wheels = None if wheels is None else wheels.absolute()

    def python(
        self, needs: Needs, what: str, tell: Callable[[str], None] = lambda line: None
    ) -> str:
        """Return the interpreter of the environment with these needs, made if it is not there.

        Args:
            needs: What a model's file asks for.
            what: The file, for people.
            tell: Called with a line for people before something takes long.

        Raises:
            EnvironmentFailed: There is no such Python, or the requirements cannot be installed.
        """
        place = self.place(needs)
        python = place / "bin" / "python"
        if self._is_whole(place):
            return str(python)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(place, what, tell) as lock:
                if not self._is_whole(place):
                    tell(f"an environment for {what} is made: {_listed(needs)}")
                    self._make(place, needs, what, lock, tell)
                    tell(f"the environment for {what} is ready")
        except OSError as error:
            raise EnvironmentFailed(
                f"the environment of {what} cannot be kept in {self._folder} ({error.strerror}): "
                "choose a data folder that can be written, with --data or data_dir"
            ) from error
        return str(python)

    def is_there(self, needs: Needs) -> bool:
        """Whether models with these needs can be started at once."""
        return not needs or self._is_whole(self.place(needs))

    def place(self, needs: Needs) -> Path:
        """Return the folder of the environment with these needs, whether it is there or not."""
        here = ".".join(map(str, sys.version_info[:2]))
        facts = {
            "format": _FORMAT,
            "requirements": _all_of(needs),
            # Whichever fits was chosen when it was made.
            "python": here if allows(needs.python, sys.version_info[:3]) else needs.python,
            "platform": sysconfig.get_platform(),
        }
        text = json.dumps(facts, sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:20]

    def variables(self, python: str) -> dict[str, str]:
        """Return what a process of such an interpreter finds in its environment.

        Args:
            python: As `python` returned it.
        """
        found = {k: v for k, v in self._variables.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
        bin_folder = Path(python).parent
        found["PATH"] = os.pathsep.join([str(bin_folder), found.get("PATH", os.defpath)])
        found["VIRTUAL_ENV"] = str(bin_folder.parent)
        path = found.get("PYTHONPATH")
        found["PYTHONPATH"] = os.pathsep.join([str(self._link()), *([path] if path else [])])
        return found

    def _is_whole(self, place: Path) -> bool:
        # The second is a link, and leads nowhere once its Python was removed from this machine.
        return (place / _WHOLE).is_file() and (place / "bin" / "python").exists()

    def _link(self) -> Path:
        """Return a folder that holds a link to Swell's source, its version, and nothing else."""
        source, version = Path(str(swell.__file__)).resolve().parent, metadata.version("swell")
        digest = hashlib.sha256(f"{source} {version}".encode()).hexdigest()
        folder = self._folder / f"swell-{digest[:12]}"
        link = folder / "swell"
        if not link.is_symlink():
            told = folder / f"swell-{version}.dist-info"
            told.mkdir(mode=0o700, parents=True, exist_ok=True)
            (told / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: swell\nVersion: {version}\n"
            )
            with contextlib.suppress(FileExistsError):
                link.symlink_to(source, target_is_directory=True)
        return folder

    @contextlib.contextmanager
    def _locked(self, place: Path, what: str, tell: Callable[[str], None]) -> Iterator[IO[bytes]]:
        with place.with_suffix(".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"waiting for another process that builds the environment for {what}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def _make(
        self,
        place: Path,
        needs: Needs,
        what: str,
        lock: IO[bytes],
        tell: Callable[[str], None],
    ) -> None:
        _check_pydantic(needs, what)
        if self._wheels is not None:
            _check_wheels(self._wheels)
        uv = _uv(self._variables)
        pythons = self._interpreters(needs, what, uv)
        first, others = next(pythons), pythons
        requirements = _all_of(needs)
        wanted = _Wanted(place, requirements, what, uv, lock)
        try:
            python = self._filled(wanted, first, others, tell)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        draft = place / f"{_WHOLE}.draft"
        told = {"for": what, "requirements": requirements, "python": python}
        draft.write_text(json.dumps(told, indent=2) + "\n")
        draft.replace(place / _WHOLE)

    def _filled(
        self, wanted: "_Wanted", first: str, others: Iterable[str], tell: Callable[[str], None]
    ) -> str:
        """Install from wheels alone, for the first Python if it has them all, else for another.

        Where none has, the first builds what lacks a wheel, if there is something to build from.

        Returns:
            The Python.

        Raises:
            EnvironmentFailed: What is wanted cannot be installed.
        """
        try:
            self._install(wanted, first, "--only-binary=:all:")
            return first
        except EnvironmentFailed as error:
            failed = error
        if _MISWRITTEN in failed.detail:
            raise failed
        if re.search(_NO_WHEEL, failed.detail) and not re.search(_NO_INDEX, failed.detail):
            for python in others:
                with contextlib.suppress(EnvironmentFailed):
                    self._install(wanted, python, "--only-binary=:all:")
                    tell(f"{wanted.what} runs with {python}, for which there are wheels")
                    return python
            if self._wheels is not None and not _has(self._wheels, _SOURCES):
                raise failed
            tell(
                f"some requirements of {wanted.what} have no wheel for this Python and "
                "are built from source, which can take long. Another Python may have "
                'wheels: requires-python = ">=3.11,<3.13"'
            )
        self._install(wanted, first)
        return first

    def _install(self, wanted: "_Wanted", python: str, *options: str) -> None:
        # What is left of one that was never finished.
        shutil.rmtree(wanted.place, ignore_errors=True)
        wheels = [] if self._wheels is None else ["--no-index", "--find-links", str(self._wheels)]
        self._run(_maker(wanted.place, python, wanted.uv), wanted)
        install = _installer(wanted.place, wanted.uv)
        self._run([*install, *options, *wheels, "--", *wanted.requirements], wanted)

    def _run(self, command: Sequence[str], wanted: "_Wanted") -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._installers_variables(),
            # As long as it works, nobody else does, even if this process is gone.
            pass_fds=[wanted.lock.fileno()],
            check=False,
        )
        if done.returncode == 0:
            return
        said = done.stdout.decode(errors="replace")
        lines = [line.rstrip()[:_LONG_LINE] for line in said.splitlines() if line.strip()]
        last = "\n  ".join(lines[-_LAST_LINES:]) or f"exit code {done.returncode}"
        asked = ", ".join(wanted.requirements)
        raise EnvironmentFailed(
            f"{wanted.what}: {_reason(said)}.\n"
            f"It was to hold {asked}. {_tool(command)} said:\n  {last}"
        )

    def _installers_variables(self) -> dict[str, str]:
        # An environment that this process runs in is not the one that is made, and what is on its
        # path is no reason to leave something out.
        left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER")
        return {k: v for k, v in self._variables.items() if k not in left_out}

    def _interpreters(self, needs: Needs, what: str, uv: str | None) -> Iterator[str]:
        """Yield each Python at hand that will do: this one if it does, then from the newest on.

        What is not asked for is not looked for.

        Raises:
            EnvironmentFailed: There is none.
        """
        is_any = False
        if allows(needs.python, sys.version_info[:3]):
            is_any = True
            yield sys.executable
        found: dict[tuple[int, ...], str] = {}
        _note(found, sys.version_info[:3])
        for candidate in self._candidates(needs, uv):
            told = self._version(candidate)
            if told is None or told[1] in found:
                continue
            python, version = told
            _note(found, version)
            if version >= _OLDEST and allows(needs.python, version):
                is_any = True
                yield python
        if not is_any:
            here = ", ".join(found.values())
            raise EnvironmentFailed(
                f"{what} requires Python {needs.python}, and this machine has {here}; "
                "Swell needs 3.11 or newer. Install such a Python as python3.N on PATH "
                "(for example `uv python install 3.N`), or change requires-python in "
                "its `# /// script` block"
            )

    def _candidates(self, needs: Needs, uv: str | None) -> Iterator[str]:
        path = self._variables.get("PATH")
        for minor in range(30, _OLDEST[1] - 1, -1):
            if found := shutil.which(f"python3.{minor}", path=path):
                yield found
        if uv is not None and (found := self._found_by_uv(needs, uv)):
            yield found

    def _version(self, python: str) -> tuple[str, tuple[int, ...]] | None:
        """Return where an interpreter lies and its version; None if it cannot make environments."""
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [python, "-I", "-c", _TELL_VERSION],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._installers_variables(),
                timeout=_LOOK_S,
                check=False,
            )
            if done.returncode == 0:
                path, *version = json.loads(done.stdout)
                return path, tuple(version)
        return None

    def _found_by_uv(self, needs: Needs, uv: str) -> str | None:
        command = [uv, "python", "find", "--no-config", "--no-project", "--system"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [*command, f"{needs.python},>={'.'.join(map(str, _OLDEST))}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._installers_variables() | {"UV_PYTHON_DOWNLOADS": "never"},
                timeout=_LOOK_S,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout.decode(errors="replace").strip()
        return None


def _check_wheels(folder: Path) -> None:
    """Check that there is something to install from.

    Raises:
        EnvironmentFailed: There is nothing.
    """
    if not folder.is_dir():
        raise EnvironmentFailed(
            f"there is no folder {folder} to install from: check worker.wheels_dir"
        )
    if not _has(folder, (_WHEEL, *_SOURCES)):
        raise EnvironmentFailed(
            f"{folder} has no wheels, and the worker installs only from there: fill "
            "it on a machine with a network, with pip download -d FOLDER and the "
            "requirements, or unset worker.wheels_dir"
        )


def _has(folder: Path, ends: tuple[str, ...]) -> bool:
    return any(path.name.endswith(ends) for path in folder.iterdir())


def _check_pydantic(needs: Needs, what: str) -> None:
    """Check that what a file asks for does not leave Swell's own pydantic out.

    Raises:
        EnvironmentFailed: It does.
    """
    for each in needs.requirements:
        if distribution(each) == "pydantic" and is_older(each, _PYDANTIC):
            least = ".".join(map(str, _PYDANTIC))
            raise EnvironmentFailed(
                f"{what}: {each} is too old for what Swell makes of a model's types, which needs "
                f"pydantic {least} or newer: leave it out of the `# /// script` block. Code for "
                "pydantic 1 finds that as pydantic.v1 within pydantic 2"
            )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One environment that is being made."""

    place: Path
    requirements: Sequence[str]
    #: The file that asks for it, for people.
    what: str
    uv: str | None
    lock: IO[bytes]


def _note(found: dict[tuple[int, ...], str], version: tuple[int, ...]) -> None:
    found[version] = ".".join(map(str, version))


def _maker(place: Path, python: str, uv: str | None) -> list[str]:
    if uv is not None:
        return [uv, "venv", "--quiet", "--no-project", "--python", python, str(place)]
    return [python, "-m", "venv", str(place)]


def _installer(place: Path, uv: str | None) -> list[str]:
    inner = str(place / "bin" / "python")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", inner]
    pip = [inner, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    return [*pip, "--quiet", "--progress-bar=off"]


def _all_of(needs: Needs) -> list[str]:
    """Return what is installed: what was asked for, and what a model process needs beside it."""
    named = {distribution(each) for each in needs.requirements}
    return [*needs.requirements, *(each for each in BARE if distribution(each) not in named)]


def _listed(needs: Needs) -> str:
    python = [f"Python {needs.python}"] if needs.python else []
    return ", ".join([*python, *needs.requirements])


def _uv(variables: Mapping[str, str]) -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv", path=variables.get("PATH"))


def _tool(command: Sequence[str]) -> str:
    return "uv" if Path(command[0]).name == "uv" else "pip" if "pip" in command else "venv"


def _reason(said: str) -> str:
    for pattern, reason in _REASONS:
        if re.search(pattern, said):
            return reason
    return "its requirements could not be installed"
