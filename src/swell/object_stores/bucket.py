"""Files in a bucket of Amazon S3 (or what speaks its protocol), Google Cloud Storage or Azure Blob.

The key, behind a prefix, is the object's name. All requests go through obstore, which repeats those
that failed in passing; its errors become Swell's own here and nowhere else. Nothing is held in
memory as a whole, except a new file that must not replace one: that has to be sent in one piece,
since a cloud makes only such a request conditional.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from swell.clock import Clock
from swell.errors import Conflict, InvalidRequest, NotFound, TooLarge, Unavailable
from swell.object_stores.signing import Secret, SignsUrls
from swell.objects import Direct, ObjectInfo, check_key

#: A file is read in pieces of this size, one request each: a slow reader holds no request open.
_PIECE_BYTES: Final = 4 * 1024 * 1024

#: A larger stream is uploaded in parts of this size, this many at once.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 3

#: How long a cancelled upload waits for its parts to be aborted, in seconds.
_GIVE_UP_S: Final = 5.0

#: Largest file that `put_new` takes, since it is in memory as a whole.
_NEW_BYTES: Final = 64 * 1024 * 1024

#: Requests of one `delete` at once, where the cloud takes one key each.
_DELETES_AT_ONCE: Final = 16

#: A request that failed in passing is repeated so often, and for so long, in seconds.
_MOST_RETRIES = 8
_RETRY_S: Final = 20.0

_FALLBACK_TYPE: Final = "application/octet-stream"

#: Clouds refuse URLs that were signed for longer, in seconds.
_MOST_DIRECT_S: Final = 7 * 24 * 3600.0

#: Most characters of a library's error text that errors quote.
_MOST_DETAIL: Final = 300

#: Headers of a direct `PUT`, so that a file which is there stays. With Google Cloud Storage a
#: signed URL cannot carry the condition.
_PUT_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {"if-none-match": "*"},
    "gs": {},
    "az": {"if-none-match": "*", "x-ms-blob-type": "BlockBlob"},
}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a bucket; empty fields come from the cloud's usual environment variables."""

    #: Such as `http://127.0.0.1:9000`, of any server with the cloud's protocol.
    endpoint: str = ""
    #: Of Amazon S3.
    region: str = ""
    #: Amazon S3: the id of the access key.
    key_id: str = ""
    #: Amazon S3: the secret access key. Azure: the account's key. Google: the JSON of a service
    #: account's key.
    secret: str = field(default="", repr=False)


