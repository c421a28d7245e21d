"""How long does it take to change the LoRA on a model's weights, against copying those weights?

The weights are linear layers of 1,280 by 1,280 in float32 on the CPU, as many as a LoRA of rank 16
and 20 MiB in half precision changes. Both LoRAs are loaded. Copying is what taking a LoRA off does:
each weight from the kept one, one after another.

Beside it, what comes before: bringing the file over HTTP from this machine into the weights cache,
hashed and on the disk, against reading the same address and writing it plainly, flushed; and
loading it. On a GPU the sums are done by the device, which this script does not measure.

Value: swap over copy, the median of rounds that pair them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from machine import folder, quiet, report, say
from swell.core.clock import SystemClock
from swell.net.url_policy import UrlPolicy
from swell.protocol.backend_client import RemoteDispatch
from swell.sdk.media import LoRA
from swell.weights.cache import WeightCache
from swell.weights.lora import read_lora
from swell.weights.lora_weights import AdaptedWeights
from swell.worker.lora_files import Loras

WIDTH = 1280


def lora_file(layers: int, rank: int, seed: int) -> bytes:
    """A LoRA in half precision, with the names of PEFT."""
    rng = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    data = bytearray()
    for number in range(layers):
        for part, shape in (("A", (rank, WIDTH)), ("B", (WIDTH, rank))):
            values = (rng.standard_normal(shape, np.float32) * 0.01).astype(np.float16)
            header[f"unet.blocks.{number}.lora_{part}.weight"] = {
                "dtype": "F16",
                "shape": list(shape),
                "data_offsets": [len(data), len(data) + values.nbytes],
            }
            data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


class Rig:
    """Weights, two LoRAs, and a server that has one of them."""

    def __init__(self, place: Path, mib: float, rank: int) -> None:
        layers = round(mib * 2**20 / (2 * 2 * WIDTH * rank))
        rng = np.random.default_rng(0)
        # One block, so that making hundreds of layers takes no time.
        block = rng.standard_normal((WIDTH, WIDTH), np.float32)
        self.weights = {f"blocks.{number}.weight": block + number for number in range(layers)}
        self.base = {name: each.copy() for name, each in self.weights.items()}
        self.paths = [place / f"{seed}.safetensors" for seed in (1, 2)]
        for seed, path in enumerate(self.paths, 1):
            path.write_bytes(lora_file(layers, rank, seed))
        self.loras = [LoRA(path) for path in self.paths]
        self.adapted = AdaptedWeights(self.weights, base=self.base)
        self.file = self.paths[0].read_bytes()
        self.place = place
        self.port = self.serve()
        self.turn = 0

    def serve(self) -> int:
        file = self.file

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(file)))
                self.end_headers()
                self.wfile.write(file)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    # Arms

    def copy(self) -> None:
        for name, weight in self.weights.items():
            np.copyto(weight, self.base[name])

    def swap(self) -> None:
        self.turn += 1
        self.adapted.apply([self.loras[self.turn % 2]])

    def off(self) -> None:
        self.adapted.apply(())

    def load(self) -> None:
        read_lora(self.paths[0], "a")

    def url(self) -> str:
        self.turn += 1
        return f"http://127.0.0.1:{self.port}/{self.turn}.safetensors"

    def plain(self) -> None:
        with urllib.request.urlopen(self.url()) as answer:  # our own server
            data = answer.read()
        with (self.place / "plain").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    async def prefetch(self) -> float:
        """Seconds to bring the file, of a worker that is there."""
        cache = WeightCache(self.place / f"cache-{self.turn}")
        # The file lies on this machine, which users' URLs may not name.
        trusting = UrlPolicy(trusts_all=True)
        dispatch = RemoteDispatch(f"http://127.0.0.1:{self.port}", "none", policy=trusting)
        loras = Loras(dispatch, cache, SystemClock(), 1 << 30)
        url = self.url()
        begun = time.perf_counter()
        brought = await loras.bring([url], {})
        spent = time.perf_counter() - begun
        brought[url].close()
        await dispatch.close()
        return spent

    def check(self) -> None:
        """What is on is what was asked for, and it comes off whole."""
        self.adapted.apply([self.loras[1]])
        name, weight = next(iter(self.weights.items()))
        change = read_lora(self.paths[1], "a")["unet.blocks.0"]
        assert np.abs(weight - (self.base[name] + change.up @ change.down)).max() < 1e-5
        self.adapted.apply(())
        assert all(np.array_equal(each, self.base[n]) for n, each in self.weights.items())


def timed(arm: Callable[[], Any]) -> float:
    gc.collect()
    begun = time.perf_counter()
    arm()
    return time.perf_counter() - begun


def measure(rounds: int, mib: float, rank: int) -> None:
    with folder("lora") as place:
        rig = Rig(place, mib, rank)
        rig.check()
        rig.swap()
        spent: dict[str, list[float]] = {}
        with quiet():
            for number in range(rounds):
                arms: list[tuple[str, Callable[[], float]]] = [
                    ("copy", lambda: timed(rig.copy)),
                    ("swap", lambda: timed(rig.swap)),
                    ("load", lambda: timed(rig.load)),
                    ("plain", lambda: timed(rig.plain)),
                    ("prefetch", lambda: asyncio.run(rig.prefetch())),
                ]
                for name, arm in arms if number % 2 == 0 else reversed(arms):
                    spent.setdefault(name, []).append(arm())
                spent.setdefault("off", []).append(timed(rig.off))
                rig.swap()
                say(
                    f"{number}: "
                    + ", ".join(f"{n} {1000 * s[-1]:.0f} ms" for n, s in spent.items())
                )
        rig.check()
        report_on(spent, rig, rank)


def report_on(spent: dict[str, list[float]], rig: Rig, rank: int) -> None:
    def over(name: str, base: str) -> list[float]:
        return [a / b for a, b in zip(spent[name], spent[base], strict=True)]

    ratio = statistics.median(over("swap", "copy"))
    detail = {
        "lora_bytes": len(rig.file),
        "rank": rank,
        "weights": len(rig.weights),
        "weights_bytes": sum(each.nbytes for each in rig.weights.values()),
        "rounds": len(spent["swap"]),
        "median_ms": {n: round(1000 * statistics.median(s), 1) for n, s in spent.items()},
        "swap_over_copy_range": [round(pick(over("swap", "copy")), 2) for pick in (min, max)],
        "prefetch_over_plain": round(statistics.median(over("prefetch", "plain")), 2),
    }
    report(ratio, detail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=float, default=20.0)
    parser.add_argument("--rank", type=int, default=16)
    asked = parser.parse_args()
    measure(asked.rounds, asked.mib, asked.rank)
    return 0


if __name__ == "__main__":
    sys.exit(main())
