"""Finds the weights that authors list, for an image that contains them."""

from pathlib import Path

from swell.containers.packing import Packed
from swell.core.errors import InvalidRequest
from swell.weights.cache import NotCached, WeightCache
from swell.weights.manifest import noted_manifest
from swell.weights.weight_index import Listing, read_listing


def find_listed(packed: Packed, cache_dir: Path) -> None:
    """Add the weights that the models' `weights.toml` list, and the manifests that these name.

    Args:
        packed: Files of the models.
        cache_dir: Weight cache of this machine.

    Raises:
        InvalidRequest: A weights file is not on this machine.
        InvalidListing, RefusedFormat: A listing cannot be used.
    """
    cache = WeightCache(cache_dir)
    for path in packed.wanted.values():
        wanted = read_listing(path)
        files = {file.sha256: file.source for file in wanted.files.values() if file.sha256}
        if wanted.manifest is not None:
            manifest = _manifest(wanted.manifest, path, cache)
            packed.manifests.append(manifest)
            files = dict.fromkeys((f.sha256 for f in manifest.files.values()), "") | files
        for digest, source in files.items():
            if digest not in packed.contents:
                packed.contents[digest] = _place(digest, source, path, cache)


def _manifest(digest: str, listing: Path, cache: WeightCache) -> Listing:
    try:
        return noted_manifest(cache, digest)
    except NotCached:
        raise InvalidRequest(
            f"{listing} names the manifest {digest}, which is not in {cache.folder}: push these "
            "weights from this machine, let a worker of it fetch them once, or leave --bake out"
        ) from None


def _place(digest: str, source: str, listing: Path, cache: WeightCache) -> Path:
    if cache.entry(digest) is not None:
        return cache.path(digest)
    if source and Path(source).is_file():
        return Path(source)
    raise InvalidRequest(
        f"{listing} lists {source or digest}, which is not in {cache.folder}: run "
        f"`swell models pull {listing}` before, or leave --bake out"
    )
