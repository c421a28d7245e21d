"""How long does a model of 1 GB take from host memory back to its device, against a plain copy?

The device here is the CPU, so a swap is a copy from memory to memory; on a GPU the same call is one
transfer of one pinned block, which this script does not measure. Raw is `memmove` between two
blocks that are in memory already, with as many threads as make it fastest here.

Value: swapping in over raw, the median of rounds that pair them, into memory that is used again.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import mmap
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from engine_load import checkpoint, drop, inside, swell_module
from machine import quiet, report, say


class Rig:
    """A model's copy in host memory, and the blocks to copy to."""

    def __init__(self) -> None:
        self.path = checkpoint()
        self.torch = importlib.import_module("torch")
        self.swell = swell_module("weights.torch_tensors")
        self.memory = swell_module("weights.fast_file_reader").host_memory
        self.copy, self.tensors = self.swell.TorchHostCopy.load(self.path, "cpu")
        self.size = self.copy.size_bytes
        self.block = self.memory(self.size)
        self.block[:] = 1
        self.target = self.torch.from_numpy(self.block)
        self.on_target = self.copy.swap_in(into=self.target)
        self.threads = 1

    def check(self) -> None:
        """What comes back is what was loaded."""
        for name, tensor in self.swell.load_torch(self.path).items():
            assert self.torch.equal(self.on_target[name], tensor), name

    def memmove(self) -> None:
        share = -(-self.size // self.threads)
        into, source = self.block.ctypes.data, self.copy.block.ctypes.data
        parts = [
            (into + at, source + at, min(share, self.size - at))
            for at in range(0, self.size, share)
        ]
        workers = [threading.Thread(target=ctypes.memmove, args=part) for part in parts[1:]]
        for worker in workers:
            worker.start()
        ctypes.memmove(*parts[0])
        for worker in workers:
            worker.join()

    def fresh(self) -> None:
        self.copy.swap_in("cpu")

    def swap_out(self) -> None:
        self.copy.swap_out(self.target)

    def load(self) -> None:
        """Load, and touch each page: a mapped file is read only then."""
        for tensor in self.swell.load_torch(self.path).values():
            tensor.view(-1).view(self.torch.uint8)[:: mmap.PAGESIZE].sum()

    def fastest(self) -> int:
        """How many threads make `memmove` fastest here."""
        spent: dict[int, list[float]] = {}
        for _ in range(5):
            for count in {1, 2, min(4, os.cpu_count() or 1)}:
                self.threads = count
                spent.setdefault(count, []).append(timed(self.memmove))
        return min(spent, key=lambda count: statistics.median(spent[count]))

    def arms(self) -> dict[str, Callable[[], Any]]:
        return {
            "raw": self.memmove,
            "swap in": lambda: self.copy.swap_in(into=self.target),
            "swap in, fresh memory": self.fresh,
            "swap out": self.swap_out,
            "load, page cache": self.load,
            "load, cold": self.load,
        }


def timed(arm: Callable[[], Any]) -> float:
    gc.collect()
    begun = time.perf_counter()
    arm()
    return time.perf_counter() - begun


def measure(rounds: int) -> None:
    rig = Rig()
    rig.check()
    spent: dict[str, list[float]] = {name: [] for name in rig.arms()}
    with quiet():
        rig.threads = rig.fastest()
        for turn in range(rounds):
            names = list(spent) if turn % 2 == 0 else list(reversed(spent))
            for name in names:
                if name == "load, cold":
                    drop(rig.path)
                elif name == "load, page cache":
                    rig.path.read_bytes()
                spent[name].append(timed(rig.arms()[name]))
            say(f"{turn}: " + ", ".join(f"{n} {1000 * s[-1]:.0f} ms" for n, s in spent.items()))
    rig.check()
    report_on(spent, rig)


def report_on(spent: dict[str, list[float]], rig: Rig) -> None:
    def over(name: str, base: str) -> list[float]:
        return [a / b for a, b in zip(spent[name], spent[base], strict=True)]

    detail = {
        "bytes": rig.size,
        "tensors": len(rig.tensors),
        "rounds": len(spent["raw"]),
        "raw_threads": rig.threads,
        "median_ms": {n: round(1000 * statistics.median(s), 1) for n, s in spent.items()},
        "least_ms": {n: round(1000 * min(s), 1) for n, s in spent.items()},
        "over_raw": {n: round(statistics.median(over(n, "raw")), 2) for n in spent},
        "swap_in_over_raw_range": [round(pick(over("swap in", "raw")), 2) for pick in (min, max)],
        "cold_load_over_swap_in": round(statistics.median(over("load, cold", "swap in")), 1),
    }
    report(statistics.median(over("swap in", "raw")), detail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.inside:
        return inside(__file__, "--rounds", str(asked.rounds))
    measure(asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
