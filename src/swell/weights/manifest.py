"""Manifests: the files of one version of a model, each with its SHA-256 and size.

A manifest is a `Listing` as JSON in one canonical form, so its own SHA-256 identifies the version.
The cache keeps manifests by that digest: `manifests/9f86….json`.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from swell.weights.cache import NotCached, WeightCache
from swell.weights.disk import write_whole
from swell.weights.weight_index import Entry, InvalidListing, Listing, check_digest

#: The limits of a manifest from a store, which nothing has checked yet.
MAX_MANIFEST_BYTES: Final = 64 << 20
_MAX_FILES: Final = 10_000
_MAX_FILE_BYTES: Final = 1 << 44

_FORMAT: Final = 1


class _File(msgspec.Struct, frozen=True):
    sha256: str
    bytes: int


class _Manifest(msgspec.Struct, frozen=True):
    model: str
    version: str
    files: dict[str, _File]
    #: Changes when older versions of Swell would misread a manifest.
    format: int = _FORMAT


def write_manifest(listing: Listing) -> bytes:
    """Return the manifest of a listing. Equal files have equal manifests, wherever they came from.

    `Listing.source` is left out: it may hold a secret or a local path.
    """
    files = {name: _File(e.sha256, e.size_bytes) for name, e in sorted(listing.files.items())}
    return msgspec.json.encode(_Manifest(listing.model, listing.version, files))


def manifest_digest(listing: Listing) -> str:
    """Return the SHA-256 of a listing's manifest."""
    return hashlib.sha256(write_manifest(listing)).hexdigest()


def read_manifest(text: bytes, digest: str | None = None) -> Listing:
    """Parse a manifest and check every name, digest and size in it.

    Args:
        text: The manifest, as `write_manifest` returned it.
        digest: Its expected SHA-256; None to trust the sender.

    Raises:
        InvalidListing: The manifest is invalid, or another one than expected.
        RefusedFormat: It names a file outside its folder, or of a refused format.
    """
    found = hashlib.sha256(text).hexdigest()
    if digest is not None and found != digest:
        raise InvalidListing(
            f"the manifest has the SHA-256 {found}, and {digest} was asked for: it was damaged or "
            "replaced in the store, or weights.toml has the digest of another one. Correct the "
            "digest, or push the model again under another version"
        )
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidListing(f"a manifest has at most {MAX_MANIFEST_BYTES:,} bytes")
    try:
        manifest = msgspec.json.decode(text, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidListing(f"this is no manifest of weights: {error}") from None
    if manifest.format != _FORMAT:
        raise InvalidListing(
            f"this version of Swell does not read manifests of format {manifest.format}: upgrade "
            "it, or push the model with this version"
        )
    if not 0 < len(manifest.files) <= _MAX_FILES:
        raise InvalidListing(f"a manifest has 1 to {_MAX_FILES:,} files")
    for name, file in manifest.files.items():
        if check_digest(file.sha256, name) != file.sha256:
            raise InvalidListing(f"{name}: {file.sha256[:80]!r} is not 64 lower-case digits")
        if not 0 <= file.bytes <= _MAX_FILE_BYTES:
            raise InvalidListing(f"{name} cannot have {file.bytes:,} bytes")
    _check_folders(manifest.files)
    entries = {name: Entry(file.sha256, file.bytes) for name, file in manifest.files.items()}
    listing = Listing(manifest.model, manifest.version, entries).check()
    if write_manifest(listing) != text:
        raise InvalidListing("this manifest is not in the canonical form, which its digest needs")
    return listing


def _check_folders(names: Iterable[str]) -> None:
    """Check that no file has the name of a folder that another file needs."""
    known = set(names)
    for name in known:
        parts = name.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in known:
                raise InvalidListing(f"{'/'.join(parts[:end])} is a file, and a folder of {name}")


def note_manifest(cache: WeightCache, listing: Listing) -> str:
    """Keep the manifest of a listing in a cache, and return its digest. A damaged one is replaced.

    Raises:
        CacheFull, CacheUnusable: The disk does not take it.
    """
    text = write_manifest(listing)
    digest = hashlib.sha256(text).hexdigest()
    paths = manifest_paths(cache, digest)
    for path in paths:
        with contextlib.suppress(OSError):
            if path.read_bytes() == text:
                if path == paths[0]:
                    os.utime(path)
                return digest
    write_whole(paths[0], text)
    return digest


def noted_manifest(cache: WeightCache, digest: str) -> Listing:
    """Return the files of a manifest in a cache.

    Raises:
        NotCached: The manifest is not there, or is damaged.
        InvalidListing, RefusedFormat: This version of Swell cannot use it.
    """
    for path in manifest_paths(cache, check_digest(digest, "manifest")):
        with contextlib.suppress(OSError):
            text = path.read_bytes()
            if hashlib.sha256(text).hexdigest() == digest:
                return read_manifest(text)
    raise NotCached(f"the manifest {digest} is not in {cache.folder}")


def manifest_paths(cache: WeightCache, digest: str) -> list[Path]:
    """Return the paths that a manifest may have; a new one is written to the first."""
    return [folder / "manifests" / f"{digest}.json" for folder in cache.folders]
