"""How long does a checkpoint of 1 GB take to load, against what the disk can do?

A synthetic checkpoint, with tensors of the sizes that a diffusion model has, is loaded by Swell and
by the loaders that others made, in turns. A load ends when each page of each tensor has been
touched, since a mapped file is read only then. Cold means that the file was dropped from the page
cache before (`posix_fadvise`; `cold_left` tells which part of it stayed there all the same); the
machine below may still hold it in a cache of its own, for all arms alike.

Raw is one thread that reads the same file in order, 16 MiB at a time, into the same memory each
time: no loader can do that, since its tensors need room.

Value: Swell's cold load over raw's cold read, the median of rounds that pair them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import mmap
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_solver import environment as torch_environment
from machine import BENCH, ROOT, quiet, report, say

PACKAGES = [
    "safetensors", "runai-model-streamer", "fastsafetensors", "accelerate", "msgspec", "aiohttp",
]  # fmt: skip
CHECKPOINT = BENCH / "checkpoint" / "model.safetensors"
SIZE_BYTES = 1_000_000_000
PAGE = mmap.PAGESIZE
#: Shapes of SDXL's attention blocks, feed-forwards and convolutions, again and again.
SHAPES = [
    (1280, 1280, 3, 3), (1280,), (1280, 1280), (1280, 1280), (1280, 1280), (10240, 1280), (10240,),
    (1280, 5120), (1280,), (640, 640, 3, 3), (640,), (320, 320, 3, 3), (1280, 2048), (1280,),
]  # fmt: skip


# --- the environment -----------------------------------------------------------------------------


def environment() -> Path:
    """The Python that has torch and every loader, made on first use."""
    python = torch_environment()
    mark = python.parent.parent / "installed-loaders"
    wanted = " ".join(PACKAGES)
    if mark.exists() and mark.read_text() == wanted:
        return python
    say("adding the loaders to the environment of diffusers")
    install = [str(python), "-m", "pip", "install", "-q", *PACKAGES]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    mark.write_text(wanted)
    return python


def environment_with_swell() -> Path:
    """The same with Swell itself, as it is here."""
    python = environment()
    if not (python.parent / "swell").exists():
        say("adding Swell to the environment of diffusers")
        install = [str(python), "-m", "pip", "install", "-q", "-e", str(ROOT)]
        install += ["-c", str(ROOT / "constraints.txt")]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    return python


def inside(script: str, *arguments: str, with_swell: bool = False) -> int:
    """Run `script` again with the Python that has torch."""
    variables = {**os.environ, "PYTHONWARNINGS": "ignore"}
    python = environment_with_swell() if with_swell else environment()
    command = [str(python), script, "--inside", *arguments]
    return subprocess.run(command, env=variables, check=False).returncode


def swell_module(name: str) -> types.ModuleType:
    """A module of Swell by itself: what all of Swell needs is not installed here."""
    if "swell" not in sys.modules:
        package = types.ModuleType("swell")
        package.__path__ = [str(ROOT / "src" / "swell")]
        sys.modules["swell"] = package
    return importlib.import_module(f"swell.{name}")


def checkpoint() -> Path:
    """The checkpoint, made on first use: random float16, 1 GB."""
    if CHECKPOINT.exists():
        return CHECKPOINT
    torch, save = importlib.import_module("torch"), importlib.import_module("safetensors.torch")
    say("making a checkpoint of 1 GB")
    seed, tensors, size = torch.Generator().manual_seed(0), {}, 0
    while size < SIZE_BYTES:
        number = len(tensors)
        value = torch.randn(SHAPES[number % len(SHAPES)], generator=seed).half()
        tensors[f"blocks.{number // len(SHAPES)}.layers.{number % len(SHAPES)}.weight"] = value
        size += value.nbytes
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    partial = CHECKPOINT.with_suffix(".partial")
    save.save_file(tensors, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    # As the cache of weights keeps its files.
    partial.chmod(0o444)
    partial.rename(CHECKPOINT)
    return CHECKPOINT


# --- the page cache ------------------------------------------------------------------------------


def drop(path: Path) -> None:
    """Ask for the file to leave the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_part(path: Path) -> float:
    """Which part of the file is in the page cache, by asking 1,000 places without waiting."""
    size = path.stat().st_size
    byte, hits = bytearray(1), 0
    with path.open("rb") as file:
        for number in range(1000):
            with contextlib.suppress(BlockingIOError):
                hits += os.preadv(file.fileno(), [byte], size * number // 1000, os.RWF_NOWAIT)
    return hits / 1000


# --- the arms ------------------------------------------------------------------------------------


class Arms:
    """Every way to load; made only where torch is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torch = importlib.import_module("torch")
        self.plain_load = importlib.import_module("safetensors.torch").load_file
        self.runai = importlib.import_module("runai_model_streamer")
        self.fast = importlib.import_module("fastsafetensors")
        self.swell = swell_module("weights.torch_tensors")
        self.swell_numpy = swell_module("weights.safetensors_loader")
        self.scratch = memoryview(mmap.mmap(-1, 16 << 20))
        self.scratch[:] = bytes(len(self.scratch))

    def all(self) -> dict[str, Callable[[], Any]]:
        return {
            "raw": self.raw,
            "swell": lambda: self.touch(self.swell.load_torch(self.path)),
            "swell, cached reads": self.run_cached,
            "swell, numpy": self.numpy,
            "safetensors": lambda: self.touch(self.plain_load(self.path)),
            "runai-model-streamer": self.run_runai,
            "fastsafetensors": self.run_fast,
        }

    def raw(self) -> None:
        with self.path.open("rb", buffering=0) as file:
            while file.readinto(self.scratch):
                pass

    def touch(self, tensors: dict[str, Any]) -> None:
        """Read one byte of each page, as the first pass through a network does."""
        for tensor in tensors.values():
            tensor.view(-1).view(self.torch.uint8)[::PAGE].sum()

    def run_cached(self) -> None:
        reading = swell_module("weights.fast_file_reader").Reading(self.path, direct=False)
        self.touch(self.swell.load_torch(reading))

    def numpy(self) -> None:
        for array in self.swell_numpy.load(self.path).values():
            array.reshape(-1).view("u1")[::PAGE].sum()

    def run_runai(self) -> None:
        # Its buffer is used again for what comes next, so that tensors must be copied out of it.
        with self.runai.SafetensorsStreamer() as streamer:
            streamer.stream_file(str(self.path))
            self.touch({name: tensor.clone() for name, tensor in streamer.get_tensors()})

    def run_fast(self) -> None:
        loader = self.fast.SafeTensorsFileLoader(self.fast.SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: [str(self.path)]})
        buffer = loader.copy_files_to_device()
        self.touch({name: buffer.get_tensor(name) for name in buffer.key_to_rank_lidx})
        buffer.close()
        loader.close()


def check(arms: Arms) -> None:
    """Swell's tensors are those that the format's own library reads."""
    ours, theirs = arms.swell.load_torch(arms.path), arms.plain_load(arms.path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert arms.torch.equal(ours[name], tensor), name


def timed(arms: Arms, cold: bool, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds per arm and round; and the largest part of the file that stayed in the page cache."""
    spent: dict[str, list[float]] = {name: [] for name in arms.all()}
    left = 0.0
    for turn in range(rounds):
        names = list(spent)
        for name in names if turn % 2 == 0 else reversed(names):
            if cold:
                drop(arms.path)
                left = max(left, cached_part(arms.path))
            else:
                arms.raw()
            begun = time.perf_counter()
            arms.all()[name]()
            spent[name].append(time.perf_counter() - begun)
        say(f"{'cold' if cold else 'warm'} {turn}: " + _told({n: s[-1] for n, s in spent.items()}))
    return spent, left


def _told(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def summary(spent: dict[str, list[float]], size: int) -> dict[str, Any]:
    found = {}
    for name, seconds in spent.items():
        pairs = [mine / raw for mine, raw in zip(seconds, spent["raw"], strict=True)]
        found[name] = {
            "median_s": round(statistics.median(seconds), 3),
            "least_s": round(min(seconds), 3),
            "gb_per_s": round(size / statistics.median(seconds) / 1e9, 2),
            "over_raw": round(statistics.median(pairs), 2),
            "over_raw_range": [round(min(pairs), 2), round(max(pairs), 2)],
        }
    return found


def measure(rounds: int) -> None:
    path = checkpoint()
    arms = Arms(path)
    check(arms)
    with quiet():
        cold, left = timed(arms, True, rounds)
        warm, _ = timed(arms, False, rounds)
    size = path.stat().st_size
    metadata = importlib.import_module("importlib.metadata")
    detail = {
        "bytes": size,
        "rounds": rounds,
        "cold": summary(cold, size),
        "warm": summary(warm, size),
        "cold_left": left,
        "versions": {name: metadata.version(name) for name in ["torch", *PACKAGES[:3]]},
    }
    value = detail["cold"]["swell"]["over_raw"]
    report(value, detail, ok=left < 0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        return inside(__file__, "--rounds", str(options.rounds))
    measure(options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
