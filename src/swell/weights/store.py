"""Where weights lie that were pushed: chunks, manifests and versions in an object store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from swell.errors import Conflict, NotFound
from swell.objects import Objects
from swell.weights.chunks import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Pointer,
    chunk_key,
    manifest_key,
    read_manifest,
    read_pointer,
    version_key,
    write_manifest,
)
from swell.weights.gather import Place
from swell.weights.listing import InvalidListing

__all__ = ["Manifests", "WeightStore"]

#: Manifests that are remembered: a few megabytes each at most for models of a usual size.
_MOST_KNOWN: Final = 32

#: A signed URL of a chunk is good for so long, in seconds; then another one is asked for.
_URL_S: Final = 3600.0

_ASKED_AT_ONCE: Final = 32


class WeightStore:
    """Weights in an object store, below a folder of it.

    Args:
        objects: Where they lie.
        folder: Below which they lie there; empty for all of it.
        root: The same as a folder of this machine, where it is one and nobody signs for it.
    """

    def __init__(self, objects: Objects, folder: str = "", root: Path | None = None) -> None:
        self._objects = objects
        self._prefix = f"{folder}/" if folder else ""
        self._root = root

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        """Return which files a version has, and of which chunks.

        Args:
            model: `owner/name`.
            version: Which of its versions.
            digest: What the manifest's SHA-256 must be; None for the one that the version names.

        Raises:
            NotFound: It was not pushed here.
            InvalidListing: It is not what it should be.
            Unavailable: The store does not answer.
        """
        told = f"{model}@{version}"
        if digest is None:
            pointer = await self._read(version_key(model, version), told)
            digest = read_pointer(pointer, told)
        manifest = read_manifest(await self._read(manifest_key(digest), told), digest)
        if (manifest.model, manifest.version) != (model, version):
            raise InvalidListing(
                f"the manifest {digest} is one of {manifest.model}@{manifest.version}, and not of "
                f"{told}"
            )
        return manifest

    async def _read(self, key: str, told: str) -> bytes:
        found = bytearray()
        try:
            async for piece in self._objects.read(self._prefix + key):
                found += piece
                if len(found) > MAX_MANIFEST_BYTES:
                    raise InvalidListing(f"{key} is too long for a manifest")
        except NotFound:
            raise NotFound(
                f"{told} was not pushed here: run `swell models push {told}` where its weights are"
            ) from None
        return bytes(found)

    async def places(self, digests: Sequence[str]) -> list[Place]:
        """Return where chunks can be read without this store's credentials.

        A URL without a host is one of the backend whose objects these are.

        Raises:
            Unavailable: Nothing can be signed.
        """
        return [await self._place(chunk_key(digest)) for digest in digests]

    async def _place(self, key: str) -> Place:
        if self._root is not None:
            return Place(f"file://{quote(str(self._root / self._prefix / key))}")
        direct = await self._objects.direct("GET", self._prefix + key, _URL_S)
        if direct is not None:
            return Place(direct.url, direct.headers)
        return Place(self._objects.sign("GET", self._prefix + key, _URL_S))

    async def lacks(self, chunks: dict[str, int]) -> list[str]:
        """Return those of these chunks that are not here, or not whole.

        Args:
            chunks: Digest to size, in bytes.
        """
        lanes = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def is_here(digest: str, size: int) -> bool:
            async with lanes:
                try:
                    info = await self._objects.head(self._prefix + chunk_key(digest))
                except NotFound:
                    return False
                return info.bytes == size

        here = await asyncio.gather(*(is_here(*each) for each in chunks.items()))
        return [digest for digest, is_there in zip(chunks, here, strict=True) if not is_there]

    async def put_chunk(self, digest: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Keep a chunk; one that is here and not whole is replaced.

        Raises:
            Unavailable: The store does not take it.
        """
        key = self._prefix + chunk_key(digest)
        await self._objects.put(key, data, "application/octet-stream")

    async def publish(self, manifest: Manifest) -> None:
        """Say that a version is here, once all its chunks are.

        Raises:
            Conflict: The version is here with other weights.
            Unavailable: The store does not take it.
        """
        digest, text = manifest.digest, write_manifest(manifest)
        await self._objects.put(self._prefix + manifest_key(digest), text, "application/json")
        pointer = msgspec.json.encode(Pointer(digest))
        key = self._prefix + version_key(manifest.model, manifest.version)
        try:
            await self._objects.put_new(key, pointer, "application/json")
        except Conflict:
            raise Conflict(
                f"{manifest.model}@{manifest.version} was pushed with other weights, and a version "
                "never changes: push these as another version"
            ) from None


class Manifests:
    """Manifests of a store that were asked for lately; one never changes.

    Args:
        store: Where they are.
    """

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._known: dict[str, Manifest] = {}

    async def get(self, model: str, version: str, digest: str = "") -> Manifest:
        """Return a manifest, by its digest or else as `WeightStore.manifest`.

        Raises:
            NotFound, InvalidListing, Unavailable: As `WeightStore.manifest`.
        """
        known = self._known.get(digest)
        if known is not None and (known.model, known.version) == (model, version):
            return known
        found = await self._store.manifest(model, version, digest or None)
        while len(self._known) >= _MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[found.digest] = found
        return found
