"""Servers of cog models: in a container, in a process on this machine, or already running.

A container runs attached, as a child process that ends when its parent dies: it lives exactly as
long as the worker's model process, even if that crashes. Its port is open on loopback only.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidModel
from swell.settings.environment import process_environment

#: Container engines, in search order.
_ENGINES: Final = ("docker", "podman")

#: Labels of images that cog builds, with the OpenAPI document in them; the second is older.
_LABELS: Final = ("run.cog.openapi_schema", "org.cogmodel.openapi_schema")

#: The label with the content of `cog.yaml`.
_CONFIG_LABEL: Final = "run.cog.config"

#: The variable with the number of predictions that a server makes at once.
AT_ONCE: Final = "COG_MAX_CONCURRENCY"

#: Interval of checks whether a server is ready, in seconds.
_LOOK_S: Final = 0.2

#: Time for a server to stop by itself, in seconds; then it is killed.
_ENDING_S: Final = 10.0

#: Timeout of one request, in seconds, and the most bytes that are read of its response.
_ANSWER_S: Final = 10.0
_ANSWER_BYTES: Final = 16 * 1024 * 1024

#: Linux: the signal to get when the parent dies (prctl.h).
_PR_SET_PDEATHSIG: Final = 1

#: The port that cog listens on inside its container.
_PORT: Final = 5000


class ServerFailed(RuntimeError):
    """A server does not start, or has died; a retry may succeed."""


@dataclass(frozen=True, slots=True)
class CogImage:
    """Facts of an image, known without running it."""

    #: Its content's digest.
    id: str
    openapi: Any
    #: Number of predictions at once.
    at_once: int = 1


def find_engine(wanted: str = "") -> str:
    """Return an installed container engine.

    Raises:
        InvalidModel: There is none.
    """
    for each in [wanted] if wanted else _ENGINES:
        if found := shutil.which(each):
            return found
    raise InvalidModel(f"{wanted or 'docker or podman'} is not on PATH: install it, or set engine")


def inspect_image(name: str, image: str, engine: str = "") -> CogImage:
    """Return the facts of an image, which is pulled if this machine lacks it.

    Raises:
        InvalidModel: The image cannot be pulled, or cog did not build it.
    """
    program = find_engine(engine)
    told = _look(program, image)
    if told is None:
        pulled = _engine(program, "pull", image)
        told = _look(program, image) if pulled.returncode == 0 else None
        if told is None:
            raise InvalidModel(f"{name}: {image} cannot be had: {pulled.stderr.strip()[-300:]}")
    config = told.get("Config") or {}
    labels = config.get("Labels") or {}
    schema = next((labels[each] for each in _LABELS if labels.get(each)), None)
    try:
        openapi = None if schema is None else json.loads(schema)
    except ValueError:
        openapi = None
    if openapi is None:
        raise InvalidModel(
            f"{name}: {image} has no label {_LABELS[0]}: build it with cog, or give schema_file"
        )
    return CogImage(str(told.get("Id", "")), openapi, _built_for(config, labels))


def _built_for(config: Mapping[str, Any], labels: Mapping[str, str]) -> int:
    """Return how many predictions an image makes at once, by its variable or its build."""
    variables = dict(str(each).partition("=")[::2] for each in config.get("Env") or ())
    if AT_ONCE in variables:
        return at_once(variables[AT_ONCE])
    try:
        built = json.loads(labels.get(_CONFIG_LABEL) or "{}")
    except ValueError:
        return 1
    asked = built.get("concurrency") if isinstance(built, dict) else None
    return at_once(asked.get("max")) if isinstance(asked, dict) else 1


def at_once(told: object) -> int:
    """Parse the number of predictions at once, as a server does: 1 if it is invalid."""
    try:
        return max(1, int(str(told)))
    except ValueError:
        return 1


def _look(program: str, image: str) -> Any:
    found = _engine(program, "image", "inspect", image)
    if found.returncode:
        return None
    try:
        told = json.loads(found.stdout)
    except ValueError:
        return None
    return told[0] if isinstance(told, list) and told else None


def _engine(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


class Running(Protocol):
    """A server of a model."""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        ...

    def end_reason(self) -> str | None:
        """Return why the server has ended, or None if it runs or its state is unknown."""
        ...

    def stop(self) -> None:
        """End it. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class There:
    """A server that Swell does not start."""

    url: str

    def end_reason(self) -> str | None:
        """Return None: the state is unknown."""
        return None

    def stop(self) -> None:
        """Do nothing: Swell did not start the server."""


