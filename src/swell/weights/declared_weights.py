"""The weights of a model's own `weights.toml`, for the model's code, as they come.

    WEIGHTS = provided(__file__)                 # at the top: returns at once
    import torch                                 # while the worker downloads
    ...
    load_torch(WEIGHTS.path("unet.safetensors"), device)

The worker downloads. `Provided` waits for each file, for as long as a worker lives that is going to
download it (`PartialFiles.announce`).
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from swell.core.clock import Clock, SystemClock
from swell.core.startup_phases import fetching
from swell.settings.environment import process_environment, replace_environment
from swell.weights.cache import InUse, NotCached, WeightCache
from swell.weights.manifest import noted_manifest
from swell.weights.weight_index import InvalidListing, Listing, Wanted, WantedFile, read_listing

#: How long to wait for a file that no worker downloads, in seconds.
PATIENCE_S: Final = 30.0

#: How often to check the cache, in seconds.
_LOOK_S: Final = 0.01

#: How often to check for a worker that downloads, in seconds.
_ASK_S: Final = 1.0

_CACHE_VARIABLE: Final = "SWELL_WORKER__CACHE_DIR"
_BAKED_VARIABLE: Final = "SWELL_WORKER__BAKED_DIR"


def provided(beside: str | Path) -> "Provided":
    """Return the weights that the `weights.toml` next to a model's file names.

    Args:
        beside: The model's file, its folder, or the listing.

    Raises:
        InvalidListing, RefusedFormat: The listing cannot be used.
    """
    path = Path(beside)
    if path.suffix not in (".toml", ".json"):
        folder = path if path.is_dir() else path.parent
        path = listing_beside(folder) or folder / "weights.toml"
    return Provided(read_listing(path), _cache(), SystemClock())


def _cache() -> WeightCache:
    variables = process_environment()
    baked = variables.get(_BAKED_VARIABLE)
    return WeightCache(
        Path(variables.get(_CACHE_VARIABLE) or ".swell/weights"),
        below=Path(baked) if baked else None,
    )


def look_for_weights_in(cache_dir: str, baked_dir: str | None) -> None:
    """Set where `provided` looks, in this process."""
    told = {_CACHE_VARIABLE: cache_dir} | ({_BAKED_VARIABLE: baked_dir} if baked_dir else {})
    replace_environment(process_environment() | told)


def await_contents(digests: Sequence[str], clock: Clock) -> None:
    """Wait until files are in the cache.

    Raises:
        NotCached: A file is not there, and no worker downloads it.
    """
    wanted = {digest: WantedFile("", digest) for digest in digests}
    weights = Provided(Wanted("models/files", "now", wanted), _cache(), clock)
    for digest in digests:
        weights.path(digest)


def listing_beside(folder: Path) -> Path | None:
    """Return the listing of weights in a model's folder; None if there is none."""
    for name in ("weights.toml", "weights.json"):
        if (folder / name).is_file():
            return folder / name
    return None


class Provided:
    """Weights that a worker downloads into the cache.

    Args:
        wanted: The files.
        cache: The cache.
        clock: For timeouts.
        patience_s: How long to wait for a file that no worker downloads.
    """

    def __init__(
        self, wanted: Wanted, cache: WeightCache, clock: Clock, patience_s: float = PATIENCE_S
    ) -> None:
        self._wanted = wanted
        self._cache = cache
        self._clock = clock
        self._patience_s = patience_s
        self._manifest: Listing | None = None
        #: Held as long as this lives, so that nothing evicts them.
        self._held: dict[str, InUse] = {}

    def __del__(self) -> None:
        for held in getattr(self, "_held", {}).values():
            held.close()

    def path(self, name: str) -> Path:
        """Wait for a file and return where it is; valid as long as this object.

        Raises:
            NotCached: The file is not there, and no worker downloads it.
            InvalidListing: The listing has no such file.
        """
        if self._wanted.manifest is None and name not in self._wanted.files:
            raise InvalidListing(f"the listing of {self._wanted.model} has no file {name}")
        if name not in self._held and not self._hold(name):
            with fetching("bucket"):
                self._until(lambda: self._hold(name), name)
        return self._held[name].paths[name]

    def folder(self) -> Path:
        """Wait for all files, and return a folder of links to them, under their names.

        For libraries that load a model from a folder.

        Raises:
            NotCached: A file is not there, and no worker downloads it.
        """
        names = list(self._names())
        for name in names:
            self.path(name)
        return self._cache.link(self._listing({name: self._digest(name) for name in names}))

    def _names(self) -> Sequence[str]:
        if self._wanted.manifest is None or self._wanted.files:
            return list(self._wanted.files)
        self._until(lambda: self._pinned() is not None, "its manifest")
        manifest = self._pinned()
        assert manifest is not None, "it was waited for"
        return list(manifest.files)

    def _hold(self, name: str) -> bool:
        """Hold a file that is in the cache; return whether it is."""
        if self._wanted.manifest is not None and self._pinned() is None:
            return False
        try:
            self._held[name] = self._cache.use(self._listing({name: self._digest(name)}))
        except NotCached:
            return False
        return True

    def _listing(self, digests: dict[str, str]) -> Listing:
        """Return a listing of files that are in the cache.

        Raises:
            NotCached: One is not.
        """
        entries = {}
        for name, digest in digests.items():
            entry = self._cache.entry(digest)
            if entry is None:
                raise NotCached(f"{name} of {self._wanted.model} is not in {self._cache.folder}")
            entries[name] = entry
        return Listing(self._wanted.model, self._wanted.version, entries)

    def _until(self, is_there: Callable[[], bool], what: str) -> None:
        wait = threading.Event()
        fetched_s = asked_s = self._clock.monotonic_s()
        while not is_there():
            now_s = self._clock.monotonic_s()
            if now_s - asked_s >= _ASK_S:
                asked_s = now_s
                fetched_s = now_s if self._is_coming(what) else fetched_s
            if now_s - fetched_s > self._patience_s:
                raise NotCached(
                    f"{what} of {self._wanted.model}@{self._wanted.version} is not in "
                    f"{self._cache.folder}, and nobody fetches it: run `swell models pull`, or "
                    "push it to where workers look (see weights.url)"
                )
            wait.wait(_LOOK_S)

    def _is_coming(self, name: str) -> bool:
        """Return whether a live worker downloads a file, or is going to."""
        wanted, manifest, digests = self._wanted, self._pinned(), set[str]()
        if wanted.manifest is not None:
            digests.add(wanted.manifest)
        if name in wanted.files or (manifest is not None and name in manifest.files):
            digests.add(self._digest(name))
        partials = self._cache.partials
        return partials.is_announced() or any(map(partials.is_locked, digests))

    def _pinned(self) -> Listing | None:
        """Return the manifest that the listing names, once it is in the cache."""
        if self._manifest is None and self._wanted.manifest is not None:
            try:
                self._manifest = noted_manifest(self._cache, self._wanted.manifest)
            except NotCached:
                return None
        return self._manifest

    def _digest(self, name: str) -> str:
        """Return the SHA-256 of a file. A listing may use other names than the manifest.

        Raises:
            InvalidListing: The manifest has no such file.
        """
        wanted, manifest = self._wanted.files.get(name), self._pinned()
        if wanted is not None:
            assert wanted.sha256 is not None, "a listing has a digest for each file"
            digest = wanted.sha256
            if manifest is None or any(e.sha256 == digest for e in manifest.files.values()):
                return digest
        elif manifest is not None and name in manifest.files:
            return manifest.files[name].sha256
        raise InvalidListing(f"the manifest of {self._wanted.model} has no file {name}")
