"""Tensors that wait in host memory for their turn on the device.

Loading from disk is slow beside a copy in memory. A model that must leave a device for another one
keeps its tensors here, in one block in the order of its file. Weights do not change while they
serve, so leaving costs nothing: the device's copy is dropped. Coming back is one copy of one block.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from swell.weights.fast_file_reader import host_memory
from swell.weights.formats import Header, Tensor
from swell.weights.safetensors_loader import Weights, load, view

#: More threads than this do not make a memory bus faster.
COPY_THREADS: Final = 4

#: Below this, starting threads costs more than they save.
COPY_ALONE_BYTES: Final = 16 << 20

_KINDS: Final[Mapping[str, str]] = {
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<u2": "U16",
    "<i2": "I16",
    "<f2": "F16",
    "<u4": "U32",
    "<i4": "I32",
    "<f4": "F32",
    "<u8": "U64",
    "<i8": "I64",
    "<f8": "F64",
    "<c8": "C64",
}

#: Each tensor of a block begins at a multiple of this, so that vector instructions may be used.
_ALIGN_BYTES: Final = 64


class HostCopy:
    """The tensors of a model in one block of host memory.

    Args:
        tensors: Where each tensor lies in the block.
        block: Shapes: (size,) uint8.

    Guarantees:
        The block is never written to, except by `swap_out` and `keep`.
    """

    def __init__(self, tensors: Iterable[Tensor], block: NDArray[np.uint8]) -> None:
        self.tensors = tuple(tensors)
        self.block = block

    @classmethod
    def load(cls, path: Path) -> "HostCopy":
        """Read a safetensors file into memory of its own, which is the copy.

        Raises:
            RefusedFormat, BrokenWeights, OSError: As `swell.weights.load`.
        """
        # Not the page cache's: the system may take its pages away.
        return cls.of_weights(load(path, into=host_memory(path.stat().st_size)))

    @classmethod
    def of_weights(cls, weights: Weights) -> "HostCopy":
        """Take over what `load` has read, without a copy."""
        header: Header = weights.header
        return cls(header.tensors, weights.memory[: header.file_bytes])

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "HostCopy":
        """Copy arrays, each of a type that safetensors knows, into one fresh block.

        Raises:
            ValueError: An array is of another type.
        """
        tensors, at = [], 0
        for name, array in arrays.items():
            kind = _KINDS.get(array.dtype.str)
            if kind is None:
                raise ValueError(f"{name}: {array.dtype} is not a type of weights")
            tensors.append(Tensor(name, kind, array.shape, at, at + array.nbytes))
            at = -(-(at + array.nbytes) // _ALIGN_BYTES) * _ALIGN_BYTES
        made = cls(tensors, host_memory(at)[:at])
        made.keep(arrays)
        return made

    @property
    def size_bytes(self) -> int:
        """What it takes of the host's memory."""
        return self.block.nbytes

    def swap_out(self, block: NDArray[np.uint8]) -> None:
        """Copy back a block that `swap_in` has filled, if its tensors have changed meanwhile."""
        copy_block(self.block, block[: self.size_bytes])

    def keep(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays, wherever they are, over what is here."""
        # As bytes: in the block a tensor need not be aligned.
        for tensor in self.tensors:
            flat = np.ascontiguousarray(arrays[tensor.name], tensor.dtype).reshape(-1)
            self.block[tensor.start : tensor.stop] = flat.view(np.uint8)

    def swap_in(self, into: NDArray[np.uint8] | None = None) -> dict[str, NDArray[Any]]:
        """Return the tensors in memory of their own.

        Args:
            into: A block to use again, of at least `size_bytes`; fresh memory is slower, since the
                operating system must clear it first.
        """
        target = host_memory(self.size_bytes) if into is None else into
        copy_block(target[: self.size_bytes], self.block)
        return {tensor.name: view(target, tensor) for tensor in self.tensors}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tensors where they are, read-only: for a device that is the host itself."""
        found = {}
        for tensor in self.tensors:
            found[tensor.name] = view(self.block, tensor)
            found[tensor.name].flags.writeable = False
        return found


def copy_block(
    into: NDArray[np.uint8], source: NDArray[np.uint8], threads: int = COPY_THREADS
) -> None:
    """Copy a block with several threads. Shapes: both (size,) uint8."""
    size = source.nbytes
    count = min(threads, os.cpu_count() or 1)
    if size < COPY_ALONE_BYTES or count < 2:
        into[...] = source
        return
    share = -(-size // count // 4096) * 4096
    workers = [
        threading.Thread(target=np.copyto, args=(into[at : at + share], source[at : at + share]))
        for at in range(share, size, share)
    ]
    for worker in workers:
        worker.start()
    into[:share] = source[:share]
    for worker in workers:
        worker.join()