@dataclass(slots=True)
class Child:
    """A server that is a child of this process."""

    url: str
    process: "subprocess.Popen[str]"
    #: Its last output.
    said: deque[str]
    #: Command that removes anything that outlives the child.
    farewell: Sequence[str] = ()
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Start to read the output, so that the child never blocks on a full pipe."""
        self.reader = threading.Thread(target=self._read, name="cog-talk", daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None, "it was started with a pipe"
        for line in self.process.stdout:
            self.said.append(line.rstrip()[:300])

    def end_reason(self) -> str | None:
        """Return why it has ended, or None if it runs."""
        code = self.process.poll()
        if code is None:
            return None
        self.reader.join(1)
        said = " / ".join(list(self.said)[-5:]) or "it said nothing"
        return f"it ended with code {code}: {said}"

    def stop(self) -> None:
        """Stop the child; kill it if it does not stop in time."""
        self.process.terminate()
        try:
            self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.farewell:
            subprocess.run(self.farewell, capture_output=True, check=False)
        self.reader.join(1)
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """How a container is run.

    Args:
        engine: `docker` or `podman`; empty for whichever is there.
        env: Variables of the container. The engine gets their values in its environment, so the
            machine's list of processes does not show them.
        env_file: File of `NAME=value` lines, for secrets.
        volumes: As the engine's `--volume`.
        gpus: `all` or `none`; empty leaves it to the worker's device.
        network: As the engine's `--network`. With `host` there is no port to publish: cog listens
            on all addresses of this machine then, so that a firewall must keep strangers out.
        options: More of the engine's own.
    """

    engine: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    env_file: str = ""
    volumes: tuple[str, ...] = ()
    gpus: str = ""
    network: str = ""
    options: tuple[str, ...] = ()


def container_command(
    program: str, image: str, port: int, called: str, device: str, how: ContainerOptions
) -> list[str]:
    """Return the command that runs a cog image, its port on this machine's loopback alone. Pure.

    Args:
        program: The engine.
        image: The image.
        port: On this machine.
        called: The container's name.
        device: That of the worker; `cuda:1` gives the container that GPU.
        how: The other options.
    """
    command = [program, "run", "--rm", "--name", called]
    command += [f"--network={how.network}"] if how.network else []
    if how.network == "host":
        command += ["--env", f"PORT={port}"]
    else:
        command += ["--publish", f"127.0.0.1:{port}:{_PORT}", "--env", f"PORT={_PORT}"]
    command += _gpu_options(program, device, how.gpus)
    command += [word for name in sorted(how.env) for word in ("--env", name)]
    command += ["--env-file", how.env_file] if how.env_file else []
    command += [word for each in how.volumes for word in ("--volume", each)]
    return [*command, *how.options, image]


def _gpu_options(engine: str, device: str, gpus: str) -> list[str]:
    if gpus == "none" or (not gpus and not device.startswith("cuda")):
        return []
    which = "all" if gpus == "all" or ":" not in device else device.rpartition(":")[2]
    if engine.rpartition("/")[2].startswith("podman"):
        return ["--device", f"nvidia.com/gpu={which}"]
    return ["--gpus", "all" if which == "all" else f"device={which}"]


def start_container(image: str, device: str, how: ContainerOptions) -> Child:
    """Start an image.

    Raises:
        InvalidModel: No container engine is installed.
    """
    program, port = find_engine(how.engine), _free_port()
    called = f"swell-cog-{os.getpid()}-{port}"
    command = container_command(program, image, port, called, device, how)
    child = _start(command, f"http://127.0.0.1:{port}", how.env)
    # The container outlives a killed client.
    child.farewell = [program, "rm", "--force", called]
    return child


def start_program(
    command: Sequence[str], *, folder: str = "", env: Mapping[str, str] | None = None
) -> Child:
    """Start a cog server as a process on this machine, with its port in `PORT`.

    Raises:
        InvalidModel: There is no such program.
    """
    port = _free_port()
    return _start(command, f"http://127.0.0.1:{port}", {**(env or {}), "PORT": str(port)}, folder)


def _start(command: Sequence[str], url: str, env: Mapping[str, str], folder: str = "") -> Child:
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**process_environment(without_settings=True), **env},
            cwd=folder or None,
            preexec_fn=_follow_parent,
        )
    except OSError as error:
        raise InvalidModel(f"{command[0]} cannot be started: {error.strerror}") from error
    return Child(url, process, deque(maxlen=20))


def _follow_parent() -> None:
    """Runs in the child: restore default signals, and terminate when the parent dies."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """Waits for a server to start, and checks its health.

    Args:
        name: `owner/name`, for errors.
        running: The server.
        clock: For timeouts.
    """

    def __init__(self, name: str, running: Running, clock: Clock | None = None) -> None:
        self._name = name
        self._running = running
        self._clock = clock or SystemClock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._running.url

    def stop(self) -> None:
        """Stop the server, if Swell started it."""
        self._running.stop()

    def wait(self, timeout_s: float) -> None:
        """Wait until it takes predictions.

        Raises:
            ServerFailed: It ended, its setup failed, or it takes too long.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        while True:
            status, words = self._health()
            if status in ("READY", "BUSY"):
                return
            if status in ("SETUP_FAILED", "DEFUNCT"):
                raise ServerFailed(f"the setup of {self._name} failed: {words}")
            if (why := self._running.end_reason()) is not None:
                raise ServerFailed(f"the server of {self._name} does not start: {why}")
            if self._clock.monotonic_s() > until_s:
                raise ServerFailed(
                    f"{self._name} is not ready after {timeout_s:g} s ({status or 'silent'}): "
                    "raise setup_timeout_s if it needs longer"
                )
            time.sleep(_LOOK_S)

    def why_broken(self) -> str | None:
        """Return why no prediction can be made any more; None if one can."""
        if (why := self._running.end_reason()) is not None:
            return why
        status, words = self._health()
        return None if status in ("READY", "BUSY", "STARTING") else f"it is {status}: {words}"

    def openapi(self) -> Any:
        """Return its OpenAPI document; None where it has none."""
        return read_json(f"{self.url}/openapi.json")

    def _health(self) -> tuple[str, str]:
        told = read_json(f"{self.url}/health-check")
        if not isinstance(told, dict):
            return "", "it does not answer"
        logs = str((told.get("setup") or {}).get("logs") or "")
        words = str(told.get("user_healthcheck_error") or logs.strip()[-300:])
        return str(told.get("status", "")), words


def read_json(url: str) -> Any:
    """Return the JSON at a URL; None if the request fails or the response is no JSON."""
    with contextlib.suppress(OSError, ValueError, urllib.error.URLError):
        # No proxy: the server is on this machine, or on the operator's own network.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=_ANSWER_S) as answer:
            return json.loads(answer.read(_ANSWER_BYTES))
    return None
