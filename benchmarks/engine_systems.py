"""The servers of swell/icons that are compared: Swell and its peers, each started fresh."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

import processes
import swell_system
from machine import ROOT, folder
from open_load import Ask, Wish
from systems import PEERS, own_python, versions

MODEL = "swell/icons"
#: A picture is waited for as long; see `swell_system.Swell.target`.
WAIT_S = 60
READY_S = 120.0
SMALLEST: Wish = {"prompt": "cat", "steps": 1, "guidance": 1.0, "size": 128, "seed": 0}


@dataclass(frozen=True)
class Setting:
    """How a peer is set up: its batches, and how long one waits to become full."""

    batch: int
    wait_ms: int = 0
    #: LitServe's continuous loop instead of batches of requests.
    steps: bool = False
    #: Processes with the model, which share the cores.
    workers: int = 1

    def __str__(self) -> str:
        each = f", {self.workers} workers" if self.workers > 1 else ""
        if self.steps:
            return f"continuous loop of {self.batch}{each}"
        wait = f", waits {self.wait_ms} ms" if self.wait_ms else ""
        return f"batch of {self.batch}{wait}{each}"


@dataclass(frozen=True)
class Peer:
    """A peer: its file and path, what is tried of it, and what it is compared in.

    `quick` is for the least p95 at 0.9 load and `full` for the most pictures per second with a
    backlog. `engine_peers.py --sweep` compares all that are `tried` and names the best.
    """

    file: str
    path: str
    tried: tuple[Setting, ...]
    quick: Setting
    full: Setting


@dataclass(frozen=True)
class Serving:
    """A system that runs."""

    ask: Ask
    #: The process that was started, and all others from it.
    pid: int


BATCHES = tuple(Setting(size) for size in (1, 2, 4, 8, 16, 32))
WAITS = (Setting(4, 20), Setting(8, 50))

LOOPS = tuple(Setting(size, steps=True) for size in (2, 4, 8, 16, 32))
#: Two processes, each with a core of its own: nobody waits for another core at a step's end.
TWO = tuple(Setting(size, workers=2) for size in (4, 8, 16))
TWO_LOOPS = tuple(Setting(size, steps=True, workers=2) for size in (8, 16))

PEER = {
    "litserve": Peer(
        "icons_litserve.py",
        "/draw",
        (*BATCHES, *WAITS, *TWO, *LOOPS, *TWO_LOOPS),
        quick=Setting(32, steps=True),
        full=Setting(16, steps=True, workers=2),
    ),
    "mosec": Peer(
        "icons_mosec.py",
        "/inference",
        (*BATCHES, *WAITS, *TWO),
        quick=Setting(8, workers=2),
        full=Setting(8, workers=2),
    ),
    "ray": Peer(
        "icons_ray.py",
        "/draw",
        (*BATCHES, *WAITS, *TWO),
        quick=Setting(8, workers=2),
        full=Setting(8, workers=2),
    ),
}


@contextlib.contextmanager
def swell() -> Iterator[Serving]:
    """`swell up` as it comes: a task that is waited for, and whose answer is its file."""
    with swell_system.up(MODEL) as running:
        headers = {**running.headers, "prefer": f"wait={WAIT_S}", "accept": "image/png"}
        url = f"http://127.0.0.1:{running.port}/v1/tasks"

        async def ask(session: aiohttp.ClientSession, wish: Wish) -> bytes:
            task = {"model": MODEL, "input": wish}
            async with session.post(url, json=task, headers=headers) as answer:
                return await _file(answer, status=201)

        yield Serving(ask, running.pid)


@contextlib.contextmanager
def peer(name: str, setting: Setting) -> Iterator[Serving]:
    """A peer in one of its settings, ready to draw."""
    about, port = PEER[name], processes.free_port()
    with folder(name) as place:
        log = place / "peer.log"
        environment = {"PYTHONDONTWRITEBYTECODE": "1", "RAY_AUTH_MODE": "disabled"}
        command, more = _command(name, setting, port, place)
        with processes.running(command, log, environment | more, cwd=PEERS) as process:
            processes.until(lambda: _draws(port, about.path), READY_S, name, log)
            url = f"http://127.0.0.1:{port}{about.path}"

            async def ask(session: aiohttp.ClientSession, wish: Wish) -> bytes:
                async with session.post(url, json=wish) as answer:
                    return await _file(answer)

            yield Serving(ask, process.pid)


def _command(
    name: str, setting: Setting, port: int, place: Path
) -> tuple[list[str | Path], dict[str, str]]:
    command: list[str | Path] = [peers_python(), PEERS / PEER[name].file, "--port", str(port)]
    if name == "mosec":
        limit_ms = str(300_000)
        command += ["--address", "127.0.0.1", "--timeout", limit_ms, "--path", str(place / "ipc")]
        return command, {
            "MOSEC_BATCH": str(setting.batch),
            "MOSEC_WAIT_MS": str(max(1, setting.wait_ms)),
            "MOSEC_WORKERS": str(setting.workers),
        }
    command += ["--batch", str(setting.batch), "--wait-ms", str(setting.wait_ms)]
    command += ["--workers", str(setting.workers)]
    return command + ["--steps"] * setting.steps, {}


def _draws(port: int, path: str) -> bool:
    """Whether it answers with a picture."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, json.dumps(SMALLEST), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.read().startswith(b"\x89PNG") and response.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _file(answer: aiohttp.ClientResponse, status: int = 200) -> bytes:
    data = await answer.read()
    if answer.status != status or not data.startswith(b"\x89PNG"):
        raise RuntimeError(f"{answer.status} {data[:500]!r}")
    return data


def serial_images_per_s(wishes: list[Wish]) -> float:
    """What the bare loop does that draws and encodes one picture after another."""
    ran = subprocess.run(
        [str(peers_python()), str(PEERS / "painter.py"), json.dumps(wishes)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return float(ran.stdout)


def peers_python() -> Path:
    """The Python of the peers' environment, with the same versions of what the model needs."""
    return own_python(
        "engine-peers-venv",
        PEERS / "engine-requirements.txt",
        *("-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[embedded]"),
        *("-e", str(ROOT / "packages/swell-models")),
    )


def peer_versions() -> dict[str, str]:
    return versions(peers_python(), [*PEER, "onnxruntime", "numpy", "pillow"])
