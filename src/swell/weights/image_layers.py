"""Weights laid into a folder as a cache has them, for an image that brings them along.

A worker in that image names the folder with `worker.baked_dir`: it lies below its own cache, is
read and never written to.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from swell.weights.cache import DigestMismatch, WeightCache
from swell.weights.disk import disk_errors
from swell.weights.manifest import note_manifest
from swell.weights.weight_index import Listing

_BLOCK_BYTES: Final = 8 << 20


def bake(contents: Mapping[str, Path], folder: Path, manifests: Iterable[Listing] = ()) -> None:
    """Lay contents into a folder: copies, since images change rights and times.

    Args:
        contents: SHA-256 → a file that should have it, and is compared.
        folder: Where to.
        manifests: Versions whose manifest a model's listing names.

    Raises:
        DigestMismatch: A file is another one than its name promises.
        CacheFull: The disk is full.
    """
    baked = WeightCache(folder)
    for manifest in manifests:
        note_manifest(baked, manifest)
    for digest, path in contents.items():
        target = baked.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with disk_errors(target), path.open("rb") as source, target.open("wb") as copy:
            while block := source.read(_BLOCK_BYTES):
                found.update(block)
                copy.write(block)
        if found.hexdigest() != digest:
            target.unlink()
            raise DigestMismatch(
                f"{path} is not what it should be (SHA-256 {digest}): fetch it again, or build "
                "again if somebody has just written it"
            )
