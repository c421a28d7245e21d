"""Real images and containers for tests and benchmarks: Debian's own podman and buildah.

The base image is made by debootstrap, since no registry may be at hand. It is kept in the engine's
storage, and as an archive in `.bench`, so that it is made once on a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "BASE",
    "PATIENCE_S",
    "Container",
    "build",
    "build_options",
    "limits",
    "make_base",
    "mounted",
    "podman",
    "until",
    "why_not",
]

ROOT: Final = Path(__file__).resolve().parents[2]

#: A new name makes it anew, after a change of what is in it.
BASE: Final = "localhost/swell-test-base:trixie-2"
_ARCHIVE: Final = ROOT / ".bench" / "containers" / "trixie-2.tar"

#: Beside what is essential in Debian.
_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates", "tini")

#: Nobody reads it in a container, and what debootstrap takes over of this machine.
_LEFT_OUT: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "etc/resolv.conf",
    "etc/hostname",
    "etc/hosts",
)

#: Nothing of this is told: which cgroups a machine has.
_QUIET: Final = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}

#: Longest wait for anything of a container, in seconds.
PATIENCE_S: Final = 60.0


def why_not() -> str:
    """Return why there can be no containers here; empty where there can."""
    missing = [name for name in ("podman", "buildah", "runc") if shutil.which(name) is None]
    if missing:
        return f"not installed: apt-get install {' '.join(missing)}"
    try:
        make_base()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"no base image: {error} {said.decode(errors='replace')[-300:]}"
    tried = podman("run", "--rm", *_may(), BASE, "true")
    return "" if tried.returncode == 0 else f"podman cannot run: {tried.stderr.strip()[-300:]}"


def podman(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run podman to its end."""
    return subprocess.run(
        ["podman", "--runtime", "runc", *words],
        env=os.environ | _QUIET,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def make_base() -> None:
    """Have the base image in the engine's storage.

    Raises:
        OSError, subprocess.CalledProcessError: There is no debootstrap, or it fails.
    """
    if podman("image", "exists", BASE).returncode == 0:
        return
    if not _ARCHIVE.exists():
        _ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_ARCHIVE.parent) as folder:
            _debootstrap(Path(folder), _ARCHIVE)
    subprocess.run(["podman", "import", _ARCHIVE, BASE], capture_output=True, check=True)


def _debootstrap(folder: Path, archive: Path) -> None:
    root = folder / "root"
    wanted = ["--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    command = ["debootstrap", *wanted, "trixie", root]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    for each in _LEFT_OUT:
        path = root / each
        if path.is_dir():
            for inner in path.iterdir():
                whole = inner.is_dir() and not inner.is_symlink()
                shutil.rmtree(inner) if whole else inner.unlink()
        else:
            path.unlink(missing_ok=True)
    fresh = folder / "fresh.tar"
    subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", fresh, "."], check=True)
    fresh.replace(archive)


def limits() -> list[str]:
    """Return what a container needs that shares limits with this machine."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    files = 20_000 if most_files == resource.RLIM_INFINITY else min(most_files, 20_000)
    words = ["--ulimit", f"nofile={files}:{files}"]
    if processes != resource.RLIM_INFINITY:
        words += ["--ulimit", f"nproc={processes}:{processes}"]
    return words


def _may() -> list[str]:
    """Return what a container needs that shares limits and network with this machine."""
    return [*limits(), "--network=host"]


def build_options(base: str = BASE) -> list[str]:
    """Return what `swell build` needs here, whatever it builds."""
    words = ["--isolation=chroot", *_may()]
    told = iter(words)
    # `--option=--ulimit=nofile=…`: an option with its value in one word.
    joined = [f"{each}={next(told)}" if each == "--ulimit" else each for each in told]
    return ["--engine", "buildah", "--base", base, *(f"--option={each}" for each in joined)]


def build(*arguments: str, folder: Path, **variables: str) -> dict[str, Any]:
    """Run `swell build`, and return what it tells.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "swell", "build", *build_options(), *arguments, "--json"],
        cwd=folder,
        env=_plain_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Give the files of an image."""
    place = subprocess.run(
        ["podman", "image", "mount", image], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        yield Path(place)
    finally:
        podman("image", "umount", image)


@dataclass
class Container:
    """A worker in a container.

    Args:
        image: What it runs.
        name: Of the container; taken by nobody else.
        log: Where its output goes.
    """

    image: str
    name: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, variables: Mapping[str, str], *options: str) -> None:
        """Start it."""
        given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        command = ["podman", "--runtime", "runc", "run", "--name", self.name, *_may(), *given]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options, self.image],
                env=os.environ | _QUIET,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def type(self, script: str, **variables: str) -> None:
        """Start it by a script that says `docker run`, which is podman with what is needed here."""
        given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        command = ["podman", "--runtime", "runc", "run", "--name", self.name, *_may(), *given]
        programs = self.log.with_suffix(".bin")
        programs.mkdir()
        docker = programs / "docker"
        docker.write_text(f'#!/bin/sh\n[ "$1" = run ] && shift\nexec {shlex.join(command)} "$@"\n')
        docker.chmod(0o755)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-ec", script],
                env=os.environ | _QUIET | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, name: str) -> None:
        """Send its first process a signal."""
        done = podman("kill", "--signal", name, self.name)
        assert done.returncode == 0, done.stderr

    def wait(self) -> int:
        """Return its exit code when it has ended."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command within."""
        return podman("exec", self.name, *command)

    def is_healthy(self) -> bool:
        """Have its image's own check run, as the engine would, and return what came of it."""
        return podman("healthcheck", "run", self.name).returncode == 0

    def remove(self) -> None:
        """Leave nothing of it. Idempotent."""

        def is_gone() -> bool:
            # One that is still being made is not there to be removed.
            podman("rm", "--force", "--volumes", "--time", "0", self.name)
            return self.process is None or self.process.poll() is not None

        until(is_gone, f"end of {self.name}")

    def said(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")


def until(condition: Callable[[], Any], what: str, limit_s: float = PATIENCE_S) -> Any:
    """Return what a condition gives, once that is true."""
    ends_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < ends_s, f"no {what} within {limit_s:.0f} s"
        time.sleep(0.05)
    return found
