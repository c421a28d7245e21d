"""Helpers that all stages share: the device, sizes, times, and a way to report rows."""

import contextlib
import gc
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Size = tuple[int, int]

#: Graphs of one block that a process may compile: as many as Swell allows.
_VARIANTS = 32

#: Repeated blocks of networks for which diffusers lists none.
_BLOCKS = {"SD3Transformer2DModel": ["JointTransformerBlock"]}


class NotPossible(Exception):
    """This machine cannot run a stage; the text says why."""


@dataclass
class Rig:
    """The device, the scale and the report of one stage.

    Args:
        device: As torch names it.
        tiny: Whether networks and pictures are miniatures.
        work: Folder for weights and data.
        tell: Receives each row of the stage's table.
    """

    device: str
    tiny: bool
    work: Path
    tell: Callable[[dict[str, Any]], None]
    #: When the stage is stopped, by `time.monotonic`.
    end_s: float = 0.0
    #: Whether the stage left something out for lack of time.
    is_cut: bool = False
    #: Objects that later stages of the process use again, by name.
    shared: dict[str, Any] = field(default_factory=dict)

    # Scale

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def sizes(self) -> list[Size]:
        """Sizes of pictures in px, the main one first and the smallest last."""
        return [(64, 64), (64, 96)] if self.tiny else [(1024, 1024), (832, 1472), (512, 512)]

    @property
    def long_steps(self) -> int:
        return 3 if self.tiny else 30

    @property
    def short_steps(self) -> int:
        return 2 if self.tiny else 4

    @property
    def half(self) -> torch.dtype:
        return torch.float16 if self.is_cuda else torch.float32

    @property
    def bfloat16(self) -> torch.dtype:
        return torch.bfloat16 if self.is_cuda else torch.float32

    @property
    def sdxl(self) -> Path:
        return self.work / "sdxl"

    @property
    def data(self) -> Path:
        return self.work / "data"

    # Report

    def row(self, what: str, **values: Any) -> None:
        """Report one row; the names of values are the columns, with `_` for a space."""
        named = {name.replace("_", " "): value for name, value in values.items()}
        self.tell({"what": what} | named)

    def fact(self, what: str, value: Any, unit: str = "") -> None:
        """Report one number with its unit, or a short text."""
        self.tell({"what": what, "value": value, "unit": unit})

    # Time

    def left_s(self) -> float:
        return self.end_s - time.monotonic()

    def has_time(self, seconds: float) -> bool:
        """Return whether that much time is left on a GPU; if not, the stage is cut short."""
        is_enough = self.left_s() > (min(seconds, 5) if self.tiny else seconds)
        self.is_cut = self.is_cut or not is_enough
        return is_enough

    def timed(self, call: Callable[[], Any], runs: int = 3, warm: int = 1) -> float:
        """Return the median of some calls in seconds, after calls that do not count."""
        for _ in range(warm):
            call()
        self.wait()
        taken = []
        for _ in range(runs):
            begin_s = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - begin_s)
        return statistics.median(taken)

    def milliseconds(self, call: Callable[[], Any], runs: int = 3, warm: int = 1) -> float:
        return round(1000 * self.timed(call, runs, warm), 2)

    # Memory

    def wait(self) -> None:
        """Wait until the device has done all of its work."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Free memory that nothing uses, and measure the peak again from here."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def gib(self, size_bytes: float) -> float:
        return round(size_bytes / 2**30, 3 if self.tiny else 2)

    def used_bytes(self) -> int:
        return torch.cuda.memory_allocated() if self.is_cuda else 0

    def peak_gib(self) -> float:
        return self.gib(torch.cuda.max_memory_allocated()) if self.is_cuda else 0.0

    def peak_of(self, call: Callable[[], Any]) -> float:
        """Return the GiB that a call needs at its peak, less those in use before it."""
        self.clear()
        before = self.used_bytes()
        call()
        self.wait()
        return self.gib(torch.cuda.max_memory_allocated() - before) if self.is_cuda else 0.0

    def require(self, gpu_gib: float = 0.0, disk_gib: float = 0.0) -> None:
        """Check that the machine has room.

        Raises:
            NotPossible: It has not.
        """
        if self.tiny:
            return
        if self.is_cuda and (free := self.gib(torch.cuda.mem_get_info()[0])) < gpu_gib:
            raise NotPossible(f"it needs {gpu_gib:g} GiB of GPU memory, and {free:g} are free")
        free = self.gib(shutil.disk_usage(self.work).free)
        if free < disk_gib:
            raise NotPossible(f"it needs {disk_gib:g} GiB of disk, and {free:g} are free")

    def require_cuda(self) -> None:
        """Check that the device is a GPU.

        Raises:
            NotPossible: It is not.
        """
        if not self.is_cuda:
            raise NotPossible("it needs a GPU")

    # Networks

    def compile_blocks(self, network: Any) -> None:
        """Compile the repeated blocks of a network as Swell does."""
        torch._dynamo.config.recompile_limit = _VARIANTS
        names = network._repeated_blocks or _BLOCKS.get(type(network).__name__, [])
        for module in network.modules():
            if type(module).__name__ in names:
                backend = "eager" if self.tiny else "inductor"
                module.compile(fullgraph=True, dynamic=True, backend=backend)


def label(size: Size) -> str:
    return f"{size[0]} x {size[1]} px"


def drop_from_page_cache(folder: Path) -> None:
    """Make the next read of a folder's files come from the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


@contextlib.contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    """Make new tensors have a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
