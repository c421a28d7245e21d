"""The weights that a model's own `weights.toml` names, as they come, for the model's code.

    WEIGHTS = provided(__file__)                 # on top: returns at once
    import torch                                 # meanwhile the worker fetches
    ...
    load_torch(WEIGHTS.path("unet.safetensors"), device)

The worker fetches, since it has nothing to import meanwhile; here is only looked and waited, for as
long as a worker lives that will fetch it (`swell.weights.wishing`). Where the listing names the
manifest, each file can be had as soon as its chunks were compared with their digests, and before
that when it was also read whole.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from swell.core.clock import Clock, SystemClock
from swell.core.startup_phases import fetching
from swell.settings.environment import process_environment, replace_environment
from swell.weights import descriptors
from swell.weights.cache import NotCached, WeightCache
from swell.weights.chunks import Manifest
from swell.weights.disk import disk_errors
from swell.weights.growing import GrowingPaths
from swell.weights.listing import Entry, InvalidListing, Listing, Wanted, WantedFile, read_listing
from swell.weights.noted import noted_manifest
from swell.weights.wishing import is_wished

#: How long nobody may fetch what is waited for, in seconds.
PATIENCE_S: Final = 30.0

#: The cache is looked at so often, in seconds.
_LOOK_S: Final = 0.01

#: And so often whether somebody fetches, or is about to.
_ASK_S: Final = 1.0

#: So many more files are allowed to be open at a time.
_OPENED: Final = 64

#: Where Linux shows what a process has open.
_DESCRIPTORS: Final = Path("/proc/self/fd")

_CACHE_VARIABLE: Final = "SWELL_WORKER__CACHE_DIR"
_BAKED_VARIABLE: Final = "SWELL_WORKER__BAKED_DIR"


def provided(beside: str | Path) -> "Provided":
    """Return the weights that the `weights.toml` beside a model's file names.

    Args:
        beside: The model's file, or its folder, or the listing itself.

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
    """Have `provided` look there, in this process."""
    told = {_CACHE_VARIABLE: cache_dir} | ({_BAKED_VARIABLE: baked_dir} if baked_dir else {})
    replace_environment(process_environment() | told)


