"""Small files of weights for tests."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunk_server import ChunkServer
from swell.weights.chunks import Manifest, cut

#: The least that a chunk may have.
CHUNK = 4096
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


def pushed(
    server: ChunkServer, *paths: Path, model: str = "acme/poster", version: str = "v1"
) -> Manifest:
    """Have the server hold files; return their manifest."""
    files = {path.name: cut(path, CHUNK) for path in paths}
    for path in paths:
        data = path.read_bytes()
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            server.chunks[hashlib.sha256(piece).hexdigest()] = piece
    manifest = Manifest(model, version, CHUNK, files)
    server.manifests[model, version] = manifest
    return manifest
