"""A model's weights laid into a folder as the cache has them, for an image that brings them along.

A worker in that image names the folder with `worker.baked_dir`: it lies below its own cache, is
read and never written to.
"""

import os
import shutil
from pathlib import Path

from swell.weights.cache import WeightCache
from swell.weights.chunks import Manifest
from swell.weights.fetch import note_manifest
from swell.weights.listing import Listing

__all__ = ["bake"]


def bake(
    listing: Listing, cache: WeightCache, folder: Path, manifest: Manifest | None = None
) -> int:
    """Lay a version's weights into a folder; return how many bytes were not there yet.

    Args:
        listing: Which files; all are in the cache.
        cache: From where. Contents are linked where both lie on one disk, and copied otherwise.
        folder: Where to. It may hold other models' weights, which stay.
        manifest: The same as chunks, where the weights were pushed; for models whose listing names
            it.

    Raises:
        NotCached: A file is not in the cache.
        CacheFull: The disk is full.
    """
    baked = WeightCache(folder)
    added = 0
    with cache.use(listing) as held:
        for name, path in held.paths.items():
            entry = listing.files[name]
            if baked.has(entry):
                continue
            target = baked.path(entry.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another disk
                fresh = target.with_name(f".{target.name}")
                shutil.copyfile(path, fresh)
                fresh.chmod(0o444)
                fresh.replace(target)
            added += entry.size_bytes
    baked.note(listing)
    if manifest is not None:
        note_manifest(baked, manifest)
    return added
