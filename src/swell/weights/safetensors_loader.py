"""Reads the tensors of safetensors files as numpy arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swell.weights.fast_file_reader import Reading
from swell.weights.formats import Tensor, read_header


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file into one block of memory; the arrays are views of it.

    bfloat16 and float8, which numpy lacks, come as unsigned integers of the same size.

    Raises:
        RefusedFormat: It is not a safetensors file.
        BrokenWeights: It is incomplete, or its header is wrong.
        OSError: It cannot be read.
    """
    header = read_header(path)
    memory = Reading(path).start().wait()
    return {tensor.name: view(memory, tensor) for tensor in header.tensors}


def view(memory: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as a view of its file's bytes; a copy if they are not aligned."""
    found = memory[tensor.start : tensor.stop].view(tensor.dtype).reshape(tensor.shape)
    return found if found.flags.aligned else found.copy()
