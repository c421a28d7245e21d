"""Weights of models: kept by content, read in parallel, swapped through host memory.

    files       files that are files: no pipes, no devices
    formats     which files are weights, and what a safetensors header says
    refusals    why a file is not taken
    listing    which files a model's version consists of
    cache       files by their SHA-256, safe between processes, evicted by a byte budget
    disk        what its errors mean, and small files written whole
    descriptors how many files may be open
    prune       removes what nothing names any more
    pull        fetches what a listing, an address, a folder or a hub's repository names
    hf_download files of Hugging Face repositories, through huggingface_hub and hf_xet
    manifest    the files of a version, as JSON with a digest of its own
    store       pushed weights in an object store: a manifest for each version, and its files
    push        uploads files that a store lacks
    sources     where a worker reads pushed weights: the backend, or the store itself
    wishing     what workers are about to fetch, for those who wait for it
    fetch       downloads pushed weights into the cache
    aside       work that blocks, in threads that hold nobody up
    provided    the weights of a model's own listing, as they come
    bake        weights laid into a folder, for an image that brings them along
    reading     a file into memory, as fast as the disk gives it
    loading     a file's tensors as arrays
    residency   tensors that wait in host memory for their turn on the device
    lora        what LoRAs add to weights
    adapted     weights that LoRAs are put on and taken off
    compiled    what was compiled for a model, for the next process
    torch_tensors, torch_lora, torch_compiled   the same for torch; the only modules that import it

No file that can carry a program is ever opened as weights: see `formats`; what was compiled lies
apart. What fetches (`swell.weights.pull`), what changes weights (`swell.weights.adapted`) and what
needs torch are imported by their own names, so that a model that only loads starts quickly. The
names here are imported when they are asked for: what lists or fetches weights needs no arrays.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from swell.weights.cache import (
        CacheFull,
        DigestMismatch,
        Evicted,
        InUse,
        NotCached,
        WeightCache,
    )
    from swell.weights.compiled import CompiledCache, CompiledKey, NotPrivate
    from swell.weights.formats import Header, Tensor, read_header
    from swell.weights.listing import Entry, InvalidListing, Listing, Wanted, read_listing
    from swell.weights.loading import Weights, load, load_all, stream
    from swell.weights.reading import prefetch
    from swell.weights.refusals import BrokenWeights, RefusedFormat
    from swell.weights.residency import HostCopy

__all__ = [
    "BrokenWeights",
    "CacheFull",
    "CompiledCache",
    "CompiledKey",
    "DigestMismatch",
    "Entry",
    "Evicted",
    "Header",
    "HostCopy",
    "InUse",
    "InvalidListing",
    "Listing",
    "NotCached",
    "NotPrivate",
    "RefusedFormat",
    "Tensor",
    "Wanted",
    "WeightCache",
    "Weights",
    "load",
    "load_all",
    "prefetch",
    "read_header",
    "read_listing",
    "stream",
]

#: Module → what of it stands here.
_HOMES: Final = {
    "cache": ("CacheFull", "DigestMismatch", "Evicted", "InUse", "NotCached", "WeightCache"),
    "compiled": ("CompiledCache", "CompiledKey", "NotPrivate"),
    "formats": ("Header", "Tensor", "read_header"),
    "listing": ("Entry", "InvalidListing", "Listing", "Wanted", "read_listing"),
    "loading": ("Weights", "load", "load_all", "stream"),
    "reading": ("prefetch",),
    "refusals": ("BrokenWeights", "RefusedFormat"),
    "residency": ("HostCopy",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
