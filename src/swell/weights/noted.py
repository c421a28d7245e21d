"""Manifests that the cache has noted, each under its digest."""

import contextlib
import hashlib
import os

from swell.weights.cache import NotCached, WeightCache
from swell.weights.chunks import Manifest, read_manifest, write_manifest
from swell.weights.disk import write_whole
from swell.weights.listing import check_digest


def note_manifest(cache: WeightCache, manifest: Manifest) -> None:
    """Keep a manifest under its digest, in the place of one that was damaged.

    Raises:
        CacheFull, CacheUnusable: The disk does not take it.
    """
    text = write_manifest(manifest)
    paths = cache.manifest_paths(hashlib.sha256(text).hexdigest())
    for path in paths:
        with contextlib.suppress(OSError):
            if path.read_bytes() == text:
                if path == paths[0]:
                    os.utime(path)
                return
    write_whole(paths[0], text)


def noted_manifest(cache: WeightCache, digest: str) -> Manifest:
    """Return the manifest of a digest.

    Raises:
        NotCached: It is not here, or something else lies there: whoever has it may note it again.
        InvalidListing, RefusedFormat: This version of Swell cannot use it.
    """
    for path in cache.manifest_paths(check_digest(digest, "manifest")):
        with contextlib.suppress(OSError):
            text = path.read_bytes()
            if hashlib.sha256(text).hexdigest() == digest:
                return read_manifest(text, digest)
    raise NotCached(f"the manifest {digest} is not in {cache.folder}")
