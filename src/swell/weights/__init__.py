"""Weights of models: kept by content, read in parallel, swapped through host memory.

    files       files that are files: no pipes, no devices
    formats     which files are weights, and what a safetensors header says
    weight_errors  why a file is not taken
    weight_index which files a model's version consists of
    cache       files by their SHA-256, safe between processes, evicted by a byte budget
    disk        what its errors mean, and small files written whole
    fd_limits   how many files may be open
    prune       removes what nothing names any more
    download    fetches what a listing, an address, a folder or a hub's repository names
    hf_download files of Hugging Face repositories, through huggingface_hub and hf_xet
    manifest    the files of a version, as JSON with a digest of its own
    store       pushed weights in an object store: a manifest for each version, and its files
    push        uploads files that a store lacks
    store_reader where a worker reads pushed weights: the backend, or the store itself
    fetch_intents what workers are about to fetch, for those who wait for it
    store_download downloads pushed weights into the cache
    detached_threads work that blocks, in threads that hold nobody up
    declared_weights the weights of a model's own listing, as they come
    image_layers weights laid into a folder, for an image that brings them along
    fast_file_reader a file into memory, as fast as the disk gives it
    safetensors_loader a file's tensors as arrays
    host_offload tensors that wait in host memory for their turn on the device
    lora        what LoRAs add to weights
    lora_weights weights that LoRAs are put on and taken off
    compile_cache what was compiled for a model, for the next process
    torch_tensors, torch_lora, torch_compiled   the same for torch; the only modules that import it

No file that can carry a program is opened as weights: see `formats`. Downloads
(`swell.weights.download`), LoRAs (`swell.weights.lora_weights`) and modules that need torch are
imported by their own names; the names here are imported on first use. So a model that only loads
starts quickly.
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
    from swell.weights.compile_cache import CompiledCache, CompiledKey, NotPrivate
    from swell.weights.fast_file_reader import prefetch
    from swell.weights.formats import Header, Tensor, read_header
    from swell.weights.host_offload import HostCopy
    from swell.weights.safetensors_loader import Weights, load, load_all, stream
    from swell.weights.weight_errors import BrokenWeights, RefusedFormat
    from swell.weights.weight_index import Entry, InvalidListing, Listing, Wanted, read_listing

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
    "compile_cache": ("CompiledCache", "CompiledKey", "NotPrivate"),
    "formats": ("Header", "Tensor", "read_header"),
    "weight_index": ("Entry", "InvalidListing", "Listing", "Wanted", "read_listing"),
    "safetensors_loader": ("Weights", "load", "load_all", "stream"),
    "fast_file_reader": ("prefetch",),
    "weight_errors": ("BrokenWeights", "RefusedFormat"),
    "host_offload": ("HostCopy",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
