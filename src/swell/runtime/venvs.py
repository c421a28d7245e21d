"""Virtual environments for models with their own requirements, made by uv and used offline.

The folder's name is a digest of all that the environment depends on: requirements, version of
Python and platform. A marker file is written last; a folder without it is made again. Builders of
one environment wait for a file lock. uv inherits the lock, so it is held until uv has ended, even
if the process that started it is killed.

Swell itself is not installed there. `PYTHONPATH` begins with a folder that links to its source, so
an environment outlives upgrades of Swell.
"""

import configparser
import contextlib
import fcntl
import hashlib
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Final

import swell
from swell.core.errors import InvalidModel
from swell.runtime.pep723 import Needs, allows, distribution

#: Always installed.
PYDANTIC: Final = "pydantic>=2.7"

#: Installed for a model process, with the oldest tested versions, unless the file names another.
BARE: Final = ("msgspec>=0.18.6", "numpy>=1.26", "pillow>=10.1", "psutil>=5.9", PYDANTIC)

#: Part of the digest: a change makes all environments again.
_FORMAT: Final = 2

#: The file that is written last.
_COMPLETE: Final = "swell-complete"

#: How much of uv's output an error quotes.
_LAST_LINES: Final = 8
_LONG_LINE: Final = 300

_PACKAGES: Final = (".whl", ".tar.gz", ".zip")

#: Options of pip, which uv does not read → variables of uv.
_PIP_OPTIONS: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}

#: In the output of uv: a requirement has no wheel for this Python.
_NO_WHEEL: Final = "no usable wheels|building from source is disabled"

#: Output of uv → what to do about it; the first match is used.
_REASONS: Final = (
    (
        r"No interpreter found",
        "this machine has no Python that its requires-python allows (Swell needs 3.11 or newer). "
        "Install one (for example `uv python install 3.N`), or change requires-python in its "
        "`# /// script` block",
    ),
    (
        r"Failed to parse",
        "one of its requirements is not written as installers read them: correct it in its "
        '`# /// script` block, as in "name>=1.2"',
    ),
    (
        rf"\b{PYDANTIC}",
        "its version of pydantic is too old for Swell, which needs pydantic 2.7 or newer: leave it "
        "out of the `# /// script` block. Code for pydantic 1 finds that as pydantic.v1 within "
        "pydantic 2",
    ),
    (
        r"[Cc]onnect|resolve host|dns error|timed out|was disabled|certificate",
        "the package index cannot be reached: connect this machine, or give a folder of wheels "
        "with worker.wheels_dir",
    ),
    (
        r"was not found in|no versions? of|only .* (is|are) available",
        "no package fits one of its requirements: check names and versions in its `# /// script` "
        "block, and that the package index can be reached, or give a folder of wheels with "
        "worker.wheels_dir",
    ),
    (
        r"unsatisfiable|cannot be used|incompatible",
        "its requirements do not go together: loosen one of them in its `# /// script` block",
    ),
    (
        r"Failed to build|build backend",
        "a package could not be built from its source: require a version that has a wheel, or "
        "install the compiler and headers that it asks for",
    ),
    (r"No space left", "the disk is full: make room in the data folder"),
)


class EnvironmentFailed(InvalidModel):
    """The environment of a model cannot be made; the text says why, and what to do."""

    code, title = "environment_failed", "The environment of a model cannot be made"


@dataclass(frozen=True, slots=True)
class Home:
    """The Python interpreter and environment that run models."""

    python: str = sys.executable
    #: Its process environment; None for that of this process.
    variables: Mapping[str, str] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it differs from Swell's own environment."""
        return self.variables is not None


