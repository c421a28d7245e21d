"""Builds and pushes images with docker, podman or buildah."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.containers.dockerfile import SECRETS
from swell.containers.indexes import Index
from swell.core.errors import InvalidRequest, SwellError
from swell.core.redact import hide_secrets

#: In order of preference.
ENGINES: Final = ("docker", "podman", "buildah")

#: Engines pass these to a build and do not store them in the image.
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")

_LAST_LINES: Final = 20
_LONG_LINE: Final = 300

#: Output that repeats the Dockerfile and must not match `_REASONS`: steps as they start, numbered
#: lines, and the command that failed.
_ECHOES: Final = re.compile(
    r"^(?:STEP \d+/\d+: |#\d+ \[| > \[|\s*\d+ \| ).*$"
    r"|(?<=building at STEP )\".*\"|(?<=process )\".*\"",
    re.MULTILINE,
)

#: Pattern in the output of a failed build → explanation for the user; the first match is shown.
_REASONS: Final = (
    (
        r"invalid reference format|invalid tag|repository name must",
        "--tag is no tag of an image: give lower-case words as in registry.example/team/poster:1",
    ),
    (r"[Nn]o space left|disk quota", "the disk is full: make room where the engine keeps images"),
    (
        r"Cannot connect to the Docker daemon|daemon running\?",
        "Docker's daemon does not run: start it, or choose another engine with --engine",
    ),
    (
        r"mount_setattr|operation not permitted|cannot clone|newuidmap|rlimit|crun: |unshare",
        "the engine may not start containers here: run it as a user who may, or"
        " pass an option such as --option=--isolation=chroot",
    ),
    (
        r"pull access denied|manifest unknown|no such image|initializing source|short-name|"
        r"failed to resolve source metadata|pinging container registry",
        "the base image cannot be had: check --base, and that its registry can be reached",
    ),
    (
        r"certificate|SSLError",
        "the package index is not trusted in the build: name its certificates for pip (pip config "
        "set global.cert FILE), which the build then trusts",
    ),
    (
        r"Temporary failure|Name or service|timed out|Connection refused|NewConnectionError|"
        r"[Cc]ould not resolve|unreachable|dns error|error sending request",
        "the package index cannot be reached from the build: give it this machine's network with "
        "--option=--network=host, or set pip's index",
    ),
    (
        r"No solution found|No matching distribution",
        "the package index has no such package or version for the Python of the base image: use a "
        "base image with this machine's Python (--base), other versions (--constraints FILE), or "
        "another index for pip",
    ),
    (
        r"^(?:#\d+ )?(?:[\d.]+ )?the models' files",
        "the models' environment cannot be made: correct what their files ask for",
    ),
)

#: The same for a failed push.
_REFUSED: Final = (
    (
        r"denied|unauthorized|[Aa]uthentication required|no basic auth|authorization failed",
        "the registry does not let you in: log in with the engine, such as docker login",
    ),
    (
        r"no such host|Temporary failure|timed out|timeout|[Cc]onnection refused|unreachable",
        "the registry cannot be reached: check the name in --tag, and the network",
    ),
    (r"x509:|certificate", "the registry's certificate is not trusted by the engine"),
)

#: Time between SIGTERM and SIGKILL for an engine, in seconds.
_ENDING_S: Final = 10.0


class NoEngine(InvalidRequest):
    """This machine has no engine that builds images."""

    code, title = "no_engine", "No engine to build images with"


class BuildFailed(SwellError):
    """The engine failed; the message has a reason, a remedy and the last lines of its output."""

    code, title = "build_failed", "The image could not be built"


def check_registry(tag: str) -> None:
    """Check that a tag names a registry, so that a push to the default one is never an accident.

    Raises:
        InvalidRequest: The tag names no registry.
    """
    registry, _, rest = tag.partition("/")
    if not rest or not ("." in registry or ":" in registry or registry == "localhost"):
        raise InvalidRequest(
            f"{tag} names no registry to push to: name it in --tag, as in "
            f"registry.example/{tag} or docker.io/{tag if rest else f'you/{tag}'}"
        )


def find(asked: str | None, variables: Mapping[str, str]) -> "Engine":
    """Find the requested engine, or the first that is installed.

    Args:
        asked: Name of the engine; None for any.
        variables: The process environment.

    Raises:
        InvalidRequest: There is no engine of this name.
        NoEngine: The engine is not installed.
    """
    if asked and asked not in ENGINES:
        raise InvalidRequest(f"{asked!r} is not a known engine: use {', '.join(ENGINES)}")
    names = [asked] if asked else ENGINES
    for name in names:
        if program := shutil.which(name, path=variables.get("PATH")):
            return Engine(name, program, {**variables, "DOCKER_BUILDKIT": "1"})
    raise NoEngine(
        f"this machine has none of {', '.join(names)}: install one, choose another with "
        "--engine, or write the build files with --context DIR"
    )


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is installed on this machine.

    Args:
        name: One of `ENGINES`.
        program: Path of its executable.
        variables: Its process environment.
    """

    name: str
    program: str
    variables: Mapping[str, str]

    def build(
        self,
        context: Path,
        tag: str,
        index: Index,
        secrets: Path,
        *,
        options: Sequence[str] = (),
        tell: Callable[[str], None] = lambda line: None,
    ) -> int:
        """Build an image; return its size in bytes.

        Args:
            context: A folder with a Dockerfile.
            tag: Tag of the image.
            index: Package index.
            secrets: A private folder for files that must not enter the image.
            options: Additional options of the engine.
            tell: Called with each line of output.

        Raises:
            BuildFailed: The engine failed.
        """
        command = ["build", "--tag", tag]
        if self.name != "docker":
            # The OCI format has no health check. --force-rm removes the container of a failed
            # build, which would keep its secrets.
            command += ["--format", "docker", "--layers", "--force-rm"]
        script = secrets / "index.sh"
        script.write_text(index.script)
        script.chmod(0o600)
        for name, path in zip(SECRETS, (script, index.ca), strict=True):
            command += ["--secret", f"id={name},src={path}"] if path else []
        for name in self.variables:
            if name.lower() in _PROXIES:
                command += ["--build-arg", name]  # its value comes from the environment
        self._run([*command, *options, str(context)], tell, _REASONS)
        return self._size_bytes(tag)

    def push(self, tag: str, tell: Callable[[str], None]) -> None:
        """Push an image to the registry in its tag.

        Raises:
            BuildFailed: The registry refuses the image.
        """
        self._run(["push", tag], tell, _REFUSED)

    def _size_bytes(self, tag: str) -> int:
        words = ["image", "inspect", "--format", "{{.Size}}", tag]
        if self.name == "buildah":
            words = ["inspect", "--type", "image", "--format", "{{.Manifest}}", tag]
        ran = subprocess.run(
            [self.program, *words],
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise BuildFailed(f"{self.name} {words[0]}: {hide_secrets(ran.stderr.strip())}")
        told = json.loads(ran.stdout)
        return told if isinstance(told, int) else sum(each["size"] for each in told["layers"])

    def _run(
        self,
        command: Sequence[str],
        tell: Callable[[str], None],
        reasons: Sequence[tuple[str, str]],
    ) -> None:
        """Run the engine, and end it with its children if this process is to end."""
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with subprocess.Popen(
            [self.program, *command],
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        ) as process:
            try:
                for line in process.stdout or ():
                    if line := hide_secrets(line.rstrip()):
                        last.append(line)
                        tell(line[:_LONG_LINE])
                process.wait()
            except BaseException:
                _end(process)
                raise
        if process.returncode:
            said = "\n  ".join(line[:_LONG_LINE] for line in last)
            text = _ECHOES.sub("", "\n".join(last))
            found = (why for pattern, why in reasons if re.search(pattern, text, re.MULTILINE))
            reason = next(found, "a build step failed: see its output")
            raise BuildFailed(
                f"{reason}.\n{self.name} said last:\n  {said or f'exit code {process.returncode}'}"
            )


def _end(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)
        os.killpg(process.pid, signal.SIGKILL)
