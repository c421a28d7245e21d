"""Object stores: inputs and outputs as files with keys."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import ClassVar

import msgspec

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest, NotFound, Unavailable
from swell.objects.url_signing import SigningSecret, SigningSecrets

#: The content of a file, whole or in chunks.
Data = bytes | AsyncIterator[bytes]

#: A file that proves that files can be stored; large, so that it fills more than a rest of a disk.
_PROOF_KEY = "writable.txt"
_PROOF = b"Swell can write here.\n" * 40_000

#: 32 random bytes, or the secrets of all backends.
Secret = bytes | SigningSecrets


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a stored object."""

    key: str
    bytes: int
    content_type: str
    #: Strong validator, for caches and ranges.
    etag: str
    modified_at: datetime


class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """Where a file is read or written without the backend."""

    #: Absolute, signed, and good for one method until it expires.
    url: str
    #: Headers that the request must have.
    headers: dict[str, str] = {}


class Objects(ABC):
    """A store of files, and the URLs at which the backend serves them.

    Guarantees:
        A key holds all of one `put` or nothing of it; readers never see half a file. When `put` or
        `put_new` returns, the file survives the death of the machine.
        Signed URLs work without any other credential, for one method and one key, until they
        expire.

    Args:
        clock: Dates files and ends signed URLs.
        secret: Signs URLs.
    """

    #: Whether the backend itself stores the files, so that a received file is stored.
    is_here: ClassVar[bool]

    def __init__(self, clock: Clock, secret: Secret) -> None:
        self._clock = clock
        self._secrets = (
            secret
            if isinstance(secret, SigningSecrets)
            else SigningSecrets(clock, [SigningSecret(secret=secret)])
        )
        #: Whether the last file was refused.
        self._was_refused = False

    async def put(self, key: str, data: Data, content_type: str) -> ObjectInfo:
        """Store a file and replace an earlier one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
            Conflict: In a folder: a part of the key is a file, or the whole key is a folder.
            Unavailable: The store refuses the file.
        """
        with self._noting_refusals():
            return await self._store(check_key(key), data, content_type, may_replace=True)

    async def put_new(self, key: str, data: Data, content_type: str) -> ObjectInfo:
        """Store a file where there is none, and never replace one.

        A repeated call with the same bytes succeeds, since an answer may get lost; the file stays
        as it is. Of two concurrent callers, one stores.

        Raises:
            InvalidRequest, Unavailable: As for `put`.
            Conflict: The key holds other bytes; or as for `put`.
            TooLarge: In a bucket: the file has more than 64 MiB.
        """
        with self._noting_refusals():
            return await self._store(check_key(key), data, content_type, may_replace=False)

    @abstractmethod
    async def _store(
        self, key: str, data: Data, content_type: str, *, may_replace: bool
    ) -> ObjectInfo: ...

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """Return size, type and times of a file.

        Raises:
            NotFound: No file has this key.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, end) of a file.

        Raises:
            NotFound: No file has this key.
            Unavailable: In a bucket: it was replaced during the read.
        """

    async def read_range(self, key: str, start: int, end: int) -> bytes | bytearray | memoryview:
        """Return the bytes [start, end) of a file that never changes; fewer where it is shorter.

        Raises:
            NotFound: No file has this key.
            Unavailable: The store does not answer.
        """
        found = bytearray()
        async for piece in self.read(key, start, end):
            found += piece
        return found

    @abstractmethod
    async def delete(self, keys: list[str]) -> None:
        """Remove files; keys that hold nothing are ignored."""

    @abstractmethod
    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        """Return at most `limit` keys that begin with a folder's name and a slash.

        Raises:
            InvalidRequest: The folder is not a relative path of plain parts.
        """

    async def check_writable(self) -> None:
        """Raise if storing fails. Cheap: it stores a file only if the last one was refused.

        Raises:
            Unavailable: As `prove_writable`.
        """
        if self._was_refused:
            await self.prove_writable()

    async def prove_writable(self) -> None:
        """Store a file, for a moment.

        Raises:
            Unavailable: The store refuses it, as on a full disk; the text says why.
        """
        with self._noting_refusals():
            # Another process that does the same may have deleted it already.
            with contextlib.suppress(NotFound):
                await self._store(_PROOF_KEY, _PROOF, "text/plain", may_replace=True)
            await self.delete([_PROOF_KEY])

    def sign(self, method: str, key: str, expires_s: float, size_bytes: int | None = None) -> str:
        """Return a URL for `GET` or `PUT` of this key, good for `expires_s` seconds.

        It is relative to the backend's address, which serves the file from any store. With
        `size_bytes` the backend serves it only while it has that size.
        """
        return self._secrets.signed_path(method, check_key(key), expires_s, size_bytes)

    def renew(self, url: str, expires_s: float) -> str | None:
        """Return a fresh URL for the file of a URL of `sign` for `GET`; None for any other URL.

        That URL may have any host before it, and may have expired.
        """
        return self._secrets.renewed_path(url, expires_s)

    def verify(self, method: str, key: str, query: dict[str, str]) -> None:
        """Check the signature in the query of a URL of `sign`.

        Raises:
            Forbidden: The signature is missing, wrong or expired; the text says which.
        """
        self._secrets.check(method, key, query)

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """Return where to `GET` or `PUT` this key without the backend, for `expires_s` seconds.

        None if the backend must serve the file. A file that is `PUT` there is not checked: call
        `head` to learn whether it exists, and its size.

        Raises:
            Unavailable: No URL can be signed.
        """
        return None

    @contextlib.contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._was_refused = True
            raise
        self._was_refused = False


def check_key(key: str) -> str:
    """Return the key if it is safe as a relative path.

    Raises:
        InvalidRequest: It is empty, absolute, too long, or has empty, hidden or parent parts.
    """
    parts = key.split("/")
    plain = all(part and not part.startswith(".") and part.isprintable() for part in parts)
    if not plain or "\\" in key or len(key.encode()) > 512:
        raise InvalidRequest(
            f"{key[:80]!r} cannot be an object key: use parts of letters, digits, '-', '_' and "
            "'.' joined by '/', at most 512 bytes"
        )
    return key


def no_file(key: str) -> NotFound:
    """Return the error for a key without a file."""
    return NotFound(f"there is no file {key[:120]!r}: it may have been deleted")
