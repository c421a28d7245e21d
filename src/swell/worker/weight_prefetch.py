"""Downloads the pushed weights of a worker that starts, while its model process imports."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest, NotFound
from swell.runtime.pep723 import source_of
from swell.weights.cache import NotCached, WeightCache
from swell.weights.declared_weights import listing_beside
from swell.weights.manifest import note_manifest, noted_manifest
from swell.weights.store_download import fetch
from swell.weights.store_reader import Source, until_answered
from swell.weights.weight_index import Entry, InvalidListing, Listing, Wanted, read_listing

#: The suffixes of listings.
_LISTINGS: Final = (".toml", ".json")


@dataclass(frozen=True, slots=True)
class Wish:
    """A version that a worker's models need.

    Args:
        model: `owner/name`.
        version: The version.
        manifest: The SHA-256 of its manifest; None for any.
        files: SHA-256 of the needed files by name; empty for all.
        is_optional: Whether the version need not have been pushed.
    """

    model: str
    version: str
    manifest: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    is_optional: bool = False

    def is_in(self, cache: WeightCache) -> bool:
        """Return whether a cache is known to have all files."""
        digests = self.digests(cache)
        return bool(digests) and all(cache.entry(digest) for digest in digests)

    def digests(self, cache: WeightCache) -> set[str]:
        """Return the digests of its files, as far as they are known."""
        if not self.files and self.manifest is not None:
            with contextlib.suppress(NotCached):
                files = noted_manifest(cache, self.manifest).files.values()
                return {file.sha256 for file in files}
        return set(self.files.values())

    def of(self, manifest: Listing) -> Listing:
        """Return the needed files of a manifest.

        Raises:
            InvalidListing: It lacks a file, or has another one in its place.
        """
        if not self.files:
            return manifest
        by_digest: dict[str, Entry] = {entry.sha256: entry for entry in manifest.files.values()}
        lacks = next((name for name, sha in self.files.items() if sha not in by_digest), None)
        if lacks is not None:
            raise InvalidListing(
                f"{self.model}@{self.version} was pushed without the {lacks} that is wanted "
                f"(SHA-256 {self.files[lacks]}): push what belongs to this model's code"
            )
        if self.manifest is not None:
            # `Provided` looks for the files by the manifest.
            return manifest
        files = {name: by_digest[digest] for name, digest in self.files.items()}
        return msgspec.structs.replace(manifest, files=files)


def wishes_of(
    models: Sequence[str], references: Sequence[str], listings: Path | None
) -> list[Wish]:
    """Return the versions that a worker's models need.

    Args:
        models: As `load_models` takes them; a `weights.toml` next to their code is read.
        references: `owner/name@version`, or the same with `#sha256=` and its manifest's digest, or
            the path of a `weights.toml`.
        listings: A JSON file with a list of listings; None if there is none.

    Raises:
        InvalidRequest: One of them cannot be understood.
    """
    files = {Path(each).resolve() for each in references if each.endswith(_LISTINGS)}
    found = [_of_reference(each) for each in references if not each.endswith(_LISTINGS)]
    for source in filter(None, map(source_of, models)):
        path = listing_beside(source.parent)
        if path is not None:
            files.add(path.resolve())
    found += [_of_author(read_listing(path)) for path in sorted(files)]
    if listings is not None:
        try:
            decoded = msgspec.json.decode(listings.read_bytes(), type=list[Listing])
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidRequest(
                f"{listings} has no list of weights ({error}): see worker.weights_file"
            ) from None
        found += [_of_listing(each.check()) for each in decoded]
    return found


def _of_reference(text: str) -> Wish:
    reference, _, digest = text.partition("#sha256=")
    model, at, version = reference.partition("@")
    if not (at and version) or model.count("/") != 1:
        raise InvalidRequest(
            f"{text!r} names no weights: write owner/name@version, or the path of a weights.toml"
        )
    return Wish(model, version, digest or None)


def _of_author(wanted: Wanted) -> Wish:
    files = {name: file.sha256 for name, file in wanted.files.items() if file.sha256}
    return Wish(wanted.model, wanted.version, wanted.manifest, files, is_optional=True)


def _of_listing(listing: Listing) -> Wish:
    files = {name: entry.sha256 for name, entry in listing.files.items()}
    return Wish(listing.model, listing.version, files=files)


class Provision:
    """Downloads the weights of a worker that starts.

    Args:
        wishes: The versions.
        cache: Where they go.
        source: Where they were pushed.
        clock: For waiting.
        tell: Called with an event and its fields, for the log.
    """

    def __init__(
        self,
        wishes: Sequence[Wish],
        cache: WeightCache,
        source: Source,
        clock: Clock,
        *,
        tell: Callable[..., None] = lambda event, **facts: None,
    ) -> None:
        self._wishes = wishes
        self._cache = cache
        self._source = source
        self._clock = clock
        self._tell = tell
        #: Wanted files in the cache, which are not evicted for the rest.
        self._sparing: set[str] = set()
        #: Bytes that were downloaded.
        self.bytes = 0

    async def bring(self) -> None:
        """Download all that the cache lacks.

        Raises:
            SwellError: A version cannot be downloaded; the text says why and what to do.
        """
        wanted: list[Wish] = []
        for wish in self._wishes:
            self._sparing |= wish.digests(self._cache)
            wanted += [] if wish.is_in(self._cache) else [wish]
        if not wanted:
            return
        with contextlib.closing(self._source), self._cache.partials.announce():
            # One after another, since each fills the network.
            for wish in wanted:
                await self._bring(wish)

    async def _bring(self, wish: Wish) -> None:
        begun_s, before_bytes = self._clock.monotonic_s(), self.bytes
        try:
            manifest = await until_answered(
                lambda: self._source.manifest(wish.model, wish.version, wish.manifest),
                self._clock,
                self._tell,
            )
        except NotFound as error:
            if not wish.is_optional:
                raise
            self._tell("weights were not pushed", model=wish.model, detail=error.detail)
            return
        # Before the files come: `Provided` learns their digests from it.
        note_manifest(self._cache, manifest)
        listing = await fetch(
            wish.of(manifest),
            self._cache,
            self._source,
            self._clock,
            moved=self._moved,
            tell=self._tell,
            sparing=self._sparing,
        )
        self._sparing |= {entry.sha256 for entry in listing.files.values()}
        took_s = round(self._clock.monotonic_s() - begun_s, 3)
        came = self.bytes - before_bytes
        self._tell("weights fetched", model=wish.model, bytes=came, took_s=took_s)

    def _moved(self, size_bytes: int) -> None:
        self.bytes += size_bytes