class Environments:
    """Makes environments, and finds existing ones. All methods block.

    Args:
        folder: Where they are; created if missing.
        variables: The process environment, for uv and for model processes.
        wheels: Folder of wheels, the only source of packages; None for the package index.
        uv: The program; None for the one that was installed with Swell.
    """

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        wheels: Path | None = None,
        *,
        uv: str | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._variables = dict(variables)
        self._wheels = None if wheels is None else wheels.absolute()
        self._uv = uv

    def python(
        self, needs: Needs, what: str, tell: Callable[[str], None] = lambda line: None
    ) -> str:
        """Return the interpreter of the environment with these needs; make it if necessary.

        Args:
            needs: Requirements of a model's file.
            what: The file, for people.
            tell: Called with a line for people before a long step.

        Raises:
            EnvironmentFailed: There is no such Python, or the requirements cannot be installed.
        """
        place = self.place(needs)
        try:
            if not _is_complete(place):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._locked(place, what, tell) as lock:
                    if not _is_complete(place):
                        self._make(place, needs, what, lock, tell)
        except OSError as error:
            raise EnvironmentFailed(
                f"the environment of {what} cannot be kept in {self._folder} ({error.strerror}): "
                "choose a data folder that can be written, with --data or data_dir"
            ) from error
        return str(place / "bin" / "python")

    def is_there(self, needs: Needs) -> bool:
        """Say whether models with these needs can be started at once."""
        return not needs or _is_complete(self.place(needs))

    def place(self, needs: Needs) -> Path:
        """Return the folder of the environment with these needs, which may not exist."""
        facts = (_FORMAT, _requirements(needs), _python_for(needs), sysconfig.get_platform())
        return self._folder / hashlib.sha256(repr(facts).encode()).hexdigest()[:20]

    def variables(self, python: str) -> dict[str, str]:
        """Return the process environment for an interpreter that `python` returned."""
        found = {k: v for k, v in self._variables.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
        bin_folder = Path(python).parent
        found["PATH"] = os.pathsep.join([str(bin_folder), found.get("PATH", os.defpath)])
        found["VIRTUAL_ENV"] = str(bin_folder.parent)
        path = found.get("PYTHONPATH")
        found["PYTHONPATH"] = os.pathsep.join([str(self._link()), *([path] if path else [])])
        return found

    def _link(self) -> Path:
        """Return a folder with a link to Swell's source, and its version."""
        source, version = Path(str(swell.__file__)).resolve().parent, metadata.version("swell")
        digest = hashlib.sha256(f"{source} {version}".encode()).hexdigest()
        folder = self._folder / f"swell-{digest[:12]}"
        if not (folder / "swell").is_symlink():
            about = folder / f"swell-{version}.dist-info" / "METADATA"
            about.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            about.write_text(f"Metadata-Version: 2.1\nName: swell\nVersion: {version}\n")
            with contextlib.suppress(FileExistsError):
                (folder / "swell").symlink_to(source, target_is_directory=True)
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
        if self._wheels is not None and not any(
            path.name.endswith(_PACKAGES) for path in self._wheels.glob("*")
        ):
            raise EnvironmentFailed(
                f"{self._wheels} has no wheels, and the worker installs only from there: fill it "
                "on a machine with a network, with pip download -d FOLDER and the requirements, or "
                "change worker.wheels_dir"
            )
        wanted = ", ".join(
            [*([f"Python {needs.python}"] if needs.python else []), *needs.requirements]
        )
        tell(f"an environment for {what} is made: {wanted}")
        source = [] if self._wheels is None else ["--no-index", "--find-links", str(self._wheels)]
        install = ["pip", "install", *source, "--python", str(place / "bin" / "python")]
        requirements = ["--", *_requirements(needs)]
        try:
            self._run(["venv", "--clear", "--python", _python_for(needs), str(place)], what, lock)
            try:
                self._run([*install, "--only-binary=:all:", *requirements], what, lock)
            except EnvironmentFailed as error:
                if not re.search(_NO_WHEEL, error.detail):
                    raise
                tell(
                    f"some requirements of {what} have no wheel for this Python and are built from "
                    "source, which can take long. Another Python may have wheels: "
                    'requires-python = ">=3.11,<3.13"'
                )
                self._run([*install, *requirements], what, lock)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        (place / _COMPLETE).touch()
        tell(f"the environment for {what} is ready")

    def _run(self, command: Sequence[str], what: str, lock: IO[bytes]) -> None:
        # Imported only where it is needed: most workers need no environment.
        uv = self._uv or importlib.import_module("uv").find_uv_bin()
        done = subprocess.run(
            [uv, "--quiet", "--no-python-downloads", "--no-progress", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=uv_variables(self._variables),
            # The lock lasts as long as uv runs, even if this process is killed.
            pass_fds=[lock.fileno()],
            check=False,
        )
        if done.returncode == 0:
            return
        output = done.stdout.decode(errors="replace")
        fitting = (reason for pattern, reason in _REASONS if re.search(pattern, output))
        reason = next(fitting, "its requirements could not be installed")
        lines = [line.rstrip()[:_LONG_LINE] for line in output.splitlines() if line.strip()]
        last = "\n  ".join(lines[-_LAST_LINES:]) or f"exit code {done.returncode}"
        raise EnvironmentFailed(f"{what}: {reason}.\nuv said:\n  {last}")


def _is_complete(place: Path) -> bool:
    # The interpreter is a link, which is broken after its Python was removed from the machine.
    return (place / _COMPLETE).is_file() and (place / "bin" / "python").exists()


def _python_for(needs: Needs) -> str:
    """Return the Python to use, as uv takes it: this one, if it is allowed."""
    is_allowed = allows(needs.python, platform.python_version())
    return sys.executable if is_allowed else f"{needs.python},>=3.11"


def _requirements(needs: Needs) -> list[str]:
    """Return all requirements: the model's own, and those of a model process."""
    named = {distribution(each) for each in needs.requirements}
    bare = [each for each in BARE if each == PYDANTIC or distribution(each) not in named]
    return [*needs.requirements, *bare]


def uv_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of uv, with the package index that pip is configured for."""
    home = Path(variables.get("HOME") or "/")
    config = configparser.RawConfigParser()
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        config.read(
            [
                "/etc/xdg/pip/pip.conf",
                "/etc/pip.conf",
                home / ".pip" / "pip.conf",
                Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
                Path(sys.prefix) / "pip.conf",
                *filter(None, [variables.get("PIP_CONFIG_FILE")]),
            ]
        )
    options: dict[str, str] = {}
    for section in ("global", "install"):
        options |= dict(config[section]) if config.has_section(section) else {}
    names = {name: f"PIP_{name.upper().replace('-', '_')}" for name in _PIP_OPTIONS}
    options |= {name: variables[pip] for name, pip in names.items() if variables.get(pip)}
    # A value may span several lines of a file.
    found = {uv: " ".join(options[n].split()) for n, uv in _PIP_OPTIONS.items() if n in options}
    # Neither the environment of this process nor its path has anything to do with the new one.
    left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
    return found | {k: v for k, v in variables.items() if k not in left_out}
