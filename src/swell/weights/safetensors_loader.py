"""The tensors of safetensors files as arrays.

One file becomes one block of memory, and its tensors are views of that block: nothing is copied
after it was read, and the block as a whole can go to a device in one transfer.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swell.weights.fast_file_reader import THREADS, Reading
from swell.weights.formats import Header, Tensor, read_header


class Weights(Mapping[str, NDArray[Any]]):
    """The tensors of one file, in memory.

    bfloat16 and float8, which numpy lacks, come as unsigned integers of the same size; `tensor`
    tells what they are.

    Args:
        header: What the file says of its tensors.
        memory: The file's bytes. Shapes: at least (header.file_bytes,) uint8.
    """

    def __init__(self, header: Header, memory: NDArray[np.uint8]) -> None:
        self.header = header
        self.memory = memory
        self._tensors = {tensor.name: tensor for tensor in header.tensors}

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of all tensors, one after another."""
        return self.memory[self.header.data_start : self.header.file_bytes]

    def tensor(self, name: str) -> Tensor:
        """Return where and of what type a tensor is."""
        return self._tensors[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return view(self.memory, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def view(memory: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the bytes of its file; a copy where they are not aligned."""
    found = memory[tensor.start : tensor.stop].view(tensor.dtype).reshape(tensor.shape)
    return found if found.flags.aligned else found.copy()


def load(
    path: Path,
    *,
    into: NDArray[np.uint8] | None = None,
    threads: int = THREADS,
    direct: bool = True,
) -> Weights:
    """Read the tensors of one safetensors file.

    Args:
        path: The file.
        into: Memory of `host_memory` to use again, of at least the file's size.
        threads: How many parts are read at once.
        direct: See `Reading`.

    Raises:
        RefusedFormat: It is not a safetensors file.
        BrokenWeights: It is not whole, or its header is wrong.
        OSError: It cannot be read.
    """
    header = read_header(path)
    memory = Reading(path, into=into, threads=threads, direct=direct).start().wait()
    return Weights(header, memory)


def load_all(paths: Sequence[Path], *, threads: int = THREADS) -> dict[str, NDArray[Any]]:
    """Read the tensors of a model that comes in several files."""
    found: dict[str, NDArray[Any]] = {}
    for path in paths:
        found.update(load(path, threads=threads))
    return found


def stream(
    path: Path, *, threads: int = THREADS, direct: bool = True
) -> Iterator[tuple[Tensor, NDArray[Any]]]:
    """Yield each tensor as soon as its bytes are there, in the order of the file.

    So that one tensor goes to a device, or is converted, while the next is read.

    Raises:
        RefusedFormat, BrokenWeights, OSError: As `load`.
    """
    header = read_header(path)
    reading = Reading(path, threads=threads, direct=direct).start()
    waiting = iter(header.tensors)
    tensor = next(waiting, None)
    for _, arrived in reading.parts():
        while tensor is not None and tensor.stop <= arrived:
            yield tensor, view(reading.memory, tensor)
            tensor = next(waiting, None)
