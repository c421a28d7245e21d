"""Small files of weights for tests."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swell.weights.weight_index import Entry, Listing
from weight_server import WeightServer

#: Bytes of a request in tests with `small_ranges`.
RANGE = 4096
NAME = "unet.safetensors"

KINDS = {"|b1": "BOOL", "|u1": "U8", "<u2": "BF16", "<f2": "F16", "<i4": "I32", "<f4": "F32"}


def packed(header: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, whether it makes sense or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors(arrays: Mapping[str, NDArray[Any]], align: int = 8) -> bytes:
    """Return a whole safetensors file. `align` of 1 leaves the data where the header ends."""
    header: dict[str, Any] = {"__metadata__": {"made": "by a test"}}
    data = b""
    for name, array in arrays.items():
        entry = {"dtype": KINDS[array.dtype.str], "shape": list(array.shape)}
        header[name] = {**entry, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return packed(text + b" " * (-len(text) % align), data)


def write(path: Path, seed: int = 0, size: int = 1000) -> Path:
    """Write a file of two tensors, whose content depends on the seed."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        safetensors({"a": rng.random(size, np.float32), "b": rng.random((3, 5), np.float32)})
    )
    return path


def listing_of(*paths: Path, model: str = "acme/poster", version: str = "v1") -> Listing:
    """Return a listing of files by their own names."""
    files = {}
    for path in paths:
        data = path.read_bytes()
        files[path.name] = Entry(hashlib.sha256(data).hexdigest(), len(data))
    return Listing(model, version, files)


def pushed(
    server: WeightServer, *paths: Path, model: str = "acme/poster", version: str = "v1"
) -> Listing:
    """Have the server hold files; return their manifest."""
    listing = listing_of(*paths, model=model, version=version)
    for path in paths:
        server.files[listing.files[path.name].sha256] = path.read_bytes()
    server.manifests[model, version] = listing
    return listing
