"""How soon does a model give its first result after its process was asked for, with warm caches?

A UNet of diffusers with half a billion random weights, 1 GB in bfloat16, makes one pass on tiny
latents. The clock runs from asking for the process to its answer; the file is in the page cache.

    plain     a fresh Python: import, `from_pretrained`, one pass
    fresh     a fresh Python: the file is read while torch is imported, then becomes the weights of
              a model made without any
    forked    the same without the imports: a fork of Swell's fork server, which has done them

The fork server listens on a socket and outlives its clients, so this is what a worker finds that
starts again on a machine where one ran before. `server_s` is what the server itself took: a machine
that has just started pays that once, and its first worker is then as fast as `fresh`.

Value: forked over plain, the median of rounds that pair them. `fresh_over_plain` is in the details.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_load import inside, swell_module
from machine import BENCH, quiet, report, say

FOLDER = BENCH / "checkpoint" / "unet"
FILE = FOLDER / "diffusion_pytorch_model.safetensors"
MODULES = ["torch", "diffusers.models.unets.unet_2d_condition", "engine_cold"]
CONFIG = {
    "sample_size": 64,
    "block_out_channels": (256, 512, 1024),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 768,
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (4, 8, 16),
}


# --- what runs in the processes ------------------------------------------------------------------


def unet() -> Any:
    return importlib.import_module("diffusers.models.unets.unet_2d_condition").UNet2DConditionModel


def one_pass(model: Any) -> str:
    """The result: a digest of what the network says."""
    torch = importlib.import_module("torch")
    seed = torch.Generator().manual_seed(1)
    latents, words = (
        torch.randn(shape, generator=seed).to(torch.bfloat16)
        for shape in ((1, 4, 8, 8), (1, 7, CONFIG["cross_attention_dim"]))
    )
    with torch.inference_mode():
        said = model(latents, torch.tensor(5), words).sample
    return f"{said.double().sum().item():.6f} {said.double().abs().sum().item():.6f}"


def plain() -> str:
    torch = importlib.import_module("torch")
    return one_pass(unet().from_pretrained(FOLDER, torch_dtype=torch.bfloat16).eval())


def ours() -> str:
    reading = swell_module("weights.reading").Reading(FILE).start()
    load = swell_module("weights.torch_tensors").load_torch
    config = json.loads((FOLDER / "config.json").read_text())
    with importlib.import_module("accelerate").init_empty_weights():
        model = unet().from_config(config)
    model.load_state_dict(load(reading), assign=True)
    return one_pass(model.eval())


def forked() -> None:
    """What the fork server calls: as `ours`, and then the same once more out of host memory."""
    with socket.socket(fileno=int(sys.argv[1])) as out:
        out.sendall(f"{ours()}\n".encode())


def make_model() -> None:
    if FILE.exists():
        FILE.chmod(0o444)
        return
    torch = importlib.import_module("torch")
    say("making a model of 1 GB")
    torch.manual_seed(0)
    model = unet()(**CONFIG).to(torch.bfloat16)
    say(f"{sum(value.numel() for value in model.parameters()) / 1e6:.0f} million weights")
    model.save_pretrained(FOLDER)
    # As the cache of weights keeps its files.
    FILE.chmod(0o444)


# --- the arms ------------------------------------------------------------------------------------


def spawn(role: str) -> tuple[float, str]:
    """Seconds until a fresh process has its result, and the result."""
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--inside", "--role", role]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = process.stdout.readline().decode().strip()
        spent = time.perf_counter() - begun
    return spent, said


class Forks:
    """A fork server on a socket, and forks of it."""

    def __init__(self, folder: Path) -> None:
        self.module = swell_module("worker.forkserver")
        self.path = folder / "fork.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it was ready."""
        begun = time.perf_counter()
        command = [sys.executable, __file__, "--inside", "--role", "server", str(self.path)]
        self.process = subprocess.Popen(command)

        async def ready() -> None:
            while True:
                try:
                    server = await self.module.ForkServer.connect(self.path)
                    break
                except self.module.ForkFailed:
                    await asyncio.sleep(0.02)
            await server.ready()
            await server.close()

        asyncio.run(ready())
        return time.perf_counter() - begun

    def one(self) -> tuple[float, str]:
        """Seconds until a client that has just come has its result, and the result."""

        async def ask() -> tuple[float, str]:
            begun = time.perf_counter()
            server = await self.module.ForkServer.connect(self.path)
            mine, theirs = socket.socketpair()
            process = await server.fork("engine_cold:forked", ["{0}"], [theirs.fileno()])
            theirs.close()
            mine.setblocking(False)
            said = await asyncio.get_running_loop().sock_recv(mine, 4096)
            spent = time.perf_counter() - begun
            await process.wait()
            mine.close()
            await server.close()
            return spent, said.decode().strip()

        return asyncio.run(ask())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def warm() -> None:
    """Have the file in the page cache."""
    with FILE.open("rb", buffering=0) as file:
        block = bytearray(16 << 20)
        while file.readinto(block):
            pass


def measure(rounds: int) -> None:
    make_model()
    arms: dict[str, Callable[[], tuple[float, str]]] = {
        "plain": lambda: spawn("plain"),
        "fresh": lambda: spawn("ours"),
    }
    spent: dict[str, list[float]] = {"plain": [], "fresh": [], "forked": []}
    results: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, quiet():
        forks = Forks(Path(folder))
        try:
            server_s = forks.start()
            arms["forked"] = forks.one
            for turn in range(rounds):
                names = list(arms) if turn % 2 == 0 else list(reversed(arms))
                for name in names:
                    warm()
                    seconds, said = arms[name]()
                    spent[name].append(seconds)
                    results.add(said)
                say(f"{turn}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in spent.items()))
        finally:
            forks.stop()
    report_on(spent, results, server_s)


def report_on(spent: dict[str, list[float]], results: set[str], server_s: float) -> None:
    def over_plain(name: str) -> list[float]:
        return [a / b for a, b in zip(spent[name], spent["plain"], strict=True)]

    pairs = over_plain("forked")
    detail = {
        "bytes": FILE.stat().st_size,
        "rounds": len(pairs),
        "median_s": {name: round(statistics.median(s), 3) for name, s in spent.items()},
        "range_s": {name: [round(min(s), 3), round(max(s), 3)] for name, s in spent.items()},
        "forked_over_plain_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "fresh_over_plain": round(statistics.median(over_plain("fresh")), 3),
        "server_s": round(server_s, 2),
        "results_agree": len(results) == 1,
    }
    report(statistics.median(pairs), detail, ok=len(results) == 1)


def serve(path: str) -> None:
    sys.argv = ["forkserver", "--socket", path, *MODULES]
    swell_module("worker.forkserver").main()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--role", nargs="+", default=[], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    match asked.role:
        case ["plain"]:
            print(plain(), flush=True)
        case ["ours"]:
            print(ours(), flush=True)
        case ["server", path]:
            serve(path)
        case _ if asked.inside:
            measure(asked.rounds)
        case _:
            return inside(__file__, "--rounds", str(asked.rounds))
    # Skip the destructors of native libraries, which say nothing about the result.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
