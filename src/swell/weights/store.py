"""Where weights lie that were pushed: chunks, manifests and versions in an object store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from swell.core.errors import Conflict, NotFound, SwellError
from swell.objects.object_store import Objects
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

#: Manifests that are remembered: a few megabytes each at most for models of a usual size.
_MOST_KNOWN: Final = 32

#: A signed URL of a chunk is good for so long, in seconds; then another one is asked for.
_URL_S: Final = 3600.0


class Found(Enum):
    """What there is of a chunk."""

    WHOLE = "whole"
    #: Something else lies under its name.
    WRONG = "wrong"
    MISSING = "missing"


class WeightStore:
    """Weights in an object store, below a folder of it.

    Args:
        objects: Where they lie.
        folder: Below which they lie there; empty for all of it.
        root: The same as a folder of this machine, where it is one and nobody signs for it.
    """

    def __init__(self, objects: Objects, folder: str = "", root: Path | None = None) -> None:
        self.objects: Final = objects
        self._prefix = f"{folder}/" if folder else ""
        self._root = root

    @property
    def is_here(self) -> bool:
        """Whether they lie on a disk of this machine."""
        return self.objects.is_here

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
        named = digest or await self.pinned(model, version)
        text = None if named is None else await self._read(manifest_key(named))
        if named is None or text is None:
            raise NotFound(
                f"{told} was not pushed here: run `swell models push {told}` where its weights are"
            )
        manifest = _understood(text, named, told)
        if (manifest.model, manifest.version) != (model, version):
            what = "correct the digest in weights.toml" if digest else _remove(model, version)
            raise InvalidListing(
                f"the manifest {named} is one of {manifest.model}@{manifest.version}, and not of "
                f"{told}: {what}"
            )
        return manifest

    async def pinned(self, model: str, version: str) -> str | None:
        """Return the digest of the manifest that a version is; None where it was not pushed.

        Raises:
            InvalidListing: What is here under its name says of none.
            Unavailable: The store does not answer.
        """
        text = await self._read(version_key(model, version))
        if text is None:
            return None
        try:
            return read_pointer(text, f"{model}@{version}")
        except InvalidListing as error:
            raise InvalidListing(f"{error.detail}: {_remove(model, version)}") from None

    async def _read(self, key: str) -> bytes | None:
        """Return a file of which we know no size; None where there is none."""
        found = bytearray()
        try:
            async for piece in self.objects.read(self._prefix + key):
                found += piece
                if len(found) > MAX_MANIFEST_BYTES:
                    raise InvalidListing(
                        f"{key} is too long for one of ours: remove it there, and push the model "
                        "again"
                    )
        except NotFound:
            return None
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
        direct = await self.objects.direct("GET", self._prefix + key, _URL_S)
        if direct is not None:
            return Place(direct.url, direct.headers)
        return Place(self.objects.sign("GET", self._prefix + key, _URL_S))

    async def look(self, digest: str, size: int, *, read: bool = False) -> Found:
        """Return what there is of a chunk.

        Args:
            digest: Which.
            size: Its bytes.
            read: Whether it is read and compared with its digest, and not by its size only.

        Raises:
            Unavailable: The store does not answer.
        """
        key = self._prefix + chunk_key(digest)
        try:
            info = await self.objects.head(key)
            if info.bytes != size:
                return Found.WRONG
            is_right = not read or await self._digest(key) == digest
        except NotFound:
            return Found.MISSING
        return Found.WHOLE if is_right else Found.WRONG

    async def _digest(self, key: str) -> str:
        found = hashlib.sha256()
        async for piece in self.objects.read(key):
            await asyncio.to_thread(found.update, piece)
        return found.hexdigest()

    async def put_chunk(self, digest: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Keep a chunk; what lies under its name is replaced.

        Raises:
            Unavailable: The store does not take it.
        """
        key = self._prefix + chunk_key(digest)
        await self.objects.put(key, data, "application/octet-stream")

    async def publish(self, manifest: Manifest) -> None:
        """Say that a version is here, once all its chunks are.

        Raises:
            Conflict: The version is here with other weights.
            Unavailable: The store does not take it.
        """
        digest, text = manifest.digest, write_manifest(manifest)
        await self.objects.put(self._prefix + manifest_key(digest), text, "application/json")
        pointer = msgspec.json.encode(Pointer(digest))
        key = self._prefix + version_key(manifest.model, manifest.version)
        try:
            await self.objects.put_new(key, pointer, "application/json")
        except Conflict:
            raise Conflict(
                f"{manifest.model}@{manifest.version} was pushed with other weights meanwhile, and "
                "a version never changes: push these as another version"
            ) from None


def _understood(text: bytes, digest: str, told: str) -> Manifest:
    """Return what a manifest says, or raise what is wrong with it where it lies."""
    if hashlib.sha256(text).hexdigest() != digest:
        raise InvalidListing(
            f"the manifest of {told} was changed or cut off where it lies (of "
            f"{manifest_key(digest)} there are {len(text):,} bytes, which have another SHA-256): "
            "push the model again where its weights are, which writes it anew"
        )
    try:
        return read_manifest(text, digest)
    except SwellError as error:
        raise InvalidListing(
            f"{manifest_key(digest)} of {told} was not written by this version of Swell: "
            f"{error.detail}"
        ) from None


def _remove(model: str, version: str) -> str:
    return (
        f"somebody else has written {version_key(model, version)} there. Remove that, and push the "
        "model again where its weights are"
    )


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