def await_contents(digests: Sequence[str], clock: Clock) -> None:
    """Wait until contents are in the cache, read whole.

    Raises:
        NotCached: One is not there, and nobody fetches it.
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
    """Weights on their way into the cache.

    Args:
        wanted: Which.
        cache: Where they come to.
        clock: For time-outs.
        patience_s: How long nobody may fetch what is waited for.
    """

    def __init__(
        self, wanted: Wanted, cache: WeightCache, clock: Clock, patience_s: float = PATIENCE_S
    ) -> None:
        self._wanted = wanted
        self._cache = cache
        self._clock = clock
        self._patience_s = patience_s
        self._manifest: Manifest | None = None
        #: Open and locked as long as this lives, so that nothing evicts them.
        self._held: dict[str, int] = {}

    def __del__(self) -> None:
        for fd in getattr(self, "_held", {}).values():
            os.close(fd)

    def path(self, name: str) -> Path:
        """Wait for a file and return where it is; valid as long as this object.

        Raises:
            NotCached: It is not there, and nobody fetches it.
            InvalidListing: The listing has no such file.
        """
        if self._wanted.manifest is None and name not in self._wanted.files:
            raise InvalidListing(f"the listing of {self._wanted.model} has no file {name}")
        if name not in self._held:
            if len(self._held) % _OPENED == 0:
                # Each stays open: a model of many files may need more than a process is given.
                descriptors.allow(_OPENED)
            self._held[name] = self._wait(name)
        fd = self._held[name]
        # Its name changes when it was read whole; that of what is open does not.
        if _DESCRIPTORS.is_dir():
            return _DESCRIPTORS / str(fd)
        return self._cache.path(self._entry(name).sha256)

    def folder(self) -> Path:
        """Wait for all files and return a folder in which they have their names, as links.

        For libraries that load a model from a folder. Each file must have been read whole.

        Raises:
            NotCached: One is not there, and nobody fetches it.
        """
        names = list(self._names())
        for name in names:
            self.path(name)
        entries = {name: self._whole(name) for name in names}
        return self._cache.link(Listing(self._wanted.model, self._wanted.version, entries))

    def _names(self) -> list[str]:
        if self._wanted.manifest is None or self._wanted.files:
            return list(self._wanted.files)
        self._until(lambda: self._pinned() is not None, "its manifest")
        manifest = self._pinned()
        assert manifest is not None, "it was waited for"
        return list(manifest.files)

    def _whole(self, name: str) -> Entry:
        self._until(lambda: self._cache.has(self._entry(name)), name)
        return self._entry(name)

    def _wait(self, name: str) -> int:
        found = self._open(name)

        def look() -> bool:
            nonlocal found
            found = self._open(name)
            return found >= 0

        if found < 0:
            with fetching("bucket"):
                self._until(look, name)
        return found

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
        """Return whether somebody who lives fetches a file, or is about to."""
        wanted, manifest, digests = self._wanted, self._pinned(), set[str]()
        if wanted.manifest is not None:
            digests.add(wanted.manifest)
        if name in wanted.files or (manifest is not None and name in manifest.files):
            digests.add(self._entry(name).sha256)
        if is_wished(self._cache.folder, {f"{wanted.model}@{wanted.version}", *digests}):
            return True
        return any(self._cache.is_locked(digest) for digest in digests)

    def _pinned(self) -> Manifest | None:
        """Return the manifest that the listing names, once it is here."""
        if self._manifest is None and self._wanted.manifest is not None:
            try:
                self._manifest = noted_manifest(self._cache, self._wanted.manifest)
            except NotCached:
                return None
        return self._manifest

    def _entry(self, name: str) -> Entry:
        """Return what a file must be.

        Raises:
            InvalidListing: The manifest has no such file.
        """
        manifest = self._pinned()
        if manifest is not None:
            file = manifest.files[self._named_there(manifest, name)]
            return Entry(file.sha256, file.bytes)
        wanted = self._wanted.files[name]
        assert wanted.sha256 is not None, "a listing has a digest for each file"
        return self._cache.entry(wanted.sha256) or Entry(wanted.sha256, -1)

    def _named_there(self, manifest: Manifest, name: str) -> str:
        """Return a file's name in the manifest: a listing may give it another one.

        Raises:
            InvalidListing: It is not there.
        """
        wanted = self._wanted.files.get(name)
        if wanted is None and name in manifest.files:
            return name
        for there, file in manifest.files.items():
            if wanted is not None and file.sha256 == wanted.sha256:
                return there
        raise InvalidListing(f"the manifest of {manifest.model} has no file {name}")

    def _open(self, name: str) -> int:
        """Return the descriptor of a file that may be used, locked; -1 if it is not there yet."""
        if self._wanted.manifest is not None and self._pinned() is None:
            return -1
        entry = self._entry(name)
        places = [self._cache.path(entry.sha256)] if self._cache.has(entry) else []
        manifest, growing = self._pinned(), None
        if manifest is not None and _DESCRIPTORS.is_dir():
            growing = GrowingPaths(self._cache, manifest, self._named_there(manifest, name))
            places += [growing.part] if growing.is_whole() else []
        for place in places:
            try:
                with disk_errors(place):
                    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            fcntl.flock(fd, fcntl.LOCK_SH)
            # It may have been evicted, or made anew, between the lines above.
            if growing is not None and place == growing.part and not growing.is_whole():
                os.close(fd)
                continue
            if os.fstat(fd).st_nlink and os.fstat(fd).st_size == entry.size_bytes:
                # What was used longest ago is evicted first; what an image has never is.
                with contextlib.suppress(OSError):
                    os.utime(fd)
                return fd
            os.close(fd)
        return -1
