"""Files in a dictionary, for tests and for trying things out. Nothing survives the process."""

import hashlib
from collections.abc import AsyncIterator
from typing import Final

from swell.clock import Clock
from swell.errors import Conflict, NotFound
from swell.object_stores.signing import Secret, SignsUrls
from swell.objects import Direct, ObjectInfo, check_key

_CHUNK_BYTES = 256 * 1024


class MemoryObjects(SignsUrls):
    """Keeps every file whole in memory.

    Args:
        clock: Dates files and ends signed URLs.
        secret: Signs URLs.
    """

    is_here: Final = True

    def __init__(self, clock: Clock, secret: Secret) -> None:
        super().__init__(clock, secret)
        self._files: dict[str, tuple[ObjectInfo, bytes]] = {}

    async def put(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file and replace an earlier one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
        """
        return self._keep(check_key(key), await _whole(data), content_type)

    async def put_new(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file where there is none, and never replace one.

        Raises:
            Conflict: The key holds other bytes.
            InvalidRequest: The key is not a relative path of plain parts.
        """
        check_key(key)
        whole = await _whole(data)
        if key not in self._files:
            return self._keep(key, whole, content_type)
        info, there = self._files[key]
        if there != whole:
            raise Conflict(f"{key[:120]!r} holds another file, which stays as it is")
        return info

    def _keep(self, key: str, whole: bytes, content_type: str) -> ObjectInfo:
        info = ObjectInfo(
            key=key,
            bytes=len(whole),
            content_type=content_type,
            etag=hashlib.sha256(whole).hexdigest()[:32],
            modified_at=self._clock.now(),
        )
        self._files[key] = (info, whole)
        return info

    async def head(self, key: str) -> ObjectInfo:
        """Return size, type and times of a file.

        Raises:
            NotFound: No file has this key.
        """
        return self._find(key)[0]

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, end) of a file.

        Raises:
            NotFound: No file has this key.
        """
        info, whole = self._find(key)
        stop = info.bytes if end is None else min(end, info.bytes)
        for place in range(start, stop, _CHUNK_BYTES):
            yield whole[place : min(place + _CHUNK_BYTES, stop)]

    async def delete(self, keys: list[str]) -> None:
        """Remove files; keys that hold nothing are ignored."""
        for key in keys:
            self._files.pop(key, None)

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        start = f"{check_key(folder)}/"
        return sorted(key for key in self._files if key.startswith(start))[:limit]

    async def check_writable(self) -> None:
        """See `Objects.check_writable`. Memory takes every file."""

    async def prove_writable(self) -> None:
        """See `Objects.prove_writable`. Memory takes every file."""

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """See `Objects.direct`. The backend itself keeps the files."""
        return None

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        found = self._files.get(key)
        if found is None:
            raise NotFound(f"there is no file {key[:120]!r}: it may have been deleted")
        return found


async def _whole(data: bytes | AsyncIterator[bytes]) -> bytes:
    return data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
