"""Files in a bucket: Amazon S3 and compatible services, Google Cloud Storage, Azure Blob Storage.

An object's name is the prefix and the key. All requests go through obstore, which retries transient
failures; this module turns its errors into Swell's. `put_new` sends a file in one request, since
only such a request can be conditional, so it keeps the file in memory. Longer streams go in parts.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from swell.core.clock import Clock
from swell.core.errors import Conflict, InvalidRequest, NotFound, TooLarge, Unavailable
from swell.objects.object_store import Data, Direct, ObjectInfo, Objects, Secret, check_key, no_file
from swell.settings.storage_settings import BucketSettings

#: A read makes one request for each part of this size, so a slow reader holds none open.
_PIECE_BYTES: Final = 4 * 1024 * 1024

#: A larger stream is uploaded in parts of this size, this many at once.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 3

#: The largest file of `put_new`.
_NEW_BYTES: Final = 64 * 1024 * 1024

#: Concurrent requests of one `delete`.
_DELETES_AT_ONCE: Final = 16

#: The most retries of a request that failed transiently, and the time for them, in seconds.
_MOST_RETRIES = 8
_RETRY_S: Final = 20.0

_FALLBACK_TYPE: Final = "application/octet-stream"

#: The longest validity of a cloud's signed URL, in seconds.
_MOST_DIRECT_S: Final = 7 * 24 * 3600.0

#: Characters that are quoted of a library's error text.
_MOST_DETAIL: Final = 300

#: Headers of a direct `PUT`, which must not replace a file. Signed URLs of Google Cloud Storage
#: cannot have this condition.
_PUT_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {"if-none-match": "*"},
    "gs": {},
    "az": {"if-none-match": "*", "x-ms-blob-type": "BlockBlob"},
}

#: Cloud → setting → obstore's name of it.
_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {
        "endpoint": "endpoint",
        "region": "region",
        "key_id": "access_key_id",
        "secret": "secret_access_key",
    },
    "gs": {"endpoint": "base_url", "secret": "service_account_key"},
    "az": {"endpoint": "endpoint", "secret": "account_key"},
}


class BucketObjects(Objects):
    """Keeps files in a bucket; several backends may share it.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://ACCOUNT/CONTAINER/PREFIX`.
        settings: Its credentials. Empty ones come from the cloud's environment variables.
        clock: Ends the URLs that the backend serves.
        secret: Signs these.

    Raises:
        InvalidRequest: The URL is none of these, or the credentials cannot be read.
    """

    is_here = False

    def __init__(
        self,
        url: str,
        settings: BucketSettings,
        clock: Clock,
        secret: Secret,
    ) -> None:
        self._cloud = urlsplit(url).scheme
        self._bucket = _open(url, settings)
        super().__init__(clock, secret)

    async def _store(
        self, key: str, data: Data, content_type: str, *, may_replace: bool
    ) -> ObjectInfo:
        if not may_replace:
            return await self._store_new(key, data, content_type)
        first, rest = await _begin(data, _PART_BYTES)
        if rest is None:
            await self._put(key, first, content_type, use_multipart=False)
        else:
            parts = {"chunk_size": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
            await self._put(key, _chain(first, rest), content_type, **parts)
        return await self.head(key)

    async def _store_new(self, key: str, data: Data, content_type: str) -> ObjectInfo:
        whole, rest = await _begin(data, _NEW_BYTES)
        if rest is not None or len(whole) > _NEW_BYTES:
            raise TooLarge(
                f"a file of more than {_NEW_BYTES:,} bytes goes to the bucket itself: PUT it to a "
                "URL of POST /worker/v1/uploads"
            )
        try:
            await self._put(key, whole, content_type, mode="create", use_multipart=False)
        except AlreadyExistsError as error:
            kept = b"".join([piece async for piece in self.read(key, end=len(whole) + 1)])
            if kept != whole:
                raise Conflict(f"{key[:120]!r} holds another file, which stays as it is") from error
        return await self.head(key)

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with _swell_errors(key):
            found = await obstore.get_async(self._bucket, key, options={"head": True})
        meta = found.meta
        return ObjectInfo(
            key=key,
            bytes=meta["size"],
            content_type=str(found.attributes.get("Content-Type", _FALLBACK_TYPE)),
            etag=(meta["e_tag"] or "").removeprefix("W/").strip('"'),
            modified_at=meta["last_modified"],
        )

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        # Each cloud reports a range beyond the end differently, so the size is checked first.
        with _swell_errors(check_key(key)):
            meta = await obstore.head_async(self._bucket, key)
        stop = meta["size"] if end is None else min(end, meta["size"])
        for place in range(start, stop, _PIECE_BYTES):
            span = (place, min(place + _PIECE_BYTES, stop))
            with _swell_errors(key):
                found = await obstore.get_async(
                    self._bucket, key, options={"range": span, "if_match": meta["e_tag"]}
                )
                piece = await found.bytes_async()
            yield bytes(piece)

    async def read_range(self, key: str, start: int, end: int) -> memoryview:
        with _swell_errors(check_key(key)):
            # One request, which obstore runs outside of Python.
            return memoryview(
                await obstore.get_range_async(self._bucket, key, start=start, end=end)
            )

    async def delete(self, keys: list[str]) -> None:
        """See `Objects.delete`. After an error, some files may have been removed.

        Raises:
            Unavailable: The bucket does not answer.
        """
        for key in keys:
            check_key(key)
        for start in range(0, len(keys), _DELETES_AT_ONCE):
            await asyncio.gather(*map(self._delete, keys[start : start + _DELETES_AT_ONCE]))

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        found: list[str] = []
        with _swell_errors(check_key(folder)):
            async for chunk in obstore.list(self._bucket, folder, chunk_size=limit):
                found += [each["path"] for each in chunk]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """See `Objects.direct`. The cloud signs the URL, for seven days at most.

        None for a key that needs escapes in a URL, which obstore does not sign correctly for every
        cloud. Keys that Swell makes need none.
        """
        if not _is_plain(check_key(key)):
            return None
        is_put = method.upper() == "PUT"
        expiry = timedelta(seconds=min(expires_s, _MOST_DIRECT_S))
        with _swell_errors(key):
            url = await obstore.sign_async(self._bucket, "PUT" if is_put else "GET", key, expiry)
        return Direct(url=url, headers=dict(_PUT_HEADERS[self._cloud]) if is_put else {})

    async def _put(self, key: str, data: Data, content_type: str, **options: Any) -> None:
        """Send a file. If its stream fails, obstore aborts the parts that it has sent."""
        with _swell_errors(key, is_put=True):
            attributes = {"Content-Type": content_type}
            await obstore.put_async(self._bucket, key, data, attributes=attributes, **options)

    async def _delete(self, key: str) -> None:
        with contextlib.suppress(NotFound), _swell_errors(key):
            await obstore.delete_async(self._bucket, key)


def _open(url: str, settings: BucketSettings) -> S3Store | GCSStore | AzureStore:
    """Return obstore's client of a bucket, without a request."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if not _is_plain(path) or parts.query or parts.fragment:
        raise InvalidRequest(
            f"objects.url {url!r}: use letters, digits, '-', '_', '.' and '/' behind the bucket"
        )
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=120),
        },
        "retry_config": {
            "max_retries": _MOST_RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
        },
    }
    given = settings.model_dump() | {"secret": settings.secret.get_secret_value()}
    names = _OPTIONS.get(parts.scheme, {})
    options |= {option: given[name] for name, option in names.items() if given[name]}
    try:
        match parts.scheme:
            case "s3" if parts.netloc:
                return S3Store(parts.netloc, prefix=path or None, **options)
            case "gs" if parts.netloc:
                return GCSStore(parts.netloc, prefix=path or None, **options)
            case "az" if parts.netloc and path:
                container, _, prefix = path.partition("/")
                return AzureStore(
                    container, prefix=prefix or None, account_name=parts.netloc, **options
                )
    except (BaseError, ValueError, TypeError) as error:
        raise InvalidRequest(f"objects.url {url!r} cannot be used: {_brief(error)}") from error
    raise InvalidRequest(
        f"objects.url {url!r}: use s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
        "az://ACCOUNT/CONTAINER/PREFIX"
    )


def _is_plain(path: str) -> bool:
    """Whether a path needs no escapes in a URL."""
    return quote(path) == path and "~" not in path


async def _begin(data: Data, most: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Return the beginning of a file, and the rest of a stream of more than `most` bytes."""
    if isinstance(data, bytes):
        return data, None
    first = bytearray()
    async for part in data:
        first += part
        if len(first) > most:
            return bytes(first), data
    return bytes(first), None


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


@contextlib.contextmanager
def _swell_errors(key: str, *, is_put: bool = False) -> Iterator[None]:
    """Turn obstore's errors into Swell's, except for that of a file that must not be replaced."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except FileNotFoundError as error:
        if is_put:
            raise Unavailable(f"the bucket does not exist: {_brief(error)}") from error
        raise no_file(key) from error
    except PreconditionError as error:
        raise Unavailable(f"{key[:120]!r} was replaced while it was read: read it again") from error
    except BaseError as error:
        raise Unavailable(f"the bucket does not answer as it should: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """Return the first line of a library's error, which may fill a page."""
    return str(error).partition("\n")[0][:_MOST_DETAIL]
