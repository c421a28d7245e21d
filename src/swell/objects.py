"""Contract of the object store: inputs and outputs as files with keys."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

import msgspec

from swell.errors import InvalidRequest


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
    #: Headers that must go along.
    headers: dict[str, str] = {}


class Objects(Protocol):
    """Where files lie.

    Guarantees:
        A key holds all of one `put` or nothing of it; readers never see half a file. When `put`
        returns, the file survives the death of the machine. So it is with `put_new`.
        Signed URLs work without any other credential, for one method and one key, until they
        expire.
    """

    @property
    def is_here(self) -> bool:
        """Whether the backend itself stores the files, so that a received file is stored."""
        ...

    async def put(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file and replace an earlier one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
        """
        ...

    async def put_new(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file where there is none, and never replace one.

        The same bytes again are taken as said, since an answer may get lost on the way: the file
        stays as it is. Of two callers at the same time, one stores.

        Raises:
            Conflict: The key holds other bytes.
            InvalidRequest: The key is not a relative path of plain parts.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return size, type and times of a file.

        Raises:
            NotFound: No file has this key.
        """
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, end) of a file.

        Raises:
            NotFound: No file has this key.
        """
        ...

    async def delete(self, keys: list[str]) -> None:
        """Remove files; keys that hold nothing are ignored."""
        ...

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        """Return at most `limit` keys that begin with a folder's name and a slash.

        Raises:
            InvalidRequest: The folder is not a relative path of plain parts.
        """
        ...

    async def check_writable(self) -> None:
        """Raise if storing fails. Cheap: only where the last `put` was refused, another is tried.

        Raises:
            Unavailable: As `prove_writable`.
        """
        ...

    async def prove_writable(self) -> None:
        """Store something, for a moment.

        Raises:
            Unavailable: The disk is full, cannot be written, or the like; the text says which.
        """
        ...

    def sign(self, method: str, key: str, expires_s: float, size_bytes: int | None = None) -> str:
        """Return a URL that may be used for `GET` or `PUT` of this key for `expires_s` seconds.

        It is relative to the backend's address, which serves the file from any store. With
        `size_bytes` the backend serves it only while it has that size.
        """
        ...

    def renew(self, url: str, expires_s: float) -> str | None:
        """Return a fresh URL for the file that an earlier one names; None for any other URL.

        The earlier one was made by `sign` for `GET`. What host stands before it does not count, nor
        whether it has expired; a signature that is not ours does.
        """
        ...

    def verify(self, method: str, key: str, query: dict[str, str]) -> None:
        """Check the signature that a URL of `sign` carries.

        Raises:
            Forbidden: The signature is missing, wrong or expired; the text says which.
        """
        ...

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """Return where to `GET` or `PUT` this key without the backend, for `expires_s` seconds.

        None if the backend itself stores the files. A file that is `PUT` there is not checked: call
        `head` to learn whether it exists, and its size.

        Raises:
            Unavailable: No URL can be signed.
        """
        ...


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
