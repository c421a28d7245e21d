"""How long until the first picture after `swell worker` starts, with warm caches?

The command `swell worker` runs against a real backend where a task waits for it, with a model whose
`load` uses Swell's reading of weights. The clock runs from the start of the command to the task's
success: the interpreter, the model process, 1 GB of weights, registration, lease, one pass,
encoding and upload. The other arm is a script with `from_pretrained`, one pass and a saved picture,
from its start to its picture. Same network, same weights in the page cache, same bits in the
picture.

    worker    `swell worker`, from its start
    restart   the model process is killed in a worker that goes on, from the kill to the success of
              the next task

Value: worker over plain, the median of rounds that pair them. Importing torch and diffusers takes
most of the time of all arms.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import processes
from engine_load import inside
from machine import BENCH, ROOT, quiet, report, say
from swell_system import Swell, idle_worker, program, started, worker_key

MODEL = "bench/pass"
SCRIPT = Path(__file__).with_name("engine_cold_model.py")
PATIENCE_S = 120.0
#: What loads the model, in a worker and in a script.
LIBRARIES = ("torch", "diffusers", "accelerate", "safetensors")
FOLDER = BENCH / "checkpoint" / "unet-f32"
FILE = FOLDER / "diffusion_pytorch_model.safetensors"
CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (192, 384, 704),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 768,
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (4, 8, 16),
}


def make_weights() -> None:
    if FILE.exists():
        FILE.chmod(0o444)
        return
    torch = importlib.import_module("torch")
    unets = importlib.import_module("diffusers.models.unets.unet_2d_condition")
    say("making a model of 1 GB")
    torch.manual_seed(0)
    unets.UNet2DConditionModel(**CONFIG).save_pretrained(FOLDER)
    # As the cache of weights keeps its files.
    FILE.chmod(0o444)


def warm_page_cache() -> None:
    with FILE.open("rb", buffering=0) as file:
        block = bytearray(16 << 20)
        while file.readinto(block):
            pass


def pixels(data: bytes) -> bytes:
    image = importlib.import_module("PIL.Image")
    return bytes(image.open(io.BytesIO(data)).tobytes())


# --- the arms ------------------------------------------------------------------------------------


class Arms:
    """Every way to a first picture: each returns its seconds and its pixels."""

    def __init__(self, server: Swell, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.key = worker_key(server)

    def plain(self) -> tuple[float, bytes]:
        path = self.folder / "plain.png"
        begun = time.perf_counter()
        command = [sys.executable, str(SCRIPT), str(path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"saved\n"
            spent = time.perf_counter() - begun
        return spent, pixels(path.read_bytes())

    def worker(self) -> tuple[float, bytes]:
        task = self._submit()
        begun = time.perf_counter()
        with self._running():
            self._wait(task)
            spent = time.perf_counter() - begun
            return spent, self._picture(task)

    def restart(self) -> tuple[float, bytes]:
        with self._running() as worker:
            self._picture(self._submit())
            before = model_pid(worker)
            begun = time.perf_counter()
            os.kill(before, 9)
            said = self._picture(self._submit())
            spent = time.perf_counter() - begun
            assert model_pid(worker) != before
        return spent, said

    @contextlib.contextmanager
    def _running(self) -> Iterator[int]:
        url = f"http://127.0.0.1:{self.server.port}"
        place = ["--url", url, "--models", str(SCRIPT), "--data", str(self.folder / "cold")]
        told = {"SWELL_WORKER__TOKEN": self.key}
        log = self.folder / "worker.log"
        with processes.running([program(), "worker", *place], log, told, cwd=ROOT) as process:
            yield process.pid

    def _submit(self) -> str:
        return str(self.server.ask("POST", "/v1/tasks", {"model": MODEL, "input": {}})["id"])

    def _wait(self, task: str) -> Any:
        ends = time.perf_counter() + PATIENCE_S
        while time.perf_counter() < ends:
            said = self.server.ask("GET", f"/v1/tasks/{task}")
            if said["state"] not in ("queued", "running"):
                assert said["state"] == "succeeded", said
                return said
            time.sleep(0.01)
        raise TimeoutError((self.folder / "worker.log").read_text()[-2000:])

    def _picture(self, task: str) -> bytes:
        url = self._wait(task)["artifacts"][0]["url"]
        request = importlib.import_module("urllib.request")
        with request.urlopen(url) as answer:
            return pixels(answer.read())


def model_pid(worker: int) -> int:
    psutil = importlib.import_module("psutil")
    for each in psutil.Process(worker).children(recursive=True):
        if "swell.runtime.model_process_main" in each.cmdline():
            return int(each.pid)
    raise LookupError("the worker has no model process")


# --- the rounds ----------------------------------------------------------------------------------


def measure(rounds: int) -> None:
    make_weights()
    with (
        tempfile.TemporaryDirectory(dir=BENCH) as made,
        started("serve", Path(made)) as server,
        quiet(),
    ):
        arms = Arms(server, Path(made))
        with arms._running():
            # The worker registers the model.
            processes.until(lambda: knows(server), PATIENCE_S, MODEL, Path(made) / "worker.log")
        with idle_worker(server, MODEL):
            spent, agree = take_turns(arms, rounds)
    report_on(spent, agree)


def knows(server: Swell) -> bool:
    try:
        return bool(server.ask("GET", f"/v1/models/{MODEL}"))
    except RuntimeError:
        return False


def take_turns(arms: Arms, rounds: int) -> tuple[dict[str, list[float]], bool]:
    each: dict[str, Callable[[], tuple[float, bytes]]] = {
        "plain": arms.plain,
        "worker": arms.worker,
        "restart": arms.restart,
    }
    spent: dict[str, list[float]] = {name: [] for name in each}
    results: set[bytes] = set()
    for turn in range(rounds):
        for name in list(each) if turn % 2 == 0 else list(reversed(each)):
            warm_page_cache()
            seconds, said = each[name]()
            spent[name].append(seconds)
            results.add(said)
        say(f"{turn}: " + ", ".join(f"{name} {s[-1]:.2f} s" for name, s in spent.items()))
    return spent, len(results) == 1


def report_on(spent: dict[str, list[float]], agree: bool) -> None:
    def over_plain(name: str) -> list[float]:
        return [a / b for a, b in zip(spent[name], spent["plain"], strict=True)]

    pairs = over_plain("worker")
    detail = {
        "bytes": FILE.stat().st_size,
        "rounds": len(pairs),
        "median_s": {name: round(statistics.median(s), 3) for name, s in spent.items()},
        "range_s": {name: [round(min(s), 3), round(max(s), 3)] for name, s in spent.items()},
        "worker_over_plain_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "restart_over_plain": round(statistics.median(over_plain("restart")), 3),
        "pictures_agree": agree,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }
    report(statistics.median(pairs), detail, ok=agree)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.inside:
        return inside(__file__, "--rounds", str(asked.rounds), with_swell=True)
    measure(asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
