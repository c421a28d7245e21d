"""Weights as tensors of torch.

It imports torch, so nothing imports it but models that need torch.

Measured by `benchmarks/engine_load.py` against the loaders that others made; our own reading is the
default because it was the fastest there.
"""

import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import _TYPES

from swell.weights.fast_file_reader import Reading, host_memory
from swell.weights.formats import Tensor, read_header

#: Bytes of a pinned buffer through which weights go to a GPU.
_BUFFER_BYTES: Final = 64 << 20


def from_block(block: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    """Return a tensor on the bytes of its file; a copy where they are not aligned.

    Args:
        block: Shapes: (file's size,) uint8, on any device.
        tensor: Its location in the block.

    Raises:
        ValueError: torch has no such type.
    """
    if tensor.kind not in _TYPES:
        raise ValueError(f"{tensor.name}: torch has no type {tensor.kind}")
    flat = block[tensor.start : tensor.stop]
    if tensor.start % tensor.item_bytes:
        flat = flat.clone()
    return flat.view(_TYPES[tensor.kind]).reshape(tensor.shape)


def load_torch(source: Path | Reading, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read the tensors of one safetensors file onto a device.

    The file becomes one block on the device; finished parts are copied there while others are read.
    Give the result to `load_state_dict(…, assign=True)` of a model made on the `meta` device, so
    that no weight is made or copied twice.

    Args:
        source: The file, or its `Reading` where the device is the CPU: one that was started before
            torch was imported has read most of the file by the time that it is.
        device: As torch names it.

    Raises:
        RefusedFormat: It is not a safetensors file.
        BrokenWeights: It is not whole, or its header is wrong.
        OSError: It cannot be read.
    """
    if torch.device(device).type == "cpu":
        reading = source if isinstance(source, Reading) else Reading(source)
        header = read_header(reading.path)
        block = torch.from_numpy(reading.start().wait())
        return {tensor.name: from_block(block, tensor) for tensor in header.tensors}
    path = source.path if isinstance(source, Reading) else source
    header = read_header(path)
    block = _read_onto(path, header.file_bytes, torch.device(device))
    return {tensor.name: from_block(block, tensor) for tensor in header.tensors}


def _read_onto(path: Path, size_bytes: int, device: torch.device) -> torch.Tensor:
    """Return a file's bytes on a device. Shape: (size_bytes,) uint8.

    Two small pinned buffers take turns: pinning the whole file would take seconds, and memory that
    the operating system can use for nothing else.
    """
    memory = host_memory(size_bytes)
    host = torch.from_numpy(memory)
    target = torch.empty(size_bytes, dtype=torch.uint8, device=device)
    is_cuda = device.type == "cuda"
    buffers = [torch.empty(_BUFFER_BYTES, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
    copied = [torch.cuda.Event() if is_cuda else None for _ in buffers]
    turn = 0
    for start, stop in Reading(path, into=memory).start().parts():
        for at in range(start, stop, _BUFFER_BYTES):
            end = min(stop, at + _BUFFER_BYTES)
            buffer, event = buffers[turn % 2][: end - at], copied[turn % 2]
            if event is not None:
                event.synchronize()
            buffer.copy_(host[at:end])
            target[at:end].copy_(buffer, non_blocking=True)
            if event is not None:
                event.record(torch.cuda.current_stream(device))
            turn += 1
    _synchronize(target)
    return target


class TorchHostCopy:
    """The tensors of a model in one block of host memory, pinned where a GPU is.

    Args:
        tensors: The location of each tensor in the block.
        block: Shapes: (size,) uint8, on the host.
    """

    def __init__(self, tensors: tuple[Tensor, ...], block: NDArray[np.uint8]) -> None:
        self.tensors = tensors
        self.block = block

    @classmethod
    def load(cls, path: Path, device: str) -> tuple["TorchHostCopy", dict[str, torch.Tensor]]:
        """Read a file; return its copy on the host and its tensors on the device.

        Raises:
            RefusedFormat, BrokenWeights, OSError: As `load_torch`.
        """
        header = read_header(path)
        # Anonymous memory, since the page cache cannot be pinned and may be evicted.
        copy = cls(header.tensors, host_memory(header.file_bytes))
        _pin(copy)
        host = torch.from_numpy(copy.block)
        target = torch.empty(copy.size_bytes, dtype=torch.uint8, device=device)
        for start, stop in Reading(path, into=copy.block).start().parts():
            target[start:stop].copy_(host[start:stop], non_blocking=True)
        _synchronize(target)
        return copy, copy.on(target)

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> "TorchHostCopy":
        """Copy tensors from their device into one block of the host."""
        kinds = {dtype: kind for kind, dtype in _TYPES.items()}
        table, at = [], 0
        for name, value in tensors.items():
            table.append(
                Tensor(name, kinds[value.dtype], tuple(value.shape), at, at + value.nbytes)
            )
            at = -(-(at + value.nbytes) // 64) * 64
        made = cls(tuple(table), host_memory(at))
        _pin(made)
        made.keep(tensors)
        return made

    @property
    def size_bytes(self) -> int:
        """Size in host memory."""
        return self.block.nbytes

    def keep(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Overwrite the copy with tensors from any device."""
        host = torch.from_numpy(self.block)
        # As bytes: in the block a tensor need not be aligned.
        for tensor in self.tensors:
            flat = tensors[tensor.name].contiguous().reshape(-1)
            host[tensor.start : tensor.stop].copy_(flat.view(torch.uint8))

    def swap_in(
        self, device: str = "cpu", into: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors on the device, by one copy of the whole block.

        Args:
            device: As torch names it; ignored if `into` is given.
            into: A block on the device to use again. Shapes: (at least size_bytes,) uint8.
        """
        target = into
        if target is None and torch.device(device).type == "cpu":
            target = torch.from_numpy(host_memory(self.size_bytes))
        elif target is None:
            target = torch.empty(self.size_bytes, dtype=torch.uint8, device=device)
        target[: self.size_bytes].copy_(torch.from_numpy(self.block), non_blocking=True)
        _synchronize(target)
        return self.on(target)

    def on(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors as views of a block."""
        return {tensor.name: from_block(block, tensor) for tensor in self.tensors}


def _pin(copy: TorchHostCopy) -> None:
    """Have the GPU's driver lock the pages, so that copies run by themselves at full speed."""
    if not torch.cuda.is_available():
        return
    address, runtime = copy.block.ctypes.data, torch.cuda.cudart()
    try:
        torch.cuda.check_error(runtime.cudaHostRegister(address, copy.block.nbytes, 0))
    except RuntimeError:
        # Without locked memory, copies are slower. CUDA remembers the error and
        # reports it to the next launch, so this launch takes it.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda")
        return
    weakref.finalize(copy, runtime.cudaHostUnregister, address)


def _synchronize(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