class BucketObjects(SignsUrls):
    """Keeps files in a bucket; several backends may share it.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://ACCOUNT/CONTAINER/PREFIX`.
        access: How to reach it.
        clock: Ends the URLs that the backend serves.
        secret: Signs these.

    Raises:
        InvalidRequest: The URL is none of these, or the access is not understood.
    """

    is_here: Final = False

    def __init__(self, url: str, access: Access, clock: Clock, secret: Secret) -> None:
        self._cloud = urlsplit(url).scheme
        self._store = _open(url, access)
        super().__init__(clock, secret)
        #: Whether the bucket refused the last file that came.
        self._was_refused = False

    async def put(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file and replace an earlier one; a long stream goes in parts.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
            Unavailable: The bucket does not take it.
        """
        check_key(key)
        first, rest = await _begin(data, _PART_BYTES)
        with self._noting():
            if rest is None:
                await self._put_whole(key, first, content_type, mode="overwrite")
            else:
                await self._put_parts(key, _chain(first, rest), content_type)
        return await self.head(key)

    async def put_new(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file of at most 64 MiB where there is none, and never replace one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
            Conflict: The key holds other bytes.
            TooLarge: It is larger.
            Unavailable: The bucket does not take it.
        """
        check_key(key)
        whole, rest = await _begin(data, _NEW_BYTES)
        if rest is not None:
            raise TooLarge(
                f"a file of more than {_NEW_BYTES:,} bytes goes to the bucket itself: PUT it to a "
                "URL of POST /worker/v1/uploads"
            )
        try:
            with self._noting():
                await self._put_whole(key, whole, content_type, mode="create")
        except AlreadyExistsError as error:
            if not await self._holds(key, whole):
                raise Conflict(f"{key[:120]!r} holds another file, which stays as it is") from error
        return await self.head(key)

    async def head(self, key: str) -> ObjectInfo:
        """Return size, type and times of a file.

        Raises:
            NotFound: No file has this key.
            Unavailable: The bucket does not answer.
        """
        check_key(key)
        with _told(key):
            found = await obstore.get_async(self._store, key, options={"head": True})
        meta = found.meta
        return ObjectInfo(
            key=key,
            bytes=meta["size"],
            content_type=str(found.attributes.get("Content-Type", _FALLBACK_TYPE)),
            etag=(meta["e_tag"] or "").removeprefix("W/").strip('"'),
            modified_at=meta["last_modified"],
        )

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, end) of a file, piece by piece, all of one version.

        Raises:
            NotFound: No file has this key.
            Unavailable: The bucket does not answer, or the file was replaced during the read.
        """
        # Each cloud reports a range beyond the end differently, so the size is checked first.
        with _told(check_key(key)):
            meta = await obstore.head_async(self._store, key)
        stop = meta["size"] if end is None else min(end, meta["size"])
        for place in range(start, stop, _PIECE_BYTES):
            span = (place, min(place + _PIECE_BYTES, stop))
            with _told(key):
                found = await obstore.get_async(
                    self._store, key, options={"range": span, "if_match": meta["e_tag"]}
                )
                piece = await found.bytes_async()
            yield bytes(piece)

    async def delete(self, keys: list[str]) -> None:
        """Remove files; keys that hold nothing are ignored.

        Raises:
            Unavailable: One could not be removed. Others may have been.
        """
        paths = [check_key(key) for key in keys]
        if self._cloud == "s3":
            if paths:
                await self._delete(paths)
            return
        lanes = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def remove(path: str) -> None:
            async with lanes:
                await self._delete(path)

        ended = await asyncio.gather(*(remove(path) for path in paths), return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException):
                raise each

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        """See `Objects.under`.

        Raises:
            Unavailable: The bucket does not answer.
        """
        found: list[str] = []
        with _told(check_key(folder)):
            async for chunk in obstore.list(self._store, folder, chunk_size=limit):
                found += [each["path"] for each in chunk]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def check_writable(self) -> None:
        """Store something, for a moment, if the last `put` was refused.

        Raises:
            Unavailable: It is refused again; the text says why.
        """
        if self._was_refused:
            await self.prove_writable()

    async def prove_writable(self) -> None:
        """Store something, for a moment.

        Raises:
            Unavailable: The bucket is not there, or does not take it; the text says which.
        """
        key = "writable.txt"
        with self._noting():
            await self._put_whole(key, b"Swell can write here.\n", "text/plain", mode="overwrite")
        await self.delete([key])

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """Return the bucket's own URL for this key, signed by the cloud's rules.

        It is good for seven days at most: clouds sign for no longer.

        None for a key that needs escapes in a URL, which obstore does not sign right for every
        cloud: such a file goes through the backend. Keys that Swell makes need none.

        Raises:
            Unavailable: The credentials cannot sign.
        """
        if not _is_plain(check_key(key)):
            return None
        with _told(key):
            url = await obstore.sign_async(
                self._store,
                "PUT" if method.upper() == "PUT" else "GET",
                key,
                timedelta(seconds=min(expires_s, _MOST_DIRECT_S)),
            )
        headers = dict(_PUT_HEADERS[self._cloud]) if method.upper() == "PUT" else {}
        return Direct(url=url, headers=headers)

    async def _put_whole(
        self, key: str, data: bytes, content_type: str, *, mode: Literal["create", "overwrite"]
    ) -> None:
        with _told(key), _needing_bucket():
            await obstore.put_async(
                self._store,
                key,
                data,
                attributes={"Content-Type": content_type},
                mode=mode,
                use_multipart=False,
            )

    async def _put_parts(self, key: str, data: AsyncIterator[bytes], content_type: str) -> None:
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sending = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                key,
                _until(data, stop),
                attributes={"Content-Type": content_type},
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )
        with _told(key), _needing_bucket():
            try:
                await asyncio.shield(sending)
            except asyncio.CancelledError:
                # Parts that were sent are given up where the source fails, not by a cancellation.
                stop.set_result(None)
                await asyncio.wait([sending], timeout=_GIVE_UP_S)
                if not sending.cancel():
                    sending.exception()
                raise

    async def _delete(self, paths: str | Sequence[str]) -> None:
        try:
            with _told(str(paths)):
                await obstore.delete_async(self._store, paths)
        except NotFound:
            return

    async def _holds(self, key: str, data: bytes) -> bool:
        """Whether a key holds exactly these bytes."""
        place = 0
        async for piece in self.read(key):
            if data[place : place + len(piece)] != piece:
                return False
            place += len(piece)
        return place == len(data)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Remember whether the bucket took what came."""
        try:
            yield
        except Unavailable:
            self._was_refused = True
            raise
        self._was_refused = False


