"""Pushed weights in an object store: one object for each file, one manifest for each version.

files/9f/9f86…                      a file, under its SHA-256
versions/owner/name/VERSION.json    the manifest of a version; never replaced
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Final

import msgspec

from swell.core.errors import Conflict, NotFound, SwellError
from swell.objects.object_store import Objects
from swell.weights.manifest import MAX_MANIFEST_BYTES, read_manifest, write_manifest
from swell.weights.weight_index import InvalidListing, Listing, check_identity

#: The validity of a signed URL, in seconds.
_URL_S: Final = 3600.0

_FILE_KEY: Final = re.compile(r"files/([0-9a-f]{2})/\1[0-9a-f]{62}")
_FILE_TYPE: Final = "application/octet-stream"


class FileUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where a file can be read without the credentials of the store."""

    #: Signed, valid for an hour; relative to the backend where it has no host.
    url: str
    #: Headers that the request must have.
    headers: dict[str, str] = {}


class Found(Enum):
    """The state of a file in a store."""

    WHOLE = "whole"
    #: Its object has other content.
    WRONG = "wrong"
    MISSING = "missing"


class WeightStore:
    """Weights in an object store, below a folder of it.

    Args:
        objects: The object store.
        folder: The folder in it; empty for all of it.
    """

    def __init__(self, objects: Objects, folder: str = "") -> None:
        self.objects: Final = objects
        self._prefix = f"{folder}/" if folder else ""

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        """Return the files of a version.

        Args:
            model: `owner/name`.
            version: One of its versions.
            digest: The expected SHA-256 of the manifest; None for any.

        Raises:
            NotFound: The version was not pushed.
            InvalidListing: Its manifest is damaged, or another one than expected.
            Unavailable: The store does not answer.
        """
        key, label = version_key(model, version), f"{model}@{version}"
        text = bytearray()
        try:
            async for piece in self.objects.read(self._prefix + key):
                text += piece
                if len(text) > MAX_MANIFEST_BYTES:
                    break
        except NotFound:
            raise NotFound(
                f"{label} was not pushed here: run `swell models push {label}` where its weights "
                "are"
            ) from None
        try:
            found = read_manifest(bytes(text), digest)
            if (found.model, found.version) != (model, version):
                raise InvalidListing(f"it is the manifest of {found.model}@{found.version}")
        except SwellError as error:
            raise InvalidListing(
                f"{key}, the manifest of {label} in the store, cannot be used ({len(text):,} "
                f"bytes): {error.detail}. If it is damaged, remove it there and push the model "
                "again where its weights are"
            ) from None
        return found

    async def urls(self, digests: Sequence[str]) -> list[FileUrl]:
        """Return URLs at which files can be read without this store's credentials.

        Raises:
            Unavailable: No URL can be signed.
        """
        return [await self._url(self._key(digest)) for digest in digests]

    async def _url(self, key: str) -> FileUrl:
        direct = await self.objects.direct("GET", key, _URL_S)
        if direct is not None:
            return FileUrl(url=direct.url, headers=direct.headers)
        return FileUrl(url=self.objects.sign("GET", key, _URL_S))

    async def read(self, digest: str, start: int, end: int) -> bytes | bytearray | memoryview:
        """Return the bytes [start, end) of a file.

        Raises:
            NotFound: The file was not pushed.
            Unavailable: The store does not answer.
        """
        return await self.objects.read_range(self._key(digest), start, end)

    async def look(self, digest: str, size: int, *, verify: bool = False) -> Found:
        """Return the state of a file.

        Args:
            digest: Its SHA-256.
            size: Its bytes.
            verify: Whether to read it and compare its digest, not only its size.

        Raises:
            Unavailable: The store does not answer.
        """
        try:
            info = await self.objects.head(self._key(digest))
            if info.bytes != size:
                return Found.WRONG
            if verify and await self._digest(self._key(digest)) != digest:
                return Found.WRONG
        except NotFound:
            return Found.MISSING
        return Found.WHOLE

    async def _digest(self, key: str) -> str:
        found = hashlib.sha256()
        async for piece in self.objects.read(key):
            await asyncio.to_thread(found.update, piece)
        return found.hexdigest()

    async def put(self, digest: str, data: AsyncIterator[bytes]) -> None:
        """Store a file, and replace a damaged one.

        Raises:
            Unavailable: The store does not take it.
        """
        await self.objects.put(self._key(digest), data, _FILE_TYPE)

    async def publish(self, listing: Listing) -> None:
        """Store the manifest of a version, after all its files.

        Raises:
            Conflict: The version has another manifest.
            Unavailable: The store does not take it.
        """
        key = self._prefix + version_key(listing.model, listing.version)
        try:
            await self.objects.put_new(key, write_manifest(listing), "application/json")
        except Conflict:
            raise Conflict(
                f"{listing.model}@{listing.version} was pushed with other weights at the same "
                "time, and a version never changes: push these as another version"
            ) from None

    def _key(self, digest: str) -> str:
        return self._prefix + file_key(digest)


def file_key(digest: str) -> str:
    """Return the key of a file."""
    return f"files/{digest[:2]}/{digest}"


def is_file_key(key: str) -> bool:
    """Whether a key is the key of a file of weights."""
    return _FILE_KEY.fullmatch(key) is not None


def version_key(model: str, version: str) -> str:
    """Return the key of the manifest of a version."""
    check_identity(model, version)
    return f"versions/{model}/{version}.json"