def _open(url: str, access: Access) -> S3Store | GCSStore | AzureStore:
    """Return obstore's client of a bucket, without a request."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if not _is_plain(path) or parts.query or parts.fragment:
        raise InvalidRequest(
            f"objects.url {url!r}: use letters, digits, '-', '_', '.' and '/' behind the bucket"
        )
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": access.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=120),
        },
        "retry_config": {
            "max_retries": _MOST_RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
        },
    }
    try:
        match parts.scheme:
            case "s3" if parts.netloc:
                return S3Store(parts.netloc, prefix=path or None, **_s3(access), **options)
            case "gs" if parts.netloc:
                return GCSStore(parts.netloc, prefix=path or None, **_gcs(access), **options)
            case "az" if parts.netloc and path:
                container, _, prefix = path.partition("/")
                options |= _azure(access) | {"account_name": parts.netloc}
                return AzureStore(container, prefix=prefix or None, **options)
    except (BaseError, ValueError, TypeError) as error:
        raise InvalidRequest(f"objects.url {url!r} cannot be used: {_brief(error)}") from error
    raise InvalidRequest(
        f"objects.url {url!r}: use s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
        "az://ACCOUNT/CONTAINER/PREFIX"
    )


def _is_plain(path: str) -> bool:
    """Whether a URL holds a path as it is."""
    return quote(path) == path and "~" not in path


def _s3(access: Access) -> dict[str, Any]:
    given = {
        "endpoint": access.endpoint,
        "region": access.region,
        "access_key_id": access.key_id,
        "secret_access_key": access.secret,
    }
    return {name: value for name, value in given.items() if value}


def _gcs(access: Access) -> dict[str, Any]:
    given = {"base_url": access.endpoint, "service_account_key": access.secret}
    return {name: value for name, value in given.items() if value}


def _azure(access: Access) -> dict[str, Any]:
    given = {"endpoint": access.endpoint, "account_key": access.secret}
    return {name: value for name, value in given.items() if value}


async def _begin(
    data: bytes | AsyncIterator[bytes], most: int
) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Return the beginning of a file, and the rest where it is larger than `most` bytes."""
    if isinstance(data, bytes):
        return (data, None) if len(data) <= most else (b"", _pieces(data))
    parts: list[bytes] = []
    total = 0
    async for part in data:
        parts.append(part)
        total += len(part)
        if total > most:
            return b"".join(parts), data
    return b"".join(parts), None


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for part in rest:
        yield part


async def _until(data: AsyncIterator[bytes], stop: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    """Yield chunks; if the reader gives up, raise for the next read."""
    while True:
        coming = asyncio.ensure_future(anext(data, None))
        waits: set[asyncio.Future[Any]] = {coming, stop}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            coming.cancel()
            raise EOFError("the client stopped reading the file")
        piece = coming.result()
        if piece is None:
            return
        yield piece


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(data), _PIECE_BYTES):
        yield data[place : place + _PIECE_BYTES]


@contextmanager
def _told(key: str) -> Iterator[None]:
    """Turn obstore's errors into Swell's; that a file is there already is for the caller."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {key[:120]!r}: it may have been deleted") from error
    except PreconditionError as error:
        raise Unavailable(f"{key[:120]!r} was replaced while it was read: read it again") from error
    except BaseError as error:
        raise Unavailable(f"the bucket does not answer as it should: {_brief(error)}") from error


@contextmanager
def _needing_bucket() -> Iterator[None]:
    """Say of a file that has no place that there is no bucket."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"the bucket is not there: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """Return the first line of a library's error, which may fill a page."""
    return str(error).partition("\n")[0][:_MOST_DETAIL]
